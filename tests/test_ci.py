"""What is installed where, and that continuous integration passes no test over in silence."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from setr_lib import __version__

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"


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


RUNNERS = {"ubuntu-latest", "windows-latest", "macos-latest"}
CONTEXTS = {"github", "matrix", "steps"}  # what `${{ }}` may begin with


def values(matrix: dict, name: str) -> set[str]:
    """What a word of a job's matrix can be."""
    included = {each[name] for each in matrix.get("include", []) if name in each}
    return set(matrix.get(name, ())) | included


def faults(text: str) -> list[str]:
    """What GitHub would refuse, or would run as something else than is meant."""
    workflow, found = yaml.safe_load(text), []
    jobs = workflow["jobs"]
    for name, job in jobs.items():
        matrix = job.get("strategy", {}).get("matrix", {})
        runs_on = values(matrix, "os") if "matrix.os" in job["runs-on"] else {job["runs-on"]}
        found += [f"{name} runs on {system}" for system in runs_on - RUNNERS]
        needs = job.get("needs", [])
        wanted = {needs} if isinstance(needs, str) else set(needs)
        found += [f"{name} needs {other}" for other in wanted - jobs.keys()]
        ids = {step.get("id") for step in job["steps"]}
        for word in re.findall(r"\$\{\{\s*([\w.]+)", str(job)):
            context, _, rest = word.partition(".")
            known = {"matrix": values(matrix, rest), "steps": ids & {rest.split(".")[0]}}
            if context not in CONTEXTS or not known.get(context, True):
                found.append(f"{name} asks for {word}")
        for step in job["steps"]:
            if ("uses" in step) == ("run" in step):
                found.append(f"a step of {name} has not one of uses and run: {step}")
            if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1")):
                found.append(f"{name} uses {step['uses']}")
    if "permissions" not in workflow:
        found.append("has every permission")
    return found


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("*.yml")), ids=lambda file: file.stem)
def test_a_workflow_calls_what_is_there(file):
    """Runners, needs, words of a matrix; make targets, files of requirements, scripts, modules."""
    text = file.read_text()
    assert faults(text) == []
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"run: make (\w+)", text)) <= set(targets)
    for name in re.findall(r"requirements[\w-]*\.txt", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"python -m tools\.(\w+)", text):
        assert (ROOT / "tools" / f"{name}.py").is_file(), name


def test_faults_of_a_workflow_are_found():
    """Each of these is none that GitHub would run as it was meant."""
    text = """
    jobs:
      a:
        runs-on: ubuntu-16
        needs: c
        steps: [{uses: actions/checkout}, {name: nothing}, {run: "echo ${{ matrix.os }}"}]
    """
    said = " ".join(faults(text))
    words = ("ubuntu-16", "needs c", "checkout", "not one of", "matrix.os", "permission")
    assert all(word in said for word in words), said


def test_the_workflows_cover_what_the_readme_promises():
    """Three systems, both ends of the versions; Colab weekly; the site from the strict build."""
    tests, pages, weekly = (
        yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())
        for name in ("tests", "pages", "colab")
    )
    matrix = tests["jobs"]["library"]["strategy"]["matrix"]
    assert set(matrix["os"]) == RUNNERS and matrix["versions"] == ["oldest", "newest"]
    assert any(".ci/run" in step.get("run", "") for step in tests["jobs"]["everything"]["steps"])
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    build = pages["jobs"]["build"]["steps"]
    assert {"run": "make book"} in build and build[-1]["with"] == {"path": "_build/html"}
    assert "jupyter-book build . -W" in (ROOT / "Makefile").read_text()
    (when,) = weekly[True]["schedule"]  # YAML reads `on` as true
    assert re.fullmatch(r"\d+ \d+ \* \* \d", when["cron"])
    python = weekly["jobs"]["pins"]["steps"][1]["with"]["python-version"]
    assert f"(Python {python};" in (ROOT / "requirements-colab.txt").read_text()


def test_the_oldest_versions_of_the_workflow_are_the_lower_ends():
    """tests.yml tests what pyproject.toml promises."""
    text = (WORKFLOWS / "tests.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = requirements(project["dependencies"])
    for name, version in re.findall(r"(torch|numpy)==([\d.]+)\.\*", text):
        assert str(ours[name].specifier).startswith(f">={version}")
    assert f'python: "{project["requires-python"].removeprefix(">=")}"' in text


def test_the_changelog_begins_with_this_version():
    """Or with the next one, unreleased."""
    first, *others = re.findall(
        r"^## ([\d.]+)(?:, (\w+))?", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert first[0] == __version__ or (first[1] == "unreleased" and others[0][0] == __version__)


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
