"""Fit the linear probes of a trained network, and score them on the validation images.

    python -m tools.probes data/models/camvid_naive_tiny data/records/camvid_naive_tiny_probes

Reads FOLDER/model.safetensors and the data set that its recipe names; writes
FOLDER/probes.safetensors and RECORD/record.json.
"""

import argparse
import dataclasses
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from setr_lib.attention.maps import prepare
from setr_lib.attention.probes import emergence, fit_probes, save_probes
from setr_lib.data.load import load_dataset
from setr_lib.evaluation import confusion_matrix, scores
from setr_lib.files import write_json
from setr_lib.training.record import surroundings
from setr_lib.zoo import load_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with model.safetensors")
    parser.add_argument("record", type=Path, help="the folder of the record")
    parser.add_argument("--root", default="data")
    options = parser.parse_args()
    started, where = time.perf_counter(), surroundings(torch.device("cpu"))
    model, about = load_checkpoint(options.folder / "model.safetensors")
    base = tuple(about["recipe"]["scale"])
    train, val = (
        load_dataset(about["recipe"]["dataset"], s, options.root) for s in ("train", "val")
    )
    probes = fit_probes(model, train, base)
    counts: dict[tuple[str, str], Any] = defaultdict(int)
    for image, label in val:
        images, _ = prepare(model, image, base)
        for seen in emergence(model, images, probes, label.shape):
            key = seen.source, str(seen.layer)
            counts[key] += confusion_matrix(seen.labels[0], label, len(val.classes))
    miou: dict[str, dict[str, float]] = defaultdict(dict)
    for (source, layer), matrix in counts.items():
        miou[source][layer] = scores(matrix).miou
    facts = {
        "model": options.folder.name,
        "seed": about["recipe"]["seed"],  # of the network; fitting draws nothing
        "dataset": train.name,
        "images": {"train": len(train), "val": len(val)},
        **probes.about,
        "miou": miou,
    }
    save_probes(
        dataclasses.replace(probes, about={**facts, "commit": where["commit"]}),
        options.folder / "probes.safetensors",
    )
    facts["seconds"] = round(time.perf_counter() - started, 1)
    write_json(options.record / "record.json", {**facts, **where})
    for source, layers in miou.items():
        for layer, value in layers.items():
            print(f"{source:10}block {layer:>3}  mIoU {100 * value:6.2f}")


if __name__ == "__main__":
    main()
