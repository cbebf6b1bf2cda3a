"""The loss without the full map against enlarging and comparing, which is what it stands for."""

import importlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from setr_lib import SETR, upsample_cross_entropy
from setr_lib.baselines.fcn import FCN, FCNConfig
from setr_lib.costs import PeakMemory
from setr_lib.losses import cross_entropy, strips
from setr_lib.model import DECODERS


def plain(
    logits, labels, align_corners=False, weight=None, average="all", sizes=None, label_smoothing=0.0
):
    """Enlarge, crop, compare: every pixel of every class is made."""
    for size in sizes or [labels.shape[1:]]:
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    logits = logits[..., : labels.shape[1], : labels.shape[2]]
    facts = {"weight": weight, "ignore_index": 255, "label_smoothing": label_smoothing}
    if average == "valid":
        return F.cross_entropy(logits, labels, **facts)
    total = F.cross_entropy(logits, labels, **facts, reduction="sum")
    return total / labels.numel()


def case(shape=(2, 7, 5, 6), size=(24, 33), dtype=torch.float64, ignored=0.2):
    logits = (3 * torch.randn(shape, dtype=dtype)).requires_grad_()
    labels = torch.randint(0, shape[1], (shape[0], *size))
    labels[torch.rand(labels.shape) < ignored] = 255
    labels[0, 0, 0] = 0  # at least one pixel counts
    return logits, labels


def assert_same(logits, labels, tolerance, **facts):
    """Loss and gradient, relative to their size."""
    wanted, found = plain(logits, labels, **facts), upsample_cross_entropy(logits, labels, **facts)
    assert (found - wanted).abs() <= tolerance * wanted.abs()
    (slope,), (ours,) = (torch.autograd.grad(loss, logits) for loss in (wanted, found))
    assert (ours - slope).norm() <= tolerance * slope.norm()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_loss_and_gradient_equal_the_plain_ones(
    dtype, tolerance, align_corners, weighted, average, label_smoothing, monkeypatch
):
    monkeypatch.setattr(strips, "COLUMNS", 8)  # several tiles in both directions
    weight = torch.rand(7, dtype=dtype) + 0.5 if weighted else None
    logits, labels = case(dtype=dtype)
    facts = {"align_corners": align_corners, "weight": weight, "average": average}
    facts["label_smoothing"] = label_smoothing
    assert_same(logits, labels, tolerance, **facts)


sides = st.sampled_from([1, 2, 3, 7, 16, 33])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.booleans(), st.integers(1, 5))
def test_any_size_to_any_size(small, large, align_corners, columns):
    """Up, down, equal, a single pixel, odd: 1e-12 of the plain one in double precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "COLUMNS", columns)
        logits, labels = case((2, 3, *small), large)
        assert_same(logits, labels, 1e-12, align_corners=align_corners)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("last", [(24, 33), (32, 48)])
def test_several_resizes_are_one(last, align_corners):
    """mmsegmentation enlarges, then squeezes; the authors' code enlarges further, then crops."""
    logits, labels = case()
    assert_same(logits, labels, 1e-12, align_corners=align_corners, sizes=[(20, 24), last])


@pytest.mark.parametrize("align_corners", [True, False])
def test_gradcheck(align_corners):
    logits, labels = case((1, 3, 3, 4), (7, 9))
    weight = torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: upsample_cross_entropy(
            x, labels, align_corners, weight, average="valid", label_smoothing=0.2
        ),
        logits,
    )


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("old, new", [(1, 5), (5, 1), (4, 16), (16, 4), (7, 7), (6, 13)])
def test_resize_matrix_is_what_interpolate_does(old, new, align_corners):
    """Each column of the matrix is the enlarged unit vector."""
    units = torch.eye(old, dtype=torch.float64)[None, :, :, None]  # (1,old,old,1)
    wanted = F.interpolate(units, (new, 1), mode="bilinear", align_corners=align_corners)
    found = strips.resize_matrix((old, new), align_corners, units)
    torch.testing.assert_close(found, wanted[0, :, :, 0].T, rtol=0, atol=1e-14)


def test_a_confident_error_is_finite():
    """Differences of 1000, whose exponential is zero: the loss is still the difference."""
    logits = torch.tensor([1000.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    loss = upsample_cross_entropy(logits, torch.ones(1, 4, 4, dtype=torch.int64))
    loss.backward()
    assert loss == 1000 and logits.grad.flatten().tolist() == [1, -1]


@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("weight", [None, torch.ones(7)])
def test_all_pixels_ignored_is_zero_not_nan(average, weight):
    logits, labels = case(dtype=torch.float32)
    loss = upsample_cross_entropy(
        logits, torch.full_like(labels, 255), weight=weight, average=average
    )
    loss.backward()
    assert loss == 0 and not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    """The loss of rounded scores, to float32's 1e-6; the gradient is rounded once, at the end.

    Rounded before the gradient scaler's 1024 it would fall below what float16 can hold.
    """
    logits, labels = case((2, 7, 66, 66), (66, 66), torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        loss = upsample_cross_entropy(half, labels)
    exact = half.detach().float().requires_grad_()
    wanted = plain(exact, labels)
    assert loss.dtype == torch.float32 and abs(loss - wanted) < 1e-6 * wanted
    (found,) = torch.autograd.grad(loss * 1024, half)  # as a gradient scaler does
    (slope,) = torch.autograd.grad(wanted * 1024, exact)
    assert found.dtype == dtype
    allowed = torch.finfo(dtype).eps * slope.abs() + 1e-6 * slope.abs().max()
    assert ((found - slope.to(dtype)).abs() <= allowed).all()


def test_labels_of_one_byte_are_enough():
    logits, labels = case()
    loss = upsample_cross_entropy(logits, labels)
    assert torch.equal(loss, upsample_cross_entropy(logits, labels.to(torch.uint8)))


def test_a_second_backward_through_a_kept_graph_is_the_same():
    logits, labels = case()
    loss = upsample_cross_entropy(logits, labels)
    (first,) = torch.autograd.grad(3 * loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss, logits)
    torch.testing.assert_close(first / 3, second / 2, rtol=1e-14, atol=0)


def test_no_gradient_asked_is_the_same_loss():
    logits, labels = case()
    with torch.no_grad():
        found = upsample_cross_entropy(logits, labels)
    assert not found.requires_grad and found == upsample_cross_entropy(logits, labels)


def test_second_derivatives_are_refused():
    """Autograd would otherwise leave them out without a word."""
    logits, labels = case()
    loss = upsample_cross_entropy(logits, labels)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, logits, create_graph=True)


def test_functional_transforms_are_refused():
    logits, labels = case()
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: upsample_cross_entropy(x, labels))(logits.detach())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_step_is_the_same(backend):
    logits, labels = case()

    def loss(x):
        return upsample_cross_entropy(2 * x, labels) + x.square().mean()

    found = torch.compile(loss, backend=backend)(logits)
    (slope,) = torch.autograd.grad(found, logits)
    (wanted,) = torch.autograd.grad(loss(logits), logits)
    torch.testing.assert_close(found, loss(logits), rtol=1e-14, atol=0)
    torch.testing.assert_close(slope, wanted, rtol=1e-12, atol=1e-16)


def test_compiling_does_not_unroll_the_tiles():
    """Thousands of small steps would be compiled for hours; they stay one call."""
    logits, labels = case((1, 7, 16, 16), (256, 256))
    nodes = []

    def count(graph, _):
        graphs = [part for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
        nodes.extend(len(part.graph.nodes) for part in graphs)
        return graph.forward

    torch.compile(lambda x: 2 * upsample_cross_entropy(2 * x, labels), backend=count)(logits)
    assert 0 < sum(nodes) < 20


def test_nothing_is_asked_of_the_numbers():
    """Shapes decide everything, so that no step waits for a GPU."""
    with FakeTensorMode():
        logits = torch.zeros(2, 7, 5, 6, requires_grad=True)
        labels, weight = torch.zeros(2, 24, 33, dtype=torch.uint8), torch.ones(7)
        facts = ([5, 24], [6, 33], False, 255, 0.1, True, True)
        assert strips.strips(logits, labels, weight, *facts)[1].shape == logits.shape
        upsample_cross_entropy(logits, labels, weight=weight, average="valid").backward()
        assert logits.grad.shape == logits.shape


def test_the_operator_is_what_torch_expects():
    """Shapes without numbers, gradients, tracing with sizes known and unknown."""
    logits, labels = case((2, 3, 3, 4), (7, 9), torch.float32)
    facts = ([3, 7], [4, 9], False, 255, 0.1, True, True)
    torch.library.opcheck(cross_entropy._operator, (logits, labels, None, *facts))


def test_the_training_loss_is_compiled_and_exported_in_one_piece():
    model = SETR(small_config("pup")).eval()
    batch = torch.randn(1, 3, 48, 64), torch.randint(0, 8, (1, 48, 64))
    wanted = model.loss(*batch)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)(*batch)
    torch.testing.assert_close(compiled, wanted)
    compiled.backward()
    assert model.head.classifier.weight.grad.any()

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images, labels):
            return self.model.loss(images, labels)

    exported = torch.export.export(Loss(), batch)
    torch.testing.assert_close(exported.module()(*batch), wanted)


def test_a_compiled_loss_takes_other_sizes():
    loss = torch.compile(upsample_cross_entropy, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((24, 33), (31, 40)):
        logits, labels = case(size=size)
        assert loss(logits, labels) == upsample_cross_entropy(logits, labels)


def test_a_step_under_autocast_is_near_the_one_in_float32():
    """bfloat16 on the CPU: the heads' scores are rounded, the loss of them is not."""
    model = SETR(small_config("pup")).eval()
    images, labels = torch.randn(2, 3, 48, 64), torch.randint(0, 8, (2, 48, 64))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(images, labels)
        wanted = model.loss(images, labels, way="plain")
    loss.backward()
    assert loss.dtype == torch.float32 and model.head.classifier.weight.grad.any()
    torch.testing.assert_close(loss, wanted, rtol=2e-3, atol=0)
    torch.testing.assert_close(loss, model.loss(images, labels), rtol=2e-2, atol=0)


def allow_tf32_by_the_old_switch():
    torch.set_float32_matmul_precision("medium")


def allow_tf32_by_the_new_switches():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def allow_tf32_on_the_card():
    torch.backends.cuda.matmul.allow_tf32 = True


class Switches(TorchDispatchMode):
    """What the switches say while products of matrices are computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if "mm" in op.__name__:
            self.seen.add(precisions())
        return op(*args, **(kwargs or {}))


def precisions():
    return tuple(
        part.matmul.fp32_precision for part in (torch.backends.cuda, torch.backends.mkldnn)
    )


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="needs torch 2.9")
@pytest.mark.parametrize(
    "allow",
    [allow_tf32_by_the_old_switch, allow_tf32_by_the_new_switches, allow_tf32_on_the_card],
)
def test_resizes_are_never_rounded(allow):
    """TF32 moves a pixel's place by a thousandth of the image; what was allowed stays so after."""
    logits, labels = case(dtype=torch.float32)
    try:
        allow()
        before = precisions()
        with Switches() as switches:
            strips.strips(
                logits.detach(), labels, None, [5, 24], [6, 33], False, 255, 0.0, True, True
            )
            strips.resize_matrix((5, 24))
        assert "tf32" in before and precisions() == before
        assert switches.seen and all(set(pair) <= {"ieee", "none"} for pair in switches.seen)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_resizes_are_not_rounded_by_autocast():
    wanted = strips.resize_matrix((5, 24, 33))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(strips.resize_matrix((5, 24, 33)), wanted)


@pytest.mark.parametrize("device, triton, way", [
    ("cuda", True, "triton"), ("cuda", False, "strips"), ("cpu", True, "strips"),
    ("mps", True, "strips"),
])  # fmt: skip
def test_the_way_is_chosen_by_where_the_scores_are(device, triton, way, monkeypatch):
    """Triton is there with torch on Linux only; elsewhere a GPU takes the strips."""
    monkeypatch.setattr(cross_entropy, "has_triton", lambda: triton)
    for dtype, wanted in ((torch.bfloat16, way), (torch.float64, "strips")):
        scores = SimpleNamespace(device=torch.device(device), dtype=dtype)
        assert cross_entropy.way_of(scores) == wanted


def test_the_cpu_needs_no_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # an import of it fails
    logits, labels = case()
    assert_same(logits, labels, 1e-12)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tiles_fit_what_they_are_for(device):
    """Small ones for a CPU's cache, few ones where each costs a launch; at least one row of one."""
    for maps, H, W in ((150, 512, 512), (16 * 150, 512, 512), (4, 3, 2), (10**6, 64, 4096)):
        rows, columns = strips._tile(maps, H, W, device)
        most = strips.CACHE if device == "cpu" else strips.CACHE_GPU
        assert 1 <= columns <= W and (rows == 1 or rows * columns * maps <= most)


def test_two_runs_have_the_same_bits():
    logits, labels = case((2, 19, 16, 16), (128, 128), torch.float32)
    runs = [torch.autograd.grad(upsample_cross_entropy(logits, labels), logits) for _ in "ab"]
    assert torch.equal(runs[0][0], runs[1][0])


@pytest.mark.parametrize("side, average", [(32, "all"), (64, "valid"), (128, "valid")])
def test_memory_is_a_twentieth_of_the_plain_loss(side, average):
    """Everything beside the gradient that both return, counted byte by byte; 21 classes."""
    logits, labels = case((1, 21, side, side), (256, 256), torch.float32)
    peaks = []
    for loss in (upsample_cross_entropy, plain):
        with PeakMemory() as memory:
            torch.autograd.grad(loss(logits, labels, average=average), logits)
        peaks.append(memory.peak - 4 * logits.numel())
    assert peaks[0] <= 0.05 * peaks[1]


@pytest.mark.parametrize("graph", ["authors", "mmseg"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("size", [(48, 64), (41, 50)])
def test_lean_and_plain_training_loss_agree(decoder, graph, average, size):
    """All heads, to 1e-12 in double precision, also where no side is a multiple of the patch."""
    model = SETR(small_config(decoder, graph=graph)).double().eval()
    assert_ways_agree(model, size, average)


def test_lean_and_plain_training_loss_agree_for_the_fcn():
    assert_ways_agree(FCN(FCNConfig(50, 8)).double().eval(), (41, 50), "all")


def assert_ways_agree(model, size, average):
    images, labels = torch.randn(2, 3, *size).double(), torch.randint(0, 8, (2, *size))
    labels[:, :9] = 255
    slopes = []
    for way in ("lean", "plain"):
        model.zero_grad()
        loss = model.loss(images, labels, average, way)
        loss.backward()
        slopes.append((loss, model.head.classifier.weight.grad.clone()))
    for found, wanted in zip(*slopes, strict=True):
        assert (found - wanted).norm() <= 1e-12 * wanted.norm()


def test_what_does_not_fit_is_named():
    logits, labels = case()
    with pytest.raises(ValueError, match=r"\(2, 7, 5, 6\) and labels \(2, 24\)"):
        upsample_cross_entropy(logits, labels[..., 0])
    with pytest.raises(ValueError, match="'mean'; choose 'all' or 'valid'"):
        upsample_cross_entropy(logits, labels, average="mean")
    with pytest.raises(ValueError, match=r"\(6,\); expected \(7,\)"):
        upsample_cross_entropy(logits, labels, weight=torch.ones(6))
    with pytest.raises(ValueError, match="label_smoothing is 2"):
        upsample_cross_entropy(logits, labels, label_smoothing=2)
    with pytest.raises(ValueError, match=r"\(20, 40\), smaller than the labels, \(24, 33\)"):
        upsample_cross_entropy(logits, labels, sizes=[(20, 40)])
    with pytest.raises(ValueError, match="'fast'; choose 'lean' or 'plain'"):
        model = SETR(small_config())
        model.loss(
            torch.zeros(1, 3, 48, 64), torch.zeros(1, 48, 64, dtype=torch.int64), "all", "fast"
        )


def test_a_copy_of_the_files_stands_beside_ours(tmp_path, monkeypatch):
    """Others may copy them: both operators then live in one process, each with its own gradient."""
    (tmp_path / "borrowed_loss").mkdir()
    for name in ("cross_entropy.py", "strips.py"):
        shutil.copy(Path(strips.__file__).with_name(name), tmp_path / "borrowed_loss")
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module("borrowed_loss.cross_entropy").upsample_cross_entropy
    logits, labels = torch.randn(2, 5, 4, 4, requires_grad=True), torch.randint(0, 5, (2, 16, 16))
    found = [
        torch.autograd.grad(f(logits, labels), logits)[0] for f in (upsample_cross_entropy, theirs)
    ]
    assert torch.equal(*found)
    assert hasattr(torch.ops.borrowed_loss, "upsample_cross_entropy"), "registered over ours"
