"""Starting from what exists: encoders of timm's hub by one flag, frozen ones, linear probing."""

import dataclasses
import json

import pytest
import timm
import torch
from conftest import small_config
from own_folder import make_folder

import setr_lib
from setr_lib import SETR
from setr_lib.__main__ import main
from setr_lib.baselines.variants import LinearHead
from setr_lib.decoders import to_map
from setr_lib.losses.strips import resize_matrix
from setr_lib.model import DECODERS
from setr_lib.training import record
from setr_lib.training.optim import freeze, make_optimizer, parameter_groups
from setr_lib.weights.load import load_pretrained
from setr_lib.zoo import with_encoder

BATCH = torch.randn(2, 3, 48, 64), torch.randint(0, 8, (2, 48, 64))


def a_network(recipe, decoder: str = "naive", **facts) -> SETR:
    """As a run makes it."""
    return freeze(SETR(small_config(decoder, **facts)), recipe)


@pytest.fixture
def frozen(small_recipe):
    return dataclasses.replace(small_recipe, freeze="encoder")


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_frozen_encoder_is_left_alone(frozen, decoder):
    """No number of it moves, the heads' and MLA's neck do; the optimiser has these alone."""
    model = a_network(frozen, decoder)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    optimizer = make_optimizer(model, frozen)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    encoder = {id(p) for p in model.encoder.parameters()}
    assert held == {id(p) for p in model.parameters()} - encoder
    model.loss(*BATCH).backward()
    optimizer.step()
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved and not any(name.startswith("encoder.") for name in moved)
    assert {"head", "aux_heads"} <= {name.split(".")[0] for name in moved}
    assert ("neck" in {name.split(".")[0] for name in moved}) == (decoder == "mla")


def test_a_frozen_encoder_keeps_nothing_for_the_backward_pass(frozen, small_recipe):
    """Less than a fifth of the bytes that all blocks together keep."""

    def kept(model) -> int:
        seen: dict[int, int] = {}

        def note(t):
            seen[t.data_ptr()] = t.nbytes
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            loss = model.loss(*BATCH)
        weights = {p.data_ptr() for p in model.parameters()}
        del loss
        return sum(size for place, size in seen.items() if place not in weights)

    facts = {"linear": True, "aux": False}
    whole, probe = (kept(a_network(recipe, **facts)) for recipe in (small_recipe, frozen))
    assert probe < whole / 5


def test_batch_norm_of_a_frozen_encoder_keeps_its_means(frozen):
    """It is in evaluation mode while the heads train; also after an evaluation between."""
    model = freeze(setr_lib.create_model("fcn_resnet50", 3, aux=False), frozen)
    assert not model.encoder.training and model.head.training
    means = {n: t.clone() for n, t in model.encoder.named_buffers()}
    model.loss(torch.randn(2, 3, 33, 40), torch.randint(0, 3, (2, 33, 40)))
    assert all(torch.equal(t, means[n]) for n, t in model.encoder.named_buffers())
    with setr_lib.inference.evaluating(model):
        pass
    assert not model.encoder.training and model.head.training


@torch.no_grad()
def test_a_linear_head_is_one_matrix():
    """Logits = W norm(token) + b, then the last resize."""
    model = SETR(small_config(linear=True, aux=False)).eval()
    assert isinstance(model.head, LinearHead)
    images = torch.randn(1, 3, 48, 64)
    head = model.head
    normed = head.norm(model.encoder(images))
    logits = normed @ head.classifier.weight.flatten(1).T + head.classifier.bias
    small = to_map(logits, (3, 4))
    rows, cols = (resize_matrix((n, 16 * n)) for n in (3, 4))
    torch.testing.assert_close(model(images), rows @ small @ cols.T, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="linear is True with the decoder 'pup'"):
        small_config("pup", linear=True)


def test_a_start_and_a_frozen_encoder_exclude_each_other(frozen):
    with pytest.raises(ValueError, match="freeze is 'encoder' with the start 'leaves'"):
        dataclasses.replace(frozen, start="leaves", start_steps=5)
    with pytest.raises(ValueError, match="freeze is 'heads'; choose 'none' or 'encoder'"):
        dataclasses.replace(frozen, freeze="heads")


HUB = {  # -> whether our encoder takes its weights; width, depth, heads, patch
    "vit_small_patch16_224.augreg_in21k": (True, 384, 12, 6, 12),
    "deit_base_distilled_patch16_384.fb_in1k": (True, 768, 12, 12, 12),
    "vit_small_patch14_dinov2.lvd142m": (False, 384, 12, 1, 14),
    "vit_small_patch16_dinov3.lvd1689m": (False, 384, 12, 1, 16),
}


@pytest.mark.parametrize("name", HUB)
def test_an_encoder_of_the_hub_brings_its_shape(name):
    """A plain ViT becomes ours, with the patches that were asked for; another stays timm's."""
    assert timm.models.get_pretrained_cfg(name) is not None, "timm offers weights of this name"
    config = setr_lib.zoo.model_config("setr_naive_tiny", 5, (180, 240))
    found = with_encoder(dataclasses.replace(config, patch_size=12), name)
    ours, *sizes = HUB[name]
    assert (found.backbone == "vit") == ours and found.backbone in ("vit", name)
    assert [found.width, found.depth, found.heads, found.patch_size] == sizes
    assert (found.num_classes, found.image_size, found.decoder) == (5, (180, 240), "naive")
    assert with_encoder(found, name) == found


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2"])
def test_linear_probing_by_two_flags(tmp_path, monkeypatch, capsys, name):
    """From a folder: --pretrained and --freeze, stopped and resumed; the encoder is the hub's."""
    create = timm.create_model
    make_folder(tmp_path / "mine")

    def hub(asked, pretrained=False, **facts):
        with torch.random.fork_rng():  # what is fetched is the same every time
            torch.manual_seed(7)
            return create(asked, **facts)

    monkeypatch.setattr(timm, "create_model", hub)
    words = ["train", "--data", f"folder:{tmp_path / 'mine'}", "--out", str(tmp_path / "run")]
    words += ["--pretrained", name, "--freeze", "encoder", "--total-steps", "2", "--batch", "2"]
    words += ["--device", "cpu", "--quiet"]
    assert main([*words, "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert f"from {name}, which stays as it is: only the head learns" in said
    assert main([*words, "--resume"]) == 0
    found = json.loads((tmp_path / "run" / "record.json").read_text())
    config = found["recipe"]["config"]
    assert found["step"] == 2 and found["recipe"]["freeze"] == "encoder"
    assert config["linear"] and not config["aux"]
    width = config["width"]
    assert found["trained_parameters"] == 2 * width + 3 * width + 3 < found["parameters"]
    model, _ = setr_lib.load_checkpoint(tmp_path / "run" / "last.safetensors")
    fresh = SETR(model.config)
    load_pretrained(fresh, name)
    kept = model.encoder.state_dict()
    assert all(torch.equal(t, kept[n]) for n, t in fresh.encoder.state_dict().items())


def test_a_recipe_by_name_takes_an_encoder_of_another_shape(frozen, tmp_path, capsys):
    """The decoder stays; what is no model is said before any work."""
    from setr_lib.training.own import prepare

    options = setr_lib.training.devices.RunOptions(device="cpu")
    facts = {"pretrained": "deit_small_patch16_224"}
    made, _ = prepare("shapes_pup_tiny", None, None, None, options, facts)
    assert (made.config.width, made.config.decoder) == (384, "pup")
    assert main(["train", "shapes_pup_tiny", "--pretrained", "deit_smal_patch16_224",
                 "--out", str(tmp_path / "run")]) == 2  # fmt: skip
    assert "did you mean deit_small_patch16_224" in capsys.readouterr().err


def test_frozen_groups_are_shown(frozen):
    """The table of what moves how fast has no encoder."""
    names = [g["name"] for g in parameter_groups(a_network(frozen, "mla"), frozen)]
    assert {name.split(",")[0] for name in names} == {"heads", "neck"}


def test_channels_that_no_picture_has_are_refused_before_the_run(small_recipe):
    """A network of four channels takes tensors, not files."""
    recipe = dataclasses.replace(small_recipe, config=small_config(in_chans=4))
    data = setr_lib.load_dataset("shapes", "val")
    with pytest.raises(ValueError, match="reads 4 channels; pictures are read as red, green"):
        record.check_data(recipe, data)
    model = SETR(recipe.config)
    assert model.loss(torch.randn(1, 4, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)) > 0
