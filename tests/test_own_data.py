"""From a folder of somebody's own to an overlay: every form of mask, a split, a recipe."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import small_config
from own_folder import make_folder
from PIL import Image

import setr_lib
from setr_lib.__main__ import main
from setr_lib.data.labels import convert_labels, find_form
from setr_lib.data.layouts import make_splits
from setr_lib.training import own, recipes
from setr_lib.training.record import ROOT

COLOURS = ((10, 20, 30), (200, 0, 0), (0, 200, 100))
SPOT = (slice(8, 20), slice(8, 24))
TWO = ("0 and 255", "0 and 255 in colours", "one bit")  # forms of two classes


def a_folder(root: Path, form: str, pairs: int = 5) -> Path:
    """Bright spots on dark ground, in one folder, with the spot's mask in one of the forms."""
    classes = ["ground", "spot"] if form in TWO else ["ground", "spot", "line"]
    colours = COLOURS if form == "colours" else [""] * 3
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(pairs):
        rng = np.random.default_rng(number)
        image, label = rng.integers(0, 60, (32, 40, 3), np.uint8), np.zeros((32, 40), np.uint8)
        image[SPOT], label[SPOT] = 220, 1
        if len(classes) == 3:
            image[26:30], label[26:30] = (0, 200, 0), 2
        mask = {
            "0 and 255": lambda lab: Image.fromarray(lab * 255),
            "grey steps": lambda lab: Image.fromarray(lab * 127),
            "from 1": lambda lab: Image.fromarray(lab + 1),
            "colours": lambda lab: Image.fromarray(np.array(COLOURS, np.uint8)[lab]),
            "palette": as_palette,
            "0 and 255 in colours": lambda lab: Image.fromarray(lab * 255).convert("RGB"),
            "one bit": lambda lab: Image.fromarray(lab * 255).convert("1"),
            "class numbers": Image.fromarray,
        }[form](label)
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        mask.save(root / "labels" / f"{number}_mask.png")
    lines = [" ".join([name, *map(str, colour)]) for name, colour in zip(classes, colours)]
    (root / "classes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def as_palette(label: np.ndarray) -> Image.Image:
    mask = Image.fromarray(label)
    mask.putpalette(np.array(COLOURS, np.uint8).tobytes())
    return mask


@pytest.fixture
def tiny(monkeypatch):
    """The recipe of one's own with a network of seconds; all else is as it is."""
    monkeypatch.setattr(
        own, "model_config", lambda name, classes, size: small_config(num_classes=classes)
    )


FORMS = ["class numbers", "palette", "colours", "grey steps", "from 1", *TWO]


@pytest.mark.parametrize("form", FORMS)
def test_from_a_folder_to_an_overlay(tmp_path, monkeypatch, capsys, tiny, form):
    """check, convert-labels where it is needed, train, evaluate, predict: as the messages say."""
    monkeypatch.chdir(tmp_path)
    source = a_folder(Path("mine"), form)
    assert main(["check", "folder:mine", "--quiet"]) == (
        2 if form in ("grey steps", "from 1") else 0
    )
    said, words = capsys.readouterr().out, ["--total-steps", "2", "--device", "cpu", "--quiet"]
    converts = "setr convert-labels mine NEW" in said
    assert converts == (form in ("0 and 255", "0 and 255 in colours", "grey steps", "from 1"))
    if converts:
        assert main(["train", "--data", "folder:mine", *words]) == 2
        assert "setr convert-labels mine NEW" in capsys.readouterr().err
        assert main(["convert-labels", "mine", "NEW"]) == 0
        source = Path("NEW")
    assert main(["train", "--data", f"folder:{source}", *words]) == 0
    out = capsys.readouterr().out
    assert "4 pairs to train on, 1 for val" in out or (source / "splits").is_dir()
    assert f"next: setr evaluate runs/{source}" in out
    data = setr_lib.load_dataset(f"folder:{source}", "val")
    _, label = data[0]
    assert label[10, 10] == 1 and label[0, 0] == 0
    assert main(["evaluate", f"runs/{source}", "--quiet"]) == 0
    assert "ground" in capsys.readouterr().out
    photo = str(source / "images" / "0.png")
    assert main(["predict", photo, "--checkpoint", f"runs/{source}", "--mask", "mask.png"]) == 0
    assert np.asarray(Image.open("mask.png")).max() < len(data.classes)


def test_merged_and_ignored_classes_go_from_a_folder_to_an_overlay(
    tmp_path, monkeypatch, capsys, tiny
):
    """Colours, line and spot as one, a sky that does not count; the split goes along."""
    monkeypatch.chdir(tmp_path)
    a_folder(Path("mine"), "colours")
    Path("mine/classes.txt").write_text(Path("mine/classes.txt").read_text() + "sky 9 9 9\n")
    for file in Path("mine/labels").iterdir():
        painted = np.array(Image.open(file))
        painted[:4] = 9
        Image.fromarray(painted).save(file)
    Path("mine/splits").mkdir()
    for name, stems in {"train": "0\n1\n2\n", "val": "3\n4\n"}.items():
        Path(f"mine/splits/{name}.txt").write_text(stems)
    assert main(["convert-labels", "mine", "NEW", "--map", "line=thing", "spot=thing",
                 "sky=ignore"]) == 0  # fmt: skip
    assert "5 labels of 2 classes, ground, thing" in capsys.readouterr().out
    words = ["train", "--data", "folder:NEW", "--total-steps", "2", "--device", "cpu", "--quiet"]
    assert main(words) == 0
    record = json.loads(Path("runs/NEW/record.json").read_text())
    assert record["images"] == {"train": 3, "val": 2} and record["classes"] == ["ground", "thing"]
    label = setr_lib.load_dataset("folder:NEW", "val")[0][1]
    assert (label[10, 10], label[27, 0], label[6, 0], label[0, 0]) == (1, 1, 0, 255)
    assert main(["predict", "mine/images/0.png", "--checkpoint", "runs/NEW"]) == 0
    assert Image.open("overlay.png").size[0] > 40  # the legend stands beside it


def as_infrared(path: Path) -> None:
    """A TIFF of four bands, the last of which is no transparency."""
    image = np.asarray(Image.open(path))
    band = np.full((*image.shape[:2], 1), 200, np.uint8)
    Image.fromarray(np.concatenate([image, band], 2)).save(path.with_suffix(".tif"))
    says = [struct.pack("<HHIHH", 338, 3, 1, meaning, 0) for meaning in (2, 0)]
    written = path.with_suffix(".tif").read_bytes()
    assert says[0] in written
    path.with_suffix(".tif").write_bytes(written.replace(*says))
    path.unlink()


def as_wide(path: Path) -> None:
    """Class numbers of 16 bits, one of them 300."""
    wide = np.asarray(Image.open(path)).astype(np.uint16)
    wide[0, 0] = 300
    Image.fromarray(wide).save(path)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda root: [as_infrared(p) for p in (root / "images").iterdir()],
         "it has 4 bands, and one of them is neither colour nor transparency"),
        (lambda root: [as_wide(p) for p in (root / "labels").iterdir()],
         "its labels go from 0 to 300; class numbers are 0 to 255"),
        (lambda root: (root / "classes.txt").write_text("".join(f"c{k}\n" for k in range(300))),
         "names 300 classes; labels of 8 bits hold at most 255"),
        (lambda root: [Image.open(p).convert("RGB").save(p.with_suffix(".jpg")) or p.unlink()
                       for p in (root / "labels").iterdir()],
         "it is a JPEG compressed with loss, which changes class numbers"),
    ],
    ids=["bands", "wide", "classes", "jpeg"],
)  # fmt: skip
def test_what_cannot_be_learnt_from_is_refused(tmp_path, monkeypatch, capsys, tiny, spoil, said):
    """By check and by train, with the reason; no run is left behind."""
    monkeypatch.chdir(tmp_path)
    spoil(a_folder(Path("mine"), "class numbers"))
    assert main(["check", "folder:mine", "--quiet"]) == 2
    assert said in "".join(capsys.readouterr())
    words = ["train", "--data", "folder:mine", "--total-steps", "2", "--device", "cpu", "--quiet"]
    assert main(words) == 2
    assert said in "".join(capsys.readouterr())
    assert not list(Path().glob("runs/*/record.json"))


def test_a_split_is_made_once_and_written_down(tmp_path):
    """A fifth, every time the same; nobody is in both; what somebody wrote stays."""
    root = a_folder(tmp_path / "mine", "class numbers", 10)
    assert make_splits(root) == (8, 2)
    train, val = ((root / "splits" / f"{s}.txt").read_text().split() for s in ("train", "val"))
    assert sorted(train + val) == sorted(map(str, range(10)))
    assert len(setr_lib.load_dataset(f"folder:{root}", "val")) == 2
    (root / "splits" / "val.txt").write_text("3\n")
    own.prepare_folder(root)
    assert setr_lib.load_dataset(f"folder:{root}", "val").file(0).endswith("3.png")
    (root / "splits" / "val.txt").write_text("3\nnobody\n")
    with pytest.raises(ValueError, match=r"val\.txt lists nobody, which has no pair"):
        setr_lib.load_dataset(f"folder:{root}", "val")


@pytest.mark.parametrize(
    "values, classes, words, some",
    [
        ([0, 1, 2, 255], 3, "class numbers", {0: 0, 2: 2, 255: 255}),
        ([0, 255], 2, "masks of 0 and 255", {0: 0, 255: 1}),
        ([1, 2, 3], 3, "class numbers that start at 1 (1, 2, 3)", {1: 0, 3: 2, 255: 255}),
        ([1, 3, 255], 3, "class numbers that start at 1 (1, 3, 255)", {1: 0, 3: 2, 255: 255}),
        ([0, 85, 170, 255], 4, "4 grey steps (0, 85, 170, 255)", {85: 1, 255: 3}),
        ([0, 1, 2, 3], 3, "the numbers 0, 1, 2, 3 for 3 classes: either", None),
        ([0, 7, 9, 11], 3, "the values 0, 7, 9, 11, which are not", None),
    ],
)
def test_the_form_of_labels_is_named(values, classes, words, some):
    """What could be two things is none."""
    form = find_form(values, [f"c{k}" for k in range(classes)])
    assert form.words.startswith(words)
    assert some is None if form.table is None else all(form.table[v] == k for v, k in some.items())


def test_classes_are_merged_left_out_and_renamed(tmp_path):
    """By their names; the classes that are left are numbered anew, with their colours."""
    source = make_folder(tmp_path / "mine")
    before = setr_lib.load_dataset(f"folder:{source}", "train")
    convert_labels(source, tmp_path / "new", ["a=ignore", "b=thing", "c=thing"][:1])
    after = setr_lib.load_dataset(f"folder:{tmp_path / 'new'}", "train")
    assert after.classes == ("b", "c")
    for (image, label), (same, new) in zip(before, after):
        assert np.array_equal(image, same)
        assert np.array_equal(new, np.array([255, 0, 1], np.uint8)[label])
    convert_labels(source, tmp_path / "merged", ["a=thing", "c=thing"])
    merged = setr_lib.load_dataset(f"folder:{tmp_path / 'merged'}", "val")
    assert merged.classes == ("thing", "b")
    assert np.array_equal(merged[0][1], np.array([0, 1, 0], np.uint8)[
        setr_lib.load_dataset(f"folder:{source}", "val")[0][1]])  # fmt: skip


@pytest.mark.parametrize(
    "change, said",
    [
        ("a", "say OLD=NEW"),
        ("300=a", "a value of 0 to 255 becomes one of the classes a, b, c"),
        ("d=a", "unknown class 'd'"),
        ("7=d", "one of the classes a, b, c, or ignore"),
        ("a=9", "there are 3 classes, 0 to 2"),
    ],
)
def test_a_change_that_means_nothing_is_named(tmp_path, capsys, change, said):
    """Before anything is written."""
    source = make_folder(tmp_path / "mine")
    assert main(["convert-labels", str(source), str(tmp_path / "new"), "--map", change]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_the_source_is_never_written(tmp_path, capsys):
    """The target is a new folder."""
    source = make_folder(tmp_path / "mine")
    assert main(["convert-labels", str(source), str(source)]) == 2
    assert "is there already; name a new folder" in capsys.readouterr().err


class Pairs(list):
    """What somebody's own code may give: a list with names."""

    classes, palette = ("dark", "bright"), ((0, 0, 0), (255, 255, 255))


def some_pairs(count: int) -> Pairs:
    rng = np.random.default_rng(count)
    images = [rng.integers(0, 256, (32, 40, 3), np.uint8) for _ in range(count)]
    return Pairs((image, (image.mean(2) > 128).astype(np.uint8)) for image in images)


def test_own_data_sets_and_a_function_go_into_train(tmp_path, tiny):
    """The function sees whole training pairs, and no other."""
    seen = []

    def darker(image, label):
        seen.append(image.shape)
        return image // 2, label

    record = setr_lib.train(
        "own", tmp_path / "run", data=(some_pairs(4), some_pairs(2)), augment=darker,
        total_steps=2, batch=2, device="cpu", progress=False,
    )  # fmt: skip
    assert record["classes"] == ["dark", "bright"] and record["images"] == {"train": 4, "val": 2}
    assert seen and set(seen) == {(32, 40, 3)}
    with pytest.raises(TypeError, match="augment gave no pair of uint8 arrays"):
        setr_lib.train(
            "own", tmp_path / "other", data=(some_pairs(4), some_pairs(2)),
            augment=lambda image, label: image, total_steps=2, device="cpu", progress=False,
        )  # fmt: skip


def test_a_recipe_is_sized_to_the_data(tmp_path):
    """Crops of the images' shape, a patch that leaves some twenty a side, more for few images."""
    for split, count in {"few": 3, "many": 60}.items():
        folder = tmp_path / split
        a_folder(folder, "class numbers", count)
        found = own.own_recipe(setr_lib.load_dataset(f"folder:{folder}", "train"))
        assert found.config.num_classes == 3 and found.crop == (32, 40) and found.class_weights
        assert found.ratio_range == ((0.5, 2.0) if split == "few" else (0.75, 1.5))
    big = Pairs((np.zeros((480, 640, 3), np.uint8), np.zeros((480, 640), np.uint8)) for _ in "ab")
    data = setr_lib.load_dataset(big, "train")
    assert own.own_recipe(data).crop == (180, 240) and own.own_recipe(data).config.patch_size == 12
    gpu = own.own_recipe(data, "cuda", pretrained="vit_tiny_patch16_224")
    assert gpu.crop == (384, 512) and gpu.config.patch_size == 16 and gpu.lr == 1e-4


def test_own_without_data_is_a_mistake(tmp_path, capsys):
    """And one line."""
    assert main(["train", "--out", str(tmp_path / "run")]) == 2
    assert "follows from the data" in capsys.readouterr().err


def test_a_run_of_ones_own_is_resumed(tmp_path, monkeypatch, tiny):
    """The recipe follows from the same data again."""
    monkeypatch.chdir(tmp_path)
    a_folder(Path("mine"), "class numbers")
    words = ["train", "--data", "folder:mine", "--total-steps", "4", "--device", "cpu", "--quiet"]
    assert main([*words, "--steps", "2"]) == 0
    assert main([*words, "--resume"]) == 0
    assert json.loads(Path("runs/mine/record.json").read_text())["step"] == 4


def python_blocks() -> list[str]:
    """Those of the README that one process can run."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "accelerate" not in b]


def test_the_readmes_python_runs(tmp_path, monkeypatch, tiny, small_recipe):
    """One block after the other, as they stand, with small networks in place of theirs."""
    monkeypatch.setitem(recipes.RECIPES, "shapes_naive_tiny", small_recipe)
    monkeypatch.setattr(setr_lib, "create_model", a_small_one)
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(ROOT / "data")
    Image.new("RGB", (60, 40), "grey").save("street.jpg")
    blocks, names = python_blocks(), {}
    assert len(blocks) >= 3
    for block in blocks:
        exec(block.replace("total_steps=100", "total_steps=2"), names)
    assert names["labels"].shape == (40, 60) and Path("attention.html").stat().st_size > 1e5
    assert names["record"]["step"] == 12 and Path("runs/ours/best.safetensors").is_file()


def a_small_one(name: str, num_classes: int, image_size: int):
    """A network with the classes that the README asks for."""
    assert name in setr_lib.list_models()
    return setr_lib.SETR(small_config(num_classes=num_classes, image_size=image_size // 8))
