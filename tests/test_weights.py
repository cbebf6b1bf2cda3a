"""Other people's checkpoints: recognised by their keys, loaded whole or not at all."""

import dataclasses
import pickle
import re
import sys
import types

import numpy as np
import pytest
import timm
import torch
from conftest import small_config

import setr_lib
from setr_lib import SETR, config_from_checkpoint, load_weights
from setr_lib.weights.load import fit_positions, load_pretrained, save_checkpoint
from setr_lib.weights.patches import inflate, resample_patches


def random_model(decoder, graph="authors", **facts):
    """A model in which no tensor is 0 or 1 everywhere, so that no mix-up is hidden."""
    model = SETR(small_config(decoder, graph=graph, **facts)).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if "running_var" in name else (-0.3, 0.3)
            torch.nn.init.uniform_(tensor, low, high)
    return model


def conv_bn(ours, conv, bn):
    return {f"{ours}.conv": conv, f"{ours}.bn": bn}


def in_authors_names(model):
    """The state dict as the authors' code would have written it, dead layers included.

    Written out from the fact sheet's table, module by module, independently of the library's rules.
    """
    c, modules = model.config, {}
    encoder = {k: f"backbone.{k}" for k in ("cls_token", "pos_embed", "patch_embed.proj")}
    for i in range(c.depth):
        for part in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            encoder[f"blocks.{i}.{part}"] = f"backbone.blocks.{i}.{part}"
    modules.update({f"encoder.{ours}": theirs for ours, theirs in encoder.items()})
    if c.decoder == "mla":
        for i, p in enumerate((2, 3, 4, 5)):
            mla, head = f"backbone.mla.mla_p{p}", f"decode_head.mlahead.head{p}"
            modules[f"neck.norms.{i}"] = f"backbone.norm_{i}"
            modules |= conv_bn(f"neck.projections.{i}", f"{mla}_1x1.0", f"{mla}_1x1.1")
            modules |= conv_bn(f"neck.fusions.{i}", f"{mla}.0", f"{mla}.1")
            modules |= conv_bn(f"head.streams.{i}.0", f"{head}.0", f"{head}.1")
            modules |= conv_bn(f"head.streams.{i}.1", f"{head}.3", f"{head}.4")
            modules[f"aux_heads.{i}.classifier"] = f"auxiliary_head.{i}.aux"
        modules["head.classifier"] = "decode_head.cls"
    else:
        convs = {"naive": 1, "pup": 4}[c.decoder]
        modules |= {"head.norm": "decode_head.norm", "head.classifier": f"decode_head.conv_{convs}"}
        for i in range(convs):
            theirs = f"decode_head.conv_{i}", f"decode_head.syncbn_fc_{i}"
            modules |= conv_bn(f"head.convs.{i}", *theirs)
        for i in range(len(model.aux_heads)):
            theirs = f"auxiliary_head.{i}"
            modules[f"aux_heads.{i}.norm"] = f"{theirs}.norm"
            modules[f"aux_heads.{i}.classifier"] = f"{theirs}.conv_1"
            modules |= conv_bn(
                f"aux_heads.{i}.convs.0", f"{theirs}.conv_0", f"{theirs}.syncbn_fc_0"
            )
    state = renamed(model, modules)
    for head in ("decode_head", *(f"auxiliary_head.{i}" for i in range(len(model.aux_heads)))):
        state[f"{head}.conv_seg.weight"] = torch.randn(c.num_classes, 512, 1, 1)
        state[f"{head}.conv_seg.bias"] = torch.randn(c.num_classes)
    return state


def in_mmseg_names(model):
    """The same for mmsegmentation."""
    c = model.config
    modules = {
        "encoder.cls_token": "backbone.cls_token",
        "encoder.pos_embed": "backbone.pos_embed",
        "encoder.patch_embed.proj": "backbone.patch_embed.projection",
        "head.classifier": "decode_head.conv_seg",
    }
    for i in range(c.depth):
        for ours, theirs in {
            "norm1": "ln1", "norm2": "ln2", "attn.qkv": "attn.attn.in_proj",
            "attn.proj": "attn.attn.out_proj",
            "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1",
        }.items():  # fmt: skip
            modules[f"encoder.blocks.{i}.{ours}"] = f"backbone.layers.{i}.{theirs}"
    if c.decoder == "mla":
        for i, j in zip(range(4), (3, 2, 1, 0)):
            modules[f"neck.norms.{i}"] = f"neck.norm.{i}"
            modules[f"neck.projections.{i}"] = f"neck.mla.channel_proj.{i}"
            modules[f"neck.fusions.{i}"] = f"neck.mla.feat_extract.{j}"
            for k in (0, 1):
                modules[f"head.streams.{i}.{k}"] = f"decode_head.up_convs.{j}.{k}"
            modules[f"aux_heads.{i}.classifier"] = f"auxiliary_head.{i}.conv_seg"
    else:
        modules["head.norm"] = "decode_head.norm"
        for i in range(len(model.head.convs)):
            modules[f"head.convs.{i}"] = f"decode_head.up_convs.{i}.0"
        for i, aux in enumerate(model.aux_heads):
            modules[f"aux_heads.{i}.norm"] = f"auxiliary_head.{i}.norm"
            modules[f"aux_heads.{i}.classifier"] = f"auxiliary_head.{i}.conv_seg"
            for j in range(len(aux.convs)):
                modules[f"aux_heads.{i}.convs.{j}"] = f"auxiliary_head.{i}.up_convs.{j}.0"
    state = renamed(model, modules)
    return {k.replace("in_proj.", "in_proj_"): v for k, v in state.items()}


def renamed(model, modules):
    state = {}
    for name, tensor in model.state_dict().items():
        prefix = max((m for m in modules if name == m or name.startswith(f"{m}.")), key=len)
        state[modules[prefix] + name[len(prefix) :]] = tensor.clone()
    assert len(state) == len(model.state_dict())
    return state


OTHERS = [(d, g) for d in ("naive", "pup", "mla") for g in ("authors", "mmseg")]


@pytest.mark.parametrize("container", ["plain", "state_dict", "module", "file"])
@pytest.mark.parametrize("decoder, graph", OTHERS)
def test_other_peoples_files_give_their_network(tmp_path, decoder, graph, container):
    """Configuration and every head's scores come back from foreign keys alone."""
    theirs = random_model(decoder, graph, patch_bias=graph == "authors")
    state = (in_authors_names if graph == "authors" else in_mmseg_names)(theirs)
    source = state
    if container == "state_dict":
        source = {"state_dict": state, "meta": {"epoch": 1}}
    if container == "module":
        source = {"model": {f"module.{name}": tensor for name, tensor in state.items()}}
    if container == "file":
        source = tmp_path / "theirs.pth"
        torch.save({"state_dict": state, "meta": {"CLASSES": ("a", "b")}}, source)
    config = config_from_checkpoint(source, heads=3, layers=(0, 1, 2, 3), image_size=(48, 64))
    assert config == theirs.config
    ours = SETR(config).eval()
    report = load_weights(ours, source)
    assert (
        report.format == graph
        and not report.fresh
        and len(report.loaded) == len(theirs.state_dict())
    )
    for size in [(48, 64), (40, 70)]:
        images = torch.randn(1, 3, *size)
        one, two = ours.head_logits(images), theirs.head_logits(images)
        assert torch.equal(one["main"], two["main"])
        assert all(torch.equal(a, b) for a, b in zip(one["aux"], two["aux"], strict=True))


def test_dead_layers_are_left_out_and_named():
    model = random_model("pup")
    report = load_weights(SETR(model.config), in_authors_names(model))
    assert "decode_head.conv_seg.weight" in report.left_out and len(report.left_out) == 10
    assert "left out (SETR does not use it)" in str(report)


@pytest.mark.parametrize("aux_convs", [1, 2])
def test_mmsegs_two_configurations_of_naive(aux_convs):
    """ADE20K has two convolutions in an auxiliary head, Cityscapes one."""
    theirs = random_model("naive", "mmseg", aux_convs=aux_convs)
    config = config_from_checkpoint(
        in_mmseg_names(theirs), heads=3, layers=(0, 1, 2, 3), image_size=(48, 64)
    )
    assert config == dataclasses.replace(theirs.config, aux_convs={1: 1, 2: 0}[aux_convs])


def test_a_missing_patch_bias_is_zero():
    """mmsegmentation >= 1.2 trains without it; a model that has one gets zeros, and says so."""
    theirs = random_model("naive", "mmseg", patch_bias=False)
    ours = SETR(small_config("naive", graph="mmseg")).eval()
    report = load_weights(ours, in_mmseg_names(theirs))
    assert "zero" in report.resized["encoder.patch_embed.proj.bias"]
    images = torch.randn(1, 3, 48, 64)
    assert torch.equal(ours(images), theirs(images))


def test_only_mmsegmentation_may_lack_the_patch_bias():
    """In the authors' format a missing bias is a damaged file, not a zero."""
    state = in_authors_names(random_model("naive"))
    del state["backbone.patch_embed.proj.bias"]
    with pytest.raises(ValueError, match=r"Missing: encoder.patch_embed.proj.bias"):
        load_weights(random_model("naive"), state)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
@pytest.mark.parametrize("classes", [0, 1000])
def test_timm_weights_fill_the_encoder(name, classes):
    """With and without classifier, plain and distilled, onto a rectangular grid."""
    theirs = timm.create_model(name, num_classes=classes)
    model = setr_lib.create_model("setr_pup_tiny", 5, (160, 96))
    before = model.head.classifier.weight.clone()
    report = load_weights(model, theirs.state_dict())
    assert report.format == "timm"
    assert "14x14 resized to 10x6" in report.resized["encoder.pos_embed"]
    assert ("distillation" in report.resized["encoder.pos_embed"]) == ("distilled" in name)
    assert torch.equal(model.head.classifier.weight, before)
    assert report.fresh and all(n.startswith(("head.", "aux_heads.")) for n in report.fresh)
    # Against an independent resampling of timm's own table.
    table = theirs.pos_embed.detach()
    grid = table[:, -196:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, (10, 6), mode="bilinear").flatten(2).mT
    found = model.encoder.pos_embed
    torch.testing.assert_close(found[:, 1:], wanted)
    assert torch.equal(found[:, 0], table[:, 0])


def test_a_safetensors_file_of_timm_is_read(tmp_path):
    from safetensors.torch import save_file

    theirs = timm.create_model("vit_tiny_patch16_224").state_dict()
    save_file(theirs, tmp_path / "vit.safetensors")
    model = setr_lib.create_model("setr_naive_tiny", 5, 224)
    assert load_weights(model, tmp_path / "vit.safetensors").format == "timm"
    assert torch.equal(model.encoder.pos_embed, theirs["pos_embed"])


def test_own_files_know_their_configuration(tmp_path):
    model = random_model("mla", "mmseg", patch_bias=False)
    save_checkpoint(model, tmp_path / "own.safetensors")
    assert config_from_checkpoint(tmp_path / "own.safetensors") == model.config
    other = SETR(small_config("mla", graph="mmseg", patch_bias=False, image_size=(64, 64))).eval()
    report = load_weights(other, tmp_path / "own.safetensors")
    assert report.resized == {"encoder.pos_embed": "3x4 resized to 4x4"}


def test_channels_are_inflated():
    """A grey image through the inflated embedding = the same image in three equal channels."""
    theirs = timm.create_model("vit_tiny_patch16_224").state_dict()
    grey = SETR(setr_lib.SETRConfig("naive", 5, (32, 32), 192, 12, 3, in_chans=1)).eval()
    load_weights(grey, theirs)
    rgb = setr_lib.create_model("setr_naive_tiny", 5, 32).eval()
    load_weights(rgb, theirs)
    image = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(
        grey.encoder(image), rgb.encoder(image.expand(1, 3, 32, 32)), rtol=1e-4, atol=1e-4
    )
    weight = torch.randn(4, 3, 2, 2)
    assert inflate(weight, 6).sum(1).allclose(weight.sum(1))
    assert inflate(weight, 4)[:, 3].equal(weight[:, 0] * 0.75)


@pytest.mark.parametrize("new", [8, 12, 14, 24])
def test_patches_are_resampled_as_timm_does(new):
    """FlexiViT's pseudo-inverse; a larger patch gives the tokens of the smaller one exactly."""
    from timm.layers import resample_patch_embed

    weight = torch.randn(5, 3, 16, 16)
    found = resample_patches(weight, (new, new))
    torch.testing.assert_close(
        found, resample_patch_embed(weight, [new, new]), rtol=1e-3, atol=1e-4
    )
    if new > 16:
        patch = torch.randn(1, 3, 16, 16, dtype=torch.float64)
        larger = torch.nn.functional.interpolate(patch, (new, new), mode="bicubic", antialias=True)
        tokens = [(w.double() * p).sum((1, 2, 3)) for w, p in ((weight, patch), (found, larger))]
        torch.testing.assert_close(tokens[0], tokens[1], rtol=1e-4, atol=1e-4)


STARTS = {  # what everybody with the hub can start from, and the network that takes it
    "deit_tiny_patch16_224.fb_in1k": "tiny",
    "deit_tiny_distilled_patch16_224.fb_in1k": "tiny",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": "tiny",
    "vit_small_patch16_224.augreg_in21k_ft_in1k": "small",
    "vit_small_patch16_224.dino": "small",
}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("patch, size", [(16, (368, 480)), (12, (180, 240)), (8, (360, 480))])
def test_starts_of_the_hub_fit_networks_with_other_patches(monkeypatch, name, patch, size):
    """By `pretrained=NAME`, with random weights in the place of those that are fetched."""
    theirs = timm.create_model(name, num_classes=0)
    assert timm.models.get_pretrained_cfg(name) is not None, "timm offers weights of this name"
    monkeypatch.setattr(timm, "create_model", lambda *words, **facts: theirs)
    config = dataclasses.replace(
        setr_lib.zoo.model_config(f"setr_pup_{STARTS[name]}", 11, size), patch_size=patch
    )
    model = SETR(config)
    report = load_pretrained(model, name)
    resampled = report.resized.get("encoder.patch_embed.proj.weight")
    words = f"patches of 16x16 resampled to {patch}x{patch}"
    assert resampled == (None if patch == 16 else words)
    grid = (size[0] // patch, size[1] // patch)
    assert f"14x14 resized to {grid[0]}x{grid[1]}" in report.resized["encoder.pos_embed"]
    block = model.encoder.blocks[3].attn.qkv.weight
    assert torch.equal(block, theirs.blocks[3].attn.qkv.weight)


def test_a_whole_network_with_other_patches_is_refused():
    """Only an encoder alone is resampled: a network that was trained to segment is another one."""
    theirs = random_model("naive")
    ours = SETR(dataclasses.replace(theirs.config, patch_size=12))
    with pytest.raises(ValueError, match=r"patch_embed.* is 24x3x16x16, the model's 24x3x12x12"):
        load_weights(ours, in_authors_names(theirs))


def test_dinov2_is_taken_as_a_backbone():
    """Its LayerScale is a layer that SETR's encoder lacks: the message says so, timm's encoder
    takes it."""
    theirs = timm.create_model("vit_small_patch14_dinov2", img_size=28)
    model = setr_lib.create_model("setr_naive_small", 3, 28, patch_size=14)
    with pytest.raises(ValueError, match="layers that SETR does not have, such as blocks.0.ls1"):
        load_weights(model, theirs.state_dict())
    with torch.device("meta"):
        model = setr_lib.create_model(
            "setr_naive_small", 3, (180, 240), backbone="vit_small_patch14_dinov2"
        )
    assert model.config.patch_size == 14 and model.encoder.width == 384


def test_strict_head():
    """Another number of classes is an error, or a fresh classifier if that is asked for."""
    theirs = random_model("naive")
    ours = SETR(small_config(num_classes=3))
    with pytest.raises(ValueError, match=r"classifier.* 8x16x1x1.* 3x16x1x1.*strict_head=False"):
        load_weights(ours, in_authors_names(theirs))
    before = ours.head.classifier.weight.clone()
    report = load_weights(ours, in_authors_names(theirs), strict_head=False)
    assert {n.split(".")[-2] for n in report.fresh} == {"classifier"}
    assert torch.equal(ours.head.classifier.weight, before)
    assert torch.equal(ours.head.norm.weight, theirs.head.norm.weight)


def half(state):
    return {key: state[key] for key in [*list(state)[::2], "backbone.blocks.0.norm1.weight"]}


@pytest.mark.parametrize(
    "damage, words",
    [
        (half, "does not fit the model; nothing was loaded. Missing: "),
        (lambda s: {"weight": torch.zeros(2)}, "no weights of a SETR or a ViT.*: weight. Known"),
        (lambda s: {**s, "backbone.blocks.0.ls1.gamma": torch.zeros(24)}, "ls1.gamma.*another net"),
        (lambda s: in_authors_names(random_model("pup")), "has no place in the model"),
        (lambda s: in_authors_names(random_model("naive", width=48)), "24.*48|48.*24"),
    ],
)
def test_a_wrong_file_leaves_the_model_as_it_was(damage, words):
    model = random_model("naive")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_weights(model, damage(in_authors_names(random_model("naive"))))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_damaged_files_are_named(tmp_path):
    model = random_model("naive")
    torch.save(in_authors_names(model), tmp_path / "a.pth")
    save_checkpoint(model, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        file = tmp_path / name
        file.write_bytes(file.read_bytes()[:-2000])
        with pytest.raises(ValueError, match=f"{re.escape(name)} is damaged"):
            load_weights(model, file)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*b\.pth"):
        load_weights(model, tmp_path / "b.pth")


def test_training_logs_in_a_file_are_passed_over(tmp_path, monkeypatch):
    """mmengine's checkpoints carry its log buffers and numpy numbers; they are not read."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self.values = np.arange(3.0)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = random_model("naive", "mmseg")
    log = {"loss": HistoryBuffer(), "iter": np.int64(7), "rates": np.ones(2)}
    content = {"state_dict": in_mmseg_names(model), "message_hub": log}
    torch.save(content, tmp_path / "theirs.pth")
    ours = SETR(model.config).eval()
    load_weights(ours, tmp_path / "theirs.pth")
    images = torch.randn(1, 3, 48, 64)
    assert torch.equal(ours(images), model(images))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_file_is_never_run(tmp_path, form):
    """A file that would create another file on loading is refused, and creates nothing."""
    model, trap = random_model("naive"), tmp_path / "trap"
    content = {"state_dict": in_authors_names(model), "extra": Evil(trap)}
    file = tmp_path / "evil.pth"
    torch.save(content, file) if form == "torch" else file.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"evil.pth (holds more than tensors|is damaged)"):
        load_weights(model, file)
    assert not trap.exists()


def places(rows, cols):
    """A table in which every slot holds its own row and column, as the class token holds -9."""
    y, x = torch.meshgrid(torch.arange(rows) * 1.0, torch.arange(cols) * 1.0, indexing="ij")
    return torch.cat([torch.full((1, 1, 2), -9.0), torch.stack([y, x], -1).view(1, -1, 2)], dim=1)


@pytest.mark.parametrize(
    "side, grid", [(24, (18, 32)), (24, (12, 48)), (24, (36, 16)), (14, (7, 28)), (32, (16, 64))]
)
def test_a_square_table_is_resized_although_the_counts_agree(side, grid):
    """24 x 24 = 18 x 32: the slots are as many, their places are not."""
    table, done = fit_positions(places(side, side), grid)
    assert done == f"{side}x{side} resized to {grid[0]}x{grid[1]}"
    found = table[0, 1:].view(*grid, 2)
    wanted = torch.linspace(0.5 * side / grid[1], side - 0.5 * side / grid[1], grid[1]) - 0.5
    torch.testing.assert_close(found[grid[0] // 2, :, 1], wanted.clamp(0, side - 1))


def test_tables_of_known_grids_are_taken_for_what_they_are(tmp_path):
    """Our file knows its grid, a state dict's is the model's, others' square unless it is said."""
    wide = random_model("naive", image_size=(32, 128))  # 2 x 8 patches = 4 x 4
    square = SETR(small_config(image_size=(64, 64)))
    save_checkpoint(wide, tmp_path / "wide.safetensors")
    report = load_weights(square, tmp_path / "wide.safetensors")
    assert report.resized == {"encoder.pos_embed": "2x8 resized to 4x4"}
    twin = SETR(wide.config)
    assert "taken as 2x8" in str(load_weights(twin, wide.state_dict()))
    assert torch.equal(twin.encoder.pos_embed, wide.encoder.pos_embed)
    theirs = in_authors_names(wide)
    report = load_weights(twin, theirs)
    assert "4x4 resized to 2x8 (a table of 2x8 already? Say table_size=(32, 128))" in str(report)
    report = load_weights(twin, theirs, table_size=(32, 128))
    assert not report.resized and torch.equal(twin.encoder.pos_embed, wide.encoder.pos_embed)
    report = load_weights(square, theirs, table_size=(32, 128))
    assert report.resized == {"encoder.pos_embed": "2x8 resized to 4x4"}
    with pytest.raises(ValueError, match="17 slots; 3x8 patches and a class token need 25"):
        load_weights(square, theirs, table_size=(48, 128))


@pytest.mark.parametrize("size", [(48, 64), (32, 80), (48, 80), (16, 96)])
def test_a_network_read_off_a_file_takes_its_table_as_it_is(size):
    """Grids that no square resembles, 2 x 5 (= 9 + 1) and 3 x 5 (+ 1 = 16) among them."""
    theirs = random_model("pup", image_size=size)
    state = in_authors_names(theirs)
    ours = SETR(config_from_checkpoint(state, heads=3, layers=(0, 1, 2, 3), image_size=size))
    report = load_weights(ours, state)
    assert not report.resized and "is taken as" in str(report)
    assert torch.equal(ours.encoder.pos_embed, theirs.encoder.pos_embed)


def test_the_table_of_a_timm_backbone_is_resized_too(tmp_path):
    """Its own slots before the grid stay; 1 x 4 = 2 x 2 patches."""
    make = {"num_classes": 5, "backbone": "deit_tiny_distilled_patch16_224"}
    wide = setr_lib.create_model("setr_naive_tiny", image_size=(16, 64), **make)
    save_checkpoint(wide, tmp_path / "wide.safetensors")
    square = setr_lib.create_model("setr_naive_tiny", image_size=32, **make)
    report = load_weights(square, tmp_path / "wide.safetensors")
    assert report.resized == {"encoder.backbone.pos_embed": "1x4 resized to 2x2"}
    old, new = wide.encoder.backbone.pos_embed, square.encoder.backbone.pos_embed
    assert torch.equal(new[:, :2], old[:, :2]) and not torch.equal(new[:, 2:], old[:, 2:])


def test_positions_of_unknown_shape_are_named():
    with pytest.raises(ValueError, match="table of 13 slots fits no square grid"):
        fit_positions(torch.zeros(1, 13, 4), (2, 2))
    vit = timm.create_model("vit_tiny_patch16_224").state_dict()
    model = setr_lib.create_model("setr_naive_tiny", 5, 64)
    with pytest.raises(ValueError, match="196 slots.*without the class token's"):
        load_weights(model, {**vit, "pos_embed": vit["pos_embed"][:, 1:]})
    with pytest.raises(ValueError, match=r"no class token beside it.*backbone="):
        load_weights(model, {k: v for k, v in vit.items() if k != "cls_token"})


def test_defaults_that_no_shape_shows_are_asked_for():
    state = in_authors_names(random_model("naive", image_size=(48, 48)))
    with pytest.raises(ValueError, match="no published layers for 'naive' with 4 blocks"):
        config_from_checkpoint(state, heads=3)
    with pytest.raises(ValueError, match="width 24 is no multiple of 64"):
        config_from_checkpoint(state, layers=(0, 1, 2, 3))
    with pytest.raises(ValueError, match="encoder without a decoder"):
        config_from_checkpoint(timm.create_model("vit_tiny_patch16_224").state_dict())


def test_own_files_of_a_timm_backbone_are_recognised(tmp_path):
    """`load_weights` fills a model from the file that `save_checkpoint` wrote."""
    make = {"num_classes": 5, "image_size": 56, "backbone": "vit_tiny_patch16_224"}
    theirs = setr_lib.create_model("setr_naive_tiny", **make).eval()
    save_checkpoint(theirs, tmp_path / "own.safetensors")
    ours = setr_lib.create_model("setr_naive_tiny", **make).eval()
    report = load_weights(ours, tmp_path / "own.safetensors")
    assert report.format == "setr_lib" and not report.fresh
    images = torch.randn(1, 3, 56, 56)
    assert torch.equal(ours(images), theirs(images))
