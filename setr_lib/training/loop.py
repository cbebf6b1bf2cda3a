"""The training loop: one readable file between a recipe and a record.

A run folder holds `record.json`, `log.jsonl`, `best.safetensors`, `last.safetensors`, and in
`state/` what `resume` needs. What a step sees is decided by the recipe's seed and the step's number
alone, so a resumed run is the same run, and several processes see together what one would see.

Beside this file: `recipes`, `optim` (learning rates), `devices`, `speed`, `checkpoint`, `record`.
"""

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.load import Augment, load_splits
from ..evaluation import evaluate
from ..weights.config import make_network
from . import checkpoint, devices, record, speed
from .average import MovingAverage
from .devices import Processes, RunOptions
from .optim import count_class_weights, freeze, lr_at, make_optimizer, shares_of_step
from .own import prepare
from .recipes import Recipe

LOG_EVERY = 10  # steps between lines of log.jsonl; on a GPU, between readings of the loss
Batch = tuple[Any, Tensor]  # images (B,3,H,W), on the way to a GPU `Uncut`; labels (B,H,W)


def train(
    recipe: str | Recipe,
    out_dir: str | os.PathLike[str],
    resume: bool = False,
    steps: int | None = None,
    data_root: str | os.PathLike[str] | None = None,
    execution: RunOptions | None = None,
    progress: bool = True,
    data: Any = None,
    augment: Augment | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train by a recipe, evaluate, and write the run folder.

    Called in several processes (by torchrun, `accelerate launch` or `accelerate.notebook_launcher`)
    it shares every batch between them.

    Args:
        recipe: a name of `list_recipes()`, a `Recipe`, or `"own"`: one that fits `data`.
        out_dir: the run folder; it must not hold a run yet, unless `resume` is set.
        resume: go on from `out_dir/state`.
        steps: stop after so many steps in all; the learning rate still follows the recipe's
            schedule, so that a later `resume` continues the same run. None: the whole schedule.
        data_root: as in `load_dataset`.
        execution: device, precision and switches; None: float32 on a GPU if there is one.
        progress: whether to show a bar.
        data: in place of the recipe's: a name, or two data sets (train, val), see `load_dataset`.
        augment: `(image, label)` -> the same two changed, uint8, before a crop is cut.
        overrides: facts of the recipe or of the execution to replace, for example `seed=1`,
            `total_steps=400`, `device="cpu"` or `workers=2`.

    Returns:
        The record, as in `out_dir/record.json`.

    Raises:
        ValueError: for an unknown recipe or fact, more steps than the schedule has, a batch that
            the processes cannot share evenly, data without labels or too much of it unreadable, or
            a run to resume that has other facts or classes.
        FileExistsError: if `out_dir` holds a run and `resume` is not set, or one is writing there.
        FloatingPointError: if loss or weights are no numbers any more; the last state is kept. On a
            GPU this is noticed up to `LOG_EVERY` steps late, and before anything is saved.
        OSError: if a file cannot be written; what was written before is untouched.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the state has been saved.
    """
    names = {field.name for field in dataclasses.fields(RunOptions)} & overrides.keys()
    switches = {name: overrides.pop(name) for name in names}
    options = dataclasses.replace(execution or RunOptions(), **switches)
    recipe, splits = prepare(recipe, data, data_root, augment, options, overrides)
    run = Run(recipe, Path(out_dir), data_root, options, progress, splits)
    try:
        record = run.fit(resume, recipe.total_steps if steps is None else steps)
    except KeyboardInterrupt:
        run.team.leave()  # not after errors: others may be elsewhere, and be waited for
        raise
    finally:
        if run.lock:
            run.lock.release()
    run.team.leave()
    return record


class Run:
    """One training run: its model, optimiser, data, and what has been seen so far."""

    def __init__(
        self, recipe: Recipe, out: Any, root: Any, options: RunOptions, show: bool, data: Any = None
    ) -> None:  # fmt: skip
        self.recipe, self.out = recipe, out
        self.team = team = Processes(options)
        self.micro_batch, self.accumulate = devices.split_batch(recipe, team.size)
        self.device, self.show = team.device, show and team.is_main
        split = recipe.evaluate_split
        self.data, self.validation = load_splits(data or recipe.dataset, split, root)
        record.check_data(recipe, self.data, self.validation)
        self.images = {"train": len(self.data), split: len(self.validation)}
        self.class_weight = count_class_weights(self.data) if recipe.class_weights else None
        torch.manual_seed(recipe.seed)
        network = freeze(make_network(recipe.config), recipe)
        self.options = speed.settle(options, network, recipe, team)
        self.stream, self.cut = devices.crop_source(self.data, recipe, self.options, team)
        self.model = speed.prepare_network(network, self.options, team)
        self.optimizer = make_optimizer(self.model, recipe)
        self.average = MovingAverage(self.model, recipe.ema)
        loss = devices.HeadsLoss(self.model, recipe.average, self.class_weight, recipe.loss)
        self.learner = team.share(loss, devices.has_unread_parameters(recipe.config))
        kind, dtype = self.device.type, devices.PRECISIONS[options.precision]
        self.autocast = torch.autocast(kind, dtype, enabled=options.precision != "fp32")
        self.scaler = torch.amp.GradScaler(kind, enabled=options.precision == "fp16")
        if team.rank:  # the weights are equal everywhere; from here on chance is each one's own
            torch.manual_seed(recipe.seed + 1_000_003 * team.rank)
        self.learn: Any = self.micro_step
        if self.options.cuda_graph:
            self.learn = speed.StepGraph(self.micro_step, self.optimizer, bool(options.cuda_graph))
        self.step = 0
        self.pending: list[Tensor] = []  # losses of steps that nobody has read yet
        self.loss = math.nan  # of the last step that was read
        self.lock: FileLock | None = None  # of the run folder, while this process writes there
        self.seconds, self.clock = 0.0, time.monotonic()  # seconds of all sessions of the run
        self.saved, self.saving_seconds = self.clock, 0.0
        self.surroundings = record.surroundings(self.device)  # of this code, whatever changes
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.start: dict[str, Any] = {}  # what the encoder learned before, and what it cost
        self.sessions: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []

    def fit(self, resume: bool, steps: int) -> dict[str, Any]:
        """Run up to `steps` steps in all; returns the record."""
        checkpoint.open_run(self, resume, steps)
        record.begin_session(self, resume)
        batches = self.batches(steps)
        self.clock = time.monotonic()
        with record.watched(self, steps) as seen, devices.stop_requests() as asked:
            if self.evaluation_is_due(steps):  # the last session ended in the midst of one
                self.evaluate(asked, seen)
            while self.step < steps and not record.out_of_patience(self):
                seen.step_begins()
                self.train_step([next(batches) for _ in range(self.accumulate)])
                stop, save = self.team.total(asked.count > 0, checkpoint.is_due(self))
                log = self.step % LOG_EVERY == 0 or self.step == steps
                score = self.evaluation_is_due(steps)
                if log or score or stop or save or self.device.type == "cpu":
                    seen.counted |= any(self.read_losses())
                seen.step_ends()
                if log:
                    self.team.say(seen.doubt(self.step))
                    lr = lr_at(self.step - 1, self.recipe, self.recipe.lr)
                    self.log.append(seen.line(self.step, self.loss, lr, self.tick()))
                if score or stop or save:
                    checkpoint.save(self)
                if stop and self.step < steps:
                    raise KeyboardInterrupt
                if score:
                    self.evaluate(asked, seen)
        self.team.wait()
        return record.run_record(self)

    def batches(self, steps: int) -> Iterator[Batch]:
        """This process's micro-batches of all steps that are left."""
        with devices.crop_errors(self.options.workers):
            for images, labels, left_out in self.loader(steps):
                record.note_left_out(self, left_out)
                yield images, labels

    def loader(self, steps: int) -> DataLoader:
        """The micro-batches of `batches`, and what was left out on the way to each."""
        batch, team = self.recipe.batch, self.team
        return DataLoader(
            self.stream, self.micro_batch, collate_fn=self.stream.collate,
            sampler=range(self.step * batch + team.rank, steps * batch, team.size),
            num_workers=self.options.workers, worker_init_fn=devices.end_with_the_owner,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the run's random numbers
        )  # fmt: skip

    def train_step(self, batch: list[Batch]) -> None:
        """One step of the optimiser on the micro-batches of one step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(self.step, self.recipe, group["base"])
        self.optimizer.zero_grad(set_to_none=True)
        shares = shares_of_step(batch, self.recipe, self.team, self.class_weight)
        losses = [
            self.learn(*self.to_device(*crops), share, number == len(batch))
            for number, (crops, share) in enumerate(zip(batch, shares), 1)
        ]
        self.pending.append(torch.stack(losses).sum())
        self.step += 1
        self.average.update(self.step)

    def micro_step(self, images: Tensor, labels: Tensor, share: float, last: bool) -> Tensor:
        """Loss and gradients of a micro-batch; after the last one of a step the weights move."""
        # The processes average their gradients once per step.
        with nullcontext() if last or self.team.size == 1 else self.learner.no_sync():
            with self.autocast:
                loss = self.learner(images, labels)
            loss = loss * share
            self.scaler.scale(loss).backward()
        if last:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()

    def to_device(self, images: Any, labels: Tensor) -> Batch:
        """A micro-batch where the network is, cut, the images in its order of memory."""
        # Apple's GPUs may read ordinary memory before it was copied; pinned memory is CUDA's.
        layout = torch.channels_last if self.options.channels_last else torch.preserve_format
        images = self.cut(images).to(memory_format=layout)
        return images, labels.to(self.device, non_blocking=self.device.type == "cuda").long()

    def read_losses(self) -> list[float]:
        """The losses since the last reading, which waits for the device; it stops at a NaN."""
        summed = self.team.total(*torch.stack(self.pending).tolist())
        found = [loss / self.team.size for loss in summed]
        for step, loss in enumerate(found, self.step - len(found)):
            if not math.isfinite(loss):
                raise record.diverged(self, f"the loss is {loss}", step)
        self.pending.clear()
        self.loss = found[-1]
        return found

    def evaluation_is_due(self, steps: int) -> bool:
        """After every so many steps and at the end, unless it was done."""
        done = self.evaluations[-1]["step"] if self.evaluations else 0
        due = self.step % self.recipe.evaluate_every == 0 or self.step == steps
        return due and self.step != done

    def evaluate(self, asked: devices.StopRequests, seen: record.Progress) -> None:
        """Score the evaluation split, keep the weights if they are the best so far, and save.

        The state was saved just before, so that a request to stop is answered at once.
        """
        clock, r = time.monotonic(), self.recipe
        # On a CPU in 32 bits, whatever the steps have: scores of all records compare.
        bits = "fp32" if self.device.type == "cpu" else self.options.precision
        with self.average.shown():
            self.team.share_buffers(self.model)
            asked.interrupt_at_once()
            result = evaluate(
                self.model, self.validation, protocol=r.protocol, precision=bits, progress=self.show
            )
            asked.at_once = False
        facts = {"step": self.step, "split": r.evaluate_split, **result.to_dict(self.data.classes)}
        facts |= {"counts": result.counts.tolist(), "seconds": round(time.monotonic() - clock, 1)}
        self.evaluations.append(facts | ({"left_out": result.left_out} if result.left_out else {}))
        seen.curves(self.step, {"miou": result.miou})
        if math.isnan(result.miou):
            self.team.say(f"step {self.step}: {r.evaluate_split} has no labelled pixel: no score")
        elif self.show:
            self.team.say(f"step {self.step}: {100 * result.miou:.1f} mIoU on {r.evaluate_split}")
        if self.team.is_main:
            checkpoint.save_weights(self, "last")
            if result.miou >= max(e["miou"] or 0.0 for e in self.evaluations):  # a nan never is
                checkpoint.save_weights(self, "best")
        checkpoint.save(self)

    def tick(self) -> float:
        """Add the time since the last call to the run's; returns the seconds of all sessions."""
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        return self.seconds
