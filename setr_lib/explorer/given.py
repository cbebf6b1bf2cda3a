"""What the explorer is given: read and checked before anything is computed."""

import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from ..attention.maps import prepare
from ..data.classes import spread_palette
from ..data.files import check_labels
from ..files import unknown
from ..geometry import Size
from ..images import resize_label, to_pixels
from ..model import SETR
from ..plots import Palette
from .contents import Scene

SUMMARIES = ("mean", "max", "rollout")


def check_models(models: Sequence[SETR]) -> int:
    """The number of classes of networks that can share one cursor."""
    for model in models:
        if not isinstance(model, SETR):
            raise ValueError(
                f"{type(model).__name__} has no attention to explore; give a setr_lib.SETR"
            )
    sides = [model.encoder.patch_size for model in models]
    classes = [model.config.num_classes for model in models]
    for what, values in (("patches of side", sides), ("classes:", classes)):
        if len(set(values)) > 1:
            raise ValueError(
                f"the two networks have {what} {values[0]} and {values[1]}; under one cursor both "
                "must be the same"
            )
    return classes[0]


def make_scenes(
    model: SETR, images: Sequence[Any], labels: Sequence[Any], names: Sequence[str] | None,
    kinds: int, same: bool, base: Size | None,
) -> list[Scene]:  # fmt: skip
    """The images as the network reads them; `same`: whether the label's `kinds` are its classes."""
    if not images or len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels; give one per image")
    names = [_name(*one) for one in enumerate(images)] if names is None else names
    return [
        _scene(model, name, image, label, kinds, same, base)
        for name, image, label in zip(texts(names, len(images), "images"), images, labels)
    ]


def _scene(
    model: SETR, name: str, image: Any, label: Any, kinds: int, same: bool, base: Size | None
) -> Scene:
    pixels = to_pixels(image)
    images, _ = prepare(model, pixels, base)
    if label is None:
        return Scene(name, images, None, same)
    label = np.asarray(label)
    if label.shape != pixels.shape[:2]:
        raise ValueError(
            f"{name} is {pixels.shape[0]}x{pixels.shape[1]}, its label {label.shape}; "
            "both must have the same rows and columns"
        )
    with np.errstate(invalid="ignore"):
        whole = label.astype(np.uint8)
    if (whole != label).any():
        raise ValueError(
            f"the label of {name} ({label.dtype}) holds values that are no whole numbers from 0 to "
            "255; 255 stands for none"
        )
    check_labels(whole, kinds, f"the label of {name}")
    size = (images.shape[-2], images.shape[-1])
    return Scene(name, images, resize_label(whole, size), same)


def _name(number: int, image: Any) -> str:
    """The file's own name, without its folder."""
    return os.path.basename(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def class_table(
    names: Sequence[str] | None, palette: Palette | None, count: int, what: str
) -> list[dict[str, Any]]:
    """Name and colour of every class."""
    names = texts([f"class {k}" for k in range(count)] if names is None else names, count, what)
    colours = list(spread_palette(count) if palette is None else palette)
    if len(colours) < count:
        raise ValueError(f"{len(colours)} colours for {count} {what}")
    table = []
    for name, colour in zip(names, colours):
        parts = list(colour) if isinstance(colour, Iterable) else []
        if len(parts) != 3 or any(part not in range(256) for part in parts):
            raise ValueError(
                f"the colour of {name} is {colour!r}; give red, green and blue, whole numbers from "
                "0 to 255"
            )
        table.append({"name": name, "colour": [int(part) for part in parts]})
    return table


def texts(names: Sequence[str], count: int, what: str) -> list[str]:
    """As many names as there are things, all of them text."""
    names = list(names)
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} {what}: {names}")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"one of the {what} is called {name!r}, which is no text: {names}")
    return names


def first_pixel(size: Size, pixel: tuple[int, int] | None) -> tuple[int, int]:
    """The one that is asked for, or the middle."""
    return (size[0] // 2, size[1] // 2) if pixel is None else inside(pixel, size)


def inside(pixel: Sequence[int], size: Size) -> tuple[int, int]:
    """(row, column) of a pixel that the image has."""
    try:
        row, col = (int(part) for part in pixel)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"pixel is {pixel!r}; give its row and its column") from None
    if not (0 <= row < size[0] and 0 <= col < size[1]):
        raise ValueError(
            f"pixel ({row}, {col}) is outside the image of {size[0]}x{size[1]} pixels that the "
            f"network reads; rows are 0 to {size[0] - 1}, columns 0 to {size[1] - 1}"
        )
    return row, col


def first_map(shape: tuple[int, int, int], block: int, head: int | str) -> dict[str, Any]:
    """The map that is shown first, its block counted from 0."""
    layers, heads, _ = shape
    if block not in range(-layers, layers):
        raise ValueError(f"block is {block}; the network has blocks 0 to {layers - 1}")
    if isinstance(head, str):
        if head not in SUMMARIES:
            raise ValueError(unknown("head", head, SUMMARIES))
    elif head not in range(heads):
        raise ValueError(f"head is {head}; the network has heads 0 to {heads - 1}")
    return {"block": int(block) % layers, "head": head if isinstance(head, str) else int(head)}


def spread_pixels(size: Size, first: Size | None, count: int) -> list[tuple[int, int]]:
    """The middles of a grid of about `count` rectangles, and the pixel that is shown first."""
    if count < 1:
        return []
    rows = min(size[0], max(1, round((count * size[0] / size[1]) ** 0.5)))
    cols = min(size[1], max(1, round(count / rows)))
    found = [
        (int((y + 0.5) * size[0] / rows), int((x + 0.5) * size[1] / cols))
        for y in range(rows)
        for x in range(cols)
    ]
    return ([first] if first else []) + [pixel for pixel in found if pixel != first]


def check_pool(pool: int | None, grid: Size) -> None:
    """Refuse cells that are no square of patches inside the grid; None is the page's own choice."""
    if pool is None or (isinstance(pool, Integral) and 1 <= pool <= min(grid)):
        return
    raise ValueError(f"pool is {pool}; a grid of {grid} patches takes 1 to {min(grid)}")
