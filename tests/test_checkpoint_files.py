"""Any file: read exactly, or refused by name, in no time and without running anything in it."""

import argparse
import collections
import dataclasses
import datetime
import json
import pathlib
import random
import re
import types
import warnings
import zipfile

import numpy as np
import pytest
import timm
import torch
from conftest import small_config
from safetensors.torch import save_file
from test_weights import in_authors_names, random_model

import setr_lib
from setr_lib import SETR, TestProtocol, config_from_checkpoint, load_checkpoint, load_weights
from setr_lib.weights.load import save_checkpoint
from setr_lib.weights.tensors import read_tensors

VIT = {"img_size": (48, 64), "embed_dim": 24, "depth": 4, "num_heads": 3}


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    model = timm.models.vision_transformer.VisionTransformer(**VIT, num_classes=7)
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor, std=0.2)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def encoder_equals(model, vit):
    """Every tensor of the encoder is timm's."""
    return all(torch.equal(t, vit[name]) for name, t in model.encoder.state_dict().items())


# ---- what torch.save writes


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_our_reader_equals_torch_load(tmp_path, zipped, protocol):
    """Views, parameters, 16 bits, empty and shared tensors, in both forms of torch.save."""
    base = torch.randn(4, 6)
    state = {
        "a": base, "row": base[1], "turned": base.t(), "parameter": torch.nn.Parameter(base + 1),
        "half": base.half(), "bf16": base.bfloat16(), "double": base.double(), "bytes": base.byte(),
        "count": torch.tensor(3), "empty": torch.empty(0, 3), "flag": torch.tensor([True, False]),
        "f8": base.to(torch.float8_e4m3fn), "u16": torch.arange(3).to(torch.uint16),
    }  # fmt: skip
    if not zipped:  # torch itself cannot read these in its older form
        del state["f8"], state["u16"]
    form = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    torch.save(collections.OrderedDict(state), tmp_path / "a.pth", **form)
    wanted = torch.load(tmp_path / "a.pth", weights_only=False)
    found = read_tensors(tmp_path / "a.pth").tensors
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype and not found[name].requires_grad
        assert torch.equal(found[name].double(), wanted[name].double())


class Attributes(dict):
    """As yacs, easydict and omegaconf have them: a dict with more to it."""


class Seen(list): ...


@pytest.mark.parametrize(
    "extra",
    [
        argparse.Namespace(lr=1.0, data=pathlib.Path("x")),
        types.SimpleNamespace(a=1),
        pathlib.Path("x"),
        datetime.datetime(2026, 1, 1),
        collections.defaultdict(list, a=[1]),
        collections.Counter("abc"),
        Attributes(a=Attributes(b=1)),
        Seen([1, 2]),
        {frozenset({1}), (1, (2, 3))},
        np.random.default_rng(0),
        np.arange(3.0),
        slice(1, 2),
        1j,
        len,
        torch.Size((1, 2)),
        torch.device("cpu"),
        torch.nn.Linear(2, 2),
    ],
    ids=lambda extra: type(extra).__name__,
)
def test_whatever_lies_beside_the_tensors_is_passed_over(tmp_path, vit, extra):
    """Settings, paths, logs: any class is swallowed by a stand-in, none is imported."""
    for name, protocol in (("a.pth", 2), ("b.pth", 4)):
        content = {"args": extra, "state_dict": vit, "more": [extra]}
        torch.save(content, tmp_path / name, pickle_protocol=protocol)
        model = SETR(small_config())
        load_weights(model, tmp_path / name)
        assert encoder_equals(model, vit)


def raw(tmp_path, code, name="a.pth"):
    """A file of torch.save's form around a hand-written pickle."""
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("archive/data.pkl", code)
    return tmp_path / name


DEEP = b"\x85" * 200_000  # a tuple in a tuple in a tuple


@pytest.mark.parametrize(
    "code, words",
    [
        (b"\x80\x02})" + DEEP + b"K\x01s.", "tuple of too many values"),
        (b"\x80\x02})" + b"\x852" * 9 + DEEP + b"K\x01s.", "tuple of too many values"),
        (b"\x80\x02})" + DEEP + b"Nb](eK\x01s.", "tuple of too many values"),
        (b"\x80\x02})" + b"2\x86" * 90 + b"K\x01s.", "tuple of too many values"),
        (b"\x80\x02})q\x01" + b"h\x01\x86q\x01" * 90 + b"K\x01s.", "."),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "damaged.*memo"),
        (b"\x80\x05\x96" + (10**12).to_bytes(8, "little") + b".", "damaged"),
        (b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.", r"posix\.system.*foreign code"),
        (b"\x80\x02cos\npopen\nX\x02\x00\x00\x00ls\x85R.", r"os\.popen.*foreign code"),
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", "eval.*foreign code"),
        (b"\x80\x02X\x01\x00\x00\x00a.", "holds 'str', not a state dict"),
        (b"\x80\x02csetr_lib.model\nSETR\n)\x81.", "setr_lib.model.SETR', not a state dict.*save"),
    ],
)
def test_hostile_pickles_are_refused_at_once(tmp_path, code, words):
    """No depth, size or name in a file exhausts the stack, the memory or the clock."""
    with pytest.raises(ValueError, match=f"a.pth .*{words}"):
        read_tensors(raw(tmp_path, code))
    (tmp_path / "a.pth").write_bytes(code)
    with pytest.raises(ValueError, match=r"a.pth "):
        read_tensors(tmp_path / "a.pth")


def test_containers_and_tensors_that_hold_themselves_come_to_an_end(tmp_path, vit):
    """A dict in itself is read once; a hundred matrices in one memory are not joined to more."""
    content = {"args": 1, "weight": torch.ones(2)}
    content["model"] = content
    torch.save(content, tmp_path / "a.pth")
    assert list(read_tensors(tmp_path / "a.pth").tensors) == ["weight"]
    block = "encoder.layer.{}.attention.attention.query.weight"
    shared = torch.ones(100, 100)
    torch.save({block.format(i): shared for i in range(100)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="many tensors in one memory"):
        read_tensors(tmp_path / "b.pth")


def test_compressed_records_are_refused(tmp_path):
    """0.1 MB that would become 100."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(10**8))
    with pytest.raises(ValueError, match=r"a.pth .*compressed"):
        read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ["ours", "zip", "npz"])
def test_a_flipped_bit_is_found(tmp_path, kind):
    """Whatever still loads has the very same values."""
    model = SETR(small_config(width=12, channels=4))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    file = tmp_path / "a"
    if kind == "ours":
        save_checkpoint(model, file)
    elif kind == "zip":
        torch.save(state, file)
    else:
        with open(file, "wb") as opened:
            np.savez(opened, **{k: v.numpy() for k, v in state.items()})
    whole, refused, rng = file.read_bytes(), 0, random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            found = read_tensors(file).tensors
        except ValueError as error:
            assert str(file) in str(error)
            refused += 1
        else:
            assert found.keys() == state.keys()
            assert all(torch.equal(state[k], found[k]) for k in state)
    assert refused > (55 if kind == "ours" else 20)  # the others lie in names and padding


# ---- files that are something else


@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b'{"weight_map": {}}', "JSON"),
        (b"\x1f\x8b\x08" + bytes(20), "gunzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (b"\x93NUMPY" + bytes(20), "single numpy array"),
        (b"pickle" + bytes(251) + b"ustar", "tar archive"),
        (b"", "damaged or no checkpoint"),
        (b"\x80\x02", "damaged"),
        (b"PK\x03\x04", "damaged"),
        (bytes(8) + b"{", "damaged"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, content, words):
    file = tmp_path / "a.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.pth .*{words}"):
        load_weights(SETR(small_config()), file)


def test_archives_are_called_what_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:  # as torch.jit.save writes it
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/code/__torch__.py", b"")
    with pytest.raises(ValueError, match=r"a.pt is TorchScript: save model.state_dict"):
        read_tensors(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("model.pth", b"1")
    with pytest.raises(ValueError, match=r"b.zip is a zip archive of 'model.pth': unpack it"):
        read_tensors(tmp_path / "b.zip")
    torch.save({"epoch": 3, "optimizer": {"lr": 1}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c.pth holds no tensors.* 'epoch', 'optimizer'"):
        read_tensors(tmp_path / "c.pth")


@pytest.mark.parametrize("form", ["safetensors", "pth", "dict"])
def test_no_name_in_a_file_reaches_the_terminal_raw(tmp_path, form):
    state, file = {"\x1b]0;title\x07": torch.ones(1)}, tmp_path / "a"
    save_file(state, file) if form == "safetensors" else torch.save(state, file)
    with pytest.raises(ValueError, match="cannot be printed") as caught:
        read_tensors(state if form == "dict" else file)
    assert str(caught.value).isprintable()
    torch.save({"\x1bc": 1}, file)
    with pytest.raises(ValueError, match=r"'\\x1bc'"):
        read_tensors(file)


# ---- other people's names


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def stray(state):
    return {
        **state,
        "mask_token": torch.zeros(1, 1, 24),
        "decoder_embed.weight": torch.zeros(9, 24),
    }


@pytest.mark.parametrize(
    "wrap, said",
    [
        (lambda v: under("_orig_mod.", v), ""),
        (lambda v: {"model": under("module.module._orig_mod.", v)}, ""),
        (lambda v: {k.replace("attn.", "attn._orig_mod."): t for k, t in v.items()}, ""),
        (lambda v: {"state_dict": under("model.", v), "epoch": 3}, ""),
        (lambda v: under("net.", v) | {"loss.weight": torch.ones(3)}, "outside of 'net.'"),
        (lambda v: under("encoder.", v) | under("decoder.", v), "'encoder.'; .* decoder."),
        (lambda v: {"state_dict": v, "state_dict_ema": dict(v)}, "'state_dict'.*state_dict_ema"),
        (lambda v: {"model_ema": v}, ""),
        (lambda v: {"ema": {"state_dict": v}, "model": {"name": "vit"}}, ""),
        (
            lambda v: {"student": under("module.backbone.", v), "teacher": under("backbone.", v)},
            "'teacher'.*student",
        ),
        (lambda v: under("backbone.", v) | {"head.mlp.0.weight": torch.ones(3)}, "outside"),
        (lambda v: {"model": stray(v)}, "mask_token"),
        (
            lambda v: v | {"total_ops": torch.ones(1), "blocks.0.total_params": torch.ones(1)},
            "count",
        ),
    ],
)
def test_wrappings_of_training_programs_come_off(vit, wrap, said):
    """Prefixes, containers, counters: the encoder is filled, what was taken is said."""
    model = SETR(small_config())
    report = load_weights(model, wrap(vit))
    assert report.format == "timm" and encoder_equals(model, vit)
    assert re.search(said, str(report))


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "model._orig_mod.", "net."])
def test_wrappings_come_off_whole_networks(wrapper):
    for state in (random_model("naive").state_dict(), in_authors_names(random_model("naive"))):
        model = SETR(small_config())
        report = load_weights(model, under(wrapper, state))
        assert not report.fresh and report.format in ("setr_lib", "authors")


def test_a_distilled_deit_in_mmsegmentations_names(vit):
    """Their converter keeps `dist_token`; its slot is dropped as timm's is."""
    rules = [("blocks.", "layers."), ("patch_embed.proj", "patch_embed.projection"),
             ("norm1", "ln1"), ("norm2", "ln2"), ("attn.qkv.", "attn.attn.in_proj_"),
             ("attn.proj", "attn.attn.out_proj"), ("mlp.fc1", "ffn.layers.0.0"),
             ("mlp.fc2", "ffn.layers.1")]  # fmt: skip
    state = {"dist_token": torch.ones(1, 1, 24)}
    for name, tensor in vit.items():
        for old, new in rules if name.startswith(("blocks", "patch")) else []:
            name = name.replace(old, new)
        if not name.startswith(("norm", "head")):
            state[name] = tensor
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], state["pos_embed"]], 1)
    model = SETR(small_config())
    report = load_weights(model, state)
    assert report.format == "mmseg" and encoder_equals(model, vit)
    assert report.resized == {"encoder.pos_embed": "the distillation slot dropped"}


def in_huggingface_names(vit, new):
    """Of its files, and of transformers 5 in memory; compared with ViTModel once, 0.0 apart."""
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj" if new else "attention.output.dense",
        "mlp.fc1": "mlp.fc1" if new else "intermediate.dense",
        "mlp.fc2": "mlp.fc2" if new else "output.dense",
    }  # fmt: skip
    block, found = "layers" if new else "encoder.layer", {"pooler.dense.weight": torch.ones(2, 2)}
    for name, tensor in vit.items():
        parts = name.split(".")
        if parts[0] == "blocks" and parts[3] == "qkv":
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3)):
                where = f"attention.{part[0]}_proj" if new else f"attention.attention.{part}"
                found[f"{block}.{parts[1]}.{where}.{parts[-1]}"] = rows
        elif parts[0] == "blocks":
            found[f"{block}.{parts[1]}.{names['.'.join(parts[2:-1])]}.{parts[-1]}"] = tensor
        elif parts[0] != "head":
            found[
                name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
                .replace("cls_token", "embeddings.cls_token")
                .replace("pos_embed", "embeddings.position_embeddings")
                .replace("norm.", "layernorm.")
            ] = tensor
    return found


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("prefix", ["", "vit."])
def test_hugging_faces_names_are_known(vit, new, prefix):
    """Query, key and value become one matrix, in this order."""
    state = under(prefix, in_huggingface_names(vit, new))
    state |= {"classifier.bias": torch.ones(3)} if prefix else {}
    model = SETR(small_config())
    assert load_weights(model, state).format == "huggingface" and encoder_equals(model, vit)
    del state[next(key for key in state if "key" in key or "k_proj" in key)]
    with pytest.raises(ValueError, match=r"not whole.*blocks\.0\.attn\.key\.\w+ is missing"):
        load_weights(model, state)


@pytest.mark.parametrize("prefix, new", [("", False), ("opt/target/", False), ("params/", True)])
def test_jax_files_load_as_timm_loads_them(tmp_path, prefix, new):
    """ViT of google-research (numbers 0, 2, 1, 3) and of big_vision (0, 1, 0, 0), D=24, 3 heads."""
    rng = np.random.default_rng(0)
    state = {"cls": (1, 1, 24), "embedding/kernel": (16, 16, 3, 24), "embedding/bias": (24,),
             "Transformer/encoder_norm/scale": (24,), "Transformer/encoder_norm/bias": (24,),
             "head/kernel": (24, 7), "head/bias": (7,)}  # fmt: skip
    state["pos_embedding" if new else "Transformer/posembed_input/pos_embedding"] = (1, 17, 24)
    attention, norm, mlp = (0, 1, 0) if new else (1, 2, 3)
    for i in range(4):
        block = f"Transformer/encoderblock_{i}"
        for part in (f"{block}/LayerNorm_0", f"{block}/LayerNorm_{norm}"):
            state |= {f"{part}/scale": (24,), f"{part}/bias": (24,)}
        part = f"{block}/MultiHeadDotProductAttention_{attention}"
        for q in ("query", "key", "value"):
            state |= {f"{part}/{q}/kernel": (24, 3, 8), f"{part}/{q}/bias": (3, 8)}
        state |= {f"{part}/out/kernel": (3, 8, 24), f"{part}/out/bias": (24,)}
        for k, (a, b) in enumerate([(24, 96), (96, 24)]):
            part = f"{block}/MlpBlock_{mlp}/Dense_{k}"
            state |= {f"{part}/kernel": (a, b), f"{part}/bias": (b,)}
    arrays = {prefix + k: rng.normal(size=shape).astype(np.float32) for k, shape in state.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    facts = {**VIT, "img_size": 64, "num_classes": 7}
    theirs = timm.models.vision_transformer.VisionTransformer(**facts)
    theirs.load_pretrained(str(tmp_path / "a.npz"))
    model = SETR(small_config(image_size=(64, 64)))
    assert load_weights(model, tmp_path / "a.npz").format == "jax"
    assert encoder_equals(model, theirs.state_dict())


def test_another_network_is_not_called_ours(vit):
    """Keys that begin with encoder and head, as some language models' do."""
    state = {"encoder.layers.0.q.weight": torch.ones(2, 2), "head.weight": torch.ones(2, 2)}
    with pytest.raises(ValueError, match=r"no weights of a SETR or a ViT that is known here"):
        load_weights(SETR(small_config()), state)
    with pytest.raises(ValueError, match=r"encoder alone: make the model with its width") as caught:
        load_weights(SETR(small_config(width=48)), vit)
    assert "config_from_checkpoint" not in str(caught.value)


# ---- the step between a file and a network


def loaded_whole_or_untouched(model, source, words):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_weights(model, source)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


BIAS = "head.classifier.bias"


@pytest.mark.parametrize(
    "key, tensor, words",
    [
        (BIAS, torch.ones(8, device="meta"), "meta"),
        (BIAS, torch.ones(8).to_sparse(), "sparse"),
        (BIAS, torch.ones(1).expand(8), "expanded"),
        (BIAS, torch.ones(8, dtype=torch.int64), "int64.*float32"),
        (BIAS, torch.ones(8, dtype=torch.bool), "bool.*float32"),
        (BIAS, torch.ones(8, dtype=torch.complex64), "complex64.*float32"),
        (BIAS, torch.full((8,), 1e300, dtype=torch.float64), "more than torch.float32 can"),
        (BIAS, torch.full((8,), float("nan")), "NaN"),
        (BIAS, torch.full((8,), float("inf")), "infinity"),
        (BIAS, torch.ones(()), "a scalar.* 8"),
        (BIAS, torch.ones(0), "is 0.* 8"),
        ("head.convs.0.bn.num_batches_tracked", torch.tensor(1.5), "float32.*int64"),
        ("encoder.pos_embed", torch.ones(13), "13.*1x13x24"),
        ("encoder.pos_embed", torch.ones(1, 0, 24), "0 slots"),
        ("encoder.pos_embed", torch.ones(1, 1, 24).expand(1, 10**8, 24), "expanded"),
        ("encoder.pos_embed", torch.ones(1, 13, 48), "1x13x48.*1x13x24"),
        ("encoder.patch_embed.proj.weight", torch.ones(24, 768), "24x768.*24x3x16x16"),
        ("encoder.patch_embed.proj.weight", torch.ones(24, 0, 16, 16), "24x0x16x16"),
        ("encoder.patch_embed.proj.weight", torch.ones(1).expand(24, 10**9, 16, 16), "expanded"),
    ],
)
def test_odd_tensors_are_named_and_nothing_is_loaded(tmp_path, key, tensor, words):
    """In a file and in memory: the name of the tensor, what it is and what it should be."""
    model = random_model("naive")
    state = {**random_model("naive").state_dict(), key: tensor}
    torch.save(state, tmp_path / "a.pth")
    loaded_whole_or_untouched(model, state, f"{key}.*{words}")
    loaded_whole_or_untouched(model, tmp_path / "a.pth", f"a.pth.*{key}.*{words}")


def test_a_network_without_memory_is_not_filled():
    with torch.device("meta"):
        model = SETR(small_config())
    with pytest.raises(ValueError, match="no memory"):
        load_weights(model, random_model("naive").state_dict())


def test_a_network_in_16_bits_takes_no_infinity():
    state = {**random_model("naive").state_dict(), BIAS: torch.full((8,), 1e6)}
    loaded_whole_or_untouched(random_model("naive").half(), state, "more than torch.float16 can")


def of_ours(file, drop=None, tensors=None, **changes):
    """A file of ours without checksum, with another configuration or other words."""
    config = small_config()
    about = {"config": dataclasses.asdict(config)}
    for name, value in changes.items():
        (about["config"] if name in about["config"] or name == "nosuch" else about)[name] = value
    if drop:
        del about["config"][drop]
    words = {"setr_lib": json.dumps(about)}
    save_file({**SETR(config).state_dict(), **(tensors or {})}, file, metadata=words)
    return file


NAMES = list("abcdefgh")
COLOURS = [[0, 0, 0]] * 8


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"drop": "heads"}, "lacks heads"),
        ({"drop": "depth"}, "lacks depth"),
        ({"heads": True}, "heads is True"),
        ({"heads": 3.0}, "heads is 3.0"),
        ({"heads": 0}, "heads is 0"),
        ({"depth": 10**5}, "depth is 100000"),
        ({"aux_convs": 10**5}, "aux_convs is 100000"),
        ({"width": 3 * 2**16}, "196608"),
        ({"num_classes": 10**8}, "100000000"),
        ({"channels": 10**9}, "1000000000"),
        ({"image_size": [10**5, 10**5]}, "39062501"),
        ({"image_size": [48, 64, 3]}, "image_size"),
        ({"patch_size": 4096}, "4096"),
        ({"in_chans": 10**7}, "10000000"),
        ({"backbone": "vit_giant_patch14_dinov2"}, "1536"),
        ({"backbone": "hf_hub:someone/something"}, "unknown timm model"),
        ({"decoder": "mla"}, "missing: neck"),
        ({"aux": 1}, "aux is 1"),
        ({"layers": "0123"}, "layers is '0123'"),
        ({"nosuch": 1}, "unknown field.*nosuch"),
        ({"config": None}, "configuration is 'None'"),
        ({"config": []}, "configuration"),
        ({"classes": NAMES[:1]}, "8 names"),
        ({"classes": "abcdefgh"}, "8 names"),
        ({"classes": [*NAMES[:7], "a"]}, "'a' twice"),
        ({"classes": [*NAMES[:7], 1]}, "1 is no printable"),
        ({"classes": [*NAMES[:7], "\x1b]0;title\x07"]}, r"\\x1b.*no printable"),
        ({"classes": [*NAMES[:7], "h\nmIoU 99.9"]}, "no printable"),
        ({"classes": [*NAMES[:7], "\u202eh"]}, "no printable"),
        ({"palette": COLOURS[:7]}, "8 colours"),
        ({"palette": [*COLOURS[:7], [256, 0, 0]]}, "256"),
        ({"palette": [*COLOURS[:7], [0, -1, 0]]}, "-1"),
        ({"palette": [*COLOURS[:7], [0.5, 0, 0]]}, "0.5"),
        ({"palette": [*COLOURS[:7], 0]}, "colour 0 "),
        ({"recipe": "x"}, "recipe"),
        ({"recipe": {"name": 1}}, "recipe"),
        ({"tensors": {"more": torch.ones(1)}}, "more is .*no tensor"),
        ({"tensors": {BIAS: torch.ones(3)}}, rf"{BIAS} is \(3,\).*\(8,\)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_our_files_say_is_checked_before_memory_is_taken(
    tmp_path, monkeypatch, changes, words
):
    """By every function that reads them, with the file's name; no network is made for them."""
    file = of_ours(tmp_path / "a.safetensors", **changes)
    model = SETR(small_config())
    monkeypatch.setattr("setr_lib.zoo.make_network", lambda config: pytest.fail("made"))
    for read in (load_checkpoint, config_from_checkpoint, lambda f: load_weights(model, f)):
        with pytest.raises(ValueError, match=rf"a\.safetensors: .*{words}"):
            read(file)


@pytest.mark.parametrize("words", ["", "null", "[]", '"config"', "[" * 100_000])
def test_words_that_are_no_json_object_are_named(tmp_path, words):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"setr_lib": words})
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_files_from_before_the_checksum_still_load(tmp_path):
    """And say what to do; a file with a checksum says nothing, the shipped one too."""
    file = of_ours(tmp_path / "a.safetensors", drop="backbone")
    with pytest.warns(UserWarning, match=r"a\.safetensors: .*no checksum.*save it again"):
        model, _ = load_checkpoint(file)
    assert "no checksum" in str(load_weights(SETR(small_config()), file))
    save_checkpoint(model, tmp_path / "b.safetensors", classes=["Straße 1", "道路", *NAMES[:6]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(tmp_path / "b.safetensors")[1]["classes"][0] == "Straße 1"
        load_checkpoint(
            setr_lib.training.record.ROOT / "data/models/camvid_naive_tiny/model.safetensors"
        )


@pytest.mark.parametrize("bits, size, gap", [(32, 1, 0), (16, 1 / 2, 1e-3), (8, 1 / 4, 1e-2)])
def test_our_files_in_fewer_bits_carry_their_checksum(bits, size, gap, tmp_path):
    model = random_model("pup")
    save_checkpoint(model, tmp_path / "a.safetensors", bits=bits)
    found, _ = load_checkpoint(tmp_path / "a.safetensors")
    for name, tensor in found.state_dict().items():
        wanted = model.state_dict()[name]
        assert tensor.dtype == wanted.dtype and (tensor - wanted).abs().max() <= gap * wanted.max()
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    assert (tmp_path / "a.safetensors").stat().st_size < 4.6 * numbers * size + 40_000
    save_checkpoint(found, tmp_path / "b.safetensors", bits=bits)  # rounded once, it stays
    again, _ = load_checkpoint(tmp_path / "b.safetensors")
    for name, tensor in found.state_dict().items():
        assert torch.allclose(again.state_dict()[name], tensor, rtol=1e-6, atol=0)


def test_other_numbers_of_bits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="bits is 4; choose 32, 16, 8"):
        save_checkpoint(random_model("pup"), tmp_path / "a.safetensors", bits=4)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    with pytest.raises(ValueError, match="'a' twice"):
        save_checkpoint(SETR(small_config()), tmp_path / "a", classes=["a", "a", *NAMES[2:]])
    assert not list(tmp_path.iterdir())


def test_weights_of_other_heads_are_another_network(tmp_path):
    """No shape shows it, but our files say it."""
    save_checkpoint(SETR(small_config()), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="3 attention heads, the model's are 2"):
        load_weights(SETR(small_config(heads=2)), tmp_path / "a.safetensors")


def test_a_network_that_was_loaded_is_saved_with_its_protocol(tmp_path):
    protocol = TestProtocol(window=32, stride=16)
    save_checkpoint(
        SETR(small_config()), tmp_path / "a.safetensors", protocol=dataclasses.asdict(protocol)
    )
    model, _ = load_checkpoint(tmp_path / "a.safetensors")
    save_checkpoint(model, tmp_path / "b.safetensors")
    assert load_checkpoint(tmp_path / "b.safetensors")[0].protocol == protocol
