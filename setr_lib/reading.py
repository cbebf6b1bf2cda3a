"""Image and label files of any kind, as arrays of one form; a file that cannot be read is named."""

# H W image rows and columns

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .losses import IGNORE

Pair = tuple[np.ndarray, np.ndarray]
GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of 2 and 4 bits over 0 to 255


def read_pair(image_file: Path, label_file: Path) -> Pair:
    """Read an RGB image and its label map; their sizes must agree."""
    image, label = read_image(image_file), read_label(label_file)
    check_sizes(image, label, image_file, label_file)
    return image, label


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """An image file of any mode as `(H,W,3)` uint8, see `to_rgb`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no image, is damaged, or has no meaning as colours.
    """
    return _read(path, to_rgb)


def to_rgb(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode as `(H,W,3)` uint8, upright.

    A photograph's EXIF orientation is obeyed. Grey, palette and CMYK images become RGB,
    transparency is dropped, and of 16 bits the upper eight are kept (65535 is white).
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError(
                f"its grey values go from {grey.min()} to {grey.max()}; 16 bits hold 0 to 65535: "
                "save it with 8 or 16 bits a channel"
            )
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, 2)
    return np.array(image.convert("RGB"))


def read_label(path: str | os.PathLike[str]) -> np.ndarray:
    """A label file as `(H,W)` uint8: class numbers as grey values or palette indices.

    An EXIF orientation of a label is not obeyed: class numbers are no photograph.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no image, is damaged, has colours, or values above 255.
    """
    return _read(path, _to_numbers)


def check_labels(label: np.ndarray, classes: int, file: object, note: str = "") -> None:
    """Every value is below `classes` or 255, else an error that names the file and the values."""
    wrong = label >= classes
    if wrong.any() and (values := np.setdiff1d(label[wrong], [IGNORE])).size:
        raise ValueError(
            f"{file} holds the label {', '.join(map(str, values))}; known are 0 to {classes - 1} "
            f"({note}255 is ignored): correct the file or the number of classes"
        )


def check_sizes(image: np.ndarray, label: np.ndarray, image_file: Path, label_file: Path) -> None:
    """The label has the image's rows and columns, else an error that names both."""
    size, other = image.shape[:2], label.shape
    if size != other:
        turned = size == other[::-1] and _is_turned(image_file)
        raise ValueError(
            f"{image_file} is {size[0]}x{size[1]} pixels, its label {label_file} "
            f"{other[0]}x{other[1]}; they must have the same size"
            + (": the image's EXIF orientation turns it, turn the label too" if turned else "")
        )


def _to_numbers(image: Image.Image) -> np.ndarray:
    tiles = getattr(image, "tile", [])  # what Pillow has not decoded yet
    step = GREY_STEPS.get(str(tiles[0][3]), 1) if tiles else 1
    if image.mode in ("L", "P", "1"):
        return np.array(image).astype(np.uint8) // step
    if not image.mode.startswith("I"):
        raise ValueError(
            f"it has the mode {image.mode}; a label map has one channel of class numbers: replace "
            "each colour by its class and save a grey or palette PNG"
        )
    wide = np.asarray(image).astype(np.int64)
    if wide.min() < 0 or wide.max() > IGNORE:
        raise ValueError(
            f"its labels go from {wide.min()} to {wide.max()}; class numbers are 0 to 255: "
            "renumber the classes"
        )
    return wide.astype(np.uint8)


def _read(path: str | os.PathLike[str], convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return convert(image)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises many kinds, some of them not OSError
        raise ValueError(f"{path} cannot be read ({error}); restore or convert the file") from error


def _is_turned(path: Path) -> bool:
    with Image.open(path) as image:
        return image.getexif().get(0x0112, 1) > 4
