"""A whole training step beside mmsegmentation's: forward, backward with all heads, one SGD step.

Theirs is the `EncoderDecoder` of their own ADE20K configuration, with the width, the depth and the
layers of the row and BN in place of SyncBN, and with their own loss. Ours is `SETR.loss` of the
same network with the same weights (`graph="mmseg"`), on the same crop: 512x512, 150 classes.
The rows named "authors" time the network of the authors' code beside it: another network, which
has other auxiliary heads.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from setr_lib import SETR, config_from_checkpoint, create_model, load_weights
from setr_lib.model import DECODERS, LAYERS, SIZES

from .common import added_memory, compare

PEER = "mmsegmentation"
CLASSES, PIXELS = 150, 512


def rows(rounds: int, only: str) -> Iterator[dict[str, Any]]:
    """One row per size of encoder and decoder, with the memory that a step adds."""
    for size in ("tiny", "base"):
        for decoder in DECODERS:
            for graph in ("mmseg", "authors"):
                case = f"{decoder} {size}, {graph}"
                if only not in case:
                    continue
                theirs, samples = peer(decoder, size), crop()
                ours = twin(theirs, decoder, size)
                if graph == "authors":
                    ours = create_model(f"setr_{decoder}_{size}", CLASSES, PIXELS)
                ours_step = step(ours, lambda: ours.loss(*samples))  # noqa: B023
                their_step = step(theirs, lambda: peer_loss(theirs, *samples))  # noqa: B023
                found = compare(ours_step, their_step, rounds)
                memory = {"ours": added_memory(ours_step), "theirs": added_memory(their_step)}
                yield {"case": case, **found, "memory": memory}


def step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward, backward and SGD with momentum on a model, whenever it is called."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def run() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def crop(pixels: int = PIXELS) -> tuple[Tensor, Tensor]:
    """An image of noise, and labels in squares of 16 pixels, a part of them ignored."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, pixels, pixels)
    squares = torch.randint(0, CLASSES, (1, pixels // 16, pixels // 16))
    labels = squares.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, :20] = 255
    return images, labels


def twin(theirs: nn.Module, decoder: str, size: str) -> SETR:
    """Our network with their weights."""
    _, depth, heads = SIZES[size]
    state = theirs.state_dict()
    ours = SETR(config_from_checkpoint(state, heads=heads, layers=LAYERS[decoder, depth]))
    load_weights(ours, state)
    return ours.train()


def stand_in_for_operators() -> None:
    """For mmcv's compiled operators, which mmsegmentation imports and no SETR calls."""
    for name in ("mmcv.ops", "mmcv.ops.point_sample", "mmcv._ext"):
        sys.modules.setdefault(name, mock.MagicMock())
    warnings.filterwarnings("ignore", module="mmcv|mmseg")


def peer(decoder: str, size: str, data: str = "8xb2-160k_ade20k-512x512") -> nn.Module:
    """mmsegmentation's network for one of its configurations, narrowed from T-Large to `size`."""
    stand_in_for_operators()
    import mmseg
    from mmengine import Config
    from mmseg.models.segmentors.encoder_decoder import EncoderDecoder

    folder = Path(mmseg.__file__).parent / ".mim" / "configs" / "setr"
    parts = Config.fromfile(folder / f"setr_vit-l_{decoder}_{data}.py").model
    width, depth, heads = SIZES[size]
    parts.backbone.update(
        embed_dims=width,
        num_layers=depth,
        num_heads=heads,
        out_indices=LAYERS[decoder, depth],
        init_cfg=None,
    )
    for head in (parts.decode_head, *parts.auxiliary_head):
        head.norm_cfg = {"type": "BN"}
        if decoder != "mla":
            head.in_channels = width
    if decoder == "mla":
        parts.neck.update(in_channels=[width] * 4, norm_cfg={"type": "BN"})
    names = ("backbone", "decode_head", "neck", "auxiliary_head")
    torch.manual_seed(0)
    return EncoderDecoder(
        **{name: parts.get(name) for name in names}, train_cfg={}, test_cfg=parts.test_cfg
    )


def peer_loss(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """The sum of the losses that `EncoderDecoder.loss` returns, as its training adds them."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]
    losses = model.loss(images, samples)
    return sum(value for name, value in losses.items() if "loss" in name)
