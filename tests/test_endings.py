"""A run's end and its curves: early stopping, the moving average by a flag, trackers."""

import dataclasses
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import setr_lib
from setr_lib.__main__ import main
from setr_lib.training import loop, recipes, tracker
from setr_lib.training.devices import RunOptions
from setr_lib.training.suites import EDITIONS, suite_rows


def scripted(monkeypatch, *scores: float) -> None:
    """Evaluations whose mIoU is known before; the last one comes again and again."""
    left = list(scores)

    def evaluate(model, data, **_):
        counts = setr_lib.evaluate(model, data, progress=False).counts
        miou = left.pop(0) if len(left) > 1 else left[0]
        return dataclasses.replace(setr_lib.scores(counts), miou=miou)

    monkeypatch.setattr(loop, "evaluate", evaluate)


def run(recipe, out, **facts):
    return setr_lib.train(recipe, out, progress=False, device="cpu", **facts)


def assert_same_weights(*runs: Path) -> None:
    """To the last bit."""
    one, other = (load_file(folder / "last.safetensors") for folder in runs)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "patience, scores, end",
    [
        (2, [0.3, 0.2, 0.1], 6),
        (2, [0.3, 0.2, 0.4, 0.4, 0.3], 10),  # as good is not better
        (1, [0.3, float("nan")], 4),  # no score is not better
        (0, [0.3, 0.2, 0.1], 12),
    ],
)
def test_a_run_stops_when_nothing_got_better(
    tmp_path, monkeypatch, small_recipe, patience, scores, end
):
    """After so many evaluations without a better score; the record says so."""
    scripted(monkeypatch, *scores)
    record = run(small_recipe, tmp_path / "run", evaluate_every=2, patience=patience)
    assert record["step"] == end and record["finished"]
    assert record["stopped_early"] == (end < 12)
    assert record["best"]["miou"] == max(s for s in scores if s == s)


def test_an_interrupted_run_stops_where_the_whole_one_does(tmp_path, monkeypatch, small_recipe):
    """What was waited for is in the state; a run that has stopped stays stopped."""
    facts = {"evaluate_every": 2, "patience": 2}
    scripted(monkeypatch, 0.3, 0.2, 0.1)
    whole = run(small_recipe, tmp_path / "whole", **facts)
    scripted(monkeypatch, 0.3, 0.2, 0.1)
    assert run(small_recipe, tmp_path / "parts", steps=5, **facts)["step"] == 5
    # Its evaluation of step 5, which ends the part, is one of those that count.
    parts = run(small_recipe, tmp_path / "parts", resume=True, **facts)
    assert [e["step"] for e in parts["evaluations"]] == [2, 4, 5] and parts["stopped_early"]
    assert whole["step"] == 6 and run(small_recipe, tmp_path / "whole", resume=True, **facts)[
        "evaluations"] == whole["evaluations"]  # fmt: skip


def test_resuming_keeps_the_bits_of_a_run_that_waits(tmp_path, small_recipe):
    """Weights after 6 + 6 steps are those after 12, with a patience that is not exhausted."""
    facts = {"evaluate_every": 3, "patience": 9, "ema": 0.9}
    run(small_recipe, tmp_path / "whole", **facts)
    run(small_recipe, tmp_path / "parts", steps=6, **facts)
    run(small_recipe, tmp_path / "parts", resume=True, **facts)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_patience_and_ema_are_flags(tmp_path, monkeypatch, capsys, small_recipe):
    """Of the command line, and said at the end."""
    monkeypatch.setitem(recipes.RECIPES, "shapes_naive_tiny", small_recipe)
    scripted(monkeypatch, 0.5, 0.4)
    words = ["train", "shapes_naive_tiny", "--out", str(tmp_path / "run"), "--quiet"]
    words += ["--device", "cpu", "--evaluate-every", "2", "--patience", "1", "--ema", "0.9"]
    assert main(words) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["recipe"]["patience"], record["recipe"]["ema"]) == (1, 0.9)
    assert record["step"] == 4 and record["stopped_early"]
    assert "stopped at step 4 of 12: no better mIoU in 1 evaluations" in capsys.readouterr().out
    assert main([*words[:3], str(tmp_path / "other"), "--patience", "-1"]) == 2
    assert "patience is -1; it must be a whole number from 0" in capsys.readouterr().err


@pytest.mark.parametrize("suite", EDITIONS)
def test_no_row_of_a_suite_stops_early(suite):
    """Rows are compared at one length."""
    assert all(row.recipe.patience == 0 for row in suite_rows(suite))


# ---- trackers


class Noted(list):
    """A program that shows curves: what it was told, in order; it may refuse a word."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses

    def note(self, word, *facts, **more):
        if word == self.refuses:
            raise RuntimeError(f"{word}: the network is down")
        self.append((word, *facts, *more.values()))


def fake_wandb(monkeypatch, refuses: str = "") -> Noted:
    """The module that Accelerate's tracker calls, without its servers."""
    told = Noted(refuses)
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(name="wandb")
    opened = types.SimpleNamespace(
        log=lambda values, step=None: told.note("log", step, values),
        finish=lambda: told.note("finish"),
    )

    def init(**facts):
        told.note("init", facts)
        return opened

    module.init = init
    module.config = types.SimpleNamespace(
        update=lambda values, allow_val_change: told.note("config", values)
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


@pytest.fixture
def accelerate():
    """Skips where it is not installed."""
    return pytest.importorskip("accelerate", reason="needs accelerate (requirements.txt)")


def test_wandb_is_told_through_accelerate(tmp_path, monkeypatch, small_recipe, accelerate):
    """Facts of the recipe, losses and scores by step; a resumed run is the same one there."""
    told = fake_wandb(monkeypatch)
    run(small_recipe, tmp_path / "run", steps=6, tracker="wandb")
    run(small_recipe, tmp_path / "run", resume=True, tracker="wandb")
    first, second = (facts for word, facts, *_ in (e for e in told if e[0] == "init"))
    assert first == second and first["name"] == "run" and first["project"] == tracker.PROJECT
    assert first["resume"] == "allow" and len(first["id"]) == 16
    facts = next(values for word, values in (e for e in told if e[0] == "config"))
    assert facts["total_steps"] == 12 and facts["config.width"] == 24
    assert facts["crop"] == "(32, 32)"
    steps = [
        (step, sorted(values)[:2]) for word, step, values in (e for e in told if e[0] == "log")
    ]
    assert steps == [
        (6, ["images_per_second", "loss"]), (6, ["miou"]), (10, ["images_per_second", "loss"]),
        (12, ["images_per_second", "loss"]), (12, ["miou"]),
    ]  # fmt: skip
    assert told[-1] == ("finish",)
    assert (tmp_path / "run" / "record.json").is_file()
    sessions = json.loads((tmp_path / "run" / "record.json").read_text())["sessions"]
    assert [s["tracker"] for s in sessions] == ["wandb", "wandb"]


@pytest.mark.parametrize("word", ["init", "config", "log", "finish"])
def test_a_tracker_that_fails_ends_no_run(
    tmp_path, monkeypatch, capsys, small_recipe, accelerate, word
):
    """Said once; the weights are those of a run without it."""
    fake_wandb(monkeypatch, refuses=word)
    record = run(small_recipe, tmp_path / "run", tracker="wandb")
    said = capsys.readouterr().err
    assert record["finished"] and said.count("the tracker wandb has failed") == 1
    assert f"{word}: the network is down); the run goes on without it" in said
    run(small_recipe, tmp_path / "alone", tracker="none")
    assert_same_weights(tmp_path / "run", tmp_path / "alone")


def test_mlflow_is_told_through_accelerate(tmp_path, monkeypatch, small_recipe, accelerate):
    """Parameters, metrics by step, and an end."""
    told = Noted()
    module = types.ModuleType("mlflow")
    module.__spec__ = types.SimpleNamespace(name="mlflow")
    module.search_experiments = lambda filter_string: []
    module.create_experiment = lambda name, **_: told.note("experiment", name)
    module.start_run = lambda **facts: told.note("run", facts["run_name"])
    module.log_params = lambda values: told.note("params", values)
    module.log_metrics = lambda values, step=None: told.note("metrics", step, values)
    module.end_run = lambda: told.note("end")
    limits = types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    module.utils = types.SimpleNamespace(validation=limits)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    run(small_recipe, tmp_path / "run", tracker="mlflow")
    assert told[0] == ("experiment", "setr") and told[1] == ("run", "run")
    assert told[2][1]["total_steps"] == 12 and told[-1] == ("end",)
    assert [entry[1] for entry in told if entry[0] == "metrics"] == [6, 10, 12, 12]


def test_what_a_tracker_lacks_is_named_before_the_run(tmp_path, monkeypatch, capsys):
    """One line with the command that installs it; nothing is begun."""
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    out = tmp_path / "run"
    words = ["train", "shapes_naive_tiny", "--out", str(out), "--tracker"]
    for word, needs in {"wandb": "accelerate wandb", "tensorboard": "tensorboard"}.items():
        assert main([*words, word]) == 2
        assert f"pip install {needs}, or choose another" in capsys.readouterr().err
    assert main([*words, "wandbb"]) == 2 and not out.exists()
    assert "unknown tracker 'wandbb': did you mean wandb?" in capsys.readouterr().err
    assert RunOptions(device="cpu").tracker == "auto"  # without TensorBoard there is none


def test_only_the_main_process_has_a_tracker(tmp_path, monkeypatch):
    """The others neither open one nor tell it anything."""
    monkeypatch.setattr(tracker, "open_tracker", lambda run: pytest.fail("opened"))
    team = types.SimpleNamespace(is_main=False)
    options = types.SimpleNamespace(tracker="wandb")
    seen = tracker.Tracker(types.SimpleNamespace(team=team, options=options))
    seen.log({"loss": 1.0}, 3)
    seen.close()


def test_tensorboard_shows_what_is_repeated_once(tmp_path, monkeypatch, small_recipe):
    """Its files lie in the run folder; a resumed run takes back what it does again."""
    made = []

    class Writer(Noted):
        def __init__(self, folder, purge_step):
            super().__init__()
            made.append((Path(folder), purge_step, self))
            self.add_scalar = lambda *facts: self.note("scalar", *facts)
            self.close = lambda: self.note("close")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(tracker, "find_spec", lambda name: module)
    run(small_recipe, tmp_path / "run", steps=6)
    run(small_recipe, tmp_path / "run", resume=True)
    assert [(folder.name, first) for folder, first, _ in made] == [
        ("tensorboard", 1), ("tensorboard", 7),
    ]  # fmt: skip
    assert made[1][2][-1] == ("close",)
    assert made[1][2][-2][:2] == ("scalar", "miou") and made[1][2][-2][3] == 12
