"""The encoder beside timm's with the same weights, forward and forward + backward."""

from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch

from setr_lib import Encoder
from setr_lib.model import SIZES

from .common import compare

PEER = "timm"


def rows(rounds: int, only: str) -> Iterator[dict[str, Any]]:
    """One row per size of network, size of image and pass."""
    for size in ("tiny", "small", "base"):
        for pixels in (224, 512):
            if only not in f"{size}, {pixels} px":
                continue
            ours, theirs = _encoders(size, pixels)
            images = torch.randn(1, 3, pixels, pixels)

            def forward(encode: Callable, images: torch.Tensor = images) -> None:
                with torch.inference_mode():
                    encode(images)

            def both(encode: Callable, images: torch.Tensor = images) -> None:
                encode(images).sum().backward()

            for name, run in (("forward", forward), ("forward+backward", both)):
                found = compare(
                    lambda run=run, ours=ours: run(ours),
                    lambda run=run, theirs=theirs: run(theirs.forward_features),
                    rounds,
                )
                yield {"case": f"{size}, {pixels} px, {name}", **found}


def _encoders(size: str, pixels: int) -> tuple[Encoder, torch.nn.Module]:
    """Ours, and timm's with the same weights, without its last norm and classifier."""
    width, depth, heads = SIZES[size]
    ours = Encoder((pixels, pixels), width, depth, heads).eval()
    theirs = timm.models.VisionTransformer(
        img_size=pixels, embed_dim=width, depth=depth, num_heads=heads, num_classes=0
    ).eval()
    theirs.norm = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs
