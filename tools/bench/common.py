"""How two ways of doing one thing are compared: in one process, turn by turn, by CPU time."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from setr_lib.costs import PeakMemory


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> dict[str, Any]:
    """Run both once per round, in alternating order, and compare their CPU times.

    CPU time, of all threads: another job on the machine changes it less than the time on the wall.
    Where other jobs hold the cores, run with OMP_NUM_THREADS=1: a thread that waits for another
    burns CPU time, most where there are many small steps, as in the lean loss.
    A first round warms up and does not count.

    Returns:
        `ratio`: ours over theirs, taken within each round, the median over the rounds; below 1 we
        are faster. `quartiles` of it, `rounds`, and the median seconds of both.
    """
    seconds: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
    for number in range(rounds + 1):
        for call in (ours, theirs) if number % 2 else (theirs, ours):
            start = time.process_time()
            call()
            seconds[call].append(time.process_time() - start)
    mine, other = seconds[ours][1:], seconds[theirs][1:]
    low, middle, high = statistics.quantiles([a / b for a, b in zip(mine, other)], n=4)
    return {
        "ratio": middle,
        "quartiles": [low, high],
        "rounds": rounds,
        "seconds": {"ours": statistics.median(mine), "theirs": statistics.median(other)},
    }


def added_memory(call: Callable[[], object]) -> int:
    """The most bytes of tensors that a call holds at one time beyond what was there before.

    The second call is counted: an optimiser makes its state in the first. What a kernel takes and
    gives back inside one operation is not seen, on neither side.
    """
    call()
    with PeakMemory() as memory:
        call()
    return memory.peak
