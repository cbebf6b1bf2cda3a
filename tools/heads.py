"""Measure the attention of a trained network, and of a fresh one, on the validation images.

    python -m tools.heads data/models/camvid_naive_tiny data/records/camvid_naive_tiny_heads

Reads FOLDER/model.safetensors and the data set that its recipe names; writes RECORD/record.json,
and RECORD/log.jsonl with the causal check, one line per image.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from setr_lib import attention
from setr_lib.datasets import load_dataset
from setr_lib.files import whole_file, write_json
from setr_lib.model import SETR
from setr_lib.records import surroundings
from setr_lib.weights import load_checkpoint

PIXELS = 4  # of every image, drawn at random
HIDDEN = 0.1  # of the patches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with model.safetensors")
    parser.add_argument("record", type=Path, help="the folder of the record")
    parser.add_argument("--root", default="data")
    parser.add_argument("--images", type=int, help="only the first ones, to try")
    options = parser.parse_args()
    started, where = time.perf_counter(), surroundings(torch.device("cpu"))
    model, about = load_checkpoint(options.folder / "model.safetensors")
    torch.manual_seed(0)
    networks = {"trained": model, "fresh": SETR(model.config).eval()}
    val = load_dataset(about["recipe"]["dataset"], "val", options.root)
    count = options.images or len(val)
    sums: dict[str, dict[str, Any]] = {name: defaultdict(float) for name in networks}
    lines = []
    for number in range(count):
        image, label = val[number]
        images, grid = attention.prepare(model, image, tuple(about["recipe"]["scale"]))
        for name, network in networks.items():
            for what, value in facts_of(network, images, label, grid).items():
                sums[name][what] += value / count
        lines.append({"image": number, **causal_check(model, images, grid, seed=number)})
        print(f"{number + 1}/{count}", flush=True)
    patch = model.encoder.patch_size
    facts = {
        "model": options.folder.name,
        "seed": about["recipe"]["seed"],
        "dataset": val.name,
        "images": {"val": count},
        "grid": list(grid),
        "patch": patch,
        "uniform_distance": attention.uniform_distance(grid, patch),
        "hidden": round(HIDDEN * grid[0] * grid[1]),
        "networks": {n: {w: rounded(v) for w, v in s.items()} for n, s in sums.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(options.record / "record.json", {**facts, **where})
    with whole_file(options.record / "log.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def facts_of(network: SETR, images: Any, label: Any, grid: Any) -> dict[str, Any]:
    """Means over the patches of one image, each `(L,H)`; the share of the area is one number."""
    maps = attention.attention_maps(network, images)
    patch = network.encoder.patch_size
    labels = attention.label_grid(label, images.shape[-2:], patch)
    inside, area = attention.attention_inside(maps, labels)
    patches = torch.stack(maps)[:, 0, :, maps.prefix :]  # (L,H,N,T): rows of patches
    return {
        "distance": attention.attention_distance(maps, grid, patch)[:, 0].mean(-1),
        "entropy": attention.attention_entropy(patches).mean(-1),
        "inside": inside[:, 0].nanmean(-1),
        "area": area.nanmean(),
        "class_token": patches[..., 0].mean(-1),
    }


def causal_check(model: SETR, images: Any, grid: Any, seed: int) -> dict[str, Any]:
    """`setr_lib.attention.hide` for some pixels of one image, by three rankings and two ways."""
    draw = torch.Generator().manual_seed(seed)
    pixels = [
        tuple(int(torch.randint(side, (), generator=draw)) for side in images.shape[-2:])
        for _ in range(PIXELS)
    ]
    k, depth = round(HIDDEN * grid[0] * grid[1]), model.config.depth
    ways = {
        "rollout": ("rollout", "keys"),
        "all blocks": (range(depth), "keys"),
        "last block": ([depth - 1], "keys"),
        "rollout, grey pixels": ("rollout", "pixels"),
    }
    found: dict[str, Any] = {"pixels": pixels}
    for name, (by, how) in ways.items():
        seen = attention.hide(model, images, pixels, k, by, how, seed)
        found["class"], found["probability"] = seen.classes.tolist(), rounded(seen.probability)
        found[name] = {
            "logit": {choice: rounded(v) for choice, v in seen.logit_fall.items()},
            "probability": {choice: rounded(v) for choice, v in seen.probability_fall.items()},
        }
    return found


def rounded(values: Any) -> Any:
    """Four digits behind the point, as JSON can hold them."""
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return rounded(values.tolist()) if isinstance(values, torch.Tensor) else round(values, 4)


if __name__ == "__main__":
    main()
