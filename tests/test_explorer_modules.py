"""The files of the explorer's page: each is read alone, joined they need no imports."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from setr_lib.explorer.live import ENGINE, LIVE, SHARED, script
from setr_lib.explorer.page import MODULES, module

HERE = Path(__file__).parent
FOLDERS = {"js": MODULES, "engine": ENGINE, "live": LIVE}
ALL = [f"{folder}/{name}" for folder, names in FOLDERS.items() for name in names]
FILES = {name: HERE.parent / f"setr_lib/explorer/{name}.js" for name in ALL}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
# What runs in one scope: the explorer, the worker, the live page.
PROGRAMS = {
    "explorer": [name for name in ALL if name.startswith("js/")],
    "engine": [name for name in ALL if name.startswith("engine/")],
    "live": [f"js/{name}" for name in SHARED] + [f"live/{name}" for name in LIVE],
}
DECLARED = r"(?m)^(export )?(?:async )?(?:function\*?|class|const|let) (\w+)"


def imports(name: str) -> dict[str, set[str]]:
    """File -> the names that `name` imports from it."""
    pattern = r'(?ms)^import \{(.*?)\} from "(\.\.?)/([\w/]+)\.js";$'
    found = re.findall(pattern, TEXTS[name])
    assert len(found) == len(re.findall(r"(?m)^\s*import\b", TEXTS[name])), "another kind of import"
    here = name.split("/")[0]
    return {
        (file if place == ".." else f"{here}/{file}"): set(re.findall(r"\w+", names))
        for names, place, file in found
    }


def node() -> str:
    """The path of a node that runs tests."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("needs node")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < 20:
        pytest.skip(f"needs node 20, has {version.strip()}")
    return path


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_of_the_folder_is_joined(folder):
    files = (HERE.parent / "setr_lib/explorer" / folder).glob("*.js")
    assert {path.stem for path in files} == set(FOLDERS[folder])


@pytest.mark.parametrize("name", ALL)
def test_imports_name_what_is_exported_by_files_that_stand_before(name):
    for file, names in imports(name).items():
        for order in (order for order in PROGRAMS.values() if name in order):
            assert order.index(file) < order.index(name)
        exported = {one for export, one in re.findall(DECLARED, TEXTS[file]) if export}
        assert names <= exported
        for one in names:  # and what is imported is used
            assert len(re.findall(rf"\b{one}\b", TEXTS[name])) > 1


def test_what_is_exported_is_imported_somewhere():
    wanted = {one for name in ALL for names in imports(name).values() for one in names}
    tests = "".join(path.read_text(encoding="utf-8") for path in (HERE / "js").glob("*.mjs"))
    for text in TEXTS.values():
        for export, one in re.findall(DECLARED, text):
            assert not export or one in wanted or re.search(rf"\b{one}\b", tests), one


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_name_is_declared_in_two_files(program):
    """Joined they share one scope."""
    texts = [TEXTS[name] for name in PROGRAMS[program]]
    names = [one for text in texts for _, one in re.findall(DECLARED, text)]
    assert sorted(names) == sorted(set(names))


def test_only_the_last_files_know_the_explorer():
    """Panels are functions of what is shown; no circle."""
    assert [n for n in ALL if "js/explorer" in imports(n)] == ["js/index", "live/site"]
    pure = ("names", "numbers", "cells", "attention", "npz", "measures", "scores", "view")
    for name in [*(f"js/{one}" for one in pure), *PROGRAMS["engine"]]:
        assert not re.search(r"\bdocument\.|\bwindow\.|getContext", TEXTS[name])


@pytest.mark.parametrize("name", ALL)
def test_a_file_is_short_and_its_lines_are_too(name):
    lines = TEXTS[name].splitlines()
    assert len(lines) < 350
    assert [line for line in lines if len(line) > 100] == []


def test_the_joined_module_has_one_export_and_no_import():
    code = module()
    assert re.findall(r"(?m)^(import\b.*|export\b.*)", code) == ["export default { render };"]
    assert "/* explorer.css */" not in code and ":host" in code


def test_the_live_program_has_no_import_and_both_style_sheets():
    code = script([], b"", None)
    assert re.findall(r"(?m)^(import\b.*|export\b.*)", code) == []
    assert ".css */" not in code and ".strip" in code


def test_node_can_read_every_file_and_all_of_them_joined(tmp_path):
    (tmp_path / "joined.mjs").write_text(module(), encoding="utf-8")
    (tmp_path / "live.js").write_text(script([], b"", None), encoding="utf-8")
    for path in [*FILES.values(), tmp_path / "joined.mjs", tmp_path / "live.js"]:
        subprocess.run([node(), "--check", str(path)], check=True)


def test_the_parts_that_know_no_page_pass_their_own_tests():
    files = sorted(str(path) for path in (HERE / "js").glob("*.test.mjs"))
    found = subprocess.run([node(), "--test", *files], capture_output=True, text=True)
    assert files and found.returncode == 0, found.stdout[-3000:]
