"""Pairs of image and label files: what every data set is, and how a label file becomes classes."""

# H W image rows and columns, K classes

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from ..files import unknown
from ..geometry import IGNORE
from ..images import NoMeaning, _bands, _check_bands, orientation, read_image, read_picture
from .classes import Palette

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
TEXT_SUFFIXES = (".txt", ".json", ".xml", ".csv", ".md", ".yaml", ".yml", ".ini", ".db", ".html")
SYSTEM_FOLDERS = ("lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle")
Files = list[tuple[Path, Path | None]]
Pair = tuple[np.ndarray, np.ndarray]
Colours = Sequence[tuple[int, int, int]]
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")  # compressions in a TIFF, as Pillow calls them
GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of 2 and 4 bits over 0 to 255


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
        readers: how many threads may ask for pairs at once.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    palette: Palette
    ignore_index = IGNORE
    labelled = True
    readers = 1  # somebody else's may share an open file between its pairs
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

    def spread(self, most: int) -> list[int]:
        """The numbers of at most so many pairs, evenly spread over the data set."""
        return np.unique(np.linspace(0, len(self) - 1, most).astype(int)).tolist()


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
    readers = 4

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


def read_pair(image_file: Path, label_file: Path) -> Pair:
    """Read an RGB image and its label map; their sizes must agree."""
    image, label = read_image(image_file), read_label(label_file)
    check_sizes(image, label, image_file, label_file)
    return image, label


def read_label(path: str | os.PathLike[str], colours: Colours = ()) -> np.ndarray:
    """A label file as `(H,W)` uint8: class numbers as grey values or palette indices.

    A label saved in colours is read by `colours`, where value k has colour k; one whose red, green
    and blue are equal holds numbers. An EXIF orientation of a label is not obeyed (but Pillow turns
    a TIFF): class numbers are no photograph.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no image, is damaged, was saved with loss (JPEG), has colours that
            nobody named, or values above 255.
    """
    return read_picture(path, lambda image: to_numbers(image, colours))


def to_numbers(image: Image.Image, colours: Colours = ()) -> np.ndarray:
    """A Pillow image as class numbers, see `read_label`."""
    _check_lossless(image)
    _check_bands(image)
    tiles = getattr(image, "tile", [])  # what Pillow has not decoded yet
    stored = str(tiles[0][3]) if tiles else ""
    if image.mode in ("L", "P", "1"):
        return np.array(image, np.uint8) // GREY_STEPS.get(stored, 1)
    if image.mode in ("RGB", "RGBA", "LA") and "16" in stored:  # Pillow drops the lower eight
        raise NoMeaning("it has several channels of 16 bits; save one of 8 bits, the class numbers")
    if image.mode in ("RGB", "RGBA", "LA"):
        return _from_colours(image, colours)
    if not image.mode.startswith("I"):
        raise NoMeaning(
            "it holds floating-point numbers; save the class numbers as integers of 8 bits"
            if image.mode == "F"
            else f"it has the mode {image.mode}; save a grey or palette PNG of class numbers"
        )
    wide = np.asarray(image)
    if wide.min() < 0 or wide.max() > IGNORE:
        raise NoMeaning(
            f"its labels go from {wide.min()} to {wide.max()}; class numbers are 0 to 255: "
            "renumber the classes"
        )
    return wide.astype(np.uint8)


def _from_colours(image: Image.Image, colours: Colours) -> np.ndarray:
    """Class numbers from RGB by the classes' colours, or from three equal channels."""
    if "A" in image.getbands() and image.getchannel("A").getextrema() != (255, 255):
        raise NoMeaning("it is transparent in places; save class numbers without transparency")
    named, grey = np.empty((2, image.height, image.width), np.uint8)
    unknown: set[int] = set()
    is_grey = True
    for rows, pixels in _bands(image):
        code = np.zeros(pixels.shape[:2], np.uint32)
        for channel in range(3):
            code = code << 8 | pixels[..., channel]
        found = np.full(code.shape, -1, np.int16)
        for value, (red, green, blue) in enumerate(colours):
            found[code == (red << 16 | green << 8 | blue)] = value
        named[rows], grey[rows] = found, pixels[..., 0]
        unknown.update(np.unique(code[found < 0]).tolist())
        is_grey = is_grey and bool((pixels == pixels[..., :1]).all())
    if not unknown:
        return named
    if is_grey and (not colours or ((grey < len(colours)) | (grey == IGNORE)).all()):
        return grey
    codes = sorted(unknown)
    shown = ", ".join(f"({c >> 16} {c >> 8 & 255} {c & 255})" for c in codes[:3])
    more = f" and {len(codes) - 3} more" if len(codes) > 3 else ""
    raise NoMeaning(
        f"it has the mode {image.mode} and colours that no class has: {shown}{more}; a label map "
        "has one channel of class numbers: replace each colour by its class and save a grey or "
        "palette PNG (of a folder:PATH data set, give each class its own colour in classes.txt)"
    )


def check_labels(label: np.ndarray, classes: int, file: object, note: str = "") -> None:
    """Every value is below `classes` or 255, else an error that names the file and the values."""
    wrong = label >= classes
    if wrong.any() and (values := np.setdiff1d(label[wrong], [IGNORE])).size:
        from_one = values.tolist() == [classes] and label.min() > 0
        raise ValueError(
            f"{file} holds the label {', '.join(map(str, values))}; known are 0 to {classes - 1} "
            f"({note}255 is ignored): correct the file or the number of classes"
            + (" (does it count from 1? The first class is 0)" if from_one else "")
        )


def check_sizes(image: np.ndarray, label: np.ndarray, image_file: Path, label_file: Path) -> None:
    """The label has the image's rows and columns, else an error that names both."""
    size, other = image.shape[:2], label.shape
    if size != other:
        turned = size == other[::-1] and read_picture(image_file, orientation) in (5, 6, 7, 8)
        raise ValueError(
            f"{image_file} is {size[0]}x{size[1]} pixels, its label {label_file} "
            f"{other[0]}x{other[1]}; they must have the same size"
            + (": the image's EXIF orientation turns it, turn the label too" if turned else "")
        )


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 with its mark; lines end with `\\n`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is in another encoding; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error.reason}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_lossless(image: Image.Image) -> None:
    """Compression with loss moves class numbers: 3 classes in a JPEG come back as 20."""
    kind = image.format
    in_tiff = image.info.get("compression") in LOSSY_TIFF if kind == "TIFF" else False
    in_webp = kind == "WEBP" and not _is_lossless_webp(getattr(image, "filename", ""))
    if kind in ("JPEG", "MPO") or in_tiff or in_webp:
        raise NoMeaning(
            f"it is a {kind} compressed with loss, which changes class numbers; save labels as PNG "
            "from the original masks"
        )


def _is_lossless_webp(path: str) -> bool:
    """Whether the first chunk with pixels is of the lossless kind."""
    with open(path, "rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8L"
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, os.SEEK_CUR)
    return False
