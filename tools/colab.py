"""Do our ranges admit what Colab has today? `python -m tools.colab PIP_FREEZE` compares.

Prints what differs from the dated copy, requirements-colab.txt; the exit status is 1 if a version
is outside the ranges of requirements.txt.
"""

import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def pins(text: str) -> dict[str, str]:
    """Name -> version of every line NAME==VERSION; what comes after a `+` is a build's own."""
    lines = (line.split("#")[0].strip().partition("==") for line in text.splitlines())
    return {name.lower(): version.split("+")[0] for name, found, version in lines if found}


def ranges() -> dict[str, Requirement]:
    """What the chapters import: the first block of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {each.name.lower(): each for each in found}


def outside(there: dict[str, str]) -> list[str]:
    """A sentence for every version that our ranges do not admit."""
    return [
        f"{each}, and Colab has {there[name]}"
        for name, each in ranges().items()
        if name in there and not each.specifier.contains(there[name])
    ]


def main() -> int:
    today = pins(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dated = pins((ROOT / "requirements-colab.txt").read_text(encoding="utf-8"))
    for name, version in dated.items():
        if today.get(name) != version:
            print(f"{name}: {version} in requirements-colab.txt, {today.get(name)} today")
    wrong = outside(today)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
