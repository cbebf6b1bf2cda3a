"""The weights of a network as a page carries them: 8 bits a number, or 16."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..model import SETR

Tensors = dict[str, Tensor]


def page_weights(model: SETR, about: Mapping[str, Any], bits: int = 8) -> bytes:
    """A safetensors file of what `model(images)` needs; the auxiliary heads stay behind.

    Args:
        about: what the page is to know besides the configuration: classes, palette, scores.
        bits: 8: matrices and convolutions as whole numbers -127 to 127 times a step per output,
            `NAME` and `NAME.step`, positions and class token in half precision; 16: everything
            in half precision.

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
    if bits not in (8, 16):
        raise ValueError(f"bits is {bits}; choose 8 or 16")
    tensors: Tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("aux_heads.") or name.endswith("num_batches_tracked"):
            continue
        tensor = tensor.detach().cpu().float()
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite; train or load it again")
        if bits == 16:
            tensors[name] = tensor.half()
        elif in_steps(name, tensor):
            tensors[name], tensors[f"{name}.step"] = whole_numbers(tensor)
        else:
            tensors[name] = tensor.half() if tensor.ndim > 1 else tensor
    return save(tensors, {"setr_lib": json.dumps({"config": dataclasses.asdict(config), **about})})


def in_steps(name: str, tensor: Tensor) -> bool:
    """Matrices and convolutions; not what is added or multiplied once a token."""
    return tensor.ndim > 1 and name.endswith(".weight")


def whole_numbers(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """-> int8 of the same shape, and the step `(rows)` float32 that each row counts in."""
    step = tensor.flatten(1).abs().amax(1) / 127
    step = torch.where(step > 0, step, 1.0)
    shape = (-1, *[1] * (tensor.ndim - 1))
    return (tensor / step.view(shape)).round().to(torch.int8), step


def rounded(tensors: Mapping[str, Tensor]) -> Tensors:
    """A state dictionary as 8 bits keep it: what a network scores with them is measured so."""
    found = {}
    for name, tensor in tensors.items():
        if in_steps(name, tensor):
            whole, step = whole_numbers(tensor.float())
            tensor = (whole * step.view(-1, *[1] * (tensor.ndim - 1))).to(tensor.dtype)
        elif tensor.ndim > 1:
            tensor = tensor.half().to(tensor.dtype)
        found[name] = tensor
    return found
