"""Image and label files of any kind, as arrays of one form; a file that cannot be read is named."""

# H W image rows and columns

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from .losses import IGNORE

Pair = tuple[np.ndarray, np.ndarray]
Colours = Sequence[tuple[int, int, int]]
Result = TypeVar("Result")

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")  # compressions in a TIFF, as Pillow calls them
OTHER_KINDS = {  # first bytes -> what the file is; for messages only
    b"GIF8": "a GIF",
    b"%!PS": "a PostScript drawing",
    b"\x93NUM": "a NumPy array",
    b"vers": "perhaps a pointer of Git LFS: run git lfs pull",
    b"ftyp": "a HEIC or AVIF photograph",  # from the fifth byte on
    b"II*\0": "a TIFF whose bands, bits or compression Pillow does not know",
    b"MM\0*": "a TIFF whose bands, bits or compression Pillow does not know",
}
GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of 2 and 4 bits over 0 to 255
ORIENTATION = 0x0112
TURNS = {  # what makes a photograph of this EXIF orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BAND = 512  # rows that are converted at a time


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture file; every picture that the library reads comes through here.

    Pillow goes by the content, not by the name, and some of its readers start other programs
    (PostScript) or are seldom tested: five formats are enough.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no picture of these formats, or larger than Pillow's limit. The
            environment variable SETR_MAX_PIXELS replaces that limit.
    """
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise ValueError(f"{path} is a folder or a special file; name a picture")
        raise FileNotFoundError(f"there is no file {path}")
    if limit := os.environ.get("SETR_MAX_PIXELS"):
        if not limit.isdecimal():
            raise ValueError(f"SETR_MAX_PIXELS is {limit!r}; give a number of pixels")
        Image.MAX_IMAGE_PIXELS = int(limit)
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} cannot be read (it is {_kind(path)}); restore it, or convert it to PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it would fill the memory; if you trust it, set "
            "SETR_MAX_PIXELS in the environment to as many pixels as it has"
        ) from error
    except Exception as error:  # Pillow raises many kinds, some of them not OSError
        raise ValueError(f"{path} cannot be read ({error}); restore or convert the file") from error


def read_picture(path: str | os.PathLike[str], convert: Callable[[Image.Image], Result]) -> Result:
    """What `convert` makes of a picture file; its errors name the file."""
    with open_picture(path) as image:
        try:
            return convert(image)
        except NoMeaning as error:
            raise ValueError(f"{path} cannot be read ({error})") from error
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read ({error}); restore or convert the file"
            ) from error


class NoMeaning(ValueError):
    """The file is whole, but its values are no colours or no class numbers."""


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
    return read_picture(path, to_rgb)


def to_rgb(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode as `(H,W,3)` uint8, upright.

    A photograph's EXIF orientation is obeyed. Grey, palette and CMYK images become RGB,
    transparency is dropped, and of 16 bits the upper eight are kept (65535 is white).
    """
    if image.mode == "F":
        raise NoMeaning("it holds floating-point numbers; save it with 8 or 16 bits a channel")
    _check_bands(image)
    image.load()  # only now: loading turns a TIFF, and takes the orientation away
    if (turn := TURNS.get(orientation(image))) is not None:
        image = image.transpose(turn)
    found = np.empty((image.height, image.width, 3), np.uint8)
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise NoMeaning(
                f"its grey values go from {grey.min()} to {grey.max()}; 16 bits hold 0 to 65535: "
                "save it with 8 or 16 bits a channel"
            )
        found[:] = (grey >> 8)[..., None]
        return found
    for rows, pixels in _bands(image):
        found[rows] = pixels
    return found


def _bands(image: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of an image and their pixels `(rows,W,3)`: converted whole it would be there thrice."""
    for top in range(0, image.height, BAND):
        band = image.crop((0, top, image.width, min(top + BAND, image.height)))
        yield slice(top, top + BAND), np.asarray(band.convert("RGB"))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation: 1 is upright, 2 to 8 are turned or mirrored."""
    return image.getexif().get(ORIENTATION, 1)


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


def _check_bands(image: Image.Image) -> None:
    """A TIFF says what its bands are; one that is neither colour nor transparency is refused."""
    tags = getattr(image, "tag_v2", {})
    if 0 in (tags.get(338) or ()):  # "unspecified"
        raise NoMeaning(
            f"it has {tags.get(277)} bands, and one of them is neither colour nor transparency "
            "(near infrared?); save the bands that are to be red, green and blue"
        )


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


def _kind(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        head = file.read(8)
    return OTHER_KINDS.get(head[:4]) or OTHER_KINDS.get(head[4:]) or "no PNG, JPEG, TIFF, BMP, WebP"
