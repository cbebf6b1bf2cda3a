"""Weights: our own files, and other people's recognised by their keys.

Our files are safetensors with the configuration inside. Between any file and a network stands one
checked step: names, shapes and kinds of all tensors are compared before memory is taken for them,
and a network is filled whole or left as it was.
"""

# D width, N patch tokens, K classes

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..encoder import resize_positions
from ..files import few, unknown, whole_file
from ..geometry import Size, as_size, patch_grid
from ..model import SETR, Segmenter, SETRConfig
from .bits import in_bits
from .config import Config, check_facts, own_config, side_of, square_grid
from .keys import Translation, translate
from .patches import fit_patches
from .tensors import Source, digest, naming, read_tensors


@dataclass
class LoadReport:
    """What `load_weights` did with every tensor.

    Attributes:
        format: whose file it is: `"setr_lib"`, `"timm"`, `"authors"`, `"mmseg"`, `"huggingface"`
            or `"jax"`.
        loaded: names in the model that were filled.
        renamed: name in the file -> name in the model, where they differ.
        resized: name in the model -> what was done to the tensor on the way.
        left_out: name in the file -> why it is not used.
        fresh: names in the model that keep their initial values.
        notes: what else a user should know, one sentence each.
    """

    format: str
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.format}: {len(self.loaded)} tensors loaded, {len(self.renamed)} renamed"]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  {name}: {what}" for name, what in self.resized.items()]
        for why in sorted(set(self.left_out.values())):
            names = [name for name, reason in self.left_out.items() if reason == why]
            lines.append(f"  left out ({why}): {few(names)}")
        if self.fresh:
            lines.append(f"  not in the file, fresh: {few(self.fresh)}")
        return "\n".join(lines)


def load_weights(
    model: Segmenter,
    source: Source,
    strict_head: bool = True,
    table_size: int | Size | None = None,
) -> LoadReport:
    """Fill a model from a checkpoint of this library, timm, the authors or mmsegmentation.

    Also from ViT and DeiT in the names of Hugging Face and JAX (.npz). Position tables of another
    grid are resized bilinearly, distilled DeiT's extra slot is dropped, the patch embedding is
    inflated to other numbers of channels, and that of an encoder alone resampled to other patch
    sizes. A file with an encoder only leaves the heads fresh.
    After an error the model is what it was.

    Args:
        source: a file (safetensors, .npz, or a pickle whose code is not run), a state dict, or what
            `read_tensors` made of one.
        strict_head: False lets classifiers with another number of classes start fresh.
        table_size: of the images that the file's position table was made for. None: our files know
            it; a square table is taken for one; another is taken as the model's, if it fits.

    Raises:
        ValueError: if the file is damaged, would run code, is no known checkpoint, does not fill
            the whole encoder, holds another network, or numbers that are no weights (whole,
            complex, infinite, NaN); the message names file and keys.
        FileNotFoundError: if there is no such file.
    """
    checkpoint = read_tensors(source)
    with naming(checkpoint.file):
        config = own_config(checkpoint)
        found = translate(checkpoint.tensors)
        report = LoadReport(found.owner, left_out=found.left_out)
        report.notes += [*checkpoint.notes, *found.notes]
        grid = _table_grid(table_size, config, model)
        state = model.state_dict()
        if any(tensor.is_meta for tensor in state.values()):
            raise ValueError("the model has no memory to fill: make it outside of device('meta')")
        filled, wrong = _fit(model, state, found, report, grid, strict_head)
        heads = [getattr(c, "heads", None) for c in (model.config, config or model.config)]
        if heads[0] != heads[1]:
            wrong.append(f"{heads[1]} attention heads, the model's are {heads[0]}")
        missing = _missing(found, report, state, filled, strict_head)
        if missing or wrong:
            raise ValueError(_mismatch(found, missing, wrong))
    report.loaded = list(filled)
    model.load_state_dict(filled, strict=False)
    return report


def _fit(
    model: Segmenter,
    state: Mapping[str, Tensor],
    found: Translation,
    report: LoadReport,
    grid: Size | None,
    strict_head: bool,
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors as they will stand in the model, and what is wrong with others."""
    filled: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, key in found.names.items():
        tensor = found.tensors[key]
        if name not in state:
            if name.startswith("aux_heads.") and not model.aux_heads:
                report.left_out[key] = "the model has no auxiliary heads"
            elif name == "encoder.patch_embed.proj.bias":
                report.left_out[key] = "the model has no patch bias"
            else:
                wrong.append(f"{key} has no place in the model")
            continue
        try:
            if isinstance(model, SETR) and name.endswith("pos_embed"):
                tensor = _positions(name, tensor, model, found, report, grid)
            elif name.endswith("patch_embed.proj.weight"):
                tensor, done = fit_patches(tensor, state[name], resample=not found.has_head)
                report.resized.update({name: done} if done else {})
            if ".classifier." in name and not strict_head and tensor.shape != state[name].shape:
                report.left_out[key] = "another number of classes"
                continue
            filled[name] = as_weight(tensor, state[name])
        except ValueError as error:
            wrong.append(f"{key if key == name else f'{key} ({name})'} {error}")
        if key != name:
            report.renamed[key] = name
    return filled, wrong


def as_weight(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` as it will stand in the place of `like`.

    Raises:
        ValueError: for another shape, another kind of number, NaN or infinity.
    """
    if tensor.shape != like.shape:
        raise ValueError(f"is {_shape(tensor)}, the model's {_shape(like)}")
    number = tensor.dtype is not torch.bool and not tensor.is_complex()
    if not number or tensor.is_floating_point() != like.is_floating_point():
        raise ValueError(f"holds {tensor.dtype}, the model's {like.dtype}")
    value = tensor.to(like.dtype)
    if like.is_floating_point() and not value.isfinite().all():
        what = f"more than {like.dtype} can" if tensor.isfinite().all() else "NaN or infinity"
        raise ValueError(f"holds {what}")
    return value


def _missing(
    found: Translation,
    report: LoadReport,
    state: Mapping[str, Tensor],
    filled: dict[str, Tensor],
    strict_head: bool,
) -> list[str]:
    """What the file should have filled and did not; `report.fresh` is what stays as it is."""
    report.fresh = [n for n in state if n not in filled and not n.endswith("num_batches_tracked")]
    bias = "encoder.patch_embed.proj.bias"
    if bias in report.fresh and found.owner == "mmseg":  # its 1.2 trains without
        filled[bias] = torch.zeros_like(state[bias])
        report.fresh.remove(bias)
        report.resized[bias] = "not in the file: zero, which is the same"
    absent = [n for n in report.fresh if n not in found.names]  # the others are named as wrong
    if found.has_head:
        return [n for n in absent if strict_head or ".classifier." not in n]
    return [n for n in absent if n.startswith("encoder.")]  # all of the encoder, at least


def _mismatch(found: Translation, missing: list[str], wrong: list[str]) -> str:
    parts = [f"this {found.owner} checkpoint does not fit the model; nothing was loaded."]
    if missing:
        parts.append(f"Missing: {few(missing)}.")
    if wrong:
        parts.append(f"Unexpected: {few(wrong)}.")
    if not missing and all(" holds " in words for words in wrong):
        return " ".join(parts)  # another model would not help
    if found.has_head:
        parts.append(
            "Make the model from the file (SETR(config_from_checkpoint(file))), or, if only the "
            "number of classes differs, load with strict_head=False"
        )
    else:
        parts.append("It is an encoder alone: make the model with its width, depth and patch size")
    return " ".join(parts)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def load_pretrained(model: Segmenter, name: str) -> LoadReport:
    """Fill a model's encoder from a timm model by name (fetched), or all of it from a file.

    Raises:
        ValueError: if `name` is neither a file nor a timm model, or does not fit.
        ConnectionError: if the weights cannot be fetched.
    """
    if Path(name).expanduser().is_file():
        return load_weights(model, name)
    import timm

    if not isinstance(model.config, SETRConfig):
        raise ValueError(f"{type(model).__name__} takes no pretrained weights; use pretrained=None")
    if not timm.is_model(name):
        raise ValueError(f"no file here, and {unknown('timm model', name, timm.list_models())}")
    c = model.config
    own = c.backbone == name  # the timm backbone itself, not our encoder
    facts: dict[str, Any] = (
        {"img_size": c.image_size, "dynamic_img_size": True, "in_chans": c.in_chans} if own else {}
    )
    try:
        fetched = timm.create_model(name, pretrained=True, num_classes=0, **facts)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"cannot fetch the weights of {name} ({error})") from error
    if not own:
        return load_weights(model, fetched.state_dict())
    encoder: Any = model.encoder
    encoder.backbone.load_state_dict(fetched.state_dict())
    return LoadReport("timm", [f"encoder.backbone.{key}" for key in fetched.state_dict()])


# ---- tensors on the way


def _table_grid(
    table_size: int | Size | None, config: Config | None, model: Segmenter
) -> Size | None:
    """The patch grid of the file's position table, if it is known."""
    if table_size is not None:
        return patch_grid(as_size(table_size, "table_size"), model.config.patch_size)
    if isinstance(config, SETRConfig):
        return patch_grid(config.image_size, config.patch_size)
    return None


def _positions(
    name: str,
    table: Tensor,
    model: SETR,
    found: Translation,
    report: LoadReport,
    old: Size | None,
) -> Tensor:
    """The file's position table for the model's grid; the report says what was done."""
    if table.ndim != 3 or len(table) != 1 or table.shape[2] != model.config.width:
        return table  # whose shape is wrong is said by `as_weight`
    grid, slots = model.encoder.grid, table.shape[1]
    if name != "encoder.pos_embed":  # of a timm backbone, with slots of its own before the grid
        if old in (None, grid) or slots < old[0] * old[1]:
            return table
        report.resized[name] = f"{_by(old)} resized to {_by(grid)}"
        return resize_positions(table, old, grid)
    if "encoder.cls_token" not in found.names:
        raise ValueError(
            "has no class token beside it, which SETR's encoder needs; take the network as it is "
            "from timm: create_model(..., backbone=NAME)"
        )
    known, same = old is not None, slots - 1 - found.distilled == grid[0] * grid[1]
    if old is None:
        old = _source_grid(slots, grid, same, found, report)
    table, done = fit_positions(table, grid, old)
    if old != grid and same and not known:
        height, width = (side * model.config.patch_size for side in grid)
        done += f" (a table of {_by(grid)} already? Say table_size=({height}, {width}))"
    if done:
        report.resized[name] = done
    return table


def _source_grid(
    slots: int, grid: Size, same: bool, found: Translation, report: LoadReport
) -> Size:
    """The patch grid of a table that comes without: square, or the model's where that fits."""
    side = side_of(slots - 1 - found.distilled)
    if side and not (same and found.owner == "setr_lib"):
        return side, side
    if side_of(slots) and not found.has_head:
        raise ValueError(
            f"has {slots} slots: a square grid without the class token's, which SETR's encoder "
            "needs; or another grid: say table_size=(height, width) of its images"
        )
    if same:
        report.notes.append(f"the file does not say its patch grid; it is taken as {_by(grid)}")
        return grid
    return square_grid(slots)


def fit_positions(table: Tensor, grid: Size, old: Size | None = None) -> tuple[Tensor, str]:
    """A position table `(1,S+N,D)` for another grid, and what was done in words ("" if nothing).

    The grid is `old`, or else the last square number of slots; the class token is slot 0 (the
    authors' `load_pretrained`). A distilled DeiT has one slot more, which is dropped.

    Raises:
        ValueError: if the slots fit no square grid, or not `old`.
    """
    slots = table.shape[1]
    old = old or square_grid(slots)
    count = old[0] * old[1]
    if slots - count not in (1, 2):
        raise ValueError(
            f"has {slots} slots; {_by(old)} patches and a class token need {count + 1}"
        )
    done = ""
    if slots - count > 1:
        done = "the distillation slot dropped"
        table = torch.cat([table[:, :1], table[:, -count:]], dim=1)
    if old != grid:
        done += (", " if done else "") + f"{_by(old)} resized to {_by(grid)}"
    return resize_positions(table, old, grid), done


def _by(grid: Size) -> str:
    return f"{grid[0]}x{grid[1]}"


# ---- files of ours


def save_checkpoint(
    model: Segmenter, path: str | os.PathLike[str], bits: int = 32, **about: Any
) -> None:
    """Write weights and configuration to one safetensors file, whole or not at all.

    A SHA-256 over both is written beside them and looked at by every reading.

    Args:
        model: a `SETR` or an `FCN`.
        bits: of a float; 16 and 8 are for files that travel, not for resuming (see `bits.in_bits`).
        about: anything JSON can hold that a reader of the file needs (classes, palette, recipe).

    Raises:
        ValueError: if the file could not be read again: classes that are not as many as the
            model's, say; for another number of bits.
        OSError: if it cannot be written; a file that was there before is untouched.
    """
    if model.protocol is not None:  # a network that was loaded is scored as before
        about = {"protocol": dataclasses.asdict(model.protocol), **about}
    words = json.dumps({"config": dataclasses.asdict(model.config), **about})
    check_facts(json.loads(words), model.config.num_classes)
    tensors = in_bits(model.state_dict(), bits)
    metadata = {"setr_lib": words, "sha256": digest(tensors, words)}
    with whole_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written ({error}); is the disk full?") from error
