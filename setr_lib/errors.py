"""Words for mistakes that many rooms of the library meet."""

import difflib
from collections.abc import Iterable


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
