"""The weights of a network as a page carries them: 8 bits a number, or 16."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save

from ..baselines.variants import OF_PAPER
from ..model import SETR
from ..weights.bits import in_bits


def page_weights(model: SETR, about: Mapping[str, Any], bits: int = 8) -> bytes:
    """A safetensors file of what `model(images)` needs; the auxiliary heads stay behind.

    Args:
        about: what the page is to know besides the configuration: classes, palette, scores.
        bits: 8 or 16, of a number, as `weights.bits.in_bits` keeps them.

    Raises:
        ValueError: for a network that the page does not know (`engine` is its code), another
            number of bits, or numbers that are not finite.
    """
    config = model.config
    if config.backbone != "vit" or config.graph != "authors" or config.in_chans != 3:
        raise ValueError(
            f"backbone is {config.backbone!r}, graph {config.graph!r}, in_chans {config.in_chans}; "
            "the page knows 'vit', 'authors' and 3"
        )
    for name, known in OF_PAPER.items():
        if getattr(config, name) != known:
            raise ValueError(
                f"{name} is {getattr(config, name)!r}; the page knows networks of the paper alone, "
                f"where it is {known!r}"
            )
    if bits not in (8, 16):
        raise ValueError(f"bits is {bits}; choose 8 or 16")
    kept = {
        name: tensor.float()
        for name, tensor in model.state_dict().items()
        if not name.startswith("aux_heads.") and not name.endswith("num_batches_tracked")
    }
    tensors = in_bits(kept, bits)
    return save(tensors, {"setr_lib": json.dumps({"config": dataclasses.asdict(config), **about})})
