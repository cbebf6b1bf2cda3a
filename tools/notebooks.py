"""Keep the chapters' files stable: execute them, normalise them, check them.

    python -m tools.notebooks execute [book/x.ipynb ...]    run top to bottom, then normalise
    python -m tools.notebooks normalise [book/x.ipynb ...]  rewrite the files in their one form
    python -m tools.notebooks check                         fail if a file is not in that form
    python -m tools.notebooks address URL                   the repository's new address, everywhere
    python -m tools.notebooks release 1.2.3                 a version, whose tag they install

The one form: output and counts of one run from top to bottom; no metadata but tags and what folds
a cell in JupyterLab as they fold it on the site; no widget state; the bootstrap cell and the map at
a chapter's head from their templates; no output of cells that show other people's data (tag
`needs-data`). `make lab` brings a chapter into this form whenever it is saved.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = Path(__file__).with_name("bootstrap.py")
MAX_BYTES = 600_000
MORE_BYTES = {"heads.ipynb": 2_000_000}  # the explorers bring queries and keys along
LINES, FOLDED_LINES, COLUMNS = 12, 30, 80  # of a cell that is read, of one that is folded
FOLDED = {"bootstrap", "hide-input", "hide-cell"}
MAP = {  # page -> its station, in the order in which an image passes them
    "patches": "patch embedding",
    "positions": "positions",
    "attention": "self-attention",
    "vit": "encoder",
    "naive": "Naive",
    "pup": "PUP",
    "mla": "MLA",
    "miou": "mIoU",
}
HERE = {  # pages that are not a station themselves: where on the map they are
    "grid": "naive", "forgets": "patches", "resizing": "positions", "handmade": "attention",
    "cost": "attention", "mistakes": "vit", "finalnorm": "vit", "stages": "pup", "corners": "mla",
    "bill": "mla", "scores": "miou", "measured": "miou", "views": "miou", "heads": "attention",
    "causes": "attention", "own": "naive",
}  # fmt: skip
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def chapters() -> list[Path]:
    """Every notebook of the book, by name."""
    return sorted((ROOT / "book").glob("*.ipynb"))


def repository() -> dict[str, str]:
    """The repository's address, and the tag or branch that readers get; `_config.yml` has both."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]


def address() -> str:
    """The repository's address."""
    return repository()["url"]


def bootstrap() -> str:
    """The cell that every chapter begins with."""
    text = (
        TEMPLATE.read_text(encoding="utf-8")
        .rstrip()
        .replace("REPOSITORY_TAG", repository()["branch"])
    )
    return text.replace("REPOSITORY_URL", address())


def decided() -> bool:
    """Whether the repository has an address; until then no page links to it."""
    return "OWNER" not in address()


def map_line(name: str) -> str:
    """SETR as one line of links, with a chapter's own station in bold."""
    here = HERE.get(name, name)
    words = {
        page: f"**{word}**" if page == here else f"[{word}]({page}.ipynb)"
        for page, word in MAP.items()
    }
    before = " \u2192 ".join(words[p] for p in ("patches", "positions", "attention", "vit"))
    decoders = " | ".join(words[p] for p in ("naive", "pup", "mla"))
    return f"Map: image \u2192 {before} \u2192 {decoders} \u2192 label map \u2192 {words['miou']}"


def head(source: str, name: str) -> str:
    """A chapter's first cell with its map, and with the Colab link if there is an address."""
    kept = [
        part
        for part in source.split("\n\n")
        if not part.startswith(("Map:", "[Open in Colab]", "[![Open in Colab]"))
    ]
    if decided():
        colab = address().replace("https://github.com", "https://colab.research.google.com/github")
        link = f"{colab}/blob/{repository()['branch']}/book/{name}.ipynb"
        kept.append(f"[Open in Colab]({link})")
    return "\n\n".join([*kept[:2], map_line(name), *kept[2:]])


def execute(path: Path) -> None:
    """Run a chapter and store the outputs."""
    write(client(path).execute(), path)


def client(path: Path, **facts: Any) -> NotebookClient:
    """Who runs a chapter from top to bottom in its folder; `facts` are further ones of nbclient."""
    notebook = nbformat.read(path, as_version=4)
    normalise(notebook, path.stem)  # the newest bootstrap cell is the one to run
    return NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        **facts,
    )


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    path.write_text(text_of(notebook, path.stem), encoding="utf-8")


def text_of(notebook: nbformat.NotebookNode, name: str = "") -> str:
    """The normalised file; `name` is the chapter's, if it is one."""
    normalise(notebook, name)
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def folds(tags: list[str]) -> dict[str, bool]:
    """What JupyterLab folds of a cell, after the tags that fold it on the site."""
    return {
        **({"source_hidden": True} if FOLDED & set(tags) else {}),
        **({"outputs_hidden": True} if {"hide-output", "hide-cell"} & set(tags) else {}),
    }


def normalise(notebook: nbformat.NotebookNode, name: str = "") -> None:
    """Bring a notebook into its one form, in place."""
    if name and notebook.cells and notebook.cells[0].source.startswith("# "):
        notebook.cells[0].source = head(notebook.cells[0].source, name)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    language = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": language})
    count = 0
    for cell in notebook.cells:
        tags = list(cell.metadata.get("tags", []))
        jupyter = folds(tags) if cell.cell_type == "code" else {}
        cell.metadata = nbformat.from_dict(
            {**({"jupyter": jupyter} if jupyter else {}), **({"tags": tags} if tags else {})}
        )
        cell.source = cell.source.rstrip()
        cell.pop("attachments", None)
        if cell.cell_type != "code":
            continue
        if "bootstrap" in tags:
            cell.source = bootstrap()
        count += 1
        ran = cell.execution_count is not None
        cell.execution_count = count if ran else None
        cell.outputs = [] if "needs-data" in tags else _outputs(cell.outputs, count)


WIDGET = "application/vnd.jupyter.widget-view+json"


def _outputs(outputs: list[Any], count: int) -> list[Any]:
    """Streams merged, no metadata, no widget where a page has something to show instead."""
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        if output.output_type == "execute_result":
            output.execution_count = count
        if "metadata" in output:
            output.metadata = {}
        if "data" in output and "text/html" in output.data:
            output.data.pop(WIDGET, None)
        if set(output.get("data", ())) != {WIDGET}:  # an explorer's, whose page comes next
            kept.append(output)
    return kept


def problems(path: Path) -> list[str]:
    """Why a chapter is not in its one form; empty if it is."""
    found = []
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in codes] != list(range(1, len(codes) + 1)):
        found.append("was not run once from top to bottom")
    size, limit = len(text.encode()), MORE_BYTES.get(path.name, MAX_BYTES)
    if size > limit:
        found.append(f"has {size} bytes, more than {limit}")
    for cell in codes:
        lines = cell.source.splitlines()
        tags = cell.metadata.get("tags", [])
        limit = FOLDED_LINES if FOLDED & set(tags) else LINES
        if len(lines) > limit and "bootstrap" not in tags:
            found.append(f"has a cell of {len(lines)} lines, more than {limit}: {lines[0]}")
        for line in lines:
            if len(line) > COLUMNS and "bootstrap" not in tags:
                found.append(f"has a line of {len(line)} columns, more than {COLUMNS}: {line}")
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"prints to stderr: {output.text.strip()[:80]}")
            if " at 0x" in output.get("data", {}).get("text/plain", ""):
                found.append(f"shows an address, which no other run has: {lines[-1]}")
            if output.output_type == "error" and "raises-exception" not in tags:
                found.append(f"ends in {output.ename}: {output.evalue[:80]}")
    if text_of(notebook, path.stem) != text:
        found.append("is not normalised: python -m tools.notebooks normalise")
    return [f"{path.name} {problem}" for problem in found]


def set_address(url: str) -> None:
    """Replace the repository's address in every tracked file."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    if not match:
        sys.exit(f"{url} is no address of the form https://github.com/OWNER/REPOSITORY")
    old, new = address().removeprefix("https://github.com/"), match[1]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix not in {".md", ".ipynb", ".yml", ".toml", ".cff"}:
            continue
        before = path.read_text(encoding="utf-8")
        if old in before:
            path.write_text(before.replace(old, new), encoding="utf-8")
            print(f"{name}: {before.count(old)} times")
    config = ROOT / "_config.yml"
    text = config.read_text(encoding="utf-8").replace("_button: false", "_button: true")
    if "colab_url" not in text:
        text += "\nlaunch_buttons: {colab_url: https://colab.research.google.com}\n"
    config.write_text(text, encoding="utf-8")
    for path in chapters():
        write(nbformat.read(path, as_version=4), path)


def set_release(version: str) -> None:
    """Make the files those of a version: first cells and links then name its tag, `v1.2.3`."""
    begins, changes = f"## {version}, unreleased\n", ROOT / "CHANGELOG.md"
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or begins not in changes.read_text(
        encoding="utf-8"
    ):
        sys.exit(f"CHANGELOG.md has no line {begins.strip()!r}")
    for path, old, new in (
        (changes, re.escape(begins), f"## {version}\n"),
        (ROOT / "setr_lib" / "__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"'),
        (ROOT / "_config.yml", r"  branch: .*", f"  branch: v{version}"),
    ):
        path.write_text(re.sub(old, new, path.read_text(encoding="utf-8")))
    for path in chapters():
        write(nbformat.read(path, as_version=4), path)
    print(f"commit this, then: git tag v{version} && git push --tags")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["execute", "normalise", "check", "address", "release"])
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    if options.verb == "address":
        return set_address(*options.arguments)
    if options.verb == "release":
        return set_release(*options.arguments)
    paths = [Path(name) for name in options.arguments] or chapters()
    if options.verb == "check":
        found = [problem for path in paths for problem in problems(path)]
        sys.exit("\n".join(found) or 0)
    for path in paths:
        if options.verb == "execute":
            execute(path)
        else:
            write(nbformat.read(path, as_version=4), path)
        print(path)


if __name__ == "__main__":
    main()
