"""`classes.txt`: the classes of a user's own data, in one of the forms that tools write.

One class per line, the value 0 first. The forms of a line:

    road                        a name
    road 128 64 128             with its colour: red, green, blue; to all classes or to none
    "zone 1", 128, 64, 128      commas, semicolons and tabs too; quotes around an unclear name
    road:128,64,128::           a label map of CVAT
    ignore                      no class: this value is not scored (with or without a colour)
    # road                      a comment: does not count as a line

What could be meant in two ways is an error that shows the line.
"""

# K classes

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..files import few
from ..geometry import IGNORE
from .classes import Palette, spread_palette
from .files import read_text

Row = tuple[str, tuple[int, int, int] | None]
NUMBER = r"[-+]?\d[\d.]*"
LINE = re.compile(rf'(?:"([^"]*[^"\s][^"]*)"|([^"].*?))((?:[\s,;]+{NUMBER})*)')
CVAT = re.compile(r"^([^:\"]+):([\d, ]*):[^:]*:[^:]*$")
COUNTED = re.compile(r"(\d{1,3})[\s,;:.)]+(?=[^\d\s])")  # `0: road`
HEADERS = ("name", "names", "class", "classes", "class_name", "label", "labels")


@dataclass(frozen=True)
class ClassList:
    """What a `classes.txt` says.

    Attributes:
        classes: K names.
        palette: RGB per class; spread over the hues where the file gives none.
        table: the class, or 255, for each value of a label file.
        colours: RGB per value, by which colour-coded labels are read; empty if the file gives none.
        note: the values that are not scored, for messages.
    """

    classes: tuple[str, ...]
    palette: Palette
    table: tuple[int, ...]
    colours: Palette
    note: str


def read_class_list(file: Path) -> ClassList:
    """Read a `classes.txt`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it can be understood in two ways or names less than two classes.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}; write one class name per line, in the order of their numbers in "
            "the labels, the class 0 first"
        )
    rows = _rows(file)
    found = [name for name, _ in rows if name != "ignore"]
    twice = sorted(name for name, count in Counter(found).items() if count > 1)
    if len(found) < 2:
        raise ValueError(
            f"{file} names {len(found)} classes; name all there are, the background too, which is "
            "the class 0 in most masks: with less than two there is nothing to tell apart"
        )
    if twice:
        raise ValueError(
            f"{file} names {few(twice)} more than once; every class has its own name (three "
            'numbers at the end are a colour; put a name that ends so in quotes: "zone 1 2 3")'
        )
    bare = [name for name, colour in rows if colour is None]
    colours = tuple(colour for _, colour in rows if colour)
    if colours and bare:
        raise ValueError(
            f"{file} gives colours to {len(colours)} of {len(rows)} classes; to all or to none. "
            f"Without is {bare[0]!r}: a header? Start its line with #"
        )
    table, classes = [], 0
    for name, _ in rows:
        table.append(IGNORE if name == "ignore" else classes)
        classes += name != "ignore"
    kept = tuple(colour for value, colour in zip(table, colours) if value != IGNORE)
    ignored = [str(value) for value, k in enumerate(table) if k == IGNORE]
    return ClassList(
        classes=tuple(found),
        palette=kept or tuple(spread_palette(classes)),
        table=tuple(table),
        colours=colours if len(set(colours)) == len(colours) else (),
        note=f"{', '.join(ignored)} is ignored, " if ignored else "",
    )


def _rows(file: Path) -> list[Row]:
    """Name and colour of every value from 0 on."""
    text = read_text(file).rstrip().split("\n")
    numbered = [(n, line.strip(" \t")) for n, line in enumerate(text, 1) if line[:1] != "#"]
    if len(numbered) > IGNORE:
        raise ValueError(f"{file} names {len(numbered)} classes; labels of 8 bits hold at most 255")
    counted = [COUNTED.match(line) for _, line in numbered]
    if all(counted):
        if [int(count[1]) for count in counted if count] != list(range(len(numbered))):
            raise ValueError(
                f"{file} numbers its lines, but not 0, 1, 2, ...: leave the numbers out (or put "
                "names that begin with a number in quotes)"
            )
        numbered = [(n, line[c.end() :]) for (n, line), c in zip(numbered, counted) if c]
    rows = []
    for number, line in numbered:
        try:
            rows.append(_row(line))
        except ValueError as error:
            raise ValueError(
                f"{file} has {error} in line {number}: {line[:60]!r}. A line is a class name, or a "
                "name and its colour: road 128 64 128"
            ) from None
    if rows and rows[0][0].lower() in HEADERS:
        raise ValueError(f"{file} begins with {rows[0][0]!r}: a header? Start its line with #")
    return rows


def _row(line: str) -> Row:
    """Name and colour in a line; an error says what is unclear about it."""
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in line.replace("\t", " ")):
        raise ValueError("a control character (is it in UTF-8?)")
    if not line:
        raise ValueError("nothing")
    if len(line) > 200:
        raise ValueError("more than 200 letters")
    line = CVAT.sub(r'"\1" \2', line)
    found = LINE.fullmatch(line)
    if not found:
        raise ValueError("something other than a name and a colour of three numbers")
    quoted, name, end = found.groups()
    numbers = re.findall(NUMBER, end)
    if quoted is None and len(numbers) in (1, 2) and not re.fullmatch(NUMBER, name):
        name, numbers = name + end, []  # as in "lane 2"
    if len(numbers) not in (0, 3):
        raise ValueError(
            f"{len(numbers)} numbers; a colour has three (a name that ends in numbers: in quotes)"
        )
    if any(not re.fullmatch(r"\d{1,3}", number) or int(number) > 255 for number in numbers):
        raise ValueError("a colour above 255 or not in whole numbers")
    if quoted is None and re.search(r"[,;\t]|\s#", name):
        raise ValueError("more than a name (a name with a comma or #: in quotes)")
    red, green, blue = map(int, numbers or (0, 0, 0))
    return (quoted or name).strip(), (red, green, blue) if numbers else None
