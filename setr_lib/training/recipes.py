"""Every training run as frozen facts: which network, which data, which numbers.

The recipes of the paper are rows of the tables at the end of this file. The authors' code
(fudan-zvg/SETR, `configs/SETR`) decides; where the paper says another learning rate, a recipe with
`_paper_rate` in its name has that one.
"""

import dataclasses
import hashlib
import json
import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.protocols import PROTOCOLS
from ..files import in_field_words, unknown
from ..images import TestProtocol
from ..model import DECODERS, SIZES, SETRConfig
from ..weights.config import config_from_dict
from ..zoo import model_config

if TYPE_CHECKING:
    from ..baselines.fcn import FCNConfig


@dataclass(frozen=True)
class Recipe:
    """One training run, apart from where its files go.

    Args:
        name: of the recipe.
        dataset: as `load_dataset` calls it.
        config: the network: a `SETRConfig`, or the `FCNConfig` of the baseline.
        crop: rows and columns of a training crop.
        scale: (long side, short side) of the images at ratio 1, in training and in evaluation.
        batch: crops per step of the optimiser, over all processes and micro-batches.
        total_steps: of the learning rate's schedule, and of the run unless it is told to stop
            earlier.
        micro_batch: crops in memory at a time in each process; their gradients add up to the
            batch's. None: a process's whole share of the batch at once. Batch norm sees the
            micro-batch, so this is a fact of the recipe.
        pretrained: the timm model whose weights the encoder starts from, or a checkpoint's path;
            None: random.
        optimizer: `"sgd"` (momentum 0.9, the paper's) or `"adamw"`.
        lr: of the encoder; the heads' is `head_lr_mult` times this.
        head_lr_mult: 10 in the authors' code.
        head_scope: what has the heads' lr: `"authors"`: main and auxiliary heads, as in their
            code, which counts MLA's norms and fusion to the backbone; `"decoder"`: these too.
        min_lr: learning rate under which the schedule does not fall, for every parameter; absolute.
        power: of the polynomial decay.
        warmup: steps of linear rise at the start; 0 in the paper.
        weight_decay: 0 in the paper. With AdamW not on biases, norms, position and class tokens.
        average: of the loss, see `segmentation_loss`.
        ratio_range: range of the random ratio.
        photometric: whether colours are distorted.
        whole_scale: whether scale times ratio is cut to whole pixels first, as the authors do.
        window, stride: of the evaluation; None: whole images.
        rule: how evaluation brings an image to `scale`, see `TestProtocol`.
        evaluate_every: steps between evaluations.
        evaluate_split: the split that is scored.
        seed: of the weights and the data order.
        source: where the numbers come from.
    """

    name: str
    dataset: str
    config: "SETRConfig | FCNConfig"
    crop: tuple[int, int]
    scale: tuple[int, int]
    batch: int
    total_steps: int
    micro_batch: int | None = None
    pretrained: str | None = None
    optimizer: str = "sgd"
    lr: float = 0.01
    head_lr_mult: float = 10.0
    head_scope: str = "authors"
    min_lr: float = 1e-4
    power: float = 0.9
    warmup: int = 0
    weight_decay: float = 0.0
    average: str = "all"
    ratio_range: tuple[float, float] = (0.5, 2.0)
    photometric: bool = True
    whole_scale: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    rule: str = "fit"
    evaluate_every: int = 500
    evaluate_split: str = "val"
    seed: int = 0
    source: str = "ours"

    def __post_init__(self) -> None:
        for name, words in {
            "optimizer": ("sgd", "adamw"),
            "average": ("all", "valid"),
            "head_scope": ("authors", "decoder"),
        }.items():
            if getattr(self, name) not in words:
                choice = " or ".join(map(repr, words))
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose {choice}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name, (kind, least, most) in BOUNDS.items():
            value = getattr(self, name)
            if name == "micro_batch" and value is None:
                continue
            if not (_is(kind, value) and least <= value <= most):
                what = "a whole number" if kind is int else "a number"
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"{name} is {value!r}; it must be {what} from {least:g} to {most:g} "
                    f"({name}=..., on the command line {flag})"
                )
        for name in ("crop", "scale", "window", "stride", "ratio_range"):
            pair, kind = getattr(self, name), float if name == "ratio_range" else int
            if name in ("window", "stride") and pair is None:
                continue
            if not _is_pair(pair, kind):
                what = "numbers" if name == "ratio_range" else "whole numbers"
                raise ValueError(f"{name} is {pair!r}; it must be two {what} above 0")
        if self.ratio_range[0] > self.ratio_range[1]:
            raise ValueError(f"ratios is {self.ratio_range}; the smaller one comes first")
        for name in ("name", "dataset", "evaluate_split"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a name")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The way back from JSON; facts that an older file does not have get their defaults.

        Raises:
            ValueError: if these are no facts of a recipe, or some that this version does not know.
        """
        try:
            facts: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in in_field_words(values).items()
            }
            facts["config"] = config_from_dict(values["config"])
            return cls(**facts)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these are no facts of a recipe known here: {error}") from error

    @property
    def protocol(self) -> TestProtocol:
        """How a run is scored: one view of every image."""
        return TestProtocol(self.window, self.stride, self.scale, self.rule)

    @property
    def encoder(self) -> str:
        """The encoder in a word, for tables."""
        c = self.config
        if not isinstance(c, SETRConfig):
            return f"ResNet-{c.depth}"
        if (self.pretrained or "").startswith("deit"):
            return "DeiT"
        if c.backbone != "vit":
            return c.backbone
        sizes = {shape: name for name, shape in SIZES.items()}
        return f"T-{sizes.get((c.width, c.depth, c.heads), f'{c.width}x{c.depth}').capitalize()}"

    def differences(self, other: "Recipe") -> list[str]:
        """The facts in which this recipe ("there") and another ("here") differ, with both values.

        The name, and where the numbers come from, are words about a recipe and do not count.
        """
        mine, others = _flat(self), _flat(other)
        return [
            f"{fact} is {mine.get(fact)!r} there and {others.get(fact)!r} here"
            for fact in {**mine, **others}
            if mine.get(fact) != others.get(fact) and fact not in ("name", "source")
        ]

    def hash(self) -> str:
        """Twelve letters that change with any fact of the recipe."""
        return recipe_hash(self.to_dict())


# What a number may be; learning rates stay far within float32, also when they are multiplied.
BOUNDS: dict[str, tuple[type, float, float]] = {
    "batch": (int, 1, 1e9), "micro_batch": (int, 1, 1e9), "total_steps": (int, 1, 1e12),
    "evaluate_every": (int, 1, 1e12), "warmup": (int, 0, 1e12), "seed": (int, 0, 2**63 - 1),
    "lr": (float, 1e-12, 1e6), "head_lr_mult": (float, 1e-12, 1e6), "min_lr": (float, 0, 1e6),
    "power": (float, 0, 1e3), "weight_decay": (float, 0, 1e6),
}  # fmt: skip


def _is(kind: type, value: Any) -> bool:
    """Whether this is a number of that kind: True is none, and 1 is a float too."""
    wanted = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, wanted) and not isinstance(value, bool)


def _is_pair(pair: Any, kind: type) -> bool:
    return (
        isinstance(pair, tuple)
        and len(pair) == 2
        and all(_is(kind, side) and 0 < side < math.inf for side in pair)
    )


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Every fact by its name, those of the network as `config.width`."""
    facts = recipe.to_dict()
    network = facts.pop("config")
    return {**facts, **{f"config.{name}": value for name, value in network.items()}}


def recipe_hash(facts: dict[str, Any]) -> str:
    """The hash of a recipe's plain facts, as a record holds them."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def list_recipes() -> list[str]:
    """The names that `train` knows."""
    return list(RECIPES)


def recipe_table(pattern: str = "") -> str:
    """The recipes whose names contain `pattern`, one per line.

    Without a pattern the versions for one GPU are left out; a last line tells of them.
    """
    chosen = [r for name, r in RECIPES.items() if pattern in name]
    if not chosen:
        raise ValueError(unknown("recipe", pattern, RECIPES))
    if not pattern:
        chosen = [r for r in chosen if not r.name.endswith("_1gpu")]
    rows = [("recipe", "decoder", "encoder", "crop", "batch", "steps", "lr", "heads", "source")]
    for r in chosen:
        batch = f"{r.batch}" if r.micro_batch is None else f"{r.batch} by {r.micro_batch}"
        rows.append(
            (r.name, getattr(r.config, "decoder", "fcn"), r.encoder, f"{r.crop[0]}x{r.crop[1]}",
             batch, f"{r.total_steps}", f"{r.lr:g}", f"x{r.head_lr_mult:g}", r.source)
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(w.ljust(n) for w, n in zip(row, widths)).rstrip() for row in rows]
    if not pattern:
        lines.append("Those of the paper also as NAME_1gpu: the same batch, by accumulation.")
    return "\n".join(lines)


def get_recipe(name: str, **overrides: Any) -> Recipe:
    """A recipe by name, with some of its facts replaced.

    Raises:
        ValueError: for an unknown recipe or an unknown fact; the message lists the known ones.
    """
    if name not in RECIPES:
        raise ValueError(unknown("recipe", name, RECIPES))
    return replace(RECIPES[name], **overrides)


def replace(recipe: Recipe, **overrides: Any) -> Recipe:
    """A copy of `recipe` with other facts; an unknown one is an error that lists them all."""
    known = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    for key in overrides:
        if key not in known:
            raise ValueError(unknown("fact of a recipe", key, known))
    return dataclasses.replace(recipe, **overrides)


def _shapes(decoder: str) -> Recipe:
    return Recipe(
        name=f"shapes_{decoder}_tiny",
        dataset="shapes",
        config=model_config(f"setr_{decoder}_tiny", num_classes=8, image_size=128),
        crop=(128, 128),
        scale=(128, 128),
        ratio_range=(0.75, 1.5),
        batch=8,
        total_steps=200,
        optimizer="adamw",
        lr=1e-3,
        head_lr_mult=1.0,
        min_lr=0.0,
        warmup=20,
        weight_decay=0.05,
        average="valid",
        photometric=False,
        evaluate_every=200,
    )


def _camvid(decoder: str, size: str) -> Recipe:
    """CamVid from scratch on two CPU cores: whole images at half size, 15 x 20 patches of 12."""
    config = model_config(f"setr_{decoder}_{size}", num_classes=11, image_size=(180, 240))
    return Recipe(
        name=f"camvid_{decoder}_{size}",
        dataset="camvid",
        config=dataclasses.replace(config, patch_size=12),
        crop=(180, 240),
        scale=(240, 180),
        ratio_range=(0.75, 1.5),
        batch=8,
        total_steps=1000,
        optimizer="adamw",
        lr=1e-3,
        head_lr_mult=1.0,
        min_lr=0.0,
        warmup=100,
        weight_decay=0.05,
        average="valid",
        evaluate_every=125,
    )


def _camvid_sgd() -> Recipe:
    """The same network and crops with the paper's optimiser, learning rates and loss."""
    return dataclasses.replace(
        _camvid("naive", "tiny"),
        name="camvid_naive_tiny_sgd",
        optimizer="sgd",
        lr=0.01,
        head_lr_mult=10.0,
        min_lr=1e-4,
        warmup=0,
        weight_decay=0.0,
        average="all",
    )


def _camvid_gpu(decoder: str) -> Recipe:
    """CamVid on one GPU: whole images at full size, DeiT-Base, the paper's optimiser."""
    return Recipe(
        name=f"camvid_{decoder}_gpu",
        dataset="camvid",
        config=model_config(f"setr_{decoder}_base", num_classes=11, image_size=(360, 480)),
        crop=(360, 480),
        scale=(480, 360),
        batch=8,
        total_steps=4000,  # 87 epochs
        pretrained=PRETRAINED["deit"],
        evaluate_every=500,
    )


# ---- the paper
# What an encoder starts from. The authors' file for T-Large, jx_vit_large_p16_384, is no longer
# among timm's: this one has the same shapes and other weights. Whoever has theirs sets
# pretrained=PATH. The other two are the authors' files.
PRETRAINED = {
    "large": "vit_large_patch16_384.augreg_in21k_ft_in1k",
    "base": "vit_base_patch16_384.orig_in21k_ft_in1k",
    "deit": "deit_base_distilled_patch16_384.fb_in1k",
}
CLASSES = {"ade20k": 150, "cityscapes": 19, "pascal_context": 60}
SCHEDULE = {"ade20k": 160_000, "cityscapes": 80_000, "pascal_context": 80_000}
BATCH = {"ade20k": 16, "cityscapes": 8, "pascal_context": 16}  # on 8 GPUs
MICRO_BATCH = {"ade20k": 2, "cityscapes": 1, "pascal_context": 2}  # what each of those 8 had
LRS = {  # of the encoder, in the authors' configurations
    ("ade20k", "naive"): 0.01,
    ("ade20k", "pup"): 0.001,
    ("ade20k", "mla"): 0.001,
    ("cityscapes", "naive"): 0.01,
    ("cityscapes", "pup"): 0.01,
    ("cityscapes", "mla"): 0.002,
    ("pascal_context", "naive"): 0.01,
    ("pascal_context", "pup"): 0.001,
    ("pascal_context", "mla"): 0.001,
}
PAPER_LRS = {  # where the paper's section 4.1 says another one
    ("ade20k", "naive"): 0.001,
    ("cityscapes", "mla"): 0.01,
    ("pascal_context", "naive"): 0.001,
}
CONFIGURED = {  # the encoders for which the authors published a configuration, beside Large
    ("cityscapes", "naive"): ("base", "deit"),
    ("cityscapes", "pup"): ("deit",),
    ("cityscapes", "mla"): ("deit",),
    ("ade20k", "pup"): ("deit",),
    ("ade20k", "mla"): ("deit",),
    ("pascal_context", "pup"): ("deit",),
    ("pascal_context", "mla"): ("deit",),
}


def _paper(dataset: str, decoder: str, encoder: str) -> Iterator[Recipe]:
    """One network of the paper's tables, and its variants by one fact each."""
    protocol: Any = PROTOCOLS[dataset]  # training crops are as large as the window, too
    size = "base" if encoder == "deit" else encoder
    published = encoder == "large" or encoder in CONFIGURED.get((dataset, decoder), ())
    recipe = Recipe(
        name=f"{dataset}_{decoder}_{encoder}",
        dataset=dataset,
        config=model_config(f"setr_{decoder}_{size}", CLASSES[dataset], protocol.window),
        crop=protocol.window,
        scale=protocol.base,
        batch=BATCH[dataset],
        total_steps=SCHEDULE[dataset],
        pretrained=PRETRAINED[encoder],
        lr=LRS[dataset, decoder],
        window=protocol.window,
        stride=protocol.stride,
        rule=protocol.rule,
        whole_scale=True,
        evaluate_every=SCHEDULE[dataset] // 10,
        source="authors" if published else "authors, adapted",
    )
    yield recipe

    def variant(suffix: str, **facts: Any) -> Recipe:
        return dataclasses.replace(recipe, name=f"{recipe.name}_{suffix}", **facts)

    if (dataset, decoder) in PAPER_LRS:
        yield variant("paper_rate", lr=PAPER_LRS[dataset, decoder], source="paper")
    if dataset == "cityscapes":
        yield variant("40k", total_steps=40_000, evaluate_every=4000)
    elif decoder == "mla":
        yield variant("b8", batch=8)
    if recipe.name == "cityscapes_pup_large":  # 42.27 mIoU in the paper, against 78.39
        yield variant(
            "40k_random", total_steps=40_000, evaluate_every=4000, pretrained=None, source="paper"
        )


def _one_gpu(recipe: Recipe) -> Recipe:
    """The same batch in parts that fit one GPU. Batch norm then sees a part, not the batch."""
    return dataclasses.replace(
        recipe, name=f"{recipe.name}_1gpu", micro_batch=MICRO_BATCH[recipe.dataset]
    )


def _all() -> Iterator[Recipe]:
    for decoder in DECODERS:
        yield _shapes(decoder)
    for decoder in DECODERS:
        for size in ("tiny", "small"):
            yield _camvid(decoder, size)
    yield _camvid_sgd()
    for decoder in DECODERS:
        yield _camvid_gpu(decoder)
    paper = [r for place in LRS for encoder in PRETRAINED for r in _paper(*place, encoder)]
    yield from paper
    yield from map(_one_gpu, paper)


RECIPES = {recipe.name: recipe for recipe in _all()}
