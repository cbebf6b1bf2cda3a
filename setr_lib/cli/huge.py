"""Pictures whose scores would not fit into memory: labelled and written strip by strip."""

# H W image rows and columns, r rows of a strip, K classes

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from ..files import whole_file
from ..geometry import Size
from ..images import TestProtocol, normalise
from ..inference import _checked, casting, evaluating, like_parameters, slide_strips
from ..plots import Palette, colour, overlay

HUGE = 1 << 25  # pixels from which on pictures go this way: 11 classes would take 1.5 GB
Strips = Iterable[tuple[slice, np.ndarray]]


def in_strips(size: Size, protocol: TestProtocol) -> bool:
    """Whether a protocol reads a picture once, in windows, at its own size."""
    once = protocol.scales == (1.0,) and not protocol.flip and protocol.window is not None
    return once and protocol.view_size(size, 1.0) == tuple(size)


@torch.inference_mode()
def label_strips(
    model: Any, pixels: np.ndarray, protocol: TestProtocol, precision: str = "fp32"
) -> Iterator[tuple[slice, np.ndarray]]:
    """What `predict` gives for such a protocol, downwards: rows, and their `(r,W)` uint8 classes.

    Beside the picture only some rows of windows are held, see `inference.slide_strips`.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def cut(rows: slice, cols: slice) -> torch.Tensor:
        return like_parameters(model, normalise(pixels[rows, cols], device)[None])

    size, batch = (pixels.shape[0], pixels.shape[1]), 1 if device.type == "cpu" else 4
    with evaluating(model), casting(model, precision):
        for rows, logits in slide_strips(model, cut, size, protocol, batch):
            yield rows, _checked(logits)[0].argmax(0).byte().cpu().numpy()


def save_strips(
    overlaid: Path, mask: Path | None, pixels: np.ndarray, strips: Strips, palette: Palette,
    opacity: float,
) -> np.ndarray:  # fmt: skip
    """Write overlay and mask as PNG while the strips come; each file is whole or absent.

    The overlay has no legend, whose order is known at the end only.

    Returns:
        `(256,)` how many pixels each class has.

    Raises:
        ValueError: if a name does not end in `.png`, the format that can be written so.
    """
    for path in (overlaid, mask):
        if path and path.suffix.lower() != ".png":
            raise ValueError(f"{path}: so large a picture is written as PNG; name it .png")
    size, counts = (pixels.shape[0], pixels.shape[1]), np.zeros(256, np.int64)
    with ExitStack() as stack:
        shown = stack.enter_context(PngWriter(stack.enter_context(whole_file(overlaid)), size))
        numbers = None
        if mask:
            temporary = stack.enter_context(whole_file(mask))
            numbers = stack.enter_context(PngWriter(temporary, size, palette))
        for rows, label in strips:
            counts += np.bincount(label.ravel(), minlength=256)
            shown.write(overlay(pixels[rows], label, palette, opacity))
            if numbers:
                numbers.write(label)
    return counts


class PngWriter:
    """A PNG that is written row by row: colours, or class numbers with a palette.

    Args:
        path: of the file.
        size: its rows and columns.
        palette: RGB per class; None: the rows are colours.
    """

    def __init__(self, path: Path, size: Size, palette: Palette | None = None) -> None:
        self.file, self.pack = open(path, "wb"), zlib.compressobj(1)  # noqa: SIM115
        self.above = np.zeros(size[1] * (1 if palette else 3), np.uint8)
        self.file.write(b"\x89PNG\r\n\x1a\n")
        kind = 3 if palette else 2
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, kind, 0, 0, 0))
        if palette:
            self._chunk(b"PLTE", colour(np.arange(256), palette).tobytes())

    def write(self, rows: np.ndarray) -> None:
        """The next rows `(r,W)` or `(r,W,3)` uint8, kept as differences to those above."""
        flat = rows.reshape(len(rows), -1)
        lines = np.full((len(flat), flat.shape[1] + 1), 2, np.uint8)  # 2: PNG's word for that
        lines[0, 1:] = flat[0] - self.above
        np.subtract(flat[1:], flat[:-1], out=lines[1:, 1:])
        self.above = flat[-1].copy()
        self._chunk(b"IDAT", self.pack.compress(lines.tobytes()))

    def __enter__(self) -> "PngWriter":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.file:
            if kind is None:
                self._chunk(b"IDAT", self.pack.flush())
                self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, content: bytes) -> None:
        if content or name == b"IEND":
            check = zlib.crc32(name + content)
            self.file.write(struct.pack(">I", len(content)) + name + content)
            self.file.write(struct.pack(">I", check))
