"""From an image of any form to the class of every pixel."""

# H W image rows and columns, K classes, h w rows and columns of a view

import os
import textwrap
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .geometry import Size, resized_strips
from .metric import Pixels
from .protocol import Protocol, make_protocol
from .reading import read_image, to_rgb
from .transforms import normalise, resize_image
from .windows import evaluating as evaluating
from .windows import like_parameters, slide_inference


def predict(
    model: nn.Module,
    image: "Image.Image | Pixels | str | os.PathLike[str]",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    base: tuple[int, int] | None = None,
    window: int | Size | None = None,
    stride: int | Size | None = None,
    protocol: Protocol | None = None,
) -> np.ndarray:
    """The class of every pixel of one image.

    Args:
        image: a path, a PIL image (both turned upright by their EXIF orientation), an array
            `(H,W,3)` or `(H,W)` uint8, or a tensor `(3,H,W)` (uint8, or float between 0 and 1).
        scales: ratios at which the image is read; the probabilities are averaged. Paper, section
            4.2: 0.5, 0.75, 1, 1.25, 1.5, 1.75.
        flip: read each of them mirrored too.
        base: (long side, short side) that ratio 1 is fitted into; None: the image's own size.
        window, stride: slide a window; None: the whole image at once.
        protocol: all of these at once, for example `PROTOCOLS["ade20k_ms"]`.

    Returns:
        `(H,W)` uint8 at the image's own size.

    Raises:
        ValueError: if the image cannot be read or has another shape, or if the network gives
            anything but scores of at most 256 classes.
        FloatingPointError: if the scores are not finite.
    """
    plan = make_protocol(protocol, scales, flip, base, window, stride)
    pixels = to_pixels(image)
    with evaluating(model):
        return class_map(model, pixels, plan)


@torch.inference_mode()
def class_map(model: nn.Module, pixels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """`(H,W,3)` uint8 -> `(H,W)` uint8 classes; the model is in evaluation mode.

    Window logits, averaged where windows overlap; bilinear to the image's size; softmax; mean over
    the views; the largest. One view needs no softmax. Only the sum over the views is ever held at
    the image's size for all classes, and of one view not even that.
    """
    size = (pixels.shape[0], pixels.shape[1])
    views = protocol.views()
    if len(views) == 1:
        strips = resized_strips(view_logits(model, pixels, protocol, *views[0]), size)
        return torch.cat([strip.argmax(0).byte() for _, strip in strips]).cpu().numpy()
    total: Tensor | None = None
    for ratio, mirrored in views:
        logits = view_logits(model, pixels, protocol, ratio, mirrored)
        if total is None:
            total = logits.new_zeros(len(logits), *size)
        for rows, strip in resized_strips(logits, size):
            total[:, rows] += strip.softmax(0)
    assert total is not None
    return torch.cat([part.argmax(0).byte() for part in total.split(64, 1)]).cpu().numpy()


def view_logits(
    model: nn.Module, pixels: np.ndarray, protocol: Protocol, ratio: float, mirrored: bool
) -> Tensor:
    """The scores `(K,h,w)` of one view, at the size that it is read at; a mirrored one turned back.

    Args:
        pixels: `(H,W,3)` uint8.
        ratio, mirrored: which view of `protocol.views()`.
    """
    view = resize_image(pixels, protocol.view_size((pixels.shape[0], pixels.shape[1]), ratio))
    images = like_parameters(model, normalise(view[:, ::-1] if mirrored else view)[None])
    if protocol.window is None:
        logits = model(images)
    else:
        logits = slide_inference(model, images, protocol.window, protocol.stride or protocol.window)
    logits = _checked(logits)
    return logits[0].flip(-1) if mirrored else logits[0]


def _checked(logits: Any) -> Tensor:
    """Scores that a class can be read off, in float32.

    The largest of scores with a NaN among them would be the NaN's class, whatever the image.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != 1:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"of one image the network gives {shape}; expected scores (1, K, H, W)")
    if logits.shape[1] > 256:
        raise ValueError(f"the network has {logits.shape[1]} classes; a uint8 map holds 256")
    low, high = (end.item() for end in logits.aminmax())
    if not (isfinite(low) and isfinite(high)):
        raise FloatingPointError(
            f"the network's scores go from {low} to {high}; no class can be read off them: its "
            "weights are damaged, or its training went astray"
        )
    return logits.float()


def usable_device(name: str) -> str:
    """The name of a device, if torch can compute there.

    Raises:
        ValueError: if it cannot; the message says what is here.
    """
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = textwrap.shorten(str(error).partition(". ")[0], 80)
        others = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(
            f"device is {name!r}, which torch does not offer here ({why}); choose {others}, or none"
        ) from error
    return name


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
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f"the image tensor has the shape {tuple(image.shape)}; expected (3, H, W)"
            )
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
        raise ValueError(
            f"the image array is {array.dtype} of the shape {array.shape}; expected uint8 (H, W, 3)"
        )
    return np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array
