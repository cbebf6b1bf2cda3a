"""Predictions as files: masks, overlays with a legend, and what the test servers take."""

# H W image rows and columns, K classes

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .files import whole_file
from .pairs import IMAGE_SUFFIXES, PairDataset
from .plots import Palette, colour, overlay


def find_images(paths: Sequence[str]) -> list[Path]:
    """Image files as they are, and of a folder every image directly in it, sorted by name.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder holds no image.
        ValueError: if two images have one stem: their masks would have one name.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
            inside = [p for p in inside if not p.name.startswith(".")]
            if not inside:
                raise FileNotFoundError(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        elif not path.is_file():
            raise FileNotFoundError(f"there is no image {path}")
        for image in inside:
            if image.stem in found:
                raise ValueError(
                    f"{image} and {found[image.stem]} have one stem, and so one mask; give them "
                    "other names, or predict them one by one"
                )
            found[image.stem] = image
    return list(found.values())


def save_mask(path: Path, label: np.ndarray, palette: Palette) -> None:
    """The class numbers `(H,W)` as a PNG whose palette shows the class colours."""
    mask = Image.fromarray(label)
    mask.putpalette(colour(np.arange(256), palette).tobytes())
    _save(mask, path)


def save_label_ids(folder: Path, dataset: PairDataset, number: int, label: np.ndarray) -> None:
    """The prediction of pair `number` as its test server takes it: a grey PNG named as the image.

    Args:
        label: `(H,W)` class numbers; the file holds `dataset.label_ids` of them: ADE20K 1 to 150,
            Cityscapes 7 to 33.
    """
    name = Path(dataset.file(number)).stem.replace(" ", "_")
    _save(Image.fromarray(np.array(dataset.label_ids, np.uint8)[label]), folder / f"{name}.png")


def save_overlay(
    path: Path,
    pixels: np.ndarray,
    label: np.ndarray,
    classes: Sequence[str],
    palette: Palette,
    opacity: float,
) -> None:
    """The image with the class colours laid over it, and a legend of the classes at its right."""
    shown = overlay(pixels, label, palette, opacity)
    _save(with_legend(shown, label, classes, palette), path)


def with_legend(
    picture: np.ndarray, label: np.ndarray, classes: Sequence[str], palette: Palette
) -> Image.Image:
    """`(H,W,3)` uint8 and, right of it, the classes of `label`, the largest first."""
    counts = np.bincount(label.ravel(), minlength=len(classes))
    order = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
    height, width = label.shape
    text = int(np.clip(height / 28, 11, 28))  # pixels; readable in small and large images
    font = ImageFont.load_default(text)
    names = [f"{classes[k]}  {100 * counts[k] / label.size:.1f} %" for k in order]
    line, room = round(1.5 * text), 3 * text + round(max(map(font.getlength, names)))
    canvas = Image.new("RGB", (width + room, max(height, line * (len(names) + 1))), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (k, name) in enumerate(zip(order, names)):
        left, top = width + text // 2, row * line + line // 2
        box = (left, top, left + text, top + text)
        draw.rectangle(box, fill=tuple(palette[k]), outline="grey")
        draw.text((left + text * 3 // 2, top + text // 2), name, "black", font, anchor="lm")
    return canvas


def _save(image: Image.Image, path: Path) -> None:
    with whole_file(path) as temporary:
        image.save(temporary)
