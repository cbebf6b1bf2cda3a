"""The network that a command means: a checkpoint, an exported one, a run's, the one of the book."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.files import Pair, PairDataset
from ..data.load import Derived, load_dataset
from ..evaluation import evaluate
from ..training.record import MODELS, ROOT, load_record
from ..weights.export import OnnxModel
from ..zoo import load_checkpoint

SHIPPED = MODELS / "camvid_mla_tiny" / "model.safetensors"  # the best of them


def load_network(
    path: Path | None, device: str, speak: bool = True
) -> tuple[Any, dict[str, Any], Path]:
    """The model, what its file says of it, and the file: a checkpoint, an ONNX file of `export`,
    the better checkpoint of a run folder, or, introduced, the network of the book."""
    file = path or SHIPPED
    if path is None and not file.is_file():
        raise FileNotFoundError(
            f"the trained network of the repository is not here ({SHIPPED}); name a checkpoint, "
            "or work in a clone of the repository"
        )
    inside = [file / f"{name}.safetensors" for name in ("best", "last")]
    file = next((found for found in inside if found.is_file()), file)
    if file.suffix == ".onnx":
        exported = OnnxModel(file)
        return exported, exported.about, file
    model, about = load_checkpoint(file, device)
    if path is None and speak:
        score = load_record(file.parent)["best"]
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


class Spread(Derived):
    """At most so many pairs of a data set, evenly spread over it."""

    def __init__(self, data: PairDataset, most: int) -> None:
        super().__init__(data)
        self.numbers = data.spread(most)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Pair:
        return self.data[self.numbers[index]]


def what_is_lost(
    model: Any, file: Path, name: str | None, root: Path | None, most: int = 200
) -> str:
    """A sentence: the mIoU of a network and of its exported file, on the labels that are here.

    Args:
        name: the data set; None: it is not known.
        most: how many images of `val` are read.
    """
    try:
        if name is None:
            raise ValueError(
                "the checkpoint does not say which data it is for; name it with --data"
            )
        data = Spread(load_dataset(name, "val", root), most)
    except (ValueError, OSError) as error:
        return f"what 8 bits lose was not measured: {error}"
    pair = [
        evaluate(network, data, protocol=model.protocol).miou * 100
        for network in (model, OnnxModel(file))
    ]
    return (
        f"on {len(data)} images of {data.name} val: {pair[0]:.2f} mIoU in 32 bits, {pair[1]:.2f} "
        "in this file"
    )
