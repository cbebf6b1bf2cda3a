"""The published data sets in their official layouts, small: names, numbers, splits, errors."""

import os
import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from setr_lib import load_dataset
from setr_lib.data import classes as names
from setr_lib.data.check import check_dataset, splits_to_check
from setr_lib.data.classlist import read_class_list
from setr_lib.data.layouts import LABEL_ENDINGS, context_table
from setr_lib.data.load import NAMES, OFFICIAL, open_dataset
from setr_lib.data.matfile import read_mat

SIZE = (6, 8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def photo(path):
    return write(path, np.full((*SIZE, 3), 90))


def numbers(low, high):
    """A label with the values from low to high, repeated."""
    return np.resize(np.arange(low, high + 1), SIZE)


# ---- ADE20K


@pytest.fixture(params=["ADEChallengeData2016", "ade20k", "ade20k/ADEChallengeData2016"])
def ade20k(tmp_path, request):
    top = tmp_path / request.param
    for part, count in (("training", 3), ("validation", 2)):
        for k in range(count):
            photo(top / f"images/{part}/ADE_{k}.jpg")
            write(top / f"annotations/{part}/ADE_{k}.png", numbers(48 * k, 48 * k + 47))
    photo(top.parent / "release_test/testing/ADE_test_0.jpg")
    return tmp_path


def test_ade20k_reduces_the_zero_label(ade20k):
    """0 in the file is not scored, k is class k - 1."""
    for split, count in (("train", 3), ("val", 2)):
        data = load_dataset("ade20k", split, ade20k)
        assert len(data) == count and data.labelled
        for k, (image, label) in enumerate(data):
            assert image.shape == (*SIZE, 3) and image.dtype == label.dtype == np.uint8
            stored = numbers(48 * k, 48 * k + 47)
            assert np.array_equal(label, np.where(stored == 0, 255, stored - 1))


def test_ade20k_test_images_can_be_predicted(ade20k):
    """No labels: 255 everywhere, and `labelled` says so."""
    data = load_dataset("ade20k", "test", ade20k)
    image, label = data[0]
    assert not data.labelled and data.file(0).endswith("ADE_test_0.jpg")
    assert image.shape == (*SIZE, 3) and label.shape == SIZE and (label == 255).all()


def test_a_value_that_ade20k_lacks_is_named(ade20k):
    file = next(ade20k.rglob("validation/ADE_1.png"))
    write(file, np.full(SIZE, 200))
    with pytest.raises(ValueError, match=r"ADE_1.png holds the label 200; known are 0 to 150 \(0"):
        list(load_dataset("ade20k", "val", ade20k))


# ---- Cityscapes


@pytest.fixture
def cityscapes(tmp_path):
    """Two cities; in the first one, train ids lie beside the label ids."""
    top = tmp_path / "cityscapes"
    for part in ("train", "val", "test", "train_extra"):
        for city in ("aachen", "bochum"):
            stem = f"{city}_000000_000019"
            photo(top / f"leftImg8bit/{part}/{city}/{stem}_leftImg8bit.png")
            kinds = {"train": ("gtFine", "gtCoarse"), "val": ("gtFine", "gtCoarse")}
            for kind in kinds.get(part, ("gtCoarse",) if part == "train_extra" else ("gtFine",)):
                base = top / f"{kind}/{part}/{city}/{stem}_{kind}"
                low = 0 if kind == "gtFine" else 20
                if part != "train_extra" or city == "bochum":
                    write(base.with_name(f"{base.name}_labelIds.png"), numbers(low, 33))
                if (city == "aachen" and kind == "gtFine") or part == "train_extra":
                    write(base.with_name(f"{base.name}_labelTrainIds.png"), numbers(0, 18))
                write(base.with_name(f"{base.name}_color.png"), np.zeros((*SIZE, 4)))
                write(base.with_name(f"{base.name}_instanceIds.png"), numbers(0, 33))
    return tmp_path


# cityscapesScripts' list: which of the 34 label ids count, in the order of their train ids
COUNTED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def test_cityscapes_label_ids_become_train_ids(cityscapes):
    """Label ids where there are only those; train ids as they are where they lie beside them."""
    data = load_dataset("cityscapes", "train", cityscapes)
    assert len(data) == 2 and "aachen" in data.file(0) and "bochum" in data.file(1)
    wanted = np.full(256, 255)
    wanted[COUNTED] = np.arange(19)
    assert np.array_equal(data[1][1], wanted[numbers(0, 33)])
    assert np.array_equal(data[0][1], numbers(0, 18))
    assert data.label_ids == tuple(COUNTED)


def test_cityscapes_predictions_become_label_ids_again(cityscapes):
    """There and back: what the server gets has the ids that the label files have."""
    data = load_dataset("cityscapes", "val", cityscapes)
    label = data[1][1]
    back = np.array(data.label_ids)[label[label != 255]]
    stored = numbers(0, 33)
    assert np.array_equal(back, stored[np.isin(stored, COUNTED)])


def test_cityscapes_coarse_labels(cityscapes):
    assert load_dataset("cityscapes", "train_coarse", cityscapes)[1][1][0, 0] == 7  # id 20
    assert load_dataset("cityscapes", "val_coarse", cityscapes)[0][1][0, 1] == 8  # id 21
    extra = load_dataset("cityscapes", "train_extra", cityscapes)
    assert len(extra) == 2 and extra.labelled and "train_extra" in extra.file(0)


def test_cityscapes_test_labels_are_stand_ins(cityscapes):
    """gtFine/test has files, but they hold nothing: they are not read."""
    data = load_dataset("cityscapes", "test", cityscapes)
    assert len(data) == 2 and not data.labelled and (data[0][1] == 255).all()


def test_cityscapes_names_what_is_missing(cityscapes):
    next(cityscapes.rglob("val/bochum/*_leftImg8bit.png")).unlink()
    for file in cityscapes.rglob("gtFine/val/aachen/*"):
        file.unlink()
    words = (
        "leftImg8bit.png has no label aachen_000000_000019_gtFine_labelIds.png in .*1 more: .*check"
    )
    with pytest.raises(ValueError, match=words):
        load_dataset("cityscapes", "val", cityscapes)
    problems = open_dataset("cityscapes", "val", cityscapes).problems
    assert len(problems) == 2 and "gtFine_labelIds.png has no image bochum" in problems[1]


def test_a_value_200_in_cityscapes_is_named(cityscapes):
    write(next(cityscapes.rglob("val/bochum/*gtFine_labelIds.png")), np.full(SIZE, 200))
    write(next(cityscapes.rglob("val/aachen/*gtFine_labelTrainIds.png")), np.full(SIZE, 200))
    data = load_dataset("cityscapes", "val", cityscapes)
    with pytest.raises(ValueError, match="labelTrainIds.png holds the label 200; .* 0 to 18"):
        data[0]
    with pytest.raises(ValueError, match="labelIds.png holds the label 200; .* 0 to 33"):
        data[1]


# ---- Pascal Context

# What mmsegmentation's converter takes the 60 classes' numbers among the 459 to be
CONTEXT_NUMBERS = sorted(
    [2, 259, 260, 415, 324, 9, 258, 144, 18, 19, 22, 23, 397, 25, 284, 158, 159, 416, 33, 162, 420,
     454, 295, 296, 427, 44, 45, 46, 308, 59, 440, 445, 31, 232, 65, 354, 424, 68, 326, 72, 458, 34,
     207, 80, 355, 85, 347, 220, 349, 360, 98, 187, 104, 105, 366, 189, 368, 113, 115]
)  # fmt: skip


def write_lists(top, folder):
    for split, stem in (("train", "2008_000002"), ("val", "2008_000003")):
        photo(top / f"JPEGImages/{stem}.jpg")
        file = top / f"ImageSets/{folder}/{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{stem}\n")
    photo(top / "JPEGImages/2007_000001.jpg")  # of VOC, without context


def label_names():
    """A list of 459 names in which the 59 have their numbers and the others mean nothing."""
    lines = {number: f"thing {number}" for number in range(1, 460)}
    lines.update(zip(CONTEXT_NUMBERS, names.PASCAL_CONTEXT[1:]))
    lines[308], lines[427] = "potted plant", "tv monitor"  # spaces do not matter
    return "".join(f"{number}: {name}\n" for number, name in lines.items())


@pytest.fixture(params=["pascal_context/VOCdevkit/VOC2010", "VOCdevkit/VOC2010", "pascal_context"])
def context_mat(tmp_path, request):
    """The official archives: VOC2010's own lists, and .mat files of 459 labels."""
    top = tmp_path / request.param
    write_lists(top, "Main")
    place = tmp_path / request.param.split("/")[0]
    (place / "trainval").mkdir()
    values = np.resize(np.arange(460), (20, 23)).astype(np.uint16)
    for stem in ("2008_000002", "2008_000003"):
        write(top / f"JPEGImages/{stem}.jpg", np.zeros((20, 23, 3)))
        savemat(place / f"trainval/{stem}.mat", {"LabelMap": values})
    (place / "labels.txt").write_text(label_names())
    return tmp_path


def test_pascal_context_from_the_archive(context_mat):
    """59 of 459 labels by name, the others are background: class 0, or not scored."""
    values = np.resize(np.arange(460), (20, 23))
    wanted = np.zeros(460, int)
    wanted[CONTEXT_NUMBERS] = np.arange(1, 60)
    sixty = load_dataset("pascal_context", "val", context_mat)
    assert len(sixty) == 1 and np.array_equal(sixty[0][1], wanted[values])
    wanted[:] = 255
    wanted[CONTEXT_NUMBERS] = np.arange(59)
    fewer = load_dataset("pascal_context_59", "train", context_mat)
    assert len(fewer) == 1 and np.array_equal(fewer[0][1], wanted[values])
    assert fewer.classes == sixty.classes[1:] and fewer.label_ids[58] == sixty.label_ids[59] == 59
    assert fewer.counts == sixty.counts == {"train": 4998, "val": 5105}


def test_pascal_context_from_converted_png(tmp_path):
    """mmsegmentation's layout, 0 to 59; it is used where both are there."""
    top = tmp_path / "VOCdevkit/VOC2010"
    write_lists(top, "SegmentationContext")
    (top / "trainval").mkdir()
    for stem in ("2008_000002", "2008_000003"):
        write(top / f"SegmentationClassContext/{stem}.png", numbers(12, 59))
    sixty = load_dataset("pascal_context", "val", tmp_path)
    assert np.array_equal(sixty[0][1], numbers(12, 59))
    fewer = load_dataset("pascal_context_59", "val", tmp_path)
    assert np.array_equal(fewer[0][1], numbers(11, 58))
    assert sixty.counts == {"train": 4996, "val": 5104}  # as many as those lists hold
    write(top / "SegmentationClassContext/2008_000003.png", np.zeros(SIZE))
    assert (fewer[0][1] == 255).all() and (sixty[0][1] == 0).all()


def test_pascal_context_names_what_is_missing(context_mat):
    next(context_mat.rglob("2008_000003.mat")).unlink()
    with pytest.raises(ValueError, match=r"2008_000003.mat is missing, .*Main/val.txt lists it"):
        load_dataset("pascal_context", "val", context_mat)
    file = next(context_mat.rglob("2008_000002.mat"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="2008_000002.mat cannot be read"):
        list(load_dataset("pascal_context", "train", context_mat))
    list_file = next(context_mat.rglob("val.txt"))
    list_file.write_text("\n")
    with pytest.raises(FileNotFoundError, match="val.txt lists no image"):
        load_dataset("pascal_context", "val", context_mat)
    list_file.unlink()
    with pytest.raises(FileNotFoundError, match="no list .*Main/val.txt .nor .*Context/val.txt"):
        load_dataset("pascal_context", "val", context_mat)
    next(context_mat.rglob("labels.txt")).unlink()
    with pytest.raises(FileNotFoundError, match="no .*labels.txt, which says what the numbers in"):
        load_dataset("pascal_context", "train", context_mat)
    for folder in list(context_mat.rglob("trainval")):
        folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(
        FileNotFoundError, match="SegmentationClassContext nor a folder trainval in"
    ):
        load_dataset("pascal_context", "train", context_mat)


def test_pascal_contexts_lists_may_come_from_windows(context_mat):
    """With a mark of UTF-8, or in UTF-16; lines that end in CR and LF."""
    for pattern, encoding in (("labels.txt", "utf-8-sig"), ("val.txt", "utf-16")):
        file = next(context_mat.rglob(pattern))
        file.write_bytes(file.read_text().replace("\n", "\r\n").encode(encoding))
    assert len(load_dataset("pascal_context", "val", context_mat)) == 1


@pytest.mark.parametrize("text", ["\n" * 10**6, " " * 10**5 + "\n", "9999999999: dog\n"])
def test_a_list_of_labels_takes_no_time(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text + label_names())
    assert len(context_table(tmp_path / "labels.txt")) == 460


# ---- MATLAB files


@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "f8"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 13), (40, 30)])
def test_matlab_files_are_read_as_scipy_writes_them(tmp_path, kind, packed, shape):
    values = np.resize(np.arange(251), shape).astype(kind)
    savemat(tmp_path / "x.mat", {"other": np.eye(3), "LabelMap": values}, do_compression=packed)
    assert np.array_equal(read_mat(tmp_path / "x.mat", "LabelMap"), values)
    with pytest.raises(ValueError, match="x.mat cannot be read .*no array Map"):
        read_mat(tmp_path / "x.mat", "Map")


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_matlab_file_is_named_and_ends_nothing(tmp_path, packed):
    """Every byte of the header with five values, every length: an array, or an error."""
    file = tmp_path / "x.mat"
    savemat(
        file, {"LabelMap": np.resize(np.arange(459), (5, 2)).astype("u2")}, do_compression=packed
    )
    data, refused = file.read_bytes(), 0
    changed = [
        data[:place] + bytes([value]) + data[place + 1 :]
        for place in range(120, 190)
        for value in (0, 5, 14, 128, 255)
    ]
    for content in [*changed, *(data[:length] for length in range(100, len(data)))]:
        file.write_bytes(content)
        try:
            read_mat(file, "LabelMap")
        except ValueError as error:
            assert str(file) in str(error)
            refused += 1
    assert refused > 100


def test_a_list_without_a_class_is_refused(tmp_path):
    (tmp_path / "labels.txt").write_text(label_names().replace(": aeroplane", ": helicopter"))
    with pytest.raises(ValueError, match="labels.txt has no line for aeroplane; take"):
        context_table(tmp_path / "labels.txt")


def test_a_name_with_two_numbers_is_refused(tmp_path):
    """Which of them the labels have, nobody can say; a line that stands there twice is harmless."""
    file, lines = tmp_path / "labels.txt", label_names()
    file.write_text(lines + lines)
    assert len(context_table(file)) == 460
    number = CONTEXT_NUMBERS[0]
    file.write_text(lines + "459: aeroplane\n")
    words = f"labels.txt gives 'aeroplane' the numbers {number} and 459; keep one"
    with pytest.raises(ValueError, match=words):
        context_table(file)


# ---- the user's own folder


def write_folder(top, split="", classes="road\nsky\n"):
    for name in ("a", "b"):
        photo(top / "images" / split / f"{name}.jpg")
        write(top / "labels" / split / f"{name}.png", numbers(0, 1))
    if classes:
        (top / "classes.txt").write_text(classes)
    return f"folder:{top}"


def test_a_folder_is_a_data_set(tmp_path):
    """Pairs by stem, whatever the image's type; names by line; colours spread over the hues."""
    name = write_folder(tmp_path)
    photo(tmp_path / "images/c.png")
    write(tmp_path / "labels/c.png", np.full(SIZE, 255))
    data = load_dataset(name, "val")
    assert len(data) == 3 and data.classes == ("road", "sky") and len(set(data.palette)) == 2
    assert np.array_equal(data[0][1], numbers(0, 1)) and (data[2][1] == 255).all()
    assert data.name == name and data.label_ids == (0, 1)


def test_a_folder_has_its_own_splits(tmp_path):
    name = write_folder(tmp_path, "train")
    write_folder(tmp_path, "2024-05")
    photo(tmp_path / "images/test/t.jpg")
    assert len(load_dataset(name, "train")) == len(load_dataset(name, "2024-05")) == 2
    assert not load_dataset(name, "test").labelled
    with pytest.raises(ValueError, match="unknown split of folder.* 'val'.*2024-05, test, train"):
        load_dataset(name, "val")


def test_a_class_list_may_have_colours(tmp_path):
    (tmp_path / "classes.txt").write_text("road 128 64 128\ntraffic light  250, 170, 30\n\n")
    found = read_class_list(tmp_path / "classes.txt")
    assert found.classes == ("road", "traffic light")
    assert found.palette == found.colours == ((128, 64, 128), (250, 170, 30))


@pytest.mark.parametrize(
    "text",
    [
        "road,128,64,128\ncar,0,0,142\n",
        "road, 128, 64, 128\r\ncar, 0, 0, 142",
        "road;128;64;128\ncar;0;0;142\n\n",
        "road\t128\t64\t128\ncar\t0\t0\t142\n",
        "# my classes\nroad 128 64 128\n#\ncar 0 0 142\n",
        "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142::\n",
        '"road" 128 64 128\n"car",0,0,142\n',
        "0 road 128 64 128\n1 car 0 0 142\n",
        "0: road, 128, 64, 128\n1: car, 0, 0, 142\n",
        "\ufeffroad 128 64 128\ncar 0 0 142\n",
    ],
)
def test_class_lists_of_many_tools_say_the_same(tmp_path, text):
    (tmp_path / "classes.txt").write_bytes(text.encode())
    found = read_class_list(tmp_path / "classes.txt")
    assert found.classes == ("road", "car") and found.table == (0, 1)
    assert found.palette == found.colours == ((128, 64, 128), (0, 0, 142))


@pytest.mark.parametrize(
    "text, classes",
    [
        ("road\ntraffic light\n", ("road", "traffic light")),
        ("lane 1\nlane 2\n", ("lane 1", "lane 2")),
        ("0\n1\n2\n", ("0", "1", "2")),
        ("4-wheeler\nroad\n", ("4-wheeler", "road")),
        ('"zone 1 2 3"\n"tree, bush"\n', ("zone 1 2 3", "tree, bush")),
        ("道路\nC#\n", ("道路", "C#")),
    ],
)
def test_names_stay_as_they_are(tmp_path, text, classes):
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    assert read_class_list(tmp_path / "classes.txt").classes == classes


def test_a_value_can_be_ignored(tmp_path):
    """A line `ignore` is a value and no class; its colour is read as 255, too."""
    name = write_folder(tmp_path, classes="ignore\nroad\nignore\nsky\n")
    write(tmp_path / "labels/b.png", numbers(0, 3))
    data = load_dataset(name, "train")
    assert data.classes == ("road", "sky") and data.label_ids == (1, 3)
    assert np.array_equal(data[1][1], np.resize([255, 0, 255, 1], SIZE))
    write(tmp_path / "labels/b.png", np.full(SIZE, 4))
    with pytest.raises(ValueError, match="b.png holds the label 4; .*0, 2 is ignored"):
        data[1]
    (tmp_path / "classes.txt").write_text("ignore 0 0 0\nroad 9 9 9\nsky 7 8 9\n")
    write(tmp_path / "labels/b.png", np.resize([[0, 0, 0], [7, 8, 9], [9, 9, 9]], (*SIZE, 3)))
    data = load_dataset(name, "train")
    assert data[1][1].ravel()[:3].tolist() == [255, 1, 0] and data.palette == ((9, 9, 9), (7, 8, 9))


@pytest.mark.parametrize(
    "text, words",
    [
        ("person\n", "names 1 classes; .*background"),
        ("ignore\nperson\n", "names 1 classes"),
        ("name,r,g,b\nroad,1,2,3\nsky,4,5,6\n", "in line 1: 'name,r,g,b'"),
        ("name r g b\nroad 1 2 3\nsky 4 5 6\n", "Without is 'name r g b': a header"),
        ("name\nroad\nsky\n", "begins with 'name': a header"),
        ("road 1 2 3 255\nsky 4 5 6 255\n", "4 numbers.* in line 1: 'road 1 2 3 255'"),
        ("# x\nroad -1 0 0\nsky 0 0 1\n", "colour .* in line 2: 'road -1 0 0'"),
        ("road 0.5 0 0\nsky 0 0 1\n", "colour .* in line 1"),
        ("road,\nsky,\n", "in line 1: 'road,'"),
        ("road,car,sky\n", "in line 1: 'road,car,sky'"),
        ("road,12\nsky,14\n", "in line 1: 'road,12'"),
        ("road 1 2 3 # asphalt\nsky 4 5 6\n", "in line 1"),
        ("zone 1 2 3\nzone 4 5 6\n", "names zone more than once.*quotes"),
        ("1 road\n2 sky\n", "numbers its lines, but not 0"),
        ("road\x0csky\ncar\n", "control character"),
        ("road\x85sky\ncar\n", "control character"),
        ("road\u2028sky\ncar\n", "control character"),
        ("road\x1b[31m\ncar\n", "control character"),
        ("r\0o\0a\0d\0\ncar\n", "control character"),
        (f"road 1 2 {'3' * 5000}\nsky 1 2 3\n", "more than 200 letters in line 1"),
        (f"road 1 2 {'3' * 100}\nsky 1 2 3\n", "colour above 255"),
        ("road\n" * 10**5, "names 100000 classes"),
        ("", "has nothing in line 1"),
        ("\n".join(f"c{k}" for k in range(256)), "names 256 classes"),
        ("road\n\nsky\n", "has nothing in line 2"),
        ("road\nsky\nroad\n", "names road more than once"),
        ("road 1 2 3\nsky\n", "gives colours to 1 of 2 classes"),
        ("road 1 2 3\nsky 1 2 300\n", "colour above 255"),
    ],
)
def test_a_class_list_that_is_not_clear_is_refused(tmp_path, text, words):
    (tmp_path / "classes.txt").write_bytes(text.encode())
    with pytest.raises(ValueError, match=f"classes.txt {words}|classes.txt .*{words}"):
        read_class_list(tmp_path / "classes.txt")


def break_classes(top):
    (top / "classes.txt").unlink()


def break_images(top):
    for file in (top / "images").iterdir():
        file.unlink()
    (top / "images/.hidden.txt").write_text("")


def break_labels(top):
    for file in (top / "labels").iterdir():
        file.unlink()
    (top / "labels").rmdir()


def break_stem(top):
    photo(top / "images/a.png")


def break_label(top):
    (top / "labels/b.png").unlink()


def break_size(top):
    write(top / "labels/b.png", np.zeros((8, 6)))


def break_value(top):
    write(top / "labels/b.png", np.full(SIZE, 2))


@pytest.mark.parametrize(
    "damage, error, words",
    [
        (break_classes, FileNotFoundError, "no .*classes.txt; write one class name per line"),
        (break_images, FileNotFoundError, "images holds no image .*folders images and labels"),
        (break_labels, FileNotFoundError, "no folder .*labels. A data set has the folders"),
        (break_stem, ValueError, "a.png and a.jpg have one stem; keep one"),
        (break_label, ValueError, "b.jpg has no label b.png in .*labels; add the label or remove"),
        (break_size, ValueError, "b.jpg is 6x8 pixels, its label .*b.png 8x6"),
        (break_value, ValueError, "b.png holds the label 2; known are 0 to 1 .255 is ignored"),
    ],
)
def test_a_bad_folder_is_explained(tmp_path, damage, error, words):
    name = write_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=words):
        list(load_dataset(name, "train"))


def test_labels_in_colours_are_read_by_the_class_list(tmp_path):
    name = write_folder(tmp_path, classes="road 0 0 0\nsky 255 255 255\n")
    write(tmp_path / "labels/a.png", np.repeat(numbers(0, 1)[..., None] * 255, 3, 2))
    data = load_dataset(name, "train")
    assert np.array_equal(data[0][1], numbers(0, 1)) and np.array_equal(data[1][1], numbers(0, 1))
    write(tmp_path / "labels/a.png", np.resize([0, 0, 0, 3, 4, 5], (*SIZE, 3)))
    with pytest.raises(ValueError, match=r"a.png .*no class has: \(3 4 5\)"):
        data[0]


@pytest.mark.parametrize("ending", LABEL_ENDINGS)
def test_labels_may_have_one_ending_more(tmp_path, ending):
    name = write_folder(tmp_path)
    for stem in "ab":
        (tmp_path / f"labels/{stem}.png").rename(tmp_path / f"labels/{stem}{ending}.png")
    data = load_dataset(name, "train")
    assert len(data) == 2 and np.array_equal(data[0][1], numbers(0, 1))
    (tmp_path / f"labels/b{ending}.png").unlink()
    with pytest.raises(ValueError, match=f"b.jpg has no label b{ending}.png"):
        load_dataset(name, "train")


@pytest.mark.parametrize("files", [("a_mask", "b"), ("a_mask", "b_gt"), ("a_mask", "b_mask", "c")])
def test_an_ending_that_only_some_labels_have_is_not_guessed(tmp_path, files):
    name = write_folder(tmp_path)
    for stem in "ab":
        (tmp_path / f"labels/{stem}.png").unlink()
    for stem in files:
        write(tmp_path / f"labels/{stem}.png", numbers(0, 1))
    with pytest.raises(ValueError, match="a.jpg has no label a.png"):
        load_dataset(name, "train")


SYSTEM = (".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", ".thumbnails")


@pytest.mark.parametrize("folder", SYSTEM)
@pytest.mark.parametrize("splits", [("",), ("train", "val")])
def test_system_folders_are_no_splits(tmp_path, folder, splits):
    """Not as the only folder, not beside splits, not inside one."""
    for split in splits:
        name = write_folder(tmp_path, split)
        for place in ("images", f"labels/{split}", f"images/{split}"):
            photo(tmp_path / place / folder / "a-checkpoint.jpg")
    assert len(load_dataset(name, "train")) == 2
    assert splits_to_check(name) == (splits if splits[0] else ("train",))


@pytest.mark.parametrize("folder", SYSTEM)
@pytest.mark.parametrize("split", ["train", "test"])
def test_system_folders_are_no_cities(cityscapes, folder, split):
    for top in ("leftImg8bit", "gtFine"):
        photo(cityscapes / "cityscapes" / top / split / folder / "x_leftImg8bit.png")
        (cityscapes / "cityscapes" / top / split / ".DS_Store").touch()
    assert len(load_dataset("cityscapes", split, cityscapes)) == 2


def test_images_beside_the_splits_are_not_lost_in_silence(tmp_path):
    name = write_folder(tmp_path, "train")
    photo(tmp_path / "images/c.jpg")
    assert "holds 1 images beside the folders train" in load_dataset(name, "train").suspicions[0]
    with pytest.raises(ValueError, match=r"unknown split .*'val'.*holds 1 images beside"):
        load_dataset(name, "val")


def rename_hidden(top):
    for file in [*top.rglob("*.jpg"), *top.rglob("*.png")]:
        file.rename(file.with_name(f"._{file.name}"))


def move_deeper(top):
    for part in ("images", "labels"):
        (top / part).rename(top / "x")
        (top / part / "train/more").mkdir(parents=True)
        (top / "x").rename(top / part / "train/more/all")


@pytest.mark.parametrize("damage", [rename_hidden, move_deeper])
def test_a_data_set_of_no_images_is_refused(tmp_path, damage):
    name = write_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(FileNotFoundError, match="images.* holds no image"):
        load_dataset(name, "train")
    assert "holds no image" in check_dataset(name, "train").problems[0]


def test_cities_without_the_official_names_are_no_data_set(cityscapes):
    for file in cityscapes.rglob("val/*/*.png"):
        file.rename(file.with_name(f"{file.parents[2].name}.png"))
    with pytest.raises(
        FileNotFoundError, match="val holds no image that is named NAME_leftImg8bit"
    ):
        load_dataset("cityscapes", "val", cityscapes)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_pipes_and_broken_links_are_named_and_not_opened(tmp_path, part, make):
    name = write_folder(tmp_path)
    make(tmp_path / part / "c.png")
    with pytest.raises(ValueError, match=r"c.png is a broken link or no file"):
        load_dataset(name, "train")


def test_hidden_and_other_files_are_no_images(tmp_path):
    name = write_folder(tmp_path)
    (tmp_path / "images/._a.jpg").write_text("what another system leaves behind")
    (tmp_path / "images/notes.txt").write_text("")
    assert len(load_dataset(name, "train")) == 2


# ---- all of them


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_class_has_a_name_a_colour_and_a_number(name):
    kind = OFFICIAL[name]
    assert len(set(kind.classes)) == len(kind.classes) == len(kind.palette)
    counted = [value for value in kind.table if value != 255]
    assert sorted(counted) == list(range(len(kind.classes)))


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_missing_data_set_says_how_to_get_it(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no folder .*setr_lib download {name}"):
        load_dataset(name, "train", tmp_path)
    with pytest.raises(ValueError, match=f"unknown split of {name} 'vall': did you mean val"):
        load_dataset(name, "vall", tmp_path)


def test_the_number_of_images_is_published():
    """Paper, section 4.1, and the SegNet tutorial's split of CamVid."""
    wanted = {"ade20k": [20210, 2000, 3352], "camvid": [367, 101, 233]}
    wanted["cityscapes"], wanted["pascal_context"] = [2975, 500, 1525], [4998, 5105]
    for name, counts in wanted.items():
        found = OFFICIAL[name].counts
        assert [found[s] for s in ("train", "val", "test") if s in found] == counts
    assert OFFICIAL["cityscapes"].counts["train_extra"] == 19998


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="did you mean cityscapes.*pascal_context_59, folder:PATH"):
        load_dataset("cityscape", "val")
    assert {"shapes", "camvid", "ade20k", "cityscapes", "pascal_context"} <= set(NAMES)


@pytest.mark.parametrize(
    "name, theirs",
    [
        ("ade20k", "ADE20KDataset"),
        ("cityscapes", "CityscapesDataset"),
        ("pascal_context", "PascalContextDataset"),
        ("pascal_context_59", "PascalContextDataset59"),
    ],
)
def test_classes_and_colours_are_mmsegmentations(name, theirs):
    """Same names (theirs has one with a space at its end), same colours, same order."""
    pytest.importorskip("mmseg", reason="mmsegmentation is not installed")
    for module in ("mmcv.ops", "mmcv.ops.point_sample", "mmcv._ext"):
        sys.modules.setdefault(module, mock.MagicMock())
    import mmseg.datasets

    facts = getattr(mmseg.datasets, theirs).METAINFO
    assert OFFICIAL[name].classes == tuple(each.strip() for each in facts["classes"])
    assert [list(colour) for colour in OFFICIAL[name].palette] == facts["palette"]
