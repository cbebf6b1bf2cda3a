"""Where a pixel is in the patch grid, and how a map is resized.

Decided here once; the encoder, the decoders, the losses and the evaluation all ask this file.
Sizes are always (rows, columns).
"""

# B batch, C channels or classes, H W image rows and columns, Y X patch rows and columns

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .files import as_count
from .losses import strips

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


def patch_grid(size: Size, patch: int) -> Size:
    """Rows and columns of patches that cover an image; a started patch counts as a whole one."""
    return (size[0] + patch - 1) // patch, (size[1] + patch - 1) // patch


def size_of(maps: Tensor) -> Size:
    """Rows and columns of images or maps `(...,H,W)`."""
    return maps.shape[-2], maps.shape[-1]


def whole_patches(size: Size, patch: int) -> Size:
    """Rows and columns of an image that is padded to whole patches."""
    return patch_grid(size, patch)[0] * patch, patch_grid(size, patch)[1] * patch


def pad_to_patches(images: Tensor, patch: int) -> Tensor:
    """Pad `(B,C,H,W)` with zeros at the right and the bottom, to whole patches.

    Zero is the mean colour after normalisation. The padding is on one side only, so pixel (0, 0)
    stays in the corner of patch (0, 0).
    """
    (height, width), (rows, cols) = size_of(images), whole_patches(size_of(images), patch)
    below, right = rows - height, cols - width
    return F.pad(images, (0, right, 0, below)) if below or right else images


def resize(maps: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """Bilinear resize of `(B,C,h,w)` to `size`; the map itself where it already has that size."""
    if size_of(maps) == tuple(size):
        return maps
    if maps.is_cuda and maps.requires_grad:  # where torch's own gradient differs from run to run
        return strips.resize(maps, list(size), align_corners)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)
