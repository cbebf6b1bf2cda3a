"""The suite runner does what is missing, loses nothing, and lets no other recipe's number pass."""

import json
import math
import multiprocessing
import shutil
import time

import pytest
import torch
from filelock import FileLock

from setr_lib import load_checkpoint
from setr_lib.__main__ import main
from setr_lib.data.load import Shapes
from setr_lib.training import checkpoint, experiments, suites
from setr_lib.training.experiments import UNFINISHED, repeat, run_suite, suite_table
from setr_lib.training.results import Result, compare, results, t_interval
from setr_lib.training.suites import NAIVE, PUP, TABLE, Edition, Line, suite_rows
from setr_lib.weights.config import make_network

REAL = ("camvid-cpu", "camvid-gpu")


@pytest.fixture
def tiny(monkeypatch):
    return make_tiny(monkeypatch)


def run_tiny(out):
    """The suite in a process of its own, which saves after every step."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_tiny(monkeypatch)
        monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
        run_suite("tiny", out, progress=False)


def make_tiny(monkeypatch):
    """A suite of seconds: two lines and two seeds on a dozen made-up scenes."""
    monkeypatch.setattr(Shapes, "lengths", {"train": 12, "val": 3, "test": 3})
    monkeypatch.setitem(suites.SIZES, "tiny", (24, 12, 3))
    facts = {**suites.TRAINING, "batch": 2, "lr": 1e-3, "class_weights": False, "ema": 0.9}
    edition = Edition("shapes", 8, (32, 32), 16, 16, 8, 4, facts, {"device": "cpu"})
    monkeypatch.setattr(suites, "EDITIONS", {"tiny": edition})
    lines = [
        Line("naive", NAIVE, "full", (0, 1), ("tiny",)),
        Line("pup", PUP, "short", (0,), ("tiny",)),
    ]
    monkeypatch.setattr(suites, "TABLE", {"Which decoder?": lines})
    return edition


def scores_of(out, name):
    record = json.loads((out / name / "record.json").read_text())
    return [{k: v for k, v in e.items() if k != "seconds"} for e in record["evaluations"]]


def test_what_is_missing_is_run_in_order_and_once(tiny, tmp_path, capsys):
    names = ["tiny_naive_s0", "tiny_naive_s1", "tiny_pup_s0"]
    assert run_suite("tiny", tmp_path, only="tiny_naive_s1", progress=False) == names[1:2]
    assert run_suite("tiny", tmp_path, progress=False) == [names[0], names[2]]
    assert run_suite("tiny", tmp_path, progress=False) == []
    for name in names:
        left = {p.name for p in (tmp_path / name).iterdir()}
        assert left == {"record.json", "log.jsonl", "best.safetensors", "last.safetensors"}
    assert not [p for p in (tmp_path / UNFINISHED).iterdir() if p.is_dir()]
    assert main(["experiments", "tiny", "--out", str(tmp_path), "--list"]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 rows are done" in said and "missing" not in said and "Which decoder?" in said
    with pytest.raises(ValueError, match="no row of tiny is called 'mla'"):
        run_suite("tiny", tmp_path, only="mla")
    with pytest.raises(ValueError, match="unknown suite 'tin': did you mean tiny"):
        run_suite("tin", tmp_path)


def test_a_killed_suite_goes_on_and_ends_with_the_same_scores(tiny, tmp_path, monkeypatch):
    """SIGKILL in the midst of a run: nothing but the steps since the last saving is done again."""
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    # Not forked: autograd of a process that has used it already would not run in the child.
    process = multiprocessing.get_context("spawn").Process(
        target=run_tiny, args=(tmp_path,), daemon=True
    )
    process.start()
    state = tmp_path / UNFINISHED / "tiny_naive_s0" / "state" / "previous.pt"
    while not state.exists() and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert "unfinished: step" in suite_table("tiny", tmp_path)
    assert run_suite("tiny", tmp_path, progress=False)[0] == "tiny_naive_s0"
    sessions = json.loads((tmp_path / "tiny_naive_s0" / "record.json").read_text())["sessions"]
    assert len(sessions) == 2 and sessions[1]["step"] > 0
    run_suite("tiny", tmp_path / "again", only="tiny_naive_s0", progress=False)
    assert scores_of(tmp_path, "tiny_naive_s0") == scores_of(tmp_path / "again", "tiny_naive_s0")


def test_it_stops_before_the_limit_and_goes_on_next_time(tiny, tmp_path, monkeypatch):
    real, limit = experiments.Run.train_step, 2.0

    def slow(run, batch):
        time.sleep(0.4)
        return real(run, batch)

    monkeypatch.setattr(experiments.Run, "train_step", slow)
    began = time.monotonic()
    assert run_suite("tiny", tmp_path, limit, only="*naive_s0", progress=False) == []
    assert time.monotonic() - began < 2 * limit  # of machines that others use too
    monkeypatch.undo()


def test_a_row_that_another_process_runs_is_passed_over(tiny, tmp_path):
    (tmp_path / UNFINISHED).mkdir()
    with FileLock(tmp_path / UNFINISHED / "tiny_naive_s0.lock"):
        assert run_suite("tiny", tmp_path, progress=False) == ["tiny_naive_s1", "tiny_pup_s0"]


def test_a_record_of_another_recipe_counts_as_missing_and_is_named(tiny, tmp_path, monkeypatch):
    run_suite("tiny", tmp_path, only="tiny_pup_s0", progress=False)
    assert results("tiny", tmp_path)[1].scores.keys() == {0}
    changed = {**tiny.recipe, "lr": 2e-3}
    monkeypatch.setattr(suites, "EDITIONS", {"tiny": tiny._replace(recipe=changed)})
    said = suite_table("tiny", tmp_path, only="tiny_pup_s0")
    assert "lr is 0.001 there and 0.002 here" in said and "0 of 1 rows are done" in said
    with pytest.raises(ValueError, match=r"tiny_pup_s0 is not of the code's recipe \(lr is 0.001"):
        results("tiny", tmp_path)
    assert run_suite("tiny", tmp_path, only="tiny_pup_s0", progress=False) == ["tiny_pup_s0"]
    assert results("tiny", tmp_path)[1].scores.keys() == {0}


def test_a_run_that_diverges_does_not_stop_the_others(tiny, tmp_path, monkeypatch, capsys):
    real = experiments.train

    def train(recipe, *args, **facts):
        if recipe.seed == 0 and "naive" in recipe.name:
            raise FloatingPointError("the loss is nan")
        return real(recipe, *args, **facts)

    monkeypatch.setattr(experiments, "train", train)
    assert run_suite("tiny", tmp_path, progress=False) == ["tiny_naive_s1", "tiny_pup_s0"]
    assert "tiny_naive_s0 is left out: the loss is nan" in capsys.readouterr().err


def test_records_and_the_best_networks_travel_in_few_files(tiny, tmp_path):
    out, folder = tmp_path / "out", tmp_path / "travels"
    command = ["experiments", "tiny", "--out", str(out), "--pack", str(folder), "--quiet"]
    assert main([*command, "--only", "*naive*"]) == 0
    best = max((0, 1), key=lambda seed: scores_of(out, f"tiny_naive_s{seed}")[-1]["miou"])
    left = {file.name for file in folder.iterdir()}
    assert left == {"tiny.tar.gz", f"tiny_naive_s{best}.safetensors"}
    shutil.unpack_archive(folder / "tiny.tar.gz", tmp_path / "back")
    assert scores_of(tmp_path / "back", "tiny_naive_s1") == scores_of(out, "tiny_naive_s1")
    for name in ("record.json", "log.jsonl"):
        assert (tmp_path / "back" / "tiny_naive_s0" / name).is_file()
    half = (folder / f"tiny_naive_s{best}.safetensors").stat().st_size
    whole = (out / f"tiny_naive_s{best}" / "last.safetensors").stat().st_size
    assert 0.4 * whole < half < 0.7 * whole
    model, about = load_checkpoint(folder / f"tiny_naive_s{best}.safetensors")
    assert about["step"] == 8 and model.protocol is not None


def test_a_record_is_repeated_to_the_last_digit(tiny, tmp_path, capsys):
    name = "tiny_pup_s0"
    run_suite("tiny", tmp_path, only=name, progress=False)
    command = ["experiments", "tiny", "--out", str(tmp_path), "--repeat", name, "--quiet"]
    assert main(command) == 0 and "the same scores" in capsys.readouterr().out
    file = tmp_path / name / "record.json"
    record = json.loads(file.read_text())
    record["evaluations"][-1]["miou"] += 1e-15
    file.write_text(json.dumps(record))
    (wrong,) = repeat(name, tmp_path, progress=False)
    assert wrong.startswith("step 4: miou was ")
    assert main(command) == 2
    with pytest.raises(FileNotFoundError, match="there is no record"):
        repeat("nothing", tmp_path)


@pytest.mark.parametrize("suite", REAL)
def test_the_rows_of_a_suite_are_runs_that_can_be_made(suite):
    """Each has a name, a recipe and a network of its own, and three seeds; none sees test."""
    rows = suite_rows(suite)
    assert len({row.name for row in rows}) == len(rows)
    assert len({tuple(row.recipe.differences(rows[0].recipe)) for row in rows}) == len(rows)
    for row in rows:
        assert row.recipe.evaluate_split == "val" and row.recipe.dataset == "camvid"
        length = row.line.partition("_")[0]
        length = length if length in ("short", "long") else "full"
        assert row.recipe.total_steps == getattr(suites.EDITIONS[suite], length)
        if row.recipe.seed == 0:
            with torch.device("meta"):
                make_network(row.recipe.config)
    for line in {row.line for row in rows}:
        seeds = [row.recipe.seed for row in rows if row.line == line]
        assert seeds == ([0] if line.startswith("long") else [0, 1, 2])
    assert [row.line for row in rows[:9:3]] == ["pup", "naive", "mla"]  # most valuable first


def test_both_editions_ask_the_same_questions():
    """Rows of one edition only are of smaller or larger patches, or a scale that the other has."""
    alone = {line.name for lines in TABLE.values() for line in lines if len(line.suites) == 1}
    assert alone == {
        "pup_conv8", "pup_patch8", "short_patch16", "short_patch12", "short_scale_wide"
    }  # fmt: skip


def test_the_convolutional_network_has_as_many_parameters():
    for suite in REAL:
        rows = {row.line: row for row in suite_rows(suite)}
        with torch.device("meta"):
            sizes = [
                sum(p.numel() for p in make_network(rows[line].recipe.config).parameters())
                for line in ("short_fcn", "short_pup")
            ]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def result_of(*scores, name="x"):
    return Result(name, "?", dict(enumerate(scores)), (), 1.0, 0.0, "", 1, 1.0, 1.0)


def test_intervals_are_students():
    """t of 1 and 2 degrees of freedom, from the tables: 12.706 and 4.3027."""
    low, high = t_interval([1.0, 3.0])
    assert (low, high) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)
    low, high = result_of(1.0, 2.0, 3.0).interval
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert result_of(1.0, 2.0, 3.0).spread == 1.0
    assert t_interval([1.0]) == (-math.inf, math.inf) and math.isnan(result_of().mean)


def test_rows_are_compared_seed_by_seed():
    """What all seeds share cancels: 40, 45, 50 and one point more each are separated."""
    one, other = result_of(41.0, 46.1, 50.9), result_of(40.0, 45.0, 50.0)
    assert one.interval[0] < other.mean < one.mean < other.interval[1]
    found = compare(one, other)
    assert found.separated and str(found).endswith("3 seeds): separated")
    assert str(found).startswith("+1.0 (+0.8 to +1.2")
    back = compare(other, one)
    assert back.separated and back.difference == -found.difference
    assert not compare(result_of(41.0, 44.0, 52.0), other).separated
    with pytest.raises(ValueError, match="x and x have 1 seeds in common"):
        compare(result_of(1.0), one)
