"""Every training run as frozen facts: which network, which data, which numbers.

The recipes of the paper are rows of its tables 2 to 5. The authors' code (fudan-zvg/SETR,
`configs/SETR`) decides their numbers. What differs from a row by a fact is said by that fact:
`train("ade20k_pup_large", out, micro_batch=2)`, `train ade20k_pup_large --micro-batch 2`.

    micro_batch=2           one GPU: the same batch in parts, each of which batch norm sees alone
    batch=8                 the smaller batch of the authors' and mmsegmentation's MLA
    total_steps=40_000      the shorter schedule of table 2
    lr=PAPER_LRS[...]       the learning rate of the paper's section 4.1 where the code has another
    class_weights=True      rare classes weigh more
"""

from collections.abc import Iterator
from dataclasses import replace as with_facts
from itertools import product
from typing import Any

from ..data.protocols import PROTOCOLS
from ..files import unknown
from ..model import DECODERS
from ..zoo import model_config
from .recipe import Recipe, replace


def list_recipes() -> list[str]:
    """The names that `train` knows."""
    return list(RECIPES)


def recipe_table(pattern: str = "") -> str:
    """The recipes whose names contain `pattern`, one per line, and how to say others."""
    chosen = [r for name, r in RECIPES.items() if pattern in name]
    if not chosen:
        raise ValueError(said_now(pattern) or unknown("recipe", pattern, RECIPES))
    rows = [("recipe", "decoder", "encoder", "crop", "batch", "steps", "lr", "heads", "source")]
    for r in chosen:
        rows.append(
            (r.name, getattr(r.config, "decoder", "fcn"), r.encoder, f"{r.crop[0]}x{r.crop[1]}",
             f"{r.batch}", f"{r.total_steps}", f"{r.lr:g}", f"x{r.head_lr_mult:g}", r.source)
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(w.ljust(n) for w, n in zip(row, widths)).rstrip() for row in rows]
    lines.append("Every fact is a flag: --micro-batch 2 (one GPU), --batch 8, --total-steps 40000.")
    return "\n".join(lines)


def get_recipe(name: str, **overrides: Any) -> Recipe:
    """A recipe by name, with some of its facts replaced.

    Raises:
        ValueError: for an unknown recipe or an unknown fact; the message lists the known ones.
    """
    if name not in RECIPES:
        raise ValueError(said_now(name) or unknown("recipe", name, RECIPES))
    return replace(RECIPES[name], **overrides)


def said_now(name: str) -> str:
    """A sentence on a name of version 0.1 that is said otherwise now; "" for other names."""
    facts: dict[str, Any] = {}
    base, parts = name, tuple(name.rsplit("_", 2))
    if parts in [*product(LRS, DECODERS, PRETRAINED)] and name not in RECIPES:
        return f"no table has {name}; setr_lib.training.recipes.paper_recipe{parts} makes it"
    for ending in ("_1gpu", "_b8", "_40k", "_paper_rate"):
        if base not in RECIPES and base.endswith(ending):
            base = base.removesuffix(ending)
            dataset, _, decoder = base.rpartition("_")[0].rpartition("_")
            now: dict[str, dict[str, Any]] = {
                "_1gpu": {"micro_batch": BATCH.get(dataset, 8) // 8},  # what each of 8 GPUs had
                "_b8": {"batch": 8},
                "_40k": {"total_steps": 40_000},
                "_paper_rate": {"lr": PAPER_LRS.get((dataset, decoder))},
            }
            facts |= now[ending]
    if base == name or base not in RECIPES:
        return ""
    words = ", ".join(f"{fact}={value}" for fact, value in facts.items())
    flags = " ".join(f"--{fact.replace('_', '-')} {value}" for fact, value in facts.items())
    return f"{name} is said {base} with {words} now (on the command line {base} {flags})"


# ---- ours

FROM_SCRATCH: dict[str, Any] = {
    "batch": 8, "optimizer": "adamw", "lr": 1e-3, "head_lr_mult": 1.0, "min_lr": 0.0,
    "weight_decay": 0.05, "average": "valid", "ratio_range": (0.75, 1.5),
}  # fmt: skip


def _shapes(decoder: str) -> Recipe:
    config = model_config(f"setr_{decoder}_tiny", num_classes=8, image_size=128)
    return Recipe(
        f"shapes_{decoder}_tiny", "shapes", config, crop=(128, 128), scale=(128, 128),
        total_steps=200, warmup=20, evaluate_every=200, photometric=False, **FROM_SCRATCH,
    )  # fmt: skip


def _camvid(decoder: str, size: str) -> Recipe:
    """CamVid from scratch on two CPU cores: whole images at half size, 15 x 20 patches of 12."""
    config = model_config(f"setr_{decoder}_{size}", num_classes=11, image_size=(180, 240))
    return Recipe(
        f"camvid_{decoder}_{size}", "camvid", with_facts(config, patch_size=12),
        crop=(180, 240), scale=(240, 180), total_steps=1000, warmup=100, evaluate_every=125,
        **FROM_SCRATCH,
    )  # fmt: skip


def _camvid_sgd() -> Recipe:
    """The same network and crops with the paper's optimiser, learning rates and loss."""
    return with_facts(
        _camvid("naive", "tiny"), name="camvid_naive_tiny_sgd", optimizer="sgd", lr=0.01,
        head_lr_mult=10.0, min_lr=1e-4, warmup=0, weight_decay=0.0, average="all",
    )  # fmt: skip


def _camvid_gpu(decoder: str) -> Recipe:
    """CamVid on one GPU: whole images at full size, DeiT-Base, the paper's optimiser; 87 epochs."""
    config = model_config(f"setr_{decoder}_base", num_classes=11, image_size=(360, 480))
    return Recipe(
        f"camvid_{decoder}_gpu", "camvid", config, crop=(360, 480), scale=(480, 360), batch=8,
        total_steps=4000, pretrained=PRETRAINED["deit"], evaluate_every=500,
    )  # fmt: skip


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
LRS = {  # of the encoder, in the authors' configurations
    "ade20k": {"naive": 0.01, "pup": 0.001, "mla": 0.001},
    "cityscapes": {"naive": 0.01, "pup": 0.01, "mla": 0.002},
    "pascal_context": {"naive": 0.01, "pup": 0.001, "mla": 0.001},
}
PAPER_LRS = {  # where the paper's section 4.1 says another one
    ("ade20k", "naive"): 0.001, ("cityscapes", "mla"): 0.01, ("pascal_context", "naive"): 0.001,
}  # fmt: skip
ROWS: dict[
    str, dict[str, tuple[str, ...]]
] = {  # of tables 2, 4 and 5: the encoders of each decoder
    "ade20k": {"naive": ("large",), "pup": ("large", "deit"), "mla": ("large", "deit")},
    "cityscapes": dict.fromkeys(("naive", "pup", "mla"), ("large", "base", "deit")),
    "pascal_context": {"naive": ("large",), "pup": ("large", "deit"), "mla": ("large", "deit")},
}
ADAPTED = {("cityscapes", "pup", "base"), ("cityscapes", "mla", "base")}  # not in their code


def paper_recipe(dataset: str, decoder: str, encoder: str) -> Recipe:
    """A network of the paper on a data set of the paper, whether or not its tables have the row."""
    protocol: Any = PROTOCOLS[dataset]  # training crops are as large as the window, too
    size = "base" if encoder == "deit" else encoder
    row = encoder in ROWS[dataset][decoder] and (dataset, decoder, encoder) not in ADAPTED
    return Recipe(
        f"{dataset}_{decoder}_{encoder}", dataset,
        model_config(f"setr_{decoder}_{size}", CLASSES[dataset], protocol.window),
        crop=protocol.window, window=protocol.window, stride=protocol.stride,
        scale=protocol.base, rule=protocol.rule, whole_scale=True,
        batch=BATCH[dataset], lr=LRS[dataset][decoder], pretrained=PRETRAINED[encoder],
        total_steps=SCHEDULE[dataset], evaluate_every=SCHEDULE[dataset] // 10,
        source="authors" if row else "authors, adapted",
    )  # fmt: skip


def _all() -> Iterator[Recipe]:
    yield from map(_shapes, DECODERS)
    for decoder in DECODERS:
        for size in ("tiny", "small"):
            yield _camvid(decoder, size)
    yield _camvid_sgd()
    yield from map(_camvid_gpu, DECODERS)
    for dataset, decoders in ROWS.items():
        for decoder, encoders in decoders.items():
            for encoder in encoders:
                yield paper_recipe(dataset, decoder, encoder)
    yield with_facts(  # table 2: 42.27 mIoU, against 78.39
        paper_recipe("cityscapes", "pup", "large"), name="cityscapes_pup_large_40k_random",
        total_steps=40_000, evaluate_every=4000, pretrained=None, source="paper",
    )  # fmt: skip


RECIPES = {recipe.name: recipe for recipe in _all()}
