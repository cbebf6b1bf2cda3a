"""Colab as it is: its versions satisfy our ranges, and the first cell leaves them alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from setr_lib import list_records, load_record
from tools import colab, notebooks

ROOT = Path(__file__).resolve().parent.parent
PINS = colab.pins((ROOT / "requirements-colab.txt").read_text())
NAMED = {  # on 2026-08-25, by its own list
    "torch": "2.11.0", "numpy": "2.1.3", "timm": "1.0.28", "accelerate": "1.14.0",
    "ipywidgets": "7.7.1", "anywidget": "0.9.21", "ipython": "7.34.0",
}  # fmt: skip


def test_colab_has_what_the_chapters_import():
    """The first block of requirements.txt accepts each version that Colab brings along."""
    assert NAMED.items() <= PINS.items()
    assert colab.ranges().keys() <= PINS.keys()
    assert colab.outside(PINS) == []


def test_colabs_own_list_is_compared_with_the_ranges():
    """A version outside a range is named, builds (`+cu128`) and letters of names do not matter."""
    pins = colab.pins("Torch==2.11.0+cu128\n# a word\nnumpy==1.20.0\nsomething @ file:///x\n")
    assert pins == {"torch": "2.11.0", "numpy": "1.20.0"}
    assert colab.outside(pins) == ["numpy>=1.26, and Colab has 1.20.0"]


@pytest.fixture
def first_cell(monkeypatch):
    """Runs the cell in the checkout with these packages missing; what it would have run."""

    def run(missing: set[str]) -> list[list[str]]:
        called: list[list[str]] = []
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name not in missing or None)
        monkeypatch.setattr(subprocess, "run", lambda words, check: called.append(words))
        exec(notebooks.bootstrap(), {})
        monkeypatch.undo()
        return called

    return run


def needed() -> set[str]:
    """What the cell looks for."""
    scope: dict = {}
    (line,) = (x for x in notebooks.bootstrap().splitlines() if x.startswith("needed = "))
    exec(line, scope)
    return set(scope["needed"])


def test_on_colab_the_first_cell_installs_nothing(first_cell):
    """Everything that it looks for is there."""
    assert needed() <= PINS.keys() and needed()
    assert first_cell(missing=set()) == []


def test_a_release_makes_the_first_cells_install_at_its_tag(tmp_path, monkeypatch, capsys):
    """One version in the library, the list of changes and the chapters; another is refused."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "setr_lib").mkdir()
    for name in ("_config.yml", "setr_lib/__init__.py", "book/lean.ipynb"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 9.8.7, unreleased\n\n- a thing\n")
    with pytest.raises(SystemExit, match="no line '## 9.9.0, unreleased'"):
        notebooks.set_release("9.9.0")
    notebooks.set_release("9.8.7")
    assert "git tag v9.8.7" in capsys.readouterr().out
    assert '\n__version__ = "9.8.7"\n' in (tmp_path / "setr_lib/__init__.py").read_text()
    assert "\n## 9.8.7\n" in (tmp_path / "CHANGELOG.md").read_text()
    _, first, *_ = nbformat.read(tmp_path / "book/lean.ipynb", as_version=4).cells
    assert '"--branch", "v9.8.7"]' in first.source


def test_what_the_first_cell_installs_touches_neither_torch_nor_numpy(first_cell, tmp_path):
    """Its own pip command, resolved where Colab has everything else; and within our ranges.

    An environment of nothing but notes that Colab's versions are installed is enough for pip.
    """
    missing = needed()
    (command,) = first_cell(missing)
    assert not {"torch", "torchvision", "numpy"} & set(command)
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    (site,) = [*empty.glob("lib/*/site-packages"), *empty.glob("Lib/site-packages")]
    for name, version in PINS.items():
        if name not in missing:
            note = site / f"{name.replace('-', '_')}-{version}.dist-info"
            note.mkdir()
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (note / "METADATA").write_text(text)
            (note / "INSTALLER").write_text("pip\n")
    python, module, pip, *rest = command
    report = tmp_path / "report.json"
    (interpreter,) = [*empty.glob("bin/python"), *empty.glob("Scripts/python.exe")]
    tried = subprocess.run(
        [python, module, pip, "--python", interpreter, *rest, "--dry-run", "--report", report],
        capture_output=True, text=True,
    )  # fmt: skip
    if "No matching distribution" in tried.stderr or "Connection" in tried.stderr:
        pytest.skip("needs a package registry")
    assert tried.returncode == 0, tried.stderr
    facts = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    got = {each["name"].lower(): each["version"] for each in facts}
    assert missing <= got.keys() and not got.keys() & (PINS.keys() - missing)
    assert colab.outside(got) == []


@pytest.mark.parametrize("name", [name for name in list_records() if name.startswith("book_")])
def test_a_recorded_run_of_the_book_found_no_error(name):
    """And the one on Colab's versions had exactly these."""
    record = load_record(name)
    assert {stem for stem, each in record["chapters"].items() if each["error"]} == set()
    there = {**record["packages"], **record["versions"]}
    for package, each in colab.ranges().items():
        assert each.specifier.contains(there[package]), f"{each}, {name} ran with {there[package]}"
    if name == "book_colab":
        known = (PINS.keys() - {"filelock"}) & there.keys()  # its version in Colab is a guess
        assert {package: there[package] for package in known} == {p: PINS[p] for p in known}
        assert there["python"].startswith("3.13.") and len(known) > 15
