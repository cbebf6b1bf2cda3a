"""The training loop: one readable file between a recipe and a record.

A run folder holds `record.json`, `log.jsonl`, `best.safetensors`, `last.safetensors`, and in
`state/` what `resume` needs. What a step sees is decided by the recipe's seed and the step's number
alone, so a resumed run is the same run.
"""

# B batch, H W crop rows and columns

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .datasets import PairDataset, load_dataset
from .evaluation import evaluate, scores
from .files import read_json, whole_file, write_json
from .model import SETR
from .recipes import Recipe, get_recipe, replace
from .records import surroundings
from .transforms import TrainTransform
from .weights import save_checkpoint

LOG_EVERY = 10  # steps between lines of log.jsonl
SAVE_SECONDS = 60.0  # between savings of state/; an interruption from outside loses at most this


def train(
    recipe: str | Recipe,
    out_dir: str | os.PathLike[str],
    resume: bool = False,
    steps: int | None = None,
    data_root: str | os.PathLike[str] = "data",
    device: str | None = None,
    workers: int = 0,
    progress: bool = True,
    **overrides: Any,
) -> dict[str, Any]:
    """Train by a recipe, evaluate, and write the run folder.

    Args:
        recipe: a name of `list_recipes()`, or a `Recipe`.
        out_dir: the run folder; it must not hold a run yet, unless `resume` is set.
        resume: go on from `out_dir/state`.
        steps: stop after so many steps in all; the rates still follow the recipe's schedule, so
            that a later `resume` continues the same run. None: the whole schedule.
        data_root: as in `load_dataset`.
        device: `"cpu"`, `"cuda"`, ...; None: a GPU if there is one.
        workers: processes that prepare the crops; 0: this one.
        progress: whether to show a bar.
        overrides: facts of the recipe to replace, for example `seed=1` or `schedule=400`.

    Returns:
        The record, as in `out_dir/record.json`.

    Raises:
        ValueError: for an unknown recipe or fact, or more steps than the schedule has.
        FileExistsError: if `out_dir` holds a run and `resume` is not set.
        FloatingPointError: if the loss is no number any more; the last state is kept.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the state has been saved.
    """
    recipe = (
        get_recipe(recipe, **overrides) if isinstance(recipe, str) else replace(recipe, **overrides)
    )
    run = Run(recipe, Path(out_dir), data_root, torch.device(device or default_device()), progress)
    return run.go(resume, recipe.schedule if steps is None else steps, workers)


def default_device() -> str:
    """The GPU if torch sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Run:
    """One training run: its model, optimiser, data, and what has been seen so far."""

    def __init__(
        self, recipe: Recipe, out: Path, data_root: Any, device: torch.device, progress: bool
    ) -> None:
        self.recipe, self.out, self.device, self.progress = recipe, out, device, progress
        self.data = load_dataset(recipe.dataset, "train", data_root)
        self.validation = load_dataset(recipe.dataset, "val", data_root)
        classes = len(self.data.classes)
        if recipe.config.num_classes != classes:
            raise ValueError(
                f"the recipe's network has {recipe.config.num_classes} classes, {recipe.dataset} "
                f"{classes}; set num_classes={classes} in its config"
            )
        torch.manual_seed(recipe.seed)
        self.model = SETR(recipe.config).to(device)
        self.optimiser = make_optimiser(self.model, recipe)
        self.step = 0
        self.seconds = 0.0  # of training and evaluation, over all sessions of the run
        self.surroundings = surroundings(device)  # of the code that runs, whatever changes on disk
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.evaluations: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []

    def go(self, resume: bool, steps: int, workers: int) -> dict[str, Any]:
        """Run up to `steps` steps in all."""
        recipe = self.recipe
        if not 1 <= steps <= recipe.schedule:
            raise ValueError(
                f"steps is {steps}; the schedule of {recipe.name} has {recipe.schedule} (another "
                "schedule: schedule=N, on the command line --schedule N)"
            )
        if resume:
            self.load_state()
        elif (self.out / "record.json").exists() or (self.out / "state").exists():
            raise FileExistsError(
                f"{self.out} holds a run already; go on with resume=True (--resume), or choose "
                "another folder"
            )
        stream = TrainingStream(self.data, recipe)
        loader = DataLoader(
            stream, recipe.batch, sampler=range(self.step * recipe.batch, steps * recipe.batch),
            num_workers=workers, worker_init_fn=_leave_ctrl_c_to_the_main_process,
        )  # fmt: skip
        bar = tqdm(total=steps, initial=self.step, desc=recipe.name, disable=not self.progress)
        clock, saved = time.monotonic(), time.monotonic()
        with bar, _stop_requests() as stop:
            for images, labels in loader:
                loss = self.train_step(images, labels)
                if self.step % LOG_EVERY == 0 or self.step == steps:
                    self.seconds, clock = self.seconds + time.monotonic() - clock, time.monotonic()
                    self.write_log(loss)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
                if self.step % recipe.evaluate_every == 0 or self.step == steps:
                    self.evaluate(bar)
                    saved = -math.inf  # a new score is worth saving at once
                if stop or self.step == steps or time.monotonic() - saved > SAVE_SECONDS:
                    self.seconds, clock = self.seconds + time.monotonic() - clock, time.monotonic()
                    self.save_state()
                    saved = time.monotonic()
                if stop and self.step < steps:
                    bar.write(
                        f"Stopped after step {self.step} of {steps}; nothing is lost. Go on with: "
                        f"python -m setr_lib train {recipe.name} --out {self.out} --resume "
                        "(and the options that this run was started with)"
                    )
                    raise KeyboardInterrupt
        return read_json(self.out / "record.json")

    def train_step(self, images: Tensor, labels: Tensor) -> float:
        """One step of the optimiser; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step, self.recipe, group["base"])
        self.model.train()
        images, labels = images.to(self.device), labels.to(self.device)
        loss = self.model.loss(images, labels, self.recipe.average)
        value = loss.item()
        if not math.isfinite(value):
            first = self.step * self.recipe.batch
            stream = TrainingStream(self.data, self.recipe)
            files = [self.data.file(stream.place(first + i)[1]) for i in range(len(images))]
            raise FloatingPointError(
                f"the loss is {value} in step {self.step + 1} at the rate "
                f"{self.optimiser.param_groups[0]['lr']:.3g}; the batch was {', '.join(files)}. "
                f"Nothing was written since the last saving in {self.out}/state. Check these "
                "files, or lower the rate (rate=..., --rate)"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return value

    def evaluate(self, bar: tqdm) -> None:
        """Score the validation split; keep the weights if they are the best so far."""
        clock = time.monotonic()
        r = self.recipe
        counts = evaluate(self.model, self.validation, r.scale, r.window, r.stride, self.progress)
        result = scores(counts)
        self.evaluations.append(
            {
                "step": self.step,
                "split": "val",
                **result.to_dict(self.data.classes),
                "counts": counts.tolist(),
                "seconds": round(time.monotonic() - clock, 1),
            }
        )
        if self.progress:
            bar.write(f"step {self.step}: {100 * result.miou:.1f} mIoU on val")
        self.save_weights("last")
        if result.miou >= max(e["miou"] for e in self.evaluations):
            self.save_weights("best")

    def save_weights(self, name: str) -> None:
        """`best.safetensors` or `last.safetensors`: weights that know their classes and recipe."""
        save_checkpoint(
            self.model,
            self.out / f"{name}.safetensors",
            classes=self.data.classes,
            palette=self.data.palette,
            recipe=self.recipe.to_dict(),
            step=self.step,
        )

    def write_log(self, loss: float) -> None:
        """One more line of `log.jsonl`."""
        group = self.optimiser.param_groups[0]
        line = {"step": self.step, "loss": round(loss, 5), "rate": group["lr"]}
        self.log.append({**line, "seconds": round(self.seconds, 1)})

    def save_state(self) -> None:
        """Write log, record and all that `resume` needs; each file whole or not at all."""
        with whole_file(self.out / "log.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.log))
        write_json(self.out / "record.json", self.record())
        state = {
            "recipe": self.recipe.hash(),
            "step": self.step,
            "seconds": self.seconds,
            "started": self.started,
            "evaluations": self.evaluations,
            "log": self.log,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
        }
        with whole_file(self.out / "state" / "last.pt") as temporary:
            torch.save(state, temporary)

    def load_state(self) -> None:
        """Go on where `save_state` stopped."""
        file = self.out / "state" / "last.pt"
        if not file.exists():
            raise FileNotFoundError(f"there is no {file} to resume from; start without resume")
        try:  # weights_only: no code in the file is ever run
            state = torch.load(file, map_location=self.device, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"{file} is damaged ({error}); start again in another folder"
            ) from error
        if state["recipe"] != self.recipe.hash():
            raise ValueError(
                f"{self.out} was trained by the recipe {state['recipe']}, this one is "
                f"{self.recipe.hash()}: resume with the same overrides, or start in another folder"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"].cpu())
        for name in ("step", "seconds", "started", "evaluations", "log"):
            setattr(self, name, state[name])

    def record(self) -> dict[str, Any]:
        """What was run, on what, and what came out; one confusion matrix, the last."""
        plain = [{k: v for k, v in e.items() if k != "counts"} for e in self.evaluations]
        best = max(plain, key=lambda e: e["miou"], default=None)
        return {
            "recipe": self.recipe.to_dict(),
            "recipe_hash": self.recipe.hash(),
            "seed": self.recipe.seed,
            "classes": list(self.data.classes),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "step": self.step,
            "finished": self.step == self.recipe.schedule,
            "started": self.started,
            "seconds": round(self.seconds, 1),
            **self.surroundings,
            "images": {"train": len(self.data), "val": len(self.validation)},
            "evaluations": plain,
            "best": best,
            "last": self.evaluations[-1] if self.evaluations else None,
        }


class TrainingStream(Dataset):
    """The endless row of training crops; crop number n is the same in every run of a recipe.

    Numbers run through shuffled epochs. A crop's randomness comes from (seed, n) alone, so workers,
    interruptions and processes change nothing.
    """

    def __init__(self, data: PairDataset, recipe: Recipe) -> None:
        self.data, self.seed = data, recipe.seed
        self.transform = TrainTransform(
            recipe.crop, recipe.scale, recipe.ratios, photometric=recipe.photometric
        )
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, int))

    def place(self, number: int) -> tuple[int, int]:
        """Epoch and index in the data set of crop `number`."""
        epoch, position = divmod(number, len(self.data))
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.data))
            self._order = (epoch, order)
        return epoch, int(self._order[1][position])

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[self.place(number)[1]]
        return self.transform(image, label, np.random.default_rng([self.seed, 1, number]))


def rate_at(step: int, recipe: Recipe, base: float) -> float:
    """The rate of 0-based step t: (base - floor) * (1 - t/T) ** power + floor.

    The floor is absolute, the same for every group, as in the authors' configurations. A warm-up,
    if there is one, multiplies this by (t + 1) / warmup.
    """
    floor = min(recipe.floor, base)
    rate = (base - floor) * (1 - step / recipe.schedule) ** recipe.power + floor
    return rate * min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else rate


def make_optimiser(model: SETR, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW with the heads at `head_factor` times the rate.

    The groups carry their peak rate as `base`. Weight decay leaves out everything with one
    dimension (biases, norms) and the position and class tokens.
    """
    head = {id(p) for p in model.head_parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        decays = p.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
        groups.setdefault((id(p) in head, decays), []).append(p)
    parameters = [
        {
            "params": members,
            "base": recipe.rate * (recipe.head_factor if in_head else 1.0),
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (in_head, decays), members in groups.items()
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.rate, momentum=0.9)
    return torch.optim.AdamW(parameters, lr=recipe.rate)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is filled when Ctrl-C or SIGTERM arrives, instead of dying in mid-step."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may listen for signals
        return
    before = {
        s: signal.signal(s, lambda got, _: asked.append(got))
        for s in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_ctrl_c_to_the_main_process(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
