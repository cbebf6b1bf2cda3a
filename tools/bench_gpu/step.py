"""The training step as `train` makes it: what each lever is worth, and where the time goes."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from setr_lib import create_model, decoders
from setr_lib.costs import peak_tflops, step_gflops
from setr_lib.model import DECODERS
from setr_lib.training import speed
from setr_lib.training.devices import RunOptions

from .common import Bench, Row

# Kinds of kernels by parts of their names, in this order.
GROUPS = {
    "loss": ("near_forward", "near_backward", "forward_kernel", "backward_kernel", "add_kernel"),
    "attention": ("flash", "fmha", "sdpa", "attention"),
    "convolutions": ("conv", "implicit", "wgrad", "dgrad", "winograd"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "_mm"),
    "resizes": ("upsample",),
    "batch norm": ("batch_norm", "bn_"),
    "layer norm": ("layer_norm", "layernorm"),
    "optimiser": ("multi_tensor", "foreach", "sgd", "adam"),
    "reductions": ("reduce",),
    "casts and copies": ("copy", "memcpy", "memset", "cat"),
    "element-wise, compiled": ("triton",),
    "element-wise": ("elementwise", "vectorized"),
}


def group(kernel: str) -> str:
    name = kernel.lower()
    return next((g for g, parts in GROUPS.items() if any(p in name for p in parts)), "other")


@contextlib.contextmanager
def prepared(
    bench: Bench, decoder: str, size: str, fused: bool = False, resize: bool = True, **on: bool
) -> Iterator[Callable[..., None]]:
    """A step in bfloat16 with SGD, with the levers that are on.

    Args:
        fused: whether the optimiser is torch's fused one.
        resize: whether the resizes inside the heads are ours: in 16 bits, their gradient products.
        on: `channels_last`, `compile` and `cuda_graph` of `RunOptions`.
    """
    model, (images, labels) = bench.model(decoder, size).train(), bench.crops()
    options = RunOptions(device=bench.device, precision="bf16", **on)
    speed.prepare_network(
        model, options, SimpleNamespace(size=1, device=torch.device(bench.device))
    )
    if options.channels_last:
        images = images.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=fused or None)

    def learn(images: Tensor, labels: Tensor, way: str = "lean") -> Tensor:
        with bench.half():
            value = model.loss(images, labels, way=way, check=False)
        value.backward()
        optimiser.step()
        return value.detach()

    whole = speed.StepGraph(learn, optimiser, True) if options.cuda_graph else learn

    def run(*way: str) -> None:
        optimiser.zero_grad(set_to_none=True)
        whole(images, labels, *way)

    with contextlib.nullcontext() if resize else mock.patch.object(decoders, "upsample", enlarge):
        for _ in range(5 if options.cuda_graph else 1):
            run()  # until it is compiled and recorded
        yield run


def enlarge(maps: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    """The resize inside a head as torch has it: under autocast in float32, added up by atomics."""
    size = (factor * maps.shape[-2], factor * maps.shape[-1])
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def switches(bench: Bench) -> dict[str, bool]:
    """What a long run of a large network switches on by itself."""
    on_gpu = bench.device == "cuda"
    options = RunOptions(device=bench.device)
    team: Any = SimpleNamespace(size=1, device=torch.device(bench.device))
    compiled = on_gpu and not speed.why_not_compile(options, team)
    return {"fused": on_gpu, "channels_last": on_gpu, "compile": compiled}


def step(bench: Bench) -> Iterator[Row]:
    """Forward, backward and SGD in bfloat16 as they are by default, and where PUP's time goes."""
    for decoder in ("pup", *(d for d in DECODERS if d != "pup")):
        name = f"{decoder} {bench.size}"
        with prepared(bench, decoder, bench.size, **switches(bench)) as run:
            yield {"case": name, **step_row(bench, decoder, bench.size, run)}
            if decoder == "pup":
                yield {"case": f"{name}, profile", "groups": profile(bench, run)}
    memory_may_end = contextlib.suppress(torch.OutOfMemoryError)
    with memory_may_end, prepared(bench, "pup", bench.size, **switches(bench)) as run:
        row = step_row(bench, "pup", bench.size, lambda: run("plain"))
        yield {"case": f"pup {bench.size}, plain loss", **row}


def levers(bench: Bench) -> Iterator[Row]:
    """PUP's step with nothing on, with each lever alone, and with all but each; and as a graph."""
    usual = switches(bench)
    everything = {**usual, "resize": True}
    nothing = dict.fromkeys(everything, False)
    cases = {"nothing": nothing, "all": everything}
    cases |= {f"{name} alone": {**nothing, name: True} for name in everything if everything[name]}
    cases |= {f"no {name}": {**everything, name: False} for name in everything if everything[name]}
    for case, on in list(cases.items())[: 2 if bench.tiny else None]:
        with prepared(bench, "pup", bench.size, **on) as run:
            yield {"case": f"pup {bench.size}, {case}", **step_row(bench, "pup", bench.size, run)}
    for graph in (False, True) if bench.device == "cuda" else ():
        with prepared(bench, "pup", "tiny", cuda_graph=graph, **usual) as run:
            row = step_row(bench, "pup", "tiny", run)
            yield {"case": f"pup tiny, {'graph' if graph else 'no graph'}", **row}


def step_row(bench: Bench, decoder: str, size: str, run: Callable[[], None]) -> Row:
    """Time, memory and the share of the peak of a step on a batch."""
    ms = bench.milliseconds(run, 1.5)
    name = f"setr_{decoder}_{size}"
    gflops = step_gflops(lambda: create_model(name, bench.classes, bench.pixels), bench.pixels)
    row = {"ms": ms, "images_per_s": bench.batch / ms * 1e3, "gib": bench.added_gib(run)}
    peak = peak_tflops(torch.cuda.get_device_name(), "bf16") if bench.device == "cuda" else None
    tflops = gflops * bench.batch / ms
    return {**row, "tflops": tflops, "share_of_peak": None if peak is None else tflops / peak}


def profile(bench: Bench, run: Callable[[], None]) -> dict[str, Row]:
    """Milliseconds on the device and launches of one step, by kinds of kernels."""
    from torch import profiler

    kinds = [profiler.ProfilerActivity.CPU] + [profiler.ProfilerActivity.CUDA] * (
        bench.device == "cuda"
    )
    with profiler.profile(activities=kinds) as found:
        run()
        bench.wait()
    groups: dict[str, Row] = {}
    on_gpu = torch.autograd.DeviceType.CUDA
    for event in found.key_averages():
        if bench.device == "cuda" and event.device_type != on_gpu:
            continue
        entry = groups.setdefault(group(event.key), {"ms": 0.0, "launches": 0})
        micro = (
            event.self_device_time_total if bench.device == "cuda" else event.self_cpu_time_total
        )
        entry["ms"] += micro / 1e3
        entry["launches"] += event.count
    return dict(sorted(groups.items(), key=lambda item: -item[1]["ms"]))
