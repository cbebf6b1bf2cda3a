"""The three decoders of SETR and their auxiliary heads: from tokens to maps of logits.

Layer for layer the authors' network (fudan-zvg/SETR: `vit_up_head.py`, `vit_mla_head.py`, `mla.py`)
without the classifier that each of their heads carries and never calls, or the network that
mmsegmentation calls by the same name (`setr_up_head.py`, `setr_mla_head.py`, `mla_neck.py`). Where
the two differ is said in `UPSAMPLING` and `MLA`, and nowhere else.

The encoder has no last norm: every Naive and PUP head normalises the tokens itself, MLA once per
stream in its neck.
"""

# B batch, N tokens, D width, Y X patch rows and columns, C channels, K classes

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .geometry import Size, resize


class Upsampling(NamedTuple):
    """A Naive or PUP head: one convolution per entry of `factors`, each followed by that resize."""

    kernel: int
    factors: tuple[int, ...]
    conv_bias: bool


UPSAMPLING = {
    "authors": {
        "naive": Upsampling(1, (1,), conv_bias=True),
        "naive auxiliary": Upsampling(1, (1,), conv_bias=True),
        # PUP's fourth x2 leads to the image: it is the last resize, which the model does.
        "pup": Upsampling(3, (2, 2, 2, 1), conv_bias=True),
        "pup auxiliary": Upsampling(3, (4,), conv_bias=True),
    },
    "mmseg": {
        "naive": Upsampling(1, (4,), conv_bias=False),
        "naive auxiliary": Upsampling(1, (4, 4), conv_bias=False),  # Cityscapes: (4,)
        "pup": Upsampling(3, (2, 2, 2, 2), conv_bias=False),
        "pup auxiliary": Upsampling(3, (4, 4), conv_bias=False),
    },
}


class MLAGraph(NamedTuple):
    """What the two networks called MLA do not share."""

    align_corners: bool  # of the x4 of each stream
    classifier_kernel: int
    deepest_first: bool  # order of the streams before the classifier, and of the auxiliary heads
    aux_bias: bool


MLA = {
    "authors": MLAGraph(True, 3, deepest_first=False, aux_bias=False),
    "mmseg": MLAGraph(False, 1, deepest_first=True, aux_bias=True),
}


class UpsamplingHead(nn.Module):
    """Naive, PUP and their auxiliary heads. Paper 3.3.

    Norm; then per factor a convolution, BN, ReLU and a resize by the factor; then the 1x1
    classifier. The classifier is called before the last resize: the two commute, and the map is
    smaller there.
    """

    def __init__(self, width: int, channels: int, classes: int, graph: Upsampling) -> None:
        super().__init__()
        self.factors = graph.factors
        self.norm = nn.LayerNorm(width, eps=1e-6)
        inputs = [width] + [channels] * (len(graph.factors) - 1)
        self.convs = nn.ModuleList(
            ConvBNReLU(size, channels, graph.kernel, graph.conv_bias) for size in inputs
        )
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, tokens: Tensor, grid: Size) -> Tensor:
        """Tokens `(B,N,D)` -> logits `(B,K,f*Y,f*X)`, f the product of the factors."""
        return upsample(self.small(tokens, grid), self.factors[-1])

    def small(self, tokens: Tensor, grid: Size) -> Tensor:
        """The logits before the last resize."""
        maps = to_map(self.norm(tokens), grid)
        for conv, factor in zip(self.convs[:-1], self.factors):
            maps = upsample(conv(maps), factor)
        return self.classifier(self.convs[-1](maps))


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
        return [fuse(fused) for fuse, fused in zip(self.fusions, maps, strict=True)]


class MLAHead(nn.Module):
    """Multi-level aggregation, second half: each map to half the channels and x4, then classify."""

    def __init__(self, channels: int, classes: int, graph: MLAGraph) -> None:
        super().__init__()
        half, kernel = channels // 2, graph.classifier_kernel
        self.graph = graph
        self.streams = nn.ModuleList(
            nn.Sequential(
                ConvBNReLU(channels, half, 3, bias=False), ConvBNReLU(half, half, 3, bias=False)
            )
            for _ in range(4)
        )
        self.classifier = nn.Conv2d(4 * half, classes, kernel, padding=kernel // 2)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Four `(B,C,Y,X)`, shallowest first -> logits `(B,K,4Y,4X)`."""
        streams = [
            upsample(stream(fused), 4, self.graph.align_corners)
            for stream, fused in zip(self.streams, maps, strict=True)
        ]
        return self.classifier(torch.cat(streams[:: -1 if self.graph.deepest_first else 1], dim=1))


class MLAAuxHead(nn.Module):
    """MLA's auxiliary head: one 1x1 classifier on a fused map."""

    def __init__(self, channels: int, classes: int, graph: MLAGraph) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, classes, 1, bias=graph.aux_bias)

    def forward(self, maps: Tensor) -> Tensor:
        """A fused map `(B,C,Y,X)` -> logits `(B,K,Y,X)`."""
        return self.classifier(maps)


class ConvBNReLU(nn.Module):
    """Convolution that keeps the size, batch norm, ReLU.

    Raises:
        ValueError: in training, if there is one value per channel: it has no spread to divide by.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        alone = self.training and len(maps) * maps.shape[-2] * maps.shape[-1] == 1
        if alone and isinstance(self.bn, nn.BatchNorm2d):  # SyncBatchNorm counts all processes
            raise ValueError(
                "batch norm cannot train on one value per channel: the batch is 1 image of 1x1 "
                "patches; use a larger batch (micro_batch) or a larger crop"
            )
        return self.bn(self.conv(maps)).relu_()  # the norm does not need what it gave


def to_map(tokens: Tensor, grid: Size) -> Tensor:
    """Tokens `(B,N,D)`, rows first -> map `(B,D,Y,X)`."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def upsample(maps: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    """Bilinear resize of `(B,C,h,w)` by a whole factor, in their own type also under autocast."""
    size, kind = (factor * maps.shape[-2], factor * maps.shape[-1]), maps.device.type
    lifts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # not: meta
    with torch.autocast(kind, enabled=False) if lifts else nullcontext():
        return resize(maps, size, align_corners)
