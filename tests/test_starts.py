"""Starts that everybody can repeat: each teaches the encoder, and the encoder alone."""

import numpy as np
import pytest
import torch

from setr_lib.data.procedural import LEAF_CLASSES, ROAD, SKY, leaves, street
from setr_lib.training.devices import RunOptions
from setr_lib.training.loop import Run, train
from setr_lib.training.recipe import STARTS, replace
from setr_lib.training.starts import KINDS, begin, dyck

CPU = torch.device("cpu")


@pytest.mark.parametrize("start", STARTS[1:])
def test_a_start_teaches_the_encoder_alone_and_is_the_same_again(start, small_recipe, tmp_path):
    recipe = replace(small_recipe, start=start, start_steps=60, lr=3e-3, batch=4)
    found = []
    for _ in range(2):
        run = Run(recipe, tmp_path, None, RunOptions(device="cpu"), show=False)
        before = {name: t.clone() for name, t in run.model.state_dict().items()}
        chance = torch.get_rng_state()
        facts = begin(run)
        assert torch.equal(torch.get_rng_state(), chance)  # the run goes on with its own numbers
        moved = {n for n, t in run.model.state_dict().items() if not torch.equal(t, before[n])}
        assert "encoder.blocks.0.attn.qkv.weight" in moved
        assert all(name.startswith("encoder.") for name in moved)
        assert ("encoder.patch_embed.proj.weight" in moved) == (start != "dyck")
        found.append((facts["loss"], run.model.encoder.blocks[3].mlp.fc2.weight.clone()))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    assert facts["kind"] == start and facts["steps"] == 60 and facts["pictures"] == 240
    assert facts["loss"][1] < facts["loss"][0]


@pytest.mark.parametrize("start", STARTS[1:])
def test_a_start_runs_in_the_precision_of_the_suites(start, small_recipe, tmp_path):
    recipe = replace(small_recipe, start=start, start_steps=2)
    run = Run(recipe, tmp_path, None, RunOptions(device="cpu", precision="bf16"), show=False)
    assert begin(run)["loss"][1] > 0


def test_the_record_says_what_a_start_cost_and_a_resumed_run_keeps_it(small_recipe, tmp_path):
    recipe = replace(small_recipe, start="leaves", start_steps=2)
    train(recipe, tmp_path, steps=6, progress=False)
    record = train(recipe, tmp_path, resume=True, progress=False)
    start = record["sessions"][0]["start"]
    assert (
        start["seconds"] > 0 and start["kind"] == "leaves" and "start" not in record["sessions"][1]
    )


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"start": "stars"}, "start is 'stars'; choose 'random' or"),
        ({"start": "leaves"}, "start is 'leaves' with start_steps=0"),
        ({"start_steps": 5}, "start is 'random' with start_steps=5"),
        ({"start": "dyck", "start_steps": 5, "pretrained": "x"}, "our own encoder, not pretrained"),
        ({"ema": 1.0}, "ema is 1.0; it must be a number"),
    ],
)
def test_starts_that_cannot_be_are_named(facts, words, small_recipe):
    with pytest.raises(ValueError, match=words):
        replace(small_recipe, **facts)


def test_brackets_open_and_close():
    """Against a stack for each sequence."""
    found = dyck(20, 64)
    for sequence in found.tolist():
        stack = []
        for symbol in sequence:
            if symbol < KINDS:
                stack.append(symbol)
            else:
                assert stack.pop() == symbol - KINDS
        assert not stack
    assert len(np.unique(found)) == 2 * KINDS


@pytest.mark.parametrize("make, classes", [(leaves, LEAF_CLASSES), (street, 11)])
def test_made_pictures_have_all_their_classes_and_a_fixed_range(make, classes):
    torch.manual_seed(2)
    images, labels = make(12, (90, 120), CPU)
    assert images.shape == (12, 3, 90, 120) and labels.shape == (12, 90, 120)
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(classes))
    assert images.isfinite().all() and -2.2 < images.min() < images.max() < 2.7
    torch.manual_seed(2)
    assert torch.equal(make(12, (90, 120), CPU)[0], images)


def test_a_street_has_its_sky_above_and_its_road_below():
    torch.manual_seed(0)
    _, labels = street(16, (90, 120), CPU)
    rows = torch.arange(90.0)[:, None].expand(90, 120)
    middles = [rows.expand(16, 90, 120)[labels == kind].mean() for kind in (SKY, ROAD)]
    assert middles[0] < 30 < 60 < middles[1]


def test_what_is_painted_later_hides_what_was_there():
    """A label's pixel has the colour of what was painted there last: no leaf shines through."""
    torch.manual_seed(1)
    images, labels = leaves(1, (64, 64), CPU)
    flat = 1 + 4 * torch.arange(6)  # leaves without a texture
    for kind in flat.tolist():
        if (labels == kind).sum() > 50:
            assert images[0][:, labels[0] == kind].std(1).max() < 1.5
