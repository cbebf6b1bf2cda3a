"""The house stands as CONTRIBUTING.md shows it, and its rooms stay small."""

import ast
import re
from graphlib import TopologicalSorter

import pytest

from tools import house

MODULES, IMPORTS = house.modules(), house.imports()
ORDER = list(house.ROOMS)
GUIDE = house.GUIDE.read_text(encoding="utf-8")


def lines(module: str) -> int:
    return len(MODULES[module].read_text(encoding="utf-8").splitlines())


def test_every_module_has_a_room_and_every_room_a_module():
    """A new file gets a row in tools/house.py, a deleted one leaves none behind."""
    rooms = {module: house.room(module) for module in MODULES if module}
    assert [module for module, room in rooms.items() if room is None] == []
    assert set(rooms.values()) == set(ORDER)


def test_imports_point_one_way():
    """Also those inside functions and for type checkers. Only the package's door may look up."""
    wrong = [
        found
        for found in IMPORTS
        if found.source
        and (found.target, found.name) != ("", "__version__")
        and (not found.target or ORDER.index(house.room(found.target))
             > ORDER.index(house.room(found.source)))
    ]  # fmt: skip
    assert wrong == []


def test_no_module_needs_itself():
    """Where all imports are at the head of the files, there is an order to read them in."""
    graph = {module: set() for module in MODULES}
    for found in IMPORTS:
        if found.when == "first" and found.name != "__version__":
            graph[found.source].add(found.target)
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # or a CycleError


def test_nothing_needs_the_explorer():
    """Training needs no widgets: the package imports them when they are first asked for."""
    users = {found for found in IMPORTS if found.target.split("/")[0] == "explorer"}
    users = {(found.source, found.when) for found in users if "explorer" not in found.source}
    assert users == {("", "checked"), ("", "called")}


def test_what_is_imported_is_seen():
    """Every name of every relative import is among the edges, wherever it stands."""
    for module, file in MODULES.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        written = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
        seen = [found for found in IMPORTS if found.source == module]
        assert len(seen) == sum(len(n.names) for n in written), module


def test_the_reading_path_is_short():
    """The paper in code: six files, each read from top to bottom."""
    path = {module: lines(module) for module in house.READING_PATH}
    assert sum(path.values()) <= house.READING_LINES, path


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m or "setr_lib")
def test_a_file_is_short(module):
    assert lines(module) <= house.FILE_LINES


def test_a_function_fits_a_screen():
    """Below its signature and docstring; what may be longer says why."""
    long = {name: count for name, count in house.functions() if count > house.FUNCTION_LINES}
    assert long.keys() - house.LONG == set(), long
    assert house.LONG.keys() <= long.keys(), "no exception that nobody needs"


def test_the_top_level_is_small():
    entries = [p.name for p in house.LIBRARY.iterdir() if p.name != "__pycache__"]
    assert len(entries) <= house.TOP_LEVEL, sorted(entries)


def test_the_guide_shows_the_house():
    assert house.renewed(GUIDE) == GUIDE, "python -m tools.house"


def test_what_the_guide_points_at_is_there():
    """`folder/file.py` exists, and `file.py: name` has that function, class, method or constant."""
    section = GUIDE.split("## Where is ...?")[1].split("\n## ")[0]
    places = re.findall(r"`([\w./]+\.(?:py|js|css|toml|md))`((?:[,:] `[\w.]+`)*)", section)
    assert len(places) >= 10
    for path, names in places:
        file = house.ROOT / path
        assert file.is_file(), path
        for name in re.findall(r"`([\w.]+)`", names):
            assert name in defined(file), f"{path} has no {name}"


def defined(file) -> set[str]:
    """Functions, classes, their methods and fields, and constants of a file."""
    found = set()

    def walk(body, prefix=""):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [
                getattr(node, "target", None)]  # fmt: skip
            found.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

    walk(ast.parse(file.read_text(encoding="utf-8")).body)
    return found
