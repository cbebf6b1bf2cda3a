"""The loss against a loop over pixels."""

import math

import numpy as np
import pytest
import torch
from conftest import random_labels

from setr_lib import segmentation_loss


@pytest.mark.parametrize("average", ["all", "valid"])
def test_loss_equals_a_loop_over_pixels(average):
    """-log softmax at the true class; ignored pixels count in the denominator of "all" only."""
    labels = torch.from_numpy(random_labels(np.random.default_rng(0), (2, 5, 7), 4, 0.3))
    logits = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    total, valid = 0.0, 0
    for b, y, x in np.ndindex(2, 5, 7):
        if labels[b, y, x] != 255:
            row = logits[b, :, y, x].tolist()
            total += math.log(sum(map(math.exp, row))) - row[labels[b, y, x]]
            valid += 1
    assert valid < labels.numel()
    wanted = total / (labels.numel() if average == "all" else valid)
    assert segmentation_loss(logits, labels, average).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("average", ["all", "valid"])
def test_nothing_to_learn_from_is_zero_not_nan(average):
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 3, 3), 255), average)
    loss.backward()
    assert loss == 0 and logits.grad.abs().max() == 0


@pytest.mark.parametrize("value", [4, -1, 200])
def test_a_label_outside_the_classes_is_named(value):
    labels = torch.zeros(1, 3, 3, dtype=torch.int64)
    labels[0, 1, 1] = value
    with pytest.raises(ValueError, match=rf"\[{value}\].*0 to 3, and 255"):
        segmentation_loss(torch.zeros(1, 4, 3, 3), labels)


def test_another_average_is_named():
    with pytest.raises(ValueError, match="'mean'; choose 'all' or 'valid'"):
        segmentation_loss(torch.zeros(1, 4, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64), "mean")
