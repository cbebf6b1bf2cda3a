"""The causal check: hide patches, and see how far a pixel's score falls."""

# P pixels or versions of one image, N patches, K classes

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import unknown
from .geometry import patch_grid
from .maps import attention_maps, attention_rollout, one_image, patch_number
from .reach import distances
from .watch import encoder_of, hide_keys, prefix_tokens, run


@dataclass(frozen=True)
class Hidden:
    """What hiding did to P pixels; the three choices are `"attended"`, `"random"`, `"nearest"`.

    Attributes:
        classes: `(P)` the class that the whole image gives each pixel.
        logit, probability: `(P)` of that class there.
        patches: choice -> `(P,k)`, the patches that were hidden.
        logit_fall, probability_fall: choice -> `(P)`, by how much the two fell.
    """

    classes: Tensor
    logit: Tensor
    probability: Tensor
    patches: dict[str, Tensor]
    logit_fall: dict[str, Tensor]
    probability_fall: dict[str, Tensor]


def hide(
    model: nn.Module,
    images: Tensor,
    pixels: Sequence[tuple[int, int]],
    k: int,
    by: str | Sequence[int] = "rollout",
    how: str = "keys",
    seed: int = 0,
) -> Hidden:
    """The causal check: does a pixel's score need the patches that its patch attends to most?

    For every pixel alone, k patches are hidden: those most attended to, k random ones, and the k
    nearest ones (a stronger control, since attention prefers what is near). The pixel's own patch
    is never hidden.

    Args:
        images: one image, `(1,3,H,W)` normalised.
        pixels: (row, column) of each pixel that is asked about.
        by: `"rollout"`, or the 0-based layers whose mean over heads and layers ranks the patches.
        how: `"keys"` or `"pixels"`, see `hidden_logits`.
        seed: of the random patches.

    Raises:
        ValueError: for more than one image, a pixel outside it, or a k that is no number of other
            patches; and what `attention_maps` raises.
    """
    one_image(images)
    height, width = images.shape[-2:]
    wrong = [p for p in pixels if not (0 <= p[0] < height and 0 <= p[1] < width)]
    if wrong:
        raise ValueError(f"pixel {wrong[0]} is outside the image of {height}x{width} pixels")
    patch = encoder_of(model).patch_size
    grid = patch_grid((height, width), patch)
    count = grid[0] * grid[1]
    if not 0 <= k < count:
        raise ValueError(f"k is {k}; of {count} patches 0 to {count - 1} can be hidden")
    own = torch.tensor([patch_number((row // patch, col // patch), grid) for row, col in pixels])
    # One number per pixel and patch; the k largest are hidden.
    ranks = {
        "attended": _looked_at(model, images, by).cpu()[own],
        "random": torch.rand(len(own), count, generator=torch.Generator().manual_seed(seed)),
        "nearest": -distances(grid, patch)[own],
    }
    rows, cols = torch.tensor(pixels).unbind(1)
    before = run(model, lambda: model(images)).float().cpu()[0, :, rows, cols].T  # (P,K)
    classes = before.argmax(1, keepdim=True)
    patches, falls, losses = {}, {}, {}
    for choice, rank in ranks.items():
        rank[torch.arange(len(own)), own] = -torch.inf
        chosen = rank.argsort(dim=1, descending=True, stable=True)[:, :k]
        after = [
            hidden_logits(model, images, some, how).float().cpu()[torch.arange(len(some)), :, y, x]
            for some, y, x in zip(chosen.split(16), rows.split(16), cols.split(16))
        ]
        patches[choice] = chosen
        falls[choice] = (before - torch.cat(after)).gather(1, classes)[:, 0]
        losses[choice] = (before.softmax(1) - torch.cat(after).softmax(1)).gather(1, classes)[:, 0]
    return Hidden(
        classes[:, 0],
        before.gather(1, classes)[:, 0],
        before.softmax(1).gather(1, classes)[:, 0],
        patches,
        falls,
        losses,
    )


def hidden_logits(model: nn.Module, images: Tensor, patches: Tensor, how: str = "keys") -> Tensor:
    """Scores of one image with patches hidden, in as many versions as `patches` has rows.

    Args:
        images: one image, `(1,3,H,W)` normalised.
        patches: `(P,k)` int64, numbers of the patches to hide in each version.
        how: `"keys"`: no token looks at them in any block; every other token is exactly what it
            would be without them, but their own tokens still reach the decoder, whose 3x3
            convolutions (PUP, MLA) mix neighbours. `"pixels"`: their pixels become the mean colour
            (0 after normalisation), which the network then sees as grey patches.

    Returns:
        `(P,K,H,W)` float.
    """
    one_image(images)
    if how not in ("keys", "pixels"):
        raise ValueError(unknown("way of hiding", how, ["keys", "pixels"]))
    patch, prefix = encoder_of(model).patch_size, prefix_tokens(model)
    height, width = images.shape[-2:]
    rows, cols = patch_grid((height, width), patch)
    versions = images.expand(len(patches), -1, -1, -1)
    visible = torch.ones(len(patches), prefix + rows * cols, dtype=torch.bool)
    visible = visible.scatter(1, prefix + patches.cpu(), False).to(images.device)
    if visible.all():
        return run(model, lambda: model(versions))
    if how == "keys":
        return hide_keys(model, visible, lambda: model(versions))
    seen = visible[:, prefix:].view(-1, 1, rows, cols)
    seen = seen.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., :height, :width]
    return run(model, lambda: model(versions * seen))


def _looked_at(model: nn.Module, images: Tensor, by: str | Sequence[int]) -> Tensor:
    """`(N,N)`: how much each patch looks at each other one."""
    if isinstance(by, str):
        if by != "rollout":
            raise ValueError(f"by is {by!r}; choose 'rollout' or a list of layers")
        return attention_rollout(attention_maps(model, images, heads="mean"))[0]
    maps = attention_maps(model, images, by, heads="mean")
    return torch.stack(maps).mean(0)[0, 0, maps.prefix :, maps.prefix :]
