"""The training loss: cross-entropy over the pixels that count."""

import torch.nn.functional as F
from torch import Tensor

IGNORE = 255  # the label of a pixel that is not scored


def segmentation_loss(logits: Tensor, labels: Tensor, average: str = "all") -> Tensor:
    """Cross-entropy of `(B,K,H,W)` logits with `(B,H,W)` labels; 255 does not count.

    Args:
        average: `"all"` divides by the number of pixels, ignored ones included: the authors' and
            mmsegmentation's default. `"valid"` divides by the pixels that count. With few labelled
            pixels the first gives smaller gradients.

    Raises:
        ValueError: if `average` is another word, or a label is neither a class nor 255.
    """
    classes = logits.shape[1]
    wrong = (labels != IGNORE) & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ValueError(
            f"the labels hold {labels[wrong].unique().tolist()}; the model has the classes "
            f"0 to {classes - 1}, and {IGNORE} for pixels that do not count"
        )
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    if average == "all":
        return total / labels.numel()
    if average == "valid":
        return total / (labels != IGNORE).sum().clamp(min=1)
    raise ValueError(f"average is {average!r}; choose 'all' or 'valid'")
