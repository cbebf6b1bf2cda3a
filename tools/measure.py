"""Measure a trained network on the validation images of its data set; chapters read the records.

    python -m tools.measure heads data/models/NAME data/records/NAME_heads
    python -m tools.measure probes data/models/NAME data/records/NAME_probes
    python -m tools.measure strides data/models/NAME data/records/camvid_strides
    python -m tools.measure views data/models/NAME data/records/camvid_views
    python -m tools.measure exports data/models/NAME data/records/camvid_exports

`heads`: its attention, beside that of a fresh network, and the causal check, one line per image, in
RECORD/log.jsonl. `probes`: linear probes of every block, which become FOLDER/probes.safetensors.
`strides`, `views`: the same weights scored in several ways; the seconds are the median CPU time of
one image on one thread, with reading and counting. `exports`: the network, its ONNX
file and the one in 8 bits, scored by the network's own protocol.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from setr_lib import TestProtocol, attention, evaluate, load_checkpoint, load_dataset, scores
from setr_lib.attention.stats import distances
from setr_lib.evaluation import confusion_matrix
from setr_lib.files import sha256, whole_file, write_json
from setr_lib.geometry import Size
from setr_lib.images import SCALES
from setr_lib.inference import window_starts
from setr_lib.model import SETR
from setr_lib.training.record import git_commit, surroundings
from setr_lib.weights.export import OnnxModel, export_model

PIXELS = 4  # of every image, drawn at random, in the causal check
HIDDEN = 0.1  # of the patches
WINDOW = (180, 240)  # what the network was trained on: whole images of CamVid at half their size
HALF = TestProtocol(None, None, (240, 180), "fit")
FULL = TestProtocol(None, None, (480, 360), "fit")
STRIDES = ((180, 240), (120, 160), (60, 80), (45, 60))
WAYS = {
    "strides": {"whole image, half size": HALF, "whole image, full size": FULL}
    | {
        f"windows, stride {rows}x{cols}": replace(FULL, window=WINDOW, stride=(rows, cols))
        for rows, cols in STRIDES
    },
    "views": {
        "one view": HALF,
        "and mirrored": replace(HALF, flip=True),
        "six scales": replace(HALF, scales=SCALES),
        "six scales, mirrored": replace(HALF, scales=SCALES, flip=True),
    },
}
Facts = dict[str, Any]  # of a record


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("what", choices=["heads", "probes", "exports", *WAYS])
    parser.add_argument("folder", type=Path, help="with model.safetensors")
    parser.add_argument("record", type=Path, help="the folder of the record")
    parser.add_argument("--root", default="data", help="the folder with the data sets")
    parser.add_argument("--images", type=int, help="heads: only the first ones, to try")
    options = parser.parse_args()
    if options.what in ("exports", *WAYS):
        torch.set_num_threads(1)  # the times are those of one
    started, where = time.perf_counter(), surroundings(torch.device("cpu"))
    model, about = load_checkpoint(options.folder / "model.safetensors")
    known = {"heads": heads, "probes": probes, "exports": exports}
    facts = known.get(options.what, ways)(model, about["recipe"], options)
    facts["seconds"] = round(time.perf_counter() - started, 1)
    write_json(options.record / "record.json", {**facts, **where})


def heads(model: SETR, recipe: Facts, options: argparse.Namespace) -> Facts:
    """Distance, entropy and classes of what every head attends to, and the causal check."""
    val = load_dataset(recipe["dataset"], "val", options.root)
    torch.manual_seed(0)
    networks = {"trained": model, "fresh": SETR(model.config).eval()}
    count = options.images or len(val)
    sums: dict[str, dict[str, Any]] = {name: defaultdict(float) for name in networks}
    lines = []
    for number in range(count):
        image, label = val[number]
        images, grid = attention.prepare(model, image, tuple(recipe["scale"]))
        for name, network in networks.items():
            for what, value in means(network, images, label, grid).items():
                sums[name][what] += value / count
        lines.append({"image": number, **causal_check(model, images, grid, seed=number)})
        print(f"{number + 1}/{count}", flush=True)
    with whole_file(options.record / "log.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    patch = model.encoder.patch_size
    return {
        "model": options.folder.name,
        "seed": recipe["seed"],
        "dataset": val.name,
        "images": {"val": count},
        "grid": list(grid),
        "patch": patch,
        "uniform_distance": attention.uniform_distance(grid, patch),
        "hidden": round(HIDDEN * grid[0] * grid[1]),
        "networks": {n: {w: rounded(v) for w, v in s.items()} for n, s in sums.items()},
    }


def means(network: SETR, images: Tensor, label: Any, grid: Size) -> dict[str, Tensor]:
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


def causal_check(model: SETR, images: Tensor, grid: Size, seed: int) -> Facts:
    """How far the scores of some pixels of one image fall when patches are hidden as keys.

    `setr_lib.attention.hide` with more choices: the patches that a pixel's own patch looks at most
    in the rollout, in the mean over all blocks and in the last block, random and nearest ones; and
    those that the rollout of the NEXT pixel in the list ranks highest.
    """
    draw = torch.Generator().manual_seed(seed)
    patch = model.encoder.patch_size
    at = torch.stack([torch.randint(n, (PIXELS,), generator=draw) for n in images.shape[-2:]], 1)
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

    def at_pixels(hidden: Tensor) -> Tensor:  # (P,K)
        return attention.hidden_logits(model, images, hidden)[everywhere, :, at[:, 0], at[:, 1]]

    before = at_pixels(torch.empty(PIXELS, 0, dtype=torch.int64))
    classes = before.argmax(1)
    found: Facts = {"pixels": at.tolist(), "class": classes.tolist()}
    found["probability"] = rounded(before.softmax(1)[everywhere, classes])
    k = round(HIDDEN * grid[0] * grid[1])
    for name, rank in ranks.items():
        after = at_pixels(rank.scatter(1, own[:, None], -torch.inf).topk(k).indices)
        falls = {"logit": before - after, "probability": before.softmax(1) - after.softmax(1)}
        found[name] = {what: rounded(fall[everywhere, classes]) for what, fall in falls.items()}
    return found


def probes(model: SETR, recipe: Facts, options: argparse.Namespace) -> Facts:
    """Fit the linear probes of every block, and score them."""
    base = tuple(recipe["scale"])
    train, val = (load_dataset(recipe["dataset"], s, options.root) for s in ("train", "val"))
    fitted = attention.fit_probes(model, train, base)
    counts: dict[tuple[str, str], Any] = defaultdict(int)
    for image, label in val:
        images, _ = attention.prepare(model, image, base)
        for seen in attention.emergence(model, images, fitted, label.shape):
            key = seen.source, str(seen.layer)
            counts[key] += confusion_matrix(seen.labels[0], label, len(val.classes))
    miou: dict[str, dict[str, float]] = defaultdict(dict)
    for (source, layer), matrix in counts.items():
        miou[source][layer] = scores(matrix).miou
        print(f"{source:10}block {layer:>3}  mIoU {100 * miou[source][layer]:6.2f}")
    facts = {
        "model": options.folder.name,
        "seed": recipe["seed"],  # of the network; fitting draws nothing
        "dataset": train.name,
        "images": {"train": len(train), "val": len(val)},
        **fitted.about,
        "miou": miou,
    }
    whole = replace(fitted, about={**facts, "commit": git_commit()})
    attention.save_probes(whole, options.folder / "probes.safetensors")
    return facts


def ways(model: SETR, recipe: Facts, options: argparse.Namespace) -> Facts:
    """Score one network in several ways."""
    found = {name: (model, protocol) for name, protocol in WAYS[options.what].items()}
    rows = score_each(found, recipe["dataset"], options.root)
    for row, protocol in zip(rows, WAYS[options.what].values(), strict=True):
        row["windows"] = windows(protocol)
    return of_network(rows, recipe["dataset"], options)


def exports(model: SETR, recipe: Facts, options: argparse.Namespace) -> Facts:
    """Score a network and what `export` makes of it."""
    with TemporaryDirectory() as folder:
        files = {"onnx": False, "onnx, int8": True}
        reports = {
            name: export_model(model, Path(folder, f"{int8}.onnx"), int8=int8)
            for name, int8 in files.items()
        }
        networks = {"torch": model} | {n: OnnxModel(r.file) for n, r in reports.items()}
        found = {name: (network, model.protocol) for name, network in networks.items()}
        rows = score_each(found, recipe["dataset"], options.root)
    for row, report in zip(rows[1:], reports.values(), strict=True):
        row |= {"megabytes": round(report.megabytes, 2), "difference_on_noise": report.difference}
        row["other_classes_on_noise"] = report.other_classes
    facts = of_network(rows, recipe["dataset"], options)
    return facts | {"packages": {name: version(name) for name in ("onnx", "onnxruntime")}}


def score_each(
    found: dict[str, tuple[Any, TestProtocol]], dataset: str, root: Path | None
) -> list[Facts]:
    """A row for each network and protocol: its scores on val, and the CPU time of an image."""
    val, rows = load_dataset(dataset, "val", root), []
    for name, (network, protocol) in found.items():
        ends = [time.process_time()]
        score = evaluate(
            network, val, protocol=protocol, progress=False,
            each=lambda *_: ends.append(time.process_time()),  # noqa: B023
        )  # fmt: skip
        seconds = statistics.median(end - start for start, end in pairwise(ends))
        row = {"name": name, "protocol": asdict(protocol)}
        row["cpu_seconds_per_image"] = round(seconds, 4)
        rows.append({**row, **score.to_dict(val.classes)})
        print(f"{name:32}{100 * score.miou:8.2f} mIoU{seconds:8.3f} CPU seconds per image")
    return rows


def of_network(rows: list[Facts], dataset: str, options: argparse.Namespace) -> Facts:
    """A record of several rows on one network's file."""
    file, val = options.folder / "model.safetensors", load_dataset(dataset, "val", options.root)
    facts = {"dataset": val.name, "split": "val", "images": len(val), "ways": rows}
    return {**facts, "checkpoint": {"file": str(file), "sha256": sha256(file)}}


def windows(protocol: TestProtocol) -> int:
    """Of one image of 360x480 pixels in one view."""
    if protocol.window is None or protocol.stride is None:
        return 1
    sides = zip((360, 480), protocol.window, protocol.stride)
    rows, cols = (len(window_starts(*facts)) for facts in sides)
    return rows * cols


def rounded(values: Any) -> Any:
    """Four digits behind the point, as JSON can hold them."""
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return rounded(values.tolist()) if isinstance(values, Tensor) else round(values, 4)


if __name__ == "__main__":
    main()
