"""Which cells are behind each pixel and with which weights: what the loss's kernels look up.

Tables are made once for each pair of sizes and stay for good: a CUDA graph that was captured reads
them whenever it is replayed, and a run meets few sizes.
"""

# P = PY*PX pixels of a tile, T cells of its patch filled up to a power of two

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .strips import resize_matrix

Sizes = tuple[int, ...]  # the lengths that an axis goes through


@functools.cache
def _weights_of(sizes: Sizes, length: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix of an axis, cropped, in float64, and the first and last cell behind each pixel."""
    like = torch.empty(0, dtype=torch.float64)
    rows = resize_matrix(sizes, align_corners, like)[:length]
    rows = rows.where(rows > 1e-9, 0)  # what is left of rounding
    return rows, *_ends(rows > 0)


def _ends(marked: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last marked place of each row."""
    return marked.byte().argmax(1), marked.shape[1] - 1 - marked.flip(1).byte().argmax(1)


class NearAxis(NamedTuple):
    """One axis for small steps: the two cells of a pixel, the three around the pixels of a cell."""

    pixels: int  # that lean on a cell, at most
    low: Tensor  # (pixels of the axis,): the first of its two cells
    taps: Tensor  # (pixels of the axis, 2): their weights
    pixel: Tensor  # (cells,): the first pixel that leans on it
    near: Tensor  # (cells,): the first of the three cells that those pixels lean on
    lean: Tensor  # (cells, pixels, 3): with which weights
    own: Tensor  # (cells, pixels): with which weight on the cell itself


@functools.cache
def near_axis(
    sizes: Sizes, length: int, align_corners: bool, device: torch.device
) -> NearAxis | None:
    """None if a pixel leans on more than two cells, as after several resizes."""
    rows, low, high = _weights_of(sizes, length, align_corners)
    if (high - low).max() > 1:
        return None
    low = low.clamp(max=max(0, sizes[0] - 2))
    touched = rows.T > 0
    pixel, last = _ends(touched)
    counts = (last - pixel + 1) * touched.any(1)
    near = low[pixel].clamp(max=max(0, sizes[0] - 3))
    pixels = int(counts.max())
    padded = torch.nn.functional.pad(rows, (0, 3))  # nothing leans on cells past the border
    taps = padded.gather(1, low[:, None] + torch.arange(2))
    n = torch.arange(pixels)
    which = (pixel[:, None] + n).clamp(max=length - 1)  # (cells, pixels)
    lean = padded[which].gather(2, (near[:, None, None] + torch.arange(3)).expand(-1, pixels, -1))
    own = touched.T[which, torch.arange(sizes[0])[:, None]] * (n < counts[:, None])
    own = own * rows[which, torch.arange(sizes[0])[:, None]]
    whole = [table.to(device, torch.int32) for table in (low, pixel, near)]
    taps, lean, own = (table.to(device, torch.float32).contiguous() for table in (taps, lean, own))
    return NearAxis(pixels, whole[0], taps, whole[1], whole[2], lean, own)


class _Axis(NamedTuple):
    """One axis cut into tiles for large steps."""

    pixels: int  # of a tile
    cells: int  # of a tile's patch
    before: int  # pixels of the first tile that lie before the image
    tiles: int
    meets: int  # tiles in a row that a cell is in, at most
    values: tuple[float, ...]  # the weights there are, if few
    band: Tensor  # (tiles*pixels, cells): the weights
    first: Tensor  # (tiles,): the first cell of a tile's patch
    tile_of: Tensor  # (cells of the axis,): the first tile that a cell is in


@functools.cache
def _cut(sizes: Sizes, length: int, align_corners: bool, pixels: int) -> tuple[int, int]:
    """Pixels of the first tile before the image, for the smallest patches; and their cells."""
    _, first, last = _weights_of(sizes, length, align_corners)
    found = []
    for before in range(pixels):
        low = torch.arange(-before, length, pixels)
        high = (low + pixels).clamp(max=length) - 1
        cells = int((last[high] - first[low.clamp(min=0)]).max()) + 1
        found.append((cells, len(low), before))
    cells, _, before = min(found)
    return before, cells


@functools.cache
def _axis(
    sizes: Sizes, length: int, align_corners: bool, pixels: int, device: torch.device
) -> _Axis:
    rows, first, _ = _weights_of(sizes, length, align_corners)
    before, cells = _cut(sizes, length, align_corners, pixels)
    low = torch.arange(-before, length, pixels)
    start = first[low.clamp(min=0)].clamp(max=sizes[0] - cells)
    columns = start[:, None] + torch.arange(cells)  # (tiles, cells)
    band = torch.zeros(len(low) * pixels, cells, dtype=rows.dtype)
    inside = slice(before, before + length)
    band[inside] = rows.gather(1, columns.repeat_interleave(pixels, 0)[inside])
    used = band.view(len(low), pixels, cells).any(1)  # a patch pushed in at the border holds zeros
    held = torch.zeros(sizes[0], len(low), dtype=torch.bool)
    held[columns, torch.arange(len(low))[:, None]] = used
    tile_of, final = _ends(held)
    values = band.unique()
    return _Axis(
        pixels,
        cells,
        before,
        len(low),
        int(((final - tile_of) * held.any(1)).max()) + 1,
        tuple(values.tolist()) if len(values) <= 64 else (),
        band.to(device, torch.float32),
        start.to(device, torch.int32),
        tile_of.to(device, torch.int32),
    )


class Plan(NamedTuple):
    """Both axes."""

    y: _Axis
    x: _Axis
    T: int
    exact: bool  # whether float16 holds every weight

    @property
    def tiles(self) -> int:
        return self.y.tiles * self.x.tiles

    @property
    def tables(self) -> tuple[Tensor, ...]:
        return self.y.band, self.x.band, self.y.first, self.x.first

    @property
    def constants(self) -> dict[str, Any]:
        pixels = {"PY": self.y.pixels, "PX": self.x.pixels}
        return {**pixels, "TY": self.y.cells, "TX": self.x.cells, "T": self.T, "EXACT": self.exact}

    def registers(self, wanted: int) -> int | None:
        """No limit where the weights, which a program keeps, would not leave room for the rest."""
        weights = self.T * self.y.pixels * self.x.pixels * (1 if self.exact else 2)
        return wanted if wanted and weights <= 2048 else None


@functools.cache
def make_plan(
    rows: Sizes,
    cols: Sizes,
    H: int,
    W: int,
    align_corners: bool,
    tile: tuple[int, int],
    device: torch.device,
) -> Plan:
    y = _axis(rows, H, align_corners, tile[0], device)
    x = _axis(cols, W, align_corners, tile[1], device)
    products = torch.outer(*(torch.tensor(axis.values, dtype=torch.float64) for axis in (y, x)))
    exact = products.numel() > 0 and bool((products.half().double() == products).all())
    return Plan(y, x, max(16, triton.next_power_of_2(y.cells * x.cells)), exact)


@functools.cache
def best_tile(
    rows: Sizes, cols: Sizes, H: int, W: int, align_corners: bool, backward: bool
) -> tuple[int, int] | None:
    """Rows and columns of pixels of a tile, by a rough count of the work per pixel and class.

    None if the map shrinks so much that every tile's patch is too large.
    """
    best, found = math.inf, None
    sides = (4, 8, 16, 32)
    for PY, PX in ((PY, PX) for PY in sides for PX in sides):
        P = PY * PX
        if not 16 <= P <= (64 if backward else 128):
            continue
        cells = _cut(rows, H, align_corners, PY)[1] * _cut(cols, W, align_corners, PX)[1]
        T = max(16, triton.next_power_of_2(cells))
        weights = T * P  # which stay in registers
        if T > 256 or weights > (4096 if T > 64 else 2048):
            continue
        # the softmax, the products, reading cells, moving shares, starting
        work = 10 + T / 10 + 12 * T / P + backward * 25 * cells / P + 500 / P
        waste = math.ceil(H / PY) * PY * math.ceil(W / PX) * PX / (H * W)
        if work * waste < best:
            best, found = work * waste, (PY, PX)
    return found
