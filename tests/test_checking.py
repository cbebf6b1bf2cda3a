"""`check` opens every file, says all that is wrong, and its exit status can be relied on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setr_lib import load_dataset
from setr_lib.__main__ import main
from setr_lib.data.check import check_dataset, label_histogram, suspicions
from setr_lib.data.layouts import CamVid

SIZE = (6, 8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """Six images per split, random labels, as many as are said to be published."""
    monkeypatch.setattr(CamVid, "counts", {"train": 6, "val": 6})
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "abcdef":
            write(tmp_path / f"camvid/{split}/{name}.png", rng.integers(0, 256, (*SIZE, 3)))
            write(tmp_path / f"camvid/{split}annot/{name}.png", rng.integers(0, 12, SIZE))
    return tmp_path


def test_the_histogram_counts_every_pixel(camvid):
    """Against a loop over the data set; threads do not change the sum."""
    report = check_dataset("camvid", "train", camvid, workers=3, progress=False)
    labels = np.stack([label for _, label in load_dataset("camvid", "train", camvid)])
    assert report.images == report.expected == 6 and not report.problems
    for k in range(11):
        assert report.pixels[k] == (labels == k).sum()
        assert report.images_with[k] == (labels == k).any((1, 2)).sum()
    assert report.ignored == (labels == 255).sum() > 0
    assert sum(report.pixels) + report.ignored == 6 * SIZE[0] * SIZE[1]


def damage(root):
    """One of everything; returns what must be said about each."""
    val, labels = root / "camvid/val", root / "camvid/valannot"
    (labels / "a.png").unlink()
    write(val / "b.jpg", np.zeros((*SIZE, 3)))
    (val / "c.png").write_bytes((val / "c.png").read_bytes()[:60])
    write(labels / "c.png", np.full(SIZE, 77))
    (labels / "d.png").write_text("no image")
    write(labels / "e.png", np.zeros((8, 6)))
    write(labels / "f.png", np.resize([0, 200, 211], SIZE))
    write(labels / "g.png", np.zeros(SIZE))
    return [
        "val/a.png has no label a.png", "b.png and b.jpg have one stem",
        "valannot/g.png has no image g", "there are 5 images in val, 6 are published",
        "val/c.png cannot be read", "valannot/c.png holds the label 77",
        "valannot/d.png cannot be read", "e.png is 6x8 pixels, its label",
        "f.png holds the label 200, 211",
    ]  # fmt: skip


def test_every_problem_is_said_at_once(camvid):
    """Missing, double, unreadable, mismatched and wrong files; two problems of one pair are two."""
    wanted = damage(camvid)
    report = check_dataset("camvid", "val", camvid, progress=False)
    for words in wanted:
        assert sum(words in problem for problem in report.problems) == 1, words
    assert len(report.problems) == len(wanted) and report.images == 5


def test_the_exit_status_says_whether_it_is_clean(camvid, capsys):
    """0 for a clean data set, else not; without --split, train and val."""
    words = ["check", "camvid", "--root", str(camvid), "--quiet"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out.count("nothing is wrong") == 2 and "bicyclist" in said.out and not said.err
    wanted = damage(camvid)
    assert main([*words, "--split", "train"]) == 0
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out.count("\n- ") == len(wanted) and "9 problems in camvid" in said.err


def test_the_findings_can_be_saved(camvid, tmp_path, capsys):
    damage(camvid)
    file = tmp_path / "found.json"
    words = ["--root", str(camvid), "--json", str(file), "--quiet"]
    assert main(["check", "camvid", *words]) == 2
    train, val = json.loads(file.read_text())
    report = check_dataset("camvid", "train", camvid, progress=False)
    assert train["classes"]["car"] == {"pixels": report.pixels[8], "images": report.images_with[8]}
    assert not train["problems"] and len(val["problems"]) == 9 and val["expected"] == 6
    capsys.readouterr()


def test_a_missing_split_is_a_problem_like_any_other(camvid, capsys):
    """The splits that are there are checked all the same."""
    words = ["--root", str(camvid), "--split", "test", "train", "--quiet"]
    assert main(["check", "camvid", *words]) == 2
    said = capsys.readouterr()
    assert "no folder" in said.out and "nothing is wrong" in said.out and "1 problem in" in said.err


def test_unlabelled_images_are_checked_too(tmp_path):
    write(tmp_path / "release_test/testing/a.png", np.zeros((*SIZE, 3)))
    (tmp_path / "release_test/testing/b.jpg").write_text("no image")
    report = check_dataset("ade20k", "test", tmp_path, progress=False)
    assert [problem.split()[0].rsplit("/")[-1] for problem in report.problems] == ["there", "b.jpg"]
    assert sum(report.pixels) == 0


@pytest.mark.parametrize("split", ["", "spring"])
def test_a_folder_is_checked_once(tmp_path, split, capsys):
    """All its splits, or the whole folder where it has none."""
    write(tmp_path / "images" / split / "a.png", np.zeros((*SIZE, 3)))
    write(tmp_path / "labels" / split / "a.png", np.zeros(SIZE))
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    assert main(["check", f"folder:{tmp_path}", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert said.count(": 1 image\n") == 1 and f"{tmp_path} {split or 'train'}: 1" in said


# ---- what may be meant, and is silently wrong if it is not


def write_folder(top, labels, classes=("background", "thing"), **options):
    """Grey photographs with these labels in train and in val."""
    for split in ("train", "val"):
        for number, label in enumerate(labels):
            image = Image.fromarray(np.full((*np.shape(label)[:2], 3), 90, np.uint8))
            folder = top / "images" / split
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png", **options)
            write(top / "labels" / split / f"{number}.png", label)
    (top / "classes.txt").write_text("\n".join(classes))
    return f"folder:{top}"


def doubts(name):
    report = check_dataset(name, "train", progress=False)
    assert not report.problems
    return report.suspicions


HALF = np.resize([0, 1], SIZE)


@pytest.mark.parametrize(
    "label, classes, words",
    [
        (HALF * 255, ("background", "thing"), "50.0 % .* none is thing: .*masks of 0 and 255.*: 1"),
        (np.eye(30) * 255, ("background", "thing"), "3.3 % .* none is thing"),
        (np.resize([0, 1, 255], SIZE), ("road", "car", "sky"), "none is sky: .*masks of 0 and 255"),
        (np.full(SIZE, 255), ("background", "thing"), "every pixel of the labels is ignored"),
        (HALF + 1, ("road", "car", "sky"), "no pixel is road, .*count from 1"),
        (np.resize([0, 2], SIZE), ("road", "car", "sky"), "no pixel of this split is car"),
    ],
)
def test_suspicious_values_are_said(tmp_path, label, classes, words, capsys):
    """By check, on the command line and in its JSON; it is no problem, so the exit status is 0."""
    name = write_folder(tmp_path, [label, label], classes)
    assert re.search(words, "\n".join(doubts(name)))
    assert main(["check", name, "--quiet", "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    assert re.search(words, said) and "nothing is wrong" not in said
    assert re.search(
        words, "\n".join(json.loads((tmp_path / "found.json").read_text())[0]["suspicions"])
    )


def test_palette_masks_of_0_and_255_are_suspicious_too(tmp_path):
    name = write_folder(tmp_path, [HALF])
    Image.fromarray((HALF * 255).astype(np.uint8)).convert("P").save(
        tmp_path / "labels/train/0.png"
    )
    assert "masks of 0 and 255" in " ".join(doubts(name))


def test_a_clean_folder_is_not_suspicious(tmp_path):
    label = np.resize([0, 1, 1, 0, 255], SIZE)
    assert not doubts(write_folder(tmp_path, [label]))
    (tmp_path / "images/train/notes.txt").touch()
    (tmp_path / "labels/train/.DS_Store").touch()
    assert not doubts(f"folder:{tmp_path}")


def test_a_sample_of_a_large_data_set_is_not_suspicious():
    """Of ADE20K's 150 classes, some are in no label of a few hundred; 255 is a tenth there."""
    counts = [1000 - k for k in range(120)] + [0] * 30
    assert not suspicions(counts, 12_000, [f"class {k}" for k in range(150)])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photographs_are_said(tmp_path, orientation):
    """Where the size does not show it: half a turn, a mirror image, a square photograph."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    name = write_folder(tmp_path, [np.resize([0, 1], (8, 8))] * 2, exif=exif)
    said = " ".join(doubts(name))
    assert ("2 of 2 images have an EXIF orientation" in said) == (orientation > 1)


@pytest.mark.parametrize(
    "image, words",
    [
        (np.linspace(0, 4095, 48).reshape(SIZE).astype(np.uint16), "nearly black.*12 bits"),
        (np.ones((*SIZE, 3), np.uint8), "nearly black"),
        (np.resize(np.arange(4, dtype=np.uint8) * 60, (*SIZE, 4)), "fourth channel .*infrared"),
    ],
)
def test_what_reading_an_image_drops_is_said(tmp_path, image, words):
    name = write_folder(tmp_path, [HALF, HALF])
    Image.fromarray(image).save(tmp_path / "images/train/1.png")
    (found,) = doubts(name)
    assert re.search(f"1 of 2 images .*{words}.*: 1.png", found)


def test_a_folder_without_splits_is_said(tmp_path):
    write(tmp_path / "images/a.png", np.full((*SIZE, 3), 90))
    write(tmp_path / "labels/a.png", HALF)
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    assert "val is one on the training images" in doubts(f"folder:{tmp_path}")[0]
    assert load_dataset(f"folder:{tmp_path}", "val").suspicions == list(
        doubts(f"folder:{tmp_path}")
    )


@pytest.mark.parametrize("ending", [".gif", ".npy", ".heic", ".jfif"])
def test_files_that_are_passed_over_are_said(tmp_path, ending):
    """An image that is not read, and a label that is there but not read."""
    name = write_folder(tmp_path, [HALF, HALF])
    (tmp_path / f"images/train/photo{ending}").touch()
    (found,) = doubts(name)
    assert f"passed over: 1 {ending} (the first is photo{ending})" in found
    (tmp_path / "labels/train/1.png").rename(tmp_path / f"labels/train/1{ending}")
    (problem,) = check_dataset(name, "train", progress=False).problems
    assert f"has no label 1.png in {tmp_path / 'labels/train'} (1{ending} is there" in problem


def test_training_can_ask_the_same_of_a_few_labels(tmp_path):
    """Labels spread over the data set; those that cannot be read are left to who reads them."""
    labels = [np.full(SIZE, k % 2) for k in range(12)]
    labels[8] = np.full(SIZE, 255)
    data = load_dataset(write_folder(tmp_path, labels), "train")
    assert label_histogram(data) == ([6 * 48 - 48, 6 * 48], 48)
    counts, ignored = label_histogram(data, most=3)
    assert sum(counts) + ignored == 3 * 48
    Path(data.pairs[0][1]).write_text("no image")
    assert sum(label_histogram(data, most=12)[0]) == 10 * 48
    shapes = load_dataset("shapes", "val")
    wanted = np.bincount(np.stack([shapes[0][1], shapes[199][1]]).ravel(), minlength=8)
    assert label_histogram(shapes, most=2) == (wanted.tolist(), 0)


def test_made_up_scenes_have_no_files():
    with pytest.raises(ValueError, match="shapes is made on the fly"):
        check_dataset("shapes", "val")
