"""How a run is executed: device, processes, precision, switches. No number of a recipe is here.

Processes are torch's own. torchrun, `accelerate launch` and `accelerate.notebook_launcher` start
them and say in the environment who is who: WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
"""

import atexit
import ctypes
import functools
import itertools
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.augment import TrainingStream
from ..data.feed import CACHES, Cutter, feed
from ..data.files import PairDataset
from ..files import reason, say
from ..model import SETRConfig
from .recipes import Recipe
from .tracker import check_tracker

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class RunOptions:
    """What may differ between two machines that run one recipe. Kept in the record.

    Args:
        precision: `"fp32"`; `"bf16"` or `"fp16"`: the network in 16 bits where that is safe, by
            autocast. Weights and loss stay in 32. fp16 needs a GPU, and scales the loss.
        device: `"cpu"`, `"cuda"` or another of torch's; None: a GPU if there is one. Of several,
            `"cuda:1"` is the second; several processes have one each, and take `"cuda"`.
        workers: processes that read files and, for a CPU, cut the crops; 0: the training process
            itself, the fastest way for a small data set whose pairs are kept.
        cache: decoded pairs of files are kept in each process that reads them (`"memory"`), their
            images all on the GPU, which takes reading them at the start (`"device"`), or not
            (`"none"`). `"auto"`: in memory as far as a quarter of what is free goes, on a CUDA
            GPU there if all is small. What a generator makes is never kept.
        activation_checkpointing: keep only the input of every transformer block and compute the
            block again in the backward pass: less memory, a third more arithmetic, one gradient.
        compile: compile the encoder's blocks with `torch.compile` (of the FCN, all but the loss).
            None: on a GPU with Triton and a C compiler, for a run of at least 1,000 steps.
        channels_last: keep convolution weights and images with the channels innermost, and make
            1x1 convolutions matrix products. None: on a CUDA GPU.
        cuda_graph: record the whole step once and replay it. None: on a CUDA GPU, for networks of
            less than 50 million parameters, in one process, where nothing is in the way.
        tracker: what shows the curves: `"tensorboard"` (files in the run folder), `"wandb"`,
            `"mlflow"` or `"none"`; `"auto"`: TensorBoard where it is installed.
    """

    precision: str = "fp32"
    device: str | None = None
    workers: int = 0
    cache: str = "auto"
    activation_checkpointing: bool = False
    compile: bool | None = None
    channels_last: bool | None = None
    cuda_graph: bool | None = None
    tracker: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device or default_device()))
        try:
            torch.device(str(self.device))
        except RuntimeError as error:
            raise ValueError(f"device is {self.device!r}, which torch does not know") from error
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose {', '.join(PRECISIONS)}")
        check_tracker(self.tracker)
        if self.cache not in CACHES:
            raise ValueError(f"cache is {self.cache!r}; choose {', '.join(CACHES)}")
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


class Processes:
    """The processes of a run: this one, or all that a launcher has started.

    A process group that is there already, the caller's own, is used and lives on.

    Attributes:
        size, rank: how many processes there are, and which one this is.
        is_main: whether this is the one that writes files and speaks.
        device: where this process computes.
    """

    def __init__(self, options: RunOptions) -> None:
        launched = int(os.environ.get("WORLD_SIZE") or 1)
        group = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size() if group else launched
        self.device = own_device(options, self.size)
        self.made = self.size > 1 and not group
        if self.made:
            meet(self.device)
        self.rank = dist.get_rank() if self.size > 1 else 0
        self.is_main = self.rank == 0
        if self.size > 1:
            # Small numbers go from host to host, so that no GPU is waited for.
            self.hosts: Any = dist.new_group(backend="gloo")
            if self.device.type == "cpu":  # several share the cores
                here = int(os.environ.get("LOCAL_WORLD_SIZE") or self.size)
                share = max(1, (os.cpu_count() or 1) // here)
                torch.set_num_threads(min(torch.get_num_threads(), share))

    def leave(self) -> None:
        """End what was begun here: the process group, or only our part of the caller's."""
        if self.size > 1:
            dist.destroy_process_group(None if self.made else self.hosts)

    def say(self, text: str) -> None:
        """A line of the main process's, if there is something to say."""
        if self.is_main and text:
            say(text)

    def wait(self) -> None:
        """Until all are here."""
        self.gather(None)

    def total(self, *numbers: float) -> list[float]:
        """The sum of each number over the processes."""
        return [sum(column) for column in zip(*self.gather(numbers))]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value, group=self.hosts)
        return found

    def share(self, module: nn.Module, find_unused: bool) -> Any:
        """The module, so that every backward pass averages its gradients over the processes."""
        if self.size == 1:
            return module
        devices = None if self.device.type == "cpu" else [self.device.index]
        return DistributedDataParallel(
            module, devices, find_unused_parameters=find_unused, gradient_as_bucket_view=True
        )

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the main one's buffers: running means differ without SyncBN."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


MEETINGS = itertools.count()  # process groups that this process has formed


def meet(device: torch.device) -> None:
    """Form a process group with all that a launcher has started."""
    backend = dist.get_default_backend_for_device(device.type)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index)
    with patience():
        # Under a name of its own, or the second group would find the addresses of the first.
        place, rank, size = meeting_place()
        store = dist.PrefixStore(f"run {next(MEETINGS)}", place)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)


@functools.cache
def meeting_place() -> tuple[dist.Store, int, int]:
    """Where the processes of a launcher leave their addresses; this one's rank; how many come."""
    return next(iter(dist.rendezvous("env://")))


@contextmanager
def patience(seconds: float = 10.0) -> Iterator[None]:
    """Say for whom this process waits, if the others of a launcher take long to come."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    found = ", ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))
    text = (
        f"still waiting for other processes, as the environment says: {found}. If nobody started "
        "others (schedulers leave such variables behind), unset them"
    )
    timer = threading.Timer(seconds, say, (text, sys.stderr))
    timer.daemon = True
    if (os.environ.get("WORLD_SIZE") or "1") != "1":
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def own_device(options: RunOptions, processes: int) -> torch.device:
    """Where this process computes; of several, each has a GPU of its own.

    Raises:
        ValueError: if torch has no such device here, or it cannot be had or used by several.
    """
    device, offered = torch.device(str(options.device)), default_device()
    count = getattr(getattr(torch, device.type, None), "device_count", int)()
    alone = device.index is None or (processes == 1 and device.index < count)
    if device.type not in ("cpu", offered) or not alone:
        raise ValueError(
            f"device is {options.device!r}, torch offers {offered!r} here; choose "
            "that, or None (of several GPUs, CUDA_VISIBLE_DEVICES chooses)"
        )
    if processes == 1 or device.type == "cpu":
        return device
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("RANK") or 0)
    if local >= count:
        raise ValueError(f"this is process {local} of this machine, which has {count} GPUs: start "
                         "as many processes as it has")  # fmt: skip
    return torch.device(device.type, local)


def join_processes(device: str) -> tuple[str, bool]:
    """Meet the other processes that a launcher started, if it did, until this one ends: our device,
    and whether we are the first one, which speaks for all."""
    team = Processes(RunOptions(device=device))
    atexit.register(team.leave)
    return str(team.device), team.is_main


class HeadsLoss(nn.Module):
    """The network and its loss as one module: processes meet in a module's forward pass."""

    def __init__(self, network: Any, average: str, weight: Tensor | None, kind: str) -> None:
        super().__init__()
        self.network, self.average = network, average
        device = next(network.parameters()).device
        self.facts: dict[str, Any] = {"kind": kind}
        if weight is not None:
            self.facts["weight"] = weight.to(device)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images `(B,3,H,W)` and labels `(B,H,W)` -> the mean loss, a scalar in float32."""
        # The data set has checked the labels; looking at them again would wait for a GPU.
        check = labels.device.type == "cpu"
        return self.network.loss(images, labels, self.average, check=check, **self.facts)


def has_unread_parameters(config: Any) -> bool:
    """Whether the network has weights that no head reads: blocks behind the last layer, or a timm
    backbone's last norm."""
    if not isinstance(config, SETRConfig):
        return False
    return config.backbone not in ("vit", "hybrid") or config.layers[-1] < config.depth - 1


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


def crop_source(
    data: PairDataset, recipe: Recipe, options: RunOptions, team: Processes
) -> tuple[TrainingStream, Cutter]:
    """The crops of a run with settled options, and what brings a micro-batch of them to the
    device of this process."""
    sharers = team.size * max(1, options.workers)
    fused = bool(options.compile)
    return feed(data, recipe.transform, recipe.seed, team.device, options.cache, sharers, fused)


# In torch's words for a worker that has no memory, or was ended by the system.
WORKER_TROUBLE = ("shared memory", "Bus error", "DataLoader worker", "No space left")


@contextmanager
def crop_errors(workers: int) -> Iterator[None]:
    """What goes wrong where crops are cut, in one line, also out of a worker.

    Raises:
        ValueError, OSError: instead of the same with a worker's traceback, or of torch's words.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise (OSError if isinstance(error, OSError) else ValueError)(reason(error)) from error
    except RuntimeError as error:  # torch's, where memory ends or a worker is killed
        if not workers or not any(word in str(error) for word in WORKER_TROUBLE):
            raise
        raise OSError(
            f"a process that prepares crops has failed ({reason(error)}). If /dev/shm, the "
            "memory it shares, is full: choose fewer (workers=..., --workers), or give the "
            "container more (docker run --shm-size=8g, or --ipc=host)"
        ) from error


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
