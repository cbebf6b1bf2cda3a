"""Floats in fewer bits, for files that travel: 16, or 8 with a step for every row."""

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
BITS = (32, 16, 8)


def in_bits(tensors: Mapping[str, Tensor], bits: int) -> Tensors:
    """A state dictionary as a file keeps it.

    Args:
        bits: 32: as it is; 16: all floats in half precision; 8: matrices and convolutions as whole
            numbers -127 to 127 times a step per output, `NAME` and `NAME.step`; other tables of
            numbers (positions, class token) in half precision, single rows as they are.

    Raises:
        ValueError: for another number of bits, and for numbers that are not finite.
    """
    if bits not in BITS:
        raise ValueError(f"bits is {bits}; choose {', '.join(map(str, BITS))}")
    found: Tensors = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if bits == 32 or not tensor.is_floating_point():
            found[name] = tensor
        elif not tensor.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite; train or load it again")
        elif bits == 16:
            found[name] = tensor.half()
        elif tensor.ndim > 1 and name.endswith(".weight"):
            found[name], found[f"{name}.step"] = whole_numbers(tensor.float())
        else:
            found[name] = tensor.half() if tensor.ndim > 1 else tensor
    return found


def whole_numbers(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """-> int8 of the same shape, and the step `(rows)` float32 that each row counts in."""
    step = tensor.flatten(1).abs().amax(1) / 127
    step = torch.where(step > 0, step, 1.0)
    return (tensor / _by_row(step, tensor)).round().to(torch.int8), step


def from_bits(tensors: Mapping[str, Tensor]) -> Tensors:
    """Whole numbers and their steps as float32 again; everything else as it is."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        step = tensors.get(f"{name}.step")
        if step is not None and tensor.dtype == torch.int8 and step.shape == tensor.shape[:1]:
            found[name] = tensor * _by_row(found.pop(f"{name}.step"), tensor)
    return found


def _by_row(step: Tensor, tensor: Tensor) -> Tensor:
    return step.view(-1, *[1] * (tensor.ndim - 1))
