"""Run the rows of a suite that have no record yet, and say what is done, missing and left over.

    python -m setr_lib experiments camvid-cpu --list
    python -m setr_lib experiments camvid-cpu --seconds 3600

A run works in OUT/.unfinished/NAME, where it may be killed at any instant; when it has reached the
end of its schedule, its files move to OUT/NAME. Several processes, also of several shells, share
the work: a row belongs to whoever holds its lock.
"""

import _thread
import dataclasses
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from filelock import FileLock, Timeout

from ..files import read_json, say, whole_file
from ..inference import predict
from ..weights.load import save_checkpoint
from ..zoo import load_checkpoint
from .checkpoint import has_state
from .devices import RunOptions
from .loop import Run, train
from .recipe import Recipe, replace
from .record import RECORDS
from .results import answers, results
from .suites import Row, suite_rows

__all__ = ["answers", "pack", "repeat", "results", "run_suite", "suite_table"]
UNFINISHED = ".unfinished"
LEFT_BEHIND = (
    "log.jsonl",
    "best.safetensors",
    "last.safetensors",
    "record.json",
)  # this comes last
GRACE = 10.0  # seconds before the limit at which a run is asked to stop: it saves its state


def run_suite(
    suite: str,
    out: str | os.PathLike[str] = RECORDS,
    seconds: float | None = None,
    root: str | os.PathLike[str] | None = None,
    only: str = "*",
    jobs: int = 1,
    progress: bool = True,
) -> list[str]:
    """Run what is missing, most valuable first.

    Args:
        suite: a name of `suites.EDITIONS`.
        out: the folder of the records.
        seconds: after which this returns, a little earlier; a run that is not at its end is gone
            on with next time. None: until nothing is missing.
        root: as in `load_dataset`.
        only: a pattern of names of rows, for example `"*_pup_s*"`.
        jobs: processes that work side by side, each on a row of its own.

    Returns:
        The names of the rows that this process has finished.

    Raises:
        ValueError: for an unknown suite, or a pattern that no row has.
    """
    out, rows = Path(out), chosen(suite, only)
    end = None if seconds is None else time.monotonic() + seconds
    done: list[str] = []
    with helpers(jobs - 1, suite, out, seconds, root, only), stop_at(end) as late:
        for row in rows:
            try:
                if not late() and run_row(row, out, root, progress):
                    done.append(row.name)
            except KeyboardInterrupt:
                if not late():
                    raise
            except FloatingPointError as error:
                say(f"{row.name} is left out: {error}", sys.stderr)
    return done


def chosen(suite: str, only: str = "*") -> list[Row]:
    """The rows of a suite whose names fit a pattern."""
    rows = [row for row in suite_rows(suite) if fnmatch(row.name, only)]
    if not rows:
        some = ", ".join(row.name for row in suite_rows(suite)[:3])
        raise ValueError(f"no row of {suite} is called {only!r}; its rows are {some}, ...")
    return rows


def run_row(row: Row, out: Path, root: Any = None, progress: bool = True) -> bool:
    """Run one row to its end if it has no record; whether this process did."""
    folder = out / UNFINISHED / row.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            if row.is_done(out):
                return False
            if (wrong := row.differences(folder)) and progress:
                say(f"{row.name} was begun by another recipe ({wrong}) and begins anew")
            if wrong:
                shutil.rmtree(folder)
            say(f"{row.name}: {row.question}")
            train(
                row.recipe, folder, has_state(folder / "state"), data_root=root,
                execution=row.execution, progress=progress,
            )  # fmt: skip
            hand_over(folder, out / row.name)
            return True
    except Timeout:
        return False  # another process has it


def hand_over(folder: Path, place: Path) -> None:
    """Move what a finished run leaves behind; its state goes."""
    place.mkdir(parents=True, exist_ok=True)
    for name in LEFT_BEHIND:
        if (folder / name).exists():  # not where a move was interrupted before
            os.replace(folder / name, place / name)
    shutil.rmtree(folder)


@contextmanager
def stop_at(end: float | None) -> Iterator[Any]:
    """Interrupt this process, as Ctrl-C would, a little before `end`; gives whether it is late."""
    if end is None:
        yield lambda: False
        return
    left = end - time.monotonic()
    last = end - min(GRACE, left / 5)
    timer = threading.Timer(max(0.0, last - time.monotonic()), _thread.interrupt_main)
    timer.daemon = True
    timer.start()
    try:
        yield lambda: time.monotonic() >= last
    finally:
        timer.cancel()


@contextmanager
def helpers(
    count: int, suite: str, out: Path, seconds: float | None, root: Any, only: str
) -> Iterator[None]:
    """So many other processes with the same command, which end with this one."""
    words = ["experiments", suite, "--out", str(out), "--only", only, "--quiet"]
    words += ["--seconds", str(seconds)] if seconds is not None else []
    words += ["--root", str(root)] if root is not None else []
    started = [
        subprocess.Popen([sys.executable, "-m", "setr_lib", *words]) for _ in range(max(0, count))
    ]
    try:
        yield
        for process in started:
            process.wait()
    finally:
        for process in started:
            process.terminate()  # a run saves its state
            process.wait()


def process_seconds() -> float:
    """How long this process has been there: importing takes its time, too."""
    return time.time() - psutil.Process().create_time()


# ---- what is done, missing, and would cost


def status(row: Row, out: Path) -> str:
    """One word or two on a row: its score, where it stopped, or why its record does not count."""
    if row.is_done(out):
        last = row.record(out)["last"]
        return f"{100 * last['miou']:.1f} mIoU"
    if wrong := row.differences(out / row.name):
        return f"missing: its record has another recipe ({wrong})"
    if step := steps_done(row, out):
        return f"unfinished: step {step} of {row.recipe.total_steps}"
    return "missing"


def steps_done(row: Row, out: Path) -> int:
    """Of an unfinished run of this row."""
    file = out / UNFINISHED / row.name / "record.json"
    return read_json(file)["step"] if file.is_file() and not row.differences(file.parent) else 0


def suite_table(
    suite: str, out: str | os.PathLike[str] = RECORDS, root: Any = None, only: str = "*"
) -> str:
    """Every row with its status, under its question; what is missing with its minutes here."""
    lines, total, question, known = [], 0.0, "", dict[Recipe, Pace]()
    rows = chosen(suite, only)
    missing = [row for row in rows if not row.is_done(Path(out))]
    for row in rows:
        if row.question != question:
            question = row.question
            lines.append(question)
        text = f"  {row.name:44} {row.recipe.total_steps:6} steps  {status(row, Path(out))}"
        if row in missing:
            key = same_pace(row.recipe)
            if key not in known:
                known[key] = pace(key, row.execution, root)
            left = seconds_of(row.recipe, known[key]) * (
                1 - steps_done(row, Path(out)) / row.recipe.total_steps
            )
            total += left
            text += f", {left / 60:.1f} min"
        lines.append(text)
    count = f"{len(rows) - len(missing)} of {len(rows)} rows are done"
    here = f"; the others would take {total / 3600:.1f} h here, one after another"
    return "\n".join([*lines, count + (here if missing else "")])


class Pace(NamedTuple):
    """Seconds on this machine."""

    step: float
    image: float  # scored
    images: int  # that an evaluation scores
    start: float  # a step of what the encoder learns before


def same_pace(recipe: Recipe) -> Recipe:
    """The recipe without what changes no step's duration: rows that share it are measured once."""
    return replace(
        recipe, seed=0, class_weights=False, ema=0.0, lr=1e-3, head_lr_mult=1.0,
        head_scope="authors", total_steps=1000, warmup=0, evaluate_every=1000,
    )  # fmt: skip


def seconds_of(recipe: Recipe, found: Pace) -> float:
    """Of a whole run."""
    scored = -(-recipe.total_steps // recipe.evaluate_every) * found.images
    steps = recipe.total_steps * found.step + recipe.start_steps * found.start
    return steps + scored * found.image


def pace(recipe: Recipe, execution: RunOptions, root: Any = None, steps: int = 3) -> Pace:
    """Measure a few steps, after one that warms up, and a few scored images."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, Path(folder), root, execution, show=False)
        batches = run.batches(steps + 1)
        clock = [0.0]
        for _ in range(steps + 1):
            run.train_step([next(batches) for _ in range(run.accumulate)])
            run.read_losses()
            clock.append(time.monotonic())
        few = min(4, len(run.validation))
        for number in range(few):
            predict(run.model, run.validation[number][0], protocol=recipe.protocol)
        clock.append(time.monotonic())
        if recipe.start != "random":
            from .starts import begin

            begin(run, 1)
        start = time.monotonic() - clock[-1]
        return Pace(
            (clock[-2] - clock[1]) / steps,
            (clock[-1] - clock[-2]) / few,
            len(run.validation),
            start,
        )


# ---- what travels


def pack(
    suite: str, out: str | os.PathLike[str], folder: str | os.PathLike[str], networks: int = 7
) -> list[Path]:
    """What a machine that is given back must leave: all records in one file, the best networks.

    Args:
        folder: gets `SUITE.tar.gz` with `NAME/record.json` and `NAME/log.jsonl` of every row that
            is done, and the last weights of the best seed of the lines with the highest scores,
            in 16 bits: 11 to 14 MB each.
        networks: how many of those.

    Returns:
        The files.
    """
    out, folder = Path(out), Path(folder)
    done = [row for row in suite_rows(suite) if row.is_done(out)]
    with (
        whole_file(folder / f"{suite}.tar.gz") as temporary,
        tarfile.open(temporary, "w:gz") as archive,
    ):
        for row in done:
            for name in ("record.json", "log.jsonl"):
                archive.add(out / row.name / name, f"{row.name}/{name}")
    scores = {row: row.record(out)["last"]["miou"] for row in done}
    best: dict[str, Row] = {}  # of each line, the highest first
    for row in sorted(scores, key=lambda row: scores[row], reverse=True):
        if (out / row.name / "last.safetensors").is_file():
            best.setdefault(row.line, row)
    files = [folder / f"{suite}.tar.gz"]
    for row in [*best.values()][:networks]:
        model, about = load_checkpoint(out / row.name / "last.safetensors")
        files.append(folder / f"{row.name}.safetensors")
        known = {name: about[name] for name in ("classes", "palette", "recipe", "protocol", "step")}
        save_checkpoint(model, files[-1], bits=16, **known)
    return files


# ---- the same again


def repeat(
    name: str, out: str | os.PathLike[str] = RECORDS, root: Any = None, progress: bool = True
) -> list[str]:
    """Run a record's recipe once more, elsewhere, and compare every score with the record's.

    Args:
        name: of a folder in `out` with a `record.json`.

    Returns:
        Sentences on what differs; none on the same kind of machine.

    Raises:
        FileNotFoundError: if there is no such record.
    """
    file = Path(out) / name / "record.json"
    if not file.is_file():
        raise FileNotFoundError(f"there is no record {file} to repeat")
    old = read_json(file)
    known = {field.name for field in dataclasses.fields(RunOptions)}
    how = {fact: v for fact, v in old["sessions"][0].items() if fact in known}
    torch.set_num_threads(old["hardware"]["threads"])
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.from_dict(old["recipe"])
        new = train(recipe, folder, data_root=root, progress=progress, **how)
    return list(unlike(old, new))


def unlike(old: dict[str, Any], new: dict[str, Any]) -> Iterable[str]:
    """Where two records of one recipe do not have the same scores to the last digit."""
    for was, now in zip(old["evaluations"], new["evaluations"], strict=True):
        for fact in ("step", "miou", "iou", "accuracy"):
            if was.get(fact) != now.get(fact):
                yield f"step {was['step']}: {fact} was {was.get(fact)} and is {now.get(fact)}"
    if old["last"]["counts"] != new["last"]["counts"]:
        yield "the confusion matrices at the end differ"
    if old["hardware"] != new["hardware"]:
        yield f"the machine was {old['hardware']} and is {new['hardware']}"
