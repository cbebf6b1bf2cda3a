"""Kill a run at random moments, resume it each time, and compare it with one that was left alone.

    python -m tools.kill_test --kills 30 [--seed 0] [--folder FOLDER]

A small network on files of made-up scenes, two processes that prepare crops and keep what they have
read, a saving every 0.2 seconds, an evaluation every 40 steps. The run that is left alone prepares
its crops itself and keeps nothing. Ends with 1 if a single bit differs.
"""

import argparse
import dataclasses
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from setr_lib import load_checkpoint, load_record, train
from setr_lib.data.load import Shapes
from setr_lib.model import SETRConfig
from setr_lib.training import checkpoint
from setr_lib.training.checkpoint import has_state
from setr_lib.training.devices import RunOptions
from setr_lib.training.recipes import Recipe, get_recipe
from setr_lib.training.record import load_log

LONGEST = 6.0  # seconds that a process may live once it has begun


def write_scenes(root: Path) -> None:
    """So few scenes that a run goes through epochs, as a data set of files."""
    for split, count in {"train": 100, "val": 6}.items():
        scenes = Shapes(split)
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            for part, pixels in zip(("images", "labels"), scenes[number]):
                Image.fromarray(pixels).save(root / part / split / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(Shapes.classes) + "\n", encoding="utf-8")


def recipe(steps: int, data: Path) -> Recipe:
    """MLA with 4 blocks of width 48, crops of 64 pixels, colours distorted."""
    config = SETRConfig(
        "mla", num_classes=8, image_size=(64, 64), width=48, depth=4, heads=3,
        layers=(0, 1, 2, 3), channels=32,
    )  # fmt: skip
    return dataclasses.replace(
        get_recipe("shapes_mla_tiny"), dataset=f"folder:{data}", config=config, crop=(64, 64),
        batch=4, total_steps=steps, evaluate_every=40, photometric=True,
    )  # fmt: skip


def one_life(steps: int, out: Path, alone: bool) -> None:
    """Train until the end, or until somebody kills this process."""
    torch.set_num_threads(1)
    checkpoint.SAVE_SECONDS, checkpoint.SAVE_SHARE = 0.2, 1.0
    execution = RunOptions(device="cpu", cache="none")
    if not alone:
        execution = RunOptions(device="cpu", workers=2, cache="memory")
    train(
        recipe(steps, out.parent / "data"),
        out,
        has_state(out / "state"),
        execution=execution,
        progress=False,
    )


def start(steps: int, out: Path, alone: bool = False) -> multiprocessing.Process:
    process = multiprocessing.Process(target=one_life, args=(steps, out, alone))
    process.start()
    return process


def changed(file: Path) -> int:
    """When a file was touched last."""
    return file.stat().st_mtime_ns if file.exists() else 0


def same(one: Path, two: Path) -> bool:
    """Weights, log and scores, to the last bit."""
    for name in ("best", "last"):
        first, second = (
            load_checkpoint(out / f"{name}.safetensors")[0].state_dict() for out in (one, two)
        )
        if not all(torch.equal(first[key], second[key]) for key in first):
            return False
    logs = [[(line["step"], line["loss"]) for line in load_log(out)] for out in (one, two)]
    found = [
        [(e["step"], e["miou"]) for e in load_record(out)["evaluations"]] for out in (one, two)
    ]
    return logs[0] == logs[1] and found[0] == found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the two runs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    folder = Path(options.folder or tempfile.mkdtemp())
    one, two = folder / "alone", folder / "killed"
    chance = random.Random(options.seed)
    clock = time.monotonic()
    write_scenes(folder / "data")
    start(options.steps, one, alone=True).join()
    print(f"alone: {options.steps} steps in {time.monotonic() - clock:.0f} s", flush=True)
    kills = halves = 0
    while kills < options.kills:
        before = changed(two / "state" / "lock")
        process = start(options.steps, two)
        while process.is_alive() and changed(two / "state" / "lock") == before:
            time.sleep(0.01)
        moment = chance.uniform(0.0, LONGEST)
        process.join(moment)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        left = [str(p.name) for p in two.rglob(".*")]
        halves += bool(left)
        step = load_record(two)["step"] if (two / "record.json").exists() else 0
        print(f"kill {kills} after {moment:.2f} s, saved at step {step} {left or ''}", flush=True)
    start(options.steps, two).join()
    equal = same(one, two)
    print(
        f"{kills} kills, {halves} of them in the midst of writing: "
        + ("the same run, bit for bit" if equal else "ANOTHER RUN")
    )
    return 0 if equal and kills == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
