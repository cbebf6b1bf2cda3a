"""Data sets and transforms: labels follow pixels, and a bad file is named."""

import colorsys
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from setr_lib import load_dataset
from setr_lib.data.augment import (
    TrainingStream,
    TrainTransform,
    photometric_distortion,
    random_window,
)
from setr_lib.data.crops import distort, turn_colours
from setr_lib.data.layouts import CamVid
from setr_lib.data.load import Shapes
from setr_lib.images import (
    MEAN,
    STD,
    denormalise,
    fit_inside,
    normalise,
    resize_image,
    resize_label,
)
from setr_lib.training.recipes import get_recipe

# ---- shapes


def test_a_scene_is_decided_by_its_number():
    """Same seed, split and number: same scene; another of any of them: another scene."""
    image, label = load_dataset("shapes", "train")[7]
    again = load_dataset("shapes", "train")[7]
    assert np.array_equal(image, again[0]) and np.array_equal(label, again[1])
    others = (load_dataset("shapes", "val")[7], Shapes("train")[8], Shapes("train", seed=1)[7])
    assert not any(np.array_equal(image, other[0]) for other in others)


def test_scenes_have_every_class_and_a_fixed_form():
    data = Shapes("train", size=(96, 160))
    seen = np.zeros(len(data.classes), int)
    for number in [*range(40), 10**9]:  # endless: any number is a scene
        image, label = data[number]
        assert image.shape == (96, 160, 3) and label.shape == (96, 160)
        assert image.dtype == label.dtype == np.uint8 and label.max() < len(data.classes)
        seen += np.bincount(label.ravel(), minlength=len(seen))
    assert (seen > 0).all() and len(data.palette) == len(data.classes) == 8


def test_some_classes_are_thin():
    """Poles and fences lose most of their area when two pixels are eaten; houses do not."""
    left = np.zeros((8, 2))
    for _, label in (Shapes("train")[n] for n in range(40)):
        for k in range(8):
            mask = label == k
            core = mask.copy()
            for axis in (0, 1):
                core &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
            left[k] += core.sum(), mask.sum()
    share = dict(zip(Shapes.classes, left[:, 0] / left[:, 1]))
    assert max(share["pole"], share["fence"]) < 0.3 < 0.7 < min(share["house"], share["sky"])


def test_the_length_of_shapes_is_the_objects_own():
    """A copy in another process does not depend on what this one has changed."""
    short = Shapes("val", length=3)
    assert len(short) == 3 and len(Shapes("val")) == 200
    assert all(map(np.array_equal, short[2], Shapes("val")[2]))
    assert len(pickle.loads(pickle.dumps(short))) == 3


def first_crops(stream):
    return [stream[number] for number in (0, 5, 23)]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_crops_are_equal_however_a_worker_is_started(method, small_recipe):
    """Also where it imports everything afresh and knows nothing of a patch of this process."""
    stream = TrainingStream(
        load_dataset("shapes", "train"), small_recipe.transform, small_recipe.seed
    )
    with multiprocessing.get_context(method).Pool(1) as pool:
        theirs = pool.apply(first_crops, (stream,))
    for ours, other in zip(first_crops(stream), theirs, strict=True):
        assert torch.equal(ours[0], other[0]) and torch.equal(ours[1], other[1])


# ---- files


def write_camvid(root, split="val", size=(6, 8), value=3, suffix=".png", names=("a", "b")):
    for name in names:
        for folder, array in (
            (split, np.full((*size, 3), 90, np.uint8)),
            (f"{split}annot", np.full(size, value, np.uint8)),
        ):
            path = root / "camvid" / folder
            path.mkdir(parents=True, exist_ok=True)
            ending = ".png" if folder.endswith("annot") else suffix
            Image.fromarray(array).save(path / f"{name}{ending}")
    return root / "camvid"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_reads_png_and_jpeg(tmp_path, suffix):
    write_camvid(tmp_path, suffix=suffix)
    data = load_dataset("camvid", "val", tmp_path)
    image, label = data[1]
    assert len(data) == 2 and data.file(1).endswith(f"b{suffix}")
    assert image.shape == (6, 8, 3) and (label == 3).all()


def test_camvid_label_11_is_ignored(tmp_path):
    write_camvid(tmp_path, value=11)
    assert (load_dataset("camvid", "val", tmp_path)[0][1] == 255).all()


def test_the_environment_names_the_data_folder(tmp_path, monkeypatch):
    write_camvid(tmp_path)
    monkeypatch.setenv("SETR_DATA", str(tmp_path))
    assert len(load_dataset("camvid", "val")) == 2


def test_a_root_that_is_given_beats_the_environment(tmp_path, monkeypatch):
    write_camvid(tmp_path)
    monkeypatch.setenv("SETR_DATA", "/elsewhere")
    assert len(load_dataset("camvid", "val", tmp_path)) == 2
    with pytest.raises(FileNotFoundError, match="no folder /elsewhere/camvid"):
        load_dataset("camvid", "val")


@pytest.mark.parametrize("way", ["root", "environment", "folder"])
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, way):
    write_camvid(tmp_path / "my data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    if way == "folder":
        (tmp_path / "my data/camvid/val").rename(tmp_path / "my data/images")
        (tmp_path / "my data/camvid/valannot").rename(tmp_path / "my data/labels")
        (tmp_path / "my data/classes.txt").write_text("a\nb\nc\nd\n")
        assert len(load_dataset("folder:~/my data", "val")) == 2
    elif way == "environment":
        monkeypatch.setenv("SETR_DATA", "~/my data")
        assert len(load_dataset("camvid", "val")) == 2
    else:
        assert len(load_dataset("camvid", "val", "~/my data")) == 2


class Pairs(list):
    """What a user may bring: pairs, and the two facts that pairs do not say."""

    classes, palette = ["road", "sky"], [[0, 0, 0], [9, 9, 9]]


def test_a_data_set_can_be_given_itself():
    """One of ours is returned as it is; other people's get a name, a split and file names."""
    ours = Shapes("val")
    assert load_dataset(ours, "val") is ours
    pair = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), np.uint8)
    theirs = load_dataset(Pairs([pair, pair]), "train")
    assert len(theirs) == 2 and theirs[1] is pair and theirs.classes == ("road", "sky")
    assert theirs.palette[1] == (9, 9, 9) and theirs.labelled and theirs.ignore_index == 255
    assert theirs.file(1) == "Pairs number 1" and theirs.split == "train"


@pytest.mark.parametrize(
    "given, words",
    [
        ([1, 2], "list is no data set: it has no classes, palette"),
        (None, "NoneType is no data set: it has no __len__"),
        (Pairs(), "Pairs train has no pairs"),
    ],
)
def test_what_is_no_data_set_is_told_what_it_lacks(given, words):
    with pytest.raises(ValueError, match=words):
        load_dataset(given, "train")


def break_missing_folder(root):
    pass


def break_empty_folder(root):
    write_camvid(root)
    for path in (root / "camvid" / "val").iterdir():
        path.unlink()


def break_missing_label(root):
    (write_camvid(root) / "valannot" / "b.png").unlink()


def break_missing_image(root):
    (write_camvid(root) / "val" / "b.png").unlink()


def break_size(root):
    folder = write_camvid(root)
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(folder / "valannot" / "b.png")


def break_value(root):
    folder = write_camvid(root)
    Image.fromarray(np.full((6, 8), 200, np.uint8)).save(folder / "valannot" / "b.png")


def break_mode(root):
    folder = write_camvid(root)
    Image.fromarray(np.full((6, 8, 3), (9, 8, 7), np.uint8)).save(folder / "valannot" / "b.png")


def break_bytes(root):
    path = write_camvid(root) / "val" / "b.png"
    path.write_bytes(path.read_bytes()[:40])


def break_stem(root):
    folder = write_camvid(root)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "val" / "b.jpg")


@pytest.mark.parametrize(
    "damage, error, words",
    [
        (break_missing_folder, FileNotFoundError, "camvid/val.*setr_lib download camvid"),
        (break_empty_folder, FileNotFoundError, "camvid/val holds no image"),
        (break_missing_label, ValueError, "b.png has no label b.png in .*valannot"),
        (break_missing_image, ValueError, "valannot/b.png has no image"),
        (break_size, ValueError, "b.png is 6x8 pixels, its label .*b.png 5x8"),
        (break_value, ValueError, "b.png holds the label 200; known are 0 to 11 .11 is unlabelled"),
        (break_mode, ValueError, "b.png cannot be read .it has the mode RGB .*replace each colour"),
        (break_bytes, ValueError, "b.png cannot be read .*restore"),
        (break_stem, ValueError, "b.png and b.jpg have one stem"),
    ],
)
def test_a_bad_file_is_named(tmp_path, damage, error, words):
    damage(tmp_path)
    with pytest.raises(error, match=words):
        list(load_dataset("camvid", "val", tmp_path))


def test_unknown_names_are_explained():
    with pytest.raises(ValueError, match="did you mean camvid"):
        load_dataset("camvit", "val")
    with pytest.raises(ValueError, match="unknown split of shapes 'dev'.*train, val, test"):
        load_dataset("shapes", "dev")
    with pytest.raises(ValueError, match="unknown split of camvid 'dev'"):
        load_dataset("camvid", "dev")


def test_camvid_facts():
    """11 classes in the tutorial's order, which has no road marking between pole and road."""
    assert len(CamVid.classes) == len(CamVid.palette) == 11
    assert CamVid.classes[2:5] == ("pole", "road", "pavement")


# ---- transforms


def painted(height=60, width=90):
    """An image whose colour is its pixel's position; a label that holds the row."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([y, x, np.zeros_like(x)], 2), y.copy()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("number", range(12))
def test_labels_follow_pixels(number, axis):
    """After scale, crop and flip each label is within a pixel of the place its colour names."""
    image, _ = painted()
    label = image[..., axis].copy()  # rows are painted red, columns green
    change = TrainTransform((40, 56), (90, 60), photometric=False, max_share=1.01)
    pixels, places = change(image, label, np.random.default_rng(number))
    assert pixels.shape == (3, 40, 56) and places.shape == (40, 56)
    inside = places != 255
    painted_place = torch.from_numpy(denormalise(pixels)[..., axis].astype(np.int64))
    assert inside.any() and (painted_place - places)[inside].abs().max() <= 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("number", range(6))
def test_crop_and_flip_move_labels_exactly(number, axis):
    """At ratio 1 every label is the coordinate that its pixel's colour names, none is off."""
    image, _ = painted()
    change = TrainTransform((40, 56), (90, 60), (1.0, 1.0), photometric=False, max_share=1.01)
    pixels, places = change(image, image[..., axis].copy(), np.random.default_rng(number))
    assert np.array_equal(denormalise(pixels)[..., axis], places)
    step = np.diff(places, axis=1 - axis)
    assert not step.any() and set(np.diff(places, axis=axis).ravel().tolist()) <= {1, -1}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("number", range(12))
def test_scaled_labels_are_the_nearest(number, axis):
    """Every label is the coordinate nearest to the place that its pixel's colour names.

    Coordinates are painted four grey values apart. Half a pixel is what rounding a place to a
    coordinate takes; the grey value beyond it is the image's own rounding to 8 bits.
    """
    y, x = np.mgrid[:50, :60].astype(np.uint8)
    image = 4 * np.stack([y, x, np.zeros_like(x)], 2)
    change = TrainTransform((40, 56), (60, 50), photometric=False, max_share=1.01)
    pixels, places = change(image, (y, x)[axis].copy(), np.random.default_rng(number))
    inside = places.numpy() != 255
    painted_place = denormalise(pixels)[..., axis][inside] / 4
    assert inside.any() and np.abs(painted_place - places.numpy()[inside]).max() <= 0.5 + 1 / 4


@pytest.mark.parametrize("size", [(30, 45), (77, 113), (60, 91), (180, 270)])
def test_resizing_is_torchvisions(size):
    """Images and labels as `transforms.v2` resizes them, which cannot take our generator."""
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    label = np.random.default_rng(1).integers(0, 150, (60, 90), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    wanted = v2.resize(pixels, list(size), antialias=False).permute(1, 2, 0).numpy()
    assert np.abs(resize_image(image, size).astype(int) - wanted).max() <= 1
    places = v2.resize(torch.from_numpy(label)[None], list(size), InterpolationMode.NEAREST_EXACT)
    assert np.array_equal(resize_label(label, size), places[0].numpy())


def test_resized_labels_have_no_drift():
    """The label's mean position stays: it is sampled at pixel centres, not at their corners."""
    _, label = painted(60, 90)
    for size in [(77, 113), (101, 151), (180, 270)]:
        assert resize_label(label, size).mean() == pytest.approx(label.mean(), abs=0.02)


def test_a_padded_crop_is_ignored_outside():
    image, label = painted(20, 30)
    change = TrainTransform((64, 64), (30, 20), (1.0, 1.0), photometric=False, max_share=1.01)
    pixels, rows = change(image, label, np.random.default_rng(0))
    assert (rows[20:] == 255).all() and (rows[:, 30:] == 255).all()
    assert not pixels[:, 20:].any() and not pixels[:, :, 30:].any()
    assert (rows[:20, :30] != 255).all()


def test_no_class_may_cover_three_quarters_of_a_crop():
    """Of a scene with one lonely corner of another class, the corner is found more often."""
    label = np.zeros((64, 64), np.uint8)
    label[:24, :24] = 1

    def balanced(window):
        return 0.25 < window.mean() < 0.75

    windows = [label[y : y + 32, x : x + 32] for y in range(33) for x in range(33)]
    chance = np.mean([balanced(window) for window in windows])
    size = (32, 32)
    draws = [
        random_window(label, label.shape, size, np.random.default_rng(n), 0.75)[1]
        for n in range(1000)
    ]
    wanted = 1 - (1 - chance) ** 11  # the first draw and ten more
    assert chance < 0.15 and np.mean([balanced(window) for window in draws]) == pytest.approx(
        wanted, abs=0.04
    )


def test_scale_rule_is_mmcvs():
    """Fit inside (long, short), rounding half up; Cityscapes becomes 1025 x 2049 in the paper."""
    assert fit_inside((1024, 2048), (2049, 1025)) == (1025, 2049)
    assert fit_inside((500, 1000), (2048, 512)) == (512, 1024)
    assert fit_inside((200, 2000), (2048, 512)) == (205, 2048)
    assert fit_inside((375, 500), (520, 520)) == (390, 520)  # Pascal Context's square box
    assert fit_inside((1, 1000), (100, 50)) == (1, 100)


def test_the_papers_recipes_cut_the_scale_to_whole_pixels():
    """The sizes of mmcv's Resize for a drawn ratio; the small recipes keep the exact box."""
    label = np.zeros((1024, 2048), np.uint8)
    image, others = np.zeros((1024, 2048, 3), np.uint8), 0
    assert get_recipe("cityscapes_pup_large").whole_scale
    assert not get_recipe("camvid_naive_tiny").whole_scale
    for number in range(12):
        ratio = np.random.default_rng(number).uniform(0.1, 0.2)
        box = (
            int(2049 * ratio),
            int(1025 * ratio),
        )  # as mmcv: tuple(int(x * ratio) for x in scale)
        factor = min(max(box) / 2048, min(box) / 1024)
        wanted = int(1024 * factor + 0.5), int(2048 * factor + 0.5)
        for whole in (True, False):
            change = TrainTransform(
                (220, 420), (2049, 1025), (0.1, 0.2), photometric=False, whole_scale=whole
            )
            places = change(image, label, np.random.default_rng(number))[1] != 255
            found = int(places.any(1).sum()), int(places.any(0).sum())
            assert found == wanted or not whole
            others += found != wanted
    assert others > 3


@pytest.mark.parametrize("view", [np.s_[:, ::-1], np.s_[::-1], np.s_[::2, ::-2]])
def test_mirrored_views_can_be_resized_and_normalised(view):
    """Arrays that run backwards in memory are as good as their copies."""
    image, label = painted(20, 30)
    change = TrainTransform((16, 16), (40, 30))
    for ours, copied in zip(
        change(image[view], label[view], np.random.default_rng(0)),
        change(image[view].copy(), label[view].copy(), np.random.default_rng(0)),
        strict=True,
    ):
        assert torch.equal(ours, copied)
    same = label[view].shape
    assert torch.equal(normalise(resize_image(image[view], same)), normalise(image[view].copy()))


def test_normalise_uses_imagenet_statistics():
    image = np.array([[[124, 0, 255]]], np.uint8)
    wanted = [(124 - 123.675) / 58.395, -116.28 / 57.12, (255 - 103.53) / 57.375]
    assert normalise(image)[:, 0, 0].tolist() == pytest.approx(wanted, abs=1e-6)
    assert np.array_equal(denormalise(normalise(image)), image)


def test_resize_is_bilinear_without_smoothing():
    """Within one grey value of torch's float result."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    for size in [(20, 30), (57, 91)]:
        wanted = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear")[0]
        found = torch.from_numpy(resize_image(image, size)).permute(2, 0, 1)
        assert (found - wanted).abs().max() <= 1


class Fixed:
    """A generator that draws what it is told."""

    def __init__(self, coins, amounts):
        self.coins, self.amounts = np.array(coins, float), np.array(amounts, float)

    def random(self, _):
        return 1 - self.coins  # a coin of 1 is below one half

    def uniform(self, *_):
        return self.amounts


def distorted(colour, coins, amounts):
    """One colour after the draws."""
    pixels = torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1)
    return distort(pixels, *photometric_distortion(Fixed(coins, amounts))).flatten().tolist()


def test_photometric_distortion_step_by_step():
    """Each of the four changes alone does to a colour what its definition says."""
    colour, same = (100, 150, 50), (0, 1, 1, 0)
    assert distorted(colour, [0, 0, 0, 0, 0], (32, 1.5, 0.5, 18)) == [100, 150, 50]
    assert distorted(colour, [1, 0, 0, 0, 0], (32, *same[1:])) == [132, 182, 82]
    for early in (0, 1):
        assert distorted(colour, [0, 1, 0, 0, early], (0, 1.5, 1, 0)) == [150, 225, 75]
        assert distorted(colour, [0, 1, 0, 0, early], (0, 2, 1, 0)) == [200, 255, 100]


@pytest.mark.parametrize("saturation, turn", [(0.5, 0), (1.5, 0), (1, 18), (1, -18), (0.8, 7.5)])
def test_saturation_and_hue_are_colorsys(saturation, turn):
    """Of a thousand colours, with all corners of the cube, greys and ties among them."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (1000, 3)).astype(float)
    colours[:8] = 255 * (np.arange(8)[:, None] >> np.arange(3) & 1)
    colours[8:60, 1] = colours[8:60, 0]
    colours[40:60, 2] = colours[40:60, 0]
    pixels = torch.from_numpy(colours.T.copy()).float()[None, :, :, None]
    found = turn_colours(pixels, saturation, turn / 30)[0, :, :, 0].T.numpy()
    for colour, ours in zip(colours / 255, found):
        hue, grey, value = colorsys.rgb_to_hsv(*colour)
        wanted = colorsys.hsv_to_rgb((hue + turn / 180) % 1, min(1, saturation * grey), value)
        assert np.abs(ours - 255 * np.array(wanted)).max() < 1e-3


def test_photometric_order():
    """Bright first, contrast after: 250 -> 255 -> 128; early contrast comes before saturation."""
    assert distorted((250, 250, 250), [1, 1, 0, 0, 0], (32, 0.5, 1, 0)) == [127.5] * 3
    # C of (100, 50, 0) doubled is clipped at 255 in between only if contrast comes first
    early, late = (distorted((200, 100, 0), [0, 1, 1, 0, k], (0, 1.5, 0.5, 0)) for k in (1, 0))
    assert early == pytest.approx([255, 202.5, 127.5]) and late == [255, 225, 150]


def in_8_bits(image, transform, rng):
    """A crop as Pillow and mmsegmentation make it, with 8 bits between all steps; and its label."""
    label = np.zeros(image.shape[:2], np.uint8)
    crop, _ = transform.draw(label, rng)
    whole = resize_image(image, (crop.rows, crop.cols))
    window = whole[crop.top :, crop.left :][: transform.crop[0], : transform.crop[1]]
    pixels = (window[:, ::-1] if crop.flip else window).astype(float)
    pixels = np.clip(pixels + crop.brightness, 0, 255).astype(np.uint8)
    pixels = np.clip(pixels * crop.early, 0, 255).astype(np.uint8)
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[..., 1] = np.clip(hsv[..., 1] * crop.saturation, 0, 255).astype(np.uint8)
    hsv[..., 0] += np.uint8(round(crop.hue / 6 * 256) % 256)
    pixels = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    return np.clip(pixels * crop.late, 0, 255)


def test_crops_are_pillows_within_its_rounding():
    """Scale, window, flip and all colours of 24 crops: apart by 1.5 of 255 in the mean, at most."""
    y, x = np.mgrid[:60, :80]
    image = np.stack([3 * y, 3 * x, 120 + 60 * np.sin(x / 9) * np.cos(y / 7)], 2).astype(np.uint8)
    change = TrainTransform((40, 56), (80, 60), (0.8, 2.0), max_share=1.01)
    for number in range(24):
        seed = [0, 1, number]
        found, _ = change(image, np.zeros((60, 80), np.uint8), np.random.default_rng(seed))
        found = found * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        wanted = in_8_bits(image, change, np.random.default_rng(seed))
        assert np.abs(found.permute(1, 2, 0).numpy() - wanted).mean() < 1.5


def test_the_draws_are_those_of_the_first_version():
    """The same numbers of the same generator in the same order, 300 times, labels that redraw."""
    label = np.zeros((48, 64), np.uint8)
    label[:20, :20] = 1
    change = TrainTransform((32, 40), (64, 48), (0.5, 2.0))
    for number in range(300):
        rng, other = (np.random.default_rng([3, 1, number]) for _ in range(2))
        crop, window = change.draw(label, rng)
        ratio = other.uniform(0.5, 2.0)
        size = fit_inside((48, 64), (64 * ratio, 48 * ratio))
        places = v2.resize(torch.from_numpy(label)[None], size, InterpolationMode.NEAREST_EXACT)[0]
        for _ in range(11):
            top, left = (int(other.integers(0, max(a - b, 0) + 1)) for a, b in zip(size, (32, 40)))
            wanted = places[top : top + 32, left : left + 40]
            if wanted.float().mean().sub(0.5).abs() < 0.25:
                break
        flip = other.random() < 0.5
        coin, amount = (
            other.random(5) < 0.5,
            other.uniform((-32, 0.5, 0.5, -18), (32, 1.5, 1.5, 18)),
        )
        wanted = wanted.flip(1) if flip else wanted
        assert crop[:5] == (*size, top, left, flip)
        assert torch.equal(window[: wanted.shape[0], : wanted.shape[1]], wanted)
        neutral = np.where(coin[:4], amount, (0, 1, 1, 0))
        assert (crop.brightness, crop.saturation) == (neutral[0], neutral[2])
        assert crop.hue == pytest.approx(neutral[3] / 30)
        assert (crop.early, crop.late) == ((neutral[1], 1) if coin[4] else (1, neutral[1]))
        assert rng.random() == other.random()  # no number more or less
