"""The training loop: one readable file between a recipe and a record.

A run folder holds `record.json`, `log.jsonl`, `best.safetensors`, `last.safetensors`, and in
`state/` what `resume` needs. What a step sees is decided by the recipe's seed and the step's number
alone, so a resumed run is the same run, and several processes see together what one would see.

Beside this file: `recipes` (what is run), `optim` (which parameter moves how fast), `devices`
(processes, switches), `checkpoint` (what is on disk), `record` (what is seen and left behind).
"""

# B batch, H W crop rows and columns

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, fields
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data.augment import TrainingStream, most_left_out, too_many
from ..data.check import label_histogram, suspicions
from ..data.files import PairDataset
from ..data.load import load_dataset
from ..evaluation import evaluate
from ..files import read_json, reason, say, whole_file, write_json
from ..geometry import IGNORE
from ..weights.config import make_network
from ..weights.load import load_pretrained, save_checkpoint
from .checkpoint import claim, clear_run, has_state, load_state, retire_damaged, save_state
from .devices import (
    Processes,
    RunOptions,
    StopRequests,
    end_with_the_owner,
    has_unread_parameters,
    own_accelerate,
    prepare_network,
    rng_state,
    set_rng_state,
    split_batch,
    stop_requests,
)
from .optim import describe_groups, lr_at, make_optimizer
from .recipes import Recipe, get_recipe, replace
from .record import Progress, peak_gflops, run_record, surroundings

LOG_EVERY = 10  # steps between lines of log.jsonl; on a GPU, between looks at the loss
SAVE_SECONDS = 60.0  # between savings of state/: what a killed run loses at most. Longer where
SAVE_SHARE = 0.05  # a saving would take more than this share of the time
Batch = tuple[Tensor, Tensor]  # images (B,3,H,W) and labels (B,H,W)


def train(
    recipe: str | Recipe,
    out_dir: str | os.PathLike[str],
    resume: bool = False,
    steps: int | None = None,
    data_root: str | os.PathLike[str] | None = None,
    execution: RunOptions | None = None,
    progress: bool = True,
    **overrides: Any,
) -> dict[str, Any]:
    """Train by a recipe, evaluate, and write the run folder.

    Called in several processes (by `accelerate launch`, torchrun or `accelerate.notebook_launcher`)
    it shares every batch between them.

    Args:
        recipe: a name of `list_recipes()`, or a `Recipe`.
        out_dir: the run folder; it must not hold a run yet, unless `resume` is set.
        resume: go on from `out_dir/state`.
        steps: stop after so many steps in all; the learning rate still follows the recipe's
            schedule, so that a later `resume` continues the same run. None: the whole schedule.
        data_root: as in `load_dataset`.
        execution: device, precision and switches; None: float32 on a GPU if there is one.
        progress: whether to show a bar.
        overrides: facts of the recipe or of the execution to replace, for example `seed=1`,
            `total_steps=400`, `device="cpu"` or `workers=2`.

    Returns:
        The record, as in `out_dir/record.json`.

    Raises:
        ValueError: for an unknown recipe or fact, more steps than the schedule has, a batch that
            the processes cannot share evenly, data without labels or of which too much cannot be
            read, or a run to resume that has other facts or classes.
        FileExistsError: if `out_dir` holds a run and `resume` is not set, or if another run is
            writing there.
        FloatingPointError: if the loss is no number any more; the last state is kept. On a GPU this
            is noticed up to `LOG_EVERY` steps late, and before anything is saved.
        OSError: if a file cannot be written; what was written before is untouched.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the state has been saved.
    """
    switches = {f.name: overrides.pop(f.name) for f in fields(RunOptions) if f.name in overrides}
    execution = dataclasses.replace(execution or RunOptions(), **switches)
    recipe = (
        get_recipe(recipe, **overrides) if isinstance(recipe, str) else replace(recipe, **overrides)
    )
    with own_accelerate():  # also, notebook_launcher can start processes after a run in this one
        run = Run(recipe, Path(out_dir), data_root, execution, progress)
        try:
            return run.go(resume, recipe.total_steps if steps is None else steps)
        finally:
            if run.lock:
                run.lock.release()


class Run:
    """One training run: its model, optimiser, data, and what has been seen so far."""

    def __init__(
        self, recipe: Recipe, out: Path, data_root: Any, execution: RunOptions, progress: bool
    ) -> None:
        self.recipe, self.out, self.execution = recipe, out, execution
        self.team = team = Processes(execution, find_unused=has_unread_parameters(recipe.config))
        self.device = team.device
        self.show = progress and team.is_main
        self.micro_batch, self.accumulate = split_batch(recipe, team.size)
        self.data = load_dataset(recipe.dataset, "train", data_root)
        self.validation = load_dataset(recipe.dataset, recipe.evaluate_split, data_root)
        for data in (self.data, self.validation):
            check_labelled(data)
        self.images = {"train": len(self.data), recipe.evaluate_split: len(self.validation)}
        classes = len(self.data.classes)
        if recipe.config.num_classes != classes:
            raise ValueError(
                f"the recipe's network has {recipe.config.num_classes} classes, {recipe.dataset} "
                f"{classes}; set num_classes={classes} in its config"
            )
        torch.manual_seed(recipe.seed)
        self.model = prepare_network(make_network(recipe.config), execution, team)
        self.optimizer: Any = team.accelerator.prepare_optimizer(make_optimizer(self.model, recipe))
        self.learner = team.accelerator.prepare_model(
            HeadsLoss(self.model, recipe.average), device_placement=False
        )
        if team.rank:  # the weights are equal everywhere; from here on chance is each one's own
            torch.manual_seed(recipe.seed + 1_000_003 * team.rank)
        self.step = 0
        self.pending: list[Tensor] = []  # losses of steps that nobody has looked at yet
        self.loss = math.nan
        self.counted = False  # whether a pixel counted since the last line of the log; if not,
        self.doubted = False  # whether that was said
        self.lock: FileLock | None = None  # of the run folder, while this process writes there
        self.seconds = 0.0  # of training and evaluation, over all sessions of the run
        self.clock = time.monotonic()
        self.saved, self.saving_seconds = self.clock, 0.0
        self.surroundings = surroundings(self.device)  # of this code, whatever changes on disk
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.sessions: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []

    def go(self, resume: bool, steps: int) -> dict[str, Any]:
        """Run up to `steps` steps in all."""
        self.open(resume, steps)
        batches = self.batches(steps)
        peak = peak_gflops(self.device, self.execution.precision, self.team.size)
        board = self.out / "tensorboard" if self.team.is_main else None
        seen = Progress(self.recipe, self.step, steps, self.device, self.show, board, peak)
        self.learner.train()
        self.clock = time.monotonic()
        try:
            with stop_requests() as asked:
                if self.evaluation_is_due(steps):  # the last session ended in the midst of one
                    self.evaluate(asked, seen)
                while self.step < steps:
                    seen.step_begins()
                    self.train_step([next(batches) for _ in range(self.accumulate)])
                    stop, save = self.team.total(asked.count > 0, self.saving_is_due())
                    look = self.step % LOG_EVERY == 0 or self.step == steps
                    score = self.evaluation_is_due(steps)
                    if look or score or stop or save or self.device.type == "cpu":
                        self.look_at_losses()
                    seen.step_ends()
                    if look:
                        self.doubt()
                        lr = lr_at(self.step - 1, self.recipe, self.recipe.lr)
                        self.log.append(seen.line(self.step, self.loss, lr, self.tick()))
                    if score or stop or save:
                        self.save()
                    if stop and self.step < steps:
                        raise KeyboardInterrupt
                    if score:
                        self.evaluate(asked, seen)
        except KeyboardInterrupt:
            self.say(
                f"Stopped after step {self.step} of {steps}; nothing is lost. The run is in "
                f"{self.out}; go on with {way_on()}"
            )
            raise
        finally:
            seen.close()
        self.team.accelerator.wait_for_everyone()
        return json.loads(json.dumps(run_record(self)))

    def open(self, resume: bool, steps: int) -> None:
        """Begin a new run, or find the place where an old one stopped."""
        if not 1 <= steps <= self.recipe.total_steps:
            raise ValueError(
                f"steps is {steps}; {self.recipe.name} has {self.recipe.total_steps} in all "
                "(another number: total_steps=N, on the command line --total-steps N)"
            )
        state = self.out / "state"
        if resume and not has_state(state):
            raise FileNotFoundError(
                f"there is no {state}/last.pt to resume from; start without resume"
            )
        self.claim()
        if resume:
            self.load()
            if self.step > steps:
                raise ValueError(
                    f"steps is {steps}; {self.out} has {self.step} behind it already: choose more"
                )
        elif (self.out / "record.json").exists() or has_state(state):
            raise FileExistsError(
                f"{self.out} holds a run already; go on with resume=True (--resume), or choose "
                "another folder"
            )
        elif self.recipe.pretrained:
            with self.team.accelerator.main_process_first():  # it fetches, the others find
                report = load_pretrained(self.model, self.recipe.pretrained)
            self.say(str(report))
        session = {"step": self.step, "processes": self.team.size, **asdict(self.execution)}
        self.sessions.append({**session, "images": self.images})
        if self.show:
            self.say(describe_groups(self.optimizer.param_groups, self.recipe))
        if self.team.is_main:
            clear_run(self.out)
            if resume:
                self.write_files()  # a killed run may have left older ones
            else:
                for sentence in suspicions(*label_histogram(self.data), self.data.classes):
                    self.say(sentence)

    def claim(self) -> None:
        """Make the run folder this run's own; all processes hear if that is not possible."""
        refusal = None
        if self.team.is_main:
            try:
                self.lock = claim(self.out / "state")
            except OSError as error:
                refusal = error
        for refused in self.team.gather(refusal):
            if refused:
                raise refused
        if self.lock and not self.lock.is_locked:
            self.say(f"{self.out} cannot be locked there; take care that no other run uses it")

    def batches(self, steps: int) -> Iterator[Batch]:
        """This process's micro-batches of all steps that are left.

        Raises:
            ValueError, OSError: where a crop cannot be made; in one line, also out of a worker.
        """
        loader = self.loader(steps)
        try:
            for images, labels, left_out in loader:
                self.leave_out(left_out)
                yield images, labels
        except (ValueError, OSError) as error:
            raise (OSError if isinstance(error, OSError) else ValueError)(reason(error)) from error
        except RuntimeError as error:  # torch's, where memory ends or a worker is killed
            if not loader.num_workers or not any(word in str(error) for word in WORKER_TROUBLE):
                raise
            raise OSError(
                f"a process that prepares crops has failed ({reason(error)}). If /dev/shm, the "
                "memory it shares, is full: choose fewer (workers=..., --workers), or give the "
                "container more (docker run --shm-size=8g, or --ipc=host)"
            ) from error

    def leave_out(self, left_out: dict[str, str]) -> None:
        """Say once for each pair that it is left out, and keep that in the record."""
        if not left_out:
            return
        known = self.sessions[-1].setdefault("left_out", {})
        for file in left_out.keys() - known.keys():
            say(f"left out of training: {left_out[file]}", sys.stderr)
        known |= left_out
        if len(known) > most_left_out(len(self.data)):
            raise ValueError(too_many(known, len(self.data)))

    def loader(self, steps: int) -> DataLoader:
        """The micro-batches of `batches`, and what was left out on the way to each."""
        batch, team = self.recipe.batch, self.team
        stream = TrainingStream(self.data, self.recipe)
        return DataLoader(
            stream,
            self.micro_batch,
            collate_fn=stream.collate,
            sampler=range(self.step * batch + team.rank, steps * batch, team.size),
            num_workers=self.execution.workers,
            worker_init_fn=end_with_the_owner,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the run's random numbers
        )

    def train_step(self, batch: list[Batch]) -> None:
        """One step of the optimiser on the micro-batches of one step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(self.step, self.recipe, group["base"])
        self.optimizer.zero_grad(set_to_none=True)
        # Apple's GPUs may read ordinary memory before it was copied; pinned memory is CUDA's.
        early = self.device.type == "cuda"
        layout = torch.channels_last if self.execution.channels_last else torch.preserve_format
        losses = []
        for number, ((images, labels), weight) in enumerate(zip(batch, self.weights(batch)), 1):
            images = images.to(self.device, non_blocking=early).to(memory_format=layout)
            labels = labels.to(self.device, non_blocking=early)
            last = number == len(batch)  # the processes add up their gradients once per step
            with nullcontext() if last else self.team.accelerator.no_sync(self.learner):
                loss = self.learner(images, labels) * weight
                self.team.accelerator.backward(loss)
            losses.append(loss.detach())
        self.optimizer.step()
        self.pending.append(torch.stack(losses).sum())
        self.step += 1

    def weights(self, batch: list[Batch]) -> list[float]:
        """What the mean loss of each micro-batch weighs, so that the step's loss is one mean.

        That is its share of the pixels that count, times the number of processes, over which the
        gradients are averaged.
        """
        if self.recipe.average == "all":
            return [1 / len(batch)] * len(batch)
        counted = [int((labels != IGNORE).sum()) for _, labels in batch]
        (total,) = self.team.total(sum(counted))
        return [self.team.size * count / max(total, 1) for count in counted]

    def look_at_losses(self) -> None:
        """Read the losses since the last look, which waits for the device; stop at a NaN."""
        found = self.team.accelerator.reduce(torch.stack(self.pending), "mean").tolist()
        for step, loss in enumerate(found, self.step - len(found)):
            if not math.isfinite(loss):
                stream, batch = TrainingStream(self.data, self.recipe), self.recipe.batch
                numbers = range(step * batch, (step + 1) * batch)
                files = [self.data.file(stream.place(number)[1]) for number in numbers]
                raise FloatingPointError(
                    f"the loss is {loss} in step {step + 1} at the learning rate "
                    f"{lr_at(step, self.recipe, self.recipe.lr):.3g}; the batch was "
                    f"{', '.join(files)}. Nothing was written since the last saving in "
                    f"{self.out}/state. Check these files, or lower the learning rate (lr=..., "
                    "--lr)"
                )
        self.pending.clear()
        self.loss = found[-1]
        self.counted = self.counted or any(found)

    def doubt(self) -> None:
        """Say it if the loss was exactly 0 in every step since the last line of the log."""
        if not (self.counted or self.doubted):
            self.doubted = True
            self.say(
                f"step {self.step}: the loss is exactly 0, so no pixel counted in the last steps. "
                "Are all labels 255, which is ignored, or is there one class only?"
            )
        self.counted = False

    def evaluation_is_due(self, steps: int) -> bool:
        """After every so many steps and at the end, unless it was done."""
        done = self.evaluations[-1]["step"] if self.evaluations else 0
        due = self.step % self.recipe.evaluate_every == 0 or self.step == steps
        return due and self.step != done

    def evaluate(self, asked: StopRequests, seen: Progress) -> None:
        """Score the evaluation split, keep the weights if they are the best so far, and save.

        The state was saved just before, so that a request to stop is answered at once.
        """
        clock, r = time.monotonic(), self.recipe
        self.team.share_buffers(self.model)
        asked.interrupt_at_once()
        result = evaluate(self.model, self.validation, protocol=r.protocol, progress=self.show)
        asked.at_once = False
        self.evaluations.append(
            {
                "step": self.step,
                "split": r.evaluate_split,
                **result.to_dict(self.data.classes),
                "counts": result.counts.tolist(),
                "seconds": round(time.monotonic() - clock, 1),
                **({"left_out": result.left_out} if result.left_out else {}),
            }
        )
        seen.curves(self.step, {"miou": result.miou})
        if math.isnan(result.miou):
            self.say(f"step {self.step}: {r.evaluate_split} has no labelled pixel, so no score")
        elif self.show:
            self.say(f"step {self.step}: {100 * result.miou:.1f} mIoU on {r.evaluate_split}")
        if self.team.is_main:
            self.save_weights("last")
            scored = [e["miou"] for e in self.evaluations if e["miou"] is not None]
            if scored and result.miou >= max(scored):  # a nan never is
                self.save_weights("best")
        self.save()

    def save_weights(self, name: str) -> None:
        """`best.safetensors` or `last.safetensors`: weights that know their classes and recipe."""
        save_checkpoint(
            self.model,
            self.out / f"{name}.safetensors",
            classes=self.data.classes,
            palette=self.data.palette,
            recipe=self.recipe.to_dict(),
            protocol=dataclasses.asdict(self.recipe.protocol),
            step=self.step,
        )

    def tick(self) -> float:
        """Add the time since the last call to the run's; returns the seconds of all sessions."""
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        return self.seconds

    def saving_is_due(self) -> bool:
        """Whether the main process wants to save; the others follow it."""
        wait = max(SAVE_SECONDS, self.saving_seconds / SAVE_SHARE)
        return self.team.is_main and time.monotonic() - self.saved > wait

    def save(self) -> None:
        """Write the state, then what is made from it; each file whole or not at all."""
        began = time.monotonic()
        self.tick()
        chance = self.team.gather(rng_state(self.device))
        if self.team.is_main:
            scaler = self.team.accelerator.scaler
            state = {
                "recipe": self.recipe.to_dict(),
                "classes": list(self.data.classes),
                "images": self.images,
                **{name: getattr(self, name) for name in KEPT},
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else None,
                "rng": chance,
            }
            save_state(self.out / "state", state)
            self.write_files()
        self.team.accelerator.wait_for_everyone()
        self.saved = time.monotonic()
        self.saving_seconds = self.saved - began

    def load(self) -> None:
        """Go on where `save` stopped, or where the saving before did if the last is damaged."""
        state, notice = load_state(self.out / "state")
        if isinstance(state["recipe"], str):  # an older state: a hash, its facts in the record
            record = read_json(self.out / "record.json")
            state |= {name: record.get(name) for name in ("recipe", "classes", "images")}
        self.compare(state)
        self.team.accelerator.wait_for_everyone()
        if notice and self.team.is_main:
            self.say(notice)
            retire_damaged(self.out / "state")
        try:
            for name in KEPT:
                setattr(self, name, state[name])
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.team.accelerator.scaler and state["scaler"]:
                self.team.accelerator.scaler.load_state_dict(state["scaler"])
            if self.team.rank < len(state["rng"]):
                set_rng_state(state["rng"][self.team.rank], self.device)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.out}/state does not hold the state of this network ({reason(error)}); "
                "start again in another folder"
            ) from error

    def compare(self, state: dict[str, Any]) -> None:
        """Refuse to go on by other facts or with other classes; say it if the images changed."""
        wrong = Recipe.from_dict(state["recipe"]).differences(self.recipe)
        pairs = zip_longest(state.get("classes") or (), self.data.classes)
        wrong += [
            f"class {k} is {old!r} there and {new!r} here"
            for k, (old, new) in enumerate(pairs)
            if old != new
        ]
        if wrong:
            raise ValueError(
                f"{self.out} was trained by other facts: {'; '.join(wrong)}. Resume with those of "
                "before, or start in another folder"
            )
        if (images := state.get("images")) != self.images:
            self.say(
                f"{self.recipe.dataset} has changed: {images} images there, {self.images} here; "
                "from here on the run sees other crops than it would have seen"
            )

    def write_files(self) -> None:
        """`log.jsonl` and `record.json`, as far as the run has come."""
        with whole_file(self.out / "log.jsonl") as temporary:
            lines = "".join(json.dumps(line) + "\n" for line in self.log)
            temporary.write_text(lines, encoding="utf-8")
        write_json(self.out / "record.json", run_record(self))

    def say(self, text: str) -> None:
        """A line of the main process's, whether or not there is a bar."""
        if self.team.is_main:
            say(text)


# In torch's words for a worker that has no memory, or was ended by the system.
WORKER_TROUBLE = ("shared memory", "Bus error", "DataLoader worker", "No space left")
KEPT = ("step", "seconds", "started", "sessions", "evaluations", "log")  # of a run, in its state


def check_labelled(data: PairDataset) -> None:
    """There is something to learn from, or to score: pairs, and with labels."""
    if not len(data):
        raise ValueError(f"{data.name} {data.split} holds no pair of an image and a label")
    if not data.labelled:
        raise ValueError(
            f"{data.name} {data.split} has no labels, so nothing can be learnt or scored there; "
            "choose another split (evaluate_split=..., --evaluate-split)"
        )


def way_on() -> str:
    """How a stopped run is resumed, in the words of whoever started it."""
    program = Path(sys.argv[0])
    if program.parent.name == "setr_lib" or program.stem == "setr":
        return "the same command and --resume"
    return "the same call and resume=True"


class HeadsLoss(nn.Module):
    """The network and its loss as one module: processes meet in a module's forward pass."""

    def __init__(self, network: nn.Module, average: str) -> None:
        super().__init__()
        self.network: Any = network
        self.average = average

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images `(B,3,H,W)` and labels `(B,H,W)` -> the mean loss, a scalar in float32."""
        # The data set has checked the labels; looking at them again would wait for a GPU.
        return self.network.loss(images, labels, self.average, check=labels.device.type == "cpu")
