"""The words of the command line: its commands and their flags, each with what it means."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.download import ARCHIVES, GUIDES
from ..data.load import NAMES
from ..data.protocols import PROTOCOLS
from ..inference import PRECISIONS
from ..training.devices import RunOptions
from ..training.recipes import Recipe
from ..training.record import RECORDS
from ..training.suites import EDITIONS
from .flags import a_path, add_flags, between

Command = Callable[[argparse.Namespace], None]
Verb = Callable[..., argparse.ArgumentParser]  # its name, and the names of shared flags
ABOUT = """SETR, step by step. In a folder that you did not fill yourself, call it as `setr`, which
is there once the package is installed: `python -m setr_lib` asks Python to look there first."""
CHECKPOINT = "a checkpoint, or the folder of a run; the network of the book if not given"
SHARED: dict[str, dict[str, Any]] = {
    "root": {"type": a_path, "help": "the folder with the data sets; default: SETR_DATA, or data"},
    "split": {"default": "val", "help": "train, val, test, ...; default: val"},
    "protocol": {
        "help": f"how images are read: {', '.join(PROTOCOLS)}; default: the network's own, by "
        "which its training was scored; of one without, the paper's for its data sets"
    },
    "tta": {
        "action": "store_true",
        "help": "test-time augmentation: six scales and their mirror images",
    },
    "window": {
        "type": between(1, 65536),
        "nargs": "+",
        "metavar": "PIXELS",
        "help": "read images at their own size in windows of so many rows and columns; of more "
        "than 33 megapixels, predict writes the result as it goes, without a legend",
    },
    "stride": {
        "type": between(1, 65536),
        "nargs": "+",
        "metavar": "PIXELS",
        "help": "between the windows of --window; default: two thirds of them",
    },
    "blend": {
        "action": "store_true",
        "help": "windows count less towards their borders, so that no seam shows",
    },
    "precision": {
        "choices": list(PRECISIONS),
        "default": "fp32",
        "help": "of the network; 16 bits are faster on a GPU. default: fp32",
    },
    "device": {"help": "cpu, cuda, ...; default: a GPU if there is one"},
    "quiet": {"action": "store_true", "help": "no progress bar"},
}

READING = ("protocol", "tta", "window", "stride", "blend")


def make_parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        commands: functions called `_NAME`, whose docstrings say what they do; the options that are
            parsed have the one that was named as `run`.
    """
    runs = {run.__name__.removeprefix("_").replace("_", "-"): run for run in commands}
    parser = argparse.ArgumentParser(prog="setr", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"setr_lib {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def verb(name: str, *shared: str) -> argparse.ArgumentParser:
        text = (runs[name].__doc__ or "").strip()
        added = verbs.add_parser(name, help=text.splitlines()[0], description=text)
        added.set_defaults(run=runs[name])
        for flag in shared:
            names = ["--tta", "--ms"] if flag == "tta" else [f"--{flag}"]
            added.add_argument(*names, **SHARED[flag])
        return added

    for add_verbs in (_of_networks, _of_data, _of_runs, _of_scores):
        add_verbs(verb)
    return parser


def _of_networks(verb: Verb) -> None:
    sizes: dict[str, Any] = {"type": between(1, 65536), "nargs": "+", "metavar": "PIXELS"}
    add = verb("summary").add_argument
    add("model", nargs="?", help="for example setr_pup_large")
    add("--all", action="store_true", help="a table of every model")
    add("--image-size", **sizes, default=[512], help="one side, or rows and columns; default: 512")
    add("--classes", type=between(1, 65536), default=150, help="their number; default: 150")

    add = verb("convert").add_argument
    add("input", type=a_path, help="a checkpoint of the authors or of mmsegmentation")
    add("output", type=a_path, help="a safetensors file")
    add("--heads", type=between(1, 4096), help="attention heads; default: width / 64")
    add("--layers", type=int, nargs="+", help="0-based blocks that the heads read; default: the "
        "published ones of this depth")  # fmt: skip
    add("--image-size", **sizes, help="that the position table was made for; default: its square")

    add = verb("export", "root").add_argument
    add("checkpoint", type=a_path, help="a checkpoint, or the folder of a run")
    add("output", type=a_path, help="NAME.onnx, or NAME.pt2 for torch.export.load")
    add("--int8", action="store_true", help="of ONNX: the matrices in 8 bits, a third of the size; "
        "the mIoU of both is measured on val")  # fmt: skip
    add("--data", help="with --int8, what to measure on; default: what it was trained on")


def _of_data(verb: Verb) -> None:
    add = verb("download", "root").add_argument
    add("dataset", choices=sorted([*ARCHIVES, *GUIDES]), help="which one")

    add = verb("check", "root", "quiet").add_argument
    add("dataset", help=", ".join(NAMES[1:]))
    add("--split", nargs="+", help="default: train and val; of folder:PATH, all")
    add("--json", type=a_path, help="write the findings to this file too")
    add("--workers", type=between(0, 256), default=4, help="threads that read files; default: 4")

    add = verb("convert-labels").add_argument
    add("source", type=a_path, help="a folder with images/, labels/ and classes.txt")
    add("target", type=a_path, help="a new folder for the copy; images are linked where possible")
    add("--map", nargs="+", default=[], metavar="OLD=NEW", help="a value of the files, or a class, "
        "becomes a class: 255=lesion, car=vehicle truck=vehicle, sky=ignore. default: the form of "
        "the labels is found (0 and 255, grey steps, from 1 on, colours of the list)")  # fmt: skip


def _of_runs(verb: Verb) -> None:
    add = verb("recipes").add_argument
    add("name", nargs="?", default="", help="a recipe, or a part of names")

    parser = verb("train", "root", "quiet")
    add = parser.add_argument
    add("recipe", nargs="?", default="own", help="a name that `recipes` lists; default: own, one "
        "that fits the data of --data")  # fmt: skip
    add("--out", type=a_path, help="the run folder; default: runs/RECIPE, or runs/ and the name of "
        "the folder of --data")  # fmt: skip
    add("--resume", action="store_true", help="go on with the run in --out")
    add("--steps", type=int, help="stop after so many steps in all; default: the schedule's")
    add_flags(parser, RunOptions, "how it is run, whatever the recipe")
    add_flags(parser, Recipe, "facts of the recipe", "the recipe's", without="name config")

    add = verb("experiments", "root", "quiet").add_argument
    add("suite", help=f"{', '.join(EDITIONS)}; their table is setr_lib/training/suites.py")
    add("--list", action="store_true", help="run nothing: what is done, what is missing, and what "
        "it would cost here")  # fmt: skip
    add("--results", action="store_true", help="run nothing: scores with their intervals, costs")
    add("--seconds", type=between(1, 1e9, float), help="stop before that; what is not at its end "
        "is gone on with next time")  # fmt: skip
    add("--out", type=a_path, default=RECORDS, help="the folder of the records; default: "
        "data/records")  # fmt: skip
    add("--only", default="*", metavar="PATTERN", help="rows of such names, for example '*_pup_s0'")
    add("--pack", type=a_path, metavar="FOLDER", help="afterwards, put all records in one file "
        "there, and the best networks in 16 bits beside it")  # fmt: skip
    add("--jobs", type=between(1, 64), default=1, help="runs side by side; default: 1")
    add(
        "--repeat", metavar="NAME", help="run the record NAME of --out again and compare its scores"
    )

    add = verb("plot").add_argument
    add("runs", nargs="+", metavar="RUN", type=os.path.expanduser,
        help="a run folder, or a record's name")  # fmt: skip
    add("--out", type=a_path, default=Path("curves.png"), help="default: curves.png")


def _of_scores(verb: Verb) -> None:
    add = verb("evaluate", "split", "root", *READING, "precision", "device", "quiet").add_argument
    add("checkpoint", nargs="?", type=a_path, help=CHECKPOINT)
    add("--data", help="the data set; default: the one that it was trained on")
    add("--json", type=a_path, help="write the scores to this file, with all that led to them")
    add("--save-predictions", type=a_path, metavar="FOLDER",
        help="a PNG per image, in the data set's own numbers")  # fmt: skip

    add = verb("predict", *READING, "precision", "device", "quiet").add_argument
    add("images", nargs="+", type=a_path, help="files, and folders of images")
    add("--checkpoint", type=a_path, help=CHECKPOINT)
    add("--out", type=a_path, help="of one file: the image with the classes laid over it, or a "
        "folder for it (default: overlay.png); of more: the folder for masks/ and overlays/ "
        "(default: predictions)")  # fmt: skip
    add("--mask", type=a_path, help="of one file: write the class numbers to this PNG too")
    add("--opacity", type=between(0, 1, float), default=0.55, help="of the classes, 0 to 1; "
        "default: 0.55")  # fmt: skip

    add = verb("baselines", "split", "root").add_argument
    add("dataset", help=", ".join(NAMES))
    add("--out", type=a_path, help="write a record to this folder too")
