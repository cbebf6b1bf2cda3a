"""Cross-entropy of logits enlarged to the image's size, without building the enlarged map.

For 150 classes and an image of 512x512 the enlarged logits are 157 MB, and the ordinary loss holds
three such maps at once. Bilinear resizing is one matrix for the rows and one for the columns, both
nearly empty, so the logits of a part of the image are two small matrix products.

Two ways compute it, chosen by where the logits are. On a CPU `strips.py` walks through the image in
tiles that fit a processor's cache, and collects the gradient on the same walk. On a GPU one kernel
does a tile's work without leaving the chip: `fused.py`, which needs Triton. Both stand behind one
operator of torch's, which compilers leave in one piece.

Nothing else of the library is needed: copy this file and `strips.py` to use the loss on a CPU, and
`fused.py`, `tables.py` and the kernels too for a GPU.
"""

# B batch, K classes, h w rows and columns of the logits, H W of the labels

import functools
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .strips import Size, strips


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
        logits: finite; h and w may be smaller than H and W, equal or larger.
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
    """How the loss of these logits is computed: `"triton"` or `"strips"`."""
    on_gpu = logits.device.type == "cuda" and logits.dtype != torch.float64
    return "triton" if on_gpu and has_triton() else "strips"


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed, as with torch on Linux, and the GPUs are ones we write for."""
    return torch.version.hip is None and importlib.util.find_spec("triton") is not None


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

OWNER = __name__.partition(".")[0]  # a copy of this file beside ours has operators of its own
_FACTS = (
    "SymInt[] rows, SymInt[] cols, bool align_corners, SymInt ignore_index, float smoothing, "
    "bool valid_only"
)


@torch.library.custom_op(
    f"{OWNER}::upsample_cross_entropy",
    mutates_args=(),
    schema=f"(Tensor logits, Tensor labels, Tensor? weight, {_FACTS}, bool wants_gradient) "
    "-> (Tensor, Tensor, Tensor)",
)
def _operator(
    logits: Tensor, labels: Tensor, weight: Tensor | None, *facts: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, what the backward pass needs of the logits, and the number that divides the loss.

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
    f"{OWNER}::upsample_cross_entropy_backward",
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
