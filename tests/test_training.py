"""The loop: the right rates, the same run after any stop, and nothing lost."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from setr_lib import SETR, evaluate, get_recipe, load_checkpoint, scores, train
from setr_lib.data.augment import TrainingStream
from setr_lib.data.load import Shapes
from setr_lib.images import TestProtocol
from setr_lib.training import loop
from setr_lib.training.devices import RunOptions
from setr_lib.training.loop import Run
from setr_lib.training.optim import describe_groups, lr_at, make_optimizer, parameter_groups
from setr_lib.training.recipes import Recipe, replace
from setr_lib.training.record import load_log


def run(recipe, out, workers=0, **options):
    execution = RunOptions(device="cpu", workers=workers)
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
    from setr_lib.training import loop

    found = iter([scores(torch.eye(8) * 5), scores(torch.ones(8, 8))])
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: next(found))
    record = run(small_recipe, tmp_path)
    assert record["best"]["step"] == 6 and record["best"]["miou"] == 1
    assert load_checkpoint(tmp_path / "best.safetensors")[1]["step"] == 6
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["step"] == 12


@pytest.mark.parametrize("steps", [0, 13])
def test_steps_lie_in_the_schedule(tmp_path, small_recipe, steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; .* has 12 in all"):
        run(small_recipe, tmp_path, steps=steps)
    assert not any(tmp_path.iterdir())


def test_rates_follow_the_closed_form(small_recipe):
    """SGD of the paper, 40 steps: (base - 1e-4) (1 - t/40)^0.9 + 1e-4, ten times base for heads."""
    recipe = dataclasses.replace(
        small_recipe,
        optimizer="sgd",
        lr=0.01,
        head_lr_mult=10.0,
        min_lr=1e-4,
        warmup=0,
        total_steps=40,
        weight_decay=0.0,
    )
    torch.manual_seed(0)
    job = Run(recipe, None, "data", RunOptions(device="cpu"), False)
    heads = {id(p) for p in job.model.head_parameters()}
    images, labels = torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64)
    for step in range(40):
        job.train_step([(images, labels)])
        for group in job.optimizer.param_groups:
            base = 0.1 if id(group["params"][0]) in heads else 0.01
            assert group["lr"] == pytest.approx((base - 1e-4) * (1 - step / 40) ** 0.9 + 1e-4)
            assert group["momentum"] == 0.9 and group["weight_decay"] == 0


def test_warmup_rises_linearly(small_recipe):
    recipe = dataclasses.replace(small_recipe, warmup=4, total_steps=100, min_lr=0.0)
    for step in range(6):
        wanted = 1e-3 * (1 - step / 100) ** 0.9 * min(1, (step + 1) / 4)
        assert lr_at(step, recipe, 1e-3) == pytest.approx(wanted)


@pytest.mark.parametrize("decoder", ["naive", "mla"])
def test_every_parameter_is_in_one_group(decoder):
    """Heads at the factor, decay on matrices only; MLA's neck is no head."""
    recipe = get_recipe(f"camvid_{decoder}_tiny", head_lr_mult=10.0, weight_decay=0.05, lr=1e-3)
    model = SETR(recipe.config)
    names = {id(p): name for name, p in model.named_parameters()}
    seen = {}
    for group in make_optimizer(model, recipe).param_groups:
        assert group["lr"] == group["base"]  # a step without the loop has the rates too
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
    stream = TrainingStream(Shapes("train"), small_recipe.transform, small_recipe.seed)
    epochs = [[stream.place(12 * e + i) for i in range(12)] for e in range(2)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [(number, i) for i in range(12)]
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[1]] != list(range(12))


def test_classes_of_network_and_data_agree(tmp_path, small_recipe):
    config = dataclasses.replace(small_recipe.config, num_classes=5)
    with pytest.raises(ValueError, match="has 5 classes, shapes 8; set num_classes=8"):
        run(replace(small_recipe, config=config), tmp_path)


def test_the_scope_of_the_heads_rate_can_be_chosen():
    """`"decoder"` takes MLA's norms and fusion along; the table of groups shows it."""
    shown = {}
    for scope, lr in (("authors", 0.01), ("decoder", 0.1)):
        recipe = get_recipe("camvid_mla_tiny", head_scope=scope, head_lr_mult=10.0, lr=0.01)
        recipe = dataclasses.replace(recipe, optimizer="sgd", weight_decay=0.0)
        model = SETR(recipe.config)
        groups = {group["name"]: group for group in parameter_groups(model, recipe)}
        assert groups["neck"]["base"] == lr and groups["heads"]["base"] == 0.1
        assert groups["encoder"]["base"] == 0.01
        assert {id(p) for p in groups["neck"]["params"]} == {id(p) for p in model.neck.parameters()}
        shown[scope] = describe_groups(list(groups.values()), recipe)
    assert "neck" in shown["authors"] and shown["authors"] != shown["decoder"]


def test_the_step_of_a_bad_loss_is_named_also_when_looked_at_late(small_recipe):
    """On a GPU several losses are read at once; the first that is no number decides."""
    job = Run(small_recipe, None, "data", RunOptions(device="cpu"), False)
    job.step = 9
    job.pending = [torch.tensor(v) for v in (1.0, 2.0, math.inf, math.nan)]
    stream = job.stream
    files = ", ".join(job.data.file(stream.place(number)[1]) for number in (14, 15))
    with pytest.raises(FloatingPointError, match=f"is inf in step 8 .*the batch was {files}\\."):
        job.read_losses()


def test_evaluation_is_on_the_split_and_the_scale_of_the_recipe(
    tmp_path, small_recipe, monkeypatch
):
    from setr_lib.training import loop

    asked = []
    monkeypatch.setattr(
        loop, "evaluate", lambda _, data, **k: asked.append((data, k)) or scores(torch.eye(8))
    )
    recipe = dataclasses.replace(
        small_recipe, evaluate_split="test", rule="short", window=(32, 32), stride=(9, 9)
    )
    record = run(recipe, tmp_path, steps=1)
    data, how = asked[0]
    assert data.split == record["last"]["split"] == "test"
    assert how["protocol"] == TestProtocol((32, 32), (9, 9), recipe.scale, "short")


def test_class_weights_are_counted_on_all_labels(small_recipe, monkeypatch):
    """And the loss gets them only where the recipe says so."""
    from setr_lib.losses.segmentation import class_weights

    seen = []
    monkeypatch.setattr(
        SETR, "loss", lambda *_, **how: seen.append(how) or torch.zeros(1, requires_grad=True).sum()
    )
    for switch in (False, True):
        recipe = dataclasses.replace(small_recipe, class_weights=switch)
        job = Run(recipe, None, "data", RunOptions(device="cpu"), False)
        images, labels = torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64)
        job.train_step([(images, labels)])
    assert "weight" not in seen[0]
    wanted = class_weights([job.data[n][1] for n in range(len(job.data))], 8)
    assert torch.equal(seen[1]["weight"], wanted)


@pytest.mark.parametrize("kind", ["dice", "focal"])
def test_a_recipe_may_name_another_loss(kind, small_recipe):
    """A run has the loss of its network by that name."""
    recipe = dataclasses.replace(small_recipe, loss=kind, class_weights=True)
    job = Run(recipe, None, "data", RunOptions(device="cpu"), False)
    images, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 8, (2, 32, 32))
    how = {"average": recipe.average, "weight": job.class_weight}
    wanted = job.model.loss(images, labels, kind=kind, **how)
    assert torch.equal(job.learner(images, labels), wanted)
    assert wanted != job.model.loss(images, labels, **how)
    with pytest.raises(ValueError, match="loss is 'dize'; choose 'cross_entropy' or 'dice' or"):
        dataclasses.replace(recipe, loss="dize")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.differences(small_recipe)[0] == f"loss is '{kind}' there and 'cross_entropy' here"


def test_a_checkpoint_carries_the_protocol_of_its_run(tmp_path, small_recipe):
    recipe = dataclasses.replace(small_recipe, window=(32, 32), stride=(16, 16))
    run(recipe, tmp_path, steps=1)
    about = load_checkpoint(tmp_path / "last.safetensors")[1]
    assert about["protocol"] == json.loads(json.dumps(dataclasses.asdict(recipe.protocol)))


def test_the_fcn_is_trained_by_a_recipe(tmp_path, small_recipe, monkeypatch):
    """The baseline takes the same loop, and its file says which network it holds."""
    from setr_lib.baselines.fcn import FCN, FCNConfig
    from setr_lib.training import checkpoint, loop
    from setr_lib.weights.config import config_from_checkpoint
    from setr_lib.weights.load import load_pretrained

    monkeypatch.setattr(checkpoint, "save_state", lambda *_: None)  # half a gigabyte
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: scores(torch.eye(8)))
    recipe = dataclasses.replace(small_recipe, config=FCNConfig(50, 8))
    record = run(recipe, tmp_path, steps=1)
    assert Recipe.from_dict(record["recipe"]) == recipe
    model, about = load_checkpoint(tmp_path / "last.safetensors")
    assert isinstance(model, FCN) and about["step"] == 1
    assert config_from_checkpoint(tmp_path / "last.safetensors") == model.config == recipe.config
    with pytest.raises(ValueError, match="FCN takes no pretrained weights"):
        load_pretrained(model, "resnet50")


def test_a_run_starts_from_pretrained_weights(tmp_path, small_recipe):
    """From a file, and only at its beginning: a resumed run has its own."""
    from setr_lib.weights.load import save_checkpoint

    theirs = SETR(small_recipe.config)
    torch.nn.init.constant_(theirs.encoder.cls_token, 0.123)
    save_checkpoint(theirs, tmp_path / "theirs.safetensors")
    recipe = dataclasses.replace(
        small_recipe, pretrained=str(tmp_path / "theirs.safetensors"), lr=1e-9, weight_decay=0.0
    )
    run(recipe, tmp_path / "run", steps=1)
    (tmp_path / "theirs.safetensors").unlink()
    run(recipe, tmp_path / "run", steps=2, resume=True)
    model, _ = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert model.encoder.cls_token.mean().item() == pytest.approx(0.123, abs=1e-5)


def test_the_log_tells_speed_and_memory(tmp_path, small_recipe):
    run(small_recipe, tmp_path)
    for line in load_log(tmp_path):
        assert line["images_per_second"] > 0 and line["memory_gib"] > 0
        lr = lr_at(line["step"] - 1, small_recipe, small_recipe.lr)
        assert line["lr"] == pytest.approx(lr)


def test_the_share_of_peak_is_arithmetic_over_time(small_recipe, monkeypatch):
    """16 images in 2 seconds of a network whose step costs 3 forward passes with all heads."""
    from setr_lib.costs import peak_tflops, step_gflops
    from setr_lib.training import record as progress

    recipe = dataclasses.replace(small_recipe, batch=8)
    seen = progress.Progress(recipe, 0, 10, torch.device("cpu"), False, peak=50.0)
    seen.training_seconds = 2.0
    gflops = step_gflops(lambda: SETR(recipe.config), recipe.crop)
    line = seen.line(2, 1.0, 0.1, 3.0)
    assert line["images_per_second"] == 8
    assert line["peak_share"] == pytest.approx(8 * gflops / 50, abs=1e-4)
    assert peak_tflops("NVIDIA H100 80GB HBM3", "bf16") == 989
    assert peak_tflops("NVIDIA H100 PCIe", "bf16") == 756
    assert peak_tflops("NVIDIA L4", "fp16") == 121 and peak_tflops("NVIDIA L40S", "fp16") == 362
    assert peak_tflops("NVIDIA H100 80GB HBM3", "fp32") is None
    assert peak_tflops("a GPU of tomorrow", "bf16") is None


def test_a_training_step_costs_three_forward_passes():
    """Of all heads; without auxiliary heads, three times what `costs` counts."""
    from setr_lib import create_model
    from setr_lib.costs import costs, step_gflops

    def make(aux):
        return lambda: create_model("setr_pup_tiny", 5, 64, aux=aux)

    plain = step_gflops(make(False), 64)
    assert plain == pytest.approx(3 * costs(make(False), 64).gflops)
    assert step_gflops(make(True), 64) > plain


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_the_cpu_is_scored_in_32_bits(tmp_path, small_recipe, monkeypatch, precision):
    asked = []

    def in_sight(*facts, **how):
        asked.append(how["precision"])
        return evaluate(*facts, **how)

    monkeypatch.setattr(loop, "evaluate", in_sight)
    train(small_recipe, tmp_path, steps=1, progress=False, device="cpu", precision=precision)
    assert asked == ["fp32"]


def test_facts_of_the_execution_are_overrides_too(tmp_path, small_recipe):
    """By name, beside the recipe's own; an unknown name is still an error."""
    record = train(
        small_recipe, tmp_path, steps=1, progress=False, device="cpu", precision="bf16", seed=3
    )
    session = record["sessions"][0]
    assert (session["device"], session["precision"], record["seed"]) == ("cpu", "bf16", 3)
    with pytest.raises(ValueError, match="divice"):
        train(small_recipe, tmp_path / "b", divice="cpu")
