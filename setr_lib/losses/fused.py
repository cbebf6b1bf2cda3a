"""The loss of `cross_entropy.py` on a GPU: which kernels suit it, and their calls."""

# B batch, K classes, KC of them at once; h w rows and columns of cells, H W of pixels;
# P = PY*PX pixels of a tile, T cells of its patch, TY*TX filled up to a power of two

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import kernels_near, kernels_tiles
from .strips import strips
from .tables import NearAxis, Plan, best_tile, make_plan, near_axis


class Tuning(NamedTuple):
    """Sizes that decide how fast the kernels are and nothing else."""

    tile: tuple[int, int] | None = None  # rows and columns of pixels; None: `best_tile` chooses
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
        # Places inside an image have 32 bits.
        if max(reach, math.prod(sizes), 4 * self.H * self.W) >= 2**31:
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

    def _near(self, device: torch.device) -> tuple[NearAxis | None, NearAxis | None]:
        y = near_axis(self.rows, self.H, self.align_corners, device)
        return y, near_axis(self.cols, self.W, self.align_corners, device)

    def _tile(self, backward: bool) -> tuple[int, int] | None:
        facts = (self.rows, self.cols, self.H, self.W, self.align_corners, backward)
        return TUNING.tile or best_tile(*facts)

    def _plan(self, backward: bool) -> Plan:
        tile = self._tile(backward)
        assert tile is not None
        facts = (self.rows, self.cols, self.H, self.W, self.align_corners)
        return make_plan(*facts, tile, self.logits.device)

    # -------------------------------------------------------------------------- small steps

    def near_forward(self, weights: Tensor | None, lse: Tensor) -> Tensor:
        B, K, h, w = self.logits.shape
        s_y, s_x = self.logits.stride()[2:]
        y, x = self._near(self.logits.device)
        assert y and x
        PY, PX = TUNING.near_block
        blocks_y, blocks_x = triton.cdiv(self.H, PY), triton.cdiv(self.W, PX)
        sums = self.logits.new_empty((2, B, blocks_y * blocks_x), dtype=torch.float32)
        kernels_near.near_forward_kernel[(blocks_y * blocks_x, B)](
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
        kernels_near.near_backward_kernel[(blocks_y * blocks_x, B)](
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
        kernels_tiles.forward_kernel[(plan.tiles, triton.cdiv(B, images))](
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
        factor = factor * kernels_tiles.SHRINK
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
        plan: Plan,
        weights: tuple[Tensor, Tensor],
        lse: Tensor,
        shares: Tensor,
        b: int,
        some: int,
        span: tuple[int, int],
    ) -> None:
        images = min(TUNING.images, some)
        kernels_tiles.backward_kernel[(plan.tiles, triton.cdiv(some, images))](
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
        plan: Plan,
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
        kernels_tiles.add_kernel[(triton.cdiv(h, BY) * blocks_x, groups, some)](
            shares, gradient, factor, plan.y.first, plan.x.first, plan.y.tile_of, plan.x.tile_of,
            K, *span, h, w, plan.y.tiles, plan.x.tiles, blocks_x,
            TY=plan.y.cells, TX=plan.x.cells, NY=plan.y.meets, NX=plan.x.meets,
            BY=BY, BX=BX, CLASSES=TUNING.add_classes, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
