"""The GPU's kernels against float64: without a GPU in Triton's interpreter, small cases only.

The interpreter is chosen before Triton is imported, so a process of its own runs those cases.
"""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from setr_lib import upsample_cross_entropy
from setr_lib.losses import cross_entropy

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if GPU else "cpu"
HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
kernels = pytest.mark.skipif(
    not (INTERPRETED or GPU), reason="needs a GPU, or the interpreter in a process of its own"
)
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")

if INTERPRETED or GPU:
    from setr_lib.losses import fused as fused_loss


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
@pytest.mark.skipif(not cross_entropy.has_triton(), reason="Triton comes with torch on Linux")
def test_kernels_in_the_interpreter_equal_float64():
    # What that process leaves out is no omission: it needs a GPU, or is this test.
    asked = {name: value for name, value in os.environ.items() if not name.startswith("SETR_")}
    environment = {**asked, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", __file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]


@pytest.fixture(autouse=True)
def on_the_kernels(monkeypatch):
    """Also tensors of the CPU go to the kernels, and TF32 is as short as on a GPU."""
    if INTERPRETED:
        monkeypatch.setattr(cross_entropy, "way_of", lambda logits: "triton")
        quick = {"near_block": (16, 16), "near_classes": (32, 32)}  # few programs
        monkeypatch.setattr(fused_loss, "TUNING", fused_loss.TUNING._replace(**quick))
        shorten_tf32(monkeypatch)


def shorten_tf32(monkeypatch):
    """The interpreter multiplies whole float32; tensor cores read 19 bits of each."""
    import numpy as np
    from triton.runtime import interpreter

    original = interpreter.InterpreterBuilder.create_dot

    def shortened(self, a, b, d, precision, *rest):
        if a.data.dtype == np.float32 and "TF32" in str(precision):
            a, b = (
                interpreter.TensorHandle(
                    (x.data.view(np.int32) & -0x2000).view(np.float32), x.dtype
                )
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
    scale=3.0, channels_last=False, **facts,
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
    found, slope = runs[0][0].double(), runs[0][1].double()
    assert runs[0][1].dtype == dtype
    wanted, wanted_slope = float64(logits, labels, facts, facts.get("sizes") or [size])
    wanted_slope = 3 * wanted_slope
    steep = 10 if scale > 10 else 1  # float32 scores near 300 are 2e-5 apart
    assert abs(found - wanted) <= 1e-6 * abs(wanted)
    if dtype in HALF:
        rounding = HALF[dtype] * (2 if INTERPRETED else 1)  # the interpreter cuts off bits
        allowed = rounding * wanted_slope.abs() + 1e-6 * wanted_slope.abs().max()
        assert ((slope - wanted_slope).abs() <= allowed).all()
    else:
        difference = slope - wanted_slope
        assert difference.norm() <= 1e-6 * steep * wanted_slope.norm()
        assert difference.abs().max() <= 2e-6 * steep * wanted_slope.abs().max()


SIZES = {  # of scores, of labels: what the kernels for large steps and for small ones do
    "x16": ((1, 11, 2, 2), (32, 32)),
    "x4": ((2, 19, 3, 4), (12, 16)),
    "x2": ((1, 19, 5, 4), (10, 8)),
    "x1": ((1, 11, 9, 13), (9, 13)),
    "150 classes x8": ((1, 150, 2, 2), (16, 16)),
    "150 classes x2": ((1, 150, 3, 4), (6, 8)),
    "2 classes x4": ((1, 2, 3, 3), (12, 12)),
    "2 classes x2": ((1, 2, 4, 4), (8, 8)),
    "odd x5": ((1, 11, 3, 5), (13, 27)),
    "odd x2": ((1, 11, 9, 7), (19, 13)),
    "down by 2": ((1, 11, 16, 18), (8, 9)),
    "down by 9": ((1, 5, 36, 45), (4, 5)),
    "down and up": ((1, 5, 12, 4), (6, 16)),
    "one row to one column": ((1, 5, 1, 4), (7, 1)),
    "one cell": ((1, 5, 1, 1), (3, 2)),
}
LARGE, SMALL = ((1, 11, 3, 3), (12, 12)), ((1, 11, 4, 4), (8, 8))


@kernels
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_any_size(name, align_corners):
    assert_like_float64(*SIZES[name], align_corners=align_corners)


@kernels
@pytest.mark.parametrize("case", [LARGE, SMALL])
@pytest.mark.parametrize(
    "facts",
    [
        {"weighted": True},
        {"weighted": True, "average": "valid", "ignored": 0.7},
        {"average": "valid"},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.3, "weighted": True, "average": "valid", "dtype": torch.bfloat16},
        {"labels_dtype": torch.uint8, "dtype": torch.float16},
        {"ignore_index": 0, "channels_last": True},
        {"ignore_index": -100, "scale": 100.0},
        {"dtype": torch.bfloat16, "align_corners": True},
    ],
    ids=str,
)
def test_any_choice(case, facts):
    assert_like_float64(*case, **facts)


@kernels
@pytest.mark.parametrize(
    "shape, size, sizes",
    [
        ((1, 11, 3, 4), (19, 14), [(24, 16)]),  # larger than the labels: cropped
        ((1, 11, 5, 7), (9, 12), [(10, 14)]),
        ((1, 11, 3, 3), (20, 21), [(6, 6), (21, 23)]),
        ((1, 11, 2, 2), (32, 32), [(8, 8), (32, 32)]),  # an auxiliary head of PUP
        ((1, 5, 60, 60), (4, 4), [(30, 30), (4, 4)]),  # shrinks too much for a tile: strips
    ],
)
def test_any_way_to_the_image(shape, size, sizes):
    assert_like_float64(shape, size, sizes=sizes)


@kernels
@pytest.mark.parametrize(
    "changes, shape, size",
    [
        ({"scratch": 1000, "images": 2}, (2, 40, 2, 2), (8, 8)),  # some classes of an image
        ({"scratch": 1 << 10, "images": 2}, (3, 11, 2, 3), (8, 12)),  # some images
        ({"tile": (4, 8), "classes": 16, "add_cells": (2, 4), "add_classes": 4},
         (1, 20, 3, 3), (12, 12)),
        ({"near": False}, (2, 11, 5, 6), (10, 12)),
        ({"near_block": (4, 8), "near_classes": (8, 4)}, (1, 11, 5, 6), (10, 12)),
    ],
)  # fmt: skip
def test_any_tuning(changes, shape, size, monkeypatch):
    monkeypatch.setattr(fused_loss, "TUNING", fused_loss.TUNING._replace(**changes))
    assert_like_float64(shape, size)


@kernels
@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("shape, size", [LARGE, SMALL])
def test_all_pixels_ignored_is_zero_not_nan(shape, size, average):
    logits = torch.randn(shape, device=DEVICE, requires_grad=True)
    labels = torch.full((shape[0], *size), 255, device=DEVICE)
    loss = upsample_cross_entropy(logits, labels, average=average, label_smoothing=0.1)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


@kernels
@pytest.mark.parametrize("weight", [None, torch.ones(11)])
@pytest.mark.parametrize("shape, size", [LARGE, SMALL])
def test_an_impossible_label_makes_the_loss_nan(shape, size, weight):
    """A GPU cannot raise an error without being waited for."""
    labels = torch.full((shape[0], *size), shape[1], device=DEVICE)
    weight = None if weight is None else weight.to(DEVICE)
    assert upsample_cross_entropy(torch.zeros(shape, device=DEVICE), labels, weight=weight).isnan()


@kernels
@pytest.mark.parametrize("shape, size", [LARGE, SMALL])
def test_no_gradient_asked_is_the_same_loss(shape, size):
    logits = torch.randn(shape, device=DEVICE, requires_grad=True)
    labels = torch.randint(0, shape[1], (shape[0], *size), device=DEVICE)
    with torch.no_grad():
        found = upsample_cross_entropy(logits, labels)
    assert not found.requires_grad and found == upsample_cross_entropy(logits, labels)


@kernels
def test_a_second_backward_through_a_kept_graph_is_the_same():
    logits = torch.randn(1, 3, 4, 4, device=DEVICE, requires_grad=True)
    loss = upsample_cross_entropy(logits, torch.ones(1, 8, 8, dtype=torch.int64, device=DEVICE))
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert torch.equal(first, torch.autograd.grad(loss, logits)[0])


@kernels
def test_compiled_in_one_piece():
    logits = torch.randn(1, 3, 4, 4, device=DEVICE, requires_grad=True)
    labels = torch.ones(1, 8, 8, dtype=torch.int64, device=DEVICE)

    def loss(x):
        return upsample_cross_entropy(2 * x, labels)

    found = torch.compile(loss, backend="aot_eager", fullgraph=True)(logits)
    assert torch.equal(found, loss(logits))
    slopes = [torch.autograd.grad(value, logits)[0] for value in (found, loss(logits))]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------ on a GPU

BF16 = torch.bfloat16
AS_ON_A_GPU = {
    "x16": ((2, 150, 32, 32), (512, 512), {}),
    "x16, bf16": ((2, 150, 32, 32), (512, 512), {"dtype": BF16}),
    "x16, chain": ((2, 150, 32, 32), (512, 512), {"sizes": [(128, 128), (512, 512)]}),
    "x4": ((2, 150, 128, 128), (512, 512), {}),
    "x4, bf16": ((2, 150, 128, 128), (512, 512), {"dtype": BF16}),
    "x4, corners": ((2, 150, 128, 128), (512, 512), {"align_corners": True}),
    "x2": ((2, 150, 256, 256), (512, 512), {}),
    "x2, bf16": ((2, 150, 256, 256), (512, 512), {"dtype": BF16}),
    "x2, corners": ((2, 150, 256, 256), (512, 512), {"align_corners": True}),
    "x1": ((2, 150, 512, 512), (512, 512), {"dtype": BF16}),
    "down": ((2, 19, 512, 512), (300, 300), {}),
    "768": ((2, 19, 48, 48), (768, 768), {"weighted": True, "average": "valid"}),
    "odd": ((2, 59, 31, 45), (479, 517), {"align_corners": True}),
    "crop": ((2, 59, 32, 45), (500, 711), {"sizes": [(512, 720)], "label_smoothing": 0.1}),
    "batch": ((9, 19, 128, 128), (512, 512), {"channels_last": True}),
}


@gpu
@needs_gpu
@pytest.mark.parametrize("name", AS_ON_A_GPU)
def test_sizes_of_real_training(name):
    shape, size, facts = AS_ON_A_GPU[name]
    assert_like_float64(shape, size, **facts)


@gpu
@needs_gpu
@pytest.mark.parametrize("side", [32, 256])
def test_a_cuda_graph_holds_the_loss(side):
    """Captured once and replayed with other numbers: nothing waits for the host."""
    logits = torch.randn(1, 19, side, side, device=DEVICE, requires_grad=True)
    labels = torch.randint(0, 19, (1, 512, 512), device=DEVICE)

    def step():
        return torch.autograd.grad(upsample_cross_entropy(logits, labels), logits)[0]

    step()  # compiles, and makes the tables
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        logits.copy_(torch.randn_like(logits))
    graph.replay()
    assert torch.equal(captured, step())
