"""Score the network that comes with the book on CamVid in several ways; chapter 12 reads it.

    python -m tools.ways_to_score strides data/records/camvid_strides
    python -m tools.ways_to_score views data/records/camvid_views

The same weights every time: what changes is how the images are read, and what that costs: the
median CPU time of one image on one thread, with reading and counting.
"""

import argparse
import dataclasses
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch

from setr_lib import TestProtocol, evaluate, load_checkpoint, load_dataset
from setr_lib.files import sha256, write_json
from setr_lib.images import SCALES
from setr_lib.inference import window_starts
from setr_lib.training.record import ROOT, surroundings

CHECKPOINT = ROOT / "data" / "models" / "camvid_naive_tiny" / "model.safetensors"
WINDOW = (180, 240)  # what the network was trained on: whole images at half their size
HALF, FULL = (
    TestProtocol(None, None, (240, 180), "fit"),
    TestProtocol(None, None, (480, 360), "fit"),
)
WAYS = {
    "strides": {
        "whole image, half size": HALF,
        "whole image, full size": FULL,
        **{
            f"windows, stride {rows}x{cols}": dataclasses.replace(
                FULL, window=WINDOW, stride=(rows, cols)
            )
            for rows, cols in ((180, 240), (120, 160), (60, 80), (45, 60))
        },
    },
    "views": {
        "one view": HALF,
        "and mirrored": dataclasses.replace(HALF, flip=True),
        "six scales": dataclasses.replace(HALF, scales=SCALES),
        "six scales, mirrored": dataclasses.replace(HALF, scales=SCALES, flip=True),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", choices=list(WAYS))
    parser.add_argument("out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = surroundings(torch.device("cpu"))
    dataset = load_dataset("camvid", "val", ROOT / "data")
    model, _ = load_checkpoint(CHECKPOINT)
    ways = []
    for name, protocol in WAYS[options.ways].items():
        ends = [time.process_time()]
        found = evaluate(
            model, dataset, protocol=protocol, progress=False,
            each=lambda *_: ends.append(time.process_time()),  # noqa: B023
        )  # fmt: skip
        seconds = statistics.median(end - start for start, end in pairwise(ends))
        ways.append(
            {
                "name": name,
                "protocol": dataclasses.asdict(protocol),
                "windows": windows(protocol),
                "cpu_seconds_per_image": round(seconds, 4),
                **found.to_dict(dataset.classes),
            }
        )
        print(f"{name:32}{100 * found.miou:8.2f} mIoU{seconds:8.3f} CPU seconds per image")
    facts = {"dataset": "camvid", "split": "val", "images": len(dataset), "ways": ways}
    checkpoint = {"file": str(CHECKPOINT.relative_to(ROOT)), "sha256": sha256(CHECKPOINT)}
    write_json(Path(options.out) / "record.json", {**facts, "checkpoint": checkpoint, **about})


def windows(protocol: TestProtocol) -> int:
    """Of one image of 360x480 pixels in one view."""
    if protocol.window is None or protocol.stride is None:
        return 1
    sides = zip((360, 480), protocol.window, protocol.stride)
    rows, cols = (len(window_starts(*facts)) for facts in sides)
    return rows * cols


if __name__ == "__main__":
    main()
