"""The command line does what the README says, and a mistake ends in one line, no traceback."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small_config
from PIL import Image

from setr_lib import (
    SETR,
    TestProtocol,
    confusion_matrix,
    evaluate,
    load_checkpoint,
    load_dataset,
    predict,
)
from setr_lib.__main__ import main
from setr_lib.cli.network import SHIPPED
from setr_lib.cli.outputs import save_label_ids
from setr_lib.data.load import Shapes, check_classes
from setr_lib.data.shapes import PALETTE
from setr_lib.images import SCALES
from setr_lib.training import recipes
from setr_lib.training.recipes import replace
from setr_lib.weights.load import save_checkpoint


@pytest.fixture
def trained(tmp_path, monkeypatch, small_recipe):
    """A run folder that `train` wrote, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(recipes.RECIPES, "shapes_naive_tiny", small_recipe)
    assert main(["train", "shapes_naive_tiny", "--quiet", "--device", "cpu"]) == 0
    return tmp_path / "runs" / "shapes_naive_tiny"


def test_train_evaluate_predict(trained, tmp_path, capsys):
    """The three commands in a row; evaluation gives the record's number."""
    record = json.loads((trained / "record.json").read_text())
    best = trained / "best.safetensors"
    assert main(["evaluate", str(best), "--quiet", "--json", "scores.json"]) == 0
    table = capsys.readouterr().out
    assert f"{100 * record['best']['miou']:.1f}" in table and "fence" in table
    facts = json.loads((tmp_path / "scores.json").read_text())
    (found,) = facts["scores"].values()
    assert found == {key: record["best"][key] for key in found}
    assert np.sum(facts["counts"]) == 3 * 128 * 128 and facts["images"] == 3
    assert facts["checkpoint"]["sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    assert facts["protocol"]["base"] == [128, 128] and facts["protocol"]["rule"] == "fit"
    assert facts["commit"] and facts["hardware"] and facts["versions"] and not facts["left_out"]

    Image.fromarray(np.full((15, 33, 3), 120, np.uint8)).save("x.jpg")
    chosen = ["--checkpoint", str(best)]
    assert main(["predict", "x.jpg", *chosen, "--mask", "mask.png"]) == 0
    mask, overlaid = Image.open("mask.png"), Image.open("overlay.png")
    assert mask.size == (33, 15) and mask.mode == "P" and np.array(mask).max() < 8
    assert tuple(mask.getpalette()[:24]) == sum(PALETTE, ())
    assert overlaid.width > 33  # the legend


def test_evaluate_with_test_time_augmentation_and_predictions(trained, tmp_path, capsys):
    """--tta (or --ms) says so in the JSON; the PNGs hold the data set's numbers and agree."""
    best = str(trained / "best.safetensors")
    words = ["--tta", "--quiet", "--save-predictions", "here", "--json", "scores.json"]
    assert main(["evaluate", best, *words]) == 0
    assert main(["evaluate", best, "--ms", "--quiet", "--json", "ms.json"]) == 0
    facts = json.loads((tmp_path / "ms.json").read_text())
    counts = facts["counts"]
    assert len(facts["protocol"]["scales"]) == 6 and facts["protocol"]["flip"]
    facts = json.loads((tmp_path / "scores.json").read_text())
    assert facts["counts"] == counts
    files = sorted((tmp_path / "here").iterdir())
    assert [file.name for file in files] == [f"shapes_number_{n}.png" for n in range(3)]
    labels = [label for _, label in Shapes("val")]
    counts = sum(confusion_matrix(np.array(Image.open(f)), t, 8) for f, t in zip(files, labels))
    assert counts.tolist() == facts["counts"]
    assert main(["evaluate", best, "--protocol", "ade20k_mss"]) == 2
    assert "did you mean ade20k_ms" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--tta"]])
def test_python_and_the_command_line_score_the_network_of_the_book_alike(
    tmp_path, monkeypatch, words
):
    """By default as its training did: streets at half their size, without a word in either."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, channels in (("val", (3,)), ("valannot", ())):
        (tmp_path / "data" / "camvid" / split).mkdir(parents=True)
        for name in "ab":
            pixels = rng.integers(0, 11, (36, 48, *channels), dtype=np.uint8).repeat(8, 0)
            file = tmp_path / "data" / "camvid" / split / f"{name}.png"
            Image.fromarray(20 * pixels if channels else pixels).save(file)
    assert main(["evaluate", "--quiet", "--device", "cpu", "--json", "s.json", *words]) == 0
    facts = json.loads((tmp_path / "s.json").read_text())
    model, _ = load_checkpoint(SHIPPED)
    assert model.protocol == TestProtocol(base=(240, 180), rule="fit")
    given = {"scales": SCALES, "flip": True} if words else {}
    found = evaluate(model, load_dataset("camvid", "val"), progress=False, **given)
    assert found.counts.tolist() == facts["counts"] and found.counts.sum() == 2 * 288 * 48
    assert main(["predict", "data/camvid/val/a.png", "--mask", "m.png", *words]) == 0
    label = predict(model, "data/camvid/val/a.png", **given)
    assert np.array_equal(np.array(Image.open("m.png")), label)


def test_a_run_writes_its_protocol_into_its_checkpoints(trained):
    """As plain facts; `--precision` is in what an evaluation writes."""
    model, about = load_checkpoint(trained / "best.safetensors")
    wanted = TestProtocol(base=(128, 128), rule="fit")
    assert model.protocol == wanted and TestProtocol(**about["protocol"]) == wanted
    words = ["--quiet", "--precision", "bf16", "--json", "s.json"]
    assert main(["evaluate", str(trained), *words]) == 0
    assert json.loads(Path("s.json").read_text())["precision"] == "bf16"


def test_servers_get_their_own_numbers(tmp_path):
    """Cityscapes' train id 0 is road, in its files 7; a file is called what its image is."""
    data = SimpleNamespace(
        label_ids=(7, 8, 11, 12, 13, 17, 19, 20),
        file=lambda number: "leftImg8bit/val/a/a_000001_000019_leftImg8bit.png",
    )
    save_label_ids(tmp_path, data, 0, np.array([[0, 2], [7, 7]], np.uint8))
    found = Image.open(tmp_path / "a_000001_000019_leftImg8bit.png")
    assert found.mode == "L" and np.array(found).tolist() == [[7, 11], [20, 20]]


def test_an_evaluation_with_a_bad_file_keeps_its_counts(tmp_path, trained, monkeypatch, capsys):
    plain = Shapes.__getitem__

    def damaged(self, index):
        if self.split == "val" and index == 1:
            raise ValueError("street.png cannot be read")
        return plain(self, index)

    monkeypatch.setattr(Shapes, "__getitem__", damaged)
    best = str(trained / "best.safetensors")
    assert main(["evaluate", best, "--quiet", "--json", "scores.json"]) == 2
    said = capsys.readouterr()
    assert "miou" in said.out and "1 of 3 pairs are not counted: street.png" in said.err
    facts = json.loads((tmp_path / "scores.json").read_text())
    assert np.sum(facts["counts"]) == 2 * 128 * 128
    assert facts["left_out"] == {"shapes number 1": "street.png cannot be read"}


def test_predict_reads_a_folder_of_any_images(tmp_path, monkeypatch, capsys):
    """The shipped network, images of several modes, a turned photograph; a damaged file is named
    and the others are done."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    Image.fromarray(pixels).save("in/rgba.png")
    Image.fromarray(pixels[..., 0]).save("in/grey.png")
    Image.fromarray(pixels[..., :3]).quantize(16).save("in/palette.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save("in/deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    Image.fromarray(pixels[..., :3]).save("in/turned.jpg", exif=exif)
    Path("in/damaged.png").write_bytes(Path("in/rgba.png").read_bytes()[:99])
    Path("in/notes.txt").write_text("no image")
    assert main(["predict", "in", "--quiet"]) == 2
    said = capsys.readouterr()
    assert "using data/models/camvid_mla_tiny/model.safetensors" in said.err
    assert "damaged.png cannot be read" in said.err and "the other 5 are in" in said.err
    for kind in ("masks", "overlays"):
        names = sorted(file.stem for file in Path("predictions", kind).iterdir())
        assert names == ["deep", "grey", "palette", "rgba", "turned"]
    assert Image.open("predictions/masks/rgba.png").size == (40, 30)
    assert Image.open("predictions/masks/turned.png").size == (30, 40)
    Path("in/rgba.jpg").write_bytes(Path("in/turned.jpg").read_bytes())
    assert main(["predict", "in"]) == 2 and "have one stem" in capsys.readouterr().err


def test_without_the_repository_a_checkpoint_must_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("setr_lib.cli.network.SHIPPED", tmp_path / "model.safetensors")
    assert main(["evaluate"]) == 2
    assert "name a checkpoint, or work in a clone" in capsys.readouterr().err


def test_resume_from_the_command_line(tmp_path, monkeypatch, small_recipe, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(recipes.RECIPES, "shapes_naive_tiny", small_recipe)
    start = ["train", "shapes_naive_tiny", "--out", "here", "--quiet"]
    assert main([*start, "--steps", "4"]) == 0
    assert main([*start, "--resume"]) == 0
    record = json.loads((tmp_path / "here" / "record.json").read_text())
    assert record["finished"]
    assert f"{100 * record['last']['miou']:.1f} mIoU after 12 steps" in capsys.readouterr().out


def test_facts_of_a_recipe_can_be_replaced(tmp_path, monkeypatch, small_recipe):
    monkeypatch.setitem(recipes.RECIPES, "shapes_naive_tiny", small_recipe)
    words = ["--total-steps", "2", "--lr", "0.5", "--optimizer", "sgd", "--seed", "9"]
    assert (
        main(["train", "shapes_naive_tiny", "--out", str(tmp_path / "x"), "--quiet", *words]) == 0
    )
    found = json.loads((tmp_path / "x" / "record.json").read_text())["recipe"]
    assert [found[k] for k in ("total_steps", "lr", "optimizer", "seed")] == [2, 0.5, "sgd", 9]


@pytest.mark.parametrize(
    "words, message",
    [
        (["train", "camvid_naive_tny"], "did you mean camvid_naive_tiny"),
        (["train", "camvid_naive_tiny"], "setr_lib download camvid"),
        (["summary", "setr_pup_larg"], "did you mean setr_pup_large"),
        (["predict", "no.jpg", "--mask", "x.png"], "there is no image no.jpg"),
        (["predict", "."], ". holds no image"),
        (["evaluate", "no.safetensors"], "there is no checkpoint no.safetensors"),
        (["predict", "no.jpg"], "there is no image no.jpg"),
        (["baselines", "camvid"], "setr_lib download camvid"),
        (["baselines", "cityscape"], "unknown data set 'cityscape'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_other_classes_is_refused(trained, tmp_path, capsys):
    for folder, array in (("val", np.zeros((6, 8, 3))), ("valannot", np.zeros((6, 8)))):
        (tmp_path / "data" / "camvid" / folder).mkdir(parents=True)
        file = tmp_path / "data" / "camvid" / folder / "a.png"
        Image.fromarray(array.astype(np.uint8)).save(file)
    best = str(trained / "best.safetensors")
    assert main(["evaluate", best, "--data", "camvid"]) == 2
    assert "has 8 classes, camvid has 11" in capsys.readouterr().err


def test_classes_of_another_name_are_refused():
    data = Shapes("val")
    check_classes(data.classes, 8, data)
    check_classes(None, 8, data)
    with pytest.raises(ValueError, match="class 1 of the checkpoint is 'car', that of shapes"):
        check_classes(("sky", "car", *data.classes[2:]), 8, data)


def test_a_damaged_checkpoint_is_named(trained, capsys):
    file = trained / "best.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    assert main(["evaluate", str(file)]) == 2
    assert "best.safetensors is damaged" in capsys.readouterr().err


def test_summary_counts_the_parts(capsys):
    assert main(["summary", "setr_mla_tiny", "--image-size", "360", "480", "--classes", "11"]) == 0
    said = capsys.readouterr().out
    assert "690 = 23 x 30 patches" in said and "neck" in said and "GFLOP" in said
    lines = [line for line in said.splitlines() if line.endswith("parameters")]
    parts = [int(line.split()[-2].replace(",", "")) for line in lines]
    assert sum(parts[:-1]) == parts[-1]


def test_summary_of_all_models(capsys, monkeypatch):
    monkeypatch.setattr("setr_lib.__main__.list_models", lambda: ["setr_pup_tiny", "fcn_resnet50"])
    assert main(["summary", "--all", "--image-size", "64", "--classes", "19"]) == 0
    head, pup, fcn = capsys.readouterr().out.splitlines()
    assert pup.startswith("setr_pup_tiny") and pup.endswith(" 16") and fcn.endswith(" 0")
    assert len(head.split()) > 5 and main(["summary"]) == 2


def test_convert_writes_our_form(tmp_path, monkeypatch, capsys):
    """The authors' file goes in, a file that `evaluate` and `predict` understand comes out."""
    from test_weights import in_authors_names, random_model

    theirs = random_model("pup", image_size=(48, 48))
    torch.save({"state_dict": in_authors_names(theirs)}, tmp_path / "theirs.pth")
    files = [str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors")]
    assert main(["convert", *files, "--heads", "3", "--layers", "0", "1", "2", "3"]) == 0
    assert "authors: " in capsys.readouterr().out
    ours, _ = load_checkpoint(files[1])
    images = torch.randn(1, 3, 48, 64)
    assert torch.equal(ours(images), theirs(images))
    Image.fromarray(np.full((15, 33, 3), 120, np.uint8)).save(tmp_path / "x.png")
    words = [str(tmp_path / "x.png"), "--checkpoint", files[1], "--out", str(tmp_path / "y.png")]
    assert main(["predict", *words]) == 0 and "class " in capsys.readouterr().out
    assert main(["evaluate", files[1]]) == 2 and "--data" in capsys.readouterr().err
    assert main(["convert", files[0], str(tmp_path / "no.safetensors")]) == 2
    assert not (tmp_path / "no.safetensors").exists()


def test_help_lists_the_commands():
    done = subprocess.run(
        [sys.executable, "-m", "setr_lib", "--help"], capture_output=True, text=True, check=True
    )
    commands = ("summary", "convert", "download", "check", "recipes", "train", "plot", "evaluate")
    for command in (*commands, "predict", "baselines"):
        assert command in done.stdout


def test_plot_draws_several_runs(trained, tmp_path, capsys):
    assert main(["plot", str(trained), "camvid_naive_tiny", "--out", "curves.png"]) == 0
    assert Image.open("curves.png").size[0] > 500 and "curves.png" in capsys.readouterr().out
    assert main(["plot", "no_run"]) == 2 and "no record no_run" in capsys.readouterr().err


def test_switches_and_facts_from_the_command_line(tmp_path, monkeypatch, small_recipe):
    monkeypatch.setitem(
        recipes.RECIPES, "shapes_naive_tiny", replace(small_recipe, pretrained="some_model")
    )
    words = ["--precision", "bf16", "--activation-checkpointing", "--channels-last"]
    words += ["--pretrained", "none", "--micro-batch", "1", "--steps", "1", "--device", "cpu"]
    assert main(["train", "shapes_naive_tiny", "--out", str(tmp_path), "--quiet", *words]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["recipe"]["pretrained"] is None and record["recipe"]["micro_batch"] == 1
    session = record["sessions"][0]
    assert session["precision"] == "bf16" and session["activation_checkpointing"]
    assert session["channels_last"] and not session["compile"]


def test_convert_reads_its_input_once(tmp_path, monkeypatch):
    from setr_lib.weights import tensors

    save_checkpoint(SETR(small_config()), tmp_path / "a.safetensors")
    opened, open_file = [], tensors.safe_open
    monkeypatch.setattr(
        tensors, "safe_open", lambda *a, **k: opened.append(a) or open_file(*a, **k)
    )
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]) == 0
    assert len(opened) == 1
