"""Published numbers that code computes here, without training: one function for each measure.

An entry is a dictionary of `data/paper.json`. A check gives the value that this library has in its
place, read from the network itself (on the meta device, which takes no memory), the recipe, or the
protocol, never from a second table.
"""

# H W image rows and columns

import dataclasses
import functools
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.augment import photometric_distortion, random_window
from ..data.load import OFFICIAL
from ..data.protocols import PROTOCOLS
from ..decoders import MLA, UPSAMPLING
from ..geometry import IGNORE, Size
from ..images import MEAN, STD
from ..inference import window_starts
from ..losses.segmentation import AUX_WEIGHT
from ..model import Segmenter
from ..weights.config import make_network
from ..zoo import create_model, model_config
from .optim import lr_at, make_optimizer
from .recipe import Recipe
from .recipes import PAPER_LRS, paper_recipe

Entry = dict[str, Any]


def computed(entry: Entry) -> Any:
    """What this library has in the place of a published value; None where it computes none."""
    check = CHECKS.get(entry["measure"])
    return None if check is None or not is_here(entry["model"]) else _plain(check(entry))


def is_here(model: str | None) -> bool:
    """Whether this library has the network; None stands for all of SETR's."""
    return model is None or model == "FCN R-101" or model.startswith(("SETR-", "T-", "Hybrid-"))


def row(entry: Entry) -> tuple[str, str]:
    """Decoder and encoder of an entry: SETR-PUP-DeiT -> ("pup", "deit"); if unsaid PUP, Large."""
    word, _, encoder = (entry["model"] or "SETR-PUP").lower().removeprefix("setr-").partition("-")
    if word in ("t", "hybrid"):  # T-Base, T-Large: the encoder alone
        return ("pup" if word == "t" else "hybrid"), encoder
    return word, encoder or "large"


def recipe_of(entry: Entry) -> Recipe:
    """The paper's recipe of an entry, in the authors' numbers; ADE20K's if it names no data set."""
    return paper_recipe(entry["dataset"] or "ade20k", *row(entry))


@functools.cache
def _network(name: str, classes: int, size: int, graph: str, aux_convs: int = 0) -> Segmenter:
    with torch.device("meta"):
        if name.startswith("fcn"):
            return create_model(name, classes, size)
        config = model_config(name, classes, size, graph=graph)
        return make_network(dataclasses.replace(config, aux_convs=aux_convs))


def network_of(entry: Entry) -> Any:
    """The network of an entry on the meta device."""
    said = entry["conditions"]
    where = said.get("classes", 150), said.get("image_size", 512), said.get("graph", "authors")
    if entry["model"] == "FCN R-101":
        return _network("fcn_resnet101", *where)
    decoder, encoder = row(entry)
    size = "base" if encoder == "deit" else encoder
    return _network(f"setr_{decoder}_{size}", *where, said.get("aux_convs", 0))


# ---- what takes more than a word


def parameters_millions(entry: Entry) -> float:
    """All of the network in training, with the classifier that each of the authors' heads leaves
    unused where the entry counts it; millions, rounded as printed."""
    network = network_of(entry)
    count = sum(p.numel() for p in network.parameters())
    if entry["conditions"].get("unused_layers"):
        count += unused_parameters(entry) * (1 + len(network.aux_heads))
    return round(count / 1e6, 2)


def unused_parameters(entry: Entry) -> int:
    """Of the 1x1 convolution from 512 channels that each of the authors' heads never calls; not
    part of our networks."""
    said = entry["conditions"]
    return (512 + 1) * said["classes"] if said.get("graph") != "mmseg" else 0


def counted_classes(entry: Entry) -> int | None:
    """The number of classes with which the authors' network has the parameters that are printed."""
    for classes, size in ((19, 768), (60, 480), (150, 512)):
        said = {"classes": classes, "image_size": size, "unused_layers": True}
        found = parameters_millions({**entry, "conditions": said})
        if found == entry["conditions"]["parameters_millions"]:
            return classes
    return None


def layers(entry: Entry, which: str) -> list[int]:
    """The blocks that the main or the auxiliary heads read, counted as the entry counts."""
    config = network_of(entry).config
    main = config.layers if config.decoder == "mla" else config.layers[-1:]
    first = entry["conditions"].get("counted_from", 0)
    return [layer + first for layer in (main if which == "main" else config.aux_layers)]


def upsampling(entry: Entry, which: str = "") -> list[int]:
    """The factors of a head's bilinear resizes, from patches to pixels."""
    config = network_of(entry).config
    if config.decoder == "mla":
        return [16] if which else [4, 4]
    factors = UPSAMPLING[config.graph][config.decoder + which].factors
    factors = factors[:1] * config.aux_convs if which and config.aux_convs else factors
    inner = [factor for factor in factors if factor > 1]
    last = config.patch_size // prod(inner)
    return [*inner, last] if last > 1 else inner


def kernel(entry: Entry) -> int:
    """The side of a head's convolutions."""
    return network_of(entry).head.convs[0].conv.kernel_size[0]


def learning_rate(entry: Entry) -> float:
    """The base learning rate: the authors', or for an entry of the paper the paper's."""
    recipe = recipe_of(entry)
    decoder, _ = row(entry)
    theirs = PAPER_LRS.get((recipe.dataset, decoder), recipe.lr)
    return theirs if entry["source"] == "paper" else recipe.lr


def group_lr(entry: Entry, part: str) -> float:
    """The peak learning rate of a part of the network."""
    optimizer = _optimizer(recipe_of(entry))
    return next(group["base"] for group in optimizer.param_groups if group["name"] == part)


def _optimizer(recipe: Recipe) -> torch.optim.Optimizer:
    with torch.device("meta"):
        return make_optimizer(make_network(recipe.config), recipe)


def lr_first_to_last(entry: Entry) -> float:
    """How many times larger the encoder's first learning rate is than its last."""
    recipe = recipe_of(entry)
    first, last = (lr_at(step, recipe, recipe.lr) for step in (0, recipe.total_steps))
    return round(first / last, 6)


def view(entry: Entry, ratio: float) -> Size:
    """The size at which the multi-scale test reads an image, at ratio 1 the single-scale one."""
    name = entry["dataset"] + ("_ms" if "scales" in entry["conditions"] else "")
    return PROTOCOLS[name].view_size(tuple(entry["conditions"]["image_size"]), ratio)


def windows(entry: Entry) -> list[int]:
    """Rows and columns of sliding windows over an image at single scale."""
    plan: Any = PROTOCOLS[entry["dataset"]]
    sides = zip(view(entry, 1.0), plan.window, plan.stride)
    return [len(window_starts(*side)) for side in sides]


class Noted:
    """A random generator that notes what it is asked for; what it draws is always the least."""

    def __init__(self) -> None:
        self.draws, self.low, self.high = 0, np.zeros(0), np.zeros(0)

    def integers(self, low: int, high: int) -> int:
        self.draws += 1
        return low

    def random(self, count: int) -> np.ndarray:
        return np.zeros(count)

    def uniform(self, low: Any, high: Any) -> np.ndarray:
        self.low, self.high = np.array(low), np.array(high)
        return self.low


def redraws(entry: Entry) -> int:
    """How often a crop of a single class is drawn again (a draw is a row and a column)."""
    noted: Any = Noted()
    random_window(np.zeros((8, 8), np.uint8), (8, 8), (4, 4), noted, 0.75)
    return noted.draws // 2 - 1


def distortion(entry: Entry, place: int, both: bool) -> Any:
    """The range from which a distortion of the colours is drawn, or its upper end."""
    noted: Any = Noted()
    photometric_distortion(noted)
    low, high = float(noted.low[place]), float(noted.high[place])
    return [low, high] if both else high


def dropout(entry: Entry) -> float:
    """The largest probability of any dropout layer; 0 if there is none."""
    layers = [m for m in network_of(entry).modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    return max((layer.p for layer in layers), default=0.0)


def final_norm(entry: Entry) -> bool:
    """Whether the encoder ends with a norm of its own."""
    return any(name == "norm" for name, _ in network_of(entry).encoder.named_children())


def stream_order(entry: Entry) -> list[int]:
    """MLA's streams p2 to p5 in the order in which they are joined."""
    streams = [2, 3, 4, 5]
    return streams[::-1] if MLA[network_of(entry).config.graph].deepest_first else streams


def _of_config(name: str) -> Callable[[Entry], Any]:
    return lambda entry: getattr(network_of(entry).config, name)


def _of_recipe(name: str) -> Callable[[Entry], Any]:
    return lambda entry: getattr(recipe_of(entry), name)


def _of_transform(name: str) -> Callable[[Entry], Any]:
    return lambda entry: getattr(recipe_of(entry).transform, name)


def _of_protocol(name: str, ending: str = "") -> Callable[[Entry], Any]:
    return lambda entry: getattr(PROTOCOLS[(entry["dataset"] or "ade20k") + ending], name)


def _batch_norm(entry: Entry) -> nn.BatchNorm2d:
    return next(m for m in network_of(entry).head.modules() if isinstance(m, nn.BatchNorm2d))


CHECKS: dict[str, Callable[[Entry], Any]] = {
    "parameters_millions": parameters_millions,
    "unused_parameters": unused_parameters,
    "counted_classes": counted_classes,
    "shape": lambda e: network_of(e).state_dict()[e["conditions"]["tensor"]].shape,
    **{name: _of_config(name) for name in ("depth", "width", "heads", "patch_size", "patch_bias")},
    "head_width": lambda e: network_of(e).config.width // network_of(e).config.heads,
    "mlp_width": lambda e: network_of(e).encoder.blocks[0].mlp.fc1.out_features,
    "norm_eps": lambda e: network_of(e).encoder.blocks[0].norm1.eps,
    "final_norm": final_norm,
    "dropout": dropout,
    "position_slots": lambda e: network_of(e).encoder.pos_embed.shape[1],
    "class_token": lambda e: network_of(e).encoder.class_token == "kept",
    "main_layers": lambda e: layers(e, "main"),
    "aux_layers": lambda e: layers(e, "auxiliary"),
    "aux_heads": lambda e: len(network_of(e).aux_heads),
    "channels": _of_config("channels"),
    "stream_channels": lambda e: network_of(e).head.classifier.in_channels // 4,
    "convolutions": lambda e: len(network_of(e).head.convs),
    "aux_convolutions": lambda e: len(network_of(e).aux_heads[0].convs),
    "aux_depth": lambda e: len(
        [m for m in network_of(e).aux_heads[0].modules() if isinstance(m, nn.Conv2d)]
    ),
    "kernel": kernel,
    "conv_bias": lambda e: network_of(e).head.convs[0].conv.bias is not None,
    "upsampling": upsampling,
    "last_upsampling": lambda e: upsampling(e)[-1],
    "aux_upsampling": lambda e: upsampling(e, " auxiliary"),
    "classifier_stride": lambda e: 16 // prod(network_of(e).head.factors[:-1]),
    "classifier_kernel": lambda e: network_of(e).head.classifier.kernel_size[0],
    "align_corners": lambda e: MLA[network_of(e).config.graph].align_corners,
    "stream_order": stream_order,
    "aux_bias": lambda e: network_of(e).aux_heads[0].classifier.bias is not None,
    "bn_eps": lambda e: _batch_norm(e).eps,
    "bn_momentum": lambda e: _batch_norm(e).momentum,
    "lr": learning_rate,
    "neck_lr": lambda e: group_lr(e, "neck"),
    "head_lr_mult": lambda e: group_lr(e, "heads") / group_lr(e, "encoder"),
    "lr_first_to_last": lr_first_to_last,
    "min_lr": lambda e: lr_at(recipe_of(e).total_steps, recipe_of(e), recipe_of(e).lr),
    "momentum": lambda e: _optimizer(recipe_of(e)).param_groups[0]["momentum"],
    **{
        name: _of_recipe(name)
        for name in (
            "batch", "total_steps", "crop", "scale", "weight_decay", "power", "warmup",
            "ratio_range", "average",
        )
    },
    "flip_probability": _of_transform("flip"),
    "max_share": _of_transform("max_share"),
    "redraws": redraws,
    "brightness": lambda e: distortion(e, 0, both=False),
    "contrast": lambda e: distortion(e, 1, both=True),
    "saturation": lambda e: distortion(e, 2, both=True),
    "hue": lambda e: distortion(e, 3, both=False),
    "mean": lambda e: MEAN,
    "std": lambda e: STD,
    "ignored_label": lambda e: IGNORE,
    "aux_weight": lambda e: AUX_WEIGHT,
    "images": lambda e: OFFICIAL[e["dataset"]].counts[e["conditions"]["split"]],
    "classes": lambda e: len(OFFICIAL[e["dataset"]].classes),
    "window": _of_protocol("window"),
    "stride": _of_protocol("stride"),
    "view_rule": _of_protocol("rule"),
    "scales": _of_protocol("scales", "_ms"),
    "mirrored": _of_protocol("flip", "_ms"),
    "windows": windows,
    "view_size": lambda e: view(e, 1.0),
    "short_sides": lambda e: [min(view(e, ratio)) for ratio in e["conditions"]["scales"]],
}  # fmt: skip


def _plain(value: Any) -> Any:
    """As JSON has it: lists, no tuples."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value
