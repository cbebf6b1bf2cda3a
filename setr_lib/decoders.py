"""The three decoders of SETR and their auxiliary heads: from tokens back to maps of class scores.

The authors' network, layer for layer (fudan-zvg/SETR: `vit_up_head.py`, `vit_mla_head.py`,
`mla.py`), without the classifier that every one of their heads carries and never calls. A head
returns its scores at its own resolution, before the last resize to the image.

An encoder norm does not exist: every Naive and PUP head normalises the tokens itself, MLA once
per stream in its neck.
"""

# B batch, N tokens, D width, Y X patch rows and columns, C channels, K classes

import torch
from torch import Tensor, nn

from .geometry import Size, resize


class NaiveHead(nn.Module):
    """Classify each token; the one resize to the image comes after. Paper 3.3, main and auxiliary.

    norm -> 1x1 conv to `channels`, BN, ReLU -> 1x1 conv to `classes`, at the patch grid.
    """

    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.conv = ConvBNReLU(width, channels, 1)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, tokens: Tensor, grid: Size) -> Tensor:
        """Tokens `(B,N,D)` -> scores `(B,K,Y,X)`."""
        return self.classifier(self.conv(to_map(self.norm(tokens), grid)))


class PUPHead(nn.Module):
    """Progressive upsampling: four 3x3 convolutions with a x2 resize after each. Paper 3.3.

    The fourth resize is left to the caller: the 1x1 classifier commutes with it, and before it
    the map is four times smaller (the authors classify at 1/2 too).
    """

    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.convs = nn.ModuleList(
            ConvBNReLU(width if stage == 0 else channels, channels, 3) for stage in range(4)
        )
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, tokens: Tensor, grid: Size) -> Tensor:
        """Tokens `(B,N,D)` -> scores `(B,K,8Y,8X)`."""
        maps = self.convs[0](to_map(self.norm(tokens), grid))
        for conv in self.convs[1:]:
            maps = conv(resize(maps, (2 * maps.shape[-2], 2 * maps.shape[-1])))
        return self.classifier(maps)


class PUPAuxHead(nn.Module):
    """PUP's auxiliary head: one 3x3 convolution, x4, classifier.

    The classifier comes before the x4 here: the two commute, and the map is 16 times smaller.
    """

    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.conv = ConvBNReLU(width, channels, 3)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, tokens: Tensor, grid: Size) -> Tensor:
        """Tokens `(B,N,D)` -> scores `(B,K,4Y,4X)`."""
        scores = self.classifier(self.conv(to_map(self.norm(tokens), grid)))
        return resize(scores, (4 * grid[0], 4 * grid[1]))


class MLANeck(nn.Module):
    """Multi-level aggregation, first half: four layers' tokens become four fused maps. Paper 3.3.

    The streams are added from the deepest to the shallowest, all at the patch grid. In the
    authors' code this is part of the backbone, and so trains at the backbone's rate.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(4))
        self.projections = nn.ModuleList(
            ConvBNReLU(width, channels, 1, bias=False) for _ in range(4)
        )
        self.fusions = nn.ModuleList(
            ConvBNReLU(channels, channels, 3, bias=False) for _ in range(4)
        )

    def forward(self, streams: list[Tensor], grid: Size) -> list[Tensor]:
        """Four `(B,N,D)`, shallowest first -> four `(B,C,Y,X)`, shallowest first."""
        maps = [
            project(to_map(norm(tokens), grid))
            for norm, project, tokens in zip(self.norms, self.projections, streams, strict=True)
        ]
        for stream in (2, 1, 0):  # top-down: each map receives all deeper ones
            maps[stream] = maps[stream] + maps[stream + 1]
        return [fuse(stream) for fuse, stream in zip(self.fusions, maps, strict=True)]


class MLAHead(nn.Module):
    """Multi-level aggregation, second half: each map to half the channels and x4, then classify.

    The x4 aligns the corners and the classifier is 3x3, both as in the authors' code.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        half = channels // 2
        self.streams = nn.ModuleList(
            nn.Sequential(
                ConvBNReLU(channels, half, 3, bias=False), ConvBNReLU(half, half, 3, bias=False)
            )
            for _ in range(4)
        )
        self.classifier = nn.Conv2d(4 * half, classes, 3, padding=1)

    def forward(self, maps: list[Tensor], grid: Size) -> Tensor:
        """Four `(B,C,Y,X)`, shallowest first -> scores `(B,K,4Y,4X)`."""
        size = (4 * grid[0], 4 * grid[1])
        enlarged = [
            resize(stream(m), size, align_corners=True)
            for stream, m in zip(self.streams, maps, strict=True)
        ]
        return self.classifier(torch.cat(enlarged, dim=1))


class MLAAuxHead(nn.Module):
    """MLA's auxiliary head: one 1x1 classifier without bias on a fused map, `(B,K,Y,X)`."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, classes, 1, bias=False)

    def forward(self, maps: Tensor, grid: Size) -> Tensor:
        return self.classifier(maps)


class ConvBNReLU(nn.Module):
    """Convolution that keeps the size, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(maps)))


def to_map(tokens: Tensor, grid: Size) -> Tensor:
    """Tokens `(B,N,D)`, rows first -> map `(B,D,Y,X)`."""
    return tokens.transpose(1, 2).unflatten(2, grid)
