"""What a label map is worth: the confusion matrix, and what is read off it."""

# K classes

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import few
from .losses import IGNORE

Pixels = np.ndarray | Tensor
PIECE = 1 << 16  # pixels


def confusion_matrix(
    prediction: Pixels, label: Pixels, num_classes: int, ignore_index: int = IGNORE
) -> Tensor:
    """How often each true class was given each predicted class.

    Args:
        prediction, label: class numbers of the same shape, any number of dimensions; fastest in
            uint8.
        num_classes: K.
        ignore_index: pixels with this label do not count, whatever was predicted there.

    Returns:
        `(K,K)` int64: rows truth, columns prediction. Matrices of several images add up.

    Raises:
        ValueError: if the shapes differ, or a value is no class; the message names it.
    """
    prediction, label = _tensor(prediction), _tensor(label)
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction has the shape {tuple(prediction.shape)}, label {tuple(label.shape)}; "
            "they must be equal"
        )
    truth, guess = label.flatten(), prediction.flatten()
    pairs = _byte_pairs(truth, guess)
    if pairs is None:  # slower: what is ignored is left out first
        counted = truth != ignore_index
        truth, guess = truth[counted].long(), guess[counted].long()
        _check(truth.unique(), "label", num_classes, ignore_index)
        _check(guess.unique(), "prediction", num_classes, ignore_index)
        pairs = truth * num_classes + guess
        return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
    # One row and column for each of the 256 bytes: the ignored pixels have a row of their own, and
    # so has every value that is no class. Nothing is selected and nothing is looked at twice.
    table = torch.bincount(pairs, minlength=256 * 256).view(256, 256)
    if 0 <= ignore_index < 256:
        table[ignore_index] = 0
    _check(table.sum(1).nonzero()[:, 0], "label", num_classes, ignore_index)
    _check(table.sum(0).nonzero()[:, 0], "prediction", num_classes, ignore_index)
    if num_classes > 256:
        table = torch.nn.functional.pad(table, (0, num_classes - 256) * 2)
    return table[:num_classes, :num_classes].clone()


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; fractions between 0 and 1.

    Attributes:
        miou: mean of `iou` over the classes that occur.
        iou: `(K,)` float64, intersection over union per class; NaN for a class that is neither in
            the labels nor in the predictions.
        accuracy: share of the counted pixels that are right.
        mean_accuracy: mean over the classes in the labels of the share of each that was found.
    """

    miou: float
    iou: Tensor
    accuracy: float
    mean_accuracy: float

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """As plain values for JSON, IoU by class name; NaN, which JSON lacks, becomes None."""
        means = {name: getattr(self, name) for name in ("miou", "accuracy", "mean_accuracy")}
        if len(classes) != len(self.iou):
            raise ValueError(f"{len(classes)} names for the scores of {len(self.iou)} classes")
        iou = {name: _plain(value) for name, value in zip(classes, self.iou.tolist(), strict=True)}
        return {**{name: _plain(value) for name, value in means.items()}, "iou": iou}


def scores(counts: Pixels) -> Scores:
    """Read IoU and accuracy off a `(K,K)` confusion matrix (rows truth, columns prediction).

    IoU of a class = hits / (truth + predicted - hits), over the whole data set. A class that never
    occurs is NaN and left out of the mean.

    Raises:
        ValueError: if the matrix is not square.
    """
    counts = _tensor(counts).double()
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(
            f"counts have the shape {tuple(counts.shape)}; expected (classes, classes)"
        )
    hits, truth, guessed = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = hits / (truth + guessed - hits)  # 0 / 0 is NaN: the class never occurs
    recall = hits / truth
    return Scores(
        miou=iou.nanmean().item(),
        iou=iou,
        accuracy=(hits.sum() / truth.sum()).item(),
        mean_accuracy=recall.nanmean().item(),
    )


def score_table(counts: Mapping[str, Tensor], classes: Sequence[str]) -> str:
    """IoU per class and the means, a column for each confusion matrix, and what nan means."""
    found = {name: scores(matrix) for name, matrix in counts.items()}
    rows = [("IoU in %", [f"{name:>18}" for name in found])]
    for k, name in enumerate(classes):
        rows.append((name, [f"{100 * s.iou[k]:18.1f}" for s in found.values()]))
    for name in ("miou", "accuracy", "mean_accuracy"):
        rows.append((name, [f"{100 * getattr(s, name):18.1f}" for s in found.values()]))
    lines = [" ".join([name.ljust(15), *columns]) for name, columns in rows]
    absent = [k for k in range(len(classes)) if any(not m[k].sum() for m in counts.values())]
    if absent:
        why = "; do the labels count from 1? The first class is 0" if 0 in absent else ""
        names = few([classes[k] for k in absent], 20)
        lines.append(f"in no label: {names} (nan is left out of the means{why})")
    return "\n".join(lines)


def _tensor(values: Pixels) -> Tensor:
    """Also of a mirrored array, with negative strides, and of a foreign byte order."""
    if isinstance(values, np.ndarray):
        values = np.array(values, values.dtype.newbyteorder("="), order="C")
    return torch.as_tensor(values)


def _byte_pairs(truth: Tensor, guess: Tensor) -> Tensor | None:
    """256 * truth + guess, int32; None if one of the values does not lie between 0 and 255."""
    if truth.is_floating_point() or guess.is_floating_point() or not len(truth):
        return None
    if truth.device.type != "cpu":
        ends = [int(end) for values in (truth, guess) for end in values.aminmax()]
        in_range = min(ends) >= 0 and max(ends) <= 255
        return guess.int().add_(truth.int(), alpha=256) if in_range else None
    # numpy, since torch would wake all its threads to have one of them count; in pieces that stay
    # in the processor's cache, where the second look at them is free
    pairs = np.empty(len(truth), np.int32)
    for start in range(0, len(truth), PIECE):
        piece = slice(start, start + PIECE)
        t, g, out = truth[piece].numpy(), guess[piece].numpy(), pairs[piece]
        for values in (t, g):  # all their bits together say whether one leaves the range
            if values.dtype != np.uint8 and not 0 <= int(np.bitwise_or.reduce(values)) <= 255:
                return None
        np.left_shift(t, 8, out=out, dtype=np.int32, casting="unsafe")
        np.bitwise_or(out, g, out=out, dtype=np.int32, casting="unsafe")
    return torch.from_numpy(pairs)


def _check(values: Tensor, what: str, classes: int, ignore_index: int) -> None:
    wrong = values[(values < 0) | (values >= classes)].tolist()
    if wrong:
        raise ValueError(
            f"the {what} holds {wrong}; {classes} classes are 0 to {classes - 1}, and "
            f"{ignore_index} in a label is ignored"
        )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
