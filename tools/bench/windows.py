"""Sliding-window inference beside mmsegmentation's, with the same Tiny network and weights."""

from collections.abc import Iterator
from typing import Any

import torch

from setr_lib import SETR, config_from_checkpoint, load_weights, slide_inference

from .common import compare

PEERS = ("mmsegmentation",)
CASES = (  # rows, columns, classes, window, stride
    (1024, 2048, 19, 768, 512),
    (512, 683, 150, 512, 341),
)


def rows(rounds: int) -> Iterator[dict[str, Any]]:
    """One row per decoder and size; the two results are compared first."""
    from .mmseg import encoder_decoder

    for decoder in ("naive", "pup"):
        for height, width, classes, window, stride in CASES:
            theirs, metas = encoder_decoder(decoder, classes, window, stride)
            state = theirs.state_dict()
            config = config_from_checkpoint(state, heads=3, layers=(2, 5, 8, 11))
            ours = SETR(config).eval()
            load_weights(ours, state)
            images = torch.randn(1, 3, height, width)

            def mine(ours=ours, images=images, sizes=(window, stride)) -> torch.Tensor:
                return slide_inference(ours, images, *sizes)

            def other(theirs=theirs, images=images, metas=metas) -> torch.Tensor:
                return theirs.slide_inference(images, metas)

            with torch.inference_mode():
                difference = (mine() - other()).abs().max().item()
                assert difference < 1e-4, f"the two differ by {difference}"
                found = compare(mine, other, rounds)
            yield {
                "peer": PEERS[0],
                "case": f"{decoder}, {height}x{width}, {classes} classes",
                "difference": difference,
                **found,
            }
