"""A run may be stopped, killed, damaged or starved at any instant: it goes on as if nothing was."""

import dataclasses
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import threading
import time

import psutil
import pytest
import torch
import torch.nn.functional as F
from conftest import small_config
from own_folder import folder_recipe, make_folder

from setr_lib import SETR, load_checkpoint, train
from setr_lib.training import checkpoint
from setr_lib.training import loop as training
from setr_lib.training.checkpoint import has_state, load_state, save_state
from setr_lib.training.devices import RunOptions
from setr_lib.training.loop import Run
from setr_lib.weights.load import save_checkpoint


def run(recipe, out, workers=0, **options):
    execution = RunOptions(device="cpu", workers=workers)
    return train(recipe, out, progress=False, execution=execution, **options)


def weights(out, name="last"):
    return load_checkpoint(out / f"{name}.safetensors")[0].state_dict()


def assert_equal_weights(one, two):
    first, second = weights(one), weights(two)
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_equal_runs(one, two):
    """The same weights to the last bit, and one line in the log for each step in it."""
    assert_equal_weights(one, two)
    logs = [[json.loads(li) for li in (d / "log.jsonl").open()] for d in (one, two)]
    assert len({(a["step"], a["loss"]) for a in logs[1]}) == len(logs[1])
    assert [(a["step"], a["loss"]) for a in logs[0]] == [(a["step"], a["loss"]) for a in logs[1]]


def files_of(out):
    """Everything in a run folder that a failed step must not touch."""
    return {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "record.json"}


STATE = {  # the least that a state must hold
    "recipe": {}, "step": 0, "seconds": 0.0, "started": "", "sessions": [], "evaluations": [],
    "log": [], "model": {}, "optimizer": {}, "scaler": None, "rng": [{"cpu": torch.zeros(1)}],
}  # fmt: skip


def in_a_process(function, *arguments):
    """However this platform starts processes: what is called has a name and plain arguments."""
    process = multiprocessing.Process(target=function, args=arguments)
    process.start()
    return process


def restless(recipe, out):
    """Train, or go on, and save in every step."""
    checkpoint.SAVE_SECONDS, checkpoint.SAVE_SHARE = -1.0, math.inf
    run(recipe, out, resume=has_state(out / "state"))


def starved(most, said, function, *arguments):
    """Call it where files of more than so many bytes cannot be written; keep what is said."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        function(*arguments)
    except OSError as error:
        said.write_text(str(error))


def go_on(recipe, out):
    run(recipe, out, resume=True)


def save(file, config):
    save_checkpoint(SETR(config), file)


@pytest.mark.parametrize("optimizer, workers", [("adamw", 0), ("sgd", 2)])
def test_stop_and_resume_equals_one_run(tmp_path, small_recipe, optimizer, workers):
    """Twelve steps straight and 5 + 7 through a checkpoint, in mid-epoch: equal to the last bit."""
    recipe = dataclasses.replace(small_recipe, optimizer=optimizer, photometric=True)
    run(recipe, tmp_path / "one")
    run(recipe, tmp_path / "two", steps=5, workers=workers)
    record = run(recipe, tmp_path / "two", resume=True, workers=workers)
    assert_equal_weights(tmp_path / "one", tmp_path / "two")
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
    assert f"{tmp_path / 'two'}; go on with the same call and resume=True" in said.out + said.err
    run(small_recipe, tmp_path / "one")
    run(small_recipe, tmp_path / "two", resume=True)
    assert_equal_weights(tmp_path / "one", tmp_path / "two")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, small_recipe, monkeypatch):
    """The message names step, rate and files; what was saved before stays as it was."""
    run(small_recipe, tmp_path, steps=3)
    before = files_of(tmp_path)
    monkeypatch.setattr(SETR, "loss", lambda *a, **k: torch.tensor(math.nan, requires_grad=True))
    words = r"nan in step 4 at the learning rate \S+; the batch was (shapes number \d+(, )?){2}\."
    with pytest.raises(FloatingPointError, match=words):
        run(small_recipe, tmp_path, resume=True)
    assert files_of(tmp_path) == before


def test_weights_that_nobody_could_load_are_not_written(tmp_path, small_recipe, monkeypatch):
    """The last step's loss was a number, what it made of the weights is none; before that is kept.

    On a GPU, too: what is looked at before a saving are the weights, not only the losses.
    """
    do_step = Run.train_step

    def ruin_step_six(job, batch):
        do_step(job, batch)
        if job.step == 6:
            job.model.encoder.cls_token.data[..., 0] = math.inf

    run(small_recipe, tmp_path, steps=5)
    before = files_of(tmp_path)
    monkeypatch.setattr(Run, "train_step", ruin_step_six)
    with pytest.raises(FloatingPointError, match="weights are no numbers any more in step 6 at"):
        run(small_recipe, tmp_path, resume=True)
    assert files_of(tmp_path) == before and weights(tmp_path)


def test_a_run_is_not_overwritten(tmp_path, small_recipe):
    run(small_recipe, tmp_path, steps=2)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already; go on with"):
        run(small_recipe, tmp_path, steps=2)
    with pytest.raises(ValueError, match="seed is 0 there and 3 here"):
        run(small_recipe, tmp_path, resume=True, seed=3)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_damaged_state_is_named(tmp_path, small_recipe):
    with pytest.raises(FileNotFoundError, match="to resume from"):
        run(small_recipe, tmp_path, resume=True)
    run(small_recipe, tmp_path, steps=2)
    for state in (tmp_path / "state").iterdir():
        state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.pt is damaged.*previous\.pt is damaged"):
        run(small_recipe, tmp_path, resume=True)


def test_training_works_outside_the_main_thread(tmp_path, small_recipe):
    """Only the main thread may listen for signals; a run in another one goes without."""
    thread = threading.Thread(target=run, args=(small_recipe, tmp_path), kwargs={"steps": 2})
    thread.start()
    thread.join()
    assert json.loads((tmp_path / "record.json").read_text())["step"] == 2


def test_chance_in_the_network_survives_a_stop(tmp_path, small_recipe, monkeypatch):
    """With dropout in the head, 5 + 7 steps draw the same random numbers as 12."""
    make = training.make_network

    def with_dropout(config):
        model = make(config)
        model.head.classifier.register_forward_hook(
            lambda classifier, _, scores: F.dropout(scores, 0.5, classifier.training)
        )
        return model

    run(small_recipe, tmp_path / "without")
    monkeypatch.setattr(training, "make_network", with_dropout)
    run(small_recipe, tmp_path / "one")
    run(small_recipe, tmp_path / "two", steps=5)
    run(small_recipe, tmp_path / "two", resume=True)
    name = "head.classifier.weight"
    one = weights(tmp_path / "one")
    assert all(torch.equal(t, one[n]) for n, t in weights(tmp_path / "two").items())
    assert not torch.equal(weights(tmp_path / "without")[name], one[name])


def test_a_stop_during_an_evaluation_is_answered_at_once(tmp_path, small_recipe, monkeypatch):
    """The state was saved before; the run goes on with the evaluation."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "evaluate", lambda *a, **k: os.kill(os.getpid(), signal.SIGINT))
        run(small_recipe, tmp_path / "two")
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    assert record["step"] == 6 and not record["evaluations"]
    record = run(small_recipe, tmp_path / "two", resume=True)
    assert [e["step"] for e in record["evaluations"]] == [6, 12]
    run(small_recipe, tmp_path / "one")
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


def test_killed_at_random_moments(tmp_path):
    """Three times SIGKILL, resumed each time, while every step is saved: the same run.

    `tools.kill_test` does the same thirty times.
    """
    folder = make_folder(tmp_path / "data", {"train": 12, "val": 3})
    recipe = folder_recipe(folder, total_steps=30, evaluate_every=10)
    one, two = tmp_path / "one", tmp_path / "two"
    run(recipe, one)
    lock = two / "state" / "lock"
    for _ in range(3):
        before = lock.stat().st_mtime_ns if lock.exists() else 0
        process = in_a_process(restless, recipe, two)
        while process.is_alive() and (lock.stat().st_mtime_ns if lock.exists() else 0) == before:
            time.sleep(0.01)  # until it has begun
        time.sleep(random.uniform(0.0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    record = run(recipe, two, resume=has_state(two / "state"))
    assert record["finished"] and [e["step"] for e in record["evaluations"]] == [10, 20, 30]
    assert_equal_runs(one, two)
    assert not [p for p in two.rglob(".*")], "temporaries of killed processes are cleared away"


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    """torch alone leaves one behind if it was killed while a crop was on its way."""
    folder = make_folder(tmp_path / "data")
    recipe = folder_recipe(folder, total_steps=10_000, evaluate_every=10_000)
    process = in_a_process(run, recipe, tmp_path / "run", 2)
    workers = []
    while len(workers) < 2:
        time.sleep(0.1)
        workers = psutil.Process(process.pid).children()
    time.sleep(0.5)
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(workers, timeout=3)
    assert not alive


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_last_state_falls_back_to_the_one_before(tmp_path, small_recipe, capsys, damage):
    """The run says so, does again what the damaged state knew, and ends the same."""
    one, two = tmp_path / "one", tmp_path / "two"
    run(small_recipe, one)
    run(small_recipe, two, steps=6)
    last = two / "state" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes(content if damage == "flipped" else content[:-1000])
    capsys.readouterr()
    record = run(small_recipe, two, resume=True)
    said = capsys.readouterr().out
    assert "last.pt is " + ("missing" if damage == "gone" else "damaged") in said
    assert "going on from" in said and "previous.pt" in said
    assert [e["step"] for e in record["evaluations"]] == [6, 12]
    assert_equal_weights(one, two)


def test_a_damaged_state_never_replaces_the_good_one(tmp_path):
    """Killed between the two renames of the saving after a fall back, a whole state is left."""
    from setr_lib.training.checkpoint import retire_damaged

    for step in (1, 2):
        save_state(tmp_path, {**STATE, "step": step})
    (tmp_path / "last.pt").write_bytes(b"nothing")
    state, notice = load_state(tmp_path)
    assert state["step"] == 1 and "last.pt is damaged" in notice
    retire_damaged(tmp_path)
    save_state(tmp_path, {**STATE, "step": 3})
    os.remove(tmp_path / "last.pt")
    assert load_state(tmp_path)[0]["step"] == 1


def test_code_in_a_state_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trap"),)

    torch.save({"step": Trap()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt is damaged"):
        load_state(tmp_path)
    assert not (tmp_path / "trap").exists()


def test_a_full_disk_loses_nothing(tmp_path):
    """A process that may write files of 100 kB only cannot save; what was there stays."""
    recipe = folder_recipe(make_folder(tmp_path / "data"))
    one, two, said = tmp_path / "one", tmp_path / "two", tmp_path / "said"
    run(recipe, one)
    run(recipe, two, steps=6)
    before = files_of(two)
    in_a_process(starved, 100_000, said, go_on, recipe, two).join()
    assert "last.pt could not be written" in said.read_text() and "Make room" in said.read_text()
    assert files_of(two) == before
    run(recipe, two, resume=True)
    assert_equal_weights(one, two)


def test_a_full_disk_keeps_the_weights_of_before(tmp_path):
    """The same for best.safetensors and last.safetensors."""
    file, said = tmp_path / "last.safetensors", tmp_path / "said"
    save(file, small_config())
    before = file.read_bytes()
    in_a_process(starved, 20_000, said, save, file, small_config()).join()
    assert "could not be written" in said.read_text()
    assert file.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_a_run_that_was_killed_before_its_first_saving_can_start_again(tmp_path, small_recipe):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".last.pt.x.pt").write_bytes(b"half")
    record = run(small_recipe, tmp_path, steps=2)
    assert record["step"] == 2 and not list((tmp_path / "state").glob(".*"))
