"""Outlines, ceilings and objects by size, against loops over pixels."""

import itertools
import math

import numpy as np
import pytest
from conftest import random_labels

from setr_lib.evaluation import boundary_counts, boundary_f, grid_ceiling, recall_by_size

BLOCKS = np.kron(np.arange(12).reshape(3, 4) % 5, np.ones((7, 6), int)).astype(np.uint8)


def outline(values, label, k):
    """Pixels of class k that touch another class, not beside an unknown label, by a loop."""
    rows, cols = values.shape
    found = []
    for y, x in itertools.product(range(rows), range(cols)):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        around = [(r, c) for r, c in around if 0 <= r < rows and 0 <= c < cols]
        known = all(label[place] != 255 for place in [(y, x), *around])
        if known and values[y, x] == k and any(values[place] != k for place in around):
            found.append((y, x))
    return found


@pytest.mark.parametrize("tolerance", [0, 1, 2.3])
def test_outlines_are_counted_as_by_a_loop_over_all_pairs(tolerance):
    rng = np.random.default_rng(4)
    label, guess = BLOCKS.copy(), np.roll(BLOCKS, (1, 2), (0, 1))
    label[rng.random(label.shape) < 0.02] = 255
    counts = boundary_counts(guess, label, 6, tolerance)
    for k in range(6):
        ours, theirs = outline(guess, label, k), outline(label, label, k)

        def close(one, other):
            return sum(any(math.dist(a, b) <= tolerance for b in other) for a in one)

        wanted = [close(ours, theirs), len(ours), close(theirs, ours), len(theirs)]
        assert counts[k].tolist() == wanted
    f = boundary_f(counts)
    p, r = counts[0, 0] / counts[0, 1], counts[0, 2] / counts[0, 3]
    assert f[0] == pytest.approx(2 * p * r / (p + r)) and np.isnan(f[5])


def test_outlines_of_the_truth_itself_are_perfect_and_of_a_class_never_guessed_worth_nothing():
    assert boundary_f(boundary_counts(BLOCKS, BLOCKS, 5)).tolist() == [1.0] * 5
    nothing = np.full_like(BLOCKS, 1)
    f = boundary_f(boundary_counts(nothing, BLOCKS, 6))
    assert f[0] == 0 and f[1] == 0 and np.isnan(f[5])


def test_the_tolerance_is_a_share_of_the_diagonal():
    label = np.zeros((300, 400), np.uint8)
    label[:, 200:] = 1
    label = label[:, 50:350]  # 300 x 300: 3.18 pixels
    moved = [boundary_counts(np.roll(label, shift, 1)[:, 9:], label[:, 9:], 2) for shift in (3, 4)]
    assert boundary_f(moved[0]).tolist() == [1.0, 1.0]
    assert boundary_f(moved[1]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("patch", [3, 4])
def test_the_ceiling_is_the_commonest_class_of_each_patch(patch):
    label = random_labels(np.random.default_rng(1), (10, 13), 4).astype(np.uint8)
    best = grid_ceiling(label, patch)
    for y, x in itertools.product(range(0, 10, patch), range(0, 13, patch)):
        part = label[y : y + patch, x : x + patch]
        values, counts = np.unique(part[part != 255], return_counts=True)
        if not len(values):
            continue
        chosen = np.unique(best[y : y + patch, x : x + patch])
        assert len(chosen) == 1 and counts[values == chosen[0]] == counts.max()
    assert (grid_ceiling(label, 1) == label)[label != 255].all()


def test_objects_are_found_by_their_size():
    """A dot, a bar of 6 and a field of 20, of which half, 4 and all are found; 255 is no object."""
    label = np.full((8, 10), 255, np.uint8)
    label[0, 0], label[0, 2] = 1, 1  # two objects of one class
    label[2, :6] = 1
    label[4:8, 5:] = 0
    guess = label.copy()
    guess[0, 0], guess[2, :2] = 0, 0
    assert recall_by_size(guess, label, [2, 10]).tolist() == [[1, 2], [4, 6], [20, 20]]
    assert recall_by_size(guess, label, [1, 6, 20]).tolist() == [[0, 0], [1, 2], [4, 6], [20, 20]]
