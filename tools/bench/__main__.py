"""How fast we are beside others who do the same: a table of ratios, below 1 we are faster.

    python -m tools.bench [SUBJECT ...] [--only WORDS] [--rounds 9] [--out FOLDER]

A subject is a module of this folder with `PEER`, the package that it needs, and
`rows(rounds, only)`, which leaves out the cases without these words and may name another peer.
A record that is there is added to, if it is of the same commit. Beside each ratio stands what the
newest record of the repository has for the same case: "before", and how many times that it is now.
"""

import argparse
import importlib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from setr_lib.files import read_json, write_json
from setr_lib.training.record import list_records, load_record, surroundings

SUBJECTS = ("encoder", "loss", "metric", "step", "windows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "subjects", nargs="*", help=f"of {', '.join(SUBJECTS)}; all if none is given"
    )
    parser.add_argument("--only", default="", help="words of the cases to run, 'tiny' for example")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", help="write a record to this folder")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    peers: dict[str, str] = {}
    before = recorded()
    print(
        f"{'subject':9}{'case':44}{'ours / theirs':>14}  (quartiles)         memory"
        f"  before   now / before  peer"
    )
    for subject in options.subjects or SUBJECTS:
        try:
            module = importlib.import_module(f".{subject}", __package__)
            peers[module.PEER] = version(module.PEER)
        except (ModuleNotFoundError, PackageNotFoundError) as missing:
            print(f"{subject:9}left out: {missing}; see requirements-bench.txt")
            continue
        for row in module.rows(options.rounds, options.only):
            threads = torch.get_num_threads()
            row = {"subject": subject, "peer": module.PEER, "threads": threads, **row}
            peers[row["peer"]] = version(row["peer"])
            found.append(row)
            low, high = row["quartiles"]
            memory = row.get("memory")
            share = f"{memory['ours'] / memory['theirs']:13.3f}" if memory else " " * 13
            old = before.get((subject, row["case"], row["peer"]))
            change = f"{old:8.3f}{row['ratio'] / old:15.2f}" if old else " " * 23
            print(
                f"{subject:9}{row['case']:44}{row['ratio']:14.3f}  ({low:.3f} to {high:.3f})"
                f"{share}{change}  {row['peer']} {peers[row['peer']]}",
                flush=True,
            )
    if options.out:
        add_to_record(Path(options.out) / "record.json", found, peers)


def recorded() -> dict[tuple[str, str, str], float]:
    """Ratios by subject, case and peer; of several records the newest day's."""
    records = (load_record(name) for name in list_records())
    benches = sorted((r for r in records if "bench" in r), key=lambda record: record["day"])
    rows = [row for record in benches for row in record["bench"] if "quartiles" in row]
    return {(row["subject"], row["case"], row["peer"]): row["ratio"] for row in rows}


def add_to_record(path: Path, found: list[dict[str, Any]], peers: dict[str, str]) -> None:
    """Write the rows; those of an earlier run of the same commit stay, where not run again."""
    facts = surroundings(torch.device("cpu")) | {"day": datetime.now(UTC).date().isoformat()}
    old = read_json(path) if path.exists() else {}
    if old.get("commit") == facts["commit"]:
        new = {(row["subject"], row["case"], row["peer"]) for row in found}
        kept = [r for r in old["bench"] if (r["subject"], r["case"], r["peer"]) not in new]
        found = kept + found
        peers = old["peers"] | peers
    write_json(path, {"bench": found, "peers": peers, **facts})


if __name__ == "__main__":
    main()
