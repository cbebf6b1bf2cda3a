"""The decoders are the authors' layer for layer, and every decoder keeps the same promises."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_config

import setr_lib
from setr_lib import SETR, SETRConfig
from setr_lib.decoders import MLA, UPSAMPLING, MLAHead, MLANeck, UpsamplingHead

DECODERS = ("naive", "pup", "mla")


@pytest.mark.parametrize(
    "name, classes, size, parameters",
    # Computed from the authors' code, without auxiliary heads and without their unused classifiers.
    [
        ("setr_naive_large", 19, 768, 305_728_019),
        ("setr_mla_large", 19, 768, 310_737_427),
        ("setr_pup_large", 19, 768, 309_596_947),
        ("setr_naive_base", 150, 512, 86_670_486),
        ("setr_mla_base", 150, 512, 92_051_862),
        ("setr_pup_base", 150, 512, 90_015_126),
        ("setr_naive_base", 60, 480, 86_552_124),
    ],
)
def test_parameter_counts_are_the_authors(name, classes, size, parameters):
    with torch.device("meta"):
        model = setr_lib.create_model(name, classes, size, aux=False)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("decoder, heads", [("naive", 3), ("pup", 4), ("mla", 4)])
def test_paper_parameters_are_the_training_model_with_dead_layers(decoder, heads):
    """Table 2's 305.67, 318.31 and 310.57 M: ADE20K, auxiliaries, and an unused 1x1 per head."""
    paper = {"naive": 305.67, "pup": 318.31, "mla": 310.57}
    with torch.device("meta"):
        model = setr_lib.create_model(f"setr_{decoder}_large", 150, 512)
    dead = (512 * 150 + 150) * (1 + heads)
    assert len(model.aux_heads) == heads
    assert round((sum(p.numel() for p in model.parameters()) + dead) / 1e6, 2) == paper[decoder]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(1, 1), (15, 33), (48, 64), (37, 100)])
def test_scores_have_the_size_of_the_image(decoder, size):
    model = SETR(small_config(decoder)).eval()
    scores = model(torch.randn(2, 3, *size))
    assert scores.shape == (2, 8, *size) and scores.isfinite().all()


@pytest.mark.parametrize(
    "decoder, main, aux", [("naive", 1, [1] * 3), ("pup", 8, [4] * 4), ("mla", 4, [1] * 4)]
)
def test_heads_speak_at_the_authors_resolutions(decoder, main, aux):
    """Before the last resize: Naive 1/16, PUP 1/2 (auxiliaries 1/4), MLA 1/4 (auxiliaries 1/16)."""
    found = SETR(small_config(decoder)).head_logits(torch.randn(2, 3, 40, 64))
    assert found["main"].shape == (2, 8, 3 * main, 4 * main)
    assert [m.shape for m in found["aux"]] == [(2, 8, 3 * f, 4 * f) for f in aux]


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_layer_is_dead(decoder):
    """One backward pass reaches every parameter (MLA drops the class token: its gradient is 0)."""
    model = SETR(small_config(decoder))
    labels = torch.randint(0, 8, (2, 48, 64))
    model.loss(torch.randn(2, 3, 48, 64), labels).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == ({"encoder.cls_token"} if decoder == "mla" else set())


@pytest.mark.parametrize("decoder", DECODERS)
def test_loss_is_main_plus_four_tenths_of_the_auxiliaries(decoder):
    model = SETR(small_config(decoder))
    images, labels = torch.randn(2, 3, 48, 64), torch.randint(0, 8, (2, 48, 64))
    heads = model.head_logits(images)
    losses = [
        F.cross_entropy(F.interpolate(m, (48, 64), mode="bilinear"), labels)
        for m in (heads["main"], *heads["aux"])
    ]
    torch.testing.assert_close(model.loss(images, labels), losses[0] + 0.4 * sum(losses[1:]))


@pytest.mark.parametrize("decoder", DECODERS)
def test_auxiliary_heads_do_not_touch_the_scores(decoder):
    with_aux = SETR(small_config(decoder)).eval()
    without = SETR(small_config(decoder, aux=False)).eval()
    left = without.load_state_dict(with_aux.state_dict(), strict=False)
    assert not left.missing_keys and all("aux_heads" in key for key in left.unexpected_keys)
    images = torch.randn(1, 3, 48, 64)
    assert torch.equal(with_aux(images), without(images))


@pytest.mark.parametrize("decoder", DECODERS)
def test_padding_moves_no_pixel(decoder):
    """Scores of a cut image equal those of the image with zeros where it was cut."""
    model = SETR(small_config(decoder)).eval()
    images = torch.randn(1, 3, 48, 64)
    images[..., 40:, :] = 0
    images[..., 50:] = 0
    torch.testing.assert_close(model(images[..., :40, :50]), model(images)[..., :40, :50])


@pytest.mark.parametrize("decoder", ["naive", "pup"])
@pytest.mark.parametrize("graph", ["authors", "mmseg"])
def test_each_auxiliary_head_reads_its_own_block(decoder, graph):
    """From shallow to deep; in the authors' PUP the last one reads the main head's block."""
    model = SETR(small_config(decoder, graph=graph)).eval()
    images = torch.randn(1, 3, 48, 64)
    found = model.head_logits(images)["aux"]
    layers = (0, 1, 2, 3)[: len(found)]
    assert len(found) == (4 if (decoder, graph) == ("pup", "authors") else 3)
    for head, scores, tokens in zip(
        model.aux_heads, found, model.encoder.features(images, layers), strict=True
    ):
        assert torch.equal(head(tokens, (3, 4)), scores)


def test_what_training_compiles_is_not_asked_for_whole_images():
    """`torch.compile` is put in the place of `small_logits`; only the loss, of crops, calls it."""
    model, images, calls = SETR(small_config()), torch.randn(1, 3, 41, 50), []
    small = model.small_logits
    model.small_logits = lambda crops: calls.append(len(crops)) or small(crops)
    model(images), model.head_logits(images)
    assert not calls
    model.loss(images, torch.zeros(1, 41, 50, dtype=torch.int64))
    assert calls == [1]


def test_heads_train_faster_but_not_the_neck():
    """The authors' rule is the word "head" in a name; MLA's fusion is part of their backbone."""
    model = SETR(small_config("mla"))
    fast = {id(p) for p in model.head_parameters()}
    for name, p in model.named_parameters():
        assert (id(p) in fast) == name.startswith(("head.", "aux_heads."))


def bn_relu(maps, bn):
    maps = F.batch_norm(maps, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-5)
    return maps.clamp(min=0)


def norm_map(tokens, norm, grid):
    mean, var = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, unbiased=False)
    tokens = (tokens - mean) / (var + 1e-6).sqrt() * norm.weight + norm.bias
    return tokens.reshape(len(tokens), *grid, -1).permute(0, 3, 1, 2)


def up(maps, factor, align_corners=False):
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=align_corners)


def shaken(module):
    """Random statistics and weights everywhere, so that nothing is hidden by ones and zeros."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.5, 1.5) if tensor.ndim == 1 else None
    return module.double().eval()


@torch.no_grad()
def test_naive_head_by_the_facts():
    """LN, 1x1 to 256 with bias, BN, ReLU, 1x1: all at 1/16."""
    head, tokens = (
        shaken(UpsamplingHead(24, 16, 8, UPSAMPLING["authors"]["naive"])),
        torch.randn(2, 12, 24).double(),
    )
    maps = norm_map(tokens, head.norm, (3, 4))
    (conv,) = head.convs
    maps = bn_relu(F.conv2d(maps, conv.conv.weight, conv.conv.bias), conv.bn)
    wanted = F.conv2d(maps, head.classifier.weight, head.classifier.bias)
    torch.testing.assert_close(head(tokens, (3, 4)), wanted)


@torch.no_grad()
def test_pup_head_by_the_facts():
    """LN, four times (3x3 with bias, BN, ReLU, x2), the classifier after the last x2."""
    head, tokens = (
        shaken(UpsamplingHead(24, 16, 8, UPSAMPLING["authors"]["pup"])),
        torch.randn(2, 12, 24).double(),
    )
    maps = norm_map(tokens, head.norm, (3, 4))
    for conv in head.convs:
        maps = up(bn_relu(F.conv2d(maps, conv.conv.weight, conv.conv.bias, padding=1), conv.bn), 2)
    wanted = F.conv2d(maps, head.classifier.weight, head.classifier.bias)
    torch.testing.assert_close(up(head(tokens, (3, 4)), 2), wanted)  # classify first: the same


@torch.no_grad()
def test_pup_auxiliary_by_the_facts():
    """LN, 3x3 with bias, BN, ReLU, x4, then the classifier."""
    head, tokens = (
        shaken(UpsamplingHead(24, 16, 8, UPSAMPLING["authors"]["pup auxiliary"])),
        torch.randn(2, 12, 24).double(),
    )
    maps = norm_map(tokens, head.norm, (3, 4))
    (conv,) = head.convs
    maps = up(bn_relu(F.conv2d(maps, conv.conv.weight, conv.conv.bias, padding=1), conv.bn), 4)
    wanted = F.conv2d(maps, head.classifier.weight, head.classifier.bias)
    torch.testing.assert_close(head(tokens, (3, 4)), wanted)


@torch.no_grad()
def test_mla_by_the_facts():
    """Norm and 1x1 per stream, sums from the deepest, 3x3; twice 3x3, x4 with corners, 3x3."""
    neck, head = shaken(MLANeck(24, 16)), shaken(MLAHead(16, 8, MLA["authors"]))
    streams = [torch.randn(2, 12, 24).double() for _ in range(4)]
    p2, p3, p4, p5 = (
        bn_relu(F.conv2d(norm_map(tokens, norm, (3, 4)), p.conv.weight), p.bn)
        for tokens, norm, p in zip(streams, neck.norms, neck.projections)
    )
    sums = [p2 + p3 + p4 + p5, p3 + p4 + p5, p4 + p5, p5]
    maps = [
        bn_relu(F.conv2d(m, f.conv.weight, padding=1), f.bn) for m, f in zip(sums, neck.fusions)
    ]
    for found, wanted in zip(neck(streams, (3, 4)), maps, strict=True):
        torch.testing.assert_close(found, wanted)
    enlarged = []
    for m, (one, two) in zip(maps, head.streams):
        m = bn_relu(F.conv2d(m, one.conv.weight, padding=1), one.bn)
        m = bn_relu(F.conv2d(m, two.conv.weight, padding=1), two.bn)
        enlarged.append(up(m, 4, align_corners=True))
    wanted = F.conv2d(
        torch.cat(enlarged, 1), head.classifier.weight, head.classifier.bias, padding=1
    )
    torch.testing.assert_close(head(maps), wanted)


def test_published_layers():
    """0-based, from the authors' configurations."""
    wanted = {
        "setr_naive_large": (9, 14, 19, 23),
        "setr_pup_large": (9, 14, 19, 23),
        "setr_mla_large": (5, 11, 17, 23),
        "setr_naive_base": (2, 5, 8, 11),
        "setr_pup_base": (4, 7, 9, 11),
        "setr_mla_base": (2, 5, 8, 11),
    }
    for name, layers in wanted.items():
        assert setr_lib.zoo.model_config(name).layers == layers


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: setr_lib.create_model("setr_pup_larg"), "did you mean setr_pup_large"),
        (lambda: SETRConfig("deeplab"), "'deeplab'; choose one of naive, pup, mla"),
        (lambda: SETRConfig(graph="paddle"), "'paddle'"),
        (lambda: SETRConfig(depth=7), "7 blocks"),
        (lambda: small_config(layers=(0, 2, 1, 3)), r"\(0, 2, 1, 3\) must ascend"),
        (lambda: small_config(layers=(0, 4)), "0 to 3"),
        (lambda: small_config("mla", layers=(0, 3)), "exactly 4 layers, got 2"),
        (lambda: small_config(image_size=0), "0x0"),
        (lambda: small_config(num_classes=0), "num_classes is 0"),
        (lambda: small_config(num_classes=8.0), "num_classes is 8.0.*whole number"),
        (lambda: small_config(heads=True), "heads is True.*whole number"),
        (lambda: small_config(width=float("nan")), "width is nan"),
        (lambda: small_config(depth="4"), "depth is '4'"),
        (lambda: small_config(layers=(0, 1.5)), "layers is 1.5"),
        (lambda: small_config(layers=3), "layers is 3"),
        (lambda: small_config(aux=1), "aux is 1.*True or False"),
        (lambda: small_config(patch_bias="no"), "patch_bias is 'no'"),
        (lambda: small_config(["naive"]), "decoder is"),
        (lambda: small_config(graph=[]), r"graph is \[\]"),
        (lambda: small_config(backbone=3), "backbone is 3"),
        (lambda: small_config(image_size=(48, 64, 3)), r"image_size is \(48, 64, 3\)"),
        (lambda: small_config(backbone="hybrid", patch_size=8), "patch_size is 8.*16"),
        (lambda: small_config(backbone="hybrid", patch_bias=False), "patch_bias=False"),
        (lambda: SETR(small_config(backbone="vit_tiny_patch16_224")), "width is 24.* 192"),
        (lambda: setr_lib.create_model("fcn_resnet50", pretrained="x"), "no pretrained.*'x'"),
        (lambda: setr_lib.create_model("fcn_resnet50", backbone="x"), "no backbone.*'x'"),
        (lambda: setr_lib.create_model("fcn_resnet50", graph="mmseg"), "no graph.*'mmseg'"),
        (lambda: setr_lib.create_model("fcn_resnet50", patch_size=8), "no patch_size.* 8 "),
        (lambda: setr_lib.create_model("fcn_resnet50", image_size=-3), "image_size is -3"),
        (
            lambda: setr_lib.create_model("setr_hybrid_base", backbone="vit_tiny_patch16_224"),
            "setr_hybrid_base has no backbone",
        ),
        (
            lambda: setr_lib.create_model(
                "setr_pup_tiny", backbone="vit_tiny_patch16_224", patch_size=8
            ),
            "patch_size is 8; vit_tiny_patch16_224 has 16",
        ),
        (lambda: setr_lib.create_model("setr_pup_tiny", patch_size=0), "patch_size is 0"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_labels_of_another_size_are_named():
    model = SETR(small_config())
    with pytest.raises(ValueError, match=r"\(1, 16, 16\).*\(1, 32, 16\)"):
        model.loss(torch.zeros(1, 3, 32, 16), torch.zeros(1, 16, 16, dtype=torch.int64))


def test_channels_and_patches_are_arguments():
    """As in timm and segmentation_models_pytorch: five bands, patches of 8 pixels."""
    model = setr_lib.create_model("setr_naive_tiny", 3, 32, in_chans=5, patch_size=8).eval()
    assert model(torch.zeros(1, 5, 24, 32)).shape == (1, 3, 24, 32)
    assert model.encoder.grid == (4, 4)
    fcn = setr_lib.create_model("fcn_resnet50", 3, in_chans=1).eval()
    assert fcn(torch.zeros(1, 1, 24, 32)).shape == (1, 3, 24, 32)


def test_numbers_of_numpy_become_plain_ones():
    """They are written to JSON later."""
    config = small_config(
        num_classes=np.int64(8), layers=[np.int32(0), 3], image_size=np.ones(2, int)
    )
    assert type(config.num_classes) is int and config.layers == (0, 3)
    assert config.image_size == (1, 1) and json.dumps(dataclasses.asdict(config))


@pytest.mark.parametrize("decoder", DECODERS)
def test_one_value_per_channel_is_named_before_batch_norm(decoder):
    """One image of one patch cannot be trained on; two can, and one can be scored."""
    model = SETR(small_config(decoder))
    one = torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"one value per channel.*micro_batch.*crop"):
        model.loss(*one)
    model.loss(*(x.expand(2, *x.shape[1:]) for x in one)).backward()
    assert model.eval()(one[0]).shape == (1, 8, 16, 16)
