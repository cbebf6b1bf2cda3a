"""What every data set is, and what those have in common that lie in files.

A data set of files finds its pairs when it is made, without opening them. What is missing or there
twice is collected in `.problems`; `load_dataset` refuses a data set that has some. What may be
meant and may be a mistake is in `.suspicions`; `check` and `train` say it.
"""

# H W image rows and columns, K classes

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from .errors import unknown
from .losses import IGNORE
from .names import Palette
from .reading import Pair, check_labels, check_sizes, read_image, read_label

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
TEXT_SUFFIXES = (".txt", ".json", ".xml", ".csv", ".md", ".yaml", ".yml", ".ini", ".db", ".html")
SYSTEM_FOLDERS = ("lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle")
Files = list[tuple[Path, Path | None]]


class PairDataset:
    """What every data set offers: pairs by number, class names, colours.

    Attributes:
        classes: K names.
        palette: RGB per class.
        ignore_index: 255, the label of pixels that are not scored.
        labelled: False for a test split whose labels are kept by a server: its labels are 255
            everywhere, so that it can be predicted but not scored.
        label_ids: K values, what class k is called in the data set's own label files, and what a
            server expects: `np.array(label_ids, np.uint8)[prediction]`.
        problems: sentences about missing files; empty for what `load_dataset` returns.
        suspicions: sentences about what may be a mistake, as far as names of files show it.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    palette: Palette
    ignore_index = IGNORE
    labelled = True
    problems: Sequence[str] = ()
    suspicions: Sequence[str] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Pair:
        raise NotImplementedError

    def label(self, index: int) -> np.ndarray:
        """The label of pair number `index`, `(H,W)` uint8."""
        return self[index][1]

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))

    @property
    def label_ids(self) -> tuple[int, ...]:
        return tuple(range(len(self.classes)))

    def file(self, index: int) -> str:
        """What to call pair number `index` in a message; the path of its image if it has one."""
        return f"{self.name} number {index}"


class FileDataset(PairDataset):
    """Pairs of files.

    Attributes:
        pairs: image and label file; no label file where the data set has none.
        splits: their names.
        counts: how many images each split has, where that is published.
        table: the class, or 255, for each value from 0 on of a label file.
    """

    splits: tuple[str, ...] = ("train", "val", "test")
    counts: Mapping[str, int] = MappingProxyType({})
    table: tuple[int, ...]
    note = ""  # on the table, for messages

    def __init__(self, split: str, root: Path = Path("data")) -> None:
        if split not in self.splits:
            raise ValueError(unknown(f"split of {self.name}", split, self.splits))
        self.split = split
        self.problems: list[str] = []
        self.suspicions: list[str] = []
        self.pairs = self.find(root)
        self.labelled = any(label for _, label in self.pairs)

    def find(self, root: Path) -> Files:
        """The pairs of `self.split` under `root`; adds to `self.problems`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        image_file, label_file = self.pairs[index]
        image = read_image(image_file)
        if label_file is None:
            return image, np.full(image.shape[:2], IGNORE, np.uint8)
        label = self.read_classes(label_file)
        check_sizes(image, label, image_file, label_file)
        return image, label

    def label(self, index: int) -> np.ndarray:
        label_file = self.pairs[index][1]
        return self[index][1] if label_file is None else self.read_classes(label_file)

    def read_classes(self, file: Path) -> np.ndarray:
        """One label file as class numbers and 255, `(H,W)` uint8."""
        return self.translate(read_label(file), self.table, file)

    def translate(self, values: np.ndarray, table: tuple[int, ...], file: Path) -> np.ndarray:
        """File values -> classes; a value that `table` does not have is an error."""
        check_labels(values, len(table), file, self.note)
        return np.array((*table, *[IGNORE] * (256 - len(table))), np.uint8)[values]

    @property
    def label_ids(self) -> tuple[int, ...]:
        return tuple(self.table.index(k) for k in range(len(self.classes)))

    def file(self, index: int) -> str:
        return str(self.pairs[index][0])

    def _folder(self, root: Path, *names: str) -> Path:
        """The first of these folders that exists."""
        for name in names:
            if (root / name).is_dir():
                return root / name
        others = f" (nor {', '.join(names[1:])} there)" if names[1:] else ""
        raise FileNotFoundError(f"there is no folder {root / names[0]}{others}. {self.cure}")

    @property
    def cure(self) -> str:
        return f"See: python -m setr_lib download {self.name} (or point SETR_DATA to the data)"

    def _pair(
        self,
        images: Path,
        labels: Path | None,
        image_ending: str = "",
        label_endings: tuple[str, ...] = ("",),
    ) -> Files:
        """Images and labels of one stem; of two label endings the first one wins."""
        found = self._by_stem(images, image_ending)
        self._name_passed_over(images)
        if labels is None:
            return [(path, None) for path in found.values()]
        known: dict[str, Path] = {}
        for ending in reversed(label_endings):
            known |= self._by_stem(labels, ending)
        unread = {path.stem: path.name for path in self._name_passed_over(labels)}
        for stem in sorted(found.keys() - known.keys()):
            wanted = f"{stem}{label_endings[-1]}"
            other = f" ({unread[wanted]} is there, but is not read)" if wanted in unread else ""
            self.problems.append(
                f"{found[stem]} has no label {wanted}.png in {labels}{other}; add the label or "
                "remove the file"
            )
        for stem in sorted(known.keys() - found.keys()):
            self.problems.append(
                f"{known[stem]} has no image {stem}{image_ending} in {images}; add the image or "
                "remove the file"
            )
        return [(found[stem], known[stem]) for stem in sorted(found.keys() & known.keys())]

    def _by_stem(self, folder: Path, ending: str) -> dict[str, Path]:
        """The images of a folder by their names less `ending`, sorted."""
        found: dict[str, Path] = {}
        for path in list_images(folder):
            stem = path.stem.removesuffix(ending)
            if not path.stem.endswith(ending):
                continue
            if not path.is_file():
                self.problems.append(f"{path} is a broken link or no file; restore or remove it")
            elif stem in found:
                self.problems.append(f"{path} and {found[stem].name} have one stem; keep one")
            else:
                found[stem] = path
        return found

    def _name_passed_over(self, folder: Path) -> list[Path]:
        """The files of a folder that may be pictures or masks in a format that is not read."""
        others = [
            path
            for path in list_files(folder)
            if path.suffix.lower() not in (*IMAGE_SUFFIXES, *TEXT_SUFFIXES)
        ]
        if others:
            kinds = Counter(path.suffix or "no ending" for path in others)
            self.suspicions.append(
                f"{folder} has files that are passed over: "
                + ", ".join(f"{number} {kind}" for kind, number in kinds.items())
                + f" (the first is {others[0].name}); read are {', '.join(IMAGE_SUFFIXES)}"
            )
        return others

    def _not_empty(self, pairs: Files, folder: Path, ending: str = "") -> Files:
        """The pairs; a data set of none is an error, unless its problems say more."""
        places = [folder, *(folder / name for name in subfolders(folder))]
        if not pairs and not (self.problems and any(map(list_images, places))):
            named = f" that is named NAME{ending}" if ending else ""
            raise FileNotFoundError(
                f"{folder} holds no image{named} ({', '.join(IMAGE_SUFFIXES)}). {self.cure}"
            )
        return pairs


def list_files(folder: Path) -> list[Path]:
    """What a folder holds beside folders and hidden files, sorted."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and not e.is_dir()]
    return [folder / name for name in sorted(names)]


def list_images(folder: Path) -> list[Path]:
    """The files of a folder that are images by their ending."""
    return [path for path in list_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES]


def subfolders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted; none where there is no such folder.

    Those that systems and programs make are passed over: `.ipynb_checkpoints`, `@eaDir`,
    `__MACOSX`, `lost+found` and the like.
    """
    if not folder.is_dir():
        return ()
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return tuple(n for n in found if not n.startswith((".", "@", "__")) and n not in SYSTEM_FOLDERS)
