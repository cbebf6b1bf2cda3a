"""From an image to the class of every pixel: the protocol of a test, windows, several views."""

# B batch, H W image rows and columns, K classes, h w size of a head's map

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .data.protocols import TestProtocol, check_stride, make_protocol
from .geometry import Size, as_size, resize
from .images import Pixels, normalise, resize_image, to_pixels
from .losses.strips import exact_products, resize_matrix


def predict(
    model: nn.Module,
    image: "Image.Image | Pixels | str | os.PathLike[str]",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    base: tuple[int, int] | None = None,
    window: int | Size | None = None,
    stride: int | Size | None = None,
    protocol: TestProtocol | None = None,
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
def class_map(model: nn.Module, pixels: np.ndarray, protocol: TestProtocol) -> np.ndarray:
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
    model: nn.Module, pixels: np.ndarray, protocol: TestProtocol, ratio: float, mirrored: bool
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


@torch.no_grad()
def slide_inference(
    model: nn.Module,
    images: Tensor,
    window: int | Size = (512, 512),
    stride: int | Size = (341, 341),
    batch: int = 1,
) -> Tensor:
    """Scores of large images from overlapping windows.

    Paper section 4.2 and mmsegmentation's rule: windows start every `stride` pixels, the last one
    moves back to end at the border, and where windows overlap the logits are averaged.

    A head's map stays small as long as it can. Resizing, placing and dividing by the coverage are
    one matrix for the columns and one for the rows: the first is applied to each window and adds
    up a row of windows, the second to that row. The memory does not depend on how many windows
    there are.

    The model is read in evaluation mode, and in its own precision (`like_parameters`); what is
    added up here is in float32, also under autocast and where TF32 is allowed.

    Args:
        images: `(B,3,H,W)` float, normalised.
        window, stride: rows and columns, or one number for both. A window larger than the image
            is cut to it.
        batch: windows that the model reads at once, of each image. More than one can be faster on
            a GPU, and needs that much more memory inside the model.

    Returns:
        `(B,K,H,W)` float32; of a network in float64, float64.

    Raises:
        ValueError: if the stride is larger than the window, which would leave pixels out, or if
            the images have no pixels.
    """
    height, width = as_size((images.shape[-2], images.shape[-1]), "the image")
    (wh, ww), (sh, sw) = as_size(window, "window"), as_size(stride, "stride")
    check_stride((wh, ww), (sh, sw))
    wh, ww = min(wh, height), min(ww, width)
    images = like_parameters(model, images)
    with evaluating(model):
        return _slide(model, images, (wh, ww), (sh, sw), batch)


def _slide(model: nn.Module, images: Tensor, window: Size, stride: Size, batch: int) -> Tensor:
    """`slide_inference` with windows that are not larger than the image."""
    (height, width), (wh, ww), (sh, sw) = images.shape[-2:], window, stride
    tops, lefts = window_starts(height, wh, sh), window_starts(width, ww, sw)
    coverage = [_coverage(*facts, images) for facts in ((height, tops, wh), (width, lefts, ww))]
    total: Tensor | None = None
    for top in tops:
        row: Tensor | None = None  # (B,K,h,W): the head's rows, the image's columns
        for some in (lefts[i : i + batch] for i in range(0, len(lefts), batch)):
            crops = [images[..., top : top + wh, left : left + ww] for left in some]
            maps, to_rows, to_cols = _maps(model, torch.cat(crops), (wh, ww))
            for left, map_BKhw in zip(some, maps.split(len(images)), strict=True):
                cols = slice(left, left + ww)
                with exact_products(maps.device):
                    placed = map_BKhw @ (to_cols / coverage[1][cols])
                if row is None:
                    row = placed.new_zeros(*placed.shape[:-1], width)
                row[..., cols] += placed
        assert row is not None
        rows = slice(top, top + wh)
        if total is None:
            total = row.new_zeros(*row.shape[:2], height, width)
        matrix = (to_rows / coverage[0][rows, None]).expand(row.shape[0] * row.shape[1], -1, -1)
        with exact_products(row.device):
            total.flatten(0, 1)[:, rows].baddbmm_(matrix, row.flatten(0, 1))
    assert total is not None
    return total


def like_parameters(model: nn.Module, images: Tensor) -> Tensor:
    """Images on the device and in the precision of the model's parameters, if it has some."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return images if first is None else images.to(first)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards every part is as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows begin along one side; the last one ends at the border."""
    count = -(-max(length - window, 0) // stride) + 1
    return [max(min(index * stride, length - window), 0) for index in range(count)]


def _coverage(length: int, starts: Sequence[int], window: int, like: Tensor) -> Tensor:
    """How many windows cover each place along one side."""
    counts = torch.zeros(length, device=like.device)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def _maps(model: nn.Module, crops: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """The head's maps `(B,K,h,w)` of windows of `size`, and the matrices that enlarge them.

    The window's scores are `rows @ map @ cols`. A model without small maps gives its scores
    themselves, and the matrices change nothing.
    """
    if hasattr(model, "small_logits"):
        maps, steps = model.small_logits(crops, aux=False)[0]  # type: ignore[operator]
    else:
        maps, steps = model(crops), [size]
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    rows, cols = (
        resize_matrix((side, *ends), like=maps)[:end]
        for side, ends, end in zip(maps.shape[-2:], zip(*steps), size)
    )
    return maps, rows, cols.T


def resized_strips(
    maps: Tensor, size: Size, values: int = 1 << 21
) -> Iterator[tuple[slice, Tensor]]:
    """What `resize` makes of `(C,h,w)`, a few rows at a time: `(rows, (C,r,W))`.

    For maps of many classes that would fill the memory at the image's size.

    Args:
        values: about how many numbers a strip holds.
    """
    channels, h, w = maps.shape
    height, width = size
    at = ((torch.arange(height, device=maps.device) + 0.5) * (h / height) - 0.5).clamp(min=0)
    above = at.long().clamp(max=h - 1)
    below, weight = (above + 1).clamp(max=h - 1), (at - above)[:, None]
    step = max(1, values // (channels * width))
    for top in range(0, height, step):
        rows = slice(top, top + step)
        if (h, w) == (height, width):
            yield rows, maps[:, rows]
            continue
        strip = torch.lerp(maps[:, above[rows]], maps[:, below[rows]], weight[rows])
        yield rows, resize(strip[None], (strip.shape[1], width))[0]
