"""From an image to the class of every pixel: its views, their windows, and one map of them all."""

# B batch, H W image rows and columns, K classes, h w size of a head's map

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .data.protocols import default_protocol
from .files import unknown
from .geometry import Size, as_size
from .images import Pixels, TestProtocol, normalise, to_pixels
from .losses.strips import exact_products, resize_matrix, resized_strips

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def predict(
    model: nn.Module,
    image: "Image.Image | Pixels | str | os.PathLike[str]",
    *,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    protocol: TestProtocol | None = None,
    precision: str = "fp32",
    batch: int | None = None,
) -> np.ndarray:
    """The class of every pixel of one image.

    Args:
        image: a path, a PIL image (both turned upright by their EXIF orientation), an array
            `(H,W,3)` or `(H,W)` uint8, or a tensor `(3,H,W)` (uint8, or float between 0 and 1).
        scales, flip: test-time augmentation: the ratios at which the image is read, and whether
            each is read mirrored too; the probabilities are averaged. None: the protocol's.
        protocol: how images are read, for example `PROTOCOLS["ade20k_ms"]`; None: as
            `default_protocol` says.
        precision: of the network: `"fp32"`, or by autocast `"bf16"` or `"fp16"`. Its maps are
            enlarged and averaged in float32 all the same.
        batch: windows that the network reads at once; None: one on a CPU, else up to 4.

    Returns:
        `(H,W)` uint8 at the image's own size.

    Raises:
        ValueError: for what is no image, and if the network gives anything but logits of at most
            256 classes.
        FloatingPointError: if the logits are not finite.
    """
    plan = protocol or default_protocol(model)
    views = plan.views(scales, flip)
    pixels = to_pixels(image)
    with evaluating(model), casting(model, precision):
        return class_map(model, plan.read(pixels, views), pixels.shape[:2], plan, batch)


@torch.inference_mode()
def class_map(
    model: nn.Module,
    views: Sequence[tuple[np.ndarray, bool]],
    size: Size,
    protocol: TestProtocol,
    batch: int | None = None,
) -> np.ndarray:
    """The views of an image, see `TestProtocol.read` -> `(H,W)` uint8 classes.

    Window logits, averaged where windows overlap; bilinear to the image's size; softmax; mean over
    the views; the largest. One view needs no softmax. Only the sum over the views is ever held at
    the image's size for all classes, and of one view not even that. The model must be evaluating.
    """
    all_logits = (view_logits(model, *view, protocol, batch) for view in views)
    if len(views) == 1:
        strips = resized_strips(next(all_logits), size)
        return torch.cat([strip.argmax(0).byte() for _, strip in strips]).cpu().numpy()
    for number, logits in enumerate(all_logits):
        if number == 0:
            total = logits.new_zeros(len(logits), *size)
        for rows, strip in resized_strips(logits, size):
            total[:, rows] += strip.softmax(0)
    return torch.cat([part.argmax(0).byte() for part in total.split(64, 1)]).cpu().numpy()


def view_logits(
    model: nn.Module, view: np.ndarray, mirrored: bool, protocol: TestProtocol, batch: int | None
) -> Tensor:
    """The logits `(K,h,w)` of one view `(h,w,3)` uint8; a mirrored one's are turned back.

    A whole image is one window if the network works in 16 bits, as its logits would be enlarged in
    16 bits otherwise.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    pixels = view[:, ::-1] if mirrored else view
    images = like_parameters(model, normalise(pixels, device)[None])
    if protocol.window is None and not torch.is_autocast_enabled(device.type):
        logits = model(images)
    else:
        logits = _slide(model, images, protocol, batch or (1 if device.type == "cpu" else 4))
    logits = check_logits(logits)
    return logits[0].flip(-1) if mirrored else logits[0]


def check_logits(logits: Any) -> Tensor:
    """Logits that a class can be read off, in float32.

    The largest of logits with a NaN among them would be the NaN's class, whatever the image.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != 1:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"of one image the network gives {shape}; expected logits (1, K, H, W)")
    if logits.shape[1] > 256:
        raise ValueError(f"the network has {logits.shape[1]} classes; a uint8 map holds 256")
    low, high = (end.item() for end in logits.aminmax())
    if not (isfinite(low) and isfinite(high)):
        raise FloatingPointError(
            f"the network's logits go from {low} to {high}; no class can be read off them: its "
            "weights are damaged, its training went astray, or 16 bits are too few for it"
        )
    return logits.float()


@torch.no_grad()
def slide_inference(
    model: nn.Module,
    images: Tensor,
    window: int | Size = (512, 512),
    stride: int | Size = (341, 341),
    batch: int = 1,
    blend: bool = False,
) -> Tensor:
    """Logits of large images from overlapping windows.

    Paper section 4.2 and mmsegmentation's rule: windows start every `stride` pixels, the last one
    moves back to end at the border, and where windows overlap the logits are averaged.

    A head's map stays small as long as it can. Resizing, placing and dividing by the coverage are
    one matrix for the columns and one for the rows: the first is applied to each window and adds
    up a row of windows, the second to those that overlap. More windows need no more memory.

    The model is read in evaluation mode, and in its own precision (`like_parameters`); what is
    added up here is in float32, also under autocast and where TF32 is allowed.

    Args:
        images: `(B,3,H,W)` float, normalised.
        window, stride: rows and columns, or one number for both. A window larger than the image
            is cut to it.
        batch: windows of each image that the model reads at once; more need more memory in it.
        blend: whether windows count less towards their borders, so that no seam shows.

    Returns:
        `(B,K,H,W)` float32; of a network in float64, float64.

    Raises:
        ValueError: if the stride is larger than the window, which would leave pixels out, or if
            the images have no pixels.
    """
    as_size((images.shape[-2], images.shape[-1]), "the image")
    plan = TestProtocol(as_size(window, "window"), as_size(stride, "stride"), blend=blend)
    with evaluating(model):
        return _slide(model, like_parameters(model, images), plan, batch)


def _slide(model: nn.Module, images: Tensor, plan: TestProtocol, batch: int) -> Tensor:
    """`slide_inference` of images that fit the model, which is in evaluation mode."""
    total, size = images, (images.shape[-2], images.shape[-1])
    for rows, strip in slide_strips(model, lambda *part: images[..., *part], size, plan, batch):
        if rows.start == 0:
            total = strip.new_empty(*strip.shape[:2], *size)
        total[..., rows, :] = strip
    return total


def slide_strips(
    model: nn.Module, cut: Callable[[slice, slice], Tensor], size: Size, plan: TestProtocol,
    batch: int = 1, most: int = 1 << 24,
) -> Iterator[tuple[slice, Tensor]]:  # fmt: skip
    """`slide_inference` from top to bottom: rows of the image and their logits `(B,K,r,W)`.

    Held are the heads' small maps of the rows of windows that reach into these rows, and a strip of
    at most so many numbers (of one row at least): never the logits of the image.

    Args:
        cut, size: rows and columns -> that part of the images `(B,3,h,w)`; how many they have.
        plan: its window, stride and `blend`.
    """
    (height, width), (wh, ww) = size, (min(ends) for ends in zip(plan.window or size, size))
    sh, sw = plan.stride or (wh, ww)
    tops, lefts = window_starts(height, wh, sh), window_starts(width, ww, sw)
    held: list[tuple[int, Tensor, Tensor]] = []  # (B,K,h,W): the head's rows, the image's columns
    for top, end in zip(tops, [*tops[1:], height]):
        for first in range(0, len(lefts), batch):
            some = lefts[first : first + batch]
            crops = [cut(slice(top, top + wh), slice(left, left + ww)) for left in some]
            maps, to_rows, to_cols = _maps(model, torch.cat(crops), (wh, ww))
            if first == 0:
                row = maps.new_zeros(len(crops[0]), *maps.shape[1:3], width)
                over_rows = _divisors(height, tops, wh, plan.blend, row)[tops.index(top)]
                over_cols = _divisors(width, lefts, ww, plan.blend, row)
            for n, map_BKhw in enumerate(maps.split(len(crops[0]))):
                with exact_products(maps.device):
                    placed = map_BKhw @ (to_cols / over_cols[first + n])
                row[..., some[n] : some[n] + ww] += placed
        held = [*(h for h in held if h[0] + wh > top), (top, to_rows / over_rows[:, None], row)]
        step = max(1, most // row[..., 0, :].numel())
        ends = {at + wh for at, *_ in held} | {*range(top + step, end, step), end}
        for start, stop in pairwise(sorted({top, *(place for place in ends if place <= end)})):
            with exact_products(row.device):
                parts = [matrix[start - at : stop - at] @ maps for at, matrix, maps in held
                         if stop <= at + wh]  # fmt: skip
            yield slice(start, stop), sum(parts[1:], parts[0])


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


def casting(model: nn.Module, precision: str) -> AbstractContextManager[Any]:
    """Autocast around a network, or nothing for `"fp32"`."""
    if precision not in PRECISIONS:
        raise ValueError(unknown("precision", precision, PRECISIONS))
    device = next((p.device.type for p in model.parameters()), "cpu")
    return nullcontext() if precision == "fp32" else torch.autocast(device, PRECISIONS[precision])


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows begin along one side; the last one ends at the border."""
    count = -(-max(length - window, 0) // stride) + 1
    return [max(min(index * stride, length - window), 0) for index in range(count)]


def _divisors(
    length: int, starts: list[int], window: int, blend: bool, like: Tensor
) -> list[Tensor]:
    """For each window along one side `(window,)` numbers: divided by them, all that cover a place
    count as one. Alike, or with `blend` less and less towards a window's borders."""
    places = torch.arange(1, window + 1, device=like.device)
    weight = torch.minimum(places, places.flip(0)) if blend else torch.ones_like(places)
    total = weight.new_zeros(length)
    for start in starts:
        total[start : start + window] += weight
    return [total[start : start + window] / weight for start in starts]


def _maps(model: nn.Module, crops: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """The head's maps `(B,K,h,w)` of windows of `size`, and the matrices that enlarge them.

    The window's logits are `rows @ map @ cols`. A model without small maps gives its logits
    themselves, and the matrices change nothing.
    """
    if hasattr(model, "small_logits"):
        maps, steps = model.small_logits(crops, aux=False)[0]  # type: ignore[operator]
    else:
        maps, steps = model(crops), [size]
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    with exact_products(maps.device):
        rows, cols = (
            resize_matrix((side, *ends), like=maps)[:end]
            for side, ends, end in zip(maps.shape[-2:], zip(*steps), size)
        )
    return maps, rows, cols.T
