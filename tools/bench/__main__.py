"""How fast we are beside others who do the same: a table of ratios, below 1 we are faster.

    python -m tools.bench [SUBJECT ...] [--rounds 9] [--out FOLDER]

A subject is a module of this folder with `PEER`, the package that it needs, and `rows(rounds)`.
"""

import argparse
import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from setr_lib.files import write_json
from setr_lib.records import surroundings

SUBJECTS = ("encoder",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "subjects", nargs="*", help=f"of {', '.join(SUBJECTS)}; all if none is given"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", help="write a record to this folder")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    peers: dict[str, str] = {}
    print(f"{'subject':9}{'case':44}{'ours / theirs':>14}  (quartiles)  peer")
    for subject in options.subjects or SUBJECTS:
        try:
            module = importlib.import_module(f".{subject}", __package__)
            peers[module.PEER] = version(module.PEER)
        except (ModuleNotFoundError, PackageNotFoundError) as missing:
            print(f"{subject:9}left out: {missing} (pip install -r requirements-bench.txt)")
            continue
        for row in module.rows(options.rounds):
            found.append({"subject": subject, "peer": module.PEER, **row})
            low, high = row["quartiles"]
            print(
                f"{subject:9}{row['case']:44}{row['ratio']:14.3f}  ({low:.3f} to {high:.3f})"
                f"  {module.PEER} {peers[module.PEER]}"
            )
    if options.out:
        facts = {"bench": found, "peers": peers, **surroundings(torch.device("cpu"))}
        write_json(Path(options.out) / "record.json", facts)


if __name__ == "__main__":
    main()
