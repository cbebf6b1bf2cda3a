"""How many training crops a second come to the network's device, cut and normalised.

    python -m tools.bench.crops [RECIPE] [--device cuda] [--workers 2] [--cache auto]

Reading alone, without a network: what a training step of so many crops would wait for at most.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from setr_lib.training.devices import RunOptions
from setr_lib.training.loop import Run
from setr_lib.training.recipes import get_recipe


def crops_a_second(
    recipe: str, options: RunOptions, batches: int = 100, root: str | None = None
) -> dict[str, Any]:
    """Measured once every pair was read: an epoch goes before, at most 400 crops.

    Returns:
        `crops_a_second`, and what was measured.
    """
    facts = get_recipe(recipe)
    run = Run(facts, Path("unused"), root, options, False)
    before = -(-min(400, len(run.data)) // facts.batch)
    clock = 0.0
    for number, batch in enumerate(run.batches(before + batches)):
        run.to_device(*batch)
        if number == before - 1:
            wait(run.device)
            clock = time.perf_counter()
    wait(run.device)
    rate = batches * facts.batch / (time.perf_counter() - clock)
    return {
        "crops_a_second": rate, "recipe": recipe, "crop": facts.crop, "batch": facts.batch,
        "device": str(run.device), "workers": options.workers, "cache": options.cache,
    }  # fmt: skip


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="camvid_pup_gpu")
    parser.add_argument("--device")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--cache", default="auto")
    parser.add_argument("--batches", type=int, default=100)
    said = parser.parse_args()
    options = RunOptions(device=said.device, workers=said.workers, cache=said.cache)
    print(crops_a_second(said.recipe, options, said.batches))


if __name__ == "__main__":
    main()
