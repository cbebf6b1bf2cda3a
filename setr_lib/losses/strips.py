"""Cross-entropy of class scores enlarged to the image's size, without building the enlarged map.

For 150 classes and an image of 512x512 the enlarged scores are 157 MB, and the ordinary loss holds
three such maps at once. Bilinear resizing is one matrix for the rows and one for the columns, both
nearly empty, so the scores of a part of the image are two small matrix products.

Two ways compute it, chosen by where the scores are. On a CPU the image is walked through in tiles
that fit a processor's cache, and the gradient is collected on the same walk: that is this file. On
a GPU one kernel does a tile's work without leaving the chip: `fused.py`, which needs Triton.
Both stand behind one operator of torch's, which compilers leave in one piece.

Nothing else of the library is needed: copy this file alone to use the loss on a CPU, and the three
files `fused_*.py` beside it for a GPU.
"""

# B batch, K classes, h w rows and columns of the scores, H W of the labels; in a tile:
# r c rows and columns of the image, a b rows and columns of the scores behind them

import functools
import importlib.util
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Size = tuple[int, int]
CACHE = 1 << 18  # numbers in a tile: 1 MB, which a CPU core keeps close
COLUMNS = 64  # of a tile
# The same where starting a kernel costs more than reading memory: a GPU without Triton. Fewer and
# larger tiles took a training step on an H100 from 410 to 216 ms.
CACHE_GPU = 1 << 25


def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    align_corners: bool = False,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    average: str = "all",
    sizes: Sequence[Size] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of `(B,K,h,w)` logits, bilinearly resized, with `(B,H,W)` labels: a scalar.

    Loss and gradient are those of `F.interpolate` followed by `F.cross_entropy`. Half precision is
    computed in float32, and so is the result. No two additions race: the same bits in every run.
    `torch.compile` and `torch.export` see one operator, and a CUDA graph can hold it.

    Args:
        logits: finite scores; h and w may be smaller than H and W, equal or larger.
        labels: of any integer type. They are not looked through, which would wait for a GPU:
            every label must be a class or `ignore_index`. Another one is an IndexError on a CPU
            and makes the loss NaN in the GPU's kernels.
        align_corners: as in `F.interpolate`.
        weight: `(K,)`, of each class, at least 0; as in `F.cross_entropy`.
        ignore_index: the label of pixels that do not count.
        average: `"all"` divides by the number of pixels, ignored ones included. `"valid"` divides
            as `F.cross_entropy` does, by the pixels that count, or by the sum of their weights;
            where none counts the loss is 0.
        sizes: where the way to the image is not one resize: the sizes of successive ones. A map
            that ends larger than the labels is cropped at the right and the bottom.
        label_smoothing: as in `F.cross_entropy`, from 0 to 1.

    Raises:
        ValueError: if shapes do not fit together, `average` is another word, or `label_smoothing`
            is no share.
        RuntimeError: in the backward pass, if a second derivative is asked for.
    """
    steps = list(sizes or [(labels.shape[1], labels.shape[2])] if labels.ndim == 3 else [])
    _check(logits, labels, weight, average, steps, label_smoothing)
    rows, cols = ([side, *ends] for side, ends in zip(logits.shape[2:], zip(*steps)))
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    facts = (rows, cols, align_corners, ignore_index, label_smoothing, average == "valid")
    return _operator(logits, labels, weight, *facts, wants_gradient)[0]


def way_of(logits: Tensor) -> str:
    """How the loss of these scores is computed: `"triton"` or `"strips"`."""
    on_gpu = logits.device.type == "cuda" and logits.dtype != torch.float64
    return "triton" if on_gpu and has_triton() else "strips"


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed, as with torch on Linux, and the GPUs are ones we write for."""
    return torch.version.hip is None and importlib.util.find_spec("triton") is not None


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
            with exact_products():
                whole = hats.clamp(min=0) @ whole
    return whole


@contextmanager
def exact_products() -> Iterator[None]:
    """Inside, products of float32 matrices are not rounded, whatever is allowed outside.

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
    if old_switch == "highest" and set(before) <= {"ieee", "none"}:
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(old_switch)
        for switch, precision in zip(switches, before):
            switch.fp32_precision = precision


def _check(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    average: str,
    steps: Sequence[Size],
    label_smoothing: float,
) -> None:
    if logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels):
        raise ValueError(
            f"logits have the shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
            "expected (B,K,h,w) and (B,H,W)"
        )
    if average not in ("all", "valid"):
        raise ValueError(f"average is {average!r}; choose 'all' or 'valid'")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected a share from 0 to 1")
    if weight is not None and weight.shape != logits.shape[1:2]:
        raise ValueError(
            f"weight has the shape {tuple(weight.shape)}; expected ({logits.shape[1]},), one "
            "number for each class of the logits"
        )
    if steps[-1][0] < labels.shape[1] or steps[-1][1] < labels.shape[2]:
        raise ValueError(
            f"the map ends at the size {steps[-1]}, smaller than the labels, "
            f"{tuple(labels.shape[1:])}"
        )


# ------------------------------------------------------------------------------ the operator

_FACTS = (
    "SymInt[] rows, SymInt[] cols, bool align_corners, SymInt ignore_index, float smoothing, "
    "bool valid_only"
)


@torch.library.custom_op(
    "setr_lib::upsample_cross_entropy",
    mutates_args=(),
    schema=f"(Tensor logits, Tensor labels, Tensor? weight, {_FACTS}, bool wants_gradient) "
    "-> (Tensor, Tensor, Tensor)",
)
def _operator(
    logits: Tensor, labels: Tensor, weight: Tensor | None, *facts: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, what the backward pass needs of the scores, and the number that divides the loss.

    The strips find the gradient `(B,K,h,w)` together with the loss and keep it; the kernels keep
    each pixel's log-sum-exp `(B,H,W)`.
    """
    if way_of(logits) == "triton":
        from . import fused

        return fused.forward(logits, labels, weight, *facts)
    if logits.is_cuda and logits.dtype != torch.float64:
        warnings.warn(
            "there is no Triton for this GPU: the loss takes the slow way in strips", stacklevel=2
        )
    return strips(logits, labels, weight, *facts)


@_operator.register_fake
def _shapes(
    logits: Tensor, labels: Tensor, weight: Tensor | None, *facts: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    kept = labels if way_of(logits) == "triton" else logits
    shape = kept.shape if facts[-1] else (0,)
    return (
        logits.new_empty((), dtype=dtype),
        logits.new_empty(shape, dtype=dtype),
        logits.new_empty((), dtype=dtype),
    )


@torch.library.custom_op(
    "setr_lib::upsample_cross_entropy_backward",
    mutates_args=(),
    schema="(Tensor outer, Tensor logits, Tensor labels, Tensor? weight, Tensor kept, "
    f"Tensor divisor, {_FACTS}) -> Tensor",
)
def _backward_operator(outer: Tensor, logits: Tensor, *others: Any) -> Tensor:
    from . import fused

    return fused.backward(outer, logits, *others)


@_backward_operator.register_fake
def _backward_shape(outer: Tensor, logits: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, labels, weight, *facts, _ = inputs
    _, kept, divisor = output
    ctx.mark_non_differentiable(kept, divisor)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, labels, weight, divisor)
    ctx.kept, ctx.facts = kept, facts


def _backward(ctx: Any, outer: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # asked for with create_graph=True
        raise RuntimeError(
            "upsample_cross_entropy has no second derivative; leave out create_graph=True or "
            "use F.interpolate and F.cross_entropy"
        )
    logits, labels, weight, divisor = ctx.saved_tensors
    if outer is None:
        gradient = None
    elif way_of(logits) == "triton":
        gradient = _backward_operator(outer, logits, labels, weight, ctx.kept, divisor, *ctx.facts)
    else:
        kept, ctx.kept = ctx.kept, None  # given away: it is scaled in place
        if kept is None:  # a second time through a retained graph
            kept = _operator(logits, labels, weight, *ctx.facts, True)[1]
        # A compiler, whose tensors are no plain ones, decides itself what happens in place.
        scaled = kept.mul_(outer) if type(kept) is Tensor else kept * outer
        gradient = scaled.to(logits.dtype)
    return gradient, *[None] * 9


_operator.register_autograd(_backward, setup_context=_keep)


# ------------------------------------------------------------------------------ strips


def strips(
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
    """The loss, its gradient `(B,K,h,w)` if that is wanted, and the divisor, tile by tile."""
    B, K, _, w = logits.shape
    H, W = labels.shape[1:]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    one = torch.ones((), dtype=dtype, device=logits.device)
    weights = one.expand(K) if weight is None else weight.to(one)
    loss, valid = torch.zeros_like(one), torch.zeros_like(one)
    found = torch.zeros(logits.shape if wants_gradient else (0,), dtype=dtype, device=logits.device)
    step, columns = _tile(B * K, H, W, logits.device.type)
    space = torch.empty(step * B * K * columns, dtype=dtype, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False), torch.no_grad(), exact_products():
        rows_Hh = resize_matrix(rows, align_corners, one)
        cols_Ww = resize_matrix(cols, align_corners, one)
        for top in range(0, H, step):
            bottom = min(top + step, H)
            first, last = _reach(top, bottom, rows, align_corners)
            rows_ra = rows_Hh[top:bottom, first:last]
            small = logits[:, :, first:last].to(dtype).permute(2, 0, 1, 3)  # (a,B,K,w)
            strip = (rows_ra @ small.reshape(last - first, -1)).view(-1, w)  # (r*B*K, w)
            strip_gradient = torch.zeros_like(strip if wants_gradient else one)
            for left in range(0, W, columns):
                right = min(left + columns, W)
                start, stop = _reach(left, right, cols, align_corners)
                cols_cb = cols_Ww[left:right, start:stop]
                tile = space[: len(strip) * (right - left)].view(len(strip), -1)
                torch.mm(strip[:, start:stop], cols_cb.T, out=tile)
                scores = tile.view(bottom - top, B, K, right - left)
                truth = labels[:, top:bottom, left:right].transpose(0, 1).unsqueeze(2).long()
                counts = truth != ignore_index
                truth = truth.where(counts, 0)
                scale = weights[truth] * counts  # (r,B,1,c), what each pixel weighs
                valid += scale.sum()
                even = counts * (one * smoothing / K) if smoothing else None
                scale = scale * (1 - smoothing) if smoothing else scale
                loss += _cross_entropy(scores, truth, scale, even, weights, wants_gradient)
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
    scores: Tensor,
    truth: Tensor,
    scale: Tensor,
    even: Tensor | None,
    weights: Tensor,
    wants_gradient: bool,
) -> Tensor:
    """The sum over a tile `(r,B,K,c)`, whose scores become their own gradient.

    Args:
        scale: what the true class of a pixel weighs.
        even: what every class weighs beside it, times its own weight: label smoothing.
    """
    scores.sub_(scores.amax(2, keepdim=True))
    picked = scores.gather(2, truth)
    if even is not None:
        weighted = (scores * weights[:, None]).sum(2, keepdim=True)
    total = scores.exp_().sum(2, keepdim=True)
    loss, whole = (total.log() - picked) * scale, scale
    if even is not None:
        loss += (total.log() * weights.sum() - weighted) * even
        whole = scale + even * weights.sum()
    if wants_gradient:  # the softmax, minus one at the truth
        scores.mul_(whole / total).scatter_add_(2, truth, -scale)
        if even is not None:
            scores.sub_(even * weights[:, None])
    return loss.sum()


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
