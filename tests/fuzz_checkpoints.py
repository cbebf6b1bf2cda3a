"""Malformed checkpoints for tests/test_fuzz.py: safetensors, what our header says, pickles."""

import copy
import functools
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from conftest import small_config
from fuzz_inputs import (
    MUTATIONS,
    Case,
    Content,
    chance,
    command,
    encoded,
    mutate,
    written,
    wrong_unless,
)

import setr_lib
from setr_lib import config_from_checkpoint, load_checkpoint, load_weights, save_checkpoint
from setr_lib.files import write_json

CONFIG = small_config()
ABOUT = {
    "classes": [f"class {k}" for k in range(8)],
    "palette": [[k, 2 * k, 255 - k] for k in range(8)],
    "step": 3,
}


@functools.cache
def network() -> Any:
    torch.manual_seed(0)
    return setr_lib.SETR(CONFIG).eval()


@functools.cache
def own() -> bytes:
    """A checkpoint of this library."""
    return written(lambda path: save_checkpoint(network(), path, **ABOUT))


def same_weights(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def fill(path: str = "a.pth") -> None:
    """`load_weights`: the right weights, or those from before."""
    torch.manual_seed(1)
    model = setr_lib.SETR(CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        report = load_weights(model, path)
    except Exception:
        wrong_unless(same_weights(before, model.state_dict()), "an error, and the model is another")
        raise
    right = network().state_dict()
    wanted = {name: (before if name in report.fresh else right)[name] for name in right}
    wrong_unless(same_weights(wanted, model.state_dict()), "loads other weights without a word")


def fill_own() -> None:
    fill("a.safetensors")


def load(path: str = "a.safetensors") -> None:
    model, about = load_checkpoint(path)
    wrong_unless(same_weights(network().state_dict(), model.state_dict()), "loads other weights")
    wrong_unless(model.config == CONFIG, f"loads another network: {model.config}")
    for key, value in ABOUT.items():
        found = json.loads(json.dumps(about.get(key)))
        wrong_unless(found == value, f"loads other {key}: {str(found)[:60]}")


def configure(path: str = "a.safetensors") -> None:
    found = config_from_checkpoint(path, heads=3, layers=(0, 1, 2, 3), image_size=(48, 64))
    wrong_unless(found == CONFIG, f"makes another network: {found}")


def safetensors() -> Iterator[Case]:
    def case(name: str, data: bytes, must: str = "") -> Case:
        return Case(name, {"a.safetensors": data}, (load, fill_own), must)

    yield case("healthy", own(), "work")
    for n in range(48):
        how = MUTATIONS[1 + n % 8]
        yield case(f"{how} {n}", mutate(own(), how, chance(n)))
    for n in range(8):  # in the weights
        at = int(chance(n).integers(len(own()) // 2, len(own())))
        yield case(f"bit at {at}", own()[:at] + bytes([own()[at] ^ 64]) + own()[at + 1 :])
    for length in (0, 1, 7, 2**31, 2**63, 2**64 - 1):
        yield case(f"header of {length}", struct.pack("<Q", length) + own()[8:], "fail")
    header, _, tensors = split(own())
    for key in ("dtype", "shape", "data_offsets"):
        for value in (None, "F8", [], [-1], [2**40, 2**40], [0, 1], "I64", [[0]]):
            changed = copy.deepcopy(header)
            changed["head.classifier.bias"][key] = value
            yield case(f"{key} {value}", join(changed, tensors), "fail")


def split(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, what is in our part of it, and the tensors of a safetensors file."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    return header, json.loads(header["__metadata__"]["setr_lib"]), data[end:]


def join(header: dict[str, Any], tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


VALUES = (
    None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**5, 10**7, 10**9, 2**63, 10**30, "", "x",
    "3", "vit_giant_patch14_dinov2", [], {}, [1], [[1]], [0, 1, 2], [10**5, 10**5],
)  # fmt: skip
TEXTS = (
    "", "null", "[]", "3", '"x"', "{", "{}", '{"config": null}', '{"config": []}', '{"config": 3}',
    '{"config": {}}', "[" * 100_000, '{"a":' * 50_000, "1" * 5000, "NaN",
    '{"config": {"decoder": "pup"}}', '{"config": {"decoder": "naive", "widht": 3}}',
)  # fmt: skip
CLASSES = (
    3, "x", [], ["a"], [1] * 8, [None] * 8, ["a"] * 8, [["a"]] * 8, [*"abcdefg", ""],
    [*"abcdefg", "\x1b]0;x\x07"], [*"abcdefg", "h\nmIoU 99.9"], [*"abcdefghi"],
)  # fmt: skip
PALETTES = (
    3, "x", [], [[0, 0, 0]], [[-1, 0, 0]] * 8, [[256, 0, 0]] * 8, [[0, 0]] * 8, [[0.5, 0, 0]] * 8,
    [["a", 0, 0]] * 8, [[0, 0, 0, 0]] * 8, [[1e400, 0, 0]] * 8,
)  # fmt: skip


def metadata() -> Iterator[Case]:
    header, about, tensors = split(own())
    predict = command(
        "predict", "b.png", "--checkpoint", "a.safetensors", "--out", "c.png", "--device", "cpu"
    )
    files: dict[str, Content] = {"b.png": encoded("RGB", "PNG")}

    def case(
        name: str, says: Any, must: str = "", calls: Any = (load, configure, fill_own)
    ) -> Case:
        text = says if isinstance(says, str) else json.dumps({**about, **says})
        changed = {**header, "__metadata__": {**header["__metadata__"], "setr_lib": text}}
        data = join(changed, tensors)
        return Case(
            name, {**files, "a.safetensors": data}, calls, must, ("a.safetensors",), ("c.png",)
        )

    yield case("healthy", {}, "work", (load, configure, fill_own, predict))
    for text in TEXTS:
        yield case(f"text {text[:30]!r}", text, "fail", (load,))
    config = about["config"]
    pairs = [(field, value) for field in sorted(config) for value in VALUES]
    for at in chance(0).choice(len(pairs), 40, replace=False):
        field, value = pairs[at]
        yield case(f"{field} = {value!r}", {"config": {**config, field: value}})
    for field in sorted(config):
        rest = {key: value for key, value in config.items() if key != field}
        yield case(f"without {field}", {"config": rest})
    for key, values in {"classes": CLASSES, "palette": PALETTES, "recipe": VALUES[::4]}.items():
        for value in values:
            yield case(f"{key} = {str(value)[:40]}", {key: value}, "", (load, predict))
    for field in ("window", "stride", "base", "rule", "scales", "flip", "batch"):
        for value in VALUES[::4]:
            yield case(f"protocol {field} = {value!r}", {"protocol": {field: value}}, "", (load,))


# ---- pickles


class Evil:
    """Pickled as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@functools.cache
def pth(**options: Any) -> bytes:
    return written(lambda path: torch.save(network().state_dict(), path, **options))


def zipped(data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A .pth whose pickle is `data`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3")
    return file.getvalue()


def legacy(data: bytes) -> bytes:
    """torch's form before the zip."""
    magic = 0x1950A86A20F9469CFC6C
    return b"".join(pickle.dumps(part, 2) for part in (magic, 1001, {})) + data


def states() -> dict[str, Any]:
    """State dicts with one thing that is odd."""
    good = network().state_dict()
    bias, embed, table = "head.classifier.bias", "encoder.patch_embed.proj.weight", "encoder.pos_embed"  # noqa: E501 # fmt: skip
    one = torch.ones(1)
    odd = {
        "sparse": (bias, torch.ones(8).to_sparse()),
        "meta": (bias, torch.ones(8, device="meta")),
        "huge": (bias, torch.full((8,), 1e300, dtype=torch.float64)),
        "scalar": (bias, torch.tensor(1.0)),
        "empty": (bias, torch.ones(0)),
        "table of 10^8 slots": (table, one.expand(1, 10**8, 24)),
        "table of 10^8 wide": (table, one.expand(1, 13, 10**8)),
        "table of no slot": (table, torch.ones(1, 0, 24)),
        "table of 1 dimension": (table, torch.ones(24)),
        "10^9 channels": (embed, one.expand(24, 10**9, 16, 16)),
        "no channel": (embed, torch.ones(24, 0, 16, 16)),
        "patches of 2 dimensions": (embed, torch.ones(24, 768)),
    }
    found = {name: {**good, key: tensor} for name, (key, tensor) in odd.items()}
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        found[f"all {dtype}"] = {key: tensor.to(dtype) for key, tensor in good.items()}
    return found | {
        "list": [good], "None": None, "number": 3, "tensor": one, "text": "x", "no key": {},
        "numbered": dict(enumerate(good.values())), "deep": nest(good, 100),
        "twice": {**good, **{f"module.{key}": 2 * tensor for key, tensor in good.items()}},
        "strange key": {**good, "encoder.blocks.x.norm1.weight": one},
        "block 10^9": {**good, f"encoder.blocks.{10**9}.norm1.weight": one},
    }  # fmt: skip


def nest(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = {"state_dict": value}
    return value


def compressed(data: bytes) -> bytes:
    """A .pth whose first tensor's bytes are 3 GiB of zeros, deflated to 3 MB."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = press.compress(bytes(1 << 26)) + press.flush(zlib.Z_FULL_FLUSH)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        first = next(name for name in old.namelist() if name.endswith("data/0"))
        for name in old.namelist():
            new.writestr(name, block * 48 + b"\3\0" if name == first else old.read(name))
    changed = bytearray(file.getvalue())
    local, central = changed.find(first.encode()), changed.rfind(first.encode())
    for method, crc, size in (
        (local - 22, local - 16, local - 8),
        (central - 36, central - 30, central - 22),
    ):
        struct.pack_into("<H", changed, method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", changed, crc, 0x480BBE37)
        struct.pack_into("<I", changed, size, 48 << 26)
    return bytes(changed)


def deep(depth: int) -> Iterator[tuple[str, bytes]]:
    """Pickles that nest containers: some readers recurse, and so does a tuple's hash."""
    yield "tuples as a key", b"\x80\x02})" + b"\x85" * depth + b"K\x01s."
    yield "lists", b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    yield "dicts", b"\x80\x02}" + b"K\x01}" * depth + b"s" * depth + b"."


def pickles() -> Iterator[Case]:
    def case(name: str, data: bytes, must: str = "") -> Case:
        return Case(name, {"a.pth": data}, (fill,), must)

    good = network().state_dict()
    yield case("healthy", pth(), "work")
    for key in ("state_dict", "model"):
        yield case(key, written(lambda path, key=key: torch.save({key: good}, path)), "work")
    evil = (
        Evil(os.system, "touch canary"), Evil(eval, "open('canary', 'w')"),
        Evil(exec, "import socket; socket.create_connection(('127.0.0.1', 9))"),
        Evil(subprocess.Popen, ["touch", "canary"]), Evil(os.mkdir, "canary"),
        Evil(open, "canary", "w"), Evil(torch.save, {}, "canary"), Evil(write_json, "canary", 1),
    )  # fmt: skip
    for n, each in enumerate(evil):
        for form in (zipped, legacy, bytes):
            protocol = int(chance(n).integers(6))
            inside = {"state_dict": {"x": [each]}} if n % 2 else each
            name = f"{each.call[0].__name__}, {form.__name__}, protocol {protocol}"
            yield case(name, form(pickle.dumps(inside, protocol)), "fail")
    for depth in (1000, 200_000):
        for name, data in deep(depth):
            yield case(f"{depth} {name}", data, "fail")
            yield case(f"{depth} {name}, zipped", zipped(data, zipfile.ZIP_DEFLATED), "fail")
    for name, state in states().items():
        yield case(name, written(lambda path, state=state: torch.save(state, path)))
    for n in range(24):
        how = MUTATIONS[1 + n % 8]
        yield case(f"{how} {n}", mutate(pth(), how, chance(n)))
    for n in range(8):  # in the weights
        at = int(chance(n).integers(len(pth()) // 2, len(pth()) * 9 // 10))
        yield case(f"bit at {at}", pth()[:at] + bytes([pth()[at] ^ 64]) + pth()[at + 1 :])
    yield case("3 GiB in 3 MB", compressed(pth()), "fail")


FAMILIES = {"safetensors": safetensors, "metadata": metadata, "pickles": pickles}
