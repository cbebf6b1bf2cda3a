"""Where a GPU is measured, and how long and how much memory a call takes there."""

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from setr_lib import create_model

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

    def model(self, decoder: str, size: str = "") -> Any:
        name = f"setr_{decoder}_{size or self.size}"
        model = create_model(name, self.classes, self.pixels)
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


def clocks() -> str | None:
    """What the card's own tool says of clocks, power and driver; None where there is none."""
    asked = "name,driver_version,power.limit,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
