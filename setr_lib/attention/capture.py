"""Look at the fused attention from outside: what enters it, and what it gives when keys are hidden.

`scaled_dot_product_attention` returns no weights. Every encoder of the library (our own, the
Hybrid's, timm's) calls it once per block, so its queries and keys are read as they enter it, after
whatever the block did to them (bias, norm, rotary positions). No network is written a second time.
"""

# B batch, T tokens (prefix tokens first, then N patches), H heads, K head width

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..encoder import TokenEncoder
from ..inference import evaluating

Seen = TypeVar("Seen")


def watch(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[int] | None,
    see: Callable[[Tensor, Tensor], Seen],
) -> list[Seen]:
    """Run the encoder once and collect `see(q, k)` of the 0-based blocks `layers`, in that order.

    Both are `(B,H,T,K)`; q is scaled, so that the attention is softmax(q @ k^T). Only what `see`
    returns is kept. The model runs in evaluation mode without gradients; every part keeps its mode.

    Args:
        model: a SETR, or an encoder of the library alone.
        layers: negative ones count from the last block; None: all blocks.

    Raises:
        ValueError: if the model has no attention, there is no such layer, or the backbone's
            attention is not one fused call per block.
    """
    encoder = encoder_of(model)
    wanted = layer_numbers(layers, encoder.depth)
    spy = _Spy(set(wanted), see)
    with evaluating(encoder), torch.no_grad(), spy:
        encoder(images)
    if spy.calls != encoder.depth:
        raise ValueError(_not_fused(encoder, spy.calls))
    return [spy.seen[layer] for layer in wanted]


def hide_keys(model: nn.Module, visible: Tensor, call: Callable[[], Tensor]) -> Tensor:
    """`call()`, with the tokens that are False in `visible` `(B,T)` removed as keys of every block.

    The other tokens are then exactly what they would be if the hidden ones did not exist.
    """
    mode = _Hide(visible)
    with evaluating(model), torch.no_grad(), mode:
        found = call()
    if not mode.calls:
        raise ValueError(_not_fused(model, 0))
    return found


def prefix_tokens(model: nn.Module) -> int:
    """How many tokens stand before the patches: class, register and distillation tokens.

    Our encoder: 1, the class token, for Naive and PUP; 0 for MLA, which drops it. timm backbones
    keep what they have (DINOv2 with registers: 1 + 4; distilled DeiT: 2), with any decoder.
    """
    return encoder_of(model).prefix_tokens


def encoder_of(model: nn.Module) -> TokenEncoder:
    """The transformer of a model, or the model itself if it is one of the library's encoders."""
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, TokenEncoder):
        raise ValueError(
            f"{type(model).__name__} has no attention to show; give a SETR or one of its encoders"
        )
    return encoder


def layer_numbers(layers: Sequence[int] | None, depth: int) -> list[int]:
    """0-based block numbers; negative ones count from the end, None means all."""
    if layers is None:
        return list(range(depth))
    wrong = [layer for layer in layers if not -depth <= layer < depth]
    if wrong or not len(layers):
        raise ValueError(
            f"layers {tuple(layers)} of a {depth}-block encoder; use 0 to {depth - 1}, "
            f"or -{depth} to -1 from the end"
        )
    return [layer % depth for layer in layers]


def _not_fused(model: nn.Module, calls: int) -> str:
    encoder = encoder_of(model)
    return (
        f"{type(encoder).__name__} called the fused attention {calls} times in "
        f"{encoder.depth} blocks; it must be once per block. For a timm backbone with plain "
        "attention call timm.layers.set_fused_attn(True) before it is made"
    )


class _Spy(TorchFunctionMode):
    """Show what enters the calls with the numbers `wanted` to `see`."""

    def __init__(self, wanted: set[int], see: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.wanted, self.see = wanted, see
        self.calls, self.seen = 0, dict[int, Any]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            if self.calls in self.wanted:
                q, k, _, scale = _parts(*args, **kwargs)
                dtype = torch.promote_types(q.dtype, torch.float32)
                self.seen[self.calls] = self.see(q.to(dtype) * scale, k.to(dtype))
            self.calls += 1
        return func(*args, **kwargs)


class _Hide(TorchFunctionMode):
    """Give every fused attention a mask over its keys."""

    def __init__(self, visible: Tensor) -> None:
        super().__init__()
        self.mask = visible[:, None, None]  # (B,1,1,T): every head and query, some keys
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            q, k, v, scale = _parts(*args, **kwargs)
            return func(q, k, v, attn_mask=self.mask, scale=scale)
        return func(*args, **kwargs)


def _parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """The arguments of torch's fused attention, by its own names; masks are refused."""
    if attn_mask is not None or is_causal:
        raise ValueError("this backbone's attention has a mask or a bias, which is not supported")
    return query, key, value, query.shape[-1] ** -0.5 if scale is None else scale
