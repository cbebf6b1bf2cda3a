"""From a data set to its scores: confusion matrix, IoU, and two guesses that do not look."""

# H W image rows and columns, K classes

import math
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from .data.files import PairDataset
from .data.protocols import default_protocol
from .geometry import IGNORE, Size
from .images import Pixels, TestProtocol, resize_label
from .inference import casting, class_map, evaluating

PIECE = 1 << 16  # pixels


def evaluate(
    model: nn.Module,
    dataset: PairDataset,
    *,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    protocol: TestProtocol | None = None,
    precision: str = "fp32",
    batch: int | None = None,
    progress: bool = True,
    each: Callable[[int, np.ndarray], None] | None = None,
) -> "Scores":
    """Score `model` on a whole data set, at the labels' own resolution.

    Threads read the next images while the network works. In several processes (`torch.distributed`
    is initialised) each takes its share, all get the scores of all, and all have to call this.

    Args:
        scales, flip, protocol, precision, batch: as in `predict`.
        progress: whether to show a bar, in the first process.
        each: is called with the number and the `(H,W)` uint8 prediction of every image, in the
            process that read it.

    Returns:
        The scores and their `.counts`. Pairs that cannot be read or hold labels that are no class
        are not in them: the standard error and `.left_out` name them.

    Raises:
        ValueError: if the data set is empty.
        FloatingPointError: if the network's logits are not finite.
    """
    if not len(dataset):
        raise ValueError(f"the data set {dataset.name} has no images; nothing can be scored")
    together = dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    network = model.module if isinstance(model, DistributedDataParallel) else model
    plan = protocol or default_protocol(network, dataset.name)
    views, numbers = plan.views(scales, flip), range(rank, len(dataset), processes)

    def read(number: int) -> tuple[Any, Size, np.ndarray]:
        image, label = dataset[number]
        return plan.read(image, views), image.shape[:2], label

    with (
        evaluating(network),
        casting(network, precision),
        closing(read_ahead(read, numbers, dataset.readers)) as pairs,
        tqdm(numbers, "evaluate", disable=not progress or rank > 0, leave=False) as bar,
    ):
        found = _count(network, dataset, zip(bar, pairs, strict=True), plan, batch, each)
    return scores(*(_share(*found) if together else found))


def read_ahead(
    read: Callable[[int], Any], numbers: Sequence[int], threads: int
) -> Generator[Future[Any], None, None]:
    """What `read` makes of each number, in their order, while threads make as many of the next."""
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for number in numbers:
            waiting.append(pool.submit(read, number))
            if len(waiting) > threads:
                yield waiting.popleft()
        yield from waiting


def _count(
    network: nn.Module,
    dataset: PairDataset,
    pairs: Iterable[tuple[int, Future[Any]]],
    protocol: TestProtocol,
    batch: int | None,
    each: Callable[[int, np.ndarray], None] | None,
) -> tuple[Tensor, dict[str, str]]:
    """The confusion matrix of all pairs that can be read, and why the others cannot."""
    counts = torch.zeros(2 * [len(dataset.classes)], dtype=torch.int64)
    left_out: dict[str, str] = {}
    for number, pair in pairs:
        file = dataset.file(number)
        try:
            views, size, label = pair.result()
        except (ValueError, OSError) as error:
            left_out[file] = str(error)
        else:
            prediction = class_map(network, views, size, protocol, batch)
            try:
                counts += confusion_matrix(prediction, label, len(counts), dataset.ignore_index)
            except ValueError as error:
                left_out[file] = f"{file}: {error}"
        if file in left_out:
            tqdm.write(f"left out: {left_out[file]}", file=sys.stderr)
        elif each:
            each(number, prediction)
    return counts, left_out


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
        counts: the `(K,K)` confusion matrix that all of this was read off.
        left_out: of an evaluation, what is wrong with each pair that is not counted, by its file.
    """

    miou: float
    iou: Tensor
    accuracy: float
    mean_accuracy: float
    counts: Tensor
    left_out: dict[str, str] = field(default_factory=dict)

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """As plain values for JSON, IoU by class name; NaN, which JSON lacks, becomes None."""
        means = {name: getattr(self, name) for name in ("miou", "accuracy", "mean_accuracy")}
        if len(classes) != len(self.iou):
            raise ValueError(f"{len(classes)} names for the scores of {len(self.iou)} classes")
        iou = dict(zip(classes, self.iou.tolist(), strict=True))
        means, iou = ({k: None if math.isnan(v) else v for k, v in d.items()} for d in (means, iou))
        return {**means, "iou": iou}


def scores(counts: Pixels, left_out: dict[str, str] | None = None) -> Scores:
    """Read IoU and accuracy off a `(K,K)` confusion matrix (rows truth, columns prediction).

    IoU of a class = hits / (truth + predicted - hits), over the whole data set. A class that never
    occurs is NaN and left out of the mean.

    Raises:
        ValueError: if the matrix is not square.
    """
    counts = _tensor(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"counts have the shape {tuple(counts.shape)}; expected (K, K)")
    exact = counts.double()
    hits, truth, guessed = exact.diagonal(), exact.sum(1), exact.sum(0)
    iou = hits / (truth + guessed - hits)  # 0 / 0 is NaN: the class never occurs
    return Scores(
        miou=iou.nanmean().item(), iou=iou, accuracy=(hits.sum() / truth.sum()).item(),
        mean_accuracy=(hits / truth).nanmean().item(), counts=counts, left_out=left_out or {},
    )  # fmt: skip


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


def label_counts(dataset: PairDataset, size: Size) -> Tensor:
    """How often each class is at each place: `(K,H,W)` int64, labels resized to `size`."""
    counts = torch.zeros(len(dataset.classes), *size, dtype=torch.int64)
    rows, cols = np.indices(size)
    for _, label in dataset:
        label = resize_label(label, size)
        seen = label != dataset.ignore_index
        counts[label[seen].astype(np.int64), rows[seen], cols[seen]] += 1
    return counts


def prior_scores(train: PairDataset, test: PairDataset) -> dict[str, Scores]:
    """Scores on `test` of the majority class and of the commonest class per position.

    Both are counted on `train`. The keys are `"majority class"` and `"position prior"`.

    Raises:
        ValueError: if no pixel of `train` has a class.
    """
    counts = label_counts(train, test[0][1].shape)
    if not counts.any():
        raise ValueError(f"every label of {train.name} {train.split} is ignored; nothing to guess")
    position = counts.argmax(0).numpy().astype(np.uint8)
    majority = np.full_like(position, counts.sum((1, 2)).argmax().item())
    found, classes = {}, len(test.classes)
    for name, guess in (("majority class", majority), ("position prior", position)):
        total = torch.zeros(classes, classes, dtype=torch.int64)
        for _, label in test:
            fitted = resize_label(guess, label.shape)
            total += confusion_matrix(fitted, label, classes, test.ignore_index)
        found[name] = scores(total)
    return found


# ---- what a mean over pixels does not show


def boundary_counts(
    prediction: np.ndarray, label: np.ndarray, num_classes: int, tolerance: float | None = None
) -> np.ndarray:
    """How well the outlines of one image agree: `(K,4)` counts, which add up over images.

    A pixel is on the outline of its class if one of its four neighbours has another one. Counted
    are those of the prediction that have an outline of the truth within `tolerance`, all of the
    prediction, those of the truth that have one of the prediction, all of the truth. Pixels whose
    label is 255, and their neighbours, have no true outline and are not counted.

    Args:
        prediction, label: `(H,W)` class numbers.
        tolerance: in pixels; None: 0.0075 of the diagonal, as Csurka et al. (BMVC 2013).
    """
    from scipy.ndimage import distance_transform_edt as distance

    if tolerance is None:
        tolerance = 0.0075 * math.hypot(*label.shape)
    known = ~_near(label == IGNORE)
    found = np.zeros((num_classes, 4), np.int64)
    for k in np.intersect1d(np.union1d(prediction, label), np.arange(num_classes)):
        guess, truth = (_outline(values == k) & known for values in (prediction, label))
        for column, (one, other) in enumerate(((guess, truth), (truth, guess))):
            near = distance(~other) <= tolerance if other.any() else other
            found[k, 2 * column : 2 * column + 2] = (one & near).sum(), one.sum()
    return found


def boundary_f(counts: np.ndarray) -> np.ndarray:
    """`(K,)` F-scores of outlines: the harmonic mean of precision and recall; NaN without any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = counts[:, 0] / counts[:, 1], counts[:, 2] / counts[:, 3]
        both = 2 * precision * recall / (precision + recall)
    one_sided = (counts[:, 1] > 0) | (counts[:, 3] > 0)
    return np.where(one_sided, np.nan_to_num(both), np.nan)


def grid_ceiling(label: np.ndarray, patch: int) -> np.ndarray:
    """The best `(H,W)` that has one class in each patch: its commonest one, 255 left out.

    What no decoder that decides per patch can pass. (A decoder that enlarges its logits
    bilinearly can, a little: its borders may cross a patch.)
    """
    rows, cols = (-(-side // patch) for side in label.shape)
    size = (rows * patch, cols * patch)
    padded = np.full(size, IGNORE, np.uint8)
    padded[: label.shape[0], : label.shape[1]] = label
    patches = (
        padded.reshape(rows, patch, cols, patch).transpose(0, 2, 1, 3).reshape(rows * cols, -1)
    )
    counts = np.stack([(patches == k).sum(1) for k in range(IGNORE)], 1)
    best = counts.argmax(1).astype(np.uint8).reshape(rows, cols)
    return best.repeat(patch, 0).repeat(patch, 1)[: label.shape[0], : label.shape[1]]


def recall_by_size(prediction: np.ndarray, label: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Pixels of objects by the objects' size: `(len(edges)+1, 2)`, found and all.

    An object is a connected region of one class in the label (four neighbours).

    Args:
        edges: ascending areas in pixels; the first row holds objects smaller than the first edge.
    """
    from scipy.ndimage import label as regions

    found = np.zeros((len(edges) + 1, 2), np.int64)
    for k in np.setdiff1d(label, [IGNORE]):
        numbers, count = regions(label == k)
        area = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
        hits = np.bincount(numbers.ravel(), (prediction == k).ravel(), count + 1)[1:]
        bins = np.searchsorted(edges, area, side="right")
        np.add.at(found, bins, np.stack([hits.astype(np.int64), area], 1))
    return found


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels of a mask that have a neighbour outside of it; the image's border is none."""
    return inside & _near(~inside)


def _near(mask: np.ndarray) -> np.ndarray:
    """The mask and its four neighbours."""
    found = mask.copy()
    found[1:] |= mask[:-1]
    found[:-1] |= mask[1:]
    found[:, 1:] |= mask[:, :-1]
    found[:, :-1] |= mask[:, 1:]
    return found
