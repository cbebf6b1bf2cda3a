"""The loss of `lean.py` on a GPU: what the kernels of `fused_kernels.py` need, and their calls.

An axis is cut into tiles; tables say which cells are behind each tile and with which weights. They
are made once for each pair of sizes and stay: a CUDA graph that was captured reads them again.
"""

# B batch, K classes, KC of them at once; h w rows and columns of cells, H W of pixels;
# P = PY*PX pixels of a tile, T cells of its patch, TY*TX filled up to a power of two

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import fused_kernels as kernels
from .lean import resize_matrix, strips


class Tuning(NamedTuple):
    """Sizes that decide how fast the kernels are and nothing else."""

    tile: tuple[int, int] | None = None  # rows and columns of pixels; None: `_best_tile` chooses
    classes: int = 32  # at a time, of a tile
    images: int = 4  # that a program walks through with the same weights
    registers: tuple[int, int] = (128, 0)  # of a thread at most, forward and backward; 0: no limit
    scratch: int = 1 << 26  # numbers in the buffer of shares: 256 MB
    add_cells: tuple[int, int] = (8, 32)
    add_classes: int = 16
    near: bool = True  # whether small steps have kernels of their own
    near_block: tuple[int, int] = (4, 32)  # rows and columns of pixels, or of cells
    near_classes: tuple[int, int] = (16, 8)  # at a time, forward and backward


TUNING = Tuning()
Sizes = tuple[int, ...]  # the lengths that an axis goes through


def forward(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    rows: Sequence[int],
    cols: Sequence[int],
    align_corners: bool,
    ignore_index: int,
    smoothing: float,
    valid_only: bool,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, each pixel's log-sum-exp `(B,H,W)` to the base 2, and the divisor."""
    call = _Call(logits, labels, rows, cols, align_corners, ignore_index, smoothing)
    lse = logits.new_empty(labels.shape if wants_gradient else (0,), dtype=torch.float32)
    with torch.cuda.device_of(logits):
        if call.way == "strips":
            facts = (call.rows, call.cols, align_corners, ignore_index, smoothing, valid_only)
            loss, _, divisor = strips(logits, labels, weight, *facts, False)
            return loss, lse, divisor
        weights = call.weights(weight)
        sums = (call.near_forward if call.way == "near" else call.tile_forward)(weights, lse)
        loss, scale = sums.sum((1, 2), dtype=torch.float64)
        divisor = scale.where(scale > 0, 1.0)
        if not valid_only:
            divisor = torch.full_like(scale, labels.numel())
        return (loss / divisor).float(), lse, divisor.float()


def backward(
    outer: Tensor,
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    lse: Tensor,
    divisor: Tensor,
    rows: Sequence[int],
    cols: Sequence[int],
    align_corners: bool,
    ignore_index: int,
    smoothing: float,
    valid_only: bool,
) -> Tensor:
    """The gradient `(B,K,h,w)` of the loss, times `outer`."""
    call = _Call(logits, labels, rows, cols, align_corners, ignore_index, smoothing)
    with torch.cuda.device_of(logits):
        if call.way == "strips":
            facts = (call.rows, call.cols, align_corners, ignore_index, smoothing, valid_only)
            found = strips(logits, labels, weight, *facts, True)[1]
            return found.mul_(outer).to(logits.dtype)
        weights = call.weights(weight)
        factor = outer.float() / divisor
        if call.way == "near":
            return call.near_backward(weights, lse, factor)
        return call.tile_backward(weights, lse, factor)


class _Call:
    """One loss to be computed: which kernels suit it, and how each is called."""

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        rows: Sequence[int],
        cols: Sequence[int],
        align_corners: bool,
        ignore_index: int,
        smoothing: float,
    ) -> None:
        self.logits, self.labels = logits, labels
        self.rows, self.cols, self.align_corners = tuple(rows), tuple(cols), align_corners
        self.H, self.W = labels.shape[1:]
        classes = logits.shape[1]
        self.strides = (*logits.stride(), *labels.stride(), ignore_index)
        self.shares = (1 - smoothing, smoothing / classes)
        self.smooth = smoothing > 0
        self.way = self._way()

    def _way(self) -> str:
        """`"near"`, `"tiles"`, or `"strips"` where the smallest tile does not fit on the chip."""
        sizes, steps = self.logits.shape[1:], self.logits.stride()[1:]
        reach = sum((size - 1) * step for size, step in zip(sizes, steps))
        if max(reach, 4 * self.H * self.W) >= 2**31:  # places inside an image have 32 bits
            return "strips"
        y, x = self._near(torch.device("cpu"))
        if TUNING.near and y and x and y.pixels * x.pixels <= 25:
            return "near"
        return "tiles" if self._tile(backward=True) and self._tile(backward=False) else "strips"

    def weights(self, weight: Tensor | None) -> Tensor | None:
        """What each class weighs, in float32; None where it is the same and nothing is smoothed."""
        if weight is None and self.smooth:
            return self.logits.new_ones(self.logits.shape[1], dtype=torch.float32)
        return None if weight is None else weight.to(self.logits.device, torch.float32).contiguous()

    def _weight_arguments(self, weights: Tensor | None, instead: Tensor) -> tuple[Tensor, Tensor]:
        return (instead, instead) if weights is None else (weights, weights.sum())

    def _near(self, device: torch.device) -> tuple["_NearAxis | None", "_NearAxis | None"]:
        y = _near_axis(self.rows, self.H, self.align_corners, device)
        return y, _near_axis(self.cols, self.W, self.align_corners, device)

    def _tile(self, backward: bool) -> tuple[int, int] | None:
        facts = (self.rows, self.cols, self.H, self.W, self.align_corners, backward)
        return TUNING.tile or _best_tile(*facts)

    def _plan(self, backward: bool) -> "_Plan":
        tile = self._tile(backward)
        assert tile is not None
        facts = (self.rows, self.cols, self.H, self.W, self.align_corners)
        return _plan(*facts, tile, self.logits.device)

    # -------------------------------------------------------------------------- small steps

    def near_forward(self, weights: Tensor | None, lse: Tensor) -> Tensor:
        B, K, h, w = self.logits.shape
        s_y, s_x = self.logits.stride()[2:]
        y, x = self._near(self.logits.device)
        assert y and x
        PY, PX = TUNING.near_block
        blocks_y, blocks_x = triton.cdiv(self.H, PY), triton.cdiv(self.W, PX)
        sums = self.logits.new_empty((2, B, blocks_y * blocks_x), dtype=torch.float32)
        kernels.near_forward_kernel[(blocks_y * blocks_x, B)](
            self.logits, self.labels, *self._weight_arguments(weights, lse),
            y.low, x.low, y.taps, x.taps, lse, sums[0], sums[1],
            K, (h > 1) * s_y, (w > 1) * s_x, self.H, self.W, blocks_x, *self.strides, *self.shares,
            PY=PY, PX=PX, KC=TUNING.near_classes[0], WEIGHTED=weights is not None,
            SMOOTH=self.smooth, SAVE=lse.numel() > 0, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return sums

    def near_backward(self, weights: Tensor | None, lse: Tensor, factor: Tensor) -> Tensor:
        B, K, h, w = self.logits.shape
        s_y, s_x = self.logits.stride()[2:]
        y, x = self._near(self.logits.device)
        assert y and x
        CY, CX = TUNING.near_block
        blocks_y, blocks_x = triton.cdiv(h, CY), triton.cdiv(w, CX)
        gradient = self.logits.new_empty(self.logits.shape)
        kernels.near_backward_kernel[(blocks_y * blocks_x, B)](
            self.logits, self.labels, *self._weight_arguments(weights, lse),
            y.near, x.near, y.pixel, x.pixel, y.lean, x.lean, y.own, x.own, lse, factor, gradient,
            K, h, w, (h > 1) * s_y, min(h - 1, 2) * s_y, self.H, self.W, blocks_x,
            *self.strides, *self.shares, RIGHT=(w > 1) * s_x, RIGHT2=min(w - 1, 2) * s_x,
            CY=CY, CX=CX, KC=TUNING.near_classes[1], NY=y.pixels, NX=x.pixels,
            WEIGHTED=weights is not None, SMOOTH=self.smooth, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return gradient

    # -------------------------------------------------------------------------- large steps

    def tile_forward(self, weights: Tensor | None, lse: Tensor) -> Tensor:
        B, K = self.logits.shape[:2]
        plan = self._plan(backward=False)
        sums = self.logits.new_empty((2, B, plan.tiles), dtype=torch.float32)
        images = min(TUNING.images, B)
        pixels = plan.y.pixels * plan.x.pixels
        kernels.forward_kernel[(plan.tiles, triton.cdiv(B, images))](
            self.logits, self.labels, *self._weight_arguments(weights, lse), *plan.tables,
            lse, sums[0], sums[1], B, K, self.H, self.W, plan.y.before, plan.x.before,
            plan.x.tiles, *self.strides, *self.shares,
            **plan.constants, KC=TUNING.classes, IMAGES=images,
            HALF=self.logits.dtype != torch.float32, WEIGHTED=weights is not None,
            SMOOTH=self.smooth, SAVE=lse.numel() > 0,
            num_warps=max(1, pixels * TUNING.classes // 1024),
            maxnreg=plan.registers(TUNING.registers[0]), enable_fp_fusion=True,
        )  # fmt: skip
        return sums

    def tile_backward(self, weights: Tensor | None, lse: Tensor, factor: Tensor) -> Tensor:
        """Shares of as many images at once as the buffer holds, or of some classes of one."""
        B, K = self.logits.shape[:2]
        plan = self._plan(backward=True)
        if weights is not None:  # float16 holds no large G
            most = weights.amax().clamp(min=1e-30)
            weights, factor = weights / most, factor * most
        factor = factor * kernels.SHRINK
        gradient = self.logits.new_empty(self.logits.shape)
        one = plan.tiles * plan.y.cells * plan.x.cells
        together = max(1, min(B, TUNING.scratch // (one * K)))
        together = triton.cdiv(B, triton.cdiv(B, together))  # shared out evenly
        classes = K
        if one * K > TUNING.scratch:
            classes = max(1, TUNING.scratch // one // TUNING.classes) * TUNING.classes
        classes = min(K, classes)
        shares = self.logits.new_empty(together * one * classes, dtype=torch.float32)
        arguments = self._weight_arguments(weights, lse)
        for b in range(0, B, together):
            some = min(together, B - b)
            for k in range(0, K, classes):
                span = (k, min(K, k + classes))
                self._share(plan, arguments, lse[b:], shares, b, some, span)
                self._add(plan, shares, gradient[b:], factor, some, span)
        return gradient

    def _share(
        self,
        plan: "_Plan",
        weights: tuple[Tensor, Tensor],
        lse: Tensor,
        shares: Tensor,
        b: int,
        some: int,
        span: tuple[int, int],
    ) -> None:
        images = min(TUNING.images, some)
        kernels.backward_kernel[(plan.tiles, triton.cdiv(some, images))](
            self.logits[b:], self.labels[b:], *weights, *plan.tables, lse, shares,
            some, self.logits.shape[1], *span, self.H, self.W, plan.y.before, plan.x.before,
            plan.x.tiles, *self.strides, *self.shares,
            **plan.constants, KC=TUNING.classes, IMAGES=images,
            HALF=self.logits.dtype != torch.float32, WEIGHTED=weights[0].ndim == 1,
            SMOOTH=self.smooth, num_warps=2, maxnreg=plan.registers(TUNING.registers[1]),
            enable_fp_fusion=True,
        )  # fmt: skip

    def _add(
        self,
        plan: "_Plan",
        shares: Tensor,
        gradient: Tensor,
        factor: Tensor,
        some: int,
        span: tuple[int, int],
    ) -> None:
        _, K, h, w = gradient.shape
        BY, BX = TUNING.add_cells
        blocks_x = triton.cdiv(w, BX)
        groups = triton.cdiv(span[1] - span[0], TUNING.add_classes)
        kernels.add_kernel[(triton.cdiv(h, BY) * blocks_x, groups, some)](
            shares, gradient, factor, plan.y.first, plan.x.first, plan.y.tile_of, plan.x.tile_of,
            K, *span, h, w, plan.y.tiles, plan.x.tiles, blocks_x,
            TY=plan.y.cells, TX=plan.x.cells, NY=plan.y.meets, NX=plan.x.meets,
            BY=BY, BX=BX, CLASSES=TUNING.add_classes, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip


# ------------------------------------------------------------------------------ tables


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


class _NearAxis(NamedTuple):
    """One axis for small steps: the two cells of a pixel, the three around the pixels of a cell."""

    pixels: int  # that lean on a cell, at most
    low: Tensor  # (pixels of the axis,): the first of its two cells
    taps: Tensor  # (pixels of the axis, 2): their weights
    pixel: Tensor  # (cells,): the first pixel that leans on it
    near: Tensor  # (cells,): the first of the three cells that those pixels lean on
    lean: Tensor  # (cells, pixels, 3): with which weights
    own: Tensor  # (cells, pixels): with which weight on the cell itself


@functools.cache
def _near_axis(
    sizes: Sizes, length: int, align_corners: bool, device: torch.device
) -> _NearAxis | None:
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
    return _NearAxis(pixels, whole[0], taps, whole[1], whole[2], lean, own)


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


class _Plan(NamedTuple):
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
def _plan(
    rows: Sizes,
    cols: Sizes,
    H: int,
    W: int,
    align_corners: bool,
    tile: tuple[int, int],
    device: torch.device,
) -> _Plan:
    y = _axis(rows, H, align_corners, tile[0], device)
    x = _axis(cols, W, align_corners, tile[1], device)
    products = torch.outer(*(torch.tensor(axis.values, dtype=torch.float64) for axis in (y, x)))
    exact = products.numel() > 0 and bool((products.half().double() == products).all())
    return _Plan(y, x, max(16, triton.next_power_of_2(y.cells * x.cells)), exact)


@functools.cache
def _best_tile(
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
