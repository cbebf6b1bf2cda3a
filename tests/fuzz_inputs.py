"""What the malformed inputs of tests/test_fuzz.py have in common: chance, mutations, commands.

Chance is `default_rng([SEED, n])` alone, so that every case can be made again. What a case calls
either gives the right result, raises `Wrong`, or refuses with an error that names the file.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from setr_lib.__main__ import main

SEED = 20261127
Content = bytes | Callable[[Path], Any]  # what is written, or a function that makes the file


class Wrong(Exception):
    """What must not happen: another result without a word."""


class Case(NamedTuple):
    """One malformed input.

    Attributes:
        files: name -> content, in a folder of its own, where the calls are made.
        calls: each of them is judged.
        must: "work", "fail" or "" (both are right).
        named: words of which an error must hold one; by default the names of the files.
        outputs: what a call may write when it succeeds.
    """

    name: str
    files: dict[str, Content]
    calls: tuple[Callable[[], Any], ...]
    must: str = ""
    named: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def chance(n: int) -> np.random.Generator:
    return np.random.default_rng([SEED, n])


def wrong_unless(right: bool, what: str) -> None:
    if not right:
        raise Wrong(what)


MUTATIONS = ("whole", "cut", "bit", "bytes", "zeros", "removed", "doubled", "in front", "behind")


def mutate(data: bytes, how: str, rng: np.random.Generator) -> bytes:
    """`data` changed somewhere, half of the time in its first 200 bytes."""
    end = len(data) if rng.random() < 0.5 else min(200, len(data))
    at, length = int(rng.integers(end)), int(rng.integers(1, 64))
    changed = bytearray(data)
    if how == "bit":
        changed[at] ^= 1 << int(rng.integers(8))
    if how == "bytes":
        changed[at : at + 8] = rng.bytes(len(changed[at : at + 8]))
    if how == "zeros":
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    return {
        "cut": data[:at], "removed": data[:at] + data[at + length :], "behind": data + b"\0" * 9,
        "doubled": data[: at + length] + data[at:], "in front": b"\xff\0" + data,
    }.get(how, bytes(changed))  # fmt: skip


def command(*words: str) -> Callable[[], None]:
    """A command line: exit status 0, or 2 and one line on stderr, which becomes a ValueError."""

    def call() -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            try:
                status = main(list(words))
            except SystemExit as stop:  # argparse's
                status = stop.code
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        notes = ("usage: ", " ", "using ", "protocol: ")
        lines = [line for line in lines if not line.startswith(notes)]
        wrong_unless(status in (0, 2), f"exit status {status}")
        if status == 2:
            wrong_unless(len(lines) == 1, f"not one line on stderr: {lines}")
            raise ValueError(lines[0])

    return call


def written(write: Callable[[str], Any], suffix: str = "") -> bytes:
    """What `write(path)` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"it{suffix}"
        write(str(path))
        return path.read_bytes()


def picture(mode: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Noise with smooth parts, in a Pillow mode; `size` is columns and rows."""
    rng = chance(0)
    grey = (np.linspace(0, 200, size[0]) + rng.integers(0, 55, size[::-1])).astype(np.uint8)
    rgb = Image.fromarray(np.stack([grey, grey[::-1], 255 - grey], 2))
    if mode in ("I;16", "F"):
        return Image.fromarray(grey.astype({"I;16": np.uint16, "F": np.float32}[mode]))
    return rgb.convert(mode)


def encoded(mode: str, form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """`image`, or noise, as the bytes of a file."""
    file = io.BytesIO()
    (image or picture(mode)).save(file, form, **options)
    return file.getvalue()
