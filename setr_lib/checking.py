"""Is a data set complete and readable? Every file is opened; all that is wrong is said at once."""

# K classes

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from .datasets import open_dataset
from .layouts import subfolders
from .losses import IGNORE
from .pairs import FileDataset, PairDataset
from .reading import check_sizes, read_image

Result = TypeVar("Result")


@dataclass(frozen=True)
class CheckReport:
    """What was found in one split of a data set.

    Attributes:
        dataset, split: as `load_dataset` calls them.
        images: how many there are, readable or not, that have their label if they should.
        expected: how many are published; None where nothing is.
        problems: one sentence for everything that is wrong.
        classes: K names; none if the data set could not be opened.
        pixels: K counts of the pixels of each class, in the labels that could be read.
        images_with: K counts of the labels in which each class occurs.
        ignored: pixels that are not scored.
    """

    dataset: str
    split: str
    images: int
    expected: int | None
    problems: tuple[str, ...]
    classes: tuple[str, ...]
    pixels: tuple[int, ...]
    images_with: tuple[int, ...]
    ignored: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON: pixels and images by class name."""
        rows = zip(self.classes, self.pixels, self.images_with)
        return {
            "dataset": self.dataset,
            "split": self.split,
            "images": self.images,
            "expected": self.expected,
            "problems": list(self.problems),
            "classes": {name: {"pixels": n, "images": images} for name, n, images in rows},
            "ignored": self.ignored,
        }

    def __str__(self) -> str:
        official = "" if self.expected is None else f" of {self.expected}"
        lines = [
            f"{self.dataset} {self.split}: {self.images}{official} image{'s'[: self.images != 1]}"
        ]
        total = sum(self.pixels) + self.ignored
        if total:
            lines.append(f"{'':4}{'class':24}{'share of pixels':>16}{'in images':>12}")
            rows = [
                *zip(self.classes, self.pixels, self.images_with),
                ("(ignored)", self.ignored, ""),
            ]
            for k, (name, pixels, images) in enumerate(rows):
                number = k if k < len(self.classes) else IGNORE
                lines.append(f"{number:3} {name:24}{100 * pixels / total:14.3f} %{images:>12}")
        elif not self.problems:
            lines.append("no labels")
        lines += [f"- {problem}" for problem in self.problems] or ["nothing is wrong"]
        return "\n".join(lines)


def check_dataset(
    name: str,
    split: str,
    root: str | os.PathLike[str] = "data",
    workers: int = 4,
    progress: bool = True,
) -> CheckReport:
    """Open every file of a split; what is wrong is collected, the first error stops nothing.

    Found are: missing and double files, files that cannot be read, labels of another size than
    their image, values that are no class, and a number of images that is not the published one.

    Args:
        name, split, root: as for `load_dataset`.
        workers: threads that read files.

    Raises:
        ValueError: for an unknown name or split, or a data set without files.
    """
    try:
        dataset = open_dataset(name, split, root)
    except FileNotFoundError as error:
        return CheckReport(name, split, 0, None, (str(error),), (), (), (), 0)
    if not isinstance(dataset, FileDataset):
        raise ValueError(f"{name} is made on the fly; there are no files to check")
    problems = list(dataset.problems)
    images = len(dataset)
    expected = dataset.counts.get(split)
    if expected is not None and images != expected:
        problems.append(f"there are {images} images in {split}, {expected} are published")
    counts = np.zeros((2, 256), np.int64)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda pair: _check_pair(dataset, *pair), dataset.pairs)
        for wrong, histogram in tqdm(
            found, total=images, desc=f"check {split}", disable=not progress, leave=False
        ):
            problems += wrong
            counts += histogram, histogram > 0
    classes = len(dataset.classes)
    return CheckReport(
        dataset=name,
        split=split,
        images=images,
        expected=expected,
        problems=tuple(problems),
        classes=dataset.classes,
        pixels=tuple(counts[0, :classes].tolist()),
        images_with=tuple(counts[1, :classes].tolist()),
        ignored=int(counts[0, IGNORE]),
    )


def splits_to_check(name: str) -> tuple[str, ...]:
    """The splits that a data set is expected to have; of a user's folder, those that it has."""
    if name.startswith("folder:"):
        return subfolders(Path(name.removeprefix("folder:")) / "images") or ("train",)
    return "train", "val"


def _check_pair(
    dataset: FileDataset, image_file: Path, label_file: Path | None
) -> tuple[Sequence[str], np.ndarray]:
    """What is wrong with a pair, and the histogram `(256,)` of its classes."""
    wrong: list[str] = []

    def attempt(read: Callable[[], Result]) -> Result | None:
        try:
            return read()
        except (ValueError, OSError) as error:
            wrong.append(str(error))
            return None

    image = attempt(lambda: read_image(image_file))
    if label_file is None:
        return wrong, np.zeros(256, np.int64)
    label = attempt(lambda: dataset.read_classes(label_file))
    if label is None:
        return wrong, np.zeros(256, np.int64)
    if image is not None:
        attempt(lambda: check_sizes(image, label, image_file, label_file))
    return wrong, np.bincount(label.ravel(), minlength=256)


def label_histogram(dataset: PairDataset, most: int = 200) -> tuple[np.ndarray, int]:
    """`(K,)` pixels of each class in at most `most` labels of a data set, and the ignored ones."""
    return np.zeros(len(dataset.classes), np.int64), 0


def suspicions(counts: np.ndarray, ignored: int, classes: Sequence[str]) -> list[str]:
    """What is strange about the labels of a data set, one sentence each."""
    return []
