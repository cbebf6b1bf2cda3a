"""A training run from files to scores: crops a second, the network's share of it, evaluation."""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setr_lib import get_recipe, load_dataset, train
from setr_lib.training.devices import RunOptions
from setr_lib.training.loop import Run
from setr_lib.training.recipes import Recipe
from setr_lib.training.record import load_log
from setr_lib.zoo import model_config

from .common import Bench, Row

WARM_UP = 2  # lines of the log, of ten steps each, that do not count


def run(bench: Bench) -> Iterator[Row]:
    """PUP with the Tiny encoder by `train`, in bfloat16, with as many workers as the row says."""
    recipe = small_recipe(bench)
    for workers in (0,) if bench.tiny else (0, min(12, os.cpu_count() or 1)):
        options = RunOptions(device=bench.device, precision="bf16", workers=workers)
        job = Run(recipe, Path(), None, options, False)
        crops = [next(job.batches(1))]
        job.learner.train()
        ms = bench.milliseconds(lambda: job.train_step(crops), 1.5)  # noqa: B023
        alone = recipe.batch / ms * 1e3
        row = {
            "case": f"pup tiny, {recipe.dataset}, {workers} workers",
            "network_crops_per_s": alone,
        }
        with tempfile.TemporaryDirectory() as folder:
            done = train(recipe, folder, execution=options, progress=False)
            speeds = [line["images_per_second"] for line in load_log(folder)]
        row["crops_per_s"] = statistics.median(speeds[WARM_UP:] or speeds)
        row["network_share"] = row["crops_per_s"] / alone
        scored = done["evaluations"][-1]
        images, took = done["images"][scored["split"]], scored["seconds"]  # 0.0: under 50 ms
        rate = images / took if took else None
        yield {**row, "session": done["sessions"][-1], "scored_per_s": rate}


def small_recipe(bench: Bench) -> Recipe:
    """CamVid at 360x480, whole files; made-up scenes in their place where it is not there."""
    try:
        load_dataset("camvid", "train")
        recipe, size = get_recipe("camvid_naive_tiny"), (360, 480)
    except (OSError, ValueError):
        recipe, size = get_recipe("shapes_naive_tiny"), (360, 480)
    if bench.tiny:
        recipe, size = get_recipe("shapes_naive_tiny"), (32, 32)
    steps = 1 if bench.tiny else 100
    return dataclasses.replace(
        recipe, crop=size, scale=size[::-1], batch=bench.batch, total_steps=steps,
        warmup=0, evaluate_every=steps,
        config=model_config("setr_pup_tiny", recipe.config.num_classes, image_size=size),
    )  # fmt: skip
