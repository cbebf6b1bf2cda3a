"""The loop: the right rates, the same run after any stop, and nothing lost."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from setr_lib import SETR, get_recipe, load_checkpoint, train
from setr_lib.datasets import Shapes
from setr_lib.execution import Execution
from setr_lib.rates import make_optimiser, rate_at
from setr_lib.recipes import Recipe, replace
from setr_lib.stream import TrainingStream
from setr_lib.training import Run


def run(recipe, out, workers=0, **options):
    execution = Execution(device="cpu", workers=workers)
    return train(recipe, out, progress=False, execution=execution, **options)


def weights(out, name="last"):
    return load_checkpoint(out / f"{name}.safetensors")[0].state_dict()


def test_a_run_folder_holds_what_it_should(tmp_path, small_recipe):
    record = run(small_recipe, tmp_path)
    assert json.loads((tmp_path / "record.json").read_text()) == record
    assert record["recipe_hash"] == small_recipe.hash() and record["finished"]
    assert Recipe.from_dict(record["recipe"]) == small_recipe
    assert {"commit", "seed", "hardware", "versions", "seconds", "started"} <= set(record)
    assert [e["step"] for e in record["evaluations"]] == [6, 12]
    assert np.sum(record["last"]["counts"]) == 3 * 128 * 128
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 12]
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"record.json", "log.jsonl", "best.safetensors", "last.safetensors", "state"}


def test_best_is_the_best_evaluation(tmp_path, small_recipe, monkeypatch):
    """With scores that fall after the first evaluation, best stays at the first."""
    from setr_lib import training as loop

    counts = iter([torch.eye(8).long() * 5, torch.ones(8, 8).long()])
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: next(counts))
    record = run(small_recipe, tmp_path)
    assert record["best"]["step"] == 6 and record["best"]["miou"] == 1
    assert load_checkpoint(tmp_path / "best.safetensors")[1]["step"] == 6
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["step"] == 12


@pytest.mark.parametrize("steps", [0, 13])
def test_steps_lie_in_the_schedule(tmp_path, small_recipe, steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; the schedule .* has 12"):
        run(small_recipe, tmp_path, steps=steps)
    assert not any(tmp_path.iterdir())


def test_rates_follow_the_closed_form(small_recipe):
    """SGD of the paper, 40 steps: (base - 1e-4) (1 - t/40)^0.9 + 1e-4, ten times base for heads."""
    recipe = dataclasses.replace(
        small_recipe,
        optimiser="sgd",
        rate=0.01,
        head_factor=10.0,
        floor=1e-4,
        warmup=0,
        schedule=40,
        weight_decay=0.0,
    )
    torch.manual_seed(0)
    job = Run(recipe, None, "data", Execution(device="cpu"), False)
    heads = {id(p) for p in job.model.head_parameters()}
    images, labels = torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64)
    for step in range(40):
        job.train_step([(images, labels)])
        for group in job.optimiser.param_groups:
            base = 0.1 if id(group["params"][0]) in heads else 0.01
            assert group["lr"] == pytest.approx((base - 1e-4) * (1 - step / 40) ** 0.9 + 1e-4)
            assert group["momentum"] == 0.9 and group["weight_decay"] == 0


def test_warmup_rises_linearly(small_recipe):
    recipe = dataclasses.replace(small_recipe, warmup=4, schedule=100, floor=0.0)
    for step in range(6):
        wanted = 1e-3 * (1 - step / 100) ** 0.9 * min(1, (step + 1) / 4)
        assert rate_at(step, recipe, 1e-3) == pytest.approx(wanted)


@pytest.mark.parametrize("decoder", ["naive", "mla"])
def test_every_parameter_is_in_one_group(decoder):
    """Heads at the factor, decay on matrices only; MLA's neck is no head."""
    recipe = get_recipe(f"camvid_{decoder}_tiny", head_factor=10.0, weight_decay=0.05, rate=1e-3)
    model = SETR(recipe.config)
    names = {id(p): name for name, p in model.named_parameters()}
    seen = {}
    for group in make_optimiser(model, recipe).param_groups:
        for p in group["params"]:
            assert names[id(p)] not in seen
            seen[names[id(p)]] = (group["base"], group["weight_decay"])
    assert set(seen) == set(names.values())
    assert seen["head.classifier.weight"] == (1e-2, 0.05)
    assert seen["aux_heads.0.classifier.weight"] == (1e-2, 0.05)
    assert seen["encoder.blocks.0.norm1.weight"] == seen["encoder.pos_embed"] == (1e-3, 0)
    assert seen["encoder.cls_token"] == seen["encoder.blocks.0.mlp.fc1.bias"] == (1e-3, 0)
    if decoder == "mla":
        assert seen["neck.fusions.0.conv.weight"] == (1e-3, 0.05)


def test_an_epoch_visits_every_image_once(small_recipe):
    stream = TrainingStream(Shapes("train"), small_recipe)
    epochs = [[stream.place(12 * e + i) for i in range(12)] for e in range(2)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [(number, i) for i in range(12)]
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[1]] != list(range(12))


def test_classes_of_network_and_data_agree(tmp_path, small_recipe):
    config = dataclasses.replace(small_recipe.config, num_classes=5)
    with pytest.raises(ValueError, match="has 5 classes, shapes 8; set num_classes=8"):
        run(replace(small_recipe, config=config), tmp_path)
