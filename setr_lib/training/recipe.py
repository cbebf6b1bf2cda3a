"""What a training run is: all its facts, frozen, checked, comparable, and as plain values."""

import dataclasses
import hashlib
import json
import math
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.augment import TrainTransform
from ..files import OLD_WORDS, as_switch, in_field_words, unknown
from ..images import TestProtocol
from ..losses.segmentation import KINDS
from ..model import SIZES, SETRConfig
from ..weights.config import config_from_dict

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
        loss: `"cross_entropy"`, or `"dice"` or `"focal"`, which enlarge the logits and take more
            memory; Dice is that of each micro-batch.
        average: of the loss, see `segmentation_loss`.
        ema: decay of the moving average of the weights, which is scored and kept in their place,
            see `training.average`; 0: none.
        start: what the encoder learns before, on pictures that need no labels of ours, see
            `training.starts`; `"random"`: nothing.
        start_steps: of that, at its own batch and learning rate.
        freeze: `"encoder"`: only neck and heads learn, the encoder stays what it starts from; with
            a linear head that is linear probing. `"none"`: all learn.
        class_weights: whether a class weighs 1 / ln(1.02 + f), f its share of the labels' pixels.
        ratio_range: range of the random ratio.
        photometric: whether colours are distorted.
        whole_scale: whether scale times ratio is cut to whole pixels first, as the authors do.
        window, stride: of the evaluation; None: whole images.
        rule: how evaluation brings an image to `scale`, see `TestProtocol`.
        evaluate_every: steps between evaluations.
        evaluate_split: the split that is scored.
        patience: end the run after so many evaluations in a row without a better mIoU (early
            stopping); 0: never.
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
    loss: str = "cross_entropy"
    average: str = "all"
    ema: float = 0.0
    start: str = "random"
    start_steps: int = 0
    freeze: str = "none"
    class_weights: bool = False
    ratio_range: tuple[float, float] = (0.5, 2.0)
    photometric: bool = True
    whole_scale: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    rule: str = "fit"
    evaluate_every: int = 500
    evaluate_split: str = "val"
    patience: int = 0
    seed: int = 0
    source: str = "ours"

    def __post_init__(self) -> None:
        for name, words in {
            "optimizer": ("sgd", "adamw"),
            "loss": KINDS,
            "average": ("all", "valid"),
            "head_scope": ("authors", "decoder"),
            "start": STARTS,
            "freeze": ("none", "encoder"),
        }.items():
            if getattr(self, name) not in words:
                choice = " or ".join(map(repr, words))
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose {choice}")
        for name in ("photometric", "whole_scale", "class_weights"):
            as_switch(getattr(self, name), name)
        self._check_numbers()
        if (self.start == "random") != (self.start_steps == 0):
            raise ValueError(
                f"start is {self.start!r} with start_steps={self.start_steps}; a random start has "
                "none, every other one some (start_steps=..., on the command line --start-steps)"
            )
        if self.start != "random" and (self.pretrained or not isinstance(self.config, SETRConfig)):
            raise ValueError(f"start is {self.start!r}: that needs our own encoder, not pretrained")

        if self.start != "random" and self.freeze != "none":
            raise ValueError(
                f"freeze is {self.freeze!r} with the start {self.start!r}, in which the encoder "
                "learns: choose one of the two"
            )

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
            raise ValueError(f"ratio_range is {self.ratio_range}; the smaller one comes first")
        for name in ("name", "dataset", "evaluate_split"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a name")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return dataclasses.asdict(self)

    def plain_facts(self) -> dict[str, bool | int | float | str | None]:
        """Every fact by its name, those of the network as `config.width`; lists as words."""
        plain = (bool, int, float, str, type(None))
        return {k: v if isinstance(v, plain) else str(v) for k, v in _flat(self).items()}

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
    def transform(self) -> TrainTransform:
        """How training crops are cut."""
        return TrainTransform(
            self.crop, self.scale, self.ratio_range,
            photometric=self.photometric, whole_scale=self.whole_scale,
        )  # fmt: skip

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


# What an encoder may begin with; `training.starts` makes each.
STARTS = ("random", "leaves", "street", "masked-0.125", "masked-0.5", "dyck")
# What a number may be; learning rates stay far within float32, also when they are multiplied.
BOUNDS: dict[str, tuple[type, float, float]] = {
    "batch": (int, 1, 1e9), "micro_batch": (int, 1, 1e9), "total_steps": (int, 1, 1e12),
    "evaluate_every": (int, 1, 1e12), "warmup": (int, 0, 1e12), "seed": (int, 0, 2**63 - 1),
    "patience": (int, 0, 1e12),
    "lr": (float, 1e-12, 1e6), "head_lr_mult": (float, 1e-12, 1e6), "min_lr": (float, 0, 1e6),
    "power": (float, 0, 1e3), "ema": (float, 0, 0.99999),
    "start_steps": (int, 0, 1e12), "weight_decay": (float, 0, 1e6),
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


def replace(recipe: Recipe, **overrides: Any) -> Recipe:
    """A copy of `recipe` with other facts; an unknown one is an error that lists them all."""
    known = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    for key in overrides:
        if key in OLD_WORDS:
            raise ValueError(f"{key} is called {OLD_WORDS[key]} now: {OLD_WORDS[key]}=...")
        if key not in known:
            raise ValueError(unknown("fact of a recipe", key, known))
    return dataclasses.replace(recipe, **overrides)
