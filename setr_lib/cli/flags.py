"""Flags of the command line, made from the fields of a dataclass and what its docstring says."""

import argparse
import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

ALSO = {"dataset": ("--data",)}  # other words for a field


def add_flags(
    parser: argparse.ArgumentParser, kind: type, title: str, whose: str = "", without: str = ""
) -> None:
    """A flag for every field: its type is the annotation's, its help the docstring's.

    Args:
        kind: a dataclass whose docstring has a section "Args:".
        title: of the group that the flags are shown in.
        whose: whose value holds where a flag is not given; empty: the default of the field.
        without: names of fields that get none.
    """
    group = parser.add_argument_group(title)
    docs = field_docs(kind)
    for field in dataclasses.fields(kind):
        if field.name in without.split():
            continue
        default = "" if field.default is dataclasses.MISSING else _plain(field.default)
        text = f"{docs[field.name].rstrip('.')}. Default: {whose or default}"
        if whose and default:
            text += f" (where it says nothing, {default})"
        flags = [f"--{field.name.replace('_', '-')}", *ALSO.get(field.name, ())]
        help_text = text.replace("%", "%%")
        group.add_argument(
            *flags,
            dest=field.name,
            default=argparse.SUPPRESS,
            help=help_text,
            **_reading(field.type),
        )


def given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of a dataclass whose flags were given."""
    found = {f.name: f.type for f in dataclasses.fields(kind) if hasattr(options, f.name)}
    return {name: _value(name, getattr(options, name), kind) for name, kind in found.items()}


def field_docs(kind: type) -> dict[str, str]:
    """What the section "Args:" of a dataclass' docstring says of each field."""
    text = (inspect.getdoc(kind) or "").partition("Args:\n")[2]
    entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {5,}.*)*)", text, re.M)
    return {name: " ".join(doc.split()) for names, doc in entries for name in names.split(", ")}


def a_path(text: str) -> Path:
    """A path, as the type of a flag: `~` is the home folder; none at all is a mistake."""
    if not text:  # an unset variable of a shell
        raise argparse.ArgumentTypeError("an empty path; name a file or a folder")
    return Path(text).expanduser()


def between(low: float, high: float, kind: type = int) -> Callable[[str], Any]:
    """A number from `low` to `high`, as the type of a flag."""

    def read(text: str) -> Any:
        value = _number(kind, text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value

    return read


def size_of(values: Sequence[int], flag: str = "--image-size") -> tuple[int, int]:
    """One number, or rows and columns, of a flag."""
    if len(values) > 2:
        raise ValueError(f"{flag} {' '.join(map(str, values))}: give one number, or two")
    return values[0], values[-1]


def _reading(annotation: Any) -> dict[str, Any]:
    """How argparse reads a type: `int`, `str | None`, `bool`, `tuple[float, float]`, ..."""
    kind, optional, parts = _kind(annotation)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    one = parts[0] if parts else kind

    def read(text: str) -> Any:
        return None if optional and text == "none" else _number(one, text)

    count = {"nargs": "+" if optional else len(parts)} if parts else {}
    return {"type": read, "metavar": one.__name__.upper(), **count}


def _kind(annotation: Any) -> tuple[Any, bool, tuple[Any, ...]]:
    """The type less None, whether None is possible, and the types of a tuple's parts."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    (kind,) = (k for k in kinds if k is not NoneType)
    return kind, NoneType in kinds, get_args(kind) if get_origin(kind) is tuple else ()


def _value(name: str, value: Any, annotation: Any) -> Any:
    parts = _kind(annotation)[2]
    if not parts or value == [None]:
        return None if parts else value
    if len(value) != len(parts) or None in value:
        flag = name.replace("_", "-")
        raise ValueError(f"--{flag} takes {len(parts)} numbers, or none; it has {len(value)}")
    return tuple(value)


def _number(kind: type, text: str) -> Any:
    """Text as an `int`, a `float`, or itself, where `~` is the home folder."""
    try:
        return os.path.expanduser(text) if kind is str else kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no {kind.__name__}") from None


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
