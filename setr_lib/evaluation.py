"""A network and a data set: the counts that the scores are read off."""

# K classes

import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from .datasets import PairDataset
from .geometry import Size
from .metric import confusion_matrix
from .prediction import class_map, evaluating
from .protocol import Protocol, make_protocol


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
    protocol: Protocol | None = None,
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
