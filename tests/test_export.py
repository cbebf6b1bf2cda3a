"""An exported file is the network: any batch, any size, in ONNX and in PyTorch's own form."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_config
from PIL import Image

from setr_lib import SETR, create_model, load_checkpoint, predict
from setr_lib.__main__ import main
from setr_lib.cli.network import SHIPPED
from setr_lib.decoders import UPSAMPLING
from setr_lib.files import sha256
from setr_lib.model import DECODERS
from setr_lib.training.record import MODELS
from setr_lib.weights import export
from setr_lib.weights.export import OnnxModel, export_model, load_program

# Rows and columns: the table's own, multiples of the patch, one more and one less, a single patch.
SIZES = [
    (48, 64), (47, 63), (49, 65), (16, 16), (15, 7), (17, 33),
    (64, 48), (96, 32), (50, 129), (33, 90), (80, 80), (1, 1),
]  # fmt: skip


@pytest.fixture
def onnx():
    """Skips where the packages of requirements-export.txt are not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"needs {name} (requirements-export.txt)")


@torch.no_grad()
def differences(model, run, sizes=SIZES) -> tuple[float, int]:
    """The largest one of a logit over all sizes and three batches; pixels of another class."""
    worst, other = 0.0, 0
    for number, size in enumerate(sizes):
        images = torch.randn(1 + number % 3, 3, *size)
        expected, found = model(images), run(images)
        assert found.shape == expected.shape
        worst = max(worst, (found - expected).abs().max().item())
        other += int((found.argmax(1) != expected.argmax(1)).sum())
    return worst, other


def a_network(decoder: str, graph: str, **facts) -> SETR:
    """With logits that spread, so that no two classes tie by chance."""
    model = SETR(small_config(decoder, graph=graph, **facts)).eval()
    torch.nn.init.normal_(model.head.classifier.weight)
    return model


@pytest.mark.parametrize("graph", UPSAMPLING)
@pytest.mark.parametrize("decoder", DECODERS)
def test_onnx_gives_the_logits_at_every_size(onnx, tmp_path, decoder, graph):
    """Twelve sizes, most of them no multiple of the patch: < 1e-4, the same classes."""
    model = a_network(decoder, graph)
    report = export_model(model, tmp_path / "model.onnx")
    worst, other = differences(model, OnnxModel(tmp_path / "model.onnx"))
    assert worst < 1e-4 and other == 0
    assert report.difference < 1e-4 and report.other_classes == 0
    assert report.megabytes == (tmp_path / "model.onnx").stat().st_size / 1e6


@pytest.mark.parametrize("decoder, graph", [("naive", "authors"), ("mla", "mmseg")])
def test_an_exported_program_gives_the_logits_at_every_size(tmp_path, decoder, graph):
    """torch.export: the same bits, from two patches a side on."""
    model = a_network(decoder, graph, patch_size=12)
    export_model(model, tmp_path / "model.pt2")
    sizes = [size for size in SIZES if min(size) > 12]
    assert differences(model, load_program(tmp_path / "model.pt2"), sizes)[0] == 0


def test_a_linear_head_is_exported_too(tmp_path):
    """What linear probing trains; one size is no multiple of the patch."""
    model = a_network("naive", "authors", linear=True, aux=False)
    export_model(model, tmp_path / "model.pt2")
    sizes = [(48, 64), (50, 129)]
    assert differences(model, load_program(tmp_path / "model.pt2"), sizes)[0] == 0


@pytest.mark.parametrize("graph", UPSAMPLING)
@pytest.mark.parametrize("decoder", DECODERS)
def test_network_and_loss_are_captured_without_a_break(decoder, graph):
    """One graph each, also where the image has no whole patches; `fullgraph` raises at a break."""
    model = a_network(decoder, graph)
    images, labels = torch.randn(2, 3, 47, 65), torch.randint(0, 8, (2, 47, 65))
    for call, given in ((model, (images,)), (model.loss, (images, labels))):
        torch._dynamo.reset()
        found = torch.compile(call, backend="eager", fullgraph=True)(*given)
        torch.testing.assert_close(found, call(*given))


@pytest.mark.parametrize("name", ["fcn_resnet50", "timm"])
def test_other_encoders_are_exported_too(tmp_path, name):
    """The convolutional baseline; of timm's a ViT of the same size."""
    how = {"backbone": "vit_tiny_patch16_224"} if name == "timm" else {}
    model = create_model("setr_naive_tiny" if how else name, 3, image_size=64, **how)
    assert export_model(model, tmp_path / "model.pt2").difference < 1e-4


def test_the_metadata_says_how_to_use_the_file(onnx, tmp_path):
    """Classes, colours, pixel statistics, protocol, configuration."""
    model, about = load_checkpoint(SHIPPED)
    export_model(model, tmp_path / "model.onnx", about)
    found = OnnxModel(tmp_path / "model.onnx")
    assert found.about["classes"] == about["classes"] and found.config == model.config
    assert [tuple(c) for c in found.about["palette"]] == [tuple(c) for c in about["palette"]]
    assert found.protocol == model.protocol and found.about["dataset"] == "camvid"
    assert found.about["mean"] == list(export.MEAN) and found.about["std"] == list(export.STD)
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    assert (predict(found, photo) == predict(model, photo)).mean() > 0.999


def test_a_file_that_differs_is_not_left_behind(tmp_path, monkeypatch):
    """The comparison is made before anything has the name; what was there stays."""
    monkeypatch.setattr(export, "load_program", lambda path: lambda images: model(images) + 1e-3)
    model, file = a_network("naive", "authors"), tmp_path / "model.pt2"
    file.write_text("before")
    with pytest.raises(ValueError, match=r"differ by 0.001 .* allowed are 0.0001"):
        export_model(model, file)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_the_network_itself_is_not_changed(tmp_path):
    """Its mode, precision and tensors."""
    model = SETR(small_config()).double().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_model(model, tmp_path / "model.pt2")
    assert model.training and all(
        torch.equal(v, before[k]) and v.dtype == before[k].dtype
        for k, v in model.state_dict().items()
    )


@pytest.mark.parametrize(
    "out, more, said",
    [
        ("model.pth", [], r"choose \.onnx, \.pt2"),
        ("model.pt2", ["--int8"], "8 bits are for .onnx only"),
    ],
)
def test_what_cannot_be_exported_is_said(tmp_path, capsys, out, more, said):
    """One line, before any work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_program", lambda model: pytest.fail("worked already"))
        assert main(["export", str(SHIPPED), str(tmp_path / out), *more]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    """With the command that installs it."""
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert main(["export", str(SHIPPED), str(tmp_path / "model.onnx")]) == 2
    assert "pip install 'setr-lib[export]'" in capsys.readouterr().err


def test_eight_bits_are_measured(onnx, tmp_path, capsys):
    """The command scores both on the labels that are here, and says so where there are none."""
    out = tmp_path / "model.onnx"
    naive = MODELS / "camvid_naive_tiny" / "model.safetensors"  # that of the README's sizes
    words = ["export", str(naive), str(out), "--int8", "--root"]
    assert main([*words, str(tmp_path / "nothing")]) == 0
    assert "what 8 bits lose was not measured: there is no folder" in capsys.readouterr().out
    assert 5e6 < out.stat().st_size < 8e6
    folder = tmp_path / "camvid"
    for part in ("val", "valannot"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / "val" / "a.png")
    Image.fromarray(rng.integers(0, 11, (60, 80), np.uint8)).save(folder / "valannot" / "a.png")
    assert main([*words, str(tmp_path)]) == 0
    assert "on 1 images of camvid val: " in capsys.readouterr().out
    assert main(["evaluate", str(out), "--root", str(tmp_path), "--quiet"]) == 0
    assert "miou" in capsys.readouterr().out


def test_a_photograph_is_labelled_without_torch(onnx, tmp_path):
    """The example imports neither torch nor this library, and agrees with `predict`."""
    model, about = load_checkpoint(SHIPPED)
    export_model(model, tmp_path / "model.onnx", about)
    photo = np.kron(np.random.default_rng(0).integers(0, 256, (9, 12, 3)), np.ones((20, 20, 1)))
    Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "photo.png")
    example = Path(__file__).parents[1] / "tools" / "onnx_predict.py"
    code = "import sys; sys.modules['torch'] = sys.modules['setr_lib'] = None; "
    code += "sys.argv[1:] = ['model.onnx', 'photo.png', 'out.png']; "
    code += f"exec(open({str(example)!r}).read())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    label = predict(model, tmp_path / "photo.png")
    shares = {line[:16].strip(): float(line[16:-1]) for line in done.stdout.splitlines()}
    for number, name in enumerate(about["classes"]):
        assert abs(shares.get(name, 0) - 100 * (label == number).mean()) < 0.2
    assert Image.open(tmp_path / "out.png").size == (240, 180)
    assert sha256(tmp_path / "photo.png") != sha256(tmp_path / "out.png")
