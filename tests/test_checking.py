"""`check` opens every file, says all that is wrong, and its exit status can be relied on."""

import json

import numpy as np
import pytest
from PIL import Image

from setr_lib import load_dataset
from setr_lib.__main__ import main
from setr_lib.checking import check_dataset
from setr_lib.layouts import CamVid

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


def test_made_up_scenes_have_no_files():
    with pytest.raises(ValueError, match="shapes is made on the fly"):
        check_dataset("shapes", "val")
