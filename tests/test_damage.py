"""Data that is damaged, empty or without labels: said in one line, and a run is not lost by it."""

import multiprocessing
import shutil

import numpy as np
import pytest
import torch
from own_folder import folder_recipe, make_folder, train_small
from torch.utils.data import default_collate

from setr_lib import load_checkpoint, load_dataset, scores
from setr_lib.data.augment import TrainingStream
from setr_lib.data.layouts import Folder
from setr_lib.files import reason
from setr_lib.training.devices import RunOptions
from setr_lib.training.loop import Run
from setr_lib.training.record import load_log


def cut_off(folder, *files):
    for file in files:
        path = folder / file
        path.write_bytes((content := path.read_bytes())[: len(content) // 2])


def weights(out):
    return load_checkpoint(out / "last.safetensors")[0].state_dict()


def assert_equal_weights(one, two):
    first, second = weights(one), weights(two)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "data", {"train": 12, "val": 3})


# ---- scoring


def test_a_validation_without_a_labelled_pixel_has_no_score_and_the_run_goes_on(tmp_path, capsys):
    """A nan is never the best; resuming goes on, and the record is whole."""
    folder = make_folder(tmp_path / "data")
    make_folder(folder, {"val": 2}, label=255)
    recipe, out = folder_recipe(folder), tmp_path / "run"
    train_small(recipe, out, steps=7)
    record = train_small(recipe, out, resume=True)
    assert record["finished"] and record["best"] is None and record["last"]["miou"] is None
    assert "val has no labelled pixel" in capsys.readouterr().out
    assert not (out / "best.safetensors").exists() and (out / "last.safetensors").exists()


def test_a_score_after_none_is_the_best(tmp_path, monkeypatch):
    """And none after a score takes nothing away."""
    from setr_lib.training import loop as training

    empty, full = scores(torch.zeros(3, 3).long()), scores(torch.eye(3).long())
    found = iter([empty, full, empty])
    monkeypatch.setattr(training, "evaluate", lambda *a, **k: next(found))
    recipe = folder_recipe(make_folder(tmp_path / "data"), evaluate_every=4)
    record = train_small(recipe, tmp_path / "run")
    assert [e["miou"] for e in record["evaluations"]] == [None, 1.0, None]
    assert record["best"]["step"] == 8
    assert load_checkpoint(tmp_path / "run" / "best.safetensors")[1]["step"] == 8


def test_a_split_without_labels_is_refused_before_the_first_step(tmp_path, folder):
    shutil.copytree(folder / "images" / "val", folder / "images" / "test")
    with pytest.raises(ValueError, match="test has no labels.*evaluate_split"):
        train_small(folder_recipe(folder, evaluate_split="test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_data_set_of_no_pairs_is_refused_before_the_first_step(
    tmp_path, folder, split, monkeypatch
):
    length = Folder.__len__
    monkeypatch.setattr(Folder, "__len__", lambda d: 0 if d.split == split else length(d))
    with pytest.raises(ValueError, match=f"{split} .*no pair"):
        train_small(folder_recipe(folder), tmp_path / "run")


def test_a_damaged_pair_is_not_scored_and_the_run_goes_on(tmp_path, folder, capsys):
    """Its name is in the record beside the counts of the others; resuming needs no other care."""
    cut_off(folder, "images/val/1.png")
    recipe, out = folder_recipe(folder), tmp_path / "run"
    train_small(recipe, out, steps=6)
    record = train_small(recipe, out, resume=True)
    assert record["finished"] and [e["step"] for e in record["evaluations"]] == [6, 12]
    for found in record["evaluations"]:
        assert [name.endswith("val/1.png") for name in found["left_out"]] == [True]
    assert np.sum(record["last"]["counts"]) == 2 * 24 * 32
    assert "val/1.png" in capsys.readouterr().err


# ---- training


@pytest.mark.parametrize("damage", ["images/train/3.png", "labels/train/3.png"])
def test_a_damaged_pair_is_left_out_of_training(tmp_path, folder, capsys, damage):
    """Said once, recorded, and the same with workers, and after a stop, to the last bit."""
    cut_off(folder, damage)
    recipe = folder_recipe(folder)
    record = train_small(recipe, tmp_path / "one")
    assert capsys.readouterr().err.count("left out of training") == 1
    assert [damage in why for why in record["sessions"][0]["left_out"].values()] == [True]
    train_small(recipe, tmp_path / "two", steps=5, workers=2)
    train_small(recipe, tmp_path / "two", resume=True)
    assert_equal_weights(tmp_path / "one", tmp_path / "two")


def test_the_crop_of_a_damaged_pair_is_cut_from_the_next_one(folder):
    """With the crop's own random numbers; all other crops stay what they were."""
    recipe = folder_recipe(folder)
    whole = TrainingStream(load_dataset(recipe.dataset, "train"), recipe.transform, recipe.seed)
    crops = [whole[number] for number in range(24)]
    order = whole.order(1)
    cut_off(folder, f"images/train/{whole.data.file(order[4]).rpartition('/')[2]}")
    stream = TrainingStream(load_dataset(recipe.dataset, "train"), recipe.transform, recipe.seed)
    changed = [n for n in range(24) if not torch.equal(stream[n][0], crops[n][0])]
    assert changed == [whole.order(0).tolist().index(order[4]), 12 + 4]
    image, label = whole.data[order[5]]
    wanted = whole.transform(image, label, np.random.default_rng([0, 1, 16]))
    assert torch.equal(stream[16][0], wanted[0]) and torch.equal(stream[16][1], wanted[1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [3, 12])
def test_many_damaged_pairs_are_an_error_in_one_sentence(tmp_path, folder, workers, count):
    """That names a file, with workers too; what is no accident is not trained around."""
    cut_off(folder, *(f"images/train/{number}.png" for number in range(count)))
    with pytest.raises(ValueError, match=r"of 12 training pairs.*train/\d+\.png") as raised:
        train_small(folder_recipe(folder), tmp_path / "run", workers=workers)
    assert "\n" not in str(raised.value) and "check" in str(raised.value)


@pytest.mark.parametrize("label", [0, 255])
def test_labels_of_which_no_pixel_counts_are_said_once(tmp_path, capsys, label):
    folder = make_folder(tmp_path / "data")
    make_folder(folder, {"train": 4}, label=label)
    train_small(folder_recipe(folder, evaluate_every=20, total_steps=20, batch=1), tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count("no pixel counted") == (1 if label == 255 else 0)
    assert [line["loss"] == 0 for line in load_log(tmp_path / "run")] == [label == 255] * 2


@pytest.mark.parametrize(
    "torchs_words",
    [
        "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)",
        "DataLoader worker (pid 7) is killed by signal: Bus error.",
    ],
)
def test_a_small_shared_memory_is_explained(tmp_path, folder, monkeypatch, torchs_words):
    """As in a container: 64 MB, and torch's page of traceback."""

    def fails(*_):
        raise RuntimeError(torchs_words)

    monkeypatch.setattr(TrainingStream, "collate", fails)
    with pytest.raises(OSError, match=r"--workers.*--shm-size") as raised:
        train_small(folder_recipe(folder), tmp_path / "run", workers=1)
    assert "\n" not in str(raised.value) and torchs_words in str(raised.value)
    with pytest.raises(RuntimeError, match="shared memory|Bus error"):
        train_small(folder_recipe(folder), tmp_path / "other")


def test_an_error_is_told_in_one_line_whatever_it_holds():
    assert reason(ValueError("a\nb")) == "a" and reason(MemoryError()) == "MemoryError"
    worker = "Caught ValueError in DataLoader worker process 0.\nOriginal ...\nValueError: x: y\n"
    assert reason(ValueError(worker)) == "x: y"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_cut_the_same_crops_however_they_are_started(folder, method):
    """Linux, Python 3.14 on Linux, and macOS with Windows start them in three ways."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    job = Run(folder_recipe(folder), None, "data", RunOptions(device="cpu", workers=1), False)
    wanted = default_collate([job.stream[n] for n in range(4)])
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        found = [torch.cat(parts) for parts in zip(*job.batches(2))]
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert all(map(torch.equal, found, wanted))
