"""The loop: the right rates, the same run after any stop, and nothing lost."""

import dataclasses
import json
import math
import os
import signal
import threading

import numpy as np
import pytest
import torch

from setr_lib import SETR, get_recipe, load_checkpoint, train
from setr_lib.datasets import Shapes
from setr_lib.recipes import Recipe, list_recipes, replace
from setr_lib.training import Run, TrainingStream, make_optimiser, rate_at


def run(recipe, out, **options):
    return train(recipe, out, progress=False, device="cpu", **options)


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


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("workers", [0, 2])
def test_stop_and_resume_equals_one_run(tmp_path, small_recipe, optimiser, workers):
    """Twelve steps straight and 5 + 7 through a checkpoint, in mid-epoch: equal to the last bit."""
    recipe = dataclasses.replace(small_recipe, optimiser=optimiser, photometric=True)
    run(recipe, tmp_path / "one")
    run(recipe, tmp_path / "two", steps=5, workers=workers)
    record = run(recipe, tmp_path / "two", resume=True, workers=workers)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert record["step"] == 12 and [e["step"] for e in record["evaluations"]] == [5, 6, 12]


@pytest.mark.parametrize("asked_by", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_loses_nothing(tmp_path, small_recipe, asked_by, capsys, monkeypatch):
    """A stop request ends the step, saves, says how to go on; resuming gives the same weights."""
    do_step = Run.train_step

    def ask_in_step_four(job, *batch):
        if job.step == 3:
            os.kill(os.getpid(), asked_by)
        return do_step(job, *batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "train_step", ask_in_step_four)
        run(small_recipe, tmp_path / "two")
    said = capsys.readouterr()
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    assert record["step"] == 4 and not record["finished"]
    assert "Stopped after step 4 of 12" in said.out + said.err
    assert f"--out {tmp_path / 'two'} --resume" in said.out + said.err
    run(small_recipe, tmp_path / "one")
    run(small_recipe, tmp_path / "two", resume=True)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, small_recipe, monkeypatch):
    """The message names step, rate and files; what was saved before stays as it was."""
    run(small_recipe, tmp_path, steps=3)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(SETR, "loss", lambda *a, **k: torch.tensor(math.nan, requires_grad=True))
    words = r"nan in step 4 at the rate \S+; the batch was shapes number \d+, shapes number \d+"
    with pytest.raises(FloatingPointError, match=words):
        run(small_recipe, tmp_path, resume=True)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_a_run_is_not_overwritten(tmp_path, small_recipe):
    run(small_recipe, tmp_path, steps=2)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already; go on with"):
        run(small_recipe, tmp_path, steps=2)
    with pytest.raises(ValueError, match=f"was trained by the recipe {small_recipe.hash()}"):
        run(small_recipe, tmp_path, resume=True, seed=3)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_damaged_state_is_named(tmp_path, small_recipe):
    with pytest.raises(FileNotFoundError, match="to resume from"):
        run(small_recipe, tmp_path, resume=True)
    run(small_recipe, tmp_path, steps=2)
    state = tmp_path / "state" / "last.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.pt is damaged"):
        run(small_recipe, tmp_path, resume=True)


@pytest.mark.parametrize("steps", [0, 13])
def test_steps_lie_in_the_schedule(tmp_path, small_recipe, steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; the schedule .* has 12"):
        run(small_recipe, tmp_path, steps=steps)
    assert not any(tmp_path.iterdir())


def test_training_works_outside_the_main_thread(tmp_path, small_recipe):
    """Only the main thread may listen for signals; a run in another one goes without."""
    thread = threading.Thread(target=run, args=(small_recipe, tmp_path), kwargs={"steps": 2})
    thread.start()
    thread.join()
    assert json.loads((tmp_path / "record.json").read_text())["step"] == 2


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
    job = Run(recipe, None, "data", torch.device("cpu"), False)
    heads = {id(p) for p in job.model.head_parameters()}
    images, labels = torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64)
    for step in range(40):
        job.train_step(images, labels)
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


def test_unknown_names_are_explained(tmp_path):
    with pytest.raises(ValueError, match="did you mean camvid_pup_tiny"):
        train("camvid_pup_tny", tmp_path)
    with pytest.raises(ValueError, match="unknown fact of a recipe 'lr'.*rate"):
        train("camvid_pup_tiny", tmp_path, lr=1)
    with pytest.raises(ValueError, match="optimiser is 'lion'"):
        get_recipe("camvid_pup_tiny", optimiser="lion")
    with pytest.raises(ValueError, match="batch is 0"):
        get_recipe("camvid_pup_tiny", batch=0)


def test_classes_of_network_and_data_agree(tmp_path, small_recipe):
    config = dataclasses.replace(small_recipe.config, num_classes=5)
    with pytest.raises(ValueError, match="has 5 classes, shapes 8; set num_classes=8"):
        run(replace(small_recipe, config=config), tmp_path)


def test_recipes_of_the_contract_exist():
    sizes = {"camvid": ("tiny", "small"), "shapes": ("tiny",)}
    for data, names in sizes.items():
        for decoder in ("naive", "pup", "mla"):
            for size in names:
                recipe = get_recipe(f"{data}_{decoder}_{size}")
                assert recipe.dataset == data and recipe.config.decoder == decoder
    assert len({get_recipe(name).hash() for name in list_recipes()}) == len(list_recipes())
