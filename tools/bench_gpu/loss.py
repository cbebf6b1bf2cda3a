"""The loss alone: is it right, and how fast is it beside the ordinary one?"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from setr_lib import upsample_cross_entropy
from setr_lib.losses import cross_entropy

from .common import Bench, Row


def ordinary(logits: Tensor, labels: Tensor) -> Tensor:
    """Enlarge in float32, then compare with the labels."""
    full = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear")
    return F.cross_entropy(full, labels, ignore_index=255, reduction="sum") / labels.numel()


def scores(bench: Bench, factor: int, dtype: torch.dtype, batch: int) -> tuple[Tensor, Tensor]:
    side = bench.pixels // factor
    logits = 2 * torch.randn(batch, bench.classes, side, side, device=bench.device)
    return logits.to(dtype).requires_grad_(), bench.crops()[1][:batch]


def correctness(bench: Bench) -> Iterator[Row]:
    """Loss and gradient against float64, and whether two runs have the same bits."""
    for factor in (16, 4, 2, 1):
        for dtype in (torch.float32, torch.bfloat16):
            logits, labels = scores(bench, factor, dtype, 1)
            exact = logits.detach().double().requires_grad_()
            full = F.interpolate(exact, labels.shape[1:], mode="bilinear")
            wanted = F.cross_entropy(full, labels, ignore_index=255, reduction="sum")
            wanted = wanted / labels.numel()
            (slope,) = torch.autograd.grad(wanted, exact)
            runs = []
            for _ in range(2):
                loss = upsample_cross_entropy(logits, labels)
                runs.append((loss.detach(), torch.autograd.grad(loss, logits)[0]))
            (loss, found), again = runs
            yield {
                "case": f"x{factor}, {str(dtype)[6:]}",
                "way": cross_entropy.way_of(logits),
                "loss_error": ((loss - wanted).abs() / wanted).item(),
                "gradient_error": ((found - slope).norm() / slope.norm()).item(),
                "same_bits": all(torch.equal(a, b) for a, b in zip(runs[0], again)),
            }


def loss(bench: Bench) -> Iterator[Row]:
    """One head, forward and backward, beside enlarging; then other sizes of our kernels."""
    for factor in (16, 4, 2):
        logits, labels = scores(bench, factor, torch.bfloat16, bench.batch)
        for name, function in (("ours", upsample_cross_entropy), ("ordinary", ordinary)):
            yield {"case": f"x{factor}, {name}", **_both(bench, function, logits, labels)}
    if bench.device == "cuda" and cross_entropy.has_triton():
        yield from _tunings(bench)


def _both(bench: Bench, function: Callable, logits: Tensor, labels: Tensor) -> Row:
    def both() -> Any:
        return torch.autograd.grad(function(logits, labels), logits)

    with torch.no_grad():
        forward = bench.milliseconds(lambda: function(logits, labels))
    return {"ms": bench.milliseconds(both), "forward_ms": forward, "gib": bench.added_gib(both)}


def _tunings(bench: Bench) -> Iterator[Row]:
    """What decides how fast the kernels are; the values that stay are in `fused.TUNING`."""
    from setr_lib.losses import fused

    usual = fused.TUNING
    tried: dict[int, list[Row]] = {
        2: [
            *({"near": False, "scratch": 1 << n} for n in (24, 26, 28)),
            *({"near_block": block} for block in ((2, 64), (8, 16), (1, 128))),
            *({"near_classes": classes} for classes in ((8, 8), (32, 8), (16, 4), (16, 16))),
        ],
        16: [{"registers": (128, 128)}, {"registers": (0, 0)}, {"images": 8}, {"near": False}],
        4: [{"registers": (128, 128)}, {"scratch": 1 << 24}],
    }
    for factor, settings in tried.items():
        logits, labels = scores(bench, factor, torch.bfloat16, bench.batch)
        for changes in settings:
            fused.TUNING = usual._replace(**changes)
            try:
                row = _both(bench, upsample_cross_entropy, logits, labels)
                yield {"case": f"x{factor}, {changes}", **row}
            finally:
                fused.TUNING = usual
