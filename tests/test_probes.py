"""Decoder stages, and what auxiliary heads and linear probes read off every block."""

import numpy as np
import pytest
import torch
from conftest import small_config
from sklearn.linear_model import LogisticRegression

from setr_lib import SETR, TestProtocol, load_dataset, load_record, predict
from setr_lib.attention.maps import prepare
from setr_lib.attention.probes import (
    Probes,
    emergence,
    fit_probes,
    forward_stages,
    load_probes,
    probe_logits,
    save_probes,
)
from setr_lib.baselines.fcn import FCN, FCNConfig
from setr_lib.data.shapes import CLASSES
from setr_lib.training.record import ROOT

SHIPPED = ROOT / "data" / "models" / "camvid_naive_tiny"


def small_model(decoder="naive", **facts):
    return SETR(small_config(decoder, **facts)).eval()


# ---- stages of the decoder


@pytest.mark.parametrize("graph", ["authors", "mmseg"])
@pytest.mark.parametrize(
    "decoder, sizes",
    [("naive", [1]), ("pup", [1, 2, 4, 8]), ("mla", [1] * 8)],
)
def test_stages_have_the_decoders_resolutions(decoder, sizes, graph):
    """In patches; 50x64 pixels are padded to 4x4 patches."""
    model = small_model(decoder, graph=graph)
    found = forward_stages(model, torch.randn(2, 3, 50, 64))
    assert found["grid"] == (4, 4)
    shapes = [tuple(stage.shape) for stage in found["stages"].values()]
    channels = [16] * 4 + [8] * 4 if decoder == "mla" else [16] * len(sizes)
    assert shapes == [(2, c, 4 * f, 4 * f) for c, f in zip(channels, sizes)]


def test_stages_are_what_the_next_layer_reads():
    """The last stage through the classifier alone gives the scores."""
    model, images = small_model("pup"), torch.randn(1, 3, 48, 64)
    found = forward_stages(model, images)
    with torch.no_grad():
        scores = model.head.classifier(found["stages"]["convolution 3"])
        torch.testing.assert_close(scores, found["head_logits"])
        torch.testing.assert_close(found["logits"], model(images))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("graph", ["authors", "mmseg"])
@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_auxiliary_heads_stand_beside_their_blocks(decoder, graph):
    """Shallowest first in either graph: silencing the blocks above one changes no head below."""
    model = small_model(decoder, graph=graph)
    images = torch.randn(1, 3, 48, 64)
    before = forward_stages(model, images)
    assert before["aux_layers"] == list(model.config.aux_layers)
    if decoder == "mla":  # fused top-down: the deepest block reaches every map, the last alone it
        torch.nn.init.normal_(model.neck.projections[0].conv.weight)
        changed = [True, False, False, False]
    else:
        torch.nn.init.normal_(model.encoder.blocks[1].mlp.fc2.weight)
        changed = [layer >= 1 for layer in before["aux_layers"]]
    after = forward_stages(model, images)
    assert [not torch.equal(a, b) for a, b in zip(before["aux"], after["aux"])] == changed


# ---- probes


class Scenes(list):
    """Six scenes, the upper 40 rows of each without a label: 2.5 rows of patches."""

    classes = CLASSES

    def __init__(self):
        super().__init__(load_dataset("shapes", "train")[i] for i in range(6))
        for _, label in self:
            label[:40] = 255


def test_a_probe_is_scikit_learns_logistic_regression():
    """Same optimum; there each patch stands once per class, weighted by its labelled pixels."""
    torch.manual_seed(3)
    model = small_model(depth=2, layers=(0, 1))
    scenes = Scenes()
    probes = fit_probes(model, scenes, decay=1e-2, steps=300, progress=False)
    tokens, shares = [], []
    for image, label in scenes:
        images, (rows, cols) = prepare(model, image)
        with torch.no_grad():
            tokens.append(model.encoder.features(images, [1])[0][0].numpy())
        cells = label.reshape(rows, 16, cols, 16).swapaxes(1, 2).reshape(rows * cols, 256)
        shares.append(np.stack([(cells == kind).sum(1) for kind in range(8)], 1))
    x, weights = np.concatenate(tokens), np.concatenate(shares)
    labelled = x[weights.sum(1) > 0]
    mean, std = labelled.mean(0), labelled.std(0, ddof=1)
    patch, kind = np.nonzero(weights)
    theirs = LogisticRegression(C=1 / (1e-2 * weights.sum()), max_iter=2000, tol=1e-8)
    theirs.fit(((x - mean) / std)[patch], kind, sample_weight=weights[patch, kind])
    ours = (torch.tensor(x) @ probes.weight[1].T + probes.bias[1]).softmax(1)
    wanted = theirs.predict_proba((x - mean) / std)
    np.testing.assert_allclose(ours[:, theirs.classes_].numpy(), wanted, atol=2e-3)


def test_probes_are_the_same_every_time():
    model, scenes = small_model(), Scenes()
    one, two = (fit_probes(model, scenes, steps=5, progress=False) for _ in range(2))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    assert one.weight.shape == (4, 8, 24) and one.bias.shape == (4, 8)


def test_a_probe_of_tokens_that_say_nothing_knows_the_shares_of_the_classes():
    """All tokens alike, so that no channel has a deviation to divide by."""
    model, scenes = small_model(), Scenes()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    probes = fit_probes(model, scenes, progress=False)
    counts = np.bincount(np.concatenate([label[label < 255] for _, label in scenes]), minlength=8)
    shares = torch.tensor(counts / counts.sum(), dtype=torch.float32)
    torch.testing.assert_close(probes.bias.softmax(1), shares.expand(4, 8), rtol=0, atol=1e-3)


def test_probe_logits_are_a_linear_map_of_the_tokens():
    model, images = small_model(), torch.randn(2, 3, 40, 64)
    probes = Probes(torch.randn(4, 8, 24), torch.randn(4, 8))
    found = probe_logits(probes, model, images)
    tokens = model.encoder.features(images, [2])[0]
    assert [tuple(scores.shape) for scores in found] == 4 * [(2, 8, 3, 4)]
    for item, row, col in ((0, 0, 0), (1, 2, 1)):
        wanted = probes.weight[2] @ tokens[item, 4 * row + col] + probes.bias[2]
        torch.testing.assert_close(found[2][item, :, row, col], wanted)


def test_probes_survive_their_file(tmp_path):
    probes = Probes(torch.randn(2, 3, 4), torch.randn(2, 3), {"miou": {"probe": {"0": 0.5}}})
    save_probes(probes, tmp_path / "probes.safetensors")
    found = load_probes(tmp_path / "probes.safetensors")
    assert torch.equal(found.weight, probes.weight) and torch.equal(found.bias, probes.bias)
    assert found.about == probes.about


@pytest.mark.parametrize("length", [640, 896, 1152])
def test_a_header_may_be_as_long_as_a_pickles_mark(tmp_path, length):
    """Their first two bytes are 80 02, 80 03, 80 04, those of a pickle."""
    probes, path = Probes(torch.ones(1, 1, 1), torch.ones(1, 1)), tmp_path / "probes.safetensors"
    for more in range(0, length, 4):
        probes.about["padding"] = more * "."
        save_probes(probes, path)
        if int.from_bytes(path.read_bytes()[:8], "little") == length:
            assert load_probes(path).about == probes.about
            return
    raise AssertionError("no padding made the header that long")


# ---- emergence


def test_emergence_is_sorted_and_complete():
    """Every probe, auxiliary head and the main head, with what the probes' file says of each."""
    model, images = small_model(), torch.randn(2, 3, 40, 64)
    about = {"miou": {"probe": {"0": 0.1, "3": 0.4}, "main": {"3": 0.5}}}
    probes = Probes(torch.randn(4, 8, 24), torch.randn(4, 8), about)
    found = emergence(model, images, probes)
    kinds = [(seen.source, seen.layer, seen.miou) for seen in found]
    early = [(kind, layer, None) for layer in (1, 2) for kind in ("probe", "auxiliary")]
    first = [("probe", 0, 0.1), ("auxiliary", 0, None)]
    assert kinds == [*first, *early, ("probe", 3, 0.4), ("main", 3, 0.5)]
    assert all(seen.labels.shape == (2, 40, 64) for seen in found)
    assert torch.equal(found[-1].labels, model(images).argmax(1).byte())
    assert [seen.source for seen in emergence(model, images)] == ["auxiliary"] * 3 + ["main"]


def test_emergence_ends_where_predict_does():
    """The main head's map at the photograph's own size, read at another."""
    model = small_model("pup")
    for parameter in model.parameters():
        if parameter.ndim > 1:  # a map of several classes: no bias decides alone
            torch.nn.init.normal_(parameter, std=0.2)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    images, _ = prepare(model, image, base=(64, 48))
    last = emergence(model, images, size=(60, 90))[-1]
    expected = predict(model, image, protocol=TestProtocol(base=(64, 48), rule="fit"))
    assert np.array_equal(last.labels[0].numpy(), expected) and len(np.unique(expected)) > 2


# ---- what ships


def test_shipped_probes_fit_the_shipped_model():
    """12 blocks, 11 classes, and the numbers of their record; the heads' are the run's own."""
    probes, record = (
        load_probes(SHIPPED / "probes.safetensors"),
        load_record("camvid_naive_tiny_probes"),
    )
    assert probes.weight.shape == (12, 11, 192) and probes.bias.shape == (12, 11)
    assert probes.about["miou"] == record["miou"] and probes.about["commit"] == record["commit"]
    run = load_record("camvid_naive_tiny")
    assert record["miou"]["main"]["11"] == pytest.approx(run["best"]["miou"], abs=1e-3)
    assert record["images"] == run["images"]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m, x: forward_stages(FCN(FCNConfig(50, 7)), x), "FCN has no attention"),
        (lambda m, x: probe_logits(Probes(torch.ones(3, 8, 24), torch.ones(3, 8)), m, x), "3 .* 4"),
        (
            lambda m, x: probe_logits(Probes(torch.ones(4, 8, 9), torch.ones(4, 8)), m, x),
            "width 9.* 24",
        ),
        (lambda m, x: load_probes(SHIPPED / "model.safetensors"), "holds no probes"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(small_model(), torch.zeros(1, 3, 48, 64))
