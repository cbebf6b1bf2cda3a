"""Every training run as frozen facts: which network, which data, which numbers."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .errors import unknown
from .model import SETRConfig, model_config


@dataclass(frozen=True)
class Recipe:
    """One training run, apart from where its files go.

    Args:
        name: of the recipe.
        dataset: as `load_dataset` calls it.
        config: the network.
        crop: rows and columns of a training crop.
        scale: (long side, short side) of the images at ratio 1, in training and in evaluation.
        ratios: range of the random ratio.
        batch: crops per step.
        schedule: steps of the rate schedule, and of the run unless it is told to stop earlier.
        optimiser: `"sgd"` (momentum 0.9, the paper's) or `"adamw"`.
        rate: of the encoder; the heads' is `head_factor` times this.
        head_factor: 10 in the authors' code.
        floor: rate under which the schedule does not fall, for every parameter; absolute.
        power: of the polynomial decay.
        warmup: steps of linear rise at the start; 0 in the paper.
        weight_decay: 0 in the paper. With AdamW not on biases, norms, position and class tokens.
        average: of the loss, see `segmentation_loss`.
        photometric: whether colours are distorted.
        window, stride: of the evaluation; None: whole images.
        evaluate_every: steps between evaluations.
        seed: of the weights and the data order.
    """

    name: str
    dataset: str
    config: SETRConfig
    crop: tuple[int, int]
    scale: tuple[int, int]
    batch: int
    schedule: int
    optimiser: str = "sgd"
    rate: float = 0.01
    head_factor: float = 10.0
    floor: float = 1e-4
    power: float = 0.9
    warmup: int = 0
    weight_decay: float = 0.0
    average: str = "all"
    ratios: tuple[float, float] = (0.5, 2.0)
    photometric: bool = True
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    evaluate_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimiser not in ("sgd", "adamw"):
            raise ValueError(f"optimiser is {self.optimiser!r}; choose 'sgd' or 'adamw'")
        for name in ("batch", "schedule", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The way back from JSON, which knows lists only."""
        facts: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        facts["config"] = SETRConfig.from_dict(values["config"])
        return cls(**facts)

    def hash(self) -> str:
        """Twelve letters that change with any fact of the recipe."""
        return facts_hash(self.to_dict())


def facts_hash(facts: dict[str, Any]) -> str:
    """The hash of a recipe's plain facts, as a record holds them."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def list_recipes() -> list[str]:
    """The names that `train` knows."""
    return list(RECIPES)


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
        ratios=(0.75, 1.5),
        batch=8,
        schedule=200,
        optimiser="adamw",
        rate=1e-3,
        head_factor=1.0,
        floor=0.0,
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
        ratios=(0.75, 1.5),
        batch=8,
        schedule=1000,
        optimiser="adamw",
        rate=1e-3,
        head_factor=1.0,
        floor=0.0,
        warmup=100,
        weight_decay=0.05,
        average="valid",
        evaluate_every=125,
    )


def _camvid_sgd() -> Recipe:
    """The same network and crops with the optimiser, rates and loss of the paper's recipes."""
    return dataclasses.replace(
        _camvid("naive", "tiny"),
        name="camvid_naive_tiny_sgd",
        optimiser="sgd",
        rate=0.01,
        head_factor=10.0,
        floor=1e-4,
        warmup=0,
        weight_decay=0.0,
        average="all",
    )


RECIPES = {
    recipe.name: recipe
    for recipe in [
        *(_shapes(decoder) for decoder in ("naive", "pup", "mla")),
        *(
            _camvid(decoder, size)
            for decoder in ("naive", "pup", "mla")
            for size in ("tiny", "small")
        ),
        _camvid_sgd(),
    ]
}
