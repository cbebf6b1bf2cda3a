"""Two guesses that never look at the picture. A network has to beat both to have learnt to see."""

import numpy as np
import torch
from torch import Tensor

from .datasets import PairDataset
from .geometry import Size
from .metric import confusion_matrix
from .transforms import resize_label


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
