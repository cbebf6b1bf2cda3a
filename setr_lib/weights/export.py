"""A network as one file for programs without this library: ONNX, or PyTorch's exported program.

The file takes images `(B,3,H,W)` of any number and size, normalised, and gives the logits that
`model(images)` gives. It is compared with the network before it is left behind.
"""

# B batch, H W image rows and columns, K classes

import copy
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import encoder
from ..files import whole_file
from ..geometry import Size, size_of, whole_patches
from ..images import MEAN, STD, TestProtocol
from ..model import SETR, Segmenter
from .config import config_from_dict

SUFFIXES = (".onnx", ".pt2")
TOLERANCE = 1e-4  # of a logit, in 32 bits
ABOUT = (
    "classes",
    "palette",
    "mean",
    "std",
    "protocol",
    "config",
    "dataset",
)  # metadata that is JSON
NEEDED = "pip install 'setr-lib[export]' (onnx, onnxscript, onnxruntime)"
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far its logits are from the network's.

    Attributes:
        file: its path.
        megabytes: its size, in 1e6 bytes.
        shapes: the images `(B,H,W)` that were compared.
        difference: the largest one of any logit.
        other_classes: the share of pixels whose class differs.
        int8: whether weights are kept in 8 bits; then nothing is promised of the difference.
    """

    file: str
    megabytes: float
    shapes: tuple[tuple[int, int, int], ...]
    difference: float
    other_classes: float
    int8: bool = False

    def __str__(self) -> str:
        shapes = ", ".join(f"{b} of {h}x{w}" for b, h, w in self.shapes)
        return (
            f"{self.file}: {self.megabytes:.1f} MB, any batch and size. Beside the network, on "
            f"noise ({shapes}): logits differ by {self.difference:.1e} at most, "
            f"{100 * self.other_classes:.3g} % of the pixels have another class"
        )


def export_model(
    model: Segmenter,
    path: str | os.PathLike[str],
    about: Mapping[str, Any] | None = None,
    int8: bool = False,
) -> ExportReport:
    """Write a network for other programs, whole or not at all, and compare it with the network.

    Args:
        model: any network of this library; it is not changed.
        path: `NAME.onnx`, or `NAME.pt2` for `torch.export.load`.
        about: what `load_checkpoint` said of it; classes and colours go into the file's metadata,
            beside mean and deviation of the pixels (0 to 255) and the network's configuration.
        int8: the matrices of the blocks in 8 bits, of ONNX only: about a third of the size. How
            much that loses has to be measured on images.

    Raises:
        ValueError: for another ending, for 8 bits in a `.pt2`, if a package is missing, or if the
            file does not give the network's logits.
        OSError: if it cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; choose {' or '.join(SUFFIXES)}")
    if int8 and path.suffix != ".onnx":
        raise ValueError(f"{path}: weights in 8 bits are for .onnx only")
    if path.suffix == ".onnx":
        _check_packages()
    model = copy.deepcopy(model).cpu().float().eval()
    program = export_program(model)
    facts = metadata(model, about or {})
    shapes = tuple((b, *size) for b, size in zip((1, 2, 3), compared_sizes(model)))
    with whole_file(path) as temporary, torch.inference_mode():
        if path.suffix == ".onnx":
            _write_onnx(program, temporary, facts, int8)
            run: Run = OnnxModel(temporary)
        else:
            torch.export.save(program, temporary, extra_files={"about.json": json.dumps(facts)})
            run = load_program(temporary)
        difference, others = compare(model, run, shapes, tolerance=None if int8 else TOLERANCE)
    megabytes = path.stat().st_size / 1e6
    return ExportReport(str(path), megabytes, shapes, difference, others, int8)


class AnySize(nn.Module):
    """A network whose computation does not depend on which size it is traced at.

    The network itself looks whether an image has to be padded and a map to be resized; a tracer
    would take the answer for one image as that for all.
    """

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """`(B,3,H,W)` float, normalised -> logits `(B,K,H,W)`."""
        (height, width), model = size_of(images), self.model
        if isinstance(model, SETR):
            rows, cols = whole_patches((height, width), model.config.patch_size)
            images = F.pad(images, (0, cols - width, 0, rows - height))
        logits = model.head_logits(images, aux=False)["main"]
        whole = whole_patches((height, width), model.multiple)
        return resize_always(logits, whole).narrow(2, 0, height).narrow(3, 0, width)


def export_program(model: Segmenter) -> Any:
    """The network as a `torch.export.ExportedProgram` with batch, rows and columns dynamic.

    Raises:
        ValueError: if it cannot be had for all sizes at once.
    """
    side = torch.export.Dim.DYNAMIC
    height, width = _example_size(model)
    images = torch.zeros(2, getattr(model.config, "in_chans", 3), height, width)
    shapes = {"images": {0: side, 2: side, 3: side}}
    try:
        with resizing_always():
            return torch.export.export(AnySize(model).eval(), (images,), dynamic_shapes=shapes)
    except Exception as error:  # torch raises many kinds
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"this network cannot be exported for all sizes: {first}") from error


def resize_always(maps: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """`geometry.resize` that does not look whether there is anything to do."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


@contextmanager
def resizing_always() -> Iterator[None]:
    """The encoder resizes its table of positions for every size, its own too: it stays the same."""
    positions = encoder.resize_positions
    # A list of two numbers equals no tuple, so `positions` finds no size at which it may stop.
    encoder.resize_positions = lambda table, old, new: positions(table, [*old], new)  # type: ignore
    try:
        yield
    finally:
        encoder.resize_positions = positions


def compared_sizes(model: Segmenter) -> list[Size]:
    """Sizes that show whether padding, positions and the last resize are right: the table's own,
    one that is cut into no whole patches, and a small one of another shape."""
    patch = getattr(model.config, "patch_size", 16)
    height, width = getattr(model.config, "image_size", (96, 128))
    return [
        (height, width),
        (height + patch // 2 + 1, width - patch // 3),
        (2 * patch - 3, 3 * patch + 1),
    ]


def metadata(model: Segmenter, about: Mapping[str, Any]) -> dict[str, str]:
    """What a program needs beside the tensors, each value as JSON."""
    classes = about.get("classes") or [f"class {k}" for k in range(model.config.num_classes)]
    facts: dict[str, Any] = {
        "classes": classes,
        "palette": about.get("palette"),
        "dataset": about.get("recipe", {}).get("dataset"),
        "mean": MEAN,
        "std": STD,
        "protocol": model.protocol and asdict(model.protocol),
        "config": asdict(model.config),
        "input": "(RGB from 0 to 255 - mean) / std, as (B,3,H,W)",
    }
    return {name: json.dumps(value) for name, value in facts.items()}


def compare(
    model: Segmenter,
    run: Run,
    shapes: Sequence[tuple[int, int, int]],
    tolerance: float | None = TOLERANCE,
) -> tuple[float, float]:
    """The largest difference of a logit on noise, and the share of pixels of another class.

    Args:
        run: images -> logits, of the file.
        shapes: images, rows and columns of each comparison.
        tolerance: of a logit; None: any.

    Raises:
        ValueError: if sizes differ, or a logit by more than `tolerance`.
    """
    worst, other, pixels = 0.0, 0, 0
    generator = torch.Generator().manual_seed(0)
    channels = getattr(model.config, "in_chans", 3)
    for number, height, width in shapes:
        images = torch.randn(number, channels, height, width, generator=generator)
        expected, found = model(images), run(images)
        if found.shape != expected.shape:
            raise ValueError(f"of images {tuple(images.shape)} the file gives {tuple(found.shape)}")
        difference = (found - expected).abs().max().item()
        if tolerance is not None and not difference <= tolerance:
            raise ValueError(
                f"of images {tuple(images.shape)} the file's logits differ by {difference:.2g} from"
                f" the network's; allowed are {tolerance:g}"
            )
        worst = max(worst, difference)
        other += int((found.argmax(1) != expected.argmax(1)).sum())
        pixels += number * height * width
    return worst, other / pixels


class OnnxModel(nn.Module):
    """An ONNX file as a network: `predict` and `evaluate` take it as they take ours.

    Args:
        path: of the file.

    Raises:
        ValueError: if onnxruntime is missing, or the file is none of `export_model`'s.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        _check_packages()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(
                os.fspath(path), options, ["CPUExecutionProvider"]
            )
        except Exception as error:  # its own kinds
            raise ValueError(f"{path} cannot be read by onnxruntime ({error})") from error
        facts = self.session.get_modelmeta().custom_metadata_map
        self.about: dict[str, Any] = {k: json.loads(v) for k, v in facts.items() if k in ABOUT}
        if "config" not in self.about:
            raise ValueError(f"{path} was not written by this library: it has no metadata of it")
        self.config = config_from_dict(self.about["config"])
        protocol = self.about.get("protocol")
        self.protocol = protocol and TestProtocol(**protocol)

    def forward(self, images: Tensor) -> Tensor:
        """`(B,3,H,W)` float, normalised -> logits `(B,K,H,W)`."""
        (found,) = self.session.run(None, {"images": images.cpu().numpy()})
        return torch.from_numpy(found)


def load_program(path: str | os.PathLike[str]) -> Run:
    """What a `.pt2` computes: images -> logits, of at least two patches a side.

    The tracer notes as conditions what it asked about sizes on its way; none of them matters here,
    as `compare` shows, so they are not looked at.
    """
    program = torch.export.load(path)
    try:
        return program.module(check_guards=False)
    except TypeError:  # before torch 2.9, which has no conditions
        return program.module()


def _write_onnx(program: Any, path: Path, facts: Mapping[str, str], int8: bool) -> None:
    """The exported program as one ONNX file, with the facts as its metadata."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.onnx")
        with warnings.catch_warnings():  # of torch to itself
            warnings.simplefilter("ignore", FutureWarning)
            found: Any = torch.onnx.export(
                program, (), input_names=["images"], output_names=["logits"], dynamo=True,
                verbose=False,
            )  # fmt: skip
        found.save(file)
        if int8:
            logging.disable(logging.WARNING)  # of its own that say nothing here
            quantize_dynamic(
                file, file, ["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
            )
            logging.disable(logging.NOTSET)
        model = onnx.load(file)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.save(model, path)


def _check_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} is not installed, which ONNX needs: {NEEDED}")


def _example_size(model: Segmenter) -> Size:
    """What a network is traced at: several patches, not whole ones, and not its own size."""
    patch = getattr(model.config, "patch_size", 16)
    return 5 * patch + 3, 7 * patch + 2
