"""Large images through overlapping windows."""

# B batch, H W image rows and columns, K classes, h w size of a head's map

from collections.abc import Sequence

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

    Args:
        images: `(B,3,H,W)` float, normalised.
        window, stride: rows and columns, or one number for both. A window larger than the image
            is cut to it.
        batch: windows that the model reads at once, of each image. More than one can be faster on
            a GPU, and needs that much more memory inside the model.

    Returns:
        `(B,K,H,W)` float.

    Raises:
        ValueError: if the stride is larger than the window, which would leave pixels out.
    """
    height, width = images.shape[-2:]
    (wh, ww), (sh, sw) = as_size(window, "window"), as_size(stride, "stride")
    check_stride((wh, ww), (sh, sw))
    wh, ww = min(wh, height), min(ww, width)
    tops, lefts = window_starts(height, wh, sh), window_starts(width, ww, sw)
    coverage = [_coverage(*facts, images) for facts in ((height, tops, wh), (width, lefts, ww))]
    total: Tensor | None = None
    for top in tops:
        row: Tensor | None = None  # (B,K,h,W): the head's rows, the image's columns
        for some in (lefts[i : i + batch] for i in range(0, len(lefts), batch)):
            crops = [images[..., top : top + wh, left : left + ww] for left in some]
            maps, to_rows, to_cols = _maps(model, torch.cat(crops), (wh, ww))
            for left, map_BKhw in zip(some, maps.split(len(images))):
                cols = slice(left, left + ww)
                placed = map_BKhw @ (to_cols / coverage[1][cols])
                if row is None:
                    row = placed.new_zeros(*placed.shape[:-1], width)
                row[..., cols] += placed
        assert row is not None
        rows = slice(top, top + wh)
        if total is None:
            total = row.new_zeros(*row.shape[:2], height, width)
        matrix = (to_rows / coverage[0][rows, None]).expand(row.shape[0] * row.shape[1], -1, -1)
        total.flatten(0, 1)[:, rows].baddbmm_(matrix, row.flatten(0, 1))
    assert total is not None
    return total


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
    maps = maps.float()
    rows, cols = (
        resize_matrix((side, *ends), like=maps)[:end]
        for side, ends, end in zip(maps.shape[-2:], zip(*steps), size)
    )
    return maps, rows, cols.T
