"""Counting a confusion matrix beside torchmetrics' JaccardIndex and mmsegmentation's IoUMetric.

Maps of 1024x2048 with patches of one class, as labels have, and with every pixel drawn on its own;
5 % are ignored. In uint8, as label files and `predict` have them, and in int64, as argmax gives.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from setr_lib import confusion_matrix

from .common import compare

PEERS = ("torchmetrics", "mmsegmentation")


def rows(rounds: int) -> Iterator[dict[str, Any]]:
    """One row per peer, number of classes, kind of map and type."""
    from torchmetrics import JaccardIndex

    from .mmseg import IoUMetric

    for classes in (19, 150):
        jaccard = JaccardIndex(
            task="multiclass", num_classes=classes, ignore_index=255, validate_args=False
        )

        def torchmetrics(guess: torch.Tensor, truth: torch.Tensor, metric=jaccard) -> None:
            metric.update(guess, truth)

        def mmseg(guess: torch.Tensor, truth: torch.Tensor, classes: int = classes) -> None:
            IoUMetric.intersect_and_union(guess, truth, classes, 255)

        def ours(guess: torch.Tensor, truth: torch.Tensor, classes: int = classes) -> None:
            confusion_matrix(guess, truth, classes)

        for kind in ("patches", "pixels"):
            pair = _maps(classes, kind)
            for dtype in (torch.uint8, torch.int64):
                maps = [torch.from_numpy(one).to(dtype) for one in pair]
                for peer, theirs in zip(PEERS, (torchmetrics, mmseg)):
                    found = compare(
                        lambda maps=maps, ours=ours: ours(*maps),
                        lambda maps=maps, theirs=theirs: theirs(*maps),
                        rounds,
                    )
                    name = str(dtype).removeprefix("torch.")
                    yield {"peer": peer, "case": f"{classes} classes, {kind}, {name}", **found}


def _maps(classes: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and label."""
    rng = np.random.default_rng(0)
    side = 32 if kind == "patches" else 1
    coarse = rng.integers(0, classes, (2, 1024 // side, 2048 // side), dtype=np.uint8)
    guess, label = coarse.repeat(side, 1).repeat(side, 2)
    guess = np.where(rng.random(label.shape) < 0.8, label, guess)
    label[rng.random(label.shape) < 0.05] = 255
    return guess, label
