"""What makes a step fast on a GPU: each part computes what the plain one does, and is off on a CPU.

Tests that need a GPU compare whole runs; the rest holds the parts, where there is none.
"""

import copy
import dataclasses
import functools
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import small_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from setr_lib import decoders, load_checkpoint, load_dataset, train
from setr_lib.data.crops import Uncut
from setr_lib.data.feed import Cutter, feed
from setr_lib.geometry import resize
from setr_lib.losses import cross_entropy, strips
from setr_lib.model import SETR
from setr_lib.training import devices, speed
from setr_lib.training.devices import RunOptions
from setr_lib.training.loop import Run
from setr_lib.training.optim import load_optimizer, make_optimizer
from setr_lib.training.record import ROOT, load_log

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
CPU = RunOptions(device="cpu")


# ---- resizes


def resized_gradient(function, maps, size, align_corners, outer):
    maps = maps.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    return torch.autograd.grad(function(maps, size, align_corners), maps, outer.to(maps.dtype))[0]


def interpolate(maps, size, align_corners):
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


RESIZES = [((5, 7), (10, 14)), ((8, 8), (32, 32)), ((9, 8), (4, 3)), ((1, 1), (4, 4))]
# In the norm. float32: places are rounded, too; 16 bits: the products round twice and the weights
# of aligned corners once. Seen: 1.2e-6 and 0.0031.
TOLERANCES = {torch.float64: 1e-14, torch.float32: 3e-6, torch.bfloat16: 4e-3}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("small, large", RESIZES)
def test_the_gradient_as_products_is_that_of_interpolate(small, large, align_corners, dtype):
    maps, outer = torch.randn(2, 6, *small, dtype=dtype), torch.randn(2, 6, *large).double()
    outer = outer.to(dtype).double()
    for layout in (torch.contiguous_format, torch.channels_last):
        given = maps.to(memory_format=layout)
        found = resized_gradient(strips.resize, given, large, align_corners, outer)
        wanted = resized_gradient(interpolate, given.double(), large, align_corners, outer)
        assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
        assert (found - wanted).norm() <= TOLERANCES[dtype] * wanted.norm()
        assert torch.equal(
            strips.resize(given, large, align_corners), interpolate(given, large, align_corners)
        )


def test_the_resize_is_an_operator_as_torch_expects_it():
    maps = torch.randn(2, 4, 5, 7, requires_grad=True)
    torch.library.opcheck(strips.resize, (maps, [10, 14], False))
    whole = torch.compile(
        lambda x: strips.resize(2 * x, [10, 14], True).sin().sum(), backend="aot_eager",
        fullgraph=True,
    )  # fmt: skip
    (found,) = torch.autograd.grad(whole(maps), maps)
    (wanted,) = torch.autograd.grad(interpolate(2 * maps, (10, 14), True).sin().sum(), maps)
    torch.testing.assert_close(found, wanted)


def test_autocast_leaves_the_resizes_inside_the_heads_in_16_bits(monkeypatch):
    """A GPU's autocast would take 32 bits, of which the next convolution would read 16 again: the
    same numbers."""
    maps, seen = torch.randn(2, 6, 5, 7).bfloat16(), []

    def resize_in_sight(*facts):
        seen.append(torch.is_autocast_enabled("cpu"))
        return resize(*facts)

    monkeypatch.setattr(decoders, "resize", resize_in_sight)
    with torch.autocast("cpu", torch.bfloat16):
        found = decoders.upsample(maps, 2)
    assert seen == [False] and found.dtype == torch.bfloat16
    assert torch.equal(found, resize(maps.float(), (10, 14)).bfloat16())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("align_corners", [False, True])
def test_a_gpus_resizes_have_the_same_bits_twice(dtype, align_corners, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    maps = torch.randn(4, 64, 64, 64, device="cuda").to(dtype).requires_grad_()
    outer = torch.randn(4, 64, 128, 128, device="cuda").to(dtype).double()
    one, two = (resized_gradient(resize, maps, (128, 128), align_corners, outer) for _ in range(2))
    assert torch.equal(one, two)
    wanted = resized_gradient(interpolate, maps.double(), (128, 128), align_corners, outer)
    assert (one - wanted).norm() <= TOLERANCES[dtype] * wanted.norm()


# ---- 1x1 convolutions


@pytest.mark.parametrize("bias", [False, True])
def test_a_pointwise_convolution_is_a_product(bias):
    conv, maps = nn.Conv2d(6, 5, 1, bias=bias).double(), torch.randn(2, 6, 3, 4).double()
    maps = maps.to(memory_format=torch.channels_last).requires_grad_()
    parts = [maps, *conv.parameters()]
    outer = torch.randn(2, 5, 3, 4).double()
    for found, wanted in zip(
        torch.autograd.grad(speed.pointwise(conv, maps), parts, outer),
        torch.autograd.grad(conv(maps), parts, outer),
    ):
        torch.testing.assert_close(found, wanted, atol=1e-14, rtol=1e-13)
    found = speed.pointwise(conv, maps)
    torch.testing.assert_close(found, conv(maps), atol=1e-14, rtol=1e-13)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_only_pointwise_convolutions_are():
    others = [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1, padding=1)]
    assert not any(map(speed.is_pointwise, [*others, nn.Conv2d(4, 4, 1, groups=2)]))
    assert speed.is_pointwise(nn.Conv2d(4, 8, 1, bias=False))


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_channels_last_calls_them(decoder, monkeypatch):
    calls = []
    monkeypatch.setattr(
        speed, "pointwise", lambda conv, maps: calls.append(conv) or F.conv2d(maps, conv.weight)
    )
    network = SETR(small_config(decoder))
    pointwise = [m for m in network.modules() if type(m) is nn.Conv2d and m.kernel_size == (1, 1)]
    team = SimpleNamespace(size=1, device=torch.device("cpu"))
    speed.prepare_network(network, dataclasses.replace(CPU, channels_last=True), team)
    network.small_logits(torch.randn(2, 3, 32, 48))
    assert {id(conv) for conv in calls} == {id(conv) for conv in pointwise}


def test_maps_lie_channels_last_from_the_tokens_on():
    """A map is a view of the tokens, and no resize or convolution turns it round."""
    seen = []
    network = SETR(small_config("pup", channels=16)).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module is not network.encoder.patch_embed.proj:
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network.to(memory_format=torch.channels_last).small_logits(torch.randn(2, 3, 32, 48))
    assert seen and all(m.is_contiguous(memory_format=torch.channels_last) for m in seen)


# ---- what is decided


def settled(options, recipe, monkeypatch, device="cuda", size=1, triton=True, compiler=True):
    """The switches of a run on a machine that is made up."""
    monkeypatch.setattr(speed, "has_triton", lambda: triton)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/cc" if compiler else None)
    monkeypatch.delenv("CC", raising=False)
    team = SimpleNamespace(size=size, device=torch.device(device))
    found = speed.settle(options, SETR(recipe.config), recipe, team)
    return {name for name in ("compile", "channels_last", "cuda_graph") if getattr(found, name)}


ALL = {"compile", "channels_last", "cuda_graph"}


@pytest.mark.parametrize(
    "facts, machine, on",
    [
        ({}, {}, ALL),
        ({}, {"device": "cpu"}, set()),
        ({}, {"device": "mps"}, set()),
        ({}, {"triton": False}, ALL - {"compile"}),
        ({}, {"compiler": False}, ALL - {"compile"}),
        ({}, {"size": 2}, ALL - {"cuda_graph"}),
        ({"total_steps": 999}, {}, ALL - {"compile"}),
        ({"micro_batch": 1}, {}, ALL - {"cuda_graph"}),
        ({"micro_batch": 2}, {}, ALL),
    ],
)
def test_what_is_left_open_is_on_where_it_pays(facts, machine, on, small_recipe, monkeypatch):
    recipe = dataclasses.replace(small_recipe, **{"total_steps": 1000, **facts})
    assert settled(RunOptions(device="cpu"), recipe, monkeypatch, **machine) == on


def test_the_texts_say_from_where_on_it_pays():
    for text in (RunOptions.__doc__, (ROOT / "README.md").read_text(encoding="utf-8")):
        words = " ".join(text.split())
        assert f"at least {speed.COMPILE_STEPS:,} steps" in words
        assert f"less than {speed.GRAPH_PARAMETERS // 10**6} million parameters" in words


def test_precision_and_checkpointing_leave_graphs_out(small_recipe, monkeypatch):
    for facts in ({"precision": "fp16", "device": "cuda"}, {"activation_checkpointing": True}):
        options = dataclasses.replace(CPU, **facts)
        assert settled(options, small_recipe, monkeypatch) == {"channels_last"}
    monkeypatch.setattr(speed, "GRAPH_PARAMETERS", 1000)  # a large network fills the GPU anyhow
    assert settled(CPU, small_recipe, monkeypatch) == {"channels_last"}
    asked = dataclasses.replace(CPU, cuda_graph=True, channels_last=False)
    assert settled(asked, small_recipe, monkeypatch) == {"cuda_graph"}


@pytest.mark.parametrize(
    "asked, machine, words",
    [
        ({"compile": True}, {"compiler": False}, "compile is on, but there is no C compiler"),
        ({"compile": True}, {"triton": False}, "compile is on, but Triton is not installed"),
        (
            {"compile": True, "activation_checkpointing": True}, {"size": 2},
            "compile is on, but with activation_checkpointing in several processes",
        ),
        ({"cuda_graph": True}, {"device": "cpu"}, "cuda_graph is on, but only CUDA"),
        ({"cuda_graph": True}, {"size": 2}, "but several processes .*--no-cuda-graph"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_early(asked, machine, words, small_recipe, monkeypatch):
    with pytest.raises(ValueError, match=words):
        settled(dataclasses.replace(CPU, **asked), small_recipe, monkeypatch, **machine)


def test_a_run_on_a_cpu_records_that_all_is_off(tmp_path, small_recipe):
    run = train(small_recipe, tmp_path, steps=1, execution=CPU, progress=False)
    session = run["sessions"][0]
    assert [session[name] for name in sorted(ALL)] == [False, False, False]


def test_the_cutting_of_crops_is_compiled_where_the_blocks_are(small_recipe, monkeypatch):
    """Also where nobody asked for it, as by default on a GPU."""
    compiled = dataclasses.replace(CPU, compile=True)
    monkeypatch.setattr(speed, "settle", lambda *_: compiled)
    monkeypatch.setattr(speed, "prepare_network", lambda network, *_: network)
    asked = []
    monkeypatch.setattr(devices, "feed", lambda *facts: asked.append(facts[-1]) or feed(*facts))
    assert Run(small_recipe, None, "data", CPU, False).options.compile
    assert asked == [True] and CPU.compile is None
    for device, wanted in (("cuda", True), ("mps", False)):
        monkeypatch.setattr(torch, "compile", lambda function: "compiled")
        facts = load_dataset("shapes", "val"), small_recipe.transform, 0, torch.device(device)
        assert (feed(*facts, "none", 1, True)[1].cut == "compiled") == wanted


# ---- compiled blocks


def test_blocks_share_what_was_compiled_for_one(monkeypatch):
    """And whole images, whose gradients nobody wants, are never compiled."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, network = CompileCounterWithBackend("aot_eager"), SETR(small_config("pup"))
    plain = copy.deepcopy(network)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    options = dataclasses.replace(CPU, compile=True)
    team = SimpleNamespace(size=1, device=torch.device("cpu"))
    speed.prepare_network(network, options, team)
    crops, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 8, (2, 32, 32))
    with torch.no_grad():
        for size in ((41, 50), (32, 32)):
            assert torch.equal(
                network.encoder(torch.ones(1, 3, *size)), plain.encoder(torch.ones(1, 3, *size))
            )
    assert counter.frame_count == 0
    for model in (network, plain):
        model.loss(crops, labels).backward()
    assert counter.frame_count == 1
    for one, two in zip(network.parameters(), plain.parameters()):
        if two.grad is not None:
            torch.testing.assert_close(one.grad, two.grad)


# ---- optimiser


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_state_goes_on_in_another_layout_and_by_other_kernels(optimizer, small_recipe):
    """Fused kernels refuse sums that lie otherwise than the weights; the numbers stay."""
    recipe = dataclasses.replace(small_recipe, optimizer=optimizer, config=small_config("pup"))
    networks = [SETR(recipe.config) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    networks[1].to(memory_format=torch.channels_last)
    one, two = (make_optimizer(network, recipe) for network in networks)
    labels, images = torch.randint(0, 8, (2, 32, 32)), torch.randn(2, 3, 32, 32)
    networks[0].loss(images, labels).backward()
    one.step()
    saved = copy.deepcopy(one.state_dict())
    for group in saved["param_groups"]:
        group["fused"] = True  # as on a GPU
    load_optimizer(two, saved)
    assert not any(group["fused"] for group in two.param_groups)
    compared = 0
    for p, q in zip(networks[0].parameters(), networks[1].parameters()):
        for name, value in one.state.get(p, {}).items():
            assert torch.equal(two.state[q][name], value)
            if value.ndim:
                assert two.state[q][name].stride() == q.stride()
                compared += value.ndim == 4
    assert compared


class Casts(TorchDispatchMode):
    """Counts how often each of the tensors is brought into 16 bits."""

    def __init__(self, tensors):
        super().__init__()
        self.counts = {id(t): 0 for t in tensors}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and id(args[0]) in self.counts:
            self.counts[id(args[0])] += 1
        return func(*args, **(kwargs or {}))


def test_a_weight_is_cast_once_a_micro_batch(small_recipe):
    recipe = dataclasses.replace(small_recipe, config=small_config("pup", image_size=(32, 32)))
    job = Run(recipe, None, "data", dataclasses.replace(CPU, precision="bf16"), False)
    weights = [p for p in job.model.parameters() if p.ndim in (2, 4)]
    crops = torch.randn(2, 3, 32, 32), torch.randint(0, 8, (2, 32, 32))
    with Casts(weights) as seen:
        job.train_step([crops])
    assert set(seen.counts.values()) == {1}


# ---- the step as a graph


class PretendGraph(speed.StepGraph):
    """Records nothing: a replay is the step again, on the tensors that a graph would read."""

    def aside(self, *batch):
        self.asides = getattr(self, "asides", 0) + 1
        return self.step(*batch)

    def capture(self, *batch):
        self.replays, groups = 0, self.optimizer.param_groups

        def replay():
            self.replays += 1
            assert len(groups) == len(self.rates)
            for group, rate in zip(groups, self.rates):
                assert rate.item() == pytest.approx(group["lr"], rel=1e-6)  # in 32 bits
            self.loss = self.step(*batch)

        return replay


class Refused(PretendGraph):
    def capture(self, *_):
        raise RuntimeError("operation not permitted when stream is capturing")


def graphed(monkeypatch, kind):
    """Make the runs of a CPU take `kind` for a CUDA graph."""
    made = []
    monkeypatch.setattr(speed, "StepGraph", lambda *a: made.append(kind(*a)) or made[-1])
    monkeypatch.setattr(speed, "why_no_graph", lambda *_: "")
    return made


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_replayed_run_is_the_run(optimizer, tmp_path, small_recipe, monkeypatch):
    """Warm-up, record, replay: every crop and every learning rate gets there; evaluation between,
    and a resume, whose state knows nothing of graphs."""
    recipe = dataclasses.replace(small_recipe, optimizer=optimizer)
    facts = {"execution": CPU, "progress": False}
    train(recipe, tmp_path / "plain", **facts)
    made = graphed(monkeypatch, PretendGraph)
    train(recipe, tmp_path / "graph", steps=7, **facts)
    state = torch.load(tmp_path / "graph/state/last.pt", weights_only=True)
    assert all(type(g["lr"]) is float for g in state["optimizer"]["param_groups"])
    train(recipe, tmp_path / "graph", resume=True, **facts)
    assert [(graph.asides, graph.replays) for graph in made] == [(3, 4), (3, 2)]
    one, two = (load_checkpoint(tmp_path / n / "last.safetensors")[0] for n in ("plain", "graph"))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters()))


def test_losses_of_a_graph_are_kept_until_they_are_read(small_recipe):
    """A replay writes where the one before wrote; what a step returned must stay."""
    job = Run(small_recipe, None, "data", CPU, False)
    job.learn = PretendGraph(job.micro_step, job.optimizer, True)
    images, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 8, (2, 32, 32))
    for _ in range(6):
        job.train_step([(images, labels)])
    job.learn.loss.fill_(-1.0)
    losses = job.read_losses()
    assert len(set(losses)) == 6 and min(losses) > 0


def test_without_a_graph_the_run_goes_on(tmp_path, small_recipe, monkeypatch, capsys):
    """Unless it was asked for."""
    facts = {"execution": CPU, "progress": False}
    train(small_recipe, tmp_path / "plain", **facts)
    graphed(monkeypatch, Refused)
    train(small_recipe, tmp_path / "other", **facts, cuda_graph=None)
    assert "without a CUDA graph: operation not permitted" in capsys.readouterr().err
    one, two = (load_checkpoint(tmp_path / n / "last.safetensors")[0] for n in ("plain", "other"))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters()))
    with pytest.raises(RuntimeError, match="not permitted"):
        train(small_recipe, tmp_path / "asked", **facts, cuda_graph=True)


# ---- what waits


class Waits(TorchDispatchMode):
    """Where the host waits for a GPU: copies between the two that are not made ahead."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            ahead = (kwargs or {}).get("non_blocking") or args[2:3] == (True,)
            source = args[func is torch.ops.aten.copy_.default]
            if source.device.type != found.device.type and not ahead:
                self.seen.append(func)
        return found


@pytest.mark.parametrize("kept", [False, True])
def test_nothing_between_the_files_and_the_loss_waits_for_a_gpu(kept, monkeypatch):
    """On a GPU that is made up: numbers that the host asked for would be refused."""
    monkeypatch.setattr(cross_entropy, "has_triton", lambda: True)
    network = SETR(small_config("pup"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in network.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    tensors[name] = torch.empty_like(tensor, device="cuda")
        numbers = torch.empty(2, 10)
        images = [torch.empty(40, 50, 3, dtype=torch.uint8, device="cuda")] * 2
        pixels = torch.empty(0 if kept else 2 * 40 * 50 * 3, dtype=torch.uint8)
        uncut = Uncut(pixels, [(40, 50)] * 2, [0, 1], numbers)
        cutter = Cutter((32, 32), torch.device("cuda"), dict(enumerate(images)) if kept else None)
        job = SimpleNamespace(device=cutter.device, cut=cutter, options=CPU)
        with Waits() as waits:
            crops = Run.to_device(job, uncut, torch.empty(2, 32, 32, dtype=torch.uint8))
            loss = network.loss(*crops, check=False)
        assert loss.device.type == crops[0].device.type == "cuda" and not waits.seen
        with waits:
            numbers.to("cuda")
        assert len(waits.seen) == 1


# ---- on a GPU


def gpu_run(folder, recipe, **options):
    """The losses in the log of a run in bf16, and the weights at its end."""
    facts = RunOptions(device="cuda", precision="bf16", **{**dict.fromkeys(ALL, False), **options})
    train(recipe, folder, execution=facts, progress=False)
    losses = [line["loss"] for line in load_log(folder)]
    return losses, load_checkpoint(folder / "last.safetensors")[0].state_dict()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decoder", ["pup", "mla"])
def test_every_lever_trains_the_same_network(tmp_path, small_recipe, optimizer, decoder):
    """Two runs have the same bits; a graph differs by its rates in float32, a compiled block and
    another layout by where 16 bits are rounded."""
    config = small_config(decoder, image_size=(32, 32))
    recipe = dataclasses.replace(small_recipe, optimizer=optimizer, config=config)
    (losses, plain), (_, again) = (gpu_run(tmp_path / n, recipe) for n in ("a", "b"))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    for lever, tolerance in {"cuda_graph": 1e-4, "channels_last": 0.05, "compile": 0.05}.items():
        found, _ = gpu_run(tmp_path / lever, recipe, **{lever: True})
        assert found == pytest.approx(losses, rel=tolerance), lever
    found, _ = gpu_run(tmp_path / "all", recipe, **dict.fromkeys(ALL, True))
    assert found == pytest.approx(losses, rel=0.05)


@pytest.mark.gpu
@needs_gpu
def test_a_graph_is_resumed_on_a_cpu_and_back(tmp_path, small_recipe):
    recipe = dataclasses.replace(small_recipe, optimizer="adamw")
    for steps, device in ((5, "cuda"), (7, "cpu"), (12, "cuda")):
        graph = device == "cuda"
        options = RunOptions(device=device, cuda_graph=graph, channels_last=graph)
        run = train(recipe, tmp_path, steps > 5, steps, execution=options, progress=False)
    assert run["finished"]


@pytest.mark.gpu
@needs_gpu
def test_no_step_of_a_graph_waits_for_the_gpu(small_recipe):
    options = RunOptions(device="cuda", precision="bf16", cuda_graph=True, channels_last=True)
    job = Run(small_recipe, None, "data", options, False)
    batches = job.batches(6)
    for _ in range(5):
        job.train_step([next(batches)])
    batch = next(batches)
    assert isinstance(batch[0], Uncut) and all(x.is_pinned() for x in (batch[0].pixels, batch[1]))
    torch.cuda.set_sync_debug_mode("error")
    try:
        job.train_step([batch])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert job.learn.replay is not None
