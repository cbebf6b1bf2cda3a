"""The network in JavaScript against the network in torch: every pixel, every attention weight."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_config
from test_explorer_modules import node
from torch import nn

from setr_lib import attention_maps, load_checkpoint
from setr_lib.attention.occlusion import hidden_logits
from setr_lib.explorer.weights import page_weights
from setr_lib.images import normalise
from setr_lib.model import SETR
from setr_lib.weights.bits import from_bits, in_bits, whole_numbers

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data/models/camvid_naive_tiny/model.safetensors"
SIZES = ((48, 64), (45, 61), (64, 33))  # the table's own; odd; another grid


def lively_model(decoder: str, **facts) -> SETR:
    """Small, with attention far from uniform and batch norms that have seen something."""
    torch.manual_seed(0)
    model = SETR(small_config(decoder, channels=20, patch_size=8, **facts)).eval()
    for block in model.encoder.blocks:
        block.attn.qkv.weight.data *= 8
    for norm in (one for one in model.modules() if isinstance(one, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.1)
    images = normalise(blocks_of_colour(48, 64))[None]
    with torch.no_grad():  # every class somewhere
        model.head.classifier.bias -= model(images).mean((0, 2, 3))
    as_halves = {
        name: tensor.half().float() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(as_halves)
    return model


def blocks_of_colour(height: int, width: int) -> np.ndarray:
    """Something to tell apart: squares of 8x8 pixels."""
    small = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return small.astype(np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]


def run(model: SETR, folder: Path, questions: list[dict], bits: int = 16, way: str = "") -> dict:
    """What engine.mjs finds: `found[number, name]`, arrays as they lie in its files."""
    (folder / "model.safetensors").write_bytes(page_weights(model, {}, bits))
    for number, question in enumerate(questions):
        pixels = blocks_of_colour(question["height"], question["width"])
        alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        (folder / f"{number}.rgba").write_bytes(np.concatenate([pixels, alpha], 2).tobytes())
    (folder / "questions.json").write_text(json.dumps(questions))
    command = [node(), str(ROOT / "tests/js/engine.mjs"), str(folder), way]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {"about": json.loads(done.stdout)}
    for file in folder.glob("[0-9]*.*"):
        number, name = file.name.split(".")
        found[int(number), name] = np.fromfile(file, np.uint8 if name == "labels" else np.float32)
    return found


@pytest.mark.parametrize("way", ["simd", "plain"])
@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_labels_scores_and_attention_are_torchs(decoder, way, tmp_path):
    """Also at sizes that patches do not divide, and at another grid than the position table's."""
    model = lively_model(decoder)
    found = run(model, tmp_path, [{"height": h, "width": w} for h, w in SIZES], way=way)
    assert found["about"]["fast"] == (way == "simd")
    for number, size in enumerate(SIZES):
        images = normalise(blocks_of_colour(*size))[None]
        with torch.no_grad():
            wanted = model(images)[0].argmax(0).byte().numpy().ravel()
            scores = model.head_logits(images, aux=False)["main"][0].permute(1, 2, 0).numpy()
            tokens = model.encoder(images)[0].numpy().ravel()
        assert len(np.unique(wanted)) > 1
        assert (found[number, "labels"] == wanted).mean() >= 0.999
        np.testing.assert_allclose(found[number, "scores"], scores.ravel(), atol=1e-5)
        np.testing.assert_allclose(found[number, "tokens"], tokens, atol=1e-4)
        maps = torch.cat([one[0] for one in attention_maps(model, images)]).numpy()
        assert maps.max() > 3 / maps.shape[-1]
        np.testing.assert_allclose(found[number, "maps"], maps.ravel(), atol=1e-4)


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_hidden_patches_are_hidden_as_in_the_library(decoder, tmp_path):
    model, hidden = lively_model(decoder), [1, 2, 5, 7, 11]
    question = {"height": 45, "width": 61, "hidden": hidden}
    found = run(model, tmp_path, [question, {**question, "hidden": []}])
    images = normalise(blocks_of_colour(45, 61))[None]
    wanted = hidden_logits(model, images, torch.tensor([hidden]))[0].argmax(0)
    assert (found[0, "labels"] == wanted.byte().numpy().ravel()).mean() >= 0.999
    assert (found[0, "scores"] != found[1, "scores"]).any()


def test_without_positions_the_table_is_zero(tmp_path):
    model = lively_model("naive")
    found = run(model, tmp_path, [{"height": 48, "width": 64, "positions": False}])
    nn.init.zeros_(model.encoder.pos_embed)
    with torch.no_grad():
        tokens = model.encoder(normalise(blocks_of_colour(48, 64))[None])[0].numpy().ravel()
    np.testing.assert_allclose(found[0, "tokens"], tokens, atol=1e-4)


def test_the_shipped_network_labels_every_pixel_as_torch_does(tmp_path):
    (model, _), size = load_checkpoint(SHIPPED), (171, 250)
    found = run(model, tmp_path, [{"height": 171, "width": 250}])
    with torch.no_grad():
        wanted = model(normalise(blocks_of_colour(*size))[None])[0].argmax(0).byte().numpy()
    assert (found[0, "labels"] == wanted.ravel()).mean() >= 0.999


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_eight_bits_are_read_as_they_were_rounded(decoder, tmp_path):
    model = lively_model(decoder)
    found = run(model, tmp_path, [{"height": 45, "width": 61}], bits=8)
    model.load_state_dict(from_bits(in_bits(model.state_dict(), 8)))
    with torch.no_grad():
        scores = model.head_logits(normalise(blocks_of_colour(45, 61))[None], aux=False)["main"][0]
    wanted = scores.permute(1, 2, 0).numpy().ravel()
    np.testing.assert_allclose(found[0, "scores"], wanted, atol=1e-5)


def test_whole_numbers_are_within_half_a_step():
    tensor = torch.randn(5, 3, 2, 2) * torch.tensor([0.0, 1e-3, 1, 10, 1e3]).view(-1, 1, 1, 1)
    whole, step = whole_numbers(tensor)
    assert whole.abs().max() == 127
    gap = (whole * step.view(-1, 1, 1, 1) - tensor).abs().flatten(1).amax(1)
    assert (gap <= step / 2 * (1 + 1e-5)).all()


def test_the_page_says_no_to_a_network_that_it_does_not_know():
    model = lively_model("naive", graph="mmseg")
    with pytest.raises(ValueError, match="graph 'mmseg'"):
        page_weights(model, {})
    for name, value in {"stem": "conv", "attention_radius": 1, "linear": True}.items():
        with pytest.raises(ValueError, match=f"{name} is .*networks of the paper alone"):
            page_weights(SETR(small_config(**{name: value})), {})
    with pytest.raises(ValueError, match="bits is 4"):
        page_weights(lively_model("naive"), {}, 4)
    broken = lively_model("naive")
    broken.head.classifier.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"head\.classifier\.bias"):
        page_weights(broken, {})


def test_the_shipped_bytes_are_what_the_text_of_the_kernel_gives():
    pytest.importorskip("wasmtime", reason="no wasmtime: pip install -r requirements-browser.txt")
    from tools.kernel import FOLDER, kernel_js

    assert (FOLDER / "kernel.js").read_text(encoding="utf-8") == kernel_js()
