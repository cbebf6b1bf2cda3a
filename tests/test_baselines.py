"""The FCN of the paper's tables, the Hybrid, and timm's encoders in SETR's place."""

import pytest
import timm
import torch
from conftest import small_config

import setr_lib
from setr_lib import SETR, Encoder
from setr_lib.baselines.backbones import TimmEncoder
from setr_lib.baselines.fcn import FCN, FCNConfig
from setr_lib.costs import PeakMemory, costs
from setr_lib.encoder import TokenEncoder
from setr_lib.weights.load import load_pretrained
from setr_lib.zoo import timm_config


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_fcn_has_the_papers_parameters():
    """Table 2: 68.59 M, which is the ADE20K training model with its auxiliary head."""
    with torch.device("meta"):
        assert round(count(setr_lib.create_model("fcn_resnet101", 150)) / 1e6, 2) == 68.59
        assert round(count(setr_lib.create_model("fcn_resnet101", 19)) / 1e6, 2) != 68.59


@pytest.mark.parametrize("size", [(1, 1), (15, 33), (64, 96)])
def test_fcn_keeps_the_promises_of_setr(size):
    model = FCN(FCNConfig(50, 7)).eval()
    images, labels = torch.randn(2, 3, *size), torch.randint(0, 7, (2, *size))
    heads = model.head_logits(images)
    rows, cols = -(-size[0] // 8), -(-size[1] // 8)
    assert model(images).shape == (2, 7, *size)
    assert heads["main"].shape == heads["aux"][0].shape == (2, 7, rows, cols)
    model.loss(images, labels).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_fcn_is_dilated_like_mmsegmentations():
    """Strides 1, 2, 1, 1; the first block of a dilated stage keeps the dilation before it."""
    stages = [m for name, m in FCN(FCNConfig(50, 7)).encoder.items() if name.startswith("layer")]
    dilations = [[block.conv2.dilation[0] for block in stage] for stage in stages]
    assert dilations == [[1] * 3, [1] * 4, [1] + [2] * 5, [2, 4, 4]]
    assert [stage[0].conv2.stride[0] for stage in stages] == [1, 2, 1, 1]


def test_timm_encoder_equals_ours():
    """The same weights through the adapter and through our own encoder."""
    adapter = TimmEncoder("vit_tiny_patch16_224", (96, 64)).eval()
    ours = Encoder((96, 64), 192, 12, 3).eval()
    ours.load_state_dict(adapter.backbone.state_dict(), strict=False)
    images = torch.randn(2, 3, 96, 64)
    for one, two in zip(adapter.features(images, [2, 11, 5]), ours.features(images, [2, 11, 5])):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "eva02_tiny_patch14_224"])
def test_other_backbones_stand_in(decoder, name):
    """DINOv2 (LayerScale) and EVA-02 (rotary positions, SwiGLU), on a size of their own."""
    model = setr_lib.create_model(f"setr_{decoder}_base", 5, (56, 70), backbone=name).eval()
    assert model.config.patch_size == 14 and model.encoder.grid == (4, 5)
    for size in [(56, 70), (30, 45)]:
        scores = model(torch.randn(1, 3, *size))
        assert scores.shape == (1, 5, *size) and scores.isfinite().all()


@pytest.mark.parametrize(
    "backbone, prefix", [("vit", 1), ("hybrid", 1), ("deit_tiny_distilled_patch16_224", 2)]
)
def test_every_encoder_says_what_it_is(backbone, prefix):
    """Depth, width, grid, patches, and blocks that its checkpoint names once."""
    timms = None if backbone in ("vit", "hybrid") else backbone
    name = "setr_hybrid_base" if backbone == "hybrid" else "setr_naive_tiny"
    with torch.device("meta"):
        model = setr_lib.create_model(name, 5, (48, 64), backbone=timms)
    encoder, config = model.encoder, model.config
    assert isinstance(encoder, TokenEncoder) and len(encoder.blocks) == encoder.depth == 12
    assert (encoder.depth, encoder.width) == (config.depth, config.width)
    assert (encoder.grid, encoder.patch_size, encoder.prefix_tokens) == ((3, 4), 16, prefix)
    names = dict(model.named_parameters(remove_duplicate=False))
    assert len(names) == len(list(model.parameters()))


def test_a_backbone_of_another_depth_is_read_at_its_quarters():
    assert timm_config("pup", "vit_giant_patch14_dinov2", 5, 56).layers == (9, 19, 29, 39)


def test_hybrid_reads_a_resnet():
    model = setr_lib.create_model("setr_hybrid_base", 5, 64).eval()
    assert model.encoder(torch.randn(1, 3, 40, 64)).shape == (1, 3 * 4, 768)
    assert model(torch.randn(1, 3, 40, 64)).shape == (1, 5, 40, 64)
    assert model.config.decoder == "naive" and model.config.width == 768
    mla = SETR(small_config("mla", backbone="hybrid"))  # the class token leaves as in our encoder
    assert mla.encoder.class_token == "dropped" and model.encoder.class_token == "kept"


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: TimmEncoder("vit_tiny_patch16_225", (32, 32)),
            "did you mean vit_tiny_patch16_224",
        ),
        (lambda: TimmEncoder("resnet50", (32, 32)), "resnet50 keeps no single grid of patches"),
        (lambda: FCNConfig(depth=35), "depth is 35; the FCN is built on ResNet-18"),
        (lambda: FCNConfig(depth=50.0), "depth is 50.0"),
        (lambda: FCNConfig(50, aux=1), "aux is 1"),
        (
            lambda: TimmEncoder("vit_tiny_r_s16_p8_224", (64, 64)),
            "vit_tiny_r_s16_p8_224 keeps no single grid.*convolutions",
        ),
        (
            lambda: load_pretrained(SETR(small_config()), "no/such.pth"),
            "no file here, and unknown timm model",
        ),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_pretrained_weights_come_through_timm(monkeypatch):
    """The hub is asked by timm's name, for our encoder and timm's own; a refusal is explained."""
    asked, create = [], timm.create_model

    def hub(name, pretrained=False, **options):
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", hub)
    name = "deit_tiny_distilled_patch16_224"
    model = setr_lib.create_model("setr_naive_tiny", 5, 224, pretrained=name)
    assert asked == [(name, True)] and model.encoder.pos_embed.shape[1] == 197
    asked.clear()
    name = "vit_tiny_patch16_224"
    setr_lib.create_model("setr_pup_base", 5, 64, backbone=name, pretrained=name)
    assert (name, True) in asked

    def refuse(*args, **options):
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ConnectionError, match=r"vit_tiny_patch16_224 \(no route to the hub\)"):
        setr_lib.create_model("setr_naive_tiny", 5, 224, pretrained=name)


def test_arithmetic_equals_the_closed_form():
    """Naive, tiny, 128 x 96 pixels: a multiply-add is two operations."""
    found = costs(lambda: setr_lib.create_model("setr_naive_tiny", 5, (128, 96)), (128, 96))
    patches, width, channels = 8 * 6, 192, 256
    tokens = patches + 1
    blocks = 12 * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)
    embedding = 2 * patches * 768 * width
    head = 2 * patches * (width * channels + channels * 5)
    assert found.gflops * 1e9 == pytest.approx(blocks + embedding + head, rel=1e-12)
    assert found.tokens == (8, 6)
    model = setr_lib.create_model("setr_naive_tiny", 5, (128, 96))
    assert sum(found.parameters.values()) == count(model)


def test_peak_memory_of_a_known_program():
    """4 kB each: at most two at a time, then four; views and work in place cost nothing."""
    with PeakMemory() as two:
        x = torch.zeros(1000)
        y = x + 1
        y.view(10, 100).add_(1)
        del x
        y = y * 2
    with PeakMemory() as three:
        x = torch.zeros(1000)
        x = (x + 1) * (x + 2)
    assert (two.peak, three.peak) == (8000, 16000) and x.shape == y.shape


def test_no_attention_matrix_is_stored():
    """Training memory grows with the tokens, not with their square: 4 times the area, 4 times."""
    small = costs(lambda: setr_lib.create_model("setr_naive_tiny", 5, 256), 256).training_gib
    large = costs(lambda: setr_lib.create_model("setr_naive_tiny", 5, 512), 512).training_gib
    assert large / small == pytest.approx(4, rel=0.05)
