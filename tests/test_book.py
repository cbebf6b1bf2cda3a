"""The book shows what was run: stable files, one address, nobody else's pictures."""

import ast
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from itertools import takewhile

import nbformat
import numpy as np
import pytest
import yaml

import setr_lib
from setr_lib import attention
from setr_lib.__main__ import _parser
from setr_lib.data.classes import CAMVID_PALETTE
from setr_lib.data.shapes import PALETTE
from setr_lib.training.record import RECORDS, ROOT, list_records, load_record
from tools import bibliography, cheatsheet, jupyter_lab, notebooks, readme

CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
WORDS, CELLS = 1_800, 30  # of a chapter, and before its exercises
TEXTS = [p for p in ROOT.glob("**/*") if p.suffix in {".md", ".py", ".yml", ".toml", ".cff", ".js"}]
TEXTS = [p for p in TEXTS if not {"_build", "camvid"} & set(p.parts) and "venv" not in str(p)]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_is_in_its_one_form(path):
    """Run once from top to bottom, normalised, no errors, nothing on stderr, not too large."""
    assert notebooks.problems(path) == []


@pytest.mark.parametrize(
    ("name", "limit"), [("vit.ipynb", 600_000), ("heads.ipynb", 2_000_000)], ids=["others", "heads"]
)
def test_the_chapter_with_explorers_may_be_larger_than_the_others(tmp_path, name, limit):
    """600 kB, and 2 MB for the chapter that brings the attention of two networks along."""
    path = tmp_path / name
    for size, allowed in ((limit, True), (limit + 1, False)):
        padded = nbformat.v4.new_notebook(cells=[nbformat.v4.new_raw_cell("x", id="padding")])
        spare = size - len(notebooks.text_of(padded).encode())
        padded.cells[0].source += "x" * spare
        path.write_text(notebooks.text_of(padded))
        assert path.stat().st_size == size
        assert (notebooks.problems(path) == []) == allowed


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_begins_as_promised(path):
    """Title, question and map; then the bootstrap cell; no link while there is no address."""
    first, second, *_ = nbformat.read(path, as_version=4).cells
    title, question, here, *_ = first.source.split("\n\n")
    assert title.startswith("# ") and re.fullmatch(r"\*[^*]+\*", question)
    assert here == notebooks.map_line(path.stem)
    assert ("Open in Colab" in first.source) == notebooks.decided()
    assert "bootstrap" in second.metadata.tags


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_can_be_read_in_an_afternoon(path):
    """At most 1,800 words beside summary and references, 30 cells before the exercises.

    Folded or not: a cell counts. What a cell may hold is in `notebooks.problems`.
    """
    before = list(takewhile(lambda c: not re.search(r"^## Exercises", c.source, re.M),
                            nbformat.read(path, as_version=4).cells))  # fmt: skip
    assert len(before) <= CELLS, f"{len(before)} cells"
    cells = nbformat.read(path, as_version=4).cells
    texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    read = re.split(r"^## (?:What we now know|References)", texts, flags=re.M)[0]
    assert len(read.split()) <= WORDS, f"{len(read.split())} words"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_what_a_chapter_points_at_is_there(path):
    """Its exercises by their numbers, other chapters by their names: the site numbers them anew."""
    cells = nbformat.read(path, as_version=4).cells
    texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    there = set(re.findall(r"^### Exercise (\d+)", texts, re.M))
    assert set(re.findall(r"\bexercises? (\d+)", texts, re.I)) <= there
    assert re.findall(r"\bchapters? \[?\d.{0,40}", texts, re.I) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_an_inequality_that_a_chapter_prints_is_true(path):
    """`4e+00 < 1e-3` beside a check of something else is worse than no number."""
    number = r"(-?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)"
    for cell in nbformat.read(path, as_version=4).cells:
        for text in (output.get("text", "") for output in cell.get("outputs", [])):
            for left, sign, right in re.findall(f"{number} ([<>]) {number}", text):
                low, high = (left, right) if sign == "<" else (right, left)
                assert float(low.replace(",", "")) < float(high.replace(",", "")), text


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_defines_nothing_that_it_does_not_use(path):
    """Functions, classes and imports: what is left over from a move is not read by anybody."""
    cells = nbformat.read(path, as_version=4).cells
    code = [
        c.source
        for c in cells
        if c.cell_type == "code" and "bootstrap" not in c.metadata.get("tags", ())
    ]
    tree = ast.parse("\n".join(code))
    named = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert node.name in named, node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                assert (alias.asname or alias.name.split(".")[0]) in named, alias.name


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_exercises_count_from_one_and_each_has_its_solution(path):
    cells = nbformat.read(path, as_version=4).cells
    every = "\n".join(cell.source for cell in cells)
    asked = [int(n) for n in re.findall(r"^### Exercise (\d+)", every, re.M)]
    assert asked == [int(n) for n in re.findall(r"^# Solution (\d+)", every, re.M)]
    assert asked == list(range(1, len(asked) + 1))


def test_what_is_folded_on_the_site_is_folded_in_jupyterlab():
    """Solutions, plot code and set-up by `source_hidden`; an answer to a guess by its output."""
    solution = notebooks.folds(["hide-cell"])
    assert solution == {"source_hidden": True, "outputs_hidden": True}
    assert notebooks.folds(["hide-output", "reveal"]) == {"outputs_hidden": True}
    for path in CHAPTERS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                tags = cell.metadata.get("tags", [])
                assert dict(cell.metadata.get("jupyter", {})) == notebooks.folds(tags)
                assert "# Solution" not in cell.source or "hide-cell" in tags


def test_saving_a_chapter_in_jupyterlab_makes_no_diff():
    """What Lab adds when a kernel answers is gone when the file is written."""
    path = CHAPTERS[0]
    content = nbformat.read(path, as_version=4)
    content["metadata"]["language_info"]["version"] = "3.99"
    content["metadata"]["widgets"] = {"state": {}}
    for cell in content["cells"]:
        cell["metadata"]["editable"] = True
    model = {"type": "notebook", "content": content}
    jupyter_lab.tidy(model=model, path=f"book/{path.name}")
    saved = nbformat.writes(model["content"], version=nbformat.NO_CONVERT) + "\n"
    assert saved == path.read_text()


def test_the_generated_pages_are_current():
    """The bibliography follows the chapters' lists, the cheat sheet the library."""
    assert bibliography.PAGE.read_text() == bibliography.text(), "python -m tools.bibliography"
    assert cheatsheet.PAGE.read_text() == cheatsheet.text(), "python -m tools.cheatsheet"


def test_every_cited_work_is_in_the_bibliography_and_the_other_way_round():
    listed = set(bibliography.LINK.findall(bibliography.PAGE.read_text()))
    assert listed == set(bibliography.references()) and len(listed) > 30


def test_the_notation_is_that_of_the_library():
    """Each letter of the glossary that the library uses in its legends means the same there."""
    table = (ROOT / "book/glossary.md").read_text()
    legend = (ROOT / "setr_lib/model.py").read_text()
    for letter, word in {"B": "batch", "N": "tokens", "D": "width", "K": "classes"}.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| ${letter}$"))
        assert word.rstrip("es") in row and f"{letter} {word}" in legend


@pytest.mark.parametrize(
    "word",
    ["overfit", "ablation", "position embedding", "skip connection", "ONNX", "receptive field",
     "50.28", "55.83", "78.39", "sequence-to-sequence", "inference"],
)  # fmt: skip
def test_a_searched_word_is_found(word):
    """Somewhere in the text or in an output of a page."""
    pages = [*CHAPTERS, *(ROOT / "book").glob("*.md")]
    assert any(word in page.read_text() for page in pages)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_no_picture_of_other_peoples_data_is_stored(path):
    """Cells that read CamVid are tagged, compare nothing and store nothing."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and re.search(r"load_dataset\(\s*[\"']camvid", cell.source):
            assert {"needs-data", "nbval-ignore-output"} <= set(cell.metadata.get("tags", []))
        if "needs-data" in cell.metadata.get("tags", []):
            assert cell.outputs == []


def test_every_chapter_is_in_the_table_of_contents():
    listed = {entry["file"] for part in TOC["parts"] for entry in part["chapters"]}
    assert {f"book/{p.stem}" for p in CHAPTERS} <= listed
    assert all(list((ROOT / "book").glob(f"{name.split('/')[1]}.*")) for name in listed)


def test_the_address_stands_once():
    """Every copy of the repository's address is the one in _config.yml."""
    url = notebooks.address()
    ours = url.removeprefix("https://github.com/")
    name = ours.split("/")[1]
    found = 0
    for path in [*TEXTS, *CHAPTERS]:
        for match in re.finditer(
            rf"github(?:\.com)?/([\w.-]+/{re.escape(name)})", path.read_text()
        ):
            assert match[1] == ours, f"{path} has {match[1]}, _config.yml has {ours}"
            found += 1
        for match in re.finditer(
            r"research\.google\.com/github/([\w.-]+/[\w.-]+)", path.read_text()
        ):
            assert match[1] == ours, path
    assert found >= 2 + len(CHAPTERS)


def test_make_address_rewrites_every_copy(tmp_path):
    """On a copy of the tracked files: no copy of the old address is left."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    for name in files:
        if not name.startswith("data/") and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    old = notebooks.address().removeprefix("https://github.com/")
    call = [sys.executable, "-m", "tools.notebooks", "address", "https://github.com/me/my.book.git"]
    subprocess.run(call, cwd=tmp_path, check=True, capture_output=True)
    texts = [p for p in tmp_path.rglob("*") if p.suffix in {".md", ".ipynb", ".yml", ".cff"}]
    assert not any(old in p.read_text() for p in texts)
    assert "https://github.com/me/my.book" in (tmp_path / "_config.yml").read_text()
    bad = subprocess.run([*call[:-1], "my-book"], cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode and "https://github.com/OWNER/REPOSITORY" in bad.stderr


@pytest.mark.parametrize("place", ["checkout", "elsewhere"])
def test_the_first_cell_finds_or_fetches_the_book(tmp_path, place):
    """In a checkout it stays there; in an empty folder, as on Colab, it clones a tag once.

    What a clone that was cut off left behind, and a foreign folder `setr_lib`, do not count.
    """
    origin = tmp_path / "origin"
    subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(origin)], check=True)
    subprocess.run(["git", "-C", str(origin), "tag", "v0"], check=True)
    (tmp_path / "setr_lib").mkdir()
    (tmp_path / "setr_lib" / "__init__.py").write_text("raise SystemExit('foreign')")
    (tmp_path / "setr-step-by-step").mkdir()
    cell = notebooks.TEMPLATE.read_text().replace("REPOSITORY_URL", str(origin))
    cell = cell.replace("REPOSITORY_TAG", "v0")
    code = f"{cell}\n{cell}\nimport setr_lib\nprint(setr_lib.__file__, os.getcwd())"
    folder = ROOT / "book" if place == "checkout" else tmp_path
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    root = ROOT if place == "checkout" else tmp_path / "setr-step-by-step"
    assert done.stdout.split() == [str(root / "setr_lib" / "__init__.py"), str(root / "book")]
    assert not list(tmp_path.glob(".setr-*"))


def test_the_library_page_has_every_public_name():
    """And each entry of it exists where it is said to be."""
    text, module, found = (ROOT / "book" / "api.md").read_text(), "", set()
    for kind, name in re.findall(r"^\.\. (\w+):: ([\w.]+)$", text, re.M):
        if kind == "currentmodule":
            module = name
        else:
            pkgutil.resolve_name(name if name.startswith("setr_lib") else f"{module}.{name}")
            found.add(name)
    missing = {name for name in setr_lib.__all__ if name not in found and f"`{name}`" not in text}
    assert missing == set()
    assert {name for name in attention.__all__ if name not in found} == set()


def test_commands_in_the_texts_exist():
    """Every `setr ...` of the README, the book's first page and the page on data is understood."""
    text = "".join((ROOT / f).read_text() for f in ("README.md", "data/README.md", "book/index.md"))
    commands = re.findall(r"(?:python -m setr_lib|(?<=[`\n])setr) ([^`#\n]+)", text)
    assert len(commands) >= 7
    for command in commands:
        _parser().parse_args(shlex.split(command))


def test_tables_of_results_are_read_from_the_records():
    for file in readme.FILES:
        assert readme.renewed(file.read_text()) == file.read_text(), "python -m tools.readme"


@pytest.mark.parametrize("name", list_records())
def test_a_record_can_be_believed(name):
    """Of a committed state, complete, consistent in itself, and without weights beside it."""
    record = load_record(name)
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "train from a clean commit"
    assert {"processor", "threads"} <= set(record["hardware"]) and "torch" in record["versions"]
    if "recipe" in record:
        from setr_lib import Recipe, scores
        from setr_lib.training.recipe import recipe_hash

        written = json.loads((RECORDS / name / "record.json").read_text())["recipe"]
        assert record["finished"] and recipe_hash(written) == record["recipe_hash"]
        assert Recipe.from_dict(record["recipe"]).total_steps == record["step"]
        assert scores(record["last"]["counts"]).miou == pytest.approx(record["last"]["miou"])
        steps = [json.loads(line)["step"] for line in (RECORDS / name / "log.jsonl").open()]
        assert steps[-1] == record["recipe"]["total_steps"] and np.all(np.diff(steps) > 0)
    kept = {p.name for p in (RECORDS / name).iterdir() if p.suffix != ".safetensors"}
    assert kept <= {"record.json", "log.jsonl"}


def test_git_leaves_out_the_weights_of_records_and_unfinished_runs(tmp_path):
    names = ["x/best.safetensors", ".unfinished/x/record.json", "x/record.json"]
    said = subprocess.run(
        ["git", "check-ignore", "--no-index", *(f"data/records/{name}" for name in names)],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout  # fmt: skip
    if (ROOT / ".git").exists():
        assert said.split() == [f"data/records/{name}" for name in names[:2]]


def test_no_path_of_a_machine_is_in_the_project():
    """Neither in text nor in stored outputs."""
    for path in [*TEXTS, *CHAPTERS]:
        if path.name != "test_book.py":
            text = re.sub(r'"image/\w+": "[^"]*"', "", path.read_text())  # base64 spells anything
            found = re.search(r"/(?:home|root|Users|work|tmp|opt)/\w+", text)
            assert found is None, f"{path}: {found[0]}"


# Machado, Oliveira and Fernandes 2009, full severity: what a dichromat sees of linear RGB.
SEEN = {
    "by most": np.eye(3),
    "without red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "without green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "without blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("name", ["shapes", "camvid"])
@pytest.mark.parametrize("eye", SEEN)
def test_classes_are_told_apart_by_colour_blind_readers(name, eye):
    """Any two classes of what the book draws are 10 apart in CIE L*a*b*; 2.3 is just visible."""
    palette = {"shapes": PALETTE, "camvid": CAMVID_PALETTE}[name]
    part = np.array(palette) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SEEN[eye]).T, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(linear @ np.array(to_xyz).T / [0.9505, 1, 1.089]).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert apart[~np.eye(len(lab), dtype=bool)].min() > 10


def test_a_class_has_one_colour_everywhere():
    """Files that were written with other colours are drawn in those of the data set."""
    file = ROOT / "data/models/camvid_naive_tiny/model.safetensors"
    _, about = setr_lib.load_checkpoint(file)
    assert tuple(map(tuple, about["palette"])) == CAMVID_PALETTE
