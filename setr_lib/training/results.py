"""What the records of a suite say: means over seeds, how sure they are, and what is separated.

    rows = {row.name: row for row in results("camvid-cpu")}
    rows["pup"].mean, rows["pup"].interval, rows["pup"].gflops
    compare(rows["pup"], rows["naive"])         # +1.3 (-0.4 to 3.0): not separated

A score is that of the end of the schedule: the best of several looks at val would be chosen by it.
"""

import functools
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..costs import Costs, costs
from ..geometry import Size
from ..weights.config import make_network
from .record import RECORDS
from .suites import Row, suite_rows

LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Result:
    """A line of the table with all its seeds.

    Args:
        name: of the line.
        question: that it helps to answer.
        scores: mIoU on val at the end of the schedule, in percent, by seed.
        missing: seeds that have no record yet.
        seconds: of a run, its evaluations included, on average; None without records.
        start: of those, what the encoder's start cost; 0 where it is random.
        machine: the GPU, or the processor and how many threads of it; "" without records.
        parameters: of encoder and main head, as it is used after the training.
        gflops: of a forward pass on one image of the edition.
        training_gib: of activations per image in a training step.
    """

    name: str
    question: str
    scores: dict[int, float]
    missing: tuple[int, ...]
    seconds: float | None
    start: float
    machine: str
    parameters: int
    gflops: float
    training_gib: float

    @property
    def mean(self) -> float:
        """Over the seeds; NaN without records."""
        return statistics.fmean(self.scores.values()) if self.scores else math.nan

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds; NaN of fewer than two."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the mean of many seeds lies with 95 % confidence (Student's t)."""
        return t_interval([*self.scores.values()])


class Comparison(NamedTuple):
    """How much better one row is than another, seed by seed."""

    difference: float  # mean, in points of mIoU
    interval: tuple[float, float]
    seeds: int

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.interval
        return low > 0 or high < 0

    def __str__(self) -> str:
        low, high = self.interval
        word = "separated" if self.separated else "not separated"
        return f"{self.difference:+.1f} ({low:+.1f} to {high:+.1f}, {self.seeds} seeds): {word}"


def results(suite: str, out: str | os.PathLike[str] = RECORDS) -> list[Result]:
    """Every line of a suite, in the order of the table.

    Args:
        out: the folder of the records.

    Raises:
        ValueError: for an unknown suite, and for a record whose recipe is not the code's: its
            number would stand beside others that it cannot be compared with.
    """
    lines: dict[str, list[Row]] = {}
    for row in suite_rows(suite):
        lines.setdefault(row.line, []).append(row)
    return [result(rows, Path(out)) for rows in lines.values()]


def result(rows: Sequence[Row], out: Path) -> Result:
    """One line, from its rows."""
    for row in rows:
        if wrong := row.differences(out / row.name):
            raise ValueError(
                f"the record {out / row.name} is not of the code's recipe ({wrong}); run it again: "
                f"python -m setr_lib experiments {row.suite} --only {row.name}"
            )
    found = {row.recipe.seed: row.record(out) for row in rows if row.is_done(out)}
    starts = [r["sessions"][0].get("start", {}).get("seconds", 0.0) for r in found.values()]
    seconds = [r["seconds"] + s for r, s in zip(found.values(), starts)]
    recipe = rows[0].recipe
    cost = cost_of(recipe.config, recipe.crop)
    return Result(
        name=rows[0].line,
        question=rows[0].question,
        scores={seed: 100 * record["last"]["miou"] for seed, record in found.items()},
        missing=tuple(row.recipe.seed for row in rows if row.recipe.seed not in found),
        seconds=statistics.fmean(seconds) if seconds else None,
        start=statistics.fmean(starts) if starts else 0.0,
        machine="; ".join(sorted({machine(record) for record in found.values()})),
        parameters=sum(n for part, n in cost.parameters.items() if part != "auxiliary heads"),
        gflops=cost.gflops,
        training_gib=cost.training_gib,
    )


def compare(one: Result, other: Result) -> Comparison:
    """By how much `one` is better, paired by seed: both have seen the same crops in one order.

    Raises:
        ValueError: if they have fewer than two seeds in common.
    """
    seeds = sorted(one.scores.keys() & other.scores.keys())
    if len(seeds) < 2:
        raise ValueError(
            f"{one.name} and {other.name} have {len(seeds)} seeds in common; two are needed"
        )
    apart = [one.scores[seed] - other.scores[seed] for seed in seeds]
    return Comparison(statistics.fmean(apart), t_interval(apart), len(seeds))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean plus and minus t times the standard error; infinite of fewer than two values."""
    from scipy import stats  # half a second that nothing else needs

    if len(values) < 2:
        return -math.inf, math.inf
    t = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    mean, half = statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


@functools.cache
def cost_of(config: Any, size: Size) -> Costs:
    """What a network costs, counted once."""
    return costs(lambda: make_network(config), size)


def machine(record: dict[str, Any]) -> str:
    """Where a record was made."""
    hardware = record["hardware"]
    return hardware.get("gpu") or f"{hardware['threads']} threads of {hardware['processor']}"


def answers(suite: str, out: str | os.PathLike[str] = RECORDS) -> str:
    """The whole suite as a table in words, for a terminal."""
    lines, question = [], ""
    for row in results(suite, out):
        if row.question != question:
            question = row.question
            lines.append(question)
        low, high = row.interval
        score = f"{row.mean:5.1f} ({low:.1f} to {high:.1f})" if len(row.scores) > 1 else ""
        lines.append(
            f"  {row.name:24} {score or f'{row.mean:5.1f}':24} {row.parameters / 1e6:6.2f} M "
            f"{row.gflops:7.2f} GFLOP {row.training_gib:6.2f} GiB "
            f"{(row.seconds or 0) / 60:6.1f} min"
            + (f"  missing: seeds {row.missing}" if row.missing else "")
        )
    return "\n".join(lines)
