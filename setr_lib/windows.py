"""Large images through overlapping windows."""

# B batch, H W image rows and columns, K classes, h w size of a head's map

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .geometry import Size, as_size
from .lean import resize_matrix


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


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 in float32: neither by autocast nor by TF32 in fewer bits.

    A resize by a matrix would otherwise round scores to 8 or 10 bits before the largest is taken.
    """
    matmul = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    name, exact = "fp32_precision", "ieee"
    if not hasattr(matmul[0], name):  # before torch 2.9
        matmul, name, exact = matmul[:1], "allow_tf32", False  # type: ignore[assignment]
    before = [getattr(kind, name) for kind in matmul]
    try:
        for kind in matmul:
            setattr(kind, name, exact)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for kind, value in zip(matmul, before, strict=True):
            setattr(kind, name, value)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows begin along one side; the last one ends at the border."""
    count = -(-max(length - window, 0) // stride) + 1
    return [max(min(index * stride, length - window), 0) for index in range(count)]


def check_stride(window: Size, stride: Size) -> None:
    """A stride larger than the window would leave pixels out: an error that names both."""
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(
            f"stride {stride[0]}x{stride[1]} is larger than the window {window[0]}x{window[1]}: "
            "pixels would be left out"
        )


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
    with exact_products(maps.device):
        rows, cols = (
            resize_matrix((side, *ends), like=maps)[:end]
            for side, ends, end in zip(maps.shape[-2:], zip(*steps), size)
        )
    return maps, rows, cols.T
