"""Any image as pixels, pixels as what the network reads, and how a test reads them."""

# H W image rows and columns

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from numbers import Real
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .files import as_switch, unknown
from .geometry import Size, as_size

Result = TypeVar("Result")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
OTHER_KINDS = {  # first bytes -> what the file is; for messages only
    b"GIF8": "a GIF",
    b"%!PS": "a PostScript drawing",
    b"\x93NUM": "a NumPy array",
    b"vers": "perhaps a pointer of Git LFS: run git lfs pull",
    b"ftyp": "a HEIC or AVIF photograph",  # from the fifth byte on
    b"II*\0": "a TIFF whose bands, bits or compression Pillow does not know",
    b"MM\0*": "a TIFF whose bands, bits or compression Pillow does not know",
}
ORIENTATION = 0x0112
UPRIGHT = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
TURNS = {k: Image.Transpose[turn] for k, turn in enumerate(UPRIGHT.split(), 2)}  # by EXIF
BAND = 512  # rows that are converted at a time
# ImageNet statistics on the 0-255 scale, as in every SETR configuration. The ViT weights were
# trained with 127.5 for all of them; the authors do not use that.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
Pixels = np.ndarray | Tensor


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


def _check_bands(image: Image.Image) -> None:
    """A TIFF says what its bands are; one that is neither colour nor transparency is refused."""
    tags = getattr(image, "tag_v2", {})
    if 0 in (tags.get(338) or ()):  # "unspecified"
        raise NoMeaning(
            f"it has {tags.get(277)} bands, and one of them is neither colour nor transparency "
            "(near infrared?); save the bands that are to be red, green and blue"
        )


def _kind(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        head = file.read(8)
    return OTHER_KINDS.get(head[:4]) or OTHER_KINDS.get(head[4:]) or "no PNG, JPEG, TIFF, BMP, WebP"


def normalise(image: np.ndarray, device: str | torch.device = "cpu") -> Tensor:
    """`(H,W,3)` uint8 -> `(3,H,W)` float32 with the ImageNet mean and deviation.

    On a GPU the arithmetic is done there: what travels is a quarter of the size.
    """
    pixels = torch.tensor(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).float()
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / std


def denormalise(image: Tensor) -> np.ndarray:
    """The way back, `(3,H,W)` float -> `(H,W,3)` uint8, for pictures."""
    pixels = image.cpu() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def fit_inside(size: Size, box: tuple[float, float]) -> Size:
    """The size nearest to `box` = (long side, short side) with the aspect kept (mmcv's rule)."""
    factor = min(max(box) / max(size), min(box) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear, without the smoothing that torchvision adds when shrinking (as OpenCV does)."""
    if image.shape[:2] == tuple(size):
        return image
    pixels = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, size=tuple(size), mode="bilinear", align_corners=False)
    return pixels[0].permute(1, 2, 0).numpy()  # in 8 bits: six times faster, within 1 of float


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Nearest neighbour, with pixel centres where `resize_image` has them."""
    if label.shape == tuple(size):
        return label
    return label.take(nearest(label.shape[0], size[0]), 0).take(nearest(label.shape[1], size[1]), 1)


def nearest(source: int, scaled: int) -> np.ndarray:
    """For each pixel of a side that is scaled from `source` pixels the nearest one, by centres.

    OpenCV, which the authors call, takes the upper left neighbour instead; with it labels and
    pixels drift apart by up to half a pixel. In float32, which decides between two that are
    equally near as torch's `nearest-exact` does.
    """
    places = (np.arange(scaled, dtype=np.float32) + np.float32(0.5)) * np.float32(source / scaled)
    return np.minimum(places.astype(np.int64), source - 1)


def to_pixels(image: "Image.Image | Pixels | str | os.PathLike[str]") -> np.ndarray:
    """Any form of an image -> `(H,W,3)` uint8 of at least one pixel."""
    pixels = _to_pixels(image)
    if not pixels.size:
        raise ValueError(f"the image has {pixels.shape[0]}x{pixels.shape[1]} pixels, so none")
    return pixels


def _to_pixels(image: "Image.Image | Pixels | str | os.PathLike[str]") -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        if not Path(image).is_file():
            raise FileNotFoundError(f"there is no image {image}")
        return read_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, Tensor):
        shape = tuple(image.shape)
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"the image tensor has the shape {shape}; expected (3, H, W)")
        if image.is_floating_point() and image.numel():
            if not (image.min() >= 0 and image.max() <= 1):  # a NaN is neither
                raise ValueError(
                    f"the image tensor goes from {image.min():.3g} to {image.max():.3g}; floats "
                    "must lie between 0 and 1 (before normalisation), or give uint8"
                )
            image = (image * 255).round().byte()
        return image.permute(1, 2, 0).cpu().numpy()
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        what = f"{array.dtype} of the shape {array.shape}"
        raise ValueError(f"the image array is {what}; expected uint8 (H, W, 3)")
    return np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array


RULES = ("original", "fit", "short")
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # paper, section 4.2
View = tuple[float, bool]  # ratio, mirrored


@dataclass(frozen=True)
class TestProtocol:
    """How an image is looked at when a network is scored: its size, its windows, its views.

    Args:
        window: rows and columns of the window that slides; None: whole images.
        stride: between windows; None: the window.
        base: (long side, short side) that a ratio multiplies.
        rule: what becomes of an image at a ratio, always with its aspect kept.
            `"original"`: the image's own size times the ratio, as mmsegmentation 1.x does in its
            multi-scale test (both sides are rounded, then the image is fitted into them); it has
            no base. `"fit"`: as large as fits inside base times the ratio. `"short"`: the short
            side becomes that of base times the ratio, but not less than the window's short side;
            the long side may be anything (the authors' multi-scale test since their commit
            9a473bc, and the enlarging that the paper's section 4.2 asks for).
        scales: the ratios; the probabilities of all views are averaged.
        flip: whether each ratio is read mirrored too.
        blend: whether windows count less and less towards their borders, so that no seam shows; if
            not, all that cover a pixel count alike, as in the paper.

    Raises:
        ValueError: for a value outside its range; the message names it and what is possible.
    """

    __test__ = False  # for pytest, which collects classes that are called Test...

    window: Size | None = None
    stride: Size | None = None
    base: tuple[int, int] | None = None
    rule: str = "original"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    blend: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(unknown("rule", self.rule, RULES))
        if (self.base is None) != (self.rule == "original"):
            raise ValueError(
                f"rule is {self.rule!r} and base {self.base}; 'original' has no base, "
                "'fit' and 'short' need one"
            )
        if self.window is None and self.stride is not None:
            raise ValueError(f"stride is {self.stride} without a window; name the window too")
        sides: dict[str, Size] = {}
        if self.base is not None:
            sides["base"] = as_size(self.base, "base")
        if self.window is not None:
            sides["window"] = as_size(self.window, "window")
            stride = self.window if self.stride is None else self.stride
            sides["stride"] = as_size(stride, "stride")
            check_stride(sides["window"], sides["stride"])
        for name in ("flip", "blend"):
            as_switch(getattr(self, name), name)
        if self.blend and self.window is None:
            raise ValueError("blend is True without a window; name the window too (--window)")
        for name, value in {**sides, "scales": as_scales(self.scales)}.items():
            object.__setattr__(self, name, value)

    def view_size(self, size: Size, ratio: float) -> Size:
        """The rows and columns at which an image of `size` is read at a ratio."""
        if self.rule == "original" or self.base is None:
            box = [max(1, int(ratio * side + 0.5)) for side in size]
            return fit_inside(size, (max(box), min(box)))
        long, short = (int(ratio * side) for side in (max(self.base), min(self.base)))
        if self.rule == "fit":
            return fit_inside(size, (long, short))
        return fit_inside(size, (inf, max(short, min(self.window or (1,)))))

    def views(self, scales: Sequence[float] | None = None, flip: bool | None = None) -> list[View]:
        """All (ratio, mirrored); other scales and flip than the protocol's where they are given."""
        ratios = self.scales if scales is None else as_scales(scales)
        sides = (False, True) if (self.flip if flip is None else flip) else (False,)
        return [(ratio, side) for ratio in ratios for side in sides]

    def read(self, pixels: np.ndarray, views: Sequence[View]) -> list[tuple[np.ndarray, bool]]:
        """An image `(H,W,3)` uint8 at the size of each view, and whether it is to be mirrored."""
        size, ratios = (pixels.shape[0], pixels.shape[1]), {ratio for ratio, _ in views}
        at = {ratio: resize_image(pixels, self.view_size(size, ratio)) for ratio in ratios}
        return [(at[ratio], mirrored) for ratio, mirrored in views]

    def multi_scale(self, rule: str | None = None) -> "TestProtocol":
        """This protocol with the paper's six ratios and their mirror images."""
        rule = rule or ("short" if self.window and self.base else self.rule)
        base = None if rule == "original" else self.base
        return dataclasses.replace(self, base=base, rule=rule, scales=SCALES, flip=True)


def as_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """At least one finite number above 0, else ValueError."""
    numbers = tuple(scales) if hasattr(scales, "__iter__") else ()
    if not numbers or not all(isinstance(n, Real) and 0 < n < inf for n in numbers):
        raise ValueError(f"scales are {scales!r}; name at least one, all finite and above 0")
    return numbers


def check_stride(window: Size, stride: Size) -> None:
    """A stride larger than the window would leave pixels out: an error that names both."""
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(
            f"stride {stride[0]}x{stride[1]} is larger than the window {window[0]}x{window[1]}: "
            "pixels would be left out"
        )
