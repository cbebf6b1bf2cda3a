"""Bilinear resizing as matrix products, and the loss of `cross_entropy.py` made of them.

On a CPU, and on a GPU where there is no Triton, the loss goes through the image in strips.
"""

# B batch, K classes, h w rows and columns of the logits, H W of the labels; in a tile:
# r c rows and columns of the image, a b rows and columns of the logits behind them

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
CACHE = 1 << 18  # numbers in a tile: 1 MB, which a CPU core keeps close
COLUMNS = 64  # of a tile
# The same where starting a kernel costs more than reading memory: a GPU without Triton. Fewer and
# larger tiles took a training step on an H100 from 410 to 216 ms.
CACHE_GPU = 1 << 25


def strips(
    logits: Tensor, labels: Tensor, weight: Tensor | None, rows: Sequence[int], cols: Sequence[int],
    align_corners: bool, ignore_index: int, smoothing: float, valid_only: bool,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss, its gradient `(B,K,h,w)` if that is wanted, and the divisor, tile by tile."""
    (B, K, _, w), (_, H, W) = logits.shape, labels.shape
    one = in_float32(logits).new_ones(())
    weights = one.expand(K) if weight is None else weight.to(one)
    loss, valid = torch.zeros_like(one), torch.zeros_like(one)
    found = one.new_zeros(logits.shape if wants_gradient else (0,))
    step, columns = _tile(B * K, H, W, logits.device.type)
    space = one.new_empty(step * B * K * columns)
    with torch.no_grad(), exact_products(logits.device):
        rows_Hh, cols_Ww = (resize_matrix(sizes, align_corners, one) for sizes in (rows, cols))
        for top in range(0, H, step):
            bottom = min(top + step, H)
            first, last = _reach(top, bottom, rows, align_corners)
            rows_ra = rows_Hh[top:bottom, first:last]
            small = logits[:, :, first:last].to(one).permute(2, 0, 1, 3)  # (a,B,K,w)
            strip = (rows_ra @ small.reshape(last - first, -1)).view(-1, w)  # (r*B*K, w)
            strip_gradient = torch.zeros_like(strip if wants_gradient else one)
            for left in range(0, W, columns):
                right = min(left + columns, W)
                start, stop = _reach(left, right, cols, align_corners)
                cols_cb = cols_Ww[left:right, start:stop]
                tile = space[: len(strip) * (right - left)].view(len(strip), -1)
                torch.mm(strip[:, start:stop], cols_cb.T, out=tile)
                maps, truth = tile.view(-1, B, K, right - left), labels[:, top:bottom, left:right]
                more = _cross_entropy(maps, truth, weights, ignore_index, smoothing, wants_gradient)
                loss, valid = loss + more[0], valid + more[1]
                if wants_gradient:
                    strip_gradient[:, start:stop].addmm_(tile, cols_cb)
            if wants_gradient:
                back = (rows_ra.T @ strip_gradient.view(bottom - top, -1)).view(-1, B, K, w)
                found[:, :, first:last] += back.permute(1, 2, 0, 3)
        divisor = valid.where(valid > 0, one) if valid_only else one * labels.numel()
        return loss / divisor, found.div_(divisor), divisor


def _tile(maps: int, H: int, W: int, device: str) -> Size:
    """Rows and columns of a tile.

    Few columns, so that the matrix of a tile is full, then as many rows as fit; little beside the
    whole, which would be maps*H*W numbers.
    """
    if device != "cpu":
        return max(1, CACHE_GPU // (maps * W)), W
    columns = min(W, COLUMNS)
    return max(1, min(CACHE, maps * H * W // 128) // (maps * columns)), columns


def _cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    ignore_index: int,
    smoothing: float,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The sum over a tile, and what its pixels weigh.

    Args:
        logits: `(r,B,K,c)`, which become their own gradient.
        labels: `(B,r,c)`.
    """
    truth = labels.transpose(0, 1).unsqueeze(2).long()
    counts = truth != ignore_index
    truth = truth.where(counts, 0)
    valid = weights[truth] * counts  # (r,B,1,c), what each pixel weighs
    whole = scale = valid * (1 - smoothing) if smoothing else valid
    logits.sub_(logits.amax(2, keepdim=True))
    picked = logits.gather(2, truth)
    if smoothing:  # what every class weighs beside the true one, times its own weight
        even = counts * (weights.new_ones(()) * smoothing / logits.shape[2])
        weighted = (logits * weights[:, None]).sum(2, keepdim=True)
    total = logits.exp_().sum(2, keepdim=True)
    loss = (total.log() - picked) * scale
    if smoothing:
        loss += (total.log() * weights.sum() - weighted) * even
        whole = scale + even * weights.sum()
    if wants_gradient:  # the softmax, minus one at the truth
        logits.mul_(whole / total).scatter_add_(2, truth, -scale)
        if smoothing:
            logits.sub_(even * weights[:, None])
    return loss.sum(), valid.sum()


def _reach(first: int, last: int, sizes: Sequence[int], align_corners: bool) -> tuple[int, int]:
    """The inputs `[a, b)` behind the outputs `[first, last)` of the resizes through `sizes`.

    One more than needed where rounding could decide.
    """
    low, high = float(first), float(last - 1)
    for new, old in pairwise(reversed(sizes)):
        if old == new:
            continue
        if align_corners:
            scale = (old - 1) / (new - 1) if new > 1 else 0.0
            low, high = low * scale, high * scale
        else:
            low, high = (low + 0.5) * old / new - 0.5, (high + 0.5) * old / new - 0.5
        low = max(0, math.floor(low - 1e-3))
        high = min(old - 1, math.floor(high + 1e-3) + 1)
    return int(low), int(high) + 1


def resize_matrix(sizes: Sequence[int], align_corners: bool = False, like: Any = None) -> Tensor:
    """Bilinear resizing of one axis through the lengths `sizes`: `(last, first)`, rows sum to 1.

    An output that lies at the position x of the input takes `max(0, 1 - |x - j|)` of input j. A
    resize of a map is `rows @ map @ cols.T`; several in a row are the product of their matrices.

    Args:
        like: a tensor with the device and the type of the result; default float32 on the CPU.
    """
    like = torch.empty(0) if like is None else like
    facts: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    whole = torch.eye(sizes[0], **facts)
    for old, new in pairwise(sizes):
        if old != new:
            places = torch.arange(new, **facts)
            if align_corners:
                places = places * ((old - 1) / (new - 1) if new > 1 else 0.0)
            else:  # pixels are areas: compare their centres; no extrapolation at the border
                places = ((places + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
            hats = 1 - (places[:, None] - torch.arange(old, **facts)).abs()
            with exact_products(like.device):
                whole = hats.clamp(min=0) @ whole
    return whole


def resized_strips(maps: Tensor, size: Size, most: int = 1 << 21) -> Iterator[tuple[slice, Tensor]]:
    """What `resize` makes of `(C,h,w)`, a few rows at a time: `(rows, (C,r,W))`.

    For maps of many classes that would fill the memory at the image's size; a strip holds about
    `most` numbers.
    """
    (channels, h, w), (height, width) = maps.shape, size
    at = ((torch.arange(height, device=maps.device) + 0.5) * (h / height) - 0.5).clamp(min=0)
    above = at.long().clamp(max=h - 1)
    below, weight = (above + 1).clamp(max=h - 1), (at - above)[:, None]
    step = max(1, most // (channels * width))
    for top in range(0, height, step):
        rows = slice(top, top + step)
        strip = torch.lerp(maps[:, above[rows]], maps[:, below[rows]], weight[rows])
        if w != width:
            strip = F.interpolate(strip[None], (strip.shape[1], width), mode="bilinear")[0]
        yield rows, strip


# ------------------------------------------------------------------------------ maps on a GPU

OWNER = __name__.partition(".")[0]  # a copy of this file beside ours has operators of its own


@torch.library.custom_op(f"{OWNER}::resize", mutates_args=())
def resize(maps: Tensor, size: list[int], align_corners: bool) -> Tensor:
    """`F.interpolate`, bilinear, of `(B,C,h,w)`, with a gradient that is the same in every run.

    torch's own backward pass on a GPU adds with atomics, in any order. This one multiplies with the
    two matrices, in the type of the gradient; where that has 16 bits it is rounded twice.
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


@resize.register_fake
def _resized(maps: Tensor, size: list[int], align_corners: bool) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


@torch.library.custom_op(f"{OWNER}::resize_backward", mutates_args=())
def resize_backward(outer: Tensor, size: list[int], align_corners: bool) -> Tensor:
    """The gradient `(B,C,h,w)`, channels innermost, from that of the resized maps `(B,C,H,W)`."""
    (B, C, H, W), (h, w) = outer.shape, size
    outer_BHWC = outer.permute(0, 2, 3, 1).contiguous()
    with exact_products(outer.device):
        facts = (align_corners, outer.dtype, outer.device)
        rows_hH, cols_wW = _transposed(h, H, *facts), _transposed(w, W, *facts)
        narrow = torch.bmm(cols_wW.expand(B * H, w, W), outer_BHWC.view(B * H, W, C))
        small = torch.bmm(rows_hH.expand(B, h, H), narrow.view(B, H, w * C))
    return small.view(B, h, w, C).permute(0, 3, 1, 2)


@resize_backward.register_fake
def _resized_back(outer: Tensor, size: list[int], align_corners: bool) -> Tensor:
    return outer.new_empty(len(outer), *size, outer.shape[1]).permute(0, 3, 1, 2)


@functools.lru_cache(64)
def _transposed(
    old: int, new: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`resize_matrix` the other way round; places need more than 16 bits, their shares do not."""
    whole = torch.promote_types(dtype, torch.float32)
    like = torch.empty(0, dtype=whole, device=device)
    return resize_matrix((old, new), align_corners, like).T.to(dtype).contiguous()


def _keep_sizes(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, _, align_corners = inputs
    ctx.facts, ctx.dtype = (list(maps.shape[2:]), align_corners), maps.dtype


def _resize_gradient(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
    return resize_backward(outer, *ctx.facts).to(ctx.dtype), None, None


resize.register_autograd(_resize_gradient, setup_context=_keep_sizes)


# ------------------------------------------------------------------------------ precision


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Inside, products of float32 matrices are rounded neither by autocast nor by TF32.

    TF32 keeps 10 bits of a number: fine for a network's weights, too few for the places of pixels.
    """
    parts = (torch.backends.cuda, torch.backends.mkldnn)
    switches = [part.matmul for part in parts if hasattr(part, "matmul")]
    switches = [switch for switch in switches if hasattr(switch, "fp32_precision")]  # torch 2.9
    before = [switch.fp32_precision for switch in switches]
    try:
        old_switch = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not tell where the new switches were used beside it
        old_switch = "highest"
    allowed = old_switch != "highest" or not set(before) <= {"ieee", "none"}
    try:
        if allowed:
            torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if allowed:
            torch.set_float32_matmul_precision(old_switch)
            for switch, precision in zip(switches, before):
                switch.fp32_precision = precision


def in_float32(maps: Tensor) -> Tensor:
    """Maps of 16 bits in 32, others as they are."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
