"""What is installed where, and that continuous integration passes no test over in silence."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def requirements(lines) -> dict[str, Requirement]:
    found = map(Requirement, (line for line in lines if line and not line.startswith("#")))
    return {each.name: each for each in found}


def listed(file: str) -> dict[str, Requirement]:
    return requirements((ROOT / file).read_text().splitlines())


def test_the_library_asks_for_what_the_book_was_tested_with():
    """One range per package, whether it is installed by pip or with the book."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours, book = requirements(project["dependencies"]), listed("requirements.txt")
    assert {name: str(each.specifier) for name, each in ours.items()} == {
        name: str(book[name].specifier) for name in ours
    }


def test_colab_has_what_the_chapters_import():
    """The first block of requirements.txt accepts each version that Colab brings along."""
    chapters = (ROOT / "requirements.txt").read_text().split("\n\n")[0].splitlines()
    wanted, there = requirements(chapters), listed("requirements-colab.txt")
    assert wanted.keys() == there.keys()
    for name, each in wanted.items():
        (pinned,) = there[name].specifier
        assert each.specifier.contains(pinned.version), f"{each}, and Colab has {pinned.version}"


def test_the_extra_asks_for_what_its_tests_need():
    """setr-lib[export] and requirements-export.txt are one list, which .ci/run installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = requirements(project["optional-dependencies"]["export"])
    assert extra == listed("requirements-export.txt")
    assert "-r requirements-export.txt" in (ROOT / ".ci" / "run").read_text()


def test_the_locked_versions_are_allowed():
    """requirements.lock holds one version of everything in requirements.txt, inside its range."""
    locked = {name.lower(): each for name, each in listed("requirements.lock").items()}
    for name, each in listed("requirements.txt").items():
        (pinned,) = locked[name].specifier
        assert each.specifier.contains(pinned.version), f"{each}, locked is {pinned.version}"


def test_a_skipped_test_fails_where_everything_is_installed(tmp_path):
    """SETR_NO_SKIPS=1 (.ci/run) lets only those pass that want a GPU; all others are noted."""
    reasons = {"no browser": "failed", "needs a GPU": "skipped"}
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n"
        f"@pytest.mark.parametrize('reason', {list(reasons)})\n"
        "def test_it(reason):\n    pytest.skip(reason)\n"
    )
    noted = tmp_path / "skipped"
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "test_skips.py"],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "SETR_NO_SKIPS": "1",
             "SETR_SKIPPED": str(noted)},
    )  # fmt: skip
    assert said.returncode == 1 and "1 failed, 1 skipped" in said.stdout, said.stdout + said.stderr
    assert noted.read_text() == "test_skips.py::test_it[no browser]\n"
