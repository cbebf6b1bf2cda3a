"""What a command writes: masks, overlays with a legend, what test servers take, a table."""

# H W image rows and columns, K classes

import functools
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from ..data.files import IMAGE_SUFFIXES, FileDataset, PairDataset
from ..evaluation import Scores
from ..files import few, whole_file
from ..plots import Palette, colour, overlay

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # class numbers survive, and a palette with them


def find_images(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Image files as they are, and of a folder every image directly in it, sorted by name.

    Returns:
        The images, and the other visible files of the folders, which are passed over.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder holds no image.
        ValueError: if two images have one stem: their masks would have one name.
    """
    found: dict[str, Path] = {}
    passed_over: list[Path] = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            visible = [p for p in sorted(path.iterdir()) if p.is_file() and p.name[0] != "."]
            inside = [p for p in visible if p.suffix.lower() in IMAGE_SUFFIXES]
            others = [p for p in visible if p not in inside]
            if not inside:
                there = f"; there are {few([p.name for p in others])}" if others else ""
                known = ", ".join(IMAGE_SUFFIXES)
                raise FileNotFoundError(f"{path} holds no image ({known}){there}")
            passed_over += others
        elif not path.is_file():
            raise FileNotFoundError(f"there is no image {path}")
        for image in inside:
            if image.stem in found:
                raise ValueError(
                    f"{image} and {found[image.stem]} have one stem, and so one mask; give them "
                    "other names, or predict them one by one"
                )
            found[image.stem] = image
    return list(found.values()), passed_over


def plan_outputs(
    files: Sequence[Path], single: bool, out: Path | None, mask: Path | None
) -> list[tuple[Path, Path | None]]:
    """Where the overlay and the mask of each image go, found out before any of them is made.

    Args:
        single: one file was named: `out` is its overlay, or the folder of it where the name is a
            folder's or has no ending, and `mask` its mask. Else `out` is a folder.

    Raises:
        ValueError, OSError: as `check_destinations`.
    """
    if not single:
        if mask:
            raise ValueError("--mask names the mask of one image; of more, --out names a folder")
        out = out or Path("predictions")
        if out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir():
            raise ValueError(f"{out} is named like an image; of more than one, name a folder")
        names = [f"{file.stem}.png" for file in files]
        check_destinations([out / "masks" / name for name in names], files)
        check_destinations([out / "overlays" / name for name in names], files)
        return [(out / "overlays" / name, out / "masks" / name) for name in names]
    out = out or Path("overlay.png")
    if out.is_dir() or not out.suffix:
        out = out / f"{files[0].stem}.png"
    check_destinations([out], files, IMAGE_SUFFIXES)
    if mask:
        check_destinations([mask], files, MASK_SUFFIXES)
        if mask.resolve() == out.resolve():
            raise ValueError(f"{mask} would be the mask and the overlay; give them two names")
    return [(out, mask)]


def check_destinations(
    paths: Sequence[Path], inputs: Iterable[Path] = (), suffixes: Sequence[str] = ()
) -> None:
    """Files that can be written, found out before the work and without leaving anything there.

    Args:
        inputs: what is read, and so must not be replaced.
        suffixes: what the names may end in; empty: anything.

    Raises:
        ValueError: if one is an input or has another ending.
        OSError: if nothing can be written there.
    """
    kept = {(s.st_dev, s.st_ino) for s in (file.stat() for file in inputs if file.exists())}
    for path in paths:
        if suffixes and path.suffix.lower() not in suffixes:
            raise ValueError(f"{path} ends in {path.suffix!r}; choose {', '.join(suffixes)}")
        with suppress(FileNotFoundError, NotADirectoryError):  # a name too long is an error
            found = path.stat()
            if not path.is_file():
                raise FileExistsError(f"{path} is there and no file; choose another name")
            if (found.st_dev, found.st_ino) in kept:
                raise ValueError(f"{path} is read and would be replaced; choose another name")
    for folder in {next(p for p in path.absolute().parents if p.exists()) for path in paths}:
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is no folder; nothing can be written below it")
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:  # with the name of what was asked for
            raise OSError(error.errno, error.strerror, str(folder)) from error


def save_mask(path: Path, label: np.ndarray, palette: Palette) -> None:
    """The class numbers `(H,W)` as a PNG whose palette shows the class colours."""
    mask = Image.fromarray(label)
    mask.putpalette(colour(np.arange(256), palette).tobytes())
    _save(mask, path)


def save_label_ids(folder: Path, dataset: PairDataset, number: int, label: np.ndarray) -> None:
    """The prediction of pair `number` as its test server takes it: a grey PNG named as the image.

    Args:
        label: `(H,W)` class numbers; the file holds `dataset.label_ids` of them: ADE20K 1 to 150,
            Cityscapes 7 to 33.
    """
    path = folder / label_name(dataset, number)
    _save(Image.fromarray(np.array(dataset.label_ids, np.uint8)[label]), path)


def label_name(dataset: PairDataset, number: int) -> str:
    """What the prediction of a pair is called: exactly as its image."""
    path = Path(dataset.file(number))
    return f"{path.stem if path.suffix else path.name.replace(' ', '_')}.png"


def label_writer(folder: Path, dataset: PairDataset) -> Callable[[int, np.ndarray], None]:
    """What saves the predictions of a data set in a folder, each in a file of its own.

    Raises:
        ValueError: if two would have one name, or one would replace a file of the data set.
        OSError: if nothing can be written there.
    """
    seen: dict[str, int] = {}
    for number in range(len(dataset)):
        other = seen.setdefault(label_name(dataset, number), number)
        if other != number:
            raise ValueError(
                f"{dataset.file(other)} and {dataset.file(number)} would be saved in one file, "
                f"{label_name(dataset, number)}; give one of them another name"
            )
    pairs = dataset.pairs if isinstance(dataset, FileDataset) else []
    if folder.resolve() in {file.parent.resolve() for pair in pairs for file in pair if file}:
        raise ValueError(f"{folder} holds the data set itself; choose another folder")
    check_destinations([folder / name for name in seen])
    return functools.partial(save_label_ids, folder, dataset)


def save_overlay(
    path: Path,
    pixels: np.ndarray,
    label: np.ndarray,
    classes: Sequence[str],
    palette: Palette,
    opacity: float,
) -> None:
    """The image with the class colours laid over it, and a legend of the classes at its right."""
    shown = overlay(pixels, label, palette, opacity)
    # of a large photograph a third of the time, for a file a third larger
    _save(with_legend(shown, label, classes, palette), path, compress_level=1)


def with_legend(
    picture: np.ndarray, label: np.ndarray, classes: Sequence[str], palette: Palette
) -> Image.Image:
    """`(H,W,3)` uint8 and, right of it, the classes of `label`, the largest first.

    Where no font here has the letters of a name, the numbers of the classes stand in their place.
    """
    counts = np.bincount(label.ravel(), minlength=len(classes))
    order = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
    height, width = label.shape
    text = int(np.clip(height / 28, 11, 28))  # pixels; readable in small and large images
    file = font_file("".join(classes))
    font = ImageFont.truetype(file, text) if file else ImageFont.load_default(text)
    shown = [str(k) for k in range(len(classes))] if file is None else classes
    names = [f"{shown[k]}  {100 * counts[k] / label.size:.1f} %" for k in order]
    line, room = round(1.5 * text), 3 * text + round(max(map(font.getlength, names)))
    canvas = Image.new("RGB", (width + room, max(height, line * (len(names) + 1))), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (k, name) in enumerate(zip(order, names, strict=True)):
        left, top = width + text // 2, row * line + line // 2
        box = (left, top, left + text, top + text)
        draw.rectangle(box, fill=tuple(palette[k]), outline="grey")
        draw.text((left + text * 3 // 2, top + text // 2), name, "black", font, anchor="lm")
    return canvas


@functools.cache
def font_file(text: str) -> str | None:
    """A font that has every letter of `text`: "" for Pillow's own, None if there is none here.

    Searched are DejaVu, which comes with matplotlib, and what is installed.
    """
    letters = {ord(letter) for letter in text if letter.isprintable()}
    if max(letters, default=0) < 128:  # Pillow's has no others, not even umlauts
        return ""
    fonts = [f for f in font_manager.fontManager.ttflist if not f.name.startswith("Last Resort")]
    fonts.sort(key=lambda f: (f.name != "DejaVu Sans", f.style != "normal", f.weight != 400))
    files = dict.fromkeys(font.fname for font in fonts)
    return next((f for f in files if letters <= FT2Font(f).get_charmap().keys()), None)


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    with whole_file(path) as temporary:
        image.save(temporary, **options)


def score_table(found: Mapping[str, Scores], classes: Sequence[str]) -> str:
    """IoU per class and the means, a column for each of the scores, and what nan means."""
    rows = [("IoU in %", [f"{name:>18}" for name in found])]
    for k, name in enumerate(classes):
        rows.append((name, [f"{100 * s.iou[k]:18.1f}" for s in found.values()]))
    for name in ("miou", "accuracy", "mean_accuracy"):
        rows.append((name, [f"{100 * getattr(s, name):18.1f}" for s in found.values()]))
    lines = [" ".join([name.ljust(15), *columns]) for name, columns in rows]
    absent = [k for k in range(len(classes)) if any(not s.counts[k].sum() for s in found.values())]
    if absent:
        why = "; do the labels count from 1? The first class is 0" if 0 in absent else ""
        names = few([classes[k] for k in absent], 20)
        lines.append(f"in no label: {names} (nan is left out of the means{why})")
    return "\n".join(lines)
