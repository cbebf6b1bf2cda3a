"""Our own training step beside that of an earlier commit, turn by turn in one process.

    python -m tools.bench.before COMMIT [--decoder pup] [--pixels 256] [--rounds 9] [--out FOLDER]

Below 1 today's is faster. The Tiny encoder, 150 classes, one crop, SGD, as in `step`.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

import setr_lib
from setr_lib.model import DECODERS
from setr_lib.training.record import ROOT

from .__main__ import add_to_record
from .common import compare
from .step import CLASSES, crop, step


def library_of(commit: str, folder: Path) -> Any:
    """The package of a commit, under a name of its own beside ours."""
    command = ["git", "archive", "--format=zip", commit, "setr_lib"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with zipfile.ZipFile(BytesIO(archive)) as files:
        files.extractall(folder)
    name = f"setr_{commit}"
    (folder / "setr_lib").rename(folder / name)
    sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def beside(library: Any, decoder: str, pixels: int, rounds: int) -> dict[str, Any]:
    """A row of a bench record; both networks have the same weights and must have one loss."""
    batch, calls, losses = crop(pixels), [], []
    for each in (setr_lib, library):
        torch.manual_seed(0)
        model = each.create_model(f"setr_{decoder}_tiny", CLASSES, pixels)
        losses.append(model.loss(*batch).item())
        calls.append(step(model, lambda model=model: model.loss(*batch)))
    if abs(losses[0] - losses[1]) > 1e-5 * losses[1]:
        raise ValueError(f"the losses differ, so other things are computed: {losses}")
    found = compare(*calls, rounds)
    case = f"{decoder} tiny, {pixels} px, training step"
    threads = torch.get_num_threads()
    return {"subject": "before", "peer": "setr_lib", "threads": threads, "case": case, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="as its first letters")
    parser.add_argument("--decoder", default="pup", choices=DECODERS)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", help="write a record to this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = library_of(options.commit, Path(folder))
        row = beside(library, options.decoder, options.pixels, options.rounds)
    print(row)
    if options.out:
        add_to_record(Path(options.out) / "record.json", [row], {"setr_lib": options.commit})


if __name__ == "__main__":
    main()
