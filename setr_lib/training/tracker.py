"""Programs that show a run's curves: TensorBoard's files, Weights & Biases, MLflow.

The last two through Accelerate's trackers, which have one interface. Only the main process has one.
A tracker is a convenience: whatever goes wrong with it is said once, and the run goes on.
"""

import hashlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..files import reason, say, unknown

if TYPE_CHECKING:
    from .loop import Run

TRACKERS: dict[str, tuple[str, ...]] = {  # the packages that each needs
    "auto": (), "tensorboard": ("tensorboard",), "wandb": ("accelerate", "wandb"),
    "mlflow": ("accelerate", "mlflow"), "none": (),
}  # fmt: skip
PROJECT = "setr"  # the project of Weights & Biases, the experiment of MLflow


def check_tracker(name: str) -> None:
    """A tracker that can be had here, before anything is trained.

    Raises:
        ValueError: for an unknown one, or if its packages are not installed.
    """
    if name not in TRACKERS:
        raise ValueError(unknown("tracker", name, TRACKERS))
    missing = [package for package in TRACKERS[name] if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"tracker is {name!r}, which needs {' and '.join(missing)}: pip install "
            f"{' '.join(missing)}, or choose another (tracker='none', --tracker none)"
        )


class Tracker:
    """The curves of a run where its options ask for them.

    Args:
        run: its main process opens the tracker, and tells it the facts of the recipe.
    """

    def __init__(self, run: "Run") -> None:
        self.word = run.options.tracker
        self.inner: Any = None
        if run.team.is_main:
            self.inner = self.attempt(lambda: open_tracker(run))

    def log(self, values: dict[str, float], step: int) -> None:
        """Points of several curves."""
        if self.inner:
            self.attempt(lambda: self.inner.log(values, step=step))

    def close(self) -> None:
        """Nothing comes any more."""
        if self.inner:
            self.attempt(self.inner.finish)
        self.inner = None

    def attempt(self, what: Callable[[], Any]) -> Any:
        """What it gives; where it fails, this run has no tracker any more."""
        try:
            return what()
        except Exception as error:  # of programs that are not ours, and perhaps of a network
            self.inner = None
            kind = type(error).__name__
            say(f"the tracker {self.word} has failed ({kind}: {reason(error)}); the run goes on "
                "without it", sys.stderr)  # fmt: skip
            return None


def open_tracker(run: "Run") -> Any:
    """An object with `log` and `finish`, as Accelerate's trackers; None: nobody looks."""
    word, name = run.options.tracker, run.out.name or run.recipe.name
    if word in ("none", "auto", "tensorboard"):
        installed = word != "none" and find_spec("tensorboard") is not None
        return TensorBoard(run) if installed else None
    from accelerate import PartialState
    from accelerate.tracking import MLflowTracker, WandBTracker

    PartialState()  # its trackers ask it which process they are in
    if word == "wandb":  # by its number a resumed run goes on where it was
        number = hashlib.sha256(f"{run.out.resolve()} {run.started}".encode()).hexdigest()[:16]
        tracker = WandBTracker(PROJECT, name=name, id=number, resume="allow", dir=str(run.out))
    else:
        tracker = MLflowTracker(PROJECT, run_name=name)
    if hasattr(tracker, "start"):  # older ones have begun already
        tracker.start()
    tracker.store_init_configuration(run.recipe.plain_facts())
    return tracker


class TensorBoard:
    """TensorBoard's files in the run folder; what a resumed run repeats is shown once.

    Accelerate's own would show it twice.
    """

    def __init__(self, run: "Run") -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.out / "tensorboard"), purge_step=run.step + 1)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self.writer.close()
