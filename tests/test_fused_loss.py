"""The GPU's kernels against float64: without a GPU in Triton's interpreter, small cases only.

The interpreter is chosen before Triton is imported, so a process of its own runs those cases.
"""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from setr_lib import lean, upsample_cross_entropy

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if GPU else "cpu"
HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
kernels = pytest.mark.skipif(not (INTERPRETED or GPU), reason="in the interpreter's process")
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")

if INTERPRETED or GPU:
    from setr_lib import fused_loss


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
@pytest.mark.skipif(not lean.has_triton(), reason="Triton comes with torch on Linux")
def test_kernels_in_the_interpreter_equal_float64():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", __file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]


@pytest.fixture(autouse=True)
def on_the_kernels(monkeypatch):
    """Also tensors of the CPU go to the kernels, and TF32 is as short as on a GPU."""
    if INTERPRETED:
        monkeypatch.setattr(lean, "way_of", lambda logits: "triton")
        shorten_tf32(monkeypatch)


def shorten_tf32(monkeypatch):
    """The interpreter multiplies whole float32; tensor cores read 19 bits of each."""
    import numpy as np
    from triton.runtime import interpreter

    original = interpreter.InterpreterBuilder.create_dot

    def shortened(self, a, b, d, precision, *rest):
        if a.data.dtype == np.float32 and "TF32" in str(precision):
            a, b = (
                interpreter.TensorHandle((x.data.view(np.int32) & -0x2000).view(np.float32), x.dtype)
                for x in (a, b)
            )
        return original(self, a, b, d, precision, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", shortened)


def float64(logits, labels, facts, sizes):
    """Loss and gradient of the plain way, image by image."""
    weight, average = facts.get("weight"), facts.get("average", "all")
    weight = None if weight is None else weight.double()
    total, count, found = 0.0, 0.0, []
    for scores, truth in zip(logits, labels.long()):
        scores = scores.detach()[None].double().requires_grad_()
        full = scores
        for size in sizes:
            full = F.interpolate(
                full, size, mode="bilinear", align_corners=facts.get("align_corners", False)
            )
        full = full[..., : truth.shape[0], : truth.shape[1]]
        ignore = facts.get("ignore_index", 255)
        part = F.cross_entropy(
            full, truth[None], weight, ignore_index=ignore, reduction="sum",
            label_smoothing=facts.get("label_smoothing", 0.0),
        )  # fmt: skip
        found.append(torch.autograd.grad(part, scores)[0])
        total += part.detach()
        valid = truth[truth != ignore]
        count += len(valid) if weight is None else weight[valid].sum()
    divisor = labels.numel() if average == "all" else (count if count > 0 else 1.0)
    return total / divisor, torch.cat(found) / divisor


def assert_like_float64(
    shape, size, dtype=torch.float32, labels_dtype=torch.int64, weighted=False, ignored=0.2,
    scale=3.0, channels_last=False, tuning=None, **facts,
):  # fmt: skip
    """Loss to 1e-6, gradient to 1e-6 of its size and of its largest number; twice the same bits."""
    B, K = shape[:2]
    logits = (scale * torch.randn(shape)).to(DEVICE, dtype)
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    ignore = facts.get("ignore_index", 255)
    labels = torch.randint(0, K, (B, *size))
    labels[torch.rand(labels.shape) < ignored] = ignore
    labels = labels.to(DEVICE, labels_dtype)
    if weighted:
        facts["weight"] = (5 * torch.rand(K)).to(DEVICE)
    runs = []
    for _ in range(2):
        x = logits.clone().requires_grad_()
        loss = upsample_cross_entropy(x, labels, **facts)
        (3 * loss).backward()
        runs.append((loss.detach(), x.grad))
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])
    assert torch.equal(upsample_cross_entropy(logits, labels, **facts), runs[0][0])
    found, slope = runs[0][0].double(), runs[0][1].double()
    assert runs[0][1].dtype == dtype
    wanted, wanted_slope = float64(logits, labels, facts, facts.get("sizes") or [size])
    wanted_slope = 3 * wanted_slope
    steep = 10 if scale > 10 else 1  # float32 scores near 300 are 2e-5 apart
    assert abs(found - wanted) <= 1e-6 * abs(wanted)
    if dtype in HALF:
        allowed = HALF[dtype] * wanted_slope.abs() + 1e-6 * wanted_slope.abs().max()
        assert ((slope - wanted_slope).abs() <= allowed).all()
    else:
        difference = slope - wanted_slope
        assert difference.norm() <= 1e-6 * steep * wanted_slope.norm()
        assert difference.abs().max() <= 2e-6 * steep * wanted_slope.abs().max()


WAYS = {"x16": ((2, 11, 3, 3), (48, 48)), "x4": ((2, 19, 6, 7), (24, 28)),
        "x2": ((2, 19, 9, 8), (18, 16)), "x1": ((1, 11, 9, 13), (9, 13))}  # fmt: skip
SIZES = {
    **WAYS,
    "150 classes x8": ((1, 150, 3, 4), (24, 32)),
    "150 classes x2": ((1, 150, 5, 4), (10, 8)),
    "2 classes x4": ((3, 2, 4, 4), (16, 16)),
    "2 classes x2": ((3, 2, 4, 4), (8, 8)),
    "33 classes": ((1, 33, 4, 4), (16, 16)),
    "odd x5": ((2, 11, 5, 7), (23, 37)),
    "odd x2": ((2, 11, 9, 7), (19, 13)),
    "down by 2": ((1, 11, 16, 18), (8, 9)),
    "down, odd": ((1, 11, 25, 18), (7, 11)),
    "down by 9": ((1, 5, 36, 45), (4, 5)),
    "down and up": ((1, 5, 12, 4), (6, 16)),
    "one row to one column": ((1, 5, 1, 4), (7, 1)),
    "one cell": ((1, 5, 1, 1), (3, 2)),
}


@kernels
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_any_size(name, align_corners):
    assert_like_float64(*SIZES[name], align_corners=align_corners)
