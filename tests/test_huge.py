"""Pictures whose scores fit into no memory: blended windows, strips, files written as they come."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import small_config
from PIL import Image

from setr_lib import SETR, TestProtocol, predict, save_checkpoint, slide_inference
from setr_lib import __main__ as command
from setr_lib.__main__ import main
from setr_lib.cli import huge
from setr_lib.cli.huge import PngWriter, in_strips, label_strips, save_strips
from setr_lib.costs import PeakMemory
from setr_lib.data.classes import spread_palette
from setr_lib.inference import slide_strips
from setr_lib.plots import colour, overlay

WAY = TestProtocol((32, 32), (20, 20))
BLEND = dataclasses.replace(WAY, blend=True)


@pytest.fixture
def model() -> SETR:
    made = SETR(small_config()).eval()
    torch.nn.init.normal_(made.head.classifier.weight)  # no two classes tie by chance
    return made


def a_picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(100, 70), (33, 95), (20, 20)])
@pytest.mark.parametrize("way", [WAY, BLEND], ids=["alike", "blend"])
def test_strips_are_what_predict_gives(model, size, way):
    """Each row once, in order, and the same classes."""
    pixels = a_picture(*size)
    strips = list(label_strips(model, pixels, way))
    assert [rows.start for rows, _ in strips] == [0, *(rows.stop for rows, _ in strips[:-1])]
    whole = np.concatenate([label for _, label in strips])
    assert whole.shape == size
    assert (whole == predict(model, pixels, protocol=way)).mean() > 0.999  # ties by rounding


@torch.no_grad()
def test_small_strips_are_rows_of_the_whole(model):
    """However few numbers a strip may have, down to one row."""
    images = torch.randn(1, 3, 70, 50)
    wanted = slide_inference(model, images, 32, 20)
    for most in (1, 5000, 1 << 24):
        strips = slide_strips(model, lambda *part: images[..., *part], (70, 50), WAY, most=most)
        found = [strip for _, strip in strips]
        assert most > 1 or len(found) == 70
        torch.testing.assert_close(torch.cat(found, 2), wanted, rtol=1e-5, atol=1e-5)


def test_a_picture_six_times_as_high_needs_no_more_memory(model):
    """Beside its own pixels; the scores of the whole would take more than all that is held."""

    def peak(height: int) -> float:
        pixels = a_picture(height, 96)
        with PeakMemory() as memory:
            for _ in label_strips(model, pixels, WAY):
                pass
        return memory.peak

    low, high = peak(192), peak(6 * 192)
    assert high < 1.05 * low
    assert high < 4 * 8 * 6 * 192 * 96  # 8 classes in float32


@torch.no_grad()
def test_blended_windows_leave_no_seam():
    """Two windows that disagree: the step between them becomes a slope."""

    class Left(torch.nn.Module):
        def forward(self, images):  # 1 everywhere in the window that begins at 0, else 0
            first = (images[:, :1, :1, :1] == 0).float()
            return first.expand(-1, 2, *images.shape[-2:])

    places = torch.arange(48.0).expand(1, 3, 32, 48)
    hard, soft = (slide_inference(Left(), places, 32, 16, blend=b)[0, 0, 0] for b in (False, True))
    assert hard.diff().abs().max() == 0.5
    assert soft.diff().abs().max() < 0.07 and soft[0] == 1 and soft[-1] == 0


def test_blending_wants_windows(capsys, tmp_path):
    Image.fromarray(a_picture(40, 50)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="blend is True without a window"):
        TestProtocol(blend=True)
    assert main(["predict", str(tmp_path / "a.png"), "--blend"]) == 2
    assert "name the window too (--window)" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "a.png"), "--stride", "20"]) == 2
    assert "--stride is that of --window" in capsys.readouterr().err


@pytest.mark.parametrize(
    "way, fits",
    [
        (WAY, True),
        (TestProtocol(), False),
        (dataclasses.replace(WAY, flip=True), False),
        (dataclasses.replace(WAY, scales=(0.5, 1.0)), False),
        (TestProtocol((32, 32), None, (64, 48), "fit"), False),
    ],
)
def test_only_what_reads_a_picture_once_at_its_size_goes_in_strips(way, fits):
    assert in_strips((100, 80), way) == fits


@pytest.mark.parametrize("kind", ["colours", "numbers"])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_a_png_that_is_written_in_rows_is_a_png(tmp_path, kind, rows):
    """As Pillow reads it, to the last value."""
    rng, palette = np.random.default_rng(rows), spread_palette(8)
    shape = (40, 31, 3) if kind == "colours" else (40, 31)
    wanted = rng.integers(0, 8 if kind == "numbers" else 256, shape, np.uint8)
    with PngWriter(tmp_path / "a.png", (40, 31), palette if kind == "numbers" else None) as file:
        for top in range(0, 40, rows):
            file.write(wanted[top : top + rows])
    found = Image.open(tmp_path / "a.png")
    found.load()
    assert np.array_equal(np.asarray(found), wanted)
    if kind == "numbers":
        assert np.array_equal(np.asarray(found.convert("RGB")), colour(wanted, palette))


def test_a_large_picture_is_labelled_from_the_command_line(tmp_path, monkeypatch, capsys, model):
    """Overlay and mask as for a small one, less the legend; both whole or absent."""
    save_checkpoint(model, tmp_path / "m.safetensors")
    pixels = a_picture(60, 50)
    Image.fromarray(pixels).save(tmp_path / "big.png")
    monkeypatch.chdir(tmp_path)
    words = ["predict", "big.png", "--checkpoint", "m.safetensors", "--window", "32", "--blend"]
    words += ["--stride", "20", "--device", "cpu"]
    assert main([*words, "--out", "small.png", "--mask", "small_mask.png"]) == 0
    said = capsys.readouterr().out
    monkeypatch.setattr(command, "HUGE", 1000)
    monkeypatch.setattr(command, "predict", lambda *a, **b: pytest.fail("all at once"))
    assert main([*words, "--out", "out.png", "--mask", "mask.png"]) == 0
    assert capsys.readouterr().out == said.replace("small.png", "out.png")
    label = np.asarray(Image.open("mask.png"))
    assert (label == np.asarray(Image.open("small_mask.png"))).mean() > 0.999
    shown = np.asarray(Image.open("out.png"))
    assert np.array_equal(shown, overlay(pixels, label, spread_palette(8)))
    assert np.array_equal(shown[:, :50], np.asarray(Image.open("small.png"))[:60, :50])
    assert main([*words, "--out", "out.jpg"]) == 2
    assert "so large a picture is written as PNG; name it .png" in capsys.readouterr().err


def test_a_picture_that_fails_half_way_leaves_nothing(tmp_path, model):
    """What was there before stays."""
    pixels = a_picture(60, 50)
    (tmp_path / "out.png").write_text("before")

    def strips():
        yield from list(label_strips(model, pixels, WAY))[:1]
        raise FloatingPointError("no numbers any more")

    with pytest.raises(FloatingPointError):
        save_strips(tmp_path / "out.png", tmp_path / "mask.png", pixels, strips(),
                    spread_palette(8), 0.5)  # fmt: skip
    assert (tmp_path / "out.png").read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_evaluate_takes_windows_too(tmp_path, capsys, model, monkeypatch):
    """The protocol that it says is the one that was asked for."""
    from setr_lib.data.load import Shapes

    monkeypatch.setattr(Shapes, "lengths", {"train": 2, "val": 2, "test": 2})
    save_checkpoint(model, tmp_path / "m.safetensors")
    words = ["evaluate", str(tmp_path / "m.safetensors"), "--data", "shapes", "--quiet"]
    assert main([*words, "--window", "64", "96", "--blend", "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "window=(64, 96), stride=(42, 64)" in said and "blend=True" in said
    assert huge.HUGE == 1 << 25
