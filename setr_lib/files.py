"""Files that are whole or absent, values that are checked, and words for mistakes."""

import difflib
import hashlib
import json
import operator
import os
import platform
import secrets
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import psutil
from tqdm.auto import tqdm

HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # a folder may be shared between machines
OPEN: set[Path] = set()  # temporaries of this process
SWEPT: set[Path] = set()  # folders in which this process has looked for those of dead ones


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it there when the block ends well.

    If the block raises, or the process dies, `path` is what it was before. A file that is there
    keeps its mode, and a symbolic link goes on pointing to it.

    Raises:
        OSError: if it cannot be written; the error has the name of `path`, not the temporary's.
    """
    path = Path(os.path.realpath(path))
    owner = f"part-{HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    # The ending stays, as libraries choose the format by it; names have at most 255 bytes.
    temporary = path.with_name(f".{path.name[:40]}.{owner}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode if path.exists() else None
        clear_dead(path.parent)
        OPEN.add(temporary)
        temporary.touch(0o666 if mode is None else 0o600, exist_ok=False)  # less the umask
        yield temporary
        with open(temporary, "r+b") as file:  # Windows synchronises only what may be written
            os.fsync(file.fileno())
        if mode is not None:
            with suppress(OSError):  # some mounts know no modes; that is no reason to lose the file
                temporary.chmod(mode & 0o7777)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        OPEN.discard(temporary)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def clear_dead(folder: Path) -> None:
    """Delete the temporaries that dead processes of this machine have left in a folder.

    A process looks once in each folder.
    """
    if folder in SWEPT:
        return
    SWEPT.add(folder)
    for temporary in folder.glob(f".*.part-{HOST}-*-*"):
        pid = temporary.name.rpartition(f".part-{HOST}-")[2].partition("-")[0]
        mine = pid == str(os.getpid())  # of a dead process, too, where numbers are given again
        if pid.isdigit() and (temporary not in OPEN if mine else not psutil.pid_exists(int(pid))):
            temporary.unlink(missing_ok=True)


def clear_leftovers(path: Path) -> None:
    """Delete every temporary beside `path`. Only for who knows that nobody is writing it."""
    for temporary in path.parent.glob(f".{path.name}.*{path.suffix}"):
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    with whole_file(path) as temporary:
        text = json.dumps(value, indent=1, allow_nan=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; a file that is none is named in the error."""
    return parse_json(Path(path).read_bytes(), path)


def parse_json(text: str | bytes, source: object) -> Any:
    """The value of a JSON text; where it is none, `source` is named.

    Raises:
        ValueError: if it is no JSON, no UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not readable as JSON ({error})") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown model 'setr_pup_larg': did you mean setr_pup_large? Known: ...`"""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=2, cutoff=0.6)
    hint = f": did you mean {' or '.join(near)}?" if near else "."
    return f"unknown {what} {name!r}{hint} Known: {few(known, 10)}"


OLD_WORDS = {  # of recipes, logs and states of version 0.1 -> today's
    "rate": "lr", "floor": "min_lr", "schedule": "total_steps", "ratios": "ratio_range",
    "optimiser": "optimizer", "head_factor": "head_lr_mult",
}  # fmt: skip


def in_field_words(facts: dict[str, Any]) -> dict[str, Any]:
    """Named values of an older file under today's names, which are the field's."""
    return {OLD_WORDS.get(name, name): value for name, value in facts.items()}


def as_count(value: Any, what: str, least: int = 1) -> int:
    """A whole number of at least `least`, numpy's too; no bool and no float, else ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be a whole number")
    if number < least:
        raise ValueError(f"{what} is {number}; it must be at least {least}")
    return number


def as_switch(value: Any, what: str) -> bool:
    """True or False, else ValueError: 1 or "no" would pass for True."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be True or False")
    return value


def few(names: list[str], most: int = 6) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reason(error: BaseException) -> str:
    """An error in one line; of one that comes from a DataLoader's worker, without its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught ") and ": " in lines[-1]:
        return lines[-1].partition(": ")[2]
    return lines[0]


def say(text: str, file: TextIO | None = None) -> None:
    """A line on the standard output, or `file`, above any bar; letters it lacks are escaped.

    On Windows, output that goes to a file or a pipe takes the letters of one code page only.
    """
    file = file or sys.stdout
    encoding = getattr(file, "encoding", None) or "utf-8"
    tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=file)
