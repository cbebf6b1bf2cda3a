"""From a data set to its scores: confusion matrix, IoU, and two guesses that do not look."""

# H W image rows and columns, K classes

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from .data.files import PairDataset
from .data.protocols import TestProtocol, make_protocol
from .files import few
from .geometry import IGNORE, Size
from .images import Pixels, resize_label
from .inference import class_map, evaluating

PIECE = 1 << 16  # pixels


class IncompleteEvaluation(ValueError):
    """Some pairs could not be read; all others were counted.

    Attributes:
        counts: `(K,K)` int64, of the pairs that could be read.
        left_out: what is wrong with each of the others, by file.
    """

    def __init__(self, counts: Tensor, left_out: dict[str, str], pairs: int) -> None:
        self.counts, self.left_out = counts, left_out
        first = next(iter(left_out.values()))
        more = f" ({len(left_out) - 1} more)" if len(left_out) > 1 else ""
        super().__init__(f"{len(left_out)} of {pairs} pairs are not counted: {first}{more}")


def evaluate(
    model: nn.Module,
    dataset: PairDataset,
    base: tuple[int, int] | None = None,
    window: int | Size | None = None,
    stride: int | Size | None = None,
    progress: bool = True,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    protocol: TestProtocol | None = None,
    each: Callable[[int, np.ndarray], None] | None = None,
) -> Tensor:
    """The confusion matrix of `model` on a whole data set, at the labels' own resolution.

    In several processes (`torch.distributed` is initialised) each image is read by one of them,
    and all get the counts of all images; every process has to call this.

    Args:
        base, window, stride, scales, flip, protocol: as in `predict`.
        progress: whether to show a bar, in the first process.
        each: is called with the number and the `(H,W)` uint8 prediction of every image, in the
            process that read it.

    Returns:
        `(K,K)` int64, see `confusion_matrix`; `scores` turns it into mIoU.

    Raises:
        IncompleteEvaluation: at the end, if pairs could not be read or hold labels that are no
            class; it carries the counts of all others.
        ValueError: if the data set is empty.
        FloatingPointError: if the network's scores are not finite.
    """
    plan = make_protocol(protocol, scales, flip, base, window, stride)
    if not len(dataset):
        raise ValueError(f"the data set {dataset.name} has no images; nothing can be scored")
    together = dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    network = model.module if isinstance(model, DistributedDataParallel) else model
    classes = len(dataset.classes)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    left_out: dict[str, str] = {}
    numbers = range(rank, len(dataset), processes)
    with evaluating(network), tqdm(
        numbers, desc="evaluate", disable=not progress or rank > 0, leave=False
    ) as bar:  # fmt: skip
        for number in bar:
            try:
                image, label = dataset[number]
            except (ValueError, OSError) as error:
                left_out[dataset.file(number)] = str(error)
                bar.write(f"left out: {error}", file=sys.stderr)
                continue
            prediction = class_map(network, image, plan)
            try:
                counts += confusion_matrix(prediction, label, classes, dataset.ignore_index)
            except ValueError as error:
                left_out[dataset.file(number)] = f"{dataset.file(number)}: {error}"
                continue
            if each:
                each(number, prediction)
    if together:
        counts, left_out = _share(counts, left_out)
    if left_out:
        raise IncompleteEvaluation(counts, left_out, len(dataset))
    return counts


def check_classes(classes: Sequence[str] | None, count: int, dataset: PairDataset) -> None:
    """A network's classes are those of the data set, else an error that names both.

    Args:
        classes: their names, as far as its file knows them.
        count: how many the network has.
    """
    if count != len(dataset.classes):
        raise ValueError(
            f"the checkpoint has {count} classes, {dataset.name} has {len(dataset.classes)}: "
            "evaluate it on data with its own classes"
        )
    if classes and len(classes) != count:
        raise ValueError(f"the checkpoint has {count} classes and {len(classes)} names for them")
    for k, (mine, other) in enumerate(zip(classes or dataset.classes, dataset.classes)):
        if mine != other:
            raise ValueError(
                f"class {k} of the checkpoint is {mine!r}, that of {dataset.name} {other!r}: "
                "evaluate it on data with its own classes"
            )


def _share(counts: Tensor, left_out: dict[str, str]) -> tuple[Tensor, dict[str, str]]:
    """The sum of all processes' counts, and what any of them left out."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    summed = counts.to(device)
    dist.all_reduce(summed)
    found: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, left_out)
    return summed.cpu(), {file: why for part in found for file, why in part.items()}


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


def label_counts(dataset: PairDataset, size: Size) -> Tensor:
    """How often each class is at each place: `(K,H,W)` int64, labels resized to `size`."""
    counts = torch.zeros(len(dataset.classes), *size, dtype=torch.int64)
    rows, cols = np.indices(size)
    for _, label in dataset:
        label = resize_label(label, size)
        seen = label != dataset.ignore_index
        counts[label[seen].astype(np.int64), rows[seen], cols[seen]] += 1
    return counts


def prior_scores(train: PairDataset, test: PairDataset) -> dict[str, Tensor]:
    """Confusion matrices on `test` of the majority class and of the commonest class per position.

    Both are counted on `train`. The keys are `"majority class"` and `"position prior"`.

    Raises:
        ValueError: if no pixel of `train` has a class.
    """
    counts = label_counts(train, test[0][1].shape)
    if not counts.any():
        raise ValueError(f"every label of {train.name} {train.split} is ignored; nothing to guess")
    position = counts.argmax(0).numpy().astype(np.uint8)
    majority = np.full_like(position, counts.sum((1, 2)).argmax().item())
    classes = len(test.classes)
    found = {}
    for name, guess in (("majority class", majority), ("position prior", position)):
        total = torch.zeros(classes, classes, dtype=torch.int64)
        for _, label in test:
            fitted = resize_label(guess, label.shape)
            total += confusion_matrix(fitted, label, classes, test.ignore_index)
        found[name] = total
    return found
