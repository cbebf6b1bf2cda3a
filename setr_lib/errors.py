"""Words for mistakes that many rooms of the library meet, and how they are said."""

import difflib
import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm.auto import tqdm


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown model 'setr_pup_larg': did you mean setr_pup_large? Known: ...`"""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=2, cutoff=0.6)
    hint = f": did you mean {' or '.join(near)}?" if near else "."
    return f"unknown {what} {name!r}{hint} Known: {few(known, 10)}"


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
