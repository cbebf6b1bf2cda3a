"""The numbers behind the explorer: maps, rows, rollout, statistics, the causal check."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import timm
import torch
from conftest import small_config
from PIL import Image

import setr_lib
from setr_lib import SETR, Encoder
from setr_lib.attention import (
    Probes,
    attention_distance,
    attention_entropy,
    attention_inside,
    attention_maps,
    attention_rollout,
    attention_rows,
    emergence,
    forward_stages,
    hidden_logits,
    hide,
    label_grid,
    prefix_tokens,
    prepare,
    probe_logits,
    queries_keys,
    uniform_distance,
)
from setr_lib.attention.capture import hide_keys
from setr_lib.baselines.backbones import HybridEncoder, TimmEncoder
from setr_lib.baselines.fcn import FCN, FCNConfig
from setr_lib.costs import PeakMemory


def wild(model):
    """Weights large enough that attention is far from uniform."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def small_model(decoder="naive", **facts):
    return wild(SETR(small_config(decoder, **facts)))


def random_maps(layers=3, batch=2, heads=2, tokens=7):
    scores = 2 * torch.randn(layers, batch, heads, tokens, tokens, dtype=torch.float64)
    return list(scores.softmax(-1))


def unfused(transformer):
    """Turn timm's fused kernel off; the list fills with the matrices that it then multiplies by."""
    seen = []
    for block in transformer.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, __, out: seen.append(out))
    return seen


def fcn():
    with torch.device("meta"):
        return FCN(FCNConfig(50, 7))


# ---- maps


@pytest.mark.parametrize("kind", ["kept", "dropped", "hybrid"])
def test_a_block_recomputed_with_its_map_equals_the_block(kind):
    """Explicit = fused, to 1e-6 of the output, on a size that needs padding and other positions."""
    if kind == "hybrid":
        encoder = wild(HybridEncoder((48, 64), 24, 2, 3, "kept", 3))
    else:
        encoder = wild(Encoder((48, 64), 24, 2, 3, class_token=kind))
    images = torch.randn(2, 3, 50, 90)
    maps = attention_maps(encoder, images)
    with torch.no_grad():
        tokens = encoder.embed(images)
        for block, map_BHTT in zip(encoder.blocks, maps, strict=True):
            value = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, 3, 8))[:, :, 2]
            mixed = (map_BHTT @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
            half = tokens + block.attn.proj(mixed)
            expected = block(tokens)
            assert (half + block.mlp(block.norm2(half)) - expected).norm() < 1e-6 * expected.norm()
            tokens = expected


@pytest.mark.parametrize(
    "name, prefix",
    [
        ("test_vit", 1),
        ("deit_tiny_distilled_patch16_224", 2),
        ("eva02_tiny_patch14_224", 1),  # rotary positions
        ("vit_small_patch14_reg4_dinov2", 5),
    ],
)
def test_maps_equal_timms_own_unfused_attention(name, prefix):
    """The matrix that timm multiplies with when its fused kernel is off."""
    encoder = TimmEncoder(name, (56, 84)).eval()
    images = torch.randn(2, 3, 50, 70)
    maps = attention_maps(encoder, images, [0, 1, -1])
    expected = unfused(encoder.backbone)
    with torch.no_grad():
        encoder(images)
    assert prefix_tokens(encoder) == maps.prefix == prefix
    for found, wanted in zip(maps, [expected[0], expected[1], expected[-1]], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_maps_of_our_encoder_equal_timms():
    """The same weights in timm's own transformer, its fused kernel off."""
    sizes = {"img_size": (48, 64), "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 0}
    theirs = wild(timm.models.VisionTransformer(**sizes))
    ours = Encoder((48, 64), 48, 3, 4).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    images = torch.randn(1, 3, 48, 64)
    expected = unfused(theirs)
    with torch.no_grad():
        theirs(images)
    for found, wanted in zip(attention_maps(ours, images), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decoder, prefix", [("naive", 1), ("pup", 1), ("mla", 0)])
@pytest.mark.parametrize("size", [(1, 1), (33, 64), (80, 47)])
def test_rows_sum_to_one_on_any_size(decoder, prefix, size):
    """One map per layer; the class token takes part in Naive and PUP, not in MLA."""
    model = small_model(decoder)
    maps = setr_lib.attention_maps(model, torch.randn(2, 3, *size))
    tokens = prefix + math.ceil(size[0] / 16) * math.ceil(size[1] / 16)
    assert isinstance(maps, list) and maps.prefix == prefix_tokens(model) == prefix
    assert [tuple(m.shape) for m in maps] == 4 * [(2, 3, tokens, tokens)]
    assert all((m.sum(-1) - 1).abs().max() < 1e-6 and m.dtype == torch.float32 for m in maps)


def test_a_batch_is_its_images_one_by_one():
    model, images = small_model(), torch.randn(3, 3, 48, 64)
    together = torch.stack(attention_maps(model, images))
    alone = [torch.stack(attention_maps(model, images[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=0, atol=1e-6)
    assert (together[:, 0] - together[:, 1]).abs().max() > 0.01


def test_layers_come_in_the_order_asked_for():
    model, images = small_model(), torch.randn(1, 3, 48, 64)
    every = attention_maps(model, images)
    for found, layer in zip(attention_maps(model, images, [3, 0, -2]), (3, 0, 2), strict=True):
        assert torch.equal(found, every[layer])
    assert every[1:].prefix == 1


@pytest.mark.parametrize("heads", ["mean", "max", "min"])
def test_heads_can_be_fused_on_the_way(heads):
    model, images = small_model(), torch.randn(1, 3, 48, 64)
    for fused, whole in zip(
        attention_maps(model, images, heads=heads), attention_maps(model, images)
    ):
        expected = {"mean": whole.mean, "max": whole.amax, "min": whole.amin}[heads](
            1, keepdim=True
        )
        assert torch.equal(fused, expected)


def test_queries_and_keys_give_the_maps():
    """softmax(q @ k^T), no further scale."""
    model, images = small_model(), torch.randn(2, 3, 48, 64)
    pairs = queries_keys(model, images, [1, 2])
    for (q, k), wanted in zip(pairs, attention_maps(model, images, [1, 2]), strict=True):
        assert q.shape == k.shape == (2, 3, 13, 8)
        torch.testing.assert_close((q @ k.mT).softmax(-1), wanted)


def test_one_layer_with_one_head():
    model = small_model(depth=1, heads=1, layers=(0,))
    images = torch.randn(1, 3, 48, 64)
    (one,) = attention_maps(model, images)
    assert one.shape == (1, 1, 13, 13)
    assert attention_rollout([one], prefix=1).shape == (1, 12, 12)
    assert hide(model, images, [(0, 0)], 3).logit_fall["attended"].shape == (1,)


def test_looking_changes_nothing():
    """A model in training keeps its mode and its batch statistics, and gets no gradients."""
    model = SETR(small_config("pup", backbone="hybrid", depth=4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = attention_maps(model, torch.randn(1, 3, 32, 32))
    hide(model, torch.randn(1, 3, 32, 32), [(0, 0)], 1)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not maps[0].requires_grad


# ---- one row on demand


@pytest.mark.parametrize("decoder", ["naive", "mla"])
def test_rows_on_demand_equal_the_full_maps(decoder):
    """Both directions, patches and prefix; 140 patches, more than are read at a time."""
    model, images = small_model(decoder), torch.randn(1, 3, 160, 224)
    maps = torch.stack(attention_maps(model, images))[:, 0]
    skip, patch = prefix_tokens(model), (6, 11)
    token = skip + 6 * 14 + 11
    for direction, wanted in (("from", maps[:, :, token]), ("to", maps[..., token])):
        found = attention_rows(model, images, patch, direction)
        torch.testing.assert_close(found, wanted[..., skip:])
        prefix = attention_rows(model, images, 6 * 14 + 11, direction, part="prefix")
        torch.testing.assert_close(prefix, wanted[..., :skip])


@pytest.mark.parametrize("direction", ["from", "to"])
def test_rows_on_demand_make_no_map(direction):
    """Everything held at one time is smaller than one layer's maps (1025 tokens, 8 heads)."""
    encoder = Encoder((512, 512), 32, 2, 8)
    with PeakMemory() as memory:
        attention_rows(encoder, torch.zeros(1, 3, 512, 512), 0, direction)
    assert memory.peak < 8 * 1025**2 * 4


# ---- rollout


def rollout_by_hand(maps, residual, discard, prefix):
    """Abnar and Zuidema's rollout of one image, number by number."""
    joined = None
    for layer in maps:
        heads, tokens, _ = layer.shape
        mixed = np.zeros((tokens, tokens))
        for i in range(tokens):
            row = [float(sum(layer[h, i, j] for h in range(heads))) / heads for j in range(tokens)]
            for j in sorted(range(tokens), key=row.__getitem__)[: int(discard * tokens)]:
                row[j] = 0.0
            for j in range(tokens):
                mixed[i, j] = (1 - residual) * row[j] / sum(row) + residual * (i == j)
        joined = mixed if joined is None else mixed @ joined
    joined = joined[prefix:, prefix:]
    return np.array([row / row.sum() for row in joined])


@pytest.mark.parametrize("residual, discard", [(0.5, 0.0), (0.3, 0.6), (0.0, 0.4)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_rollout_equals_a_loop_over_numbers(residual, discard, prefix):
    maps = random_maps()
    found = attention_rollout(maps, residual, discard, prefix=prefix)
    for item in range(2):
        wanted = rollout_by_hand([m[item] for m in maps], residual, discard, prefix)
        np.testing.assert_allclose(found[item].numpy(), wanted, rtol=1e-9)


def test_the_widespread_rollout_bug_is_another_result():
    """`a / a.sum(-1)` without keepdim divides columns: rows then sum to 0.9 to 1.1, ours to 1."""
    maps = [m[:1] for m in random_maps(tokens=30)]
    buggy = torch.eye(30, dtype=torch.float64)
    for layer in maps:
        fused = layer.mean(1)
        fused = torch.where(fused >= fused.quantile(0.9, -1, keepdim=True), fused, 0.0)
        a = (fused + torch.eye(30)) / 2
        buggy = (a / a.sum(dim=-1)) @ buggy
    ours = attention_rollout(maps, discard=0.9)
    assert (buggy.sum(-1) - 1).abs().max() > 0.02
    assert (ours.sum(-1) - 1).abs().max() < 1e-12


def test_rollout_of_a_model_is_of_patches_alone():
    """(B,N,N) whatever the prefix; what the list knows is what can be said by hand."""
    model, images = small_model(), torch.randn(2, 3, 48, 64)
    maps = attention_maps(model, images)
    found = setr_lib.attention_rollout(maps)
    assert found.shape == (2, 12, 12) and (found.sum(-1) - 1).abs().max() < 1e-6
    assert torch.equal(found, attention_rollout(list(maps), prefix=1))
    assert attention_rollout(list(maps)).shape == (2, 13, 13)


def test_rollout_survives_heads_that_share_nothing():
    """The minimum of two heads with no key in common is the identity's row, not NaN."""
    apart = torch.eye(4).expand(1, 1, 4, 4)
    maps = [torch.cat([apart, apart.roll(1, -1)], 1)]
    assert torch.equal(attention_rollout(maps, heads="min"), torch.eye(4)[None])


# ---- statistics


def test_entropy_in_nats():
    maps = random_maps()
    found = attention_entropy(maps)
    assert found.shape == (3, 2, 2, 7)
    wanted = scipy.stats.entropy(torch.stack(maps).numpy(), axis=-1)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)
    assert attention_entropy(torch.full((1, 5), 0.2)).item() == pytest.approx(math.log(5))
    assert attention_entropy(torch.eye(5)).abs().max() == 0


GRIDS = [(1, 1), (3, 4), (1, 7), (15, 20)]


@pytest.mark.parametrize("grid", GRIDS)
def test_distance_of_uniform_attention_has_a_closed_form(grid):
    """All pairs of patches, one by one, for the mean and for a single patch."""
    places = list(itertools.product(range(grid[0]), range(grid[1])))
    far = [[12 * math.dist(one, two) for two in places] for one in places]
    assert uniform_distance(grid, 12) == pytest.approx(np.mean(far))
    assert uniform_distance(grid, 12, query=0) == pytest.approx(np.mean(far[0]))
    uniform = torch.full((1, 1, len(places), len(places)), 1 / len(places))
    found = attention_distance([uniform], grid, 12)
    assert found.mean().item() == pytest.approx(uniform_distance(grid, 12), rel=1e-5)


def test_distance_equals_a_loop():
    """With two prefix tokens, whose share is left out; rows of one patch agree."""
    grid, maps = (2, 3), random_maps(tokens=8)
    found = attention_distance(maps, grid, 16)
    places = list(itertools.product(range(2), range(3)))
    for layer, item, head, i in itertools.product(range(3), range(2), range(2), range(6)):
        row = maps[layer][item, head, 2 + i, 2:]
        far = [16 * math.dist(places[i], place) for place in places]
        wanted = sum(float(w) * d for w, d in zip(row, far)) / float(row.sum())
        assert found[layer, item, head, i].item() == pytest.approx(wanted)
    rows = torch.stack(maps)[..., 2 + 4, :]
    torch.testing.assert_close(attention_distance(rows, grid, 16, query=4), found[..., 4])


def test_label_of_a_patch_is_the_commonest():
    label = np.random.default_rng(0).choice([0, 1, 2, 255], (10, 7), p=[0.2, 0.2, 0.1, 0.5])
    label[:4, :4] = 255
    found = label_grid(label.astype(np.uint8), (10, 7), 4)
    for row, col in itertools.product(range(3), range(2)):
        cell = label[4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
        counts = [(cell == kind).sum() for kind in range(3)]
        assert found[row, col] == (np.argmax(counts) if any(counts) else 255)


def test_label_of_another_size_is_brought_to_the_image():
    label = np.repeat(np.repeat(np.array([[3, 5], [7, 255]], np.uint8), 20, 0), 30, 1)
    assert label_grid(label, (16, 24), 8).tolist() == [[3, 3, 5], [7, 7, 255]]


LABELS = [[1, 1, 0, 1], [0, 1, 0, 1], [255, 0, 2, 1]]  # class 1 twice, apart


@pytest.mark.parametrize("region", ["class", "connected"])
def test_share_inside_the_object_equals_a_loop(region):
    """By class, or by flood fill from the patch; chance is the area; 255 is NaN."""
    labels = torch.tensor(LABELS)
    maps = random_maps(tokens=13)
    share, area = attention_inside(maps, labels, region)
    places = list(itertools.product(range(3), range(4)))
    for i, place in enumerate(places):
        kind = LABELS[place[0]][place[1]]
        if kind == 255:
            assert share[..., i].isnan().all() and area[i].isnan()
            continue
        inside = {p for p in places if LABELS[p[0]][p[1]] == kind}
        if region == "connected":
            reached = {place}
            for _ in places:
                reached |= {p for p in inside for r in reached if math.dist(p, r) == 1}
            inside = reached
        member = torch.tensor([p in inside for p in places])
        for layer in range(3):
            rows = maps[layer][:, :, 1 + i, 1:]
            torch.testing.assert_close(
                share[layer, ..., i], rows[..., member].sum(-1) / rows.sum(-1)
            )
        assert area[i].item() == pytest.approx(len(inside) / 12)
    other = labels.flip(1)
    batch = attention_inside(maps, torch.stack([labels, other]), region)[0]
    torch.testing.assert_close(batch[:, 0], share[:, 0], equal_nan=True)
    flipped = attention_inside(maps, other, region)[0]
    torch.testing.assert_close(batch[:, 1], flipped[:, 1], equal_nan=True)
    alone = attention_inside(torch.stack(maps)[..., 1 + 3, :], labels, region, query=3)
    torch.testing.assert_close(alone[0], share[..., 3])
    assert alone[1] == area[3]


# ---- the causal check


@pytest.mark.parametrize("class_token", ["kept", "dropped"])
def test_hidden_keys_equal_tokens_that_do_not_exist(class_token):
    """The blocks run on the other tokens alone, each image with its own."""
    encoder = wild(Encoder((48, 64), 24, 3, 3, class_token=class_token))
    images = torch.randn(2, 3, 48, 64)
    tokens = encoder.embed(images)
    visible = torch.rand(tokens.shape[:2]) < 0.6
    visible[:, 0] = True
    skip = int(class_token == "kept")
    found = hide_keys(encoder, visible, lambda: encoder(images))
    for item in range(2):
        kept = tokens[item : item + 1, visible[item]]
        for block in encoder.blocks:
            kept = block(kept)
        torch.testing.assert_close(found[item, visible[item, skip:]], kept[0, skip:])


@pytest.mark.parametrize("how", ["keys", "pixels"])
def test_hiding_nothing_changes_nothing(how):
    model, images = small_model("pup"), torch.randn(1, 3, 40, 64)
    hidden = hide(model, images, [(0, 0), (39, 63)], 0, how=how)
    with torch.no_grad():
        logits = model(images)[0]
    assert torch.equal(hidden.classes, logits.argmax(0)[[0, 39], [0, 63]])
    torch.testing.assert_close(hidden.logit, logits.amax(0)[[0, 39], [0, 63]])
    for fall in (*hidden.logit_fall.values(), *hidden.probability_fall.values()):
        assert fall.abs().max() < 1e-5


def test_hidden_pixels_are_the_mean_colour():
    """The same as an image that is zero there, cut at the border of the image."""
    model, images = small_model(), torch.randn(1, 3, 40, 60)
    grey = images.clone()
    grey[..., 16:32, 32:48] = 0  # patch 6 of 3x4
    grey[..., 32:, 48:] = 0  # patch 11, of which 8x12 pixels are inside
    with torch.no_grad():
        expected = model(grey)
    torch.testing.assert_close(
        hidden_logits(model, images, torch.tensor([[6, 11]]), "pixels"), expected
    )


@pytest.mark.parametrize("how", ["keys", "pixels"])
@pytest.mark.parametrize("by", ["rollout", [1, 2]])
def test_the_causal_check_hides_what_it_says(by, how):
    """The chosen patches by hand, and the falls from one forward pass per pixel and choice."""
    model, images = small_model(), torch.randn(1, 3, 48, 64)
    pixels = [(y, x) for y in (3, 20, 47) for x in (0, 21, 40)] * 2  # more than go in one batch
    hidden = hide(model, images, pixels, 3, by, how, seed=7)
    maps = attention_maps(model, images)
    weights = (
        attention_rollout(maps)[0]
        if by == "rollout"
        else torch.stack([maps[1], maps[2]]).mean((0, 2))[0, 1:, 1:]
    )
    before = hidden_logits(model, images, torch.empty(1, 0, dtype=torch.int64))[0]
    for i, (row, col) in enumerate(pixels):
        own = row // 16 * 4 + col // 16
        others = [n for n in range(12) if n != own]
        far = [math.dist(divmod(own, 4), divmod(n, 4)) for n in range(12)]
        near = sorted(others, key=far.__getitem__)
        most = sorted(others, key=(-weights[own]).tolist().__getitem__)
        assert hidden.patches["attended"][i].tolist() == most[:3]
        assert hidden.patches["nearest"][i].tolist() == near[:3]
        assert set(hidden.patches["random"][i].tolist()) < set(others)
        for choice, chosen in hidden.patches.items():
            after = hidden_logits(model, images, chosen[i : i + 1], how)[0, :, row, col]
            kind = before[:, row, col].argmax()
            fall = (before[:, row, col] - after)[kind]
            loss = (before[:, row, col].softmax(0) - after.softmax(0))[kind]
            torch.testing.assert_close(hidden.logit_fall[choice][i], fall, rtol=0, atol=1e-4)
            torch.testing.assert_close(hidden.probability_fall[choice][i], loss, rtol=0, atol=1e-5)
    again, anew = (hide(model, images, pixels, 3, seed=seed).patches["random"] for seed in (7, 8))
    assert torch.equal(again, hidden.patches["random"]) and not torch.equal(again, anew)
    assert len({tuple(chosen) for chosen in hidden.patches["random"].tolist()}) > 9


# ---- what comes in


LOOKS = {
    "maps": lambda model, images: attention_maps(model, images),
    "hide keys": lambda model, images: hidden_logits(model, images, torch.tensor([[0]])),
    "hide pixels": lambda model, images: hidden_logits(
        model, images, torch.tensor([[0]]), "pixels"
    ),
    "stages": forward_stages,
    "emergence": emergence,
    "probes": lambda model, images: probe_logits(
        Probes(torch.zeros(4, 8, 24), torch.zeros(4, 8)), model, images
    ),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_frozen_part_stays_frozen_when_the_network_is_looked_at(look):
    model = small_model().train()
    model.head.eval()
    model.encoder.blocks[1].eval()
    before = [module.training for module in model.modules()]
    LOOKS[look](model, torch.randn(1, 3, 48, 64))
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK"])
def test_any_image_becomes_a_tensor_and_its_grid(mode):
    image = Image.new(mode, (50, 30))
    model = small_model()
    images, grid = prepare(model, image)
    assert images.shape == (1, 3, 30, 50) and grid == (2, 4)
    images, grid = prepare(model, image, base=(100, 100))
    assert images.shape == (1, 3, 60, 100) and grid == (4, 7)
    assert attention_maps(model, images, [0])[0].shape[-1] == 29


def test_plain_attention_of_timm_is_refused():
    """Nothing would be seen, and nothing hidden."""
    encoder = TimmEncoder("test_vit", (48, 64)).eval()
    for block in encoder.backbone.blocks:
        block.attn.fused_attn = False
    images = torch.zeros(1, 3, 48, 64)
    with pytest.raises(ValueError, match="0 times in 6 blocks.*set_fused_attn"):
        attention_maps(encoder, images)
    with pytest.raises(ValueError, match="0 times in 6 blocks"):
        hide_keys(encoder, torch.ones(1, 13, dtype=torch.bool), lambda: encoder(images))


IMAGES = torch.zeros(1, 3, 48, 64)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m: attention_maps(fcn(), IMAGES), "FCN has no attention"),
        (lambda m: hide(fcn(), IMAGES, [(0, 0)], 1), "FCN has no attention"),
        (lambda m: attention_maps(m, IMAGES, [4]), r"\(4,\) of a 4-block .* 0 to 3, or -4 to -1"),
        (lambda m: attention_maps(m, IMAGES, [-5]), r"\(-5,\)"),
        (lambda m: attention_maps(m, IMAGES, []), r"\(\)"),
        (lambda m: attention_maps(m, IMAGES, heads="mena"), "mean"),
        (lambda m: attention_maps(m, IMAGES[0]), r"\(3, 48, 64\)"),
        (lambda m: attention_rows(m, IMAGES, 12), "patch 12 is outside the grid of 3x4"),
        (lambda m: attention_rows(m, IMAGES, -1), "patch -1 is outside"),
        (lambda m: attention_rows(m, IMAGES, (0, 4)), r"\(0, 4\) is outside"),
        (lambda m: attention_rows(m, IMAGES, 0, "form"), "did you mean from"),
        (lambda m: attention_rows(m, IMAGES, 0, part="class"), "patches, prefix"),
        (lambda m: attention_rows(m, torch.cat([IMAGES, IMAGES]), 0), "2 images"),
        (lambda m: attention_rollout([]), "no maps"),
        (lambda m: attention_rollout(random_maps(), discard=1), "discard 1"),
        (lambda m: attention_rollout(random_maps(), residual=-0.1), "residual is -0.1"),
        (lambda m: attention_rollout(random_maps(), heads="sum"), "'sum'.*mean"),
        (lambda m: attention_distance(random_maps(), (3, 4), 16), "7 tokens.*3x4 = 12"),
        (lambda m: attention_distance(attention_maps(m, IMAGES), (3, 3), 16), "13 tokens.*3x3"),
        (lambda m: attention_inside(random_maps(), torch.zeros(1, 7), "thing"), "'thing'"),
        (lambda m: hide(m, IMAGES, [(48, 0)], 1), r"pixel \(48, 0\) is outside .* 48x64"),
        (lambda m: hide(m, IMAGES, [(0, -1)], 1), r"pixel \(0, -1\)"),
        (lambda m: hide(m, IMAGES, [], 1), "no pixels"),
        (lambda m: hide(m, IMAGES, [(0, 0)], 12), "k is 12; of 12 patches 0 to 11"),
        (lambda m: hide(m, IMAGES, [(0, 0)], 1, by="attention"), "'rollout'"),
        (lambda m: hide(m, IMAGES, [(0, 0)], 1, how="colour"), "keys, pixels"),
        (lambda m: hidden_logits(m, IMAGES, torch.tensor([[12]])), "12 to 12; .* 3x4 has 0 to 11"),
        (lambda m: hidden_logits(m, IMAGES, torch.tensor([[-1]])), "-1 to -1"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(small_model())
