"""Images with their labels, as they lie on disk or come out of a generator.

`load_dataset(name, split)` gives pairs of uint8 arrays in one form, whatever the source; the label
255 marks pixels that are not scored.
"""

# H W image rows and columns

import os
from pathlib import Path
from types import MappingProxyType

import numpy as np

from . import shapes
from .errors import unknown
from .geometry import Size
from .layouts import ADE20K, CamVid, Cityscapes, Folder, PascalContext, PascalContext59
from .pairs import FileDataset, PairDataset
from .reading import Pair
from .reading import check_labels as check_labels
from .reading import read_image as read_image
from .reading import read_pair as read_pair

OFFICIAL: dict[str, type[FileDataset]] = {
    kind.name: kind for kind in (CamVid, ADE20K, Cityscapes, PascalContext, PascalContext59)
}
NAMES = ("shapes", *OFFICIAL, "folder:PATH")


def load_dataset(name: str, split: str, root: str | os.PathLike[str] = "data") -> PairDataset:
    """Open a data set.

    Args:
        name: `"shapes"` (made on the fly, no files), `"camvid"`, `"ade20k"`, `"cityscapes"`,
            `"pascal_context"` (60 classes, as in the paper), `"pascal_context_59"`, or
            `"folder:PATH"` for your own. `setr_lib.layouts` says which files each of them expects.
        split: `"train"`, `"val"`, `"test"`, and what else the data set has.
        root: the folder with the data sets; the environment variable `SETR_DATA` replaces it.

    Returns:
        A sequence of `(image uint8 (H,W,3), label uint8 (H,W))` with `.classes` (names), `.palette`
        (RGB per class), `.ignore_index` (255), `.labelled` and `.label_ids`, see
        `setr_lib.datasets.PairDataset`.

    Raises:
        ValueError: for an unknown name or split, an image without its label, two files of one stem.
        FileNotFoundError: if the folder is missing; the message tells how to get the data.
    """
    dataset = open_dataset(name, split, root)
    if dataset.problems:
        more = len(dataset.problems) - 1
        raise ValueError(
            dataset.problems[0]
            + (f" ({more} more: python -m setr_lib check {name} --split {split})" if more else "")
        )
    return dataset


def open_dataset(name: str, split: str, root: str | os.PathLike[str] = "data") -> PairDataset:
    """As `load_dataset`, but what lacks its counterpart is left out and named in `.problems`."""
    if name == "shapes":
        return Shapes(split)
    if name.startswith("folder:"):
        return Folder(split, Path(name.removeprefix("folder:")))
    if name not in OFFICIAL:
        raise ValueError(unknown("data set", name, NAMES))
    return OFFICIAL[name](split, data_root(root))


def data_root(root: str | os.PathLike[str] = "data") -> Path:
    """`root`, unless the environment variable SETR_DATA names another folder."""
    return Path(os.environ.get("SETR_DATA") or root)


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
