"""The loss against a loop over pixels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_labels, small_config

from setr_lib import SETR, class_weights, segmentation_loss
from setr_lib.losses.segmentation import KINDS


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


def labelled(classes=4, ignored=0.3):
    labels = torch.from_numpy(random_labels(np.random.default_rng(0), (2, 5, 7), classes, ignored))
    return torch.randn(2, classes, 5, 7, dtype=torch.float64), labels


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.5, 3.0, 0.0]).double()])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_valid_average_with_weights_is_torchs_mean(weight, smoothing):
    logits, labels = labelled()
    wanted = F.cross_entropy(logits, labels, weight, ignore_index=255, label_smoothing=smoothing)
    found = segmentation_loss(logits, labels, "valid", weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.5, 3.0, 2.0]).double()])
def test_dice_and_focal_equal_loops(weight):
    """Written down pixel by pixel and class by class."""
    logits, labels = labelled()
    labels[labels == 3] = 255  # a class that does not occur is left out
    shares, scores, weights = logits.softmax(1), [], []
    for k in range(3):
        true = sum(shares[b, k, y, x] for b, y, x in np.argwhere(labels == k).T.tolist())
        seen = sum(shares[b, k, y, x] for b, y, x in np.argwhere(labels != 255).T.tolist())
        scores.append(1 - 2 * true / (seen + (labels == k).sum()))
        weights.append(1.0 if weight is None else weight[k])
    wanted = sum(s * w for s, w in zip(scores, weights)) / sum(weights)
    found = segmentation_loss(logits, labels, kind="dice", weight=weight)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    total = 0.0
    for b, y, x in np.argwhere(labels != 255).T.tolist():
        k = labels[b, y, x]
        share = shares[b, k, y, x]
        total -= (1 - share) ** 2 * share.log() * (1.0 if weight is None else weight[k])
    found = segmentation_loss(logits, labels, kind="focal", weight=weight)
    torch.testing.assert_close(found, total / labels.numel(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_counts_is_zero_for_every_kind(kind, average, weighted):
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    weight, labels = torch.ones(4) if weighted else None, torch.full((1, 3, 3), 255)
    loss = segmentation_loss(logits, labels, average, kind=kind, weight=weight)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_learns_by_every_kind(kind):
    """Main and auxiliary heads get a gradient, with class weights."""
    model, weight = SETR(small_config("pup")), torch.rand(8) + 0.5
    images, labels = torch.randn(2, 3, 48, 64), torch.randint(0, 8, (2, 48, 64))
    model.loss(images, labels, kind=kind, weight=weight).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.head_parameters() if p.ndim > 1)


def test_lean_and_plain_agree_with_weights_and_smoothing():
    model, weight = SETR(small_config()).double().eval(), torch.rand(8).double()
    images, labels = torch.randn(2, 3, 48, 64).double(), torch.randint(0, 8, (2, 48, 64))
    found, wanted = (
        model.loss(images, labels, "valid", way, weight=weight, label_smoothing=0.1)
        for way in ("lean", "plain")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_class_weights_are_those_of_enet():
    """1/ln(1.02+f) of the shares of all maps together; 255 has no share."""
    maps = [np.array([[0, 0, 255]], np.uint8), torch.tensor([[1, 0]])]
    wanted = [1 / math.log(1.02 + 3 / 4), 1 / math.log(1.02 + 1 / 4), 1 / math.log(1.02)]
    assert class_weights(maps, 3).tolist() == pytest.approx(wanted, rel=1e-6)


def test_class_weights_name_what_they_cannot_use():
    with pytest.raises(ValueError, match=r"\[7\].*0 to 2"):
        class_weights([torch.tensor([7])], 3)
    for maps in ([], [torch.tensor([255])]):
        with pytest.raises(ValueError, match="no pixel"):
            class_weights(maps, 3)


def test_another_kind_is_named():
    facts = (torch.zeros(1, 4, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="'jaccard'; choose cross_entropy, dice or focal"):
        segmentation_loss(*facts, kind="jaccard")
    with pytest.raises(ValueError, match="label_smoothing is 0.1; dice"):
        segmentation_loss(*facts, kind="dice", label_smoothing=0.1)
