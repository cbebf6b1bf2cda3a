"""Weights: our own files, and other people's recognised by their keys.

Our files are safetensors with the configuration inside. `load_weights` also reads ViT and DeiT
checkpoints in timm's names, the SETR authors' checkpoints and mmsegmentation's. No file's code is
ever run.
"""

# D width, N patch tokens, K classes

import dataclasses
import json
import math
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .decoders import UPSAMPLING
from .encoder import resize_positions
from .errors import few, unknown
from .files import whole_file
from .geometry import Size, as_size, patch_grid
from .keys import recognise, translate
from .model import LAYERS, SETR, SETRConfig, config_from_dict, make_network


class Checkpoint(NamedTuple):
    """A file that was read: its tensors, and what one of our files says of itself."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


Source = str | os.PathLike[str] | Mapping[str, Tensor] | Checkpoint


@dataclass
class LoadReport:
    """What `load_weights` did with every tensor.

    Attributes:
        format: whose file it is: `"setr_lib"`, `"timm"`, `"authors"` or `"mmseg"`.
        loaded: names in the model that were filled.
        renamed: name in the file -> name in the model, where they differ.
        resized: name in the model -> what was done to the tensor on the way.
        left_out: name in the file -> why it is not used.
        fresh: names in the model that keep their initial values.
    """

    format: str
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.format}: {len(self.loaded)} tensors loaded, {len(self.renamed)} renamed"]
        lines += [f"  {name}: {what}" for name, what in self.resized.items()]
        for why in sorted(set(self.left_out.values())):
            names = [name for name, reason in self.left_out.items() if reason == why]
            lines.append(f"  left out ({why}): {few(names)}")
        if self.fresh:
            lines.append(f"  not in the file, fresh: {few(self.fresh)}")
        return "\n".join(lines)


def load_weights(model: SETR, source: Source, strict_head: bool = True) -> LoadReport:
    """Fill a model from a checkpoint of this library, timm, the authors or mmsegmentation.

    Position tables of another grid are resized bilinearly, distilled DeiT's extra slot is dropped,
    the patch embedding is inflated to other numbers of channels. A file with an encoder only (timm)
    leaves the heads fresh. After an error the model is what it was.

    Args:
        source: a file (safetensors, or a pickle whose code is not run), a state dict, or what
            `read_tensors` made of one.
        strict_head: False lets classifiers with another number of classes start fresh.

    Raises:
        ValueError: if the file is damaged, would run code, is no known checkpoint, does not fill
            the whole encoder, or holds another network; the message names the keys.
        FileNotFoundError: if there is no such file.
    """
    tensors, about = read_tensors(source)
    names, left_out = translate(tensors)
    report = LoadReport(recognise(tensors), left_out=left_out)
    state = model.state_dict()
    has_head = any(name.startswith("head.") for name in names)
    filled: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, key in names.items():
        tensor = tensors[key]
        if name not in state:
            if name.startswith("aux_heads.") and not model.aux_heads:
                report.left_out[key] = "the model has no auxiliary heads"
            elif name == "encoder.patch_embed.proj.bias":
                report.left_out[key] = "the model has no patch bias"
            else:
                wrong.append(f"{key} has no place in the model")
            continue
        if name == "encoder.pos_embed":
            tensor, done = fit_positions(tensor, model.encoder.grid, _table_grid(about))
            report.resized.update({name: done} if done else {})
        elif name == "encoder.patch_embed.proj.weight" and tensor.shape[1] != state[name].shape[1]:
            report.resized[name] = f"{tensor.shape[1]} channels to {state[name].shape[1]}"
            tensor = inflate(tensor, state[name].shape[1])
        if tensor.shape != state[name].shape:
            if ".classifier." in name and not strict_head:
                report.left_out[key] = "another number of classes"
                continue
            wrong.append(f"{key} is {_shape(tensor)}, the model's {name} {_shape(state[name])}")
            continue
        filled[name] = tensor
        if key != name:
            report.renamed[key] = name
    report.fresh = [n for n in state if n not in filled and not n.endswith("num_batches_tracked")]
    bias = "encoder.patch_embed.proj.bias"
    if bias in report.fresh and report.format == "mmseg":  # its 1.2 trains without
        filled[bias] = torch.zeros_like(state[bias])
        report.fresh.remove(bias)
        report.resized[bias] = "not in the file: zero, which is the same"
    if has_head:
        missing = [n for n in report.fresh if strict_head or ".classifier." not in n]
    else:  # an encoder alone fills the encoder, and must fill all of it
        missing = [n for n in report.fresh if n.startswith("encoder.")]
    if missing or wrong:
        raise ValueError(_mismatch(report.format, missing, wrong))
    report.loaded = list(filled)
    model.load_state_dict(filled, strict=False)
    return report


def load_pretrained(model: SETR, name: str) -> LoadReport:
    """Fill a model's encoder from a timm model by name (fetched), or all of it from a file.

    Raises:
        ValueError: if `name` is neither a file nor a timm model, or does not fit.
        ConnectionError: if the weights cannot be fetched.
    """
    if Path(name).is_file():
        return load_weights(model, name)
    import timm

    if not isinstance(model.config, SETRConfig):
        raise ValueError(f"{type(model).__name__} takes no pretrained weights; use pretrained=None")
    if not timm.is_model(name):
        raise ValueError(f"no file here, and {unknown('timm model', name, timm.list_models())}")
    own = model.config.backbone == name  # the timm backbone itself, not our encoder
    size: dict[str, Any] = (
        {"img_size": model.config.image_size, "dynamic_img_size": True} if own else {}
    )
    try:
        fetched = timm.create_model(name, pretrained=True, num_classes=0, **size)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"cannot fetch the weights of {name} ({error})") from error
    if not own:
        return load_weights(model, fetched.state_dict())
    encoder: Any = model.encoder
    encoder.backbone.load_state_dict(fetched.state_dict())
    return LoadReport("timm", [f"encoder.backbone.{key}" for key in fetched.state_dict()])


def config_from_checkpoint(
    source: Source,
    heads: int | None = None,
    layers: tuple[int, ...] | None = None,
    image_size: int | Size | None = None,
) -> Any:
    """The configuration of the network in a checkpoint, read off its keys and shapes.

    A `SETRConfig`; for this library's file of the baseline its `FCNConfig`.

    Args:
        source: a file or a state dict of this library, the authors or mmsegmentation.
        heads: attention heads, which no shape shows; None: width / 64, as in all published ones.
        layers: the 0-based blocks that the heads read; None: the published ones for this depth.
        image_size: of the position table; None: the square that it fits.

    Raises:
        ValueError: if the file holds no segmentation network, or a published default is missing.
    """
    tensors, about = read_tensors(source)
    if "config" in about:
        given: dict[str, Any] = {"heads": heads, "layers": layers, "image_size": image_size}
        config = config_from_dict(about["config"])
        return dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})
    names, _ = translate(tensors)
    if "head.classifier.weight" not in names:
        raise ValueError("the file holds an encoder without a decoder; make the model by name")
    shape = {name: tuple(tensors[key].shape) for name, key in names.items()}
    width, in_chans, patch_size, _ = shape["encoder.patch_embed.proj.weight"]
    depth = 1 + max(int(n.split(".")[2]) for n in shape if n.startswith("encoder.blocks."))
    convs = len({n.split(".")[2] for n in shape if n.startswith("head.convs.")})
    decoder = "mla" if "neck.norms.0.weight" in shape else "pup" if convs > 1 else "naive"
    if decoder == "mla":
        authors = shape["head.classifier.weight"][-1] == 3
        channels = shape["neck.projections.0.conv.weight"][0]
    else:
        authors = "head.convs.0.conv.bias" in shape
        channels = shape["head.convs.0.conv.weight"][0]
    if layers is None and (decoder, depth) not in LAYERS:
        raise ValueError(
            f"no published layers for {decoder!r} with {depth} blocks; name them: layers=(...)"
        )
    if heads is None and width % 64:
        raise ValueError(f"width {width} is no multiple of 64; say how many heads: heads=...")
    if image_size is None:
        rows, cols = square_grid(shape["encoder.pos_embed"][1])
        image_size = (rows * patch_size, cols * patch_size)
    graph = "authors" if authors else "mmseg"
    aux_convs = len({n.split(".")[3] for n in shape if n.startswith("aux_heads.0.convs.")})
    if decoder != "mla" and aux_convs == len(UPSAMPLING[graph][f"{decoder} auxiliary"].factors):
        aux_convs = 0  # as many as the graph has anyway
    return SETRConfig(
        decoder=decoder,
        num_classes=shape["head.classifier.weight"][0],
        image_size=as_size(image_size),
        width=width,
        depth=depth,
        heads=heads or width // 64,
        layers=layers or (),
        channels=channels,
        graph=graph,
        aux=any(name.startswith("aux_heads.") for name in shape),
        patch_size=patch_size,
        patch_bias="encoder.patch_embed.proj.bias" in shape,
        in_chans=in_chans,
        aux_convs=aux_convs,
    )


# ---- tensors on the way


def fit_positions(table: Tensor, grid: Size, old: Size | None = None) -> tuple[Tensor, str]:
    """A position table `(1,S+N,D)` for another grid, and what was done in words ("" if nothing).

    The grid is the last square number of slots, the class token slot 0 (the authors'
    `load_pretrained`); a distilled DeiT has one slot more, which is dropped.
    """
    slots = table.shape[1]
    if slots == 1 + grid[0] * grid[1] and old in (None, grid):
        return table, ""
    done = ""
    old = old or square_grid(slots)
    count = old[0] * old[1]
    if slots - count > 1:
        done = "the distillation slot dropped"
        table = torch.cat([table[:, :1], table[:, -count:]], dim=1)
    if old != grid:
        done += (", " if done else "") + f"{old[0]}x{old[1]} resized to {grid[0]}x{grid[1]}"
    return resize_positions(table, old, grid), done


def square_grid(slots: int) -> Size:
    """The square grid of a position table with one or two further slots."""
    side = math.isqrt(slots - 1)
    if slots - side * side not in (1, 2):
        raise ValueError(
            f"a position table of {slots} slots fits no square grid; say for which size it was "
            "made: image_size=(height, width)"
        )
    return side, side


def inflate(weight: Tensor, channels: int) -> Tensor:
    """A patch embedding `(D,3,P,P)` for images of another number of channels.

    One channel: the sum over the old ones, so that a grey image gives what it gave in RGB. More:
    the old ones repeated and scaled, so that sums keep their size (timm's rule).
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // weight.shape[1])
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (weight.shape[1] / channels)


# ---- files


def save_checkpoint(
    model: Any, path: str | os.PathLike[str], half: bool = False, **about: Any
) -> None:
    """Write weights and configuration to one safetensors file, whole or not at all.

    Args:
        model: a `SETR` or an `FCN`.
        half: keep floats in 16 bits: half the size, for files that travel, not for resuming.
        about: anything JSON can hold that a reader of the file needs (classes, palette, recipe).

    Raises:
        OSError: if it cannot be written; a file that was there before is untouched.
    """
    about = {"config": dataclasses.asdict(model.config), **about}
    tensors = {k: value.detach().cpu().contiguous() for k, value in model.state_dict().items()}
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"setr_lib": json.dumps(about)})
        except SafetensorError as error:
            raise OSError(f"{path} could not be written ({error}); is the disk full?") from error


def load_checkpoint(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[Any, dict[str, Any]]:
    """Read what `save_checkpoint` wrote: the model, in evaluation mode, and what is known of it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or no checkpoint of this library.
    """
    tensors, about = read_tensors(path)
    if "config" not in about:
        raise ValueError(
            f"{path} does not say which network it holds; bring it into this library's form first: "
            f"python -m setr_lib convert {path} OUT.safetensors"
        )
    model = make_network(config_from_dict(about["config"]))
    model.load_state_dict(tensors)
    return model.to(device).eval(), about


def read_tensors(source: Source) -> Checkpoint:
    """The tensors of a file or a state dict, and what one of our files says of itself.

    Containers (`state_dict`, `model`) are unwrapped and a `module.` in front is removed.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return Checkpoint(dict(_plain(source)), {})
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with open(path, "rb") as file:
        head = file.read(9)
    # A safetensors file starts with the length of its header, which may look like a pickle's mark
    # (896 is 80 03); its ninth byte opens the header.
    marks = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04")
    zipped_or_pickled = head[:2] in marks and head[8:] != b"{"
    if zipped_or_pickled:
        return Checkpoint(dict(_plain(_unpickle(path))), {})
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no checkpoint ({error}); fetch it again") from error
    return Checkpoint(tensors, json.loads(metadata.get("setr_lib", "{}")))


# Training logs that checkpoints carry along beside the tensors. They are not read: each of these
# names is answered with an empty stand-in.
_LOGS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)


class _Ignored:
    """An empty stand-in that swallows whatever it is made from."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _unpickle(path: Path) -> Any:
    ignored: list[Any] = [(_Ignored, name) for name in _LOGS]
    try:
        with torch.serialization.safe_globals(ignored):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)|Unsupported (?:class|global|operand)[^\n]*", str(error))
        what = unsafe[0] if unsafe else str(error).splitlines()[0]
        raise ValueError(
            f"{path} holds more than tensors ({what}); it was not opened, since that could run "
            "foreign code. Ask its author for a file with tensors only"
        ) from error
    except Exception as error:  # torch raises many kinds for files that end early
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error


def _plain(container: Any) -> Iterator[tuple[str, Tensor]]:
    for key in ("state_dict", "model", "module"):
        if isinstance(container, Mapping) and isinstance(container.get(key), Mapping):
            container = container[key]
    if not isinstance(container, Mapping):
        raise ValueError(f"the file holds a {type(container).__name__}, not a state dict")
    for name, value in container.items():
        if isinstance(value, Tensor):
            yield str(name).removeprefix("module."), value


def _table_grid(about: Mapping[str, Any]) -> Size | None:
    if "config" not in about:
        return None
    return patch_grid(tuple(about["config"]["image_size"]), about["config"]["patch_size"])


def _mismatch(owner: str, missing: list[str], wrong: list[str]) -> str:
    parts = [f"this {owner} checkpoint does not fit the model; nothing was loaded."]
    if missing:
        parts.append(f"Missing: {few(missing)}.")
    if wrong:
        parts.append(f"Unexpected: {few(wrong)}.")
    parts.append(
        "Make the model from the file (SETR(config_from_checkpoint(file))), or, if only the number "
        "of classes differs, load with strict_head=False"
    )
    return " ".join(parts)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
