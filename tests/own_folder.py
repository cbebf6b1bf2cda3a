"""For tests of runs: a data set of the user's own, `folder:PATH`, and a run of seconds on it."""

import dataclasses
from pathlib import Path

import numpy as np
from conftest import small_config
from PIL import Image

from setr_lib import get_recipe, train
from setr_lib.training.devices import RunOptions
from setr_lib.training.recipes import Recipe

CLASSES = ("a", "b", "c")


def make_folder(root: Path, counts=None, label=None) -> Path:
    """Noise, and labels in blocks; `label` is the value of all of them if it is given."""
    for split, count in (counts or {"train": 4, "val": 2}).items():
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rng = np.random.default_rng([number, len(split)])
            image = rng.integers(0, 255, (24, 32, 3), np.uint8)
            blocks = rng.integers(0, len(CLASSES), (3, 4), np.uint8).repeat(8, 0).repeat(8, 1)
            if label is not None:
                blocks[:] = label
            Image.fromarray(image).save(root / "images" / split / f"{number}.png")
            Image.fromarray(blocks).save(root / "labels" / split / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return root


def folder_recipe(root: Path, **facts) -> Recipe:
    """Twelve steps of two crops."""
    ours = {
        "dataset": f"folder:{root}",
        "config": small_config(num_classes=len(CLASSES), image_size=(32, 32)),
        "crop": (32, 32),
        "scale": (32, 24),
        "batch": 2,
        "total_steps": 12,
        "warmup": 2,
        "evaluate_every": 6,
    }
    return dataclasses.replace(get_recipe("shapes_naive_tiny"), **{**ours, **facts})


def train_small(recipe, out, workers=0, **options):
    """`train` on the CPU, without a bar."""
    execution = RunOptions(device="cpu", workers=workers)
    return train(recipe, out, progress=False, execution=execution, **options)
