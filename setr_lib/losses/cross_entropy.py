"""The training loss: cross-entropy over the pixels that count, summed over the heads."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import IGNORE
from .strips import upsample_cross_entropy

AUX_WEIGHT = 0.4  # of each auxiliary loss; the authors' configurations


def heads_loss(
    model: Any,
    images: Tensor,
    labels: Tensor,
    average: str = "all",
    way: str = "lean",
    check: bool = True,
) -> Tensor:
    """Main loss plus 0.4 times the sum of the auxiliary losses of a model's heads: a scalar.

    Args:
        way: `"lean"` or `"plain"`: the same loss with and without the scores at the image's size.
        check: whether the labels are looked through first; False where that was done.

    Raises:
        ValueError: if the sizes of images and labels differ, a label is no class, or `way` or
            `average` is another word.
    """
    size = (images.shape[-2], images.shape[-1])
    if tuple(labels.shape) != (len(images), *size):
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}; images of the shape "
            f"{tuple(images.shape)} need {(len(images), *size)}"
        )
    if check:
        check_classes(labels, model.config.num_classes)
    if way == "lean":
        losses = [
            upsample_cross_entropy(scores, labels, average=average, sizes=sizes)
            for scores, sizes in model.small_logits(images)
        ]
    elif way == "plain":
        heads = model.head_logits(images)
        with torch.autocast(images.device.type, enabled=False):
            losses = [  # in float32, whatever the heads ran in
                segmentation_loss(model.to_image(full(scores), size), labels, average, check=False)
                for scores in (heads["main"], *heads["aux"])
            ]
    else:
        raise ValueError(f"way is {way!r}; choose 'lean' or 'plain'")
    main, *aux = losses
    return main + AUX_WEIGHT * sum(aux)


def full(scores: Tensor) -> Tensor:
    """Scores of 16 bits in 32, others as they are."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def segmentation_loss(
    logits: Tensor, labels: Tensor, average: str = "all", check: bool = True
) -> Tensor:
    """Cross-entropy of `(B,K,H,W)` logits with `(B,H,W)` labels; 255 does not count.

    Args:
        average: `"all"` divides by the number of pixels, ignored ones included: the authors' and
            mmsegmentation's default. `"valid"` divides by the pixels that count. With few labelled
            pixels the first gives smaller gradients.
        check: whether the labels are looked through first; False where that was done.

    Raises:
        ValueError: if `average` is another word, or a label is neither a class nor 255.
    """
    if check:
        check_classes(labels, logits.shape[1])
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    if average == "all":
        return total / labels.numel()
    if average == "valid":
        return total / (labels != IGNORE).sum().clamp(min=1)
    raise ValueError(f"average is {average!r}; choose 'all' or 'valid'")


def check_classes(labels: Tensor, classes: int) -> None:
    """Every label is a class or 255, else an error that names the values."""
    wrong = (labels != IGNORE) & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ValueError(
            f"the labels hold {labels[wrong].unique().tolist()}; the model has the classes "
            f"0 to {classes - 1}, and {IGNORE} for pixels that do not count"
        )
