"""The lean loss beside the ordinary one, forward and backward, on scores of 150 classes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from setr_lib import upsample_cross_entropy

from .common import added_memory, compare

PEER = "torch"
CLASSES, PIXELS = 150, 512


def rows(rounds: int, only: str) -> Iterator[dict[str, Any]]:
    """One row per size of the scores: those of Naive, MLA and PUP."""
    labels = torch.randint(0, CLASSES, (1, PIXELS, PIXELS))
    for side in (32, 128, 256):
        case = f"{side}x{side} to {PIXELS}x{PIXELS}"
        if only not in case:
            continue
        logits = torch.randn(1, CLASSES, side, side, requires_grad=True)

        def run(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor = logits) -> None:
            torch.autograd.grad(loss(logits, labels), logits)

        ours, theirs = (lambda run=run, f=f: run(f) for f in (upsample_cross_entropy, ordinary))
        memory = {"ours": added_memory(ours), "theirs": added_memory(theirs)}
        yield {"case": case, **compare(ours, theirs, rounds), "memory": memory}


def ordinary(logits: Tensor, labels: Tensor) -> Tensor:
    """Enlarge, then compare with the labels."""
    full = F.interpolate(logits, size=labels.shape[1:], mode="bilinear")
    return F.cross_entropy(full, labels, ignore_index=255)
