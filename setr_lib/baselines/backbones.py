"""Other encoders behind the interface of ours: the paper's Hybrid, and timm's."""

# B batch, N patch tokens, D width

from collections.abc import Sequence
from typing import Any

import timm
from timm.layers import PatchEmbed
from torch import Tensor, nn

from ..encoder import Encoder, TokenEncoder
from ..files import unknown
from ..geometry import Size, pad_to_patches, patch_grid


def other_encoder(
    name: str, image_size: Size, width: int, depth: int, heads: int, patch_size: int,
    class_token: str, in_chans: int,
) -> TokenEncoder:  # fmt: skip
    """The Hybrid by the name "hybrid", else a timm backbone of the sizes that are asked for.

    Raises:
        ValueError: if the backbone has other sizes.
    """
    if name == "hybrid":
        return HybridEncoder(image_size, width, depth, heads, class_token, in_chans)
    encoder = TimmEncoder(name, image_size, in_chans)
    for what, asked in {"width": width, "depth": depth, "patch_size": patch_size}.items():
        if asked != getattr(encoder, what):
            raise ValueError(
                f"{what} is {asked}, that of {name} {getattr(encoder, what)}; "
                "make the configuration with setr_lib.zoo.timm_config"
            )
    return encoder


class HybridEncoder(Encoder):
    """The paper's Hybrid: a ResNet-50 at stride 16 makes the tokens that the transformer reads.

    Paper, section 4.2: the ResNet's map, projected to the width by a 1x1 convolution (which the
    paper does not describe; no code was published).
    """

    def __init__(
        self, image_size: Size, width: int, depth: int, heads: int, class_token: str, in_chans: int
    ) -> None:
        super().__init__(image_size, width, depth, heads, 16, class_token, in_chans=in_chans)
        self.patch_embed = ResNetEmbed(width, in_chans)  # type: ignore[assignment]


class ResNetEmbed(nn.Module):
    """Images `(B,3,H,W)` -> tokens `(B,N,D)` from the last map of a ResNet-50 at stride 16."""

    def __init__(self, width: int, in_chans: int) -> None:
        super().__init__()
        backbone: Any = timm.create_model(
            "resnet50", features_only=True, out_indices=(4,), output_stride=16, in_chans=in_chans
        )
        self.backbone = backbone
        self.proj = nn.Conv2d(backbone.feature_info.channels()[0], width, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.backbone(images)[0]).flatten(2).transpose(1, 2)


class TimmEncoder(TokenEncoder):
    """A timm backbone as encoder: tokens of chosen blocks, before timm's last norm.

    Args:
        name: of the timm model; it must offer `forward_intermediates` and keep one grid.
        image_size: rows and columns that its position table is made for.
        pretrained: whether timm fetches its weights.

    Raises:
        ValueError: for an unknown name, or a backbone that changes its grid between blocks.
    """

    def __init__(
        self, name: str, image_size: Size, in_chans: int = 3, pretrained: bool = False
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise ValueError(unknown("timm model", name, timm.list_models()))
        size: dict[str, Any] = {"img_size": image_size, "dynamic_img_size": True}
        self.backbone: Any
        try:
            self.backbone = timm.create_model(
                name, pretrained=pretrained, num_classes=0, in_chans=in_chans, **size
            )
            self.patch_size = self.backbone.patch_embed.patch_size[0]
            self.depth = len(self.backbone.blocks)
            if not isinstance(self.backbone.patch_embed, PatchEmbed):
                raise TypeError("convolutions come before its patches")
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"{name} keeps no single grid of patches ({error}); choose a plain vision "
                "transformer, for example vit_small_patch14_dinov2"
            ) from error
        self.width, self.prefix_tokens = self.backbone.embed_dim, self.backbone.num_prefix_tokens
        self.grid = patch_grid(image_size, self.patch_size)

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        """timm's own: they have one name in a checkpoint."""
        return self.backbone.blocks

    def features(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The patch tokens `(B,N,D)` after each of the 0-based blocks `layers`, in that order."""
        wanted = sorted(set(layers))
        found = self.backbone.forward_intermediates(
            pad_to_patches(images, self.patch_size),
            indices=wanted,
            norm=False,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [found[wanted.index(layer)] for layer in layers]
