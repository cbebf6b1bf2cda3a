"""What a checkpoint says of its network: our own files in words, other people's by their shapes.

Nothing that a file says is believed before it was checked: fields and their types, class names,
colours, and every name and shape against the network of the configuration.
"""

import dataclasses
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from torch import Tensor

from ..baselines.variants import OF_PAPER
from ..decoders import UPSAMPLING
from ..files import few, unknown
from ..geometry import Size, as_size
from ..model import LAYERS, SETR, Segmenter, SETRConfig
from .keys import Translation, translate
from .tensors import Checkpoint, Source, naming, read_tensors

if TYPE_CHECKING:
    from ..baselines.fcn import FCNConfig  # at run time only where it is used: timm takes seconds

Config: TypeAlias = Union[SETRConfig, "FCNConfig"]


def own_config(checkpoint: Checkpoint) -> Config | None:
    """The configuration that one of our files holds, after all it says was checked; else None.

    Raises:
        ValueError: if a field is missing or has another type, if classes or palette are not one
            for each class and fit for a terminal, or the recipe is none.
    """
    about = checkpoint.about
    if "config" not in about:
        return None
    config = config_from_dict(about["config"])
    # Fields that older files lack: names of tensors show them, or there was no such variant.
    ours = ("aux_convs", "backbone", *OF_PAPER)
    later = ours if isinstance(config, SETRConfig) else ("width", "channels")
    for name in (f.name for f in dataclasses.fields(config) if f.name not in later):
        if name not in about["config"]:
            raise ValueError(f"its configuration lacks {name}; no shape shows it")
    check_facts(about, config.num_classes)
    _check_shapes(config, checkpoint.tensors)
    return config


def _check_shapes(config: Config, tensors: Mapping[str, Tensor]) -> None:
    """Names and shapes must be the network's, which is made without memory."""
    for name in ("depth", "aux_convs"):  # which takes time all the same: some for each layer
        if getattr(config, name, 0) > len(tensors):
            raise ValueError(f"its {name} is {getattr(config, name)}, with {len(tensors)} tensors")
    with torch.device("meta"):
        state = make_network(config).state_dict()
    missing = [n for n in state if n not in tensors and not n.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"it is not whole; missing: {few(missing)}")
    for name, tensor in tensors.items():
        wanted = tuple(state[name].shape) if name in state else "no tensor"
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}; its configuration makes it {wanted}"
            )


def check_facts(about: Mapping[str, Any], classes: int) -> None:
    """Class names, colours and recipe of a file: as many as classes, and harmless to print."""
    names, colours = about.get("classes", []), about.get("palette", [])
    if "classes" in about and not (isinstance(names, list) and len(names) == classes):
        raise ValueError(f"its classes are {str(names)[:60]!r}; {classes} names are needed")
    for name in names:
        if not isinstance(name, str) or not name or not all(map(_harmless, name)):
            raise ValueError(f"its class name {name!r} is no printable text")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"it names the class {twice[0]!r} twice")
    if "palette" in about and not (isinstance(colours, list) and len(colours) == classes):
        raise ValueError(f"its palette is {str(colours)[:60]!r}; {classes} colours are needed")
    for colour in colours:
        is_triple = isinstance(colour, list) and len(colour) == 3
        if not is_triple or not all(type(v) is int and 0 <= v <= 255 for v in colour):
            raise ValueError(f"its colour {colour!r} is not three whole numbers of 0 to 255")
    recipe = about.get("recipe", {"config": {}})  # whoever uses it looks at its fields
    if not (isinstance(recipe, dict) and isinstance(recipe.get("config"), dict)):
        raise ValueError(f"its recipe is {str(recipe)[:60]!r}, not named fields")


def _harmless(character: str) -> bool:
    """Printable, or a space or joiner that alphabets need: no escape, no line break."""
    return (
        character.isprintable()
        or unicodedata.category(character) == "Zs"
        or character in "\u200c\u200d"
    )


def config_from_checkpoint(
    source: Source,
    heads: int | None = None,
    layers: tuple[int, ...] | None = None,
    image_size: int | Size | None = None,
) -> Config:
    """The configuration of the network in a checkpoint, read off its keys and shapes.

    A `SETRConfig`; for this library's file of the baseline its `FCNConfig`.

    Args:
        source: a file or a state dict of this library, the authors or mmsegmentation.
        heads: attention heads, which no shape shows; None: width / 64, as in all published ones.
        layers: the 0-based blocks that the heads read; None: the published ones for this depth.
        image_size: of the position table; None: the square that it fits. Where a square fits too,
            tell `load_weights` the same: `table_size=image_size`.

    Raises:
        ValueError: if the file holds no segmentation network, or a published default is missing.
    """
    checkpoint = read_tensors(source)
    with naming(checkpoint.file):
        config = own_config(checkpoint)
        if config is None:
            found = translate(checkpoint.tensors)
            return _config_from_shapes(found, heads, layers, image_size)
        given: dict[str, Any] = {"heads": heads, "layers": layers, "image_size": image_size}
        return dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})


def _config_from_shapes(
    found: Translation,
    heads: int | None,
    layers: tuple[int, ...] | None,
    image_size: int | Size | None,
) -> SETRConfig:
    shape = {name: tuple(found.tensors[key].shape) for name, key in found.names.items()}
    if "head.classifier.weight" not in shape:
        raise ValueError("it holds an encoder without a decoder; make the model by name")

    def sizes(name: str, dimensions: int) -> tuple[int, ...]:
        if len(shape.get(name, ())) != dimensions:
            raise ValueError(f"{name} is {shape.get(name, 'missing')}; {dimensions} sizes expected")
        return shape[name]

    width, in_chans, patch_size, _ = sizes("encoder.patch_embed.proj.weight", 4)
    num_classes, _, _, kernel = sizes("head.classifier.weight", 4)
    decoder, aux_convs = _decoder(shape)
    first = "neck.projections.0" if decoder == "mla" else "head.convs.0"
    authors = kernel == 3 if decoder == "mla" else "head.convs.0.conv.bias" in shape
    graph = "authors" if authors else "mmseg"
    if decoder != "mla" and aux_convs == len(UPSAMPLING[graph][f"{decoder} auxiliary"].factors):
        aux_convs = 0  # as many as the graph has anyway
    depth = _count(shape, r"encoder\.blocks\.(\d+)\.")
    if layers is None and (decoder, depth) not in LAYERS:
        raise ValueError(
            f"no published layers for {decoder!r} with {depth} blocks; name them: layers=(...)"
        )
    if heads is None and width % 64:
        raise ValueError(f"width {width} is no multiple of 64; say how many heads: heads=...")
    if image_size is None:
        rows, cols = square_grid(sizes("encoder.pos_embed", 3)[1])
        image_size = (rows * patch_size, cols * patch_size)
    return SETRConfig(
        decoder, num_classes, as_size(image_size), width, depth, heads or width // 64,
        layers or (), sizes(f"{first}.conv.weight", 4)[0], graph,
        any(name.startswith("aux_heads.") for name in shape), patch_size,
        "encoder.patch_embed.proj.bias" in shape, in_chans, aux_convs,
    )  # fmt: skip


def _decoder(shape: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    """The decoder, and the convolutions of its first auxiliary head."""
    convs = _count(shape, r"head\.convs\.(\d+)\.")
    name = "mla" if "neck.norms.0.weight" in shape else "pup" if convs > 1 else "naive"
    return name, _count(shape, r"aux_heads\.0\.convs\.(\d+)\.")


def _count(names: Iterable[str], pattern: str) -> int:
    """How many numbers a pattern finds at the beginning of names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def square_grid(slots: int) -> Size:
    """The square grid of a position table with one or two further slots."""
    side = side_of(slots - 1) or side_of(slots - 2)
    if not side:
        raise ValueError(
            f"a position table of {slots} slots fits no square grid; say for which size it was "
            "made: load_weights(..., table_size=(height, width)), or image_size=(height, width) "
            "where a configuration is read off a file"
        )
    return side, side


def side_of(count: int) -> int:
    """The square root of a square number, else 0."""
    side = math.isqrt(max(count, 0))
    return side if side * side == count else 0


def make_network(config: Config) -> Segmenter:
    """The network of a configuration: `SETR` for a `SETRConfig`, `FCN` for an `FCNConfig`."""
    if isinstance(config, SETRConfig):
        return SETR(config)
    from ..baselines.fcn import FCN

    return FCN(config)


def config_from_dict(values: Any) -> Config:
    """The way back from `dataclasses.asdict` through JSON, which knows lists only.

    A configuration without decoder is the FCN's. Fields that an older file does not have get their
    defaults.

    Raises:
        ValueError: if it is no configuration; the message names the field.
    """
    if not isinstance(values, dict):
        raise ValueError(f"the configuration is {str(values)[:40]!r}, not named fields")
    network: type[Config] = SETRConfig
    if "decoder" not in values:
        from ..baselines.fcn import FCNConfig as network
    known = [field.name for field in fields(network)]
    for name in values:
        if name not in known:
            raise ValueError(unknown("field of a configuration", name, known))
    facts: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return network(**facts)
