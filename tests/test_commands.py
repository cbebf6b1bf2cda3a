"""What the command line refuses before it works, what it writes before it speaks, what it says."""

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_config
from PIL import Image

import setr_lib
from setr_lib import SETR, Recipe
from setr_lib.__main__ import _parser, main
from setr_lib.cli import outputs as exports
from setr_lib.cli.flags import add_flags, field_docs, given
from setr_lib.cli.network import SHIPPED
from setr_lib.data.files import IMAGE_SUFFIXES
from setr_lib.training import recipes
from setr_lib.training.devices import RunOptions
from setr_lib.weights.load import save_checkpoint

CLASSES = [f"class {k}" for k in range(8)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a small network, an image and a folder of two images."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(SETR(small_config()), tmp_path / "net.safetensors")
    Path("photos").mkdir()
    for name in ("a.png", "photos/b.png", "photos/c.jpg"):
        Image.new("RGB", (40, 30), "grey").save(name)
    return tmp_path


@pytest.fixture
def data(here):
    """A data set of three pairs whose names differ in a blank and an underscore."""
    for part, ending in (("images", "jpg"), ("labels", "png")):
        (here / "data" / part).mkdir(parents=True)
        for name in ("b 1", "b_1", "c"):
            pixels = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8), (32, 4)))
            pixels.save(here / "data" / part / f"{name}.{ending}")
    (here / "data" / "classes.txt").write_text("\n".join(CLASSES))
    return f"folder:{here / 'data'}"


def files():
    return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}


@pytest.fixture
def no_network(monkeypatch):
    """Whoever opens the network has not looked at the destinations."""

    def load(*args):
        raise AssertionError("the network was opened first")

    monkeypatch.setattr("setr_lib.cli.network.load_checkpoint", load)


@pytest.mark.parametrize(
    "words, said",
    [
        (["a.png", "--out", "a.png"], "a.png is read and would be replaced"),
        (["a.png", "--mask", "./photos/../a.png"], "a.png is read and would be replaced"),
        (["a.png", "--out", "link.png"], "link.png is read and would be replaced"),
        (["photos/b.png", "--out", "photos"], "b.png is read and would be replaced"),
        (["predictions/masks", "--out", "predictions"], "is read and would be replaced"),
        (["a.png", "--out", "o.xyz"], "o.xyz ends in '.xyz'; choose .png, .jpg"),
        (["a.png", "--out", "o.png", "--mask", "m.jpg"], "m.jpg ends in '.jpg'; choose .png"),
        (["a.png", "--out", "o.png", "--mask", "o.png"], "mask and the overlay"),
        (["a.png", "--out", "net.safetensors/o.png"], "no folder"),
        (["a.png", "--out", "x" * 300 + ".png"], "name too long"),
        (["photos", "a.png", "--out", "o.png"], "o.png is named like an image"),
        (["photos", "--out", "net.safetensors"], "no folder"),
        (["photos", "--mask", "m.png"], "--mask names the mask of one image"),
    ],
)
def test_where_a_prediction_goes_is_looked_at_first(here, no_network, capsys, words, said):
    """Nothing that is read is replaced, and nothing is left behind."""
    os.symlink("a.png", "link.png")
    Path("predictions/masks").mkdir(parents=True)
    Image.new("RGB", (4, 3)).save("predictions/masks/z.png")
    before = files()
    assert main(["predict", *words, "--checkpoint", "net.safetensors"]) == 2
    err = capsys.readouterr().err
    assert said in err.replace("File n", "n") and err.count("\n") == 1
    assert files() == before


@pytest.mark.parametrize(
    "command", ["predict", "predict a.png --out", "evaluate --json", "train x --out"]
)
def test_an_empty_path_is_a_mistake(here, capsys, command):
    """As of a variable that is not set; `predict ""` is not the working folder."""
    before = files()
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), ""])
    assert "an empty path" in capsys.readouterr().err and files() == before


@pytest.mark.parametrize("out, place", [("new/", "new/a.png"), ("there", "there/a.png"),
                                        ("no_ending", "no_ending/a.png"), ("~/o.png", "home/o.png"),
                                        *[(f"o{s}", f"o{s}") for s in IMAGE_SUFFIXES]])  # fmt: skip
def test_an_overlay_goes_into_a_file_or_a_folder(here, monkeypatch, out, place):
    monkeypatch.setenv("HOME", str(here / "home"))
    Path("there").mkdir()
    assert main(["predict", "a.png", "--checkpoint", "net.safetensors", "--out", out]) == 0
    assert Image.open(place).height >= 30


@pytest.mark.parametrize("suffix", exports.MASK_SUFFIXES)
def test_a_mask_keeps_its_numbers_in_every_format(tmp_path, suffix):
    label = np.random.default_rng(0).integers(0, 8, (20, 30)).astype(np.uint8)
    exports.save_mask(tmp_path / f"m{suffix}", label[:, ::-1], [(k, 0, 0) for k in range(8)])
    assert np.array_equal(np.array(Image.open(tmp_path / f"m{suffix}")), label[:, ::-1])


@pytest.mark.parametrize(
    "words, said",
    [
        (["--json", "net.safetensors"], "net.safetensors is read and would be replaced"),
        (["--json", "photos"], "photos is there and no file"),
        (["--json", "a.png/x.json"], "no folder"),
        (["--save-predictions", "data/labels"], "holds the data set itself"),
        (["--save-predictions", "data/images/../labels"], "holds the data set itself"),
        (["--save-predictions", "a.png"], "no folder"),
        (["--device", "cuda:7"], "device is 'cuda:7', which torch does not offer here"),
        (["--device", "gpu"], "device is 'gpu', which torch does not offer here"),
        (["--device", "meta"], "device is 'meta', which torch does not offer here"),
    ],
)
def test_an_evaluation_looks_at_destinations_and_device_first(
    here, data, monkeypatch, capsys, words, said
):
    monkeypatch.setattr("setr_lib.__main__.evaluate", None)
    before = files()
    assert main(["evaluate", "net.safetensors", "--data", data, *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and files() == before


@pytest.mark.parametrize("device", ["cuda:7", "gpu", "mps:3", "meta"])
def test_predict_says_which_device_is_not_here(here, capsys, device):
    assert main(["predict", "a.png", "--checkpoint", "net.safetensors", "--device", device]) == 2
    err = capsys.readouterr().err
    assert f"device is {device!r}" in err and "choose cpu" in err and err.count("\n") == 1


def test_a_converted_file_does_not_replace_its_source(here, capsys):
    for output in ("net.safetensors", "out.pth"):
        assert main(["convert", "net.safetensors", output]) == 2
        assert output in capsys.readouterr().err


def test_saved_predictions_are_called_as_their_images(here, data):
    """A blank and an underscore stay apart; of two images with one name nothing is written."""
    words = ["evaluate", "net.safetensors", "--data", data, "--quiet", "--save-predictions", "p"]
    assert main(words) == 0
    assert sorted(p.name for p in Path("p").iterdir()) == ["b 1.png", "b_1.png", "c.png"]
    twice = setr_lib.load_dataset(data, "val")
    twice.pairs.append((here / "other" / "c.jpg", None))
    with pytest.raises(ValueError, match=r"c.jpg and .*c.jpg would be saved in one file, c.png"):
        exports.label_writer(here / "q", twice)


def test_results_outlive_a_console_without_their_letters(here, data, monkeypatch):
    """Class names that cp1252 and ASCII lack: the scores are written, the names spelled out."""
    (here / "data" / "classes.txt").write_text("\u9053\u8def\n" + "\n".join(CLASSES[1:]), "utf-8")
    net = ["net.safetensors", "--data", data, "--quiet", "--json"]
    for encoding in ("cp1252", "ascii"):
        console = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", console)
        assert main(["evaluate", *net, f"{encoding}.json"]) == 0
        assert rb"\u9053\u8def" in console.buffer.getvalue()
        (found,) = json.loads(Path(f"{encoding}.json").read_text())["scores"].values()
        assert "\u9053\u8def" in found["iou"]


def test_scores_are_written_before_they_are_printed(here, data, monkeypatch):
    monkeypatch.setattr("setr_lib.__main__.score_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["evaluate", "net.safetensors", "--data", data, "--quiet", "--json", "s.json"])
    assert json.loads(Path("s.json").read_text())["images"] == 3


def test_a_network_with_nan_is_named_and_gets_no_score(here, data, capsys):
    model = SETR(small_config())
    with torch.no_grad():
        model.head.classifier.weight[3] = float("nan")
    try:
        save_checkpoint(model, "bad.safetensors")
    except ValueError:
        pytest.skip("such a network cannot be saved")
    evaluation = ["evaluate", "bad.safetensors", "--data", data, "--quiet", "--json", "s.json"]
    for words in (["predict", "a.png", "--checkpoint", "bad.safetensors"], evaluation):
        assert main(words) == 2
        said = capsys.readouterr()
        assert (
            "bad.safetensors" in said.err and "nan" in said.err.lower() and "miou" not in said.out
        )
    assert not Path("s.json").exists() and not Path("overlay.png").exists()


def test_classes_that_no_label_has_are_pointed_at(here, data, capsys):
    for file in (here / "data" / "labels").iterdir():
        label = np.array(Image.open(file))
        label[label == 0] = 2
        label[label == 7] = 255
        Image.fromarray(label).save(file)
    assert main(["evaluate", "net.safetensors", "--data", data, "--quiet"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("in no label: class 0, class 7 (nan") and "count from 1" in last


def test_files_that_are_no_images_are_named(here, capsys):
    for name in ("IMG_1.HEIC", "old.gif", ".hidden.txt"):
        (here / "photos" / name).write_text("x")
    assert main(["predict", "photos", "--checkpoint", "net.safetensors", "--quiet"]) == 0
    err = capsys.readouterr().err
    assert "passed over: IMG_1.HEIC, old.gif (" in err and "hidden" not in err
    for name in ("b.png", "c.jpg"):
        (here / "photos" / name).unlink()
    assert main(["predict", "photos", "--checkpoint", "net.safetensors"]) == 2
    assert "holds no image" in (err := capsys.readouterr().err) and "IMG_1.HEIC" in err


def test_a_run_folder_is_a_checkpoint(here, capsys):
    """Its best network; before there is one, its last."""
    Path("run").mkdir()
    assert main(["predict", "a.png", "--checkpoint", "run"]) == 2
    assert "no checkpoint run" in capsys.readouterr().err
    Path("net.safetensors").rename("run/last.safetensors")
    assert main(["predict", "a.png", "--checkpoint", "run"]) == 0
    Path("run/best.safetensors").write_bytes(b"")
    assert main(["predict", "a.png", "--checkpoint", "run"]) == 2
    assert "best.safetensors" in capsys.readouterr().err


def test_the_network_of_the_book_is_introduced(here, capsys):
    """What it knows and how well, by the record beside it, for the step that the file is of."""
    assert main(["predict", "a.png"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    best = setr_lib.load_record(SHIPPED.parent)["best"]
    assert best["step"] == setr_lib.load_checkpoint(SHIPPED)[1]["step"]
    said = f"11 classes, {100 * best['miou']:.1f} mIoU on CamVid val"
    assert "street network" in line and said in line


@pytest.mark.parametrize("names", [("Straße", "Häuser"), ("дорога", "дом"), ("\U00013000", "x")])
def test_a_legend_has_the_letters_of_its_names(names):
    """Not the box of a missing glyph; where no font has them, the numbers of the classes."""
    label = np.repeat(np.array([[0, 1]], np.uint8), 40, 0).repeat(40, 1)
    picture = np.zeros((*label.shape, 3), np.uint8)
    palette = [(255, 0, 0), (0, 255, 0)]
    shown = np.array(exports.with_legend(picture, label, names, palette))
    boxes = np.array(exports.with_legend(picture, label, ["0", "1"], palette))
    if exports.font_file("".join(names)) is None:
        assert np.array_equal(shown, boxes)
    else:
        from matplotlib.ft2font import FT2Font

        glyphs = FT2Font(exports.font_file("".join(names))).get_charmap()
        assert {ord(letter) for letter in "".join(names)} <= glyphs.keys()
        assert shown.shape != boxes.shape


@pytest.mark.parametrize("opacity", ["2", "-1", "nan", "inf", "much"])
def test_opacity_lies_between_0_and_1(here, capsys, opacity):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "a.png", f"--opacity={opacity}"])
    assert "--opacity" in capsys.readouterr().err


@pytest.mark.parametrize(
    "size", [["512", "512", "3"], ["0"], ["99999999999999999999"], ["-5", "5"]]
)
def test_sizes_of_a_summary_are_named(capsys, size):
    try:
        status = main(["summary", "setr_pup_tiny", "--image-size", *size])
    except SystemExit as error:
        status = error.code
    assert status == 2 and f"--image-size {size[0]}" in capsys.readouterr().err.replace(": ", " ")


def test_an_unknown_recipe_is_answered_briefly(capsys):
    assert main(["train", "nonsense"]) == 2
    assert len(capsys.readouterr().err) < 400


def test_a_closed_pipe_is_no_mistake(monkeypatch, capsys):
    """As in `setr recipes | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as console:
        monkeypatch.setattr(sys, "stdout", console)
        assert main(["recipes"]) == 0
    assert capsys.readouterr().err == ""


def test_modules_of_a_foreign_folder_are_not_imported(tmp_path):
    """`python -m setr_lib` in somebody else's folder runs nothing of it."""
    for name in ("torch", "numpy", "PIL", "json", "typing", "safetensors"):
        (tmp_path / f"{name}.py").write_text("print('foreign code ran')")
    env = {**os.environ, "PYTHONPATH": str(Path(setr_lib.__file__).parent.parent)}
    call = [sys.executable, "-m", "setr_lib", "--version"]
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"setr_lib {setr_lib.__version__}\n"


def test_another_program_keeps_its_working_folder(tmp_path):
    """`python -m mine`, whose package imports this library first, still finds its own modules."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import setr_lib")
    (tmp_path / "mine" / "__main__.py").write_text("import beside")
    (tmp_path / "beside.py").write_text("print('found')")
    env = {**os.environ, "PYTHONPATH": str(Path(setr_lib.__file__).parent.parent)}
    call = [sys.executable, "-m", "mine"]
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "found\n"


def test_every_flag_says_what_it_means():
    """Meaning and default; none of the recipe's and the execution's facts is left out."""
    (verbs,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for verb in verbs.choices.values():
        assert all(action.help for action in verb._actions), verb.prog
    flags = {flag for action in verbs.choices["train"]._actions for flag in action.option_strings}
    facts = {f.name for kind in (Recipe, RunOptions) for f in dataclasses.fields(kind)}
    assert {f"--{name.replace('_', '-')}" for name in facts - {"name", "config"}} <= flags
    assert {f.name for f in dataclasses.fields(Recipe)} <= field_docs(Recipe).keys()


@dataclasses.dataclass
class Facts:
    """Of a test.

    Args:
        count: how many,
            at 100 %.
        low, high: two in one line.
        sides: rows and columns.
        word: or none.
        switch: on or off.
    """

    count: int
    low: float = 0.5
    high: float = 1.0
    sides: tuple[int, int] | None = (1, 2)
    word: str | None = None
    switch: bool = True


@pytest.mark.parametrize(
    "words, found",
    [
        ("", {}),
        ("--count 3 --high 2", {"count": 3, "high": 2.0}),
        ("--sides 5 6", {"sides": (5, 6)}),
        ("--sides none --word none", {"sides": None, "word": None}),
        ("--word ~/x --no-switch", {"word": os.path.expanduser("~/x"), "switch": False}),
    ],
)
def test_flags_follow_from_a_dataclass(words, found):
    parser = argparse.ArgumentParser()
    add_flags(parser, Facts, "facts")
    assert given(parser.parse_args(words.split()), Facts) == found
    assert "how many, at 100 %. Default:" in " ".join(parser.format_help().split())


@pytest.mark.parametrize("words", ["--count x", "--low 1e", "--sides 5 x"])
def test_a_value_of_another_type_is_named(capsys, words):
    parser = argparse.ArgumentParser()
    add_flags(parser, Facts, "facts")
    with pytest.raises(SystemExit):
        parser.parse_args(words.split())
    assert f"{words.split()[-1]!r} is no" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--sides takes 2 numbers, or none; it has 3"):
        given(parser.parse_args(["--sides", "1", "2", "3"]), Facts)


def test_train_takes_every_fact_and_a_data_set_of_ones_own(here, data, monkeypatch, small_recipe):
    """The network has the classes of the data that are named."""
    recipe = dataclasses.replace(small_recipe, config=small_config(num_classes=3))
    monkeypatch.setitem(recipes.RECIPES, "shapes_naive_tiny", recipe)
    words = f"--dataset {data} --crop 16 24 --scale 40 30 --ratio-range 1 1.5 --warmup 1 --steps 1"
    words += " --window 24 24 --stride none --no-photometric --power 2 --device cpu --quiet"
    assert main(["train", "shapes_naive_tiny", "--out", "run", *words.split()]) == 0
    record = json.loads(Path("run/record.json").read_text())
    found = setr_lib.Recipe.from_dict(record["recipe"])
    assert (found.crop, found.scale, found.ratio_range) == ((16, 24), (40, 30), (1.0, 1.5))
    assert (found.warmup, found.power, found.photometric) == (1, 2.0, False)
    assert (found.window, found.stride, found.config.num_classes) == ((24, 24), None, 8)
