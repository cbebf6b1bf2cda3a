"""What SETR is compared with: the dilated convolutional network of the paper's tables."""

# B batch, K classes, h w rows and columns at 1/8

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..decoders import ConvBNReLU
from ..files import as_count, as_switch
from ..geometry import Size, size_of
from ..model import Segmenter


@dataclass(frozen=True)
class FCNConfig:
    """Everything that decides the network.

    Args:
        depth: of the ResNet: 18, 34, 50 or 101; the paper's are the last two.
        num_classes: classes of the logits.
        aux: whether the auxiliary head exists.
        in_chans: channels of the image.
        width: channels of the first stage, which double in each: 64 in every published ResNet.
        channels: hidden width of the head; the auxiliary head has half of it.
    """

    depth: int = 101
    num_classes: int = 150
    aux: bool = True
    in_chans: int = 3
    width: int = 64
    channels: int = 512

    def __post_init__(self) -> None:
        for name in ("depth", "num_classes", "in_chans", "width", "channels"):
            object.__setattr__(self, name, as_count(getattr(self, name), name))
        as_switch(self.aux, "aux")
        if self.depth not in (18, 34, 50, 101):
            raise ValueError(f"depth is {self.depth}; the FCN is built on ResNet-18, 34, 50 or 101")
        if self.width % 2 or (self.depth > 34 and self.width != 64):
            raise ValueError(
                f"width is {self.width} with depth {self.depth}; ResNet-18 and 34 have any even "
                "one, the others 64"
            )


class FCN(Segmenter):
    """Fully convolutional network with a dilated ResNet.

    mmsegmentation's FCN (output stride 8), which the paper trains itself: ResNet with a deep stem,
    two 3x3 convolutions, their result joined with the backbone's map by a third, a classifier; and
    an auxiliary head on the third stage.
    """

    config: FCNConfig

    def __init__(self, config: FCNConfig) -> None:
        super().__init__()
        self.config = config
        encoder: Any = timm.create_model(
            f"resnet{config.depth}",
            features_only=True,
            out_indices=(3, 4),
            output_stride=8,
            stem_type="deep",
            stem_width=config.width // 2,
            channels=tuple(config.width << stage for stage in range(4)),
            in_chans=config.in_chans,
        )
        self.encoder = encoder
        deep, deepest = encoder.feature_info.channels()
        hidden, classes = config.channels, config.num_classes
        self.head = FCNHead(deepest, hidden, classes, convs=2, concat=True)
        aux = [FCNHead(deep, hidden // 2, classes, convs=1, concat=False)]
        self.aux_heads = nn.ModuleList(aux if config.aux else [])

    def small_logits(self, images: Tensor, aux: bool = True) -> list[tuple[Tensor, list[Size]]]:
        """Both heads' logits `(B,K,h,w)`; one resize leads to the image, as in mmsegmentation."""
        deep, deepest = self.encoder(images)
        heads = [(self.head, deepest), *((head, deep) for head in self.aux_heads if aux)]
        return [(head(maps), [size_of(images)]) for head, maps in heads]


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
