"""The figures of the book: one look, one set of class colours, errors shown beside successes."""

# H W image rows and columns, K classes

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .geometry import IGNORE

Palette = Sequence[tuple[int, int, int]]


def style() -> None:
    """The book's look: small figures, no frames around images.

    In a notebook a figure with pictures is stored as JPEG; a line drawing as PNG, so that a page
    can turn its colours round in the dark.
    """
    plt.rcParams.update({
        "figure.dpi": 90, "figure.constrained_layout.use": True, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium",
        "image.interpolation": "nearest",
    })  # fmt: skip
    try:
        from IPython.core.getipython import get_ipython
        from IPython.core.pylabtools import print_figure
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    set_matplotlib_formats("jpeg", "png")
    if (shell := get_ipython()) and shell.display_formatter:
        formatters = shell.display_formatter.formatters
        for kind, pictures, options in (
            ("jpeg", True, {"pil_kwargs": {"quality": 88}}),
            ("png", False, {}),
        ):

            def draw(figure: Figure, kind=kind, pictures=pictures, options=options) -> Any:
                if any(ax.images for ax in figure.axes) != pictures:
                    return None
                return print_figure(figure, fmt=kind, base64=True, **options)

            formatters[f"image/{kind}"].for_type(Figure, draw)


def colour(label: np.ndarray | torch.Tensor, palette: Palette) -> np.ndarray:
    """A label map `(H,W)` in its class colours, `(H,W,3)` uint8; ignored pixels are white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[np.asarray(label).astype(np.uint8)]


def overlay(
    image: np.ndarray, label: np.ndarray, palette: Palette, opacity: float = 0.55
) -> np.ndarray:
    """The class colours laid over the image.

    Args:
        image: `(H,W,3)` uint8.
        label: `(H,W)` class numbers.
        opacity: of the colours, from 0 to 1.

    Returns:
        `(H,W,3)` uint8.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; choose from 0 (image only) to 1 (classes only)")
    if image.dtype != np.uint8 or image.shape != (*label.shape, 3):
        raise ValueError(
            f"the image is {image.dtype} of the shape {image.shape}, the label {label.shape}; "
            "expected uint8 (H, W, 3) and (H, W)"
        )
    # Of each class and value the result, looked up: of 12 megapixels in half a second.
    values, classes = np.arange(256, dtype=np.float32)[:, None], colour(np.arange(256), palette)
    table = ((1 - opacity) * values + opacity * classes[:, None]).round().astype(np.uint8)
    first = np.asarray(label).astype(np.uint8).astype(np.int32) * 256
    return np.stack([table[..., c].ravel()[first + image[..., c]] for c in range(3)], axis=-1)


def legend(classes: Sequence[str], palette: Palette) -> list[Patch]:
    """Legend entries for class colours, for `ax.legend(handles=...)`."""
    return [
        Patch(facecolor=f"#{bytes(rgb).hex()}", edgecolor="0.4", label=name)
        for name, rgb in zip(classes, palette, strict=True)
    ]


def picture(ax: Axes, image: np.ndarray, title: str = "", **options: Any) -> None:
    """An image or a map without ticks."""
    ax.imshow(image, **options)
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def show_predictions(
    images: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    classes: Sequence[str],
    palette: Palette,
) -> Figure:
    """One row per image: image, prediction, truth, and the wrong pixels in red."""
    rows = len(images)
    height = 2.6 * images[0].shape[0] / images[0].shape[1]
    figure, axes = plt.subplots(rows, 4, figsize=(10.5, rows * height + 0.9), squeeze=False)
    for row, (image, guess, truth) in enumerate(zip(images, predictions, labels, strict=True)):
        wrong = (guess != truth) & (truth != IGNORE)
        faded = overlay(image, np.full(truth.shape, IGNORE), palette, 0.6)
        faded[wrong] = (200, 30, 30)
        share = wrong.sum() / max(1, (truth != IGNORE).sum())
        shown = (image, colour(guess, palette), colour(truth, palette), faded)
        titles = ("image", "prediction", "truth", f"wrong: {100 * share:.0f} % of the pixels")
        for ax, pixels, title in zip(axes[row], shown, titles):
            picture(ax, pixels, title if row == 0 or ax is axes[row][3] else "")
    figure.legend(
        handles=legend(classes, palette), loc="outside lower center", ncols=min(len(classes), 8)
    )
    return figure


def show_run(records: dict[str, dict[str, Any]], baselines: dict[str, float]) -> Figure:
    """mIoU of runs against the step, with horizontal lines for what needs no network."""
    figure, ax = plt.subplots(figsize=(9, 3.4))
    for name, record in records.items():
        steps, mious = zip(*_mious(record))
        ax.plot(steps, [100 * miou for miou in mious], "o-", ms=4, label=name)
    for style, (name, miou) in zip(cycle((":", "--", "-.")), baselines.items()):
        ax.axhline(100 * miou, color="0.4", ls=style, label=f"{name} ({100 * miou:.1f})")
    ax.set(xlabel="training step", ylabel="mIoU on the validation split, %", ylim=(0, None))
    figure.legend(loc="outside right center")
    return figure


def show_losses(curves: dict[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Loss against the step: `{name: (steps, losses)}`."""
    figure, ax = plt.subplots(figsize=(7, 3))
    for name, (steps, losses) in curves.items():
        ax.plot(steps, losses, label=name)
    ax.set(xlabel="training step", ylabel="loss, all heads", ylim=(0, None))
    ax.legend()
    return figure


def show_curves(runs: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]) -> Figure:
    """Loss, learning rate and mIoU of runs against the step.

    Args:
        runs: name -> (lines of the log, record), as `load_log` and `load_record` give them.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for name, (log, record) in runs.items():
        steps = [line["step"] for line in log]
        axes[0].plot(steps, [line["loss"] for line in log], label=name)
        axes[1].plot(steps, [line["lr"] for line in log])
        found = [(step, 100 * miou) for step, miou in _mious(record)]
        axes[2].plot(*zip(*found) if found else ([], []), "o-", ms=4)
    for ax, title in zip(axes, ("loss, all heads", "learning rate of the encoder", "mIoU, %")):
        ax.set(xlabel="training step", title=title, ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=min(len(runs), 3))
    return figure


def show_confusion(counts: Any, classes: Sequence[str]) -> Figure:
    """The confusion matrix by rows: of each true class, the share given to each prediction."""
    matrix = np.asarray(counts, dtype=float)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 1.6 + 0.5 * len(classes)
    figure, ax = plt.subplots(figsize=(side + 0.8, side))
    ax.imshow(share, cmap="viridis", vmin=0, vmax=1)
    for row, col in np.ndindex(*share.shape):
        if share[row, col] >= 0.005:
            tone = "black" if share[row, col] > 0.6 else "white"
            text = f"{100 * share[row, col]:.0f}"
            ax.text(col, row, text, ha="center", va="center", fontsize=8, color=tone)
    ax.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    ax.set_yticks(range(len(classes)), classes)
    ax.set(xlabel="predicted", ylabel="true (each row adds up to 100 %)")
    ax.spines[:].set_visible(False)
    return figure


def _mious(record: dict[str, Any]) -> list[tuple[int, float]]:
    """Step and mIoU of the evaluations in which a labelled pixel was seen."""
    return [(e["step"], e["miou"]) for e in record.get("evaluations", []) if e["miou"] is not None]
