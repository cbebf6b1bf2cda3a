"""Data sets by name: images with their labels, from a disk or out of a generator.

`load_dataset(name, split)` gives pairs of uint8 arrays in one form, whatever the source; the label
255 marks pixels that are not scored.
"""

# H W image rows and columns

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..files import unknown
from ..geometry import Size
from . import shapes
from .files import FileDataset, Pair, PairDataset
from .layouts import ADE20K, CamVid, Cityscapes, Folder, PascalContext, PascalContext59

OFFICIAL: dict[str, type[FileDataset]] = {
    kind.name: kind for kind in (CamVid, ADE20K, Cityscapes, PascalContext, PascalContext59)
}
Augment = Callable[[np.ndarray, np.ndarray], Pair]
NAMES = ("shapes", *OFFICIAL, "folder:PATH")


def load_dataset(
    name: "str | PairDataset | Sequence[Pair]",
    split: str,
    root: str | os.PathLike[str] | None = None,
) -> PairDataset:
    """Open a data set.

    Args:
        name: `"shapes"` (made on the fly, no files), `"camvid"`, `"ade20k"`, `"cityscapes"`,
            `"pascal_context"` (60 classes, as in the paper), `"pascal_context_59"`, or
            `"folder:PATH"` for your own. `setr_lib.data.layouts` says which files each expects.
            Or a data set itself: any sequence of pairs with `.classes` and `.palette`.
        split: `"train"`, `"val"`, `"test"`, and what else the data set has.
        root: the folder with the data sets. The environment variable `SETR_DATA` replaces the
            default, not a folder that is given.

    Returns:
        A sequence of `(image uint8 (H,W,3), label uint8 (H,W))` with `.classes` (names), `.palette`
        (RGB per class), `.ignore_index` (255), `.labelled` and `.label_ids`, see
        `setr_lib.data.PairDataset`.

    Raises:
        ValueError: for an unknown name or split, an image without its label, two files of one stem,
            a data set without pairs.
        FileNotFoundError: if the folder is missing; the message tells how to get the data.
    """
    dataset = open_dataset(name, split, root) if isinstance(name, str) else as_dataset(name, split)
    if dataset.problems:
        first, *others = dataset.problems
        check = f"python -m setr_lib check {dataset.name} --split {split}"
        raise ValueError(first + (f" ({len(others)} more: {check})" if others else ""))
    if len(dataset) == 0:
        raise ValueError(f"{dataset.name} {split} has no pairs of image and label")
    return dataset


def open_dataset(name: str, split: str, root: str | os.PathLike[str] | None = None) -> PairDataset:
    """As `load_dataset`, but what lacks its counterpart is left out and named in `.problems`."""
    if name == "shapes":
        return Shapes(split)
    if name.startswith("folder:"):
        return Folder(split, folder_path(name))
    if name not in OFFICIAL:
        raise ValueError(unknown("data set", name, NAMES))
    return OFFICIAL[name](split, data_root(root))


def as_dataset(pairs: Any, split: str) -> PairDataset:
    """A data set that somebody else made, as one of ours.

    Raises:
        ValueError: if it lacks something; the message says what.
    """
    if isinstance(pairs, PairDataset):
        return pairs
    needed = ("__len__", "__getitem__", "classes", "palette")
    if missing := [part for part in needed if not hasattr(pairs, part)]:
        raise ValueError(
            f"a {type(pairs).__name__} is no data set: it has no {', '.join(missing)}; give a name "
            f"({', '.join(NAMES)}), or a sequence of (image uint8 (H,W,3), label uint8 (H,W)) with "
            ".classes (names) and .palette (RGB per class)"
        )
    return Given(pairs, split)


def check_classes(classes: Sequence[str] | None, count: int, dataset: PairDataset) -> None:
    """A network's classes are those of the data set, else an error that names both.

    Args:
        classes: their names, as far as its file knows them.
        count: how many the network has.
    """
    cure = "evaluate it on data with its own classes"
    theirs = len(dataset.classes)
    if count != theirs:
        raise ValueError(f"the checkpoint has {count} classes, {dataset.name} has {theirs}: {cure}")
    if classes and len(classes) != count:
        raise ValueError(f"the checkpoint has {count} classes and {len(classes)} names for them")
    for k, (mine, other) in enumerate(zip(classes or dataset.classes, dataset.classes)):
        if mine != other:
            raise ValueError(
                f"class {k} of the checkpoint is {mine!r}, that of {dataset.name} {other!r}: {cure}"
            )


def folder_path(name: str) -> Path:
    """The PATH of `folder:PATH`; `~` is the home folder."""
    return Path(os.path.expanduser(name.removeprefix("folder:")))


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """`root`; None: the folder that the environment variable SETR_DATA names, else `data`.

    `~` is the home folder in both.
    """
    return Path(os.path.expanduser(root or os.environ.get("SETR_DATA") or "data"))


class Given(PairDataset):
    """Somebody else's pairs, with the names that they lack."""

    def __init__(self, pairs: Any, split: str) -> None:
        self.pairs, self.split, self.name = pairs, split, type(pairs).__name__
        self.classes, self.palette = tuple(pairs.classes), tuple(map(tuple, pairs.palette))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


class Shapes(PairDataset):
    """Made-up scenes, 8 classes; see `setr_lib.data.shapes`.

    Endless: any number from 0 on is a scene of its own.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        size: rows and columns of a scene.
        seed: of all scenes.
        length: how many of them make an epoch or an evaluation; None: as in `lengths`.
    """

    name = "shapes"
    classes = shapes.CLASSES
    palette = shapes.PALETTE
    readers = 4
    lengths: Mapping[str, int] = MappingProxyType({"train": 10_000, "val": 200, "test": 200})

    def __init__(
        self, split: str, size: Size = (128, 128), seed: int = 0, length: int | None = None
    ) -> None:
        if split not in self.lengths:
            raise ValueError(unknown("split of shapes", split, self.lengths))
        self.split, self.size, self.seed = split, size, seed
        # The object's own, so that a copy in another process has them too, however it was started.
        self.lengths = {**self.lengths, **({} if length is None else {split: length})}

    def __len__(self) -> int:
        return self.lengths[self.split]

    def __getitem__(self, index: int) -> Pair:
        if index < 0:
            raise IndexError(f"scene {index}: the scenes are numbered from 0 on")
        stream = list(self.lengths).index(self.split)
        return shapes.make_scene(np.random.default_rng([self.seed, stream, index]), self.size)


class Derived(PairDataset):
    """Pairs of another data set, chosen or changed; what is known of them all stays true."""

    def __init__(self, data: PairDataset) -> None:
        self.data, self.name, self.split, self.readers = data, data.name, data.split, data.readers
        self.classes, self.palette, self.labelled = data.classes, data.palette, data.labelled
        self.suspicions = data.suspicions


class Augmented(Derived):
    """A data set whose pairs go through somebody's function before they are cut.

    Args:
        data: the pairs.
        augment: `(image (H,W,3) uint8, label (H,W) uint8)` -> two such arrays of one size. Chance
            is its own: with it a run is repeated only if it draws from numbers that are seeded.
    """

    def __init__(self, data: PairDataset, augment: Augment) -> None:
        super().__init__(data)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Pair:
        pair = self.augment(*self.data[index])
        image, label = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, None)
        good = isinstance(image, np.ndarray) and isinstance(label, np.ndarray)
        if not (
            good and image.dtype == label.dtype == np.uint8 and image.shape == (*label.shape, 3)
        ):
            raise TypeError(
                "augment gave no pair of uint8 arrays (H,W,3) and (H,W); it takes and returns "
                "an image and its label"
            )
        return image, label

    def label(self, index: int) -> np.ndarray:
        return self.data.label(index)  # as it is: counted, not learnt from

    def file(self, index: int) -> str:
        return self.data.file(index)


def load_splits(
    data: Any, evaluated: str, root: str | os.PathLike[str] | None, augment: Augment | None = None
) -> tuple[PairDataset, PairDataset]:
    """What a run learns from, and what it is scored on.

    Args:
        data: a name, or the two data sets themselves, see `load_dataset`.
        evaluated: the name of the second split.
        root: the folder with the data sets.
        augment: goes over the first, see `Augmented`.
    """
    if isinstance(data, str):
        data = (data, data)
    if not (isinstance(data, tuple) and len(data) == 2):
        raise ValueError(f"data is a {type(data).__name__}; give a name, or (train, val)")
    train, val = (load_dataset(d, s, root) for d, s in zip(data, ("train", evaluated)))
    return Augmented(train, augment) if augment else train, val
