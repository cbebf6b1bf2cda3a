"""Cross-entropy of class scores enlarged to the image's size, without building the enlarged map.

For 150 classes and an image of 512x512 the enlarged scores are 157 MB, and the ordinary loss holds
three such maps at once. Here the image is walked through in tiles that fit a processor's cache.
Bilinear resizing is one matrix for the rows and one for the columns, both nearly empty, so the
scores of a tile are two small matrix products, and so is their gradient. It is collected on the
same walk, at the size of the scores that came in.

This file imports nothing but torch: copy it to use the loss elsewhere.
"""

# B batch, K classes, h w rows and columns of the scores, H W of the labels; in a tile:
# r c rows and columns of the image, a b rows and columns of the scores behind them

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]
CACHE = 1 << 18  # numbers in a tile: 1 MB, which a CPU core keeps close
# The same on a GPU, where starting a kernel costs more than reading memory: 134 MB. A guess that
# nobody has measured.
LAUNCH = 1 << 25
COLUMNS = 64  # of a tile


@torch._disable_dynamo  # a loop of small steps; torch.compile leaves it as it is
def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    align_corners: bool = False,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    average: str = "all",
    sizes: Sequence[Size] | None = None,
) -> Tensor:
    """Cross-entropy of `(B,K,h,w)` logits, bilinearly resized, with `(B,H,W)` labels: a scalar.

    Loss and gradient are those of `F.interpolate` followed by `F.cross_entropy`. Half precision is
    computed in float32, and so is the result. The gradient is found together with the loss, by
    matrix products and with no two additions in a race: the same bits in every run (tested on a
    CPU; no GPU was at hand).

    Args:
        logits: finite scores; h and w may be smaller than H and W, equal or larger.
        labels: of any integer type. They are not looked through, which would wait for a GPU:
            every label must be a class or `ignore_index`.
        align_corners: as in `F.interpolate`.
        weight: `(K,)`, of each class; as in `F.cross_entropy`.
        ignore_index: the label of pixels that do not count.
        average: `"all"` divides by the number of pixels, ignored ones included. `"valid"` divides
            as `F.cross_entropy` does, by the pixels that count, or by the sum of their weights;
            where none counts the loss is 0.
        sizes: where the way to the image is not one resize: the sizes of successive ones. A map
            that ends larger than the labels is cropped at the right and the bottom.

    Raises:
        ValueError: if shapes do not fit together, or `average` is another word.
        RuntimeError: in the backward pass, if a second derivative is asked for.
    """
    if logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels):
        raise ValueError(
            f"logits have the shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
            "expected (B,K,h,w) and (B,H,W)"
        )
    if average not in ("all", "valid"):
        raise ValueError(f"average is {average!r}; choose 'all' or 'valid'")
    if weight is not None and weight.shape != logits.shape[1:2]:
        raise ValueError(
            f"weight has the shape {tuple(weight.shape)}; expected ({logits.shape[1]},), one "
            "number for each class of the logits"
        )
    steps = list(sizes or [(labels.shape[1], labels.shape[2])])
    if steps[-1][0] < labels.shape[1] or steps[-1][1] < labels.shape[2]:
        raise ValueError(
            f"the map ends at the size {steps[-1]}, smaller than the labels, "
            f"{tuple(labels.shape[1:])}"
        )
    rows, cols = ((side, *ends) for side, ends in zip(logits.shape[2:], zip(*steps)))
    facts = _Facts(rows, cols, align_corners, ignore_index, average == "valid")
    if torch.is_grad_enabled() and logits.requires_grad:
        return _LossWithGradient.apply(logits, labels, weight, facts)
    return _walk(logits, labels, weight, facts, gradient=False)[0]


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
            whole = hats.clamp(min=0) @ whole
    return whole


class _Facts(NamedTuple):
    rows: Sequence[int]  # the lengths that the axis goes through
    cols: Sequence[int]
    align_corners: bool
    ignore_index: int
    valid_only: bool


class _LossWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weight: Any, facts: _Facts) -> Tensor:
        ctx.save_for_backward(logits, labels, weight)
        ctx.facts = facts
        loss, ctx.gradient = _walk(logits, labels, weight, facts, gradient=True)
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # asked for with create_graph=True
            raise RuntimeError(
                "upsample_cross_entropy has no second derivative; leave out create_graph=True or "
                "use F.interpolate and F.cross_entropy"
            )
        logits, labels, weight = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None  # given away: it is scaled in place
        if gradient is None:  # a second time through a retained graph
            gradient = _walk(logits, labels, weight, ctx.facts, gradient=True)[1]
        return gradient.mul_(outer).to(logits.dtype), None, None, None


def _walk(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    facts: _Facts,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient `(B,K,h,w)` if that is wanted, tile by tile."""
    B, K, _, w = logits.shape
    H, W = labels.shape[1:]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    one = torch.ones((), dtype=dtype, device=logits.device)
    weights = one.expand(K) if weight is None else weight.to(one)
    loss, valid = torch.zeros_like(one), torch.zeros_like(one)
    found = torch.zeros_like(logits if gradient else one, dtype=dtype)
    # Few columns, so that the matrix of a tile is full, then as many rows as fit; little beside the
    # whole, which would be B*K*H*W numbers.
    most = min(CACHE if logits.device.type == "cpu" else LAUNCH, B * K * H * W // 128)
    step = max(1, most // (B * K * min(W, COLUMNS)))
    space = torch.empty(step * B * K * min(W, COLUMNS), dtype=dtype, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False), torch.no_grad():
        rows_Hh = resize_matrix(facts.rows, facts.align_corners, one)
        cols_Ww = resize_matrix(facts.cols, facts.align_corners, one)
        for top in range(0, H, step):
            bottom = min(top + step, H)
            first, last = _reach(top, bottom, facts.rows, facts.align_corners)
            rows_ra = rows_Hh[top:bottom, first:last]
            small = logits[:, :, first:last].to(dtype).permute(2, 0, 1, 3)  # (a,B,K,w)
            strip = (rows_ra @ small.reshape(last - first, -1)).view(-1, w)  # (r*B*K, w)
            strip_gradient = torch.zeros_like(strip if gradient else one)
            for left in range(0, W, COLUMNS):
                right = min(left + COLUMNS, W)
                start, stop = _reach(left, right, facts.cols, facts.align_corners)
                cols_cb = cols_Ww[left:right, start:stop]
                tile = space[: len(strip) * (right - left)].view(len(strip), -1)
                torch.mm(strip[:, start:stop], cols_cb.T, out=tile)
                scores = tile.view(bottom - top, B, K, right - left)
                truth = labels[:, top:bottom, left:right].transpose(0, 1).unsqueeze(2).long()
                counts = truth != facts.ignore_index
                truth = truth.where(counts, 0)
                scale = weights[truth] * counts  # (r,B,1,c), what each pixel weighs
                valid += scale.sum()
                loss += _cross_entropy(scores, truth, scale, gradient)
                if gradient:
                    strip_gradient[:, start:stop].addmm_(tile, cols_cb)
            if gradient:
                back = (rows_ra.T @ strip_gradient.view(bottom - top, -1)).view(-1, B, K, w)
                found[:, :, first:last] += back.permute(1, 2, 0, 3)
        divisor = valid.where(valid > 0, one) if facts.valid_only else one * labels.numel()
        return loss / divisor, found.div_(divisor)


def _cross_entropy(scores: Tensor, truth: Tensor, scale: Tensor, gradient: bool) -> Tensor:
    """The sum over a tile `(r,B,K,c)`, whose scores become their own gradient."""
    scores.sub_(scores.amax(2, keepdim=True))
    picked = scores.gather(2, truth)
    total = scores.exp_().sum(2, keepdim=True)
    if gradient:  # the softmax, minus one at the truth
        scores.mul_(scale / total).scatter_add_(2, truth, -scale)
    return ((total.log() - picked) * scale).sum()


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
