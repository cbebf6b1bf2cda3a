"""Variants of SETR that the paper does not have, each the answer to a question about it.

stem="conv"            does the strided patch projection lose what convolutions keep?
attention_radius=2     does attention have to reach the whole image?
pup_steps=2            does PUP need four steps of two?
linear=True            what does the encoder know already? (linear probing)
"""

# B batch, T tokens (class token first, if there is one), N patches, D width, Y X patch grid

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decoders import ConvBNReLU, Upsampling, UpsamplingHead, to_map
from ..encoder import Encoder
from ..geometry import Size, patch_grid, size_of

# Fields of `SETRConfig` that make a variant, as they are in a network of the paper.
OF_PAPER: dict[str, Any] = {"stem": "patch", "attention_radius": 0, "pup_steps": 0, "linear": False}


def check_variant(config: Any) -> None:
    """Refuse a variant that a `SETRConfig` cannot have.

    Raises:
        ValueError: the message names the field, both values and what is possible.
    """
    c = config
    if c.stem not in ("patch", "conv"):
        raise ValueError(f"stem is {c.stem!r}; choose 'patch' or 'conv'")
    if c.backbone != "vit" and (c.stem != "patch" or c.attention_radius):
        raise ValueError(
            f"stem and attention_radius are for our own encoder, backbone='vit'; it is "
            f"{c.backbone!r}"
        )
    if c.stem == "conv" and (c.patch_size < 2 or c.patch_size & (c.patch_size - 1)):
        raise ValueError(
            f"patch_size is {c.patch_size}; stem='conv' halves the image until a patch is a pixel: "
            "choose a power of two, for example 8 or 16"
        )
    if c.pup_steps not in (0, 2) or (c.pup_steps and c.decoder != "pup"):
        raise ValueError(
            f"pup_steps is {c.pup_steps} with the decoder {c.decoder!r}; choose 0 (four steps of "
            "two), or, of 'pup', 2 (two steps of four)"
        )
    if c.linear and c.decoder != "naive":
        raise ValueError(f"linear is True with the decoder {c.decoder!r}; choose 'naive'")


def variant_head(config: Any, heads: Mapping[str, Upsampling]) -> Any:
    """The main head of a variant; None where it is that of the paper.

    PUP in two steps has two convolutions and two resizes by four; the graph's own last resize stays
    last.
    """
    c = config
    if c.linear:
        return LinearHead(c.width, c.num_classes)
    if c.pup_steps:
        pup = heads["pup"]._replace(factors=(4, heads["pup"].factors[-1] ** 2))
        return UpsamplingHead(c.width, c.channels, c.num_classes, pup)
    return None


class LinearHead(nn.Module):
    """One linear layer on each normed token, and nothing else: what linear probing trains."""

    factors = (1,)  # by which it enlarges the patch grid

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.convs = nn.ModuleList()  # none
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, tokens: Tensor, grid: Size) -> Tensor:
        """Tokens `(B,N,D)` -> logits `(B,K,Y,X)`."""
        return self.classifier(to_map(self.norm(tokens), grid))

    small = forward


class VariantEncoder(Encoder):
    """Our encoder with another stem, with attention that reaches so many patches, or both.

    Args:
        stem: `"patch"` or `"conv"`, see `ConvStem`.
        radius: a patch sees those at most so many rows and columns away; 0: all. The class token
            sees every patch and no patch sees it, else it would carry news from afar.
    """

    def __init__(
        self, image_size: Size, width: int, depth: int, heads: int, patch_size: int,
        class_token: str, patch_bias: bool, in_chans: int, stem: str, radius: int,
    ) -> None:  # fmt: skip
        sizes = (image_size, width, depth, heads, patch_size, class_token, patch_bias, in_chans)
        super().__init__(*sizes)
        self.radius = radius
        if stem == "conv":
            self.patch_embed = ConvStem(width, patch_size, in_chans)  # type: ignore[assignment]

    def features(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The patch tokens `(B,N,D)` after each of the 0-based blocks `layers`, in that order."""
        if self.radius:
            grid = patch_grid(size_of(images), self.patch_size)
            seen = near(grid, self.radius, self.prefix_tokens, images.device)
            for block in self.blocks:
                block.attn.seen = seen  # type: ignore[union-attr]
        return super().features(images, layers)


class ConvStem(nn.Module):
    """Images `(B,3,H,W)` -> tokens `(B,N,D)`: 3x3 convolutions of stride 2, then one 1x1.

    As many as halve a patch to one pixel: four for 16, three for 8. The width doubles with each
    and ends at the tokens'. "Early convolutions" after Xiao et al., arXiv 2106.14881.
    """

    def __init__(self, width: int, patch_size: int, in_chans: int) -> None:
        super().__init__()
        count = int(math.log2(patch_size))
        sizes = [in_chans, *(min(width, max(32, width >> (count - 1 - n))) for n in range(count))]
        convs = [ConvBNReLU(*pair, 3, bias=False) for pair in itertools.pairwise(sizes)]
        for layer in convs:
            layer.conv.stride = (2, 2)
        self.convs, self.proj = nn.Sequential(*convs), nn.Conv2d(width, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.convs(images)).flatten(2).transpose(1, 2)


def near(grid: Size, radius: int, prefix: int, device: torch.device) -> Tensor:
    """`(T,T)`: which token sees which, T = `prefix` + Y*X. Chebyshev distance, as a king moves."""
    y = torch.arange(grid[0], device=device).repeat_interleave(grid[1])
    x = torch.arange(grid[1], device=device).repeat(grid[0])
    apart = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())
    seen = F.pad(apart <= radius, (prefix, 0, prefix, 0), value=False)
    seen[:prefix] = True
    return seen
