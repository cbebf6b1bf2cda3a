"""The experiments, as a table: which question each row answers, and by what it differs.

Two editions of the one table: `camvid-cpu` at half size for two cores, `camvid-gpu` at full size
for a GPU. What all rows of an edition share stands in `EDITIONS`; a row says only what it changes.
Rows come most valuable first, in the order of the table; a question has three seeds.

Rows of length "full" have the whole schedule, "short" ones a part of it, so that many questions
fit into a night, "long" ones twice as much, for the networks that ship. Compare only rows of one
length: what a short row changes is held against `short_pup` (or another short row), never against
a full one. Scores are those of the end of the schedule, on val; test is never looked at here.
"""

# rows and columns of an image; a patch in pixels

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..files import unknown
from ..model import SIZES, SETRConfig
from .devices import RunOptions
from .recipe import Recipe
from .recipes import FROM_SCRATCH
from .record import load_record


class Edition(NamedTuple):
    """What all rows of a suite have in common."""

    dataset: str
    classes: int
    size: tuple[int, int]  # of an image and of a crop
    patch_size: int
    long: int  # steps of a long row
    full: int
    short: int
    recipe: dict[str, Any]
    execution: dict[str, Any]  # how it is run; no fact of the recipe


TRAINING: dict[str, Any] = {**FROM_SCRATCH, "class_weights": True}
EDITIONS = {
    "camvid-cpu": Edition(
        "camvid", 11, size=(180, 240), patch_size=12, long=2400, full=1200, short=300,
        recipe=TRAINING, execution={"device": "cpu", "precision": "bf16"},
    ),
    "camvid-gpu": Edition(
        "camvid", 11, size=(360, 480), patch_size=16, long=24_000, full=12_000, short=3_000,
        recipe={**TRAINING, "batch": 16, "ratio_range": (0.5, 2.0)},
        execution={"precision": "bf16"},
    ),
    "shapes": Edition(  # to see the runner at work: minutes, no files
        "shapes", 8, size=(64, 64), patch_size=16, long=120, full=60, short=20,
        recipe={**FROM_SCRATCH, "ratio_range": (0.5, 2.0), "photometric": False},
        execution={},
    ),
}  # fmt: skip

# With the paper's 256 channels PUP costs six times the Tiny encoder; these three cost alike.
NAIVE = {"decoder": "naive"}
PUP = {"decoder": "pup", "channels": 64}
MLA = {"decoder": "mla", "channels": 128}


class Line(NamedTuple):
    """A row of the table: a name, and facts of the recipe and its network that differ."""

    name: str
    changes: Mapping[str, Any]
    length: str = "short"
    seeds: tuple[int, ...] = (0, 1, 2)
    suites: tuple[str, ...] = ("camvid-cpu", "camvid-gpu")


EVERYWHERE = tuple(EDITIONS)
GPU = ("camvid-gpu",)
TABLE: dict[str, list[Line]] = {
    "RQ2: what does the decoder change, at one encoder and one recipe?": [
        Line("pup", PUP, length="full", suites=EVERYWHERE),
        Line("naive", NAIVE, length="full", suites=EVERYWHERE),
        Line("mla", MLA, length="full", suites=EVERYWHERE),
    ],
    "Does the score still follow the number of crops seen?": [
        Line("long_mla", MLA, "long", seeds=(0,)),
        Line("long_pup", PUP, "long", seeds=(0,)),
    ],
    "How far does a plain transformer come with smaller patches or a stem of convolutions?": [
        Line("pup_conv8", {**PUP, "patch_size": 8, "stem": "conv"}, "full", suites=GPU),
        Line("pup_patch8", {**PUP, "patch_size": 8}, "full", suites=GPU),
    ],
    "What the short rows are held against": [
        Line("short_pup", PUP, suites=EVERYWHERE),
    ],
    "RQ3: what is a start worth that anybody can repeat, without other people's pictures?": [
        Line("short_start_leaves", {**PUP, "start": "leaves"}, suites=EVERYWHERE),
        Line("short_start_street", {**PUP, "start": "street"}),
        Line("short_start_masked13", {**PUP, "start": "masked-0.125"}),
        Line("short_start_masked50", {**PUP, "start": "masked-0.5"}),
        Line("short_start_dyck", {**PUP, "start": "dyck"}),
    ],
    "RQ1: a convolutional network with as many parameters and as long a step": [
        Line("short_fcn", {"fcn": {"depth": 18, "width": 36, "channels": 256}}),
    ],
    "RQ1: does attention have to reach the whole image? (radius in patches)": [
        Line("short_radius1", {**PUP, "attention_radius": 1}),
        Line("short_radius2", {**PUP, "attention_radius": 2}),
        Line("short_radius4", {**PUP, "attention_radius": 4}),
    ],
    "RQ1: where does a convolution help, from large patches to small ones to a stem?": [
        Line("short_patch16", {**PUP, "patch_size": 16}, suites=("camvid-cpu",)),
        Line("short_patch12", {**PUP, "patch_size": 12}, suites=GPU),
        Line("short_patch8", {**PUP, "patch_size": 8}),
        Line("short_conv16", {**PUP, "patch_size": 16, "stem": "conv"}),
        Line("short_conv8", {**PUP, "patch_size": 8, "stem": "conv"}),
    ],
    "RQ2: what are the auxiliary heads worth? (the ablation that the paper lacks)": [
        Line("short_pup_no_aux", {**PUP, "aux": False}),
        Line("short_naive", NAIVE),
        Line("short_naive_no_aux", {**NAIVE, "aux": False}),
        Line("short_mla", MLA),
        Line("short_mla_no_aux", {**MLA, "aux": False}),
    ],
    "RQ2: is PUP as good in two steps of four?": [
        Line("short_pup_2steps", {**PUP, "pup_steps": 2}),
    ],
    "RQ2: do learning rates explain the decoders' ranking? (the authors' heads have x10)": [
        Line("short_mla_heads10", {**MLA, "head_lr_mult": 10.0}),  # MLA's fusion at x1
        Line("short_mla_decoder10", {**MLA, "head_lr_mult": 10.0, "head_scope": "decoder"}),
        Line("short_naive_lr10", {**NAIVE, "lr": 1e-2}),
    ],
    "The recipe: what is each part of it worth?": [
        Line("short_no_class_weights", {**PUP, "class_weights": False}),
        Line("short_no_photometric", {**PUP, "photometric": False}),
        Line("short_scale_fixed", {**PUP, "ratio_range": (1.0, 1.0)}),
        Line("short_scale_wide", {**PUP, "ratio_range": (0.5, 2.0)}, suites=("camvid-cpu",)),
        Line("short_ema", {**PUP, "ema": 0.99}),
    ],
}
# Steps of each start at its own batch. The cost in seconds stands in the record.
START_STEPS = {"camvid-cpu": 100, "camvid-gpu": 2_000, "shapes": 5}


@dataclass(frozen=True)
class Row:
    """One run: a line of the table with one seed.

    Args:
        suite: that it belongs to.
        line: its name in the table.
        question: that it helps to answer.
        recipe: with the seed.
        execution: how it is run.
    """

    suite: str
    line: str
    question: str
    recipe: Recipe
    execution: RunOptions

    @property
    def name(self) -> str:
        """Of the record's folder."""
        return f"{self.recipe.name}_s{self.recipe.seed}"

    def record(self, out: Path) -> dict[str, Any]:
        """What lies in the folder of the records."""
        return load_record(out / self.name)

    def is_done(self, out: Path) -> bool:
        """Whether there is a record of the end of the schedule whose recipe is this one."""
        folder = out / self.name
        if not (folder / "record.json").is_file() or self.differences(folder):
            return False
        return load_record(folder).get("finished") is True

    def differences(self, folder: Path) -> str:
        """By what the run in a folder differs from this recipe; "" if in nothing, or no run."""
        if not (folder / "record.json").is_file():
            return ""
        return "; ".join(Recipe.from_dict(load_record(folder)["recipe"]).differences(self.recipe))


def suite_rows(suite: str) -> list[Row]:
    """Every run of a suite, most valuable first.

    Raises:
        ValueError: for an unknown suite.
    """
    if suite not in EDITIONS:
        raise ValueError(unknown("suite", suite, EDITIONS))
    return [
        Row(suite, line.name, question, recipe_of(suite, line, seed), options(suite))
        for question, lines in TABLE.items()
        for line in lines
        if suite in line.suites
        for seed in line.seeds
    ]


def options(suite: str) -> RunOptions:
    """How the runs of a suite are executed."""
    return RunOptions(**EDITIONS[suite].execution)


def recipe_of(suite: str, line: Line, seed: int = 0) -> Recipe:
    """The recipe of a line in an edition."""
    e = EDITIONS[suite]
    facts = {**e.recipe, **line.changes}
    steps: int = getattr(e, line.length)
    if "start" in facts:
        facts["start_steps"] = START_STEPS[suite]
    config = network_of(e, facts)
    height, width = e.size
    return Recipe(
        f"{suite.replace('-', '_')}_{line.name}", e.dataset, config, e.size, (width, height),
        total_steps=steps, warmup=steps // 10, evaluate_every=max(1, steps // 4), seed=seed,
        **facts,
    )  # fmt: skip


def network_of(e: Edition, facts: dict[str, Any]) -> Any:
    """The network of a row, whose facts are taken out of `facts`: Tiny, or the baseline."""
    if "fcn" in facts:
        from ..baselines.fcn import FCNConfig  # timm takes seconds to import

        return FCNConfig(num_classes=e.classes, **facts.pop("fcn"))
    width, depth, heads = SIZES["tiny"]
    known = {field.name for field in dataclasses.fields(SETRConfig)}
    network = {name: facts.pop(name) for name in [*facts] if name in known}
    network = {"patch_size": e.patch_size, **network}
    sizes: dict[str, Any] = {"image_size": e.size, "width": width, "depth": depth, "heads": heads}
    return SETRConfig(num_classes=e.classes, **sizes, **network)
