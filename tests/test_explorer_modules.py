"""The files of the explorer's page: each is read alone, joined they need no imports."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from setr_lib.explorer.page import MODULES, module

HERE = Path(__file__).parent
FILES = {name: HERE.parent / f"setr_lib/explorer/js/{name}.js" for name in MODULES}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
DECLARED = r"(?m)^(export )?(?:async )?(?:function|class|const|let) (\w+)"


def imports(name: str) -> dict[str, set[str]]:
    """File -> the names that `name` imports from it."""
    found = re.findall(r'(?ms)^import \{(.*?)\} from "\./(\w+)\.js";$', TEXTS[name])
    assert len(found) == len(re.findall(r"(?m)^\s*import\b", TEXTS[name])), "another kind of import"
    return {file: {one.strip() for one in names.split(",") if one.strip()} for names, file in found}


def node() -> str:
    """The path of a node that runs tests."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("needs node")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < 20:
        pytest.skip(f"needs node 20, has {version.strip()}")
    return path


def test_every_file_of_the_folder_is_joined():
    assert {path.stem for path in FILES["index"].parent.glob("*.js")} == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_name_what_is_exported_by_files_that_stand_before(name):
    for file, names in imports(name).items():
        assert MODULES.index(file) < MODULES.index(name)
        exported = {one for export, one in re.findall(DECLARED, TEXTS[file]) if export}
        assert names <= exported
        for one in names:  # and what is imported is used
            assert len(re.findall(rf"\b{one}\b", TEXTS[name])) > 1


def test_what_is_exported_is_imported_somewhere():
    wanted = {one for name in MODULES for names in imports(name).values() for one in names}
    tests = "".join(path.read_text(encoding="utf-8") for path in (HERE / "js").glob("*.mjs"))
    for text in TEXTS.values():
        for export, one in re.findall(DECLARED, text):
            assert not export or one in wanted or re.search(rf"\b{one}\b", tests), one


def test_no_name_is_declared_in_two_files():
    """Joined they share one scope."""
    names = [one for text in TEXTS.values() for _, one in re.findall(DECLARED, text)]
    assert sorted(names) == sorted(set(names))


def test_only_the_last_two_files_know_the_explorer():
    """Panels are functions of what is shown; no circle."""
    assert [name for name in MODULES if "explorer" in imports(name)] == ["index"]
    for name in ("names", "numbers", "cells", "attention", "npz", "measures", "scores", "view"):
        assert not re.search(r"\bdocument\.|\bwindow\.|getContext", TEXTS[name])


@pytest.mark.parametrize("name", MODULES)
def test_a_file_is_short_and_its_lines_are_too(name):
    lines = TEXTS[name].splitlines()
    assert len(lines) < 350
    assert [line for line in lines if len(line) > 100] == []


def test_the_joined_module_has_one_export_and_no_import():
    code = module()
    assert re.findall(r"(?m)^(import\b.*|export\b.*)", code) == ["export default { render };"]
    assert "/* explorer.css */" not in code and ":host" in code


def test_node_can_read_every_file_and_all_of_them_joined(tmp_path):
    (tmp_path / "joined.mjs").write_text(module(), encoding="utf-8")
    for path in [*FILES.values(), tmp_path / "joined.mjs"]:
        subprocess.run([node(), "--check", str(path)], check=True)


def test_the_parts_that_know_no_page_pass_their_own_tests():
    files = sorted(str(path) for path in (HERE / "js").glob("*.test.mjs"))
    found = subprocess.run([node(), "--test", *files], capture_output=True, text=True)
    assert files and found.returncode == 0, found.stdout[-3000:]
