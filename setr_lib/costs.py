"""What a network costs: parameters by part, arithmetic, memory. Nothing is computed, only counted.

Everything runs on fake tensors, which have shapes and no numbers: T-Large at 768 pixels takes
seconds and no memory.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .geometry import Size, as_size, patch_grid
from .losses.strips import strips
from .model import SETR, Segmenter


@dataclass(frozen=True)
class Costs:
    """What one image costs.

    Attributes:
        parameters: by part; the parts add up to the model.
        tokens: rows and columns of the patch grid; (0, 0) for a convolutional network.
        gflops: of one forward pass, in 1e9 operations; a multiplication and an addition are two.
        inference_gib: largest sum of live activations of a forward pass, in 2**30 bytes, float32.
        training_gib: the same for forward and backward pass with all heads and the plain loss.
    """

    parameters: dict[str, int]
    tokens: Size
    gflops: float
    inference_gib: float
    training_gib: float


def costs(make: Callable[[], Segmenter], image_size: int | Size) -> Costs:
    """Count what the model that `make()` returns costs for one image of `image_size`.

    Args:
        make: for example `lambda: create_model("setr_pup_large", 19, 768)`; called without memory.
    """
    size = as_size(image_size)
    with torch.device("meta"):
        model = make()
    with FakeTensorMode():
        materialise(model)
        images = torch.zeros(1, 3, *size)
        labels = torch.zeros(1, *size, dtype=torch.int64)
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            model(images)
        with torch.no_grad(), PeakMemory() as inference:
            model(images)
        model.train()
        with PeakMemory() as training:
            model.loss(images, labels, way="plain", check=False).backward()
    return Costs(
        parameters=parameters_by_part(model),
        tokens=patch_grid(size, model.config.patch_size) if isinstance(model, SETR) else (0, 0),
        gflops=flops.get_total_flops() / 1e9,
        inference_gib=inference.peak / 2**30,
        training_gib=training.peak / 2**30,
    )


def cost_table(found: Costs) -> str:
    """The costs in words, a line each."""
    rows, cols = found.tokens
    parts = {**found.parameters, "all": sum(found.parameters.values())}
    lines = [f"  {part:16}{count:>13,} parameters" for part, count in parts.items()]
    return "\n".join(
        [
            *lines,
            f"  {'forward':16}{found.gflops:>13,.1f} GFLOP (a multiply-add is two)",
            f"  {'inference':16}{found.inference_gib:>13.2f} GiB of activations at the peak",
            f"  {'training step':16}{found.training_gib:>13.2f} GiB of activations and gradients",
            f"  {'tokens':16}{rows * cols:>13,} = {rows} x {cols} patches",
        ]
    )


# Dense peak of a GPU in 1e12 operations a second, 16-bit floats with 32-bit sums: the makers' data
# sheets, without sparsity. The first name whose words are all among the GPU's decides.
PEAK_TFLOPS = {
    "H200 NVL": 836.0, "H200": 989.0, "H100 NVL": 836.0, "H100 PCIe": 756.0, "H100": 989.0,
    "A100": 312.0, "V100": 125.0, "T4": 65.0, "RTX 5090": 209.0, "RTX 4090": 165.0,
    "RTX 3090": 71.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0,
}  # fmt: skip
SLICES = {"MIG", "Laptop", "Ti", "D"}  # these have other peaks than the card that they are named by


def peak_tflops(gpu: str, precision: str) -> float | None:
    """The dense peak of a GPU by its name; None if it is not known, and for `"fp32"`."""
    if precision == "fp32":
        return None
    words = set(re.findall(r"\w+", gpu))
    if words & SLICES:
        return None
    return next((peak for name, peak in PEAK_TFLOPS.items() if set(name.split()) <= words), None)


def step_gflops(make: Callable[[], Segmenter], image_size: int | Size) -> float:
    """Arithmetic of a training step per image, in 1e9: three forward passes with all heads.

    The usual count: a backward pass costs two forward ones; what activation checkpointing computes
    again is not counted.
    """
    with torch.device("meta"):
        model = make()
    with FakeTensorMode(), torch.no_grad():
        materialise(model)
        model.eval()
        with FlopCounterMode(display=False) as flops:
            model.head_logits(torch.zeros(1, 3, *as_size(image_size)))
    return 3 * flops.get_total_flops() / 1e9


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of encoder, MLA's neck, head and auxiliary heads."""
    words = {"aux_heads": "auxiliary heads"}
    return {
        words.get(part, part): sum(p.numel() for p in module.parameters())
        for part, module in model.named_children()
    }


def materialise(model: nn.Module) -> None:
    """Give a model from the meta device fake tensors on the CPU, where the fused attention is."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(torch.empty(p.shape))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class PeakMemory(TorchDispatchMode):
    """The largest number of bytes that tensors made inside this context held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {x.untyped_storage()._cdata for x in _tensors((args, kwargs))}
        result = op(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:  # a view, or a result in place, is no new memory
                self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: held for key, held in self.live.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


@torch.library.register_torch_dispatch("setr_lib::upsample_cross_entropy", PeakMemory)
def _inside_the_loss(mode: PeakMemory, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """The library's own operator is one call; what it holds while it runs is counted too."""
    with mode:
        return strips(*args, **(kwargs or {}))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
