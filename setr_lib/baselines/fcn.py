"""What SETR is compared with, and other encoders in its place. All convolutions come from timm.

`FCN` is the dilated network of the paper's tables, `HybridEncoder` the paper's ResNet-50 in front
of the transformer, `TimmEncoder` any timm backbone that keeps one grid (DINOv2, AugReg, EVA, ...).
"""

# B batch, N tokens, D width, C channels, K classes, h w rows and columns at 1/8

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..decoders import ConvBNReLU
from ..geometry import Size, as_count, as_switch, resize
from ..losses.cross_entropy import heads_loss


@dataclass(frozen=True)
class FCNConfig:
    """Everything that decides the network.

    Args:
        depth: of the ResNet, 50 or 101.
        num_classes: classes of the scores.
        aux: whether the auxiliary head exists.
        in_chans: channels of the image.
    """

    depth: int = 101
    num_classes: int = 150
    aux: bool = True
    in_chans: int = 3

    def __post_init__(self) -> None:
        for name in ("depth", "num_classes", "in_chans"):
            object.__setattr__(self, name, as_count(getattr(self, name), name))
        as_switch(self.aux, "aux")
        if self.depth not in (50, 101):
            raise ValueError(f"depth is {self.depth}; the FCN is built on ResNet-50 and ResNet-101")


class FCN(nn.Module):
    """Fully convolutional network with a dilated ResNet; same interface as `SETR`.

    mmsegmentation's FCN (output stride 8), which the paper trains itself: ResNet with a deep stem,
    two 3x3 convolutions, their result joined with the backbone's map by a third, a classifier; and
    an auxiliary head on the third stage.
    """

    def __init__(self, config: FCNConfig) -> None:
        super().__init__()
        self.config = config
        encoder: Any = timm.create_model(
            f"resnet{config.depth}",
            features_only=True,
            out_indices=(3, 4),
            output_stride=8,
            stem_type="deep",
            stem_width=32,
            in_chans=config.in_chans,
        )
        self.encoder = encoder
        deep, deepest = encoder.feature_info.channels()
        self.head = FCNHead(deepest, 512, config.num_classes, convs=2, concat=True)
        aux = [FCNHead(deep, 256, config.num_classes, convs=1, concat=False)]
        self.aux_heads = nn.ModuleList(aux if config.aux else [])

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B,3,H,W)`, normalised -> logits `(B,K,H,W)`; any H and W >= 1."""
        size = (images.shape[-2], images.shape[-1])
        return self.to_image(self.head(self.encoder(images)[1]), size)

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        average: str = "all",
        way: str = "lean",
        check: bool = True,
    ) -> Tensor:
        """Main loss plus 0.4 times the auxiliary loss; arguments as in `SETR.loss`."""
        return heads_loss(self, images, labels, average, way, check)

    def head_logits(self, images: Tensor) -> dict[str, Any]:
        """Both heads' scores `(B,K,h,w)` at 1/8 of the image, before the last resize."""
        deep, deepest = self.encoder(images)
        return {"main": self.head(deepest), "aux": [head(deep) for head in self.aux_heads]}

    def small_logits(self, images: Tensor, aux: bool = True) -> list[tuple[Tensor, list[Size]]]:
        """Both heads' scores and their way to the image, as in `SETR.small_logits`."""
        deep, deepest = self.encoder(images)
        heads = [(self.head, deepest), *((head, deep) for head in self.aux_heads if aux)]
        size = (images.shape[-2], images.shape[-1])
        return [(head(maps), [size]) for head, maps in heads]

    def to_image(self, scores: Tensor, size: Size) -> Tensor:
        """The last resize, straight to the image as in mmsegmentation."""
        return resize(scores, size)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """What is not the backbone."""
        yield from self.head.parameters()
        yield from self.aux_heads.parameters()


class FCNHead(nn.Module):
    """3x3 convolutions, optionally joined with their input by one more, and a 1x1 classifier."""

    def __init__(self, inputs: int, channels: int, classes: int, convs: int, concat: bool) -> None:
        super().__init__()
        sizes = [inputs] + [channels] * (convs - 1)
        self.convs = nn.Sequential(*(ConvBNReLU(size, channels, 3, bias=False) for size in sizes))
        self.join = ConvBNReLU(inputs + channels, channels, 3, bias=False) if concat else None
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.convs(maps)
        if self.join is not None:
            hidden = self.join(torch.cat([maps, hidden], dim=1))
        return self.classifier(self.dropout(hidden))
