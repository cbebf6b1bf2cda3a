"""Variants that the paper does not have: a stem of convolutions, near attention, cheaper PUP."""

import pytest
import torch
from conftest import small_config

from setr_lib import SETR, Encoder, load_checkpoint, save_checkpoint
from setr_lib.baselines.fcn import FCN, FCNConfig
from setr_lib.baselines.variants import near
from setr_lib.training.average import MovingAverage
from setr_lib.training.checkpoint import has_state
from setr_lib.training.loop import train
from setr_lib.training.recipe import Recipe, replace


def test_who_sees_whom_is_the_distance_of_a_king():
    """Against a loop over all pairs; the class token sees all and is seen by none but itself."""
    rows, cols, radius = 4, 5, 2
    seen = near((rows, cols), radius, 1, torch.device("cpu"))
    for i in range(rows * cols):
        for j in range(rows * cols):
            apart = max(abs(i // cols - j // cols), abs(i % cols - j % cols))
            assert seen[1 + i, 1 + j] == (apart <= radius)
    assert seen[0].all() and not seen[1:, 0].any()


@pytest.mark.parametrize("decoder", ["naive", "mla"])
def test_news_travel_one_radius_a_block(decoder):
    """A pixel of the first patch reaches what is 4 blocks of radius 1 away, and nothing beyond."""
    model = SETR(small_config(decoder, image_size=(32, 160), attention_radius=1)).eval()
    images = torch.zeros(1, 3, 32, 160)
    other = images.clone()
    other[..., 0, 0] = 5
    with torch.no_grad():
        moved = (model.encoder(images) - model.encoder(other)).abs().amax(-1).view(2, 10).amax(0)
    assert (moved[:5] > 0).all() and (moved[5:] == 0).all()


def test_a_radius_beyond_the_image_is_whole_attention():
    """Without a class token, which no patch sees under a radius."""
    torch.manual_seed(3)
    whole = SETR(small_config("mla")).eval()
    wide = SETR(small_config("mla", attention_radius=9)).eval()
    wide.load_state_dict(whole.state_dict())
    images = torch.randn(2, 3, 48, 64)
    torch.testing.assert_close(wide(images), whole(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("patch", [8, 16])
def test_a_stem_of_convolutions_gives_the_same_grid(patch, tmp_path):
    config = small_config("pup", patch_size=patch, stem="conv", attention_radius=2, pup_steps=2)
    model = SETR(config).eval()
    assert len(model.encoder.patch_embed.convs) == {8: 3, 16: 4}[patch]
    images = torch.randn(2, 3, 41, 64)
    grid = -(-41 // patch) * -(-64 // patch)
    assert model.encoder(images).shape == (2, grid, 24)
    assert model(images).shape == (2, 8, 41, 64)
    model.loss(images, torch.zeros(2, 41, 64, dtype=torch.int64)).backward()
    save_checkpoint(model, tmp_path / "x.safetensors")
    again, _ = load_checkpoint(tmp_path / "x.safetensors")
    assert again.config == config and torch.equal(again(images), model(images))


def test_pup_in_two_steps_has_two_convolutions_and_the_same_size():
    for graph in ("authors", "mmseg"):
        two, four = (SETR(small_config("pup", graph=graph, pup_steps=n)) for n in (2, 0))
        assert (len(two.head.convs), len(four.head.convs)) == (2, 4)
        images = torch.randn(1, 3, 48, 64)
        assert two.eval()(images).shape == four.eval()(images).shape
        steps = 1
        for factor in two.head.factors:
            steps *= factor
        assert steps == {"authors": 4, "mmseg": 16}[graph]  # the authors' last one leads to pixels


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"stem": "resnet"}, "stem is 'resnet'; choose 'patch' or 'conv'"),
        ({"stem": "conv", "patch_size": 12}, "patch_size is 12; stem='conv' halves"),
        ({"attention_radius": -1}, "attention_radius is -1"),
        ({"pup_steps": 3}, "pup_steps is 3 with the decoder 'pup'"),
        ({"pup_steps": 2, "decoder": "naive"}, "pup_steps is 2 with the decoder 'naive'"),
        ({"stem": "conv", "backbone": "hybrid"}, "for our own encoder, backbone='vit'"),
    ],
)
def test_variants_that_cannot_be_are_named(facts, words):
    with pytest.raises(ValueError, match=words):
        small_config(**{"decoder": "pup", **facts})


def test_without_a_variant_the_encoder_is_the_papers():
    assert type(SETR(small_config()).encoder) is Encoder


def test_a_narrow_fcn_is_a_file_like_any_other(tmp_path):
    model = FCN(FCNConfig(18, 5, width=8, channels=16)).eval()
    save_checkpoint(model, tmp_path / "fcn.safetensors")
    again, _ = load_checkpoint(tmp_path / "fcn.safetensors")
    images = torch.randn(1, 3, 40, 56)
    assert again.config == model.config and torch.equal(again(images), model(images))
    with pytest.raises(ValueError, match="width is 32 with depth 50"):
        FCNConfig(50, 5, width=32)


# ---- the moving average


def test_the_average_is_the_sum_by_hand_and_leaves_the_network_alone():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average = MovingAverage(network, 0.6)
    expected = network[0].weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            network[0].weight += torch.randn(2, 3)
        network[1].running_mean += 1
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network[0].weight.detach()
    own = {name: t.clone() for name, t in network.state_dict().items()}
    with average.shown():
        torch.testing.assert_close(network[0].weight.detach(), expected)
        assert 20 < network[1].running_mean[0] < 29
    assert all(torch.equal(t, own[name]) for name, t in network.state_dict().items())


def test_a_stopped_run_with_an_average_ends_like_one_that_was_not(small_recipe, tmp_path):
    """Also the weights it keeps, which are the average's and not those that train."""
    recipe = replace(small_recipe, ema=0.9)
    train(recipe, tmp_path / "a", steps=7, progress=False)
    assert has_state(tmp_path / "a" / "state")
    one = train(recipe, tmp_path / "a", resume=True, progress=False)
    two = train(recipe, tmp_path / "b", progress=False)
    kept, again = (load_checkpoint(tmp_path / run / "last.safetensors")[0] for run in "ba")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in kept.state_dict().items())
    assert one["last"]["counts"] == two["last"]["counts"]
    state = torch.load(tmp_path / "b" / "state" / "last.pt", weights_only=True)
    name = "encoder.blocks.0.mlp.fc1.weight"
    assert not torch.equal(kept.state_dict()[name], state["model"][name])


def test_recipes_of_before_have_no_average_and_a_random_start(small_recipe):
    facts = small_recipe.to_dict()
    for name in ("ema", "start", "start_steps"):
        del facts[name]
    for name in ("stem", "attention_radius", "pup_steps"):
        del facts["config"][name]
    assert Recipe.from_dict(facts) == small_recipe
