"""How long a recipe would take, and how much memory, from steps that were measured elsewhere.

An estimate, not a measurement: a measured step is scaled by arithmetic, its memory by pixels.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch

from ..costs import step_gflops
from ..model import SIZES, SETRConfig
from ..weights.config import make_network
from ..zoo import model_config
from .devices import split_batch
from .recipe import Recipe
from .record import load_record

STEPS = "gpu_h100_step"  # the record of the measured steps
BYTES = 12  # of a parameter with its gradient and momentum, float32


@dataclass(frozen=True)
class Estimate:
    """What a run of a recipe would cost.

    Attributes:
        hours: of training alone, without evaluation, and without waiting for crops or between GPUs.
        seconds: of a step.
        gib: on each GPU at the peak, 2**30 bytes.
        gpus: how many share the batch.
        source: of which measurement, in words.
    """

    hours: float
    seconds: float
    gib: float
    gpus: int
    source: str

    def __str__(self) -> str:
        return (
            f"estimate: {self.hours:.0f} h and {self.gib:.0f} GiB on each of {self.gpus} GPU"
            f"{'s' * (self.gpus > 1)}, scaled from {self.source}"
        )


def estimate(recipe: Recipe, gpus: int = 1) -> Estimate:
    """What the training of a T-Base or T-Large by `recipe` would cost on GPUs like the measured.

    Time: the measured step of the same decoder times the ratio of their arithmetic, which takes the
    same share of the GPU's peak for granted; but no step is shorter than the launches of its
    kernels take the host, which is what counts where eight GPUs have two crops each. Memory: what a
    parameter holds, and the rest of the measured peak times the ratio of pixels, and of width times
    depth.

    Raises:
        ValueError: for a network that is too unlike the measured ones, and a batch that the GPUs
            cannot share.
    """
    config, record = recipe.config, load_record(STEPS)
    if not isinstance(config, SETRConfig) or config.width < SIZES["base"][0]:
        raise ValueError(
            f"no estimate for {recipe.name}: the steps that were measured ({STEPS}) are of T-Large"
        )
    crops, _ = split_batch(recipe, gpus)
    step = next(
        s for s in record["steps"]
        if s["decoder"] == config.decoder and s["loss"].startswith("fused") and not s["compiled"]
    )  # fmt: skip
    measured = model_config(f"setr_{config.decoder}_{record['encoder']}", record["classes"])
    crop = tuple(record["crop"])
    arithmetic = _gflops(config, recipe.crop) / _gflops(measured, crop)
    seconds = step["milliseconds"] / 1000 * arithmetic * recipe.batch / record["batch"] / gpus
    seconds = max(seconds, record["launches"] * record["launch_microseconds"] / 1e6)
    fixed = BYTES * _parameters(measured) / 2**30
    size = config.width * config.depth / (measured.width * measured.depth)
    pixels = crops * math.prod(recipe.crop) / (record["batch"] * math.prod(crop))
    return Estimate(
        hours=seconds * recipe.total_steps / 3600,
        seconds=seconds,
        gib=BYTES * _parameters(config) / 2**30 + (step["gib"] - fixed) * pixels * size,
        gpus=gpus,
        source=f"{record['hardware']['gpu']}, {record['precision']}, record {STEPS}",
    )


@functools.cache
def _gflops(config: SETRConfig, crop: tuple[int, int]) -> float:
    return step_gflops(lambda: make_network(config), crop)


@functools.cache
def _parameters(config: SETRConfig) -> int:
    with torch.device("meta"):
        network: Any = make_network(config)
    return sum(p.numel() for p in network.parameters())
