"""The network that a command means: a checkpoint, a run's, or the one of the book."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..training.record import MODELS, ROOT, load_record
from ..zoo import load_checkpoint

SHIPPED = MODELS / "camvid_naive_tiny" / "model.safetensors"


def load_network(
    path: Path | None, device: str, speak: bool = True
) -> tuple[Any, dict[str, Any], Path]:
    """The model, what its file says of it, and the file: a checkpoint, the better one of a run
    folder, or, introduced, the network of the book."""
    file = path or SHIPPED
    if path is None and not file.is_file():
        raise FileNotFoundError(
            f"the trained network of the repository is not here ({SHIPPED}); name a checkpoint, "
            "or work in a clone of the repository"
        )
    inside = [file / f"{name}.safetensors" for name in ("best", "last")]
    file = next((found for found in inside if found.is_file()), file)
    model, about = load_checkpoint(file, device)
    if path is None and speak:
        record = load_record(file.parent.name)
        score = next(e for e in record["evaluations"] if e["step"] == about["step"])
        print(f"using {file.relative_to(ROOT)}, a small street network that comes with the book: "
              f"{model.config.num_classes} classes, {100 * score['miou']:.1f} mIoU on CamVid "
              f"{score['split']}", file=sys.stderr)  # fmt: skip
    return model, about, file


@contextmanager
def naming_file(file: Path) -> Iterator[None]:
    """What is wrong with a network's numbers is wrong with its file."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"{file}: {error}") from error
