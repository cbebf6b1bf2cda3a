"""Where decoded pairs are kept, and where crops are cut: by whoever reads, or on a GPU.

To a GPU images travel as uint8, or lie there already; a crop then is ten numbers and its label.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import torch
from torch import Tensor

from .augment import TrainingStream, TrainTransform, UncutStream
from .crops import Uncut, cut, cut_batch
from .files import FileDataset, PairDataset

CACHES = ("auto", "memory", "device", "none")
SMALL = 2 * 2**30  # bytes of a data set that "auto" puts on a GPU: seconds of reading at the start


class Cutter:
    """Makes a batch from what a stream gives: on the device, cut and normalised.

    Args:
        size: rows and columns of a crop.
        device: where the network is.
        kept: the images that the device has, by their number in the data set.
        compile: whether to fuse the arithmetic by `torch.compile`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        device: torch.device,
        kept: Mapping[int, Tensor] | None = None,
        compile: bool = False,
    ) -> None:
        self.size, self.device, self.kept = size, device, kept or {}
        self.cut = torch.compile(cut) if compile else cut  # after a second size for any size

    def __call__(self, images: Tensor | Uncut) -> Tensor:
        """`(B,3,h,w)` float32 on the device."""
        early = self.device.type == "cuda"
        if isinstance(images, Tensor):
            return images.to(self.device, non_blocking=early)
        numbers = images.numbers.to(self.device, non_blocking=early)
        return cut_batch(images.images(self.kept, self.device), numbers, self.size, self.cut)


def feed(
    data: PairDataset,
    transform: TrainTransform,
    seed: int,
    device: torch.device,
    cache: str = "auto",
    sharers: int = 1,
    compile: bool = False,
) -> tuple[TrainingStream, Cutter]:
    """The crops of a run, and what brings them to the device.

    Args:
        data, transform, seed: as in `TrainingStream`.
        cache: as in `RunOptions`.
        sharers: how many processes of this machine keep pairs of their own.
        compile: whether a CUDA GPU's cutting is compiled.
    """
    keep = {"none": 0.0, "auto": free_memory() / 4 / sharers}.get(cache, float("inf"))
    if device.type == "cpu":
        return TrainingStream(data, transform, seed, keep), Cutter(transform.crop, device)
    stream = UncutStream(data, transform, seed, keep)
    wanted = cache == "device" or (cache == "auto" and fits(stream, device, keep))
    kept = on_device(stream, device) if wanted and isinstance(data, FileDataset) else {}
    stream.on_device = frozenset(kept)
    return stream, Cutter(transform.crop, device, kept, compile and device.type == "cuda")


def on_device(stream: UncutStream, device: torch.device) -> dict[int, Tensor]:
    """Every image that can be read, on the device; the stream keeps the pairs for their labels."""

    def read(index: int) -> Tensor | None:
        try:
            return torch.from_numpy(stream.read(index)[0])
        except (ValueError, OSError):
            return None  # named when the turn of its crop comes

    stream.room = float("inf")
    with ThreadPoolExecutor(stream.data.readers) as pool:
        found = enumerate(pool.map(read, range(len(stream.data))))
        return {index: image.to(device) for index, image in found if image is not None}


def fits(stream: UncutStream, device: torch.device, keep: float) -> bool:
    """Whether a data set is small beside the free memory of host and GPU, judged by one pair."""
    if device.type != "cuda" or not isinstance(stream.data, FileDataset):
        return False
    try:
        size = sum(part.nbytes for part in stream.read(0)) * len(stream.data)
    except (ValueError, OSError):
        return False
    return size <= min(SMALL, keep, torch.cuda.mem_get_info(device)[0] / 4)


def free_memory() -> float:
    """Bytes that this machine, or the container, could still give."""
    free = float(psutil.virtual_memory().available)
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else ""
    return min(free, float(text)) if text.isdecimal() else free
