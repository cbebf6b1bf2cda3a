"""Malformed files and commands end in the right result or in one error that names what is wrong.

Each case runs in a process of its own with 2 GB, 10 seconds, and a watch on programs and sockets:
no traceback, no crash, no half-written file. Repeat a family, or one case with its traceback:

    python tests/test_fuzz.py FAMILY [NUMBER]
"""

import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from fuzz_checkpoints import FAMILIES as CHECKPOINTS
from fuzz_files import FAMILIES as FILES
from fuzz_inputs import Case, Wrong
from fuzz_runs import FAMILIES as RUNS

ROOT = Path(__file__).resolve().parent.parent
BYTES, SECONDS = 2 << 30, 10
ENDS = ("SIGPROF", "SIGALRM")
PROGRAMS = {"git", "uname"}  # a record says which commit ran on which machine
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo")


def faults() -> Iterator[Case]:
    """What the judge has to see, by the word that it has to say."""

    def refuse(error: Exception) -> None:
        raise error

    def leave() -> None:
        Path("half").write_bytes(b"x")
        raise ValueError("a.txt is damaged")

    for word, call in {
        "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "no end": lambda: (signal.setitimer(signal.ITIMER_REAL, 0.1), signal.pause()),
        "MemoryError": lambda: bytearray(BYTES * 9 // 8),
        "started gs": lambda: subprocess.run(["gs", "--version"]),
        "os.system": lambda: os.system("true"),
        "TypeError": lambda: refuse(TypeError("a.txt")),
        "unnamed": lambda: refuse(ValueError("it is damaged")),
        "left": leave,
        "accepted": lambda: None,
        "other weights": lambda: refuse(Wrong("other weights")),
    }.items():
        yield Case(word, {"a.txt": b"x"}, (call,), "fail")


FAMILIES = {**CHECKPOINTS, **FILES, **RUNS}


# ---- in the tests


@pytest.fixture(scope="module")
def judge() -> Iterator[subprocess.Popen]:
    """A process that has imported everything and has one thread: every case is forked from it."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__], stdin=-1, stdout=-1, text=True, env=surroundings
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def ask(judge: subprocess.Popen, family: str) -> dict[str, Any]:
    print(family, file=judge.stdin, flush=True)
    return json.loads(judge.stdout.readline())


@pytest.mark.parametrize("family", FAMILIES)
def test_malformed_input_is_named(judge, family):
    """The right result, or one error that names the file or flag; nothing half-written."""
    found = ask(judge, family)
    assert not found["failed"], "\n".join([f"{len(found['failed'])} failed:", *found["failed"]])


def test_the_judge_sees_every_kind_of_fault(judge):
    for line in ask(judge, "faults")["failed"]:
        _, word, _, verdict = line.split(": ", 3)
        assert word in verdict, line


def test_there_are_more_than_300_cases(judge):
    assert sum(ask(judge, f"count {family}")["cases"] for family in FAMILIES) > 300


# ---- in the judge


def serve() -> None:
    """Families from standard input, one a line; the answers as JSON."""
    for line in sys.stdin:
        *count, family = line.split()
        cases = list({"faults": faults, **FAMILIES}[family]())
        failed = [] if count else [line for n, c in enumerate(cases) for line in run(family, n, c)]
        print(json.dumps({"cases": len(cases), "failed": failed}), flush=True)


def run(family: str, number: int, case: Case, aloud: bool = False) -> list[str]:
    """One case in a process and a folder of its own; what went wrong, a line for each call."""
    with tempfile.TemporaryDirectory() as folder:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                inside(case, Path(folder), writing, aloud)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = [json.loads(line) for line in pipe]
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            said.append(f"no end in {SECONDS} s" if name in ENDS else f"killed by {name}")
    where = f"{family} {number}: {case.name}"
    return [f"{where}: call {n}: {verdict}" for n, verdict in enumerate(said) if verdict]


def inside(case: Case, folder: Path, pipe: int, aloud: bool) -> None:
    """The child: make the files, fence itself in, make the calls."""
    os.chdir(folder)
    for name, content in case.files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
    programs: list[str] = []

    def watch(event: str, arguments: Any) -> None:
        if event == "subprocess.Popen" and Path(str(arguments[0])).name not in PROGRAMS:
            programs.append(f"started {Path(str(arguments[0])).name}")
        elif event in WATCHED:
            programs.append(event)

    warnings.simplefilter("ignore")
    faulthandler.disable()
    if not aloud:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.addaudithook(watch)
    room = psutil.Process().memory_info().vms + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: others may use it, too
    signal.alarm(3 * SECONDS)  # of the clock: for what waits
    for call in case.calls:
        before = listing()
        verdict, done = verdict_on(case, call, aloud)
        changed = {name for name, state in listing().items() if before.get(name) != state}
        changed |= before.keys() - listing().keys()
        left = sorted(n for n in changed if not (done and n.startswith(case.outputs or ("/",))))
        verdict = verdict or (f"left or changed {', '.join(left)}" if left else "")
        verdict = "; ".join([*programs, verdict]) if programs else verdict
        os.write(pipe, (json.dumps(verdict) + "\n").encode())


def verdict_on(case: Case, call: Any, aloud: bool) -> tuple[str, bool]:
    """What is wrong with a call ("" if nothing), and whether it says that it succeeded."""
    try:
        call()
    except Wrong as error:
        return str(error), True
    except (ValueError, OSError) as error:
        if aloud:
            traceback.print_exc()
        what = f"{type(error).__name__}: {str(error)[:160]!r}"
        if not any(name in str(error) for name in case.named or case.files):
            return f"unnamed {what}", False
        return (f"refused {what}" if case.must == "work" else ""), False
    except BaseException as error:
        if aloud:
            traceback.print_exc()
        return f"{type(error).__name__}: {str(error)[:160]!r}", False
    return ("accepted" if case.must == "fail" else ""), True


def listing() -> dict[str, tuple[int, ...]]:
    """Every file below the folder with what changes when it is written; a lock is no content."""
    found = {}
    for top, _, names in os.walk("."):
        for path in (os.path.join(top, name) for name in names if name != "lock"):
            state = os.lstat(path)
            found[os.path.relpath(path)] = (state.st_size, state.st_mtime_ns, state.st_ino)
    return found


if __name__ == "__main__":
    import setr_lib.baselines.fcn  # noqa: F401  (timm takes seconds to import: once for all cases)

    torch.set_num_threads(1)
    if len(sys.argv) < 2:
        serve()
        sys.exit()
    for number, case in enumerate({"faults": faults, **FAMILIES}[sys.argv[1]]()):
        if len(sys.argv) == 2 or number == int(sys.argv[2]):
            print(
                "\n".join(run(sys.argv[1], number, case, len(sys.argv) > 2)) or f"{number}: right"
            )
