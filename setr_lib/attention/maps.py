"""What the encoder looks at: exact attention maps, single rows on demand, rollout.

Everything reads normalised images `(B,3,H,W)` of any size; `prepare` makes them. As in the encoder,
images are padded with zeros to whole patches, so the last row and column of patches may be partly
padding (none is padding only), and the position table is resized to the grid.
"""

# B batch, T tokens = S prefix tokens, then N patches rows first; H heads, K head width, L layers

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..files import unknown
from ..geometry import Size, patch_grid
from ..images import fit_inside, normalise, resize_image, to_pixels
from .capture import encoder_of, prefix_tokens, watch

FUSE: dict[str, Any] = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}  # over the heads


class AttentionMaps(list[Tensor]):
    """A list over layers of `(B,H,T,T)`, that also knows how many of the T tokens are no patches.

    Attributes:
        prefix: S, the number of tokens before the patches (see `prefix_tokens`).
    """

    def __init__(self, maps: Iterable[Tensor], prefix: int = 0) -> None:
        super().__init__(maps)
        self.prefix = prefix

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return AttentionMaps(found, self.prefix) if isinstance(index, slice) else found


def prepare(
    model: nn.Module,
    image: "Image.Image | np.ndarray | Tensor | str | os.PathLike[str]",
    base: tuple[int, int] | None = None,
) -> tuple[Tensor, Size]:
    """One image in any form `predict` reads -> `(1,3,H,W)` normalised, and its patch grid (Y, X).

    Args:
        base: (long side, short side) that the image is fitted into, for example `recipe.scale`;
            None: its own size.
    """
    pixels = to_pixels(image)
    size = (pixels.shape[0], pixels.shape[1])
    pixels = resize_image(pixels, fit_inside(size, base) if base else size)
    images = normalise(pixels)[None].to(next(model.parameters()).device)
    return images, patch_grid((pixels.shape[0], pixels.shape[1]), encoder_of(model).patch_size)


def attention_maps(
    model: nn.Module, images: Tensor, layers: Sequence[int] | None = None, heads: str = "all"
) -> AttentionMaps:
    """The attention of every head, exactly as the network computes it.

    Args:
        model: a SETR on any of the library's backbones, or its encoder alone.
        images: `(B,3,H,W)` float, normalised; any size.
        layers: 0-based blocks, negative ones from the end; None: all.
        heads: `"all"`, or `"mean"`, `"max"`, `"min"` over the heads of a layer, which need 1/H of
            the memory and keep H = 1.

    Returns:
        A list over the layers of `(B,H,T,T)`, float32 (float64 for a network in 64 bits); rows
        (queries) sum to 1 over the last axis (keys). T = `prefix_tokens(model)` + N: the prefix
        tokens (class token of Naive and PUP; class, register and distillation tokens of timm
        backbones) come first, then the patches, rows first. `.prefix` of the list is their number.

    Raises:
        ValueError: if the model has no attention (the FCN), or there is no such layer.
    """
    if heads != "all" and heads not in FUSE:
        raise ValueError(unknown("fusion of heads", heads, ["all", *FUSE]))

    def see(q: Tensor, k: Tensor) -> Tensor:
        rows = (q @ k.mT).softmax(-1)
        return rows if heads == "all" else FUSE[heads](rows, 1, keepdim=True)

    return AttentionMaps(watch(model, images, layers, see), prefix_tokens(model))


def queries_keys(
    model: nn.Module, images: Tensor, layers: Sequence[int] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Per layer (q, k), each `(B,H,T,K)`, q scaled: softmax(q @ k^T) are the rows.

    Arguments, tokens and errors as in `attention_maps`; their size grows with T, not with T^2.
    """
    return watch(model, images, layers, lambda q, k: (q, k))


def attention_rows(
    model: nn.Module,
    images: Tensor,
    patch: int | Sequence[int],
    direction: str = "from",
    layers: Sequence[int] | None = None,
    part: str = "patches",
) -> Tensor:
    """The attention of one patch in every layer and head, without making any `(T,T)` map.

    Args:
        images: one image, `(1,3,H,W)` normalised.
        patch: number of the patch, rows first, or its (row, column) in the grid.
        direction: `"from"`: what this patch looks at (a row of the map, over all tokens it sums to
            1); `"to"`: who looks at it (a column).
        part: `"patches"`, or `"prefix"` for the share of the class token and its like.

    Returns:
        `(L,H,N)`, or `(L,H,S)` for the prefix tokens.

    Raises:
        ValueError: for more than one image, a patch outside the grid, an unknown word, and what
            `attention_maps` raises.
    """
    one_image(images)
    if part not in ("patches", "prefix"):
        raise ValueError(unknown("part", part, ["patches", "prefix"]))
    prefix = prefix_tokens(model)
    grid = patch_grid((images.shape[-2], images.shape[-1]), encoder_of(model).patch_size)
    token = prefix + patch_number(patch, grid)
    rows = watch(model, images, layers, lambda q, k: attention_row(q, k, token, direction)[0])
    found = torch.stack(rows)
    return found[..., prefix:] if part == "patches" else found[..., :prefix]


def attention_row(q: Tensor, k: Tensor, token: int, direction: str = "from") -> Tensor:
    """One row (`"from"`) or column (`"to"`) of softmax(q @ k^T): `(B,H,T,K)` twice -> `(B,H,T)`.

    A column needs every row's normaliser: rows are read 128 at a time, and not kept.
    """
    if direction == "from":
        return (q[:, :, token : token + 1] @ k.mT).softmax(-1)[:, :, 0]
    if direction != "to":
        raise ValueError(unknown("direction", direction, ["from", "to"]))
    # clone: a view would keep the rows that it was cut from
    columns = [(some @ k.mT).softmax(-1)[..., token].clone() for some in q.split(128, dim=2)]
    return torch.cat(columns, dim=2)


def patch_number(patch: int | Sequence[int], grid: Size) -> int:
    """The number, rows first, of a patch that is given by number or by (row, column)."""
    row, col = patch if isinstance(patch, Sequence) else divmod(int(patch), grid[1])
    if not (0 <= row < grid[0] and 0 <= col < grid[1]):
        raise ValueError(f"patch {patch} is outside the grid of {grid[0]}x{grid[1]} patches")
    return row * grid[1] + col


def attention_rollout(
    maps: Iterable[Tensor],
    residual: float = 0.5,
    discard: float = 0.0,
    heads: str = "mean",
    prefix: int | None = None,
) -> Tensor:
    """Attention rollout: the product of all layers' maps, each mixed with the identity.

    Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, 2020. Per layer: fuse the
    heads, discard, divide each ROW by its sum, mix with the identity; then multiply from the first
    layer on. The prefix tokens take part in the products; at the end their rows and columns are
    taken out and the rows divided by what is left.

    Args:
        maps: over layers, from the first on: `(B,H,T,T)`, as `attention_maps` gives them.
        residual: weight of the identity, which stands for the residual connection.
        discard: share of the smallest entries of every row that is set to 0 first; of T entries
            the discard * T smallest, rounded down.
        heads: `"mean"`, `"max"` or `"min"` over the heads.
        prefix: tokens before the patches; None: what `maps` knows of itself, 0 for a plain list.

    Returns:
        `(B,N,N)`; row i says what patch i is made of; rows sum to 1. NaN in a row that
        leads to prefix tokens alone, which takes `residual=0`.

    Raises:
        ValueError: for values outside their range, or no maps.
    """
    if heads not in FUSE:
        raise ValueError(unknown("fusion of heads", heads, FUSE))
    if not 0 <= residual <= 1 or not 0 <= discard < 1:
        raise ValueError(
            f"residual is {residual}, discard {discard}; they must lie in [0, 1] and in [0, 1)"
        )
    prefix = getattr(maps, "prefix", 0) if prefix is None else prefix
    rollout: Tensor | None = None
    for map_BHTT in maps:
        rows = FUSE[heads](map_BHTT, 1)
        tokens = rows.shape[-1]
        if discard:
            values, where = rows.topk(tokens - int(discard * tokens))
            rows = torch.zeros_like(rows).scatter(-1, where, values)
        identity = torch.eye(tokens, dtype=rows.dtype, device=rows.device)
        total = rows.sum(-1, keepdim=True)  # 0 where "min" found nothing that all heads share
        rows = torch.where(total > 0, (1 - residual) * rows / total + residual * identity, identity)
        rollout = rows if rollout is None else rows @ rollout
    if rollout is None:
        raise ValueError("no maps to roll out; give attention_maps(model, images)")
    rollout = rollout[:, prefix:, prefix:]
    return rollout / rollout.sum(-1, keepdim=True)


def one_image(images: Tensor) -> None:
    """A batch of one, or an error."""
    if len(images) != 1:
        raise ValueError(f"{len(images)} images; give one at a time: images[i : i + 1]")
