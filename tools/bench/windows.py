"""Sliding-window inference beside mmsegmentation's `EncoderDecoder.slide_inference`.

Theirs is built from their own configuration with an encoder of DeiT-Tiny's shape; ours is the same
network with the same weights. The two results are compared before they are timed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from setr_lib import PROTOCOLS, slide_inference

from .common import added_memory, compare
from .step import peer, twin

PEER = "mmsegmentation"
CASES = (  # their configuration, our protocol, rows and columns
    ("8xb1-80k_cityscapes-768x768", "cityscapes", (1024, 2048)),
    ("8xb2-160k_ade20k-512x512", "ade20k", (512, 683)),
)


def rows(rounds: int, only: str) -> Iterator[dict[str, Any]]:
    """One row per decoder and data set."""
    for decoder in ("naive", "pup"):
        for config, data, size in CASES:
            case = f"{decoder} tiny, {data}, {size[0]}x{size[1]}"
            if only not in case:
                continue
            theirs = peer(decoder, "tiny", config).eval()
            ours = twin(theirs, decoder, "tiny").eval()
            images, protocol = torch.randn(1, 3, *size), PROTOCOLS[data]

            def mine() -> Tensor:
                return slide_inference(ours, images, protocol.window, protocol.stride)  # noqa: B023

            def other() -> Tensor:
                return theirs.slide_inference(images, [{}])  # noqa: B023

            with torch.inference_mode():
                difference = (mine() - other()).abs().max().item()
                if difference > 1e-4:
                    raise ValueError(f"{case}: the two differ by {difference}")
                memory = {"ours": added_memory(mine), "theirs": added_memory(other)}
                found = compare(mine, other, rounds)
            yield {"case": case, **found, "memory": memory, "difference": difference}
