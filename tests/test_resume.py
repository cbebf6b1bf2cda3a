"""A run goes on only as what it was, in a folder that is its own, from a state that is whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from own_folder import folder_recipe, make_folder, train_small

from setr_lib import load_checkpoint, load_record
from setr_lib.training import checkpoint as states
from setr_lib.training.checkpoint import claim
from setr_lib.training.loop import Run
from setr_lib.training.recipes import replace
from setr_lib.training.record import way_on


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "data")


@pytest.fixture
def recipe(folder):
    return folder_recipe(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A recipe, and a run of it that has one step behind it."""
    place = tmp_path_factory.mktemp("trained")
    recipe = folder_recipe(make_folder(place / "data"))
    train_small(recipe, place / "run", steps=1)
    return recipe, place / "run"


def change_state(out, change):
    """Rewrite the newest state, whole and with right checksums; the one before it goes."""
    file = out / "state" / "last.pt"
    (out / "state" / "previous.pt").unlink(missing_ok=True)
    torch.save(change(torch.load(file, weights_only=True)), file)


def test_facts_that_differ_are_named_with_both_values(tmp_path, recipe):
    """And nothing is lost: with the facts of before the run goes on."""
    out = tmp_path / "run"
    train_small(recipe, out, steps=2)
    wider = replace(recipe, lr=0.5, average="all")
    with pytest.raises(ValueError, match="lr is 0.001 there and 0.5 here; average is 'valid'"):
        train_small(wider, out, steps=3, resume=True)
    assert train_small(recipe, out, steps=3, resume=True)["step"] == 3


@pytest.mark.parametrize("age", ["facts added since", "other words", "a hash instead of facts"])
def test_runs_of_older_versions_go_on(tmp_path, recipe, age):
    """Facts that recipes have learned since get their defaults; name and source never matter."""

    def older(state):
        facts = state["recipe"]
        if age == "facts added since":
            facts = {k: v for k, v in facts.items() if k not in ("micro_batch", "head_scope")}
        elif age == "other words":
            facts = {**facts, "source": "elsewhere", "name": "of before"}
        else:
            state = {k: v for k, v in state.items() if k not in ("classes", "images")}
            facts = recipe.hash()
        return {**state, "recipe": facts}

    out = tmp_path / "run"
    train_small(recipe, out, steps=2)
    change_state(out, older)
    assert train_small(recipe, out, steps=3, resume=True)["step"] == 3


@pytest.mark.parametrize("old", [False, True])
def test_other_classes_or_another_order_are_refused(tmp_path, recipe, folder, old):
    """Else the weights of one class would be called by another's name."""
    out = tmp_path / "run"
    train_small(recipe, out, steps=2)
    if old:
        change_state(out, lambda s: {k: v for k, v in s.items() if k != "classes"})
        change_state(out, lambda s: {**s, "recipe": recipe.hash()})
    (folder / "classes.txt").write_text("b\na\nc\n")
    with pytest.raises(ValueError, match="class 0 is 'a' there and 'b' here; class 1 is 'b' there"):
        train_small(recipe, out, steps=3, resume=True)
    assert load_checkpoint(out / "last.safetensors")[1]["classes"] == ["a", "b", "c"]


def test_more_images_are_said_and_recorded(tmp_path, recipe, folder, capsys):
    out = tmp_path / "run"
    train_small(recipe, out, steps=2)
    make_folder(folder, counts={"train": 5})
    record = train_small(recipe, out, steps=3, resume=True)
    assert "'train': 4" in (said := capsys.readouterr().out) and "'train': 5" in said
    assert [s["images"]["train"] for s in record["sessions"]] == [4, 5]
    assert record["images"] == {"train": 5, "val": 2}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: [],
        lambda s: "x",
        lambda s: {},
        *(lambda s, k=k: {n: v for n, v in s.items() if n != k} for k in ("rng", "model", "log")),
        lambda s: {**s, "rng": []},
        lambda s: {**s, "rng": [{}]},
        lambda s: {**s, "rng": [5]},
        lambda s: {**s, "rng": [{"cpu": torch.zeros(3)}]},
        lambda s: {**s, "rng": [{"cpu": torch.zeros(3, dtype=torch.uint8)}]},
        lambda s: {**s, "step": "2"},
        lambda s: {**s, "step": None},
        lambda s: {**s, "log": [1]},
        lambda s: {**s, "evaluations": [{}]},
        lambda s: {**s, "sessions": 7},
        lambda s: {**s, "recipe": 7},
        lambda s: {**s, "recipe": {}},
        lambda s: {**s, "recipe": {**s["recipe"], "config": 7}},
        lambda s: {**s, "model": {}},
        lambda s: {**s, "model": {**s["model"], "encoder.cls_token": torch.zeros(2)}},
        lambda s: {**s, "optimizer": {}},
        lambda s: {**s, "optimizer": {"state": {}, "param_groups": []}},
        lambda s: {**s, "classes": [1, 2]},
    ],
)
def test_a_whole_file_with_other_contents_is_refused_in_one_sentence(tmp_path, trained, change):
    """Without random numbers, say, the run would be another one in silence."""
    recipe, whole = trained
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    change_state(out, change)
    before = (out / "state" / "last.pt").read_bytes()
    with pytest.raises(ValueError) as raised:
        train_small(recipe, out, steps=2, resume=True)
    said = str(raised.value)
    assert "\n" not in said and (str(out) in said or "recipe" in said)
    assert (out / "state" / "last.pt").read_bytes() == before


def test_a_folder_that_a_run_writes_to_takes_no_other(tmp_path, recipe, monkeypatch):
    """Neither a new run nor a resumed one, from the start on; the first one's files stay."""
    out = tmp_path / "run"
    other = claim(out / "state")
    monkeypatch.setattr(states, "WAIT", 0)
    temporary = out / "state" / ".last.pt.half.pt"
    temporary.touch()
    for resume in (False, True):
        if resume:
            (out / "state" / "last.pt").touch()
        with pytest.raises(FileExistsError, match=rf"another run is writing into {out}"):
            train_small(recipe, out, steps=1, resume=resume)
    assert temporary.exists()
    (out / "state" / "last.pt").unlink()
    other.release()
    assert train_small(recipe, out, steps=1)["step"] == 1 and not temporary.exists()


def test_the_lock_of_a_dead_process_is_nobodys(tmp_path):
    code = (
        "import os, sys, pathlib; from setr_lib.training.checkpoint import claim;"
        "lock = claim(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert (tmp_path / "lock").exists() and claim(tmp_path).is_locked


def test_a_run_ends_with_its_claim_also_when_it_fails(tmp_path, recipe):
    out = tmp_path / "run"
    train_small(recipe, out, steps=1)
    for _ in range(2):
        with pytest.raises(FileExistsError, match="holds a run already"):
            train_small(recipe, out, steps=1)
    claim(out / "state").release()


def test_a_file_system_without_locks_is_said(tmp_path, recipe, capsys, monkeypatch):
    def none(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(FileLock, "acquire", none)
    train_small(recipe, tmp_path / "run", steps=1)
    assert "cannot be locked" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["a file", "below a file", "read-only"])
def test_a_place_that_takes_no_files_is_found_before_the_first_step(
    tmp_path, recipe, monkeypatch, place
):
    file = tmp_path / "file"
    file.touch()
    out = {"a file": file, "below a file": file / "run"}.get(place, tmp_path / "run")
    if place == "read-only":

        def refuse(path, *_, **__):
            raise OSError(30, "Read-only file system", str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Run, "train_step", None)
    with pytest.raises(OSError, match=r"choose another place.*--out") as raised:
        train_small(recipe, out, steps=1)
    assert str(out) in str(raised.value)


@pytest.mark.parametrize(
    "program, words",
    [
        ("/x/setr_lib/__main__.py", "the same command and --resume"),
        ("/x/bin/setr", "the same command and --resume"),
        ("/x/ipykernel_launcher.py", "resume=True"),
        ("", "resume=True"),
    ],
)
def test_a_stopped_run_says_how_to_go_on_in_the_callers_words(monkeypatch, program, words):
    monkeypatch.setattr(sys, "argv", [program])
    assert words in way_on()


def test_the_record_on_disk_is_the_one_that_is_returned(tmp_path, recipe):
    """Whatever was added to it; and the state has what resuming compares."""
    record = train_small(recipe, tmp_path / "run", steps=1)
    assert load_record(tmp_path / "run") == record == json.loads(json.dumps(record))
