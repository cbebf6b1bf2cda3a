"""Run every chapter with the versions that are installed here, and record how it went.

    python -m tools.rerun data/records/NAME [book/x.ipynb ...]

A chapter's own checks decide: an exception in a cell is its error. Nothing is stored in the
notebooks. Named chapters are run anew in an existing record of the same versions.
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nbclient.exceptions import CellExecutionError

from setr_lib.files import write_json
from setr_lib.training.record import surroundings
from tools import notebooks

PACKAGES = (  # beside those of `surroundings`
    "accelerate", "scipy", "matplotlib", "scikit-learn", "safetensors", "filelock",
    "tqdm", "psutil", "ipython", "ipykernel", "ipywidgets", "anywidget", "traitlets", "nbclient",
    "nbformat",
)  # fmt: skip


def run(path: Path) -> tuple[str | None, list[float]]:
    """The error that a chapter ends with, or None; the seconds to its end and of its first cell."""
    ends: list[float] = []
    client = notebooks.client(path, on_cell_executed=lambda **_: ends.append(time.monotonic()))
    start, error = time.monotonic(), None
    try:
        client.execute()
    except CellExecutionError as wrong:
        error = f"{wrong.ename}: {wrong.evalue}".splitlines()[0]
    return error, [round(time.monotonic() - start, 1), round(ends[0] - start, 1) if ends else 0.0]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the record")
    parser.add_argument("chapters", type=Path, nargs="*", help="default: every one")
    options = parser.parse_args()
    file = options.folder / "record.json"
    packages = {name: version(name) for name in PACKAGES}
    about: dict[str, Any] = {
        "day": datetime.now(UTC).date().isoformat(),
        "packages": packages,
        **surroundings(torch.device("cpu")),
    }
    found: dict[str, Any] = {}
    if options.chapters and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if (before["packages"], before["versions"]) != (packages, about["versions"]):
            sys.exit(f"{file} is of other versions; run every chapter, or name another folder")
        found = before["chapters"]
    for path in [each.resolve() for each in options.chapters] or notebooks.chapters():
        error, (seconds, first_cell) = run(path)
        found[path.stem] = {"error": error, "seconds": seconds, "first_cell": first_cell}
        print(f"{path.stem:14}{seconds:7.1f} s  {error or ''}", flush=True)
        write_json(file, {**about, "chapters": dict(sorted(found.items()))})
    return 1 if any(each["error"] for each in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
