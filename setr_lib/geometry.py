"""Where a pixel is in the patch grid, and how a map gets back to the image's size.

Decided here once; the encoder, the decoders, the losses and the evaluation all ask this file.
Sizes are always (rows, columns).
"""

# B batch, C channels or classes, H W image rows and columns, Y X patch rows and columns

import operator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
IGNORE = 255  # the label of a pixel that is not scored


def as_size(size: Any, what: str = "image_size") -> Size:
    """`512` means `(512, 512)`; one or two whole numbers, both at least 1, else ValueError."""
    try:
        height, width = size if hasattr(size, "__len__") else (size, size)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {size!r}; it must be (height, width) or one number") from None
    try:
        return as_count(height, what), as_count(width, what)
    except ValueError:
        raise ValueError(
            f"{what} is {height}x{width}; both sides must be whole numbers of at least 1 pixel"
        ) from None


def as_count(value: Any, what: str, least: int = 1) -> int:
    """A whole number of at least `least`, numpy's too; no bool and no float, else ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be a whole number")
    if number < least:
        raise ValueError(f"{what} is {number}; it must be at least {least}")
    return number


def as_switch(value: Any, what: str) -> bool:
    """True or False, else ValueError: 1 or "no" would pass for True."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be True or False")
    return value


def patch_grid(size: Size, patch: int) -> Size:
    """Rows and columns of patches that cover an image; a started patch counts as a whole one."""
    return -(-size[0] // patch), -(-size[1] // patch)


def pad_to_patches(images: Tensor, patch: int) -> Tensor:
    """Pad `(B,C,H,W)` with zeros at the right and the bottom, to whole patches.

    Zero is the mean colour after normalisation. The padding is on one side only, so pixel (0, 0)
    stays in the corner of patch (0, 0).
    """
    height, width = images.shape[-2:]
    rows, cols = patch_grid((height, width), patch)
    below, right = rows * patch - height, cols * patch - width
    return F.pad(images, (0, right, 0, below)) if below or right else images


def resize(maps: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """Bilinear resize of `(B,C,h,w)` to `size`; the map itself where it already has that size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def grid_to_image(maps: Tensor, size: Size, patch: int) -> Tensor:
    """Bring `(B,C,h,w)` maps of the padded image to the `size` of the image itself.

    The map is enlarged to the padded image and then cropped, so that no pixel moves when a side
    is not a multiple of the patch.
    """
    rows, cols = patch_grid(size, patch)
    return resize(maps, (rows * patch, cols * patch))[..., : size[0], : size[1]]
