"""The encoder is timm's VisionTransformer, without its last norm and its classifier."""

import pytest
import timm
import torch

from setr_lib import Encoder, resize_positions


def timm_twin(size=(48, 80), dtype=torch.float32, **facts):
    """A timm ViT with random weights and our encoder with the same ones."""
    facts = {"embed_dim": 48, "depth": 3, "num_heads": 4, **facts}
    theirs = timm.models.VisionTransformer(img_size=size, num_classes=7, **facts)
    for parameter in theirs.parameters():  # timm starts biases and tokens at zero: hide nothing
        torch.nn.init.normal_(parameter, std=0.2)
    ours = Encoder(size, facts["embed_dim"], facts["depth"], facts["num_heads"])
    report = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not report.missing_keys
    assert {key.split(".")[0] for key in report.unexpected_keys} == {"norm", "head"}
    return ours.to(dtype).eval(), theirs.to(dtype).eval()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("size", [(48, 48), (48, 80)])
def test_every_block_equals_timm(size, dtype, tolerance):
    """All intermediate tokens agree, on square and on rectangular images."""
    ours, theirs = timm_twin(size, dtype)
    images = torch.randn(2, 3, *size, dtype=dtype)
    expected = theirs.forward_intermediates(
        images, intermediates_only=True, output_fmt="NLC", norm=False
    )
    for found, wanted in zip(ours.features(images, [0, 1, 2]), expected, strict=True):
        assert (found - wanted).norm() / wanted.norm() < tolerance


def test_tensor_names_are_timms():
    """The published tiny ViT loads by name; only its norm and its classifier are left over."""
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    ours = Encoder((224, 224), 192, 12, 3).state_dict()
    assert set(theirs) - set(ours) == {"norm.weight", "norm.bias"} and set(ours) <= set(theirs)
    assert all(ours[name].shape == theirs[name].shape for name in ours)


def test_dropped_class_token_never_mixes():
    """For MLA the class token has no influence; for Naive and PUP it has."""
    images = torch.randn(1, 3, 32, 32)
    for class_token, changes in (("dropped", False), ("kept", True)):
        encoder = Encoder((32, 32), 24, 2, 3, class_token=class_token)
        before = encoder(images)
        torch.nn.init.normal_(encoder.cls_token, std=5)
        assert torch.equal(encoder(images), before) != changes


@pytest.mark.parametrize("size", [(1, 1), (15, 33), (32, 48), (100, 17)])
def test_any_size_becomes_whole_patches(size):
    """N = ceil(H/16) * ceil(W/16); the padding is zero, at the right and the bottom."""
    encoder = Encoder((32, 32), 24, 2, 3)
    images = torch.randn(2, 3, *size)
    rows, cols = -(-size[0] // 16), -(-size[1] // 16)
    padded = torch.zeros(2, 3, 16 * rows, 16 * cols)
    padded[..., : size[0], : size[1]] = images
    tokens = encoder(images)
    assert tokens.shape == (2, rows * cols, 24)
    assert torch.equal(tokens, encoder(padded))


def test_tokens_come_rows_first():
    """Changing one patch changes the embedding of token row * columns + column alone."""
    encoder = Encoder((32, 48), 24, 1, 3)
    images = torch.zeros(1, 3, 32, 48)
    before = encoder.embed(images)
    images[..., 16:32, 32:48] = 1  # row 1, column 2 of a 2 x 3 grid
    changed = (encoder.embed(images) != before).any(-1)[0].nonzero().flatten()
    assert changed.tolist() == [1 + 1 * 3 + 2]  # the class token is number 0


def test_position_table_is_resized_bilinearly():
    """Against the formula, pixel by pixel; the class token's row is carried over."""
    table = torch.randn(1, 1 + 3 * 4, 5, dtype=torch.float64)
    old, new = (3, 4), (5, 6)
    grid = table[0, 1:].view(3, 4, 5)
    found = resize_positions(table, old, new)
    assert torch.equal(found[:, 0], table[:, 0])
    for row in range(new[0]):
        for col in range(new[1]):
            y = min(max((row + 0.5) * old[0] / new[0] - 0.5, 0), old[0] - 1)
            x = min(max((col + 0.5) * old[1] / new[1] - 0.5, 0), old[1] - 1)
            top, left = int(y), int(x)
            low, right = min(top + 1, 2), min(left + 1, 3)
            a, b = y - top, x - left
            above = (1 - b) * grid[top, left] + b * grid[top, right]
            below = (1 - b) * grid[low, left] + b * grid[low, right]
            wanted = (1 - a) * above + a * below
            torch.testing.assert_close(found[0, 1 + row * new[1] + col], wanted)


def test_position_table_of_the_same_grid_is_untouched():
    table = torch.randn(1, 13, 5)
    assert resize_positions(table, (3, 4), (3, 4)) is table


def test_one_table_serves_other_sizes():
    """An encoder made for one size equals one that was made for another with the resized table."""
    small, large = Encoder((32, 32), 24, 2, 3), Encoder((48, 64), 24, 2, 3)
    state = small.state_dict()
    state["pos_embed"] = resize_positions(state["pos_embed"], (2, 2), (3, 4))
    large.load_state_dict(state)
    images = torch.randn(1, 3, 48, 64)
    assert torch.equal(small(images), large(images))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Encoder(width=20, heads=3), "width 20 .* 3 heads"),
        (lambda: Encoder(class_token="maybe"), "'maybe'.*'kept' or 'dropped'"),
        (lambda: Encoder(width=12)(torch.zeros(1, 4, 16, 16)), r"\(1, 4, 16, 16\).*3"),
        (lambda: Encoder(width=12)(torch.zeros(3, 16, 16)), r"\(3, 16, 16\)"),
        (
            lambda: Encoder(width=12).features(torch.zeros(1, 3, 16, 16), [12]),
            "12-block .* 0 to 11",
        ),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
