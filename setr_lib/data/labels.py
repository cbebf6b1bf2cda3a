"""Labels as people have them, named, and written as class numbers: what `convert-labels` does.

Masks of 0 and 255, grey steps, numbers that start at 1, colours: each is a table from what is in
the files to class numbers. Classes may be merged, left out or named anew on the way.
"""

# H W image rows and columns, K classes

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import few, unknown, whole_file
from ..geometry import IGNORE
from .classlist import ClassList, read_class_list
from .files import list_images, read_label, subfolders

Table = tuple[int, ...]  # of 256 values, the class of each, 255 where there is none


@dataclass(frozen=True)
class Form:
    """In which form labels are.

    Attributes:
        words: what it is, for messages.
        table: the class of each of 256 values; None: it takes a person to say.
    """

    words: str
    table: Table | None

    @property
    def converts(self) -> bool:
        """Whether the files have to be written anew."""
        return self.table != tuple(range(256))


def find_form(values: Sequence[int], classes: Sequence[str]) -> Form:
    """What the values in all labels of a data set say about how they were written.

    Args:
        values: those that occur, 0 to 255.
        classes: K names, the class 0 first.
    """
    seen, count = sorted(set(values)), len(classes)
    known = [value for value in seen if value != IGNORE]
    shown = few([str(value) for value in seen], 12)
    if seen == [0, IGNORE] and count == 2:
        return Form("masks of 0 and 255", table_of({0: 0, 255: 1}))
    if not known or known[-1] < count:
        return Form("class numbers", tuple(range(256)))
    if known[0] > 0 and known[-1] <= count:
        words = f"class numbers that start at 1 ({shown})"
        return Form(words, table_of({value: value - 1 for value in known}))
    if len(seen) == count:
        words = f"{count} grey steps ({shown})"
        return Form(words, table_of({value: k for k, value in enumerate(seen)}))
    if known[-1] == count:
        return Form(
            f"the numbers {shown} for {count} classes: either 0 is no class (--map 0=ignore "
            f"{' '.join(f'{k + 1}={k}' for k in range(min(count, 3)))} ...), or classes.txt lacks "
            "the background in its first line",
            None,
        )
    return Form(f"the values {shown}, which are not the {count} classes of classes.txt", None)


def table_of(pairs: Mapping[int, int]) -> Table:
    """A table with the given classes, and 255 for every other value."""
    return tuple(pairs.get(value, IGNORE) for value in range(256))


def label_values(files: Sequence[Path], colours: Sequence[tuple[int, int, int]] = ()) -> list[int]:
    """The values that occur in label files, sorted; files that cannot be read are passed over."""
    seen = np.zeros(256, bool)
    for file in files:
        try:
            seen[np.unique(read_label(file, colours))] = True
        except (ValueError, OSError):
            continue
    return np.flatnonzero(seen).tolist()


def convert_labels(
    source: Path, target: Path, changes: Sequence[str] = ()
) -> tuple[Form, tuple[str, ...], int]:
    """Write a data set folder whose labels are class numbers; the source stays as it is.

    Args:
        source: with `images/`, `labels/` and `classes.txt`.
        target: a new folder of that form. Its images are hard links where that is possible.
        changes: `OLD=NEW`: a value of the files or a class by its name becomes a class, by number
            or name, or `ignore`. A new name is a new class, and two classes with one are merged.

    Returns:
        The form that was found, the classes that are left, and the number of labels.

    Raises:
        ValueError: if the form is unclear, or a change names what is not there.
        OSError: if the target exists or cannot be written.
    """
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is there already; name a new folder")
    listed = read_class_list(source / "classes.txt")
    folders = subfolders(source / "labels") or ("",)
    files = [file for name in folders for file in list_images(source / "labels" / name)]
    if not files:
        raise FileNotFoundError(f"{source / 'labels'} holds no label")
    values, classes, numbers = _parse(changes, listed)
    form = Form("as --map says", table_of(values))
    if not values:
        form = find_form(label_values(files, listed.colours), names_of_values(listed))
    if form.table is None:
        raise ValueError(f"{source / 'labels'} holds {form.words}; say with --map what is what")
    by_value = (*listed.table, *[IGNORE] * (256 - len(listed.table)))
    table = form.table if values else tuple(by_value[value] for value in form.table)
    last = np.array([numbers.get(k, IGNORE) for k in table], np.uint8)
    for file in files:
        label = last[read_label(file, listed.colours)]
        out = (target / file.relative_to(source)).with_suffix(".png")
        with whole_file(out) as temporary:
            Image.fromarray(label).save(temporary)
    _link_images(source / "images", target / "images")
    for listing in sorted((source / "splits").glob("*.txt")):  # the same images in each split
        with whole_file(target / "splits" / listing.name) as temporary:
            shutil.copyfile(listing, temporary)
    _write_classes(target / "classes.txt", classes, listed)
    return form, classes, len(files)


def names_of_values(listed: ClassList) -> list[str]:
    """What each value from 0 on is, of a list that may leave some out."""
    return [listed.classes[k] if k != IGNORE else "ignore" for k in listed.table]


def _parse(
    changes: Sequence[str], listed: ClassList
) -> tuple[dict[int, int], tuple[str, ...], dict[int, int]]:
    """Old class of each value that is named; new classes; new number of each old class."""
    values: dict[int, int] = {}
    renamed = dict(enumerate(listed.classes))
    for change in changes:
        old, _, new = change.partition("=")
        if not (old and new):
            raise ValueError(f"--map {change}: say OLD=NEW, as 255=1, car=vehicle or sky=ignore")
        name = listed.classes[int(new)] if new.isdecimal() and int(new) < len(renamed) else new
        if name.isdecimal():
            raise ValueError(
                f"--map {change}: there are {len(renamed)} classes, 0 to {len(renamed) - 1}"
            )
        if old.isdecimal():
            if int(old) > IGNORE or (name not in listed.classes and name != "ignore"):
                raise ValueError(
                    f"--map {change}: a value of 0 to 255 becomes one of the classes "
                    f"{few(list(listed.classes))}, or ignore"
                )
            values[int(old)] = IGNORE if name == "ignore" else listed.classes.index(name)
        elif old in listed.classes:
            renamed[listed.classes.index(old)] = name
        else:
            raise ValueError(f"--map {change}: " + unknown("class", old, listed.classes))
    classes = tuple(dict.fromkeys(name for name in renamed.values() if name != "ignore"))
    if len(classes) < 2:
        raise ValueError(
            f"{len(classes)} classes would be left, {few(list(classes))}; at least two"
        )
    if values:  # what is not named stays what it is
        values = {value: k for value, k in enumerate(listed.table)} | values
    numbers = {k: classes.index(name) for k, name in renamed.items() if name != "ignore"}
    return values, classes, numbers


def _write_classes(file: Path, classes: Sequence[str], listed: ClassList) -> None:
    """A `classes.txt`; a class that keeps its name keeps its colour."""
    colours = dict(zip(listed.classes, listed.palette))
    kept = [(name, colours.get(name) or (64, 64 + k % 192, 160)) for k, name in enumerate(classes)]
    lines = [f'"{name}" {red} {green} {blue}\n' for name, (red, green, blue) in kept]
    with whole_file(file) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _link_images(source: Path, target: Path) -> None:
    for name in subfolders(source) or ("",):
        (target / name).mkdir(parents=True, exist_ok=True)
        for file in list_images(source / name):
            try:
                os.link(file, target / name / file.name)
            except OSError:  # another disk, or one that knows no links
                shutil.copyfile(file, target / name / file.name)
