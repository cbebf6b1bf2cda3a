"""The causal check: hide patches, and see how far a pixel's score falls."""

# P pixels or versions of one image, N patches, K classes

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..files import unknown
from ..geometry import patch_grid
from ..inference import evaluating
from .capture import encoder_of, hide_keys, prefix_tokens
from .maps import attention_maps, attention_rollout, one_image, patch_number
from .stats import distances


@dataclass(frozen=True)
class Hidden:
    """What hiding did to P pixels; the three choices are `"attended"`, `"random"`, `"nearest"`.

    Attributes:
        classes: `(P)` the class that the whole image gives each pixel.
        logit: `(P)` the score of that class there.
        probability: `(P)` the same after the softmax over classes.
        patches: choice -> `(P,k)`, the patches that were hidden.
        logit_fall: choice -> `(P)`, by how much the score fell.
        probability_fall: choice -> `(P)`, by how much the probability fell.
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
    is never hidden. With `"pixels"` the nearest patches count twice: the decoder reads them too,
    if only in its bilinear resize, and what it reads there is then grey.

    Args:
        images: one image, `(1,3,H,W)` normalised.
        pixels: (row, column) in `images` of each pixel that is asked about.
        by: `"rollout"`, or the 0-based layers whose mean over heads and layers ranks the patches.
        how: `"keys"` or `"pixels"`, see `hidden_logits`.
        seed: of the random patches.

    Raises:
        ValueError: for more than one image, a pixel outside it, or a k that is no number of other
            patches; and what `attention_maps` raises.
    """
    own = _patches_of(model, images, pixels)
    ranks = _ranks(model, images, own, by, seed)
    count = ranks["random"].shape[1]
    if not 0 <= k < count:
        raise ValueError(f"k is {k}; of {count} patches 0 to {count - 1} can be hidden")
    at = torch.tensor(pixels)
    nothing = torch.empty(len(own), 0, dtype=torch.int64)
    before_PK = _scores(model, images, at, nothing, how)
    classes = before_PK.argmax(1, keepdim=True)
    patches, logit_fall, probability_fall = {}, {}, {}
    for choice, rank_PN in ranks.items():
        patches[choice] = rank_PN.argsort(dim=1, descending=True, stable=True)[:, :k]
        after_PK = _scores(model, images, at, patches[choice], how)
        fall, loss = before_PK - after_PK, before_PK.softmax(1) - after_PK.softmax(1)
        logit_fall[choice] = fall.gather(1, classes)[:, 0]
        probability_fall[choice] = loss.gather(1, classes)[:, 0]
    logit = before_PK.gather(1, classes)[:, 0]
    probability = before_PK.softmax(1).gather(1, classes)[:, 0]
    return Hidden(classes[:, 0], logit, probability, patches, logit_fall, probability_fall)


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

    Raises:
        ValueError: for more than one image, a patch outside the grid, or another word.
    """
    one_image(images)
    if how not in ("keys", "pixels"):
        raise ValueError(unknown("way of hiding", how, ["keys", "pixels"]))
    patch, prefix = encoder_of(model).patch_size, prefix_tokens(model)
    height, width = images.shape[-2:]
    rows, cols = patch_grid((height, width), patch)
    if patches.numel() and not 0 <= int(patches.min()) <= int(patches.max()) < rows * cols:
        raise ValueError(
            f"patches go from {patches.min()} to {patches.max()}; a grid of {rows}x{cols} has "
            f"0 to {rows * cols - 1}"
        )
    versions = images.expand(len(patches), -1, -1, -1)
    visible = torch.ones(len(patches), prefix + rows * cols, dtype=torch.bool)
    visible = visible.scatter(1, prefix + patches.cpu(), False).to(images.device)
    if how == "keys":
        return hide_keys(model, visible, lambda: model(versions))
    seen = visible[:, prefix:].view(-1, 1, rows, cols)
    seen = seen.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., :height, :width]
    with evaluating(model), torch.no_grad():
        return model(versions * seen)


def _patches_of(model: nn.Module, images: Tensor, pixels: Sequence[tuple[int, int]]) -> Tensor:
    """`(P)`: the number of the patch that each pixel of one image lies in."""
    one_image(images)
    height, width = images.shape[-2:]
    if not len(pixels):
        raise ValueError("no pixels to ask about; give (row, column) pairs")
    for row, col in pixels:
        if not (0 <= row < height and 0 <= col < width):
            raise ValueError(f"pixel {row, col} is outside the image of {height}x{width} pixels")
    patch = encoder_of(model).patch_size
    grid = patch_grid((height, width), patch)
    return torch.tensor([patch_number((row // patch, col // patch), grid) for row, col in pixels])


def _ranks(
    model: nn.Module, images: Tensor, own: Tensor, by: str | Sequence[int], seed: int
) -> dict[str, Tensor]:
    """Choice -> `(P,N)`, one number per pixel and patch: the largest are hidden, `own` last."""
    patch = encoder_of(model).patch_size
    far_NN = distances(patch_grid((images.shape[-2], images.shape[-1]), patch), patch)
    ranks = {
        "attended": _looked_at(model, images, by).cpu()[own],
        "random": torch.rand(far_NN[own].shape, generator=torch.Generator().manual_seed(seed)),
        "nearest": -far_NN[own],
    }
    return {choice: rank.scatter(1, own[:, None], -torch.inf) for choice, rank in ranks.items()}


def _scores(
    model: nn.Module, images: Tensor, at: Tensor, patches: Tensor, how: str, most: int = 16
) -> Tensor:
    """`(P,K)`: the scores at each pixel `at` `(P,2)` with its patches hidden, `most` at a time."""
    found = []
    for some, pixels in zip(patches.split(most), at.split(most)):
        logits = hidden_logits(model, images, some, how).float().cpu()
        found.append(logits[torch.arange(len(some)), :, pixels[:, 0], pixels[:, 1]])
    return torch.cat(found)


def _looked_at(model: nn.Module, images: Tensor, by: str | Sequence[int]) -> Tensor:
    """`(N,N)`: how much each patch looks at each other one."""
    if isinstance(by, str):
        if by != "rollout":
            raise ValueError(f"by is {by!r}; choose 'rollout' or a list of layers")
        return attention_rollout(attention_maps(model, images, heads="mean"))[0]
    maps = attention_maps(model, images, by, heads="mean")
    return torch.stack(maps).mean(0)[0, 0, maps.prefix :, maps.prefix :]
