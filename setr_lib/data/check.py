"""Is a data set complete and readable? Every file is opened; all that is wrong is said at once.

A problem is wrong for certain. A suspicion may be meant so, and gives wrong results silently if it
is not: masks of 0 and 255, labels that count from 1, a photograph that its EXIF orientation turns.
"""

# K classes

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..files import few
from ..geometry import IGNORE
from ..images import TURNS, orientation, read_picture, to_rgb
from .files import FileDataset, PairDataset, check_sizes
from .labels import find_form, label_values, names_of_values
from .layouts import Folder
from .load import folder_path, open_dataset

Result = TypeVar("Result")


@dataclass(frozen=True)
class CheckReport:
    """What was found in one split of a data set.

    Attributes:
        dataset, split: as `load_dataset` calls them.
        images: how many there are, readable or not, that have their label if they should.
        expected: how many are published; None where nothing is.
        problems: one sentence for everything that is wrong.
        suspicions: one sentence for everything that may be wrong.
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
    suspicions: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON: pixels and images by class name."""
        rows = zip(self.classes, self.pixels, self.images_with)
        return {
            "dataset": self.dataset, "split": self.split, "images": self.images,
            "expected": self.expected, "problems": list(self.problems),
            "suspicions": list(self.suspicions),
            "classes": {name: {"pixels": n, "images": images} for name, n, images in rows},
            "ignored": self.ignored,
        }  # fmt: skip

    def __str__(self) -> str:
        official = "" if self.expected is None else f" of {self.expected}"
        lines = [
            f"{self.dataset} {self.split}: {self.images}{official} image{'s'[: self.images != 1]}"
        ]
        total = sum(self.pixels) + self.ignored
        if total:
            lines.append(f"{'':4}{'class':24}{'share of pixels':>16}{'in images':>12}")
            counted = zip(self.classes, self.pixels, self.images_with)
            rows = [*counted, ("(ignored)", self.ignored, "")]
            for k, (name, pixels, images) in enumerate(rows):
                number = k if k < len(self.classes) else IGNORE
                lines.append(f"{number:3} {name:24}{100 * pixels / total:14.3f} %{images:>12}")
        elif not self.problems:
            lines.append("no labels")
        lines += [f"- {problem}" for problem in self.problems]
        lines += [f"? {suspicion}" for suspicion in self.suspicions]
        if not (self.problems or self.suspicions):
            lines.append("nothing is wrong")
        return "\n".join(lines)


def check_dataset(
    name: str,
    split: str,
    root: str | os.PathLike[str] | None = None,
    workers: int = 4,
    progress: bool = True,
) -> CheckReport:
    """Open every file of a split; what is wrong is collected, the first error stops nothing.

    Found are: missing and double files, files that cannot be read, labels of another size than
    their image, values that are no class, and a number of images that is not the published one.
    What may be meant but is rarely so is kept apart, as suspicions.

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
    problems, images = list(dataset.problems), len(dataset)
    expected = dataset.counts.get(split)
    if expected is not None and images != expected:
        problems.append(f"there are {images} images in {split}, {expected} are published")
    wrong, remarked, counts = _check_pairs(dataset, workers, progress)
    classes = len(dataset.classes)
    pixels, ignored = counts[0, :classes].tolist(), int(counts[0, IGNORE])
    doubts = suspicions(pixels, ignored, dataset.classes) if counts.any() else []
    absent = [name for name, n in zip(dataset.classes, pixels) if not n]
    if absent and counts.any() and not doubts:
        doubts.append(f"no pixel of this split is {few(absent, 10)}")
    doubts += _form(dataset) if isinstance(dataset, Folder) else []
    for remark, files in remarked.items():
        doubts.append(f"{len(files)} of {images} images {remark}: {few(files, 3)}")
    return CheckReport(
        name, split, images, expected, (*problems, *wrong), dataset.classes, tuple(pixels),
        images_with=tuple(counts[1, :classes].tolist()),
        ignored=ignored, suspicions=(*dataset.suspicions, *doubts),
    )  # fmt: skip


def _form(dataset: Folder) -> list[str]:
    """A sentence on the form of a user's labels, if they are no class numbers yet."""
    listed, files = dataset.class_list, [label for _, label in dataset.pairs if label]
    form = find_form(label_values(files, listed.colours), names_of_values(listed))
    path = dataset.name.removeprefix("folder:")
    cure = f": setr convert-labels {path} NEW writes class numbers" if form.table else ""
    return [f"the labels are {form.words}{cure}"] if form.converts else []


def _check_pairs(
    dataset: FileDataset, workers: int, progress: bool
) -> tuple[list[str], dict[str, list[str]], np.ndarray]:
    """What is wrong, remarks with the images they are about, pixels and images of each value."""
    problems: list[str] = []
    remarked: dict[str, list[str]] = {}
    counts = np.zeros((2, 256), np.int64)
    name = f"check {dataset.split}"
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda pair: _check_pair(dataset, *pair), dataset.pairs)
        bar = tqdm(found, name, len(dataset), disable=not progress, leave=False)
        for (image_file, _), (wrong, remarks, histogram) in zip(dataset.pairs, bar):
            problems += wrong
            counts += histogram, histogram > 0
            for remark in remarks:
                remarked.setdefault(remark, []).append(image_file.name)
    return problems, remarked, counts


def suspicions(counts_per_class: Sequence[int], ignored: int, classes: Sequence[str]) -> list[str]:
    """What the pixels of each class say about how the labels were written.

    Also of a sample: only patterns that a few labels show.

    Args:
        counts_per_class: K numbers of pixels.
        ignored: how many pixels are 255.
        classes: K names.
    """
    counts = list(counts_per_class)
    absent = [name for name, count in zip(classes, counts) if not count]
    if not any(counts):
        return [
            "every pixel of the labels is ignored (255): nothing can be learnt or scored. In masks "
            "of 0 and 255, write the foreground as 1"
        ]
    found = []
    share = ignored / (ignored + sum(counts))
    # In a few hundred labels of ADE20K some of the 150 classes are missing for no other reason.
    many = len(absent) * 2 >= len(classes) or (share >= 0.05 and len(classes) <= 20)
    if ignored and absent and many:
        found.append(
            f"{100 * share:.1f} % of the pixels are 255, which is ignored, and none is "
            f"{few(absent)}: are these masks of 0 and 255? Write the foreground as its class "
            f"number ({absent[0]}: {list(classes).index(absent[0])})"
        )
    if not counts[0]:
        found.append(
            f"no pixel is {classes[0]}, which is the class 0: do the labels count from 1? Subtract "
            "1, or give 0 a name of its own in the first line of classes.txt (or the line: ignore)"
        )
    return found


def label_histogram(dataset: PairDataset, most: int = 200) -> tuple[list[int], int]:
    """How many pixels each class has, and how many are ignored, in some labels of a data set.

    Args:
        dataset: from `load_dataset`.
        most: how many labels are read; of a larger data set, evenly spread ones. What cannot be
            read is passed over: the training stops at it with a better message.

    Returns:
        The K counts, and the number of pixels that are 255: what `suspicions` asks for.
    """
    counts = np.zeros(256, np.int64)
    for index in dataset.spread(most):
        try:
            counts += np.bincount(dataset.label(index).ravel(), minlength=256)
        except (ValueError, OSError):
            continue
    return counts[: len(dataset.classes)].tolist(), int(counts[IGNORE])


def splits_to_check(name: str) -> tuple[str, ...]:
    """The splits that a data set is expected to have; of a user's folder, those that it has."""
    if name.startswith("folder:"):
        return Folder.names(folder_path(name)) or ("train",)
    return "train", "val"


def _check_pair(
    dataset: FileDataset, image_file: Path, label_file: Path | None
) -> tuple[list[str], list[str], np.ndarray]:
    """What is wrong with a pair, remarks on its image, the histogram `(256,)` of its classes."""
    wrong: list[str] = []

    def attempt(read: Callable[[], Result]) -> Result | None:
        try:
            return read()
        except (ValueError, OSError) as error:
            wrong.append(str(error))
            return None

    image, remarks = attempt(lambda: read_picture(image_file, _remarkable)) or (None, [])
    nothing = np.zeros(256, np.int64)
    if label_file is None:
        return wrong, remarks, nothing
    label = attempt(lambda: dataset.read_classes(label_file))
    if label is None:
        return wrong, remarks, nothing
    if image is not None:
        attempt(lambda: check_sizes(image, label, image_file, label_file))
    return wrong, remarks, np.bincount(label.ravel(), minlength=256)


def _remarkable(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """The pixels of an image, and what reading it may have lost: half a sentence each."""
    turned = orientation(image) in TURNS
    pages = getattr(image, "n_frames", 1)
    pixels = to_rgb(image)
    remarks = []
    if turned:
        remarks.append(
            "have an EXIF orientation and are read upright; their labels are read as they are "
            "stored (were they drawn over the upright photograph? If not, turn them too)"
        )
    if image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() != (255, 255):
        remarks.append("have a fourth channel that is dropped (transparency, or near infrared?)")
    if pages > 1 and image.format == "TIFF":
        remarks.append("have several pages; the first one is read")
    if 0 < pixels.max() < 16:
        remarks.append(
            "are nearly black, no value is above 15 of 255 (12 bits in a file of 16? Save them "
            "with 8, or multiply by 16)"
        )
    return pixels, remarks
