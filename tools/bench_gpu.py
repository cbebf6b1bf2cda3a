"""What a GPU makes of the loss, the training step, the encoder and evaluation: one record.

    python -m tools.bench_gpu --out FOLDER [--seconds 280] [--only WORDS]
    python -m tools.bench_gpu --out FOLDER --device cpu --tiny     the same in seconds, for tests

Neither registry nor checkout of other projects is needed; where timm and mmsegmentation are
installed, the encoder and the step run beside theirs. The parts that are worth most come first, and
FOLDER/record.json is whole after every row: a run that is stopped loses the rest only. What goes
wrong in a part is written down under "errors", and the next one begins. Milliseconds are medians.

A new part is a function that yields rows, and a line in PARTS.
"""

import argparse
import contextlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from setr_lib import create_model, slide_inference, upsample_cross_entropy
from setr_lib.costs import peak_tflops, step_gflops
from setr_lib.files import write_json
from setr_lib.losses import cross_entropy
from setr_lib.model import DECODERS, SIZES
from setr_lib.training.record import surroundings

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where to measure, and how large."""

    device: str
    tiny: bool

    @property
    def classes(self) -> int:
        return 5 if self.tiny else 150

    @property
    def pixels(self) -> int:
        return 32 if self.tiny else 512

    @property
    def batch(self) -> int:
        return 1 if self.tiny else 16

    @property
    def size(self) -> str:
        return "tiny" if self.tiny else "large"

    def model(self, decoder: str) -> Any:
        model = create_model(f"setr_{decoder}_{self.size}", self.classes, self.pixels)
        return model.to(self.device)

    def crops(self) -> tuple[Tensor, Tensor]:
        """Noise, and labels in squares of 8 pixels of which a part does not count."""
        torch.manual_seed(0)
        side = self.pixels
        images = torch.randn(self.batch, 3, side, side, device=self.device)
        squares = torch.randint(0, self.classes, (self.batch, side // 8, side // 8))
        labels = squares.repeat_interleave(8, 1).repeat_interleave(8, 2)
        labels[torch.rand(labels.shape) < 0.05] = 255
        return images, labels.to(self.device)

    def half(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], Any], seconds: float = 0.3) -> float:
        """The median; a pass that warms up does not count. The L2 cache is emptied in between."""
        call()
        self.wait()
        took: list[float] = []
        until = time.perf_counter() + (0 if self.tiny else seconds)
        rubbish = torch.empty(1 << (0 if self.tiny else 27), dtype=torch.uint8, device=self.device)
        while len(took) < (1 if self.tiny else 5) or time.perf_counter() < until:
            rubbish.zero_()
            self.wait()
            if self.device == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                end.record()
                end.synchronize()
                took.append(start.elapsed_time(end))
            else:
                began = time.perf_counter()
                call()
                took.append((time.perf_counter() - began) * 1e3)
        return statistics.median(took)

    def added_gib(self, call: Callable[[], Any]) -> float | None:
        """The most memory that a call takes beyond what was there."""
        if self.device != "cuda":
            return None
        self.wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**30


# ------------------------------------------------------------------------------ the loss


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


# ------------------------------------------------------------------------------ the step

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


def step(bench: Bench) -> Iterator[Row]:
    """Forward, backward and SGD in bfloat16, and where the time of PUP's goes."""
    for decoder in ("pup", *(d for d in DECODERS if d != "pup")):
        model, (images, labels) = bench.model(decoder).train(), bench.crops()
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

        def run(way: str = "lean") -> None:
            with bench.half():
                value = model.loss(images, labels, way=way, check=False)  # noqa: B023
            value.backward()
            optimiser.step()  # noqa: B023
            optimiser.zero_grad()  # noqa: B023

        row = _step_row(bench, decoder, run)
        yield {"case": f"{decoder} {bench.size}", **row}
        if decoder == "pup":
            yield {"case": f"{decoder} {bench.size}, profile", "groups": _profile(bench, run)}
            with contextlib.suppress(torch.OutOfMemoryError):
                row = _step_row(bench, decoder, lambda: run("plain"))
                yield {"case": f"{decoder} {bench.size}, plain loss", **row}


def _step_row(bench: Bench, decoder: str, run: Callable[[], None]) -> Row:
    ms = bench.milliseconds(run, 3.0)
    name = f"setr_{decoder}_{bench.size}"
    gflops = step_gflops(lambda: create_model(name, bench.classes, bench.pixels), bench.pixels)
    row = {"ms": ms, "images_per_s": bench.batch / ms * 1e3, "gib": bench.added_gib(run)}
    peak = peak_tflops(torch.cuda.get_device_name(), "bf16") if bench.device == "cuda" else None
    tflops = gflops * bench.batch / ms
    return {**row, "tflops": tflops, "share_of_peak": None if peak is None else tflops / peak}


def _profile(bench: Bench, run: Callable[[], None]) -> dict[str, Row]:
    """Milliseconds on the device and launches of one step, by kinds of kernels."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (bench.device == "cuda")
    with profile(activities=kinds) as found:
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


# ------------------------------------------------------------------------------ the rest


def encoder(bench: Bench) -> Iterator[Row]:
    """Forward and backward beside timm's encoder with the same weights."""
    import timm

    width, depth, heads = SIZES[bench.size]
    ours = create_model(f"setr_naive_{bench.size}", bench.classes, bench.pixels).encoder
    theirs = timm.models.VisionTransformer(
        img_size=bench.pixels, embed_dim=width, depth=depth, num_heads=heads, num_classes=0
    )
    theirs.norm = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    ours, theirs = ours.to(bench.device).eval(), theirs.to(bench.device).eval()
    images = bench.crops()[0]

    def run(encode: Callable) -> None:
        with bench.half():
            tokens = encode(images)
        tokens.float().sum().backward()

    with torch.no_grad(), bench.half():
        difference = (ours(images) - theirs.forward_features(images)[:, 1:]).abs().max().item()
    mine = bench.milliseconds(lambda: run(ours), 1.0)
    other = bench.milliseconds(lambda: run(theirs.forward_features), 1.0)
    yield {
        "case": f"{bench.size}, {bench.pixels} px",
        "ms": mine,
        "timm_ms": other,
        "ratio": mine / other,
        "difference": difference,
    }


def beside_mmsegmentation(bench: Bench) -> Iterator[Row]:
    """PUP's step with the same weights; at batch 16 theirs does not fit 80 GB."""
    from .bench.step import peer, peer_loss, twin

    theirs = peer("pup", bench.size).to(bench.device)
    ours = twin(theirs, "pup", bench.size).to(bench.device)
    images, labels = (x[:8] for x in bench.crops())

    def run(loss: Callable[[], Tensor]) -> None:
        with bench.half():
            value = loss()
        value.backward()

    calls = (
        lambda: ours.loss(images, labels, check=False),
        lambda: peer_loss(theirs, images, labels),
    )
    mine, other = (bench.milliseconds(lambda call=call: run(call), 3.0) for call in calls)
    memory = [bench.added_gib(lambda call=call: run(call)) for call in calls]
    yield {
        "case": f"pup {bench.size}, batch {len(images)}",
        "ms": mine,
        "mmsegmentation_ms": other,
        "ratio": mine / other,
        "gib": memory,
    }


def windows(bench: Bench) -> Iterator[Row]:
    """Sliding windows over an image 1.5 windows wide, one window at a time and all of them."""
    model, side = bench.model("naive").eval(), bench.pixels
    image = torch.randn(1, 3, side, side * 3 // 2, device=bench.device)
    facts = ((side, side), (side * 2 // 3, side * 2 // 3))
    with torch.inference_mode():
        wanted = slide_inference(model.double(), image.double(), *facts)
        model.float()
        for batch in (1, 4):

            def run(batch: int = batch) -> Tensor:
                return slide_inference(model, image, *facts, batch=batch)

            found = run()
            yield {
                "case": f"naive {bench.size}, float32, {batch} at once",
                "ms": bench.milliseconds(run),
                "gib": bench.added_gib(run),
                "error": ((found - wanted).norm() / wanted.norm()).item(),
                "same_labels": (found.argmax(1) == wanted.argmax(1)).double().mean().item(),
            }


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "correctness": correctness,
    "step": step,
    "loss": loss,
    "encoder": encoder,
    "windows": windows,
    "mmsegmentation": beside_mmsegmentation,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="folder of the record")
    parser.add_argument("--seconds", type=float, default=280, help="no row begins after that")
    parser.add_argument("--only", default="", help=f"words of the parts: {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small sizes and single runs")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --tiny shows that everything runs")
    until = time.monotonic() + options.seconds
    device = torch.device(options.device)
    record: Row = {"bench": [], "errors": [], "left_out": [], **surroundings(device)}
    record |= {"clocks": clocks(), "day": datetime.now(UTC).date().isoformat()}
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.device, options.tiny)
    for name, part in PARTS.items():
        if options.only not in name:
            continue
        measure(name, part(bench), record, until, options.out / "record.json")
        if options.device == "cuda":
            torch.cuda.empty_cache()


def measure(name: str, rows: Iterator[Row], record: Row, until: float, path: Path) -> None:
    """The rows of a part, each written down at once; an error ends the part and not the run."""
    try:
        while time.monotonic() < until:
            began = time.monotonic()
            row = next(rows, None)
            if row is None:
                return
            row = {"part": name, **row, "seconds": round(time.monotonic() - began, 2)}
            record["bench"].append(row)
            write_json(path, record)
            print(*(f"{key}={_short(value)}" for key, value in row.items()), flush=True)
        record["left_out"].append(name)
    except ImportError as missing:
        record["left_out"].append(f"{name}: {missing}")
    except Exception as error:
        record["errors"].append({"part": name, "error": f"{type(error).__name__}: {error}"[:500]})
        print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    finally:
        write_json(path, record)


def clocks() -> str | None:
    """What the card's own tool says of clocks, power and driver; None where there is none."""
    asked = "name,driver_version,power.limit,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
