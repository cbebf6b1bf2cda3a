"""Counting a confusion matrix beside torchmetrics' JaccardIndex and mmsegmentation's IoUMetric.

Maps of 1024x2048 in squares of one class, as labels have them, or with every pixel drawn on its
own; 5 % are ignored. In uint8, as label files and `predict` have them, or in int64, as argmax
gives them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from setr_lib import confusion_matrix

from .common import compare
from .step import stand_in_for_operators

PEER = "torchmetrics"
Count = Callable[[Tensor, Tensor], object]


def rows(rounds: int, only: str) -> Iterator[dict[str, Any]]:
    """One row per number of classes, kind of map, type and peer."""
    for classes in (19, 150):
        theirs = peers(classes)
        for kind, side in (("squares", 32), ("pixels", 1)):
            for dtype in ("uint8", "int64"):
                case = f"{classes} classes, {kind}, {dtype}"
                if only not in case:
                    continue
                pair = [torch.from_numpy(m).to(getattr(torch, dtype)) for m in maps(classes, side)]
                for peer, count in theirs.items():
                    found = compare(
                        lambda: confusion_matrix(*pair, classes),  # noqa: B023
                        lambda: count(*pair),  # noqa: B023
                        rounds,
                    )
                    yield {"case": case, "peer": peer, **found}


def peers(classes: int) -> dict[str, Count]:
    """What others do with a prediction and a label to get the same counts, or fewer."""
    from torchmetrics import JaccardIndex

    stand_in_for_operators()
    from mmseg.evaluation.metrics import IoUMetric

    jaccard = JaccardIndex(
        task="multiclass", num_classes=classes, ignore_index=255, validate_args=False
    )
    return {
        "torchmetrics": jaccard.update,
        "mmsegmentation": lambda p, t: IoUMetric.intersect_and_union(p, t, classes, 255),
    }


def maps(classes: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a label of 1024x2048, uint8, in squares of `side` pixels."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, classes, (2, 1024 // side, 2048 // side), dtype=np.uint8)
    guess, label = squares.repeat(side, 1).repeat(side, 2)
    guess = np.where(rng.random(label.shape) < 0.8, label, guess)
    label[rng.random(label.shape) < 0.05] = 255
    return guess, label
