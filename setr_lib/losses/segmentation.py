"""Losses of logits at the image's own size, over the pixels that count, and their weights."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import IGNORE, size_of

AUX_WEIGHT = 0.4  # of each auxiliary loss; the authors' configurations
KINDS = ("cross_entropy", "dice", "focal")


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    average: str = "all",
    check: bool = True,
    kind: str = "cross_entropy",
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """A loss of `(B,K,H,W)` logits with `(B,H,W)` labels; 255 does not count.

    Args:
        average: `"all"` divides by the number of pixels, ignored ones included: the authors' and
            mmsegmentation's default. `"valid"` divides by the pixels that count, or by the sum of
            their weights. With few labelled pixels the first gives smaller gradients. Dice has no
            such average.
        check: whether the labels are looked through first; False where that was done.
        kind: `"cross_entropy"`, `"dice"` or `"focal"`.
        weight: `(K,)`, of each class; see `class_weights`.
        label_smoothing: of the cross-entropy alone, as in `F.cross_entropy`.

    Raises:
        ValueError: if `average` or `kind` is another word, or a label is neither a class nor 255.
    """
    if average not in ("all", "valid"):
        raise ValueError(f"average is {average!r}; choose 'all' or 'valid'")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if label_smoothing and kind != "cross_entropy":
        raise ValueError(f"label_smoothing is {label_smoothing}; {kind} has none: leave it at 0")
    if check:
        check_classes(labels, logits.shape[1])
    if kind == "dice":
        return dice_loss(logits, labels, weight)
    if kind == "focal":
        total = focal_loss(logits, labels, weight)
    else:
        total = F.cross_entropy(
            logits, labels, weight, ignore_index=IGNORE, reduction="sum",
            label_smoothing=label_smoothing,
        )  # fmt: skip
    if average == "all":
        return total / labels.numel()
    counts = labels != IGNORE
    if weight is None:
        return total / counts.sum().clamp(min=1)
    divisor = (weight[labels.where(counts, 0)] * counts).sum()
    return total / divisor.where(divisor > 0, 1)


def dice_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """One minus the soft Dice score of the batch, averaged over the classes that occur in it.

    For a class 2 |P and T| / (|P| + |T|), where P are probabilities, T is the truth and sums run
    over all pixels that count. A class of three pixels weighs as much as one of a million.
    """
    counts = (labels != IGNORE).unsqueeze(1)
    shares = logits.softmax(1) * counts
    truth = torch.zeros_like(shares).scatter_(1, labels.where(counts[:, 0], 0)[:, None], 1) * counts
    both, sizes = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
    occurs = (truth.sum((0, 2, 3)) > 0).to(logits.dtype)
    occurs = occurs if weight is None else occurs * weight
    score = 2 * both / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)
    divisor = occurs.sum()
    return ((1 - score) * occurs).sum() / divisor.where(divisor > 0, 1)


def focal_loss(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, power: float = 2.0
) -> Tensor:
    """The sum over pixels of `(1-p)**power` times the cross-entropy, p being the truth's share.

    Pixels that the network is sure of count less; power 0 is the cross-entropy.
    """
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")  # 0 at 255
    loss = (1 - torch.exp(-loss)) ** power * loss
    if weight is not None:
        loss = loss * weight[labels.where(labels != IGNORE, 0)]
    return loss.sum()


def class_weights(labels: Iterable[Any], classes: int) -> Tensor:
    """`(K,)` weights from label maps: `1 / ln(1.02 + f)`, f the class's share of the pixels.

    From 1.4 for a class that is everywhere to 50 for one that never occurs (ENet, section 5.2).

    Args:
        labels: arrays or tensors of whole numbers; 255 does not count.

    Raises:
        ValueError: if a label is neither a class nor 255, or no pixel counts.
    """
    counts = torch.zeros(classes, dtype=torch.float64)
    for one in labels:
        one = torch.as_tensor(one).long()
        check_classes(one, classes)
        counts += torch.bincount(one[one != IGNORE].flatten(), minlength=classes)
    if not counts.any():
        raise ValueError("no pixel of the labels counts; class weights need some that do")
    return (1 / torch.log(1.02 + counts / counts.sum())).float()


def check_classes(labels: Tensor, classes: int) -> None:
    """Every label is a class or 255, else an error that names the values.

    A graph that is being traced has no place for errors of values: there nothing is looked at, and
    what the loss itself does with such a label holds.
    """
    if torch.compiler.is_compiling():
        return
    wrong = (labels != IGNORE) & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ValueError(
            f"the labels hold {labels[wrong].unique().tolist()}; the model has the classes "
            f"0 to {classes - 1}, and {IGNORE} for pixels that do not count"
        )


def check_labels(labels: Tensor, images: Tensor, classes: int | None) -> None:
    """A label for each pixel of the images; with `classes` also what `check_classes` looks at."""
    wanted = (len(images), *size_of(images))
    if tuple(labels.shape) != wanted:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}; images of the shape "
            f"{tuple(images.shape)} need {wanted}"
        )
    if classes is not None:
        check_classes(labels, classes)
