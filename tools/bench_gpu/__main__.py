"""What a GPU makes of the loss, the training step, a run, the encoder and evaluation: one record.

    python -m tools.bench_gpu --out FOLDER [--seconds 280] [--only WORDS]
    python -m tools.bench_gpu --out FOLDER --tests     begin with the tests that need a GPU
    python -m tools.bench_gpu --out FOLDER --device cpu --tiny     the same in seconds, for tests

Neither registry nor checkout of other projects is needed; where timm, torchmetrics and
mmsegmentation are installed, encoder, metric and step run beside theirs. The parts that are worth
most come first, and FOLDER/record.json is whole after every row: a run that is stopped loses the
rest only. What goes wrong in a part is written down under "errors", and the next one begins.
Milliseconds are medians.

A new part is a function that yields rows, and a line in PARTS.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from setr_lib.files import write_json
from setr_lib.training.record import surroundings

from .beside import beside_mmsegmentation, encoder, metric, windows
from .common import Bench, Row, clocks
from .loss import correctness, loss
from .run import run
from .step import levers, step

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "correctness": correctness,
    "step": step,
    "run": run,
    "levers": levers,
    "loss": loss,
    "encoder": encoder,
    "windows": windows,
    "metric": metric,
    "mmsegmentation": beside_mmsegmentation,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="folder of the record")
    parser.add_argument("--seconds", type=float, default=280, help="no row begins after that")
    parser.add_argument("--only", default="", help=f"words of the parts: {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small sizes and single runs")
    parser.add_argument("--tests", action="store_true", help="run the tests that need a GPU first")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --tiny shows that everything runs")
    if options.tests:
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
        if subprocess.run(tests).returncode:
            parser.error(
                "a test that needs a GPU has failed, see above: no speed counts before that"
            )
    until = time.monotonic() + options.seconds
    device = torch.device(options.device)
    record: Row = {"bench": [], "errors": [], "left_out": [], **surroundings(device)}
    record |= {"clocks": clocks(), "day": datetime.now(UTC).date().isoformat()}
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.device, options.tiny)
    for name, part in PARTS.items():
        if options.only and not any(word in name for word in options.only.split()):
            continue
        measure(name, part(bench), record, until, options.out / "record.json")
        if options.device == "cuda":
            torch.cuda.empty_cache()


def measure(name: str, rows: Iterator[Row], record: Row, until: float, path: Path) -> None:
    """The rows of a part, each written down at once; an error ends the part and not the run."""
    try:
        while time.monotonic() < until:
            began = time.monotonic()
            row = next(rows, None)
            if row is None:
                return
            row = {"part": name, **row, "seconds": round(time.monotonic() - began, 2)}
            record["bench"].append(row)
            write_json(path, record)
            print(*(f"{key}={_short(value)}" for key, value in row.items()), flush=True)
        record["left_out"].append(name)
    except ImportError as missing:
        record["left_out"].append(f"{name}: {missing}")
    except Exception as error:
        record["errors"].append({"part": name, "error": f"{type(error).__name__}: {error}"[:500]})
        print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    finally:
        write_json(path, record)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
