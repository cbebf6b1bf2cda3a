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
from setr_lib.attention.stats import distances
from setr_lib.data.load import load_dataset
from setr_lib.files import whole_file, write_json
from setr_lib.model import SETR
from setr_lib.training.record import surroundings
from setr_lib.zoo import load_checkpoint

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
        text = "".join(json.dumps(line) + "\n" for line in lines)
        temporary.write_text(text, encoding="utf-8")


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
    """How far the scores of some pixels of one image fall when patches are hidden as keys.

    For every pixel, as `setr_lib.attention.hide` does it: the patches that its own patch's row
    ranks highest in the rollout, in the mean over all blocks and in the last block, random and
    nearest ones. And one more control: those that the rollout of the NEXT pixel in the list ranks
    highest.
    """
    draw = torch.Generator().manual_seed(seed)
    size, patch = images.shape[-2:], model.encoder.patch_size
    at = torch.stack([torch.randint(side, (PIXELS,), generator=draw) for side in size], 1)
    own = at[:, 0] // patch * grid[1] + at[:, 1] // patch
    maps = attention.attention_maps(model, images, heads="mean")
    rows = [one[0, 0, maps.prefix :, maps.prefix :] for one in maps]
    rollout = attention.attention_rollout(maps)[0]
    ranks = {
        "rollout": rollout[own],
        "rollout of another pixel": rollout[own.roll(-1)],
        "all blocks": torch.stack(rows).mean(0)[own],
        "last block": rows[-1][own],
        "nearest": -distances(grid, patch)[own],
        "random": torch.rand(PIXELS, len(rollout), generator=draw),
    }
    everywhere = torch.arange(PIXELS)
    before = model_scores(model, images, at, torch.empty(PIXELS, 0, dtype=torch.int64))
    classes = before.argmax(1)
    found: dict[str, Any] = {"pixels": at.tolist(), "class": classes.tolist()}
    found["probability"] = rounded(before.softmax(1)[everywhere, classes])
    k = round(HIDDEN * grid[0] * grid[1])
    for name, rank in ranks.items():
        hidden = rank.scatter(1, own[:, None], -torch.inf).topk(k).indices  # never the own patch
        after = model_scores(model, images, at, hidden)
        logit = (before - after)[everywhere, classes]
        probability = (before.softmax(1) - after.softmax(1))[everywhere, classes]
        found[name] = {"logit": rounded(logit), "probability": rounded(probability)}
    return found


def model_scores(model: SETR, images: Any, at: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """`(P,K)`: the scores at each pixel with its own patches hidden."""
    logits = attention.hidden_logits(model, images, hidden)
    return logits[torch.arange(len(at)), :, at[:, 0], at[:, 1]]


def rounded(values: Any) -> Any:
    """Four digits behind the point, as JSON can hold them."""
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return rounded(values.tolist()) if isinstance(values, torch.Tensor) else round(values, 4)


if __name__ == "__main__":
    main()
