"""How a run is executed: device, processes, precision, switches. No number of a recipe is here.

Processes, mixed precision and the loss scale of 16-bit floats are Hugging Face Accelerate's.
"""

import ctypes
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import GradientAccumulationPlugin
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..encoder import TokenEncoder
from ..files import say
from ..model import SETRConfig
from .recipes import Recipe

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # ours -> Accelerate's


@dataclass(frozen=True)
class RunOptions:
    """What may differ between two machines that run one recipe. Kept in the record.

    Args:
        precision: `"fp32"`; `"bf16"` or `"fp16"`: the network in 16 bits where that is safe, by
            autocast. Weights and loss stay in 32. fp16 needs a GPU, and scales the loss.
        device: `"cpu"`, `"cuda"` or another of torch's; None: a GPU if there is one. Of several,
            `"cuda:1"` is the second; several processes have one each, and take `"cuda"`.
        workers: processes that prepare the crops; 0: the training process itself.
        activation_checkpointing: keep only the input of every transformer block and compute the
            block again in the backward pass: less memory, a third more arithmetic, one gradient.
        compile: compile the network with `torch.compile`; the loss is not part of it.
        channels_last: keep convolution weights and images with the channels innermost.
    """

    precision: str = "fp32"
    device: str | None = None
    workers: int = 0
    activation_checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device or default_device()))
        try:
            torch.device(str(self.device))
        except RuntimeError as error:
            raise ValueError(f"device is {self.device!r}, which torch does not know") from error
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose {', '.join(PRECISIONS)}")
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision is 'fp16' on a CPU, which has no loss scale; choose 'bf16'")
        if not isinstance(self.workers, int) or self.workers < 0:
            raise ValueError(
                f"workers is {self.workers!r}; it must be a whole number from 0 (workers=..., on "
                "the command line --workers)"
            )


def default_device() -> str:
    """The GPU if torch sees one, of whatever make: `"cuda"`, `"mps"`, `"xpu"`."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else "cpu"


@contextmanager
def own_accelerate() -> Iterator[None]:
    """Let a run have Accelerate's state for itself, and give back what was there.

    Accelerate keeps one state per process. An earlier run, or the caller's own Accelerator, may
    have made another one than this run needs, and must find it as it was.
    """
    kinds = (PartialState, AcceleratorState, GradientState)
    before = [dict(kind._shared_state) for kind in kinds]
    try:
        yield
    finally:
        for kind, state in zip(kinds, before):
            kind._shared_state.clear()
            kind._shared_state.update(state)


@contextmanager
def patience(seconds: float = 10.0) -> Iterator[None]:
    """Say for whom this process waits, if the others of a launcher take long to come."""
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
    names = (*sizes, "RANK", "LOCAL_RANK")
    found = {name: os.environ[name] for name in names if os.environ.get(name)}
    where = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    text = (
        "still waiting for other processes to come to " + where + ", as the environment says: "
        + ", ".join(f"{name}={value}" for name, value in found.items())
        + ". If nobody started others (schedulers leave such variables behind), unset them"
    )  # fmt: skip
    timer = threading.Timer(seconds, say, (text, sys.stderr))
    timer.daemon = True
    if any(found.get(name, "1") != "1" for name in sizes):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Processes:
    """The processes of a run: this one, or all that a launcher has started.

    Attributes:
        size, rank: how many processes there are, and which one this is.
        is_main: whether this is the one that writes files and speaks.
        device: where this process computes.
    """

    def __init__(self, execution: RunOptions, find_unused: bool = False) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # see `own_accelerate`
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
            if os.environ.get(name) == "":  # set, and yet not
                del os.environ[name]
        device = torch.device(str(execution.device))
        with patience():
            self.accelerator = Accelerator(
                cpu=device.type == "cpu",
                mixed_precision=PRECISIONS[execution.precision],
                # Said here, as Accelerate would else read it from the environment. The loop
                # accumulates by itself; `backward` divides by this.
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
                kwargs_handlers=[
                    DistributedDataParallelKwargs(
                        find_unused_parameters=find_unused, gradient_as_bucket_view=True
                    )
                ],
            )
            self.size, self.rank = self.accelerator.num_processes, self.accelerator.process_index
            # Small numbers go from host to host, so that no GPU is waited for.
            self.hosts: Any = dist.new_group(backend="gloo") if self.size > 1 else None
        self.is_main, self.device = self.accelerator.is_main_process, self.accelerator.device
        if device.index is not None and self.size == 1 and device.index < device_count(device.type):
            self.device = device
        elif self.device.type != device.type or device.index is not None:
            raise ValueError(
                f"device is {execution.device!r}, torch offers {self.device.type!r} here; choose "
                "that, or None (of several GPUs, CUDA_VISIBLE_DEVICES chooses)"
            )
        if self.size > 1 and execution.compile and execution.activation_checkpointing:
            raise ValueError(
                "compile and activation_checkpointing do not go together in several processes: "
                "torch may refuse to share the gradients of such a network; leave one of them out"
            )

    def total(self, *numbers: int) -> list[int]:
        """The sum of each number over the processes."""
        if self.size == 1:
            return list(numbers)
        message = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(message, group=self.hosts)
        return message.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value, group=self.hosts)
        return found

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the main one's buffers: running means differ without SyncBN."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


def device_count(kind: str) -> int:
    """How many devices of a kind torch sees; 0 of those that have no numbers."""
    return getattr(getattr(torch, kind, None), "device_count", int)()


def join_processes(device: str) -> tuple[str, bool]:
    """Meet the other processes that `torchrun` started, if it did.

    Returns:
        This process's device, and whether it is the first one, which speaks for all.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 and not dist.is_initialized():
        on_gpus = torch.device(device).type == "cuda"
        with patience():
            dist.init_process_group("nccl" if on_gpus else "gloo")
        if on_gpus:
            device = "cuda"  # each process has its own
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return device, not dist.is_initialized() or dist.get_rank() == 0


def prepare_network(model: Any, execution: RunOptions, team: Processes) -> Any:
    """Move a network to its device and apply the switches; several GPUs get SyncBN.

    Raises:
        ValueError: for activation checkpointing of a network without transformer blocks.
    """
    if team.size > 1 and team.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(team.device)
    if execution.channels_last:
        model.to(memory_format=torch.channels_last)
    if execution.activation_checkpointing:
        if not isinstance(model.encoder, TokenEncoder):
            raise ValueError(
                f"{type(model).__name__} has no transformer blocks to compute again; train it "
                "without activation_checkpointing"
            )
        for block in model.encoder.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if execution.compile:  # what the loss calls; whole images, of many sizes, go another way
        model.small_logits = torch.compile(model.small_logits)
    return model


def has_unread_parameters(config: Any) -> bool:
    """Whether the network has weights that no head reads: blocks behind the last layer, or a timm
    backbone's last norm."""
    if not isinstance(config, SETRConfig):
        return False
    return config.backbone not in ("vit", "hybrid") or config.layers[-1] < config.depth - 1


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's random numbers in this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(*_index(device))
    return states


def set_rng_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """The way back; a state from another kind of device is passed over."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type != "cpu" and device.type in states:
        module = torch.get_device_module(device)
        module.set_rng_state(states[device.type].cpu(), *_index(device))


def _index(device: torch.device) -> list[torch.device]:
    """Which device's random numbers are meant: Apple has one, and its functions take none."""
    return [] if device.type == "mps" else [device]


class StopRequests:
    """Counts Ctrl-C and SIGTERM instead of dying in mid-step.

    While `at_once` is set, one of them raises KeyboardInterrupt where it finds the program.
    """

    def __init__(self) -> None:
        self.count = 0
        self.at_once = False

    def interrupt_at_once(self) -> None:
        """From here on a request ends what is being done, also one that is already there."""
        self.at_once = True
        if self.count:
            raise KeyboardInterrupt

    def __call__(self, *_: Any) -> None:
        self.count += 1
        if self.at_once:
            raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Listen for Ctrl-C and SIGTERM; outside the main thread, where none arrives, do nothing."""
    asked = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.signal(s, asked) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_the_owner(_: int) -> None:
    """For the processes that prepare crops: a stop is their owner's affair, its end theirs too.

    torch's watchdog does not end a worker whose owner was killed while a crop was on its way.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def split_batch(recipe: Recipe, processes: int) -> tuple[int, int]:
    """Crops of a micro-batch, and how many of them make one process's share of a step.

    Raises:
        ValueError: if the parts would not be equal.
    """
    share, rest = divmod(recipe.batch, processes)
    micro = recipe.micro_batch or share
    if rest or share % micro:
        raise ValueError(
            f"a batch of {recipe.batch} does not split evenly into {processes} process(es) with "
            f"micro-batches of {micro or 1}; choose a batch that is a multiple of "
            f"{processes * (recipe.micro_batch or 1)} (batch=..., micro_batch=...)"
        )
    return micro, share // micro


def usable_device(name: str) -> str:
    """The name of a device, if torch can compute there.

    Raises:
        ValueError: if it cannot; the message says what is here.
    """
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = textwrap.shorten(str(error).partition(". ")[0], 80)
        others = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(
            f"device is {name!r}, which torch does not offer here ({why}); choose {others}, or none"
        ) from error
    return name
