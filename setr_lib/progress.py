"""What is seen of a run while it trains: the bar, the lines of its log, TensorBoard."""

import time
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm

from .costs import peak_tflops, step_gflops
from .model import make_network
from .recipes import Recipe


class Progress:
    """Counts images and seconds, and shows them.

    Args:
        done, steps: steps that are behind, and at which the run ends.
        show: whether there is a bar.
        board: the folder for TensorBoard; None: no such files.
        peak: arithmetic that all devices together could do, in 1e9 a second; None: unknown.
    """

    def __init__(
        self, recipe: Recipe, done: int, steps: int, device: torch.device,
        show: bool, board: Path | None = None, peak: float | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.device, self.peak = recipe, device, peak
        self.gflops = peak and step_gflops(lambda: make_network(recipe.config), recipe.crop)
        self.bar = tqdm(total=steps, initial=done, desc=recipe.name, disable=not show)
        self.board: Any = board and tensorboard(board, done)
        self.logged, self.training_seconds = done, 0.0  # since the last line of the log
        self.beginning = time.monotonic()

    def step_begins(self) -> None:
        """Only from here to `step_ends` counts for the images per second."""
        self.beginning = time.monotonic()

    def step_ends(self) -> None:
        """The bar moves on by one."""
        self.training_seconds += time.monotonic() - self.beginning
        self.bar.update()

    def line(self, step: int, loss: float, rate: float, seconds: float) -> dict[str, Any]:
        """The next line of the log, also shown."""
        images = (step - self.logged) * self.recipe.batch
        speed = images / max(self.training_seconds, 1e-9)
        memory = memory_gib(self.device)
        line: dict[str, Any] = {"step": step, "loss": round(loss, 5), "rate": rate}
        line |= {"seconds": round(seconds, 1), "images_per_second": round(speed, 2)}
        line["memory_gib"] = round(memory, 3)
        if self.peak and self.gflops:
            line["peak_share"] = round(speed * self.gflops / self.peak, 4)
        self.logged, self.training_seconds = step, 0.0
        shown = {"loss": f"{loss:.3f}", "rate": f"{rate:.2g}", "img/s": f"{speed:.3g}"}
        shown["GiB"] = f"{memory:.2f}"
        if "peak_share" in line:
            shown["of peak"] = f"{100 * line['peak_share']:.0f}%"
        self.bar.set_postfix(shown, refresh=False)
        self.curves(step, {k: v for k, v in line.items() if k not in ("step", "seconds")})
        return line

    def curves(self, step: int, values: dict[str, float]) -> None:
        """Points for TensorBoard."""
        for name, value in values.items() if self.board else ():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Leave the bar as it is and the files complete."""
        self.bar.close()
        if self.board:
            self.board.close()


def peak_gflops(device: torch.device, precision: str, processes: int) -> float | None:
    """What the GPUs of a run could do, in 1e9 operations a second; None if that is not known."""
    if device.type != "cuda":
        return None
    peak = peak_tflops(torch.cuda.get_device_name(device), precision)
    return peak and peak * 1000 * processes


def memory_gib(device: torch.device) -> float:
    """GPU: the most that tensors held at one time. CPU: what the process holds now. 2**30 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


def tensorboard(folder: Path, done: int) -> Any:
    """A writer of TensorBoard's files if it is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=done + 1)
