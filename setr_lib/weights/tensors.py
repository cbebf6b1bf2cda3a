"""Any file becomes named tensors, or is refused by name; nothing in it is ever run or imported.

Four kinds are read: safetensors, torch.save's zip archives and its older single files, and numpy's
.npz. Only what a state dict is made of is read of them, and only if its checksums fit.
"""

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..files import few
from .bits import from_bits
from .pickles import Ignored, Later, Refused, Storage, unpickle


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read.

    Attributes:
        tensors: by name; dense, each with a memory of its own size.
        notes: what a user should know of the reading, one sentence each.
        about: what one of our files says of itself (its JSON as it is), else empty.
        file: the path, for messages.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    file: str = "the state dict"


Source = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Every ValueError of the block begins with the file's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def read_tensors(source: Source) -> Checkpoint:
    """The tensors of a file or a state dict, and what one of our files says of itself.

    Containers of training programs (`state_dict`, `model`, ...) are unwrapped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, would run code, or holds no tensors; with its name.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        file, read = "the state dict", lambda: Checkpoint(*_state_dict(source))
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}")
        file, read = str(path), lambda: _read(path)
    try:
        found = replace(read(), file=file)
        if not all(name.isprintable() for name in found.tensors):
            raise Refused("has names of tensors that cannot be printed; it is damaged or hostile")
        return found
    except Refused as error:
        raise ValueError(f"{file} {error}") from error
    except OSError:
        raise
    except Exception as error:  # readers raise many kinds for files that end early
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} is damaged ({what}); fetch it again") from error


def _read(path: Path) -> Checkpoint:
    with open(path, "rb") as file:
        head = file.read(512)
        file.seek(0)
        if head[8:9] == b"{":  # after the length of its header, which may look like any mark
            return _safetensors(path)
        if head[:2] == b"PK":
            return Checkpoint(*_zip(file))
        if head[:1] == b"\x80":
            return Checkpoint(*_legacy(file))
    raise Refused(_what_it_is(head))


def _what_it_is(head: bytes) -> str:
    """Words for files that are often taken for checkpoints."""
    for mark, words in {
        b"version https://git-lfs": "is a pointer of Git LFS, not the weights: run git lfs pull",
        b"<": "is a web page, not the weights: fetch it from the address of the file itself",
        b"{": "is JSON, perhaps an index of several files: name one of those",
        b"\x1f\x8b": "is compressed by gzip: unpack it (gunzip) first",
        b"\x89HDF": "is HDF5, which Keras writes: convert it to PyTorch first",
        b"\x93NUMPY": "is a single numpy array, not a set of named ones (.npz)",
    }.items():
        if head.lstrip().startswith(mark):
            return words
    if head[257:262] == b"ustar":
        return (
            "is a tar archive: unpack it; if PyTorch 0.1 wrote it, load it with torch.load in a "
            "place without secrets and save the state dict again"
        )
    return "is damaged or no checkpoint (no known kind of file begins like this); fetch it again"


# ---- safetensors, and our own seal


def _safetensors(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
        metadata = opened.metadata() or {}
    words = metadata.get("setr_lib", "{}")
    notes: tuple[str, ...] = ()
    about = json.loads(words)
    if not isinstance(about, dict):
        raise Refused(f"is damaged: it says of itself {words[:40]!r}, which is no JSON object")
    if "sha256" in metadata:
        if metadata["sha256"] != digest(tensors, words):
            raise Refused("is damaged (the SHA-256 in it is of other contents); fetch it again")
    elif "config" in about:
        notes = ("the file has no checksum (an older version wrote it), so that damage is not "
                 "seen: load it and save it again to add one",)  # fmt: skip
    return Checkpoint(from_bits(tensors), notes, about)


def digest(tensors: Mapping[str, Tensor], about: str) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, and the words about them."""
    found = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


# ---- archives: torch.save's, numpy's


def _zip(file: BinaryIO) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Each record's checksum is looked at by zipfile, which torch.load does not do."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if any(re.search(r"(^|/)(constants\.pkl|code/)", name) for name in names):
            raise Refused("is TorchScript: save model.state_dict() of the module instead")
        if sum(record.file_size for record in archive.infolist()) > os.fstat(file.fileno()).st_size:
            raise Refused("has compressed or overlapping records, which weights do not; save again")
        if names and all(name.endswith(".npy") for name in names):
            return _arrays(archive), ()
        pickles = [name for name in names if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        if not pickles:
            inside = few([repr(name) for name in names])
            raise Refused(f"is a zip archive of {inside}: unpack it and name the weights")
        prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
            raise Refused("was written on a big-endian machine: save it as safetensors there")
        content = unpickle(io.BytesIO(archive.read(pickles[0])))
        return _state_dict(content, lambda storage: archive.read(f"{prefix}data/{storage.key}"))


def _arrays(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    tensors = {}
    for name in archive.namelist():
        record = io.BytesIO(archive.read(name))  # whole, so that its checksum is looked at
        array = np.lib.format.read_array(record, allow_pickle=False)
        tensors[name.removesuffix(".npy")] = torch.from_numpy(array.copy())
    return tensors


def _legacy(file: BinaryIO) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """torch.save before 1.6: five pickles in a row, then the storages, each after its length."""
    if unpickle(file) != 0x1950A86A20F9469CFC6C:
        raise Refused("is damaged or a plain pickle, not from torch.save: save it with that")
    unpickle(file), unpickle(file)  # versions
    storages: dict[str, Storage] = {}
    content = unpickle(file, storages)
    places = {}
    for key in unpickle(file):
        length = int.from_bytes(file.read(8), "little") * storages[key].dtype.itemsize
        places[key] = file.tell(), length
        file.seek(length, os.SEEK_CUR)
    if file.tell() > os.fstat(file.fileno()).st_size:
        raise EOFError("it ends early")

    def read(storage: Storage) -> bytes:
        start, length = places[storage.key]
        file.seek(start)
        return file.read(length)

    return _state_dict(content, read)


# ---- state dicts
# In the order in which they are taken where a file has several.
_CONTAINERS = (
    "state_dict", "model", "model_state_dict", "module", "teacher", "student",
    "state_dict_ema", "model_ema", "ema", "ema_state_dict", "net", "network",
)  # fmt: skip


def _state_dict(
    content: Any, read: Callable[[Storage], bytes] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The named tensors in what a training program saved, and which of its parts they are."""
    notes = []
    for _ in range(3):  # containers lie in containers, and a hostile one in itself
        found = [name for name in _CONTAINERS if _has_tensors(content, name)]
        if found[1:]:
            notes.append(f"taken: {found[0]!r}; the file also holds {few(found[1:])}")
        content = content[found[0]] if found else content
    if not isinstance(content, Mapping):
        what = content.where if isinstance(content, Ignored) else type(content).__name__
        raise Refused(f"holds {what!r}, not a state dict: save model.state_dict()")
    cache: dict[Storage, Tensor] = {}
    tensors = {}
    for key, value in content.items():
        if isinstance(value, Later) and read is not None:
            if value.storage not in cache:
                raw = bytearray(read(value.storage) or 1)  # torch takes no empty one
                cache[value.storage] = torch.frombuffer(raw, dtype=torch.uint8)
            value = value.tensor(cache[value.storage])
        if isinstance(value, Tensor) or (isinstance(value, Ignored) and "._rebuild" in value.where):
            tensors[str(key)] = _dense(str(key), value)
    if not tensors:
        parts = few([repr(key) for key in content])
        raise Refused(f"holds no tensors under a known name; its parts: {parts}")
    memory = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()
    }
    if sum(t.numel() * t.itemsize for t in tensors.values()) > 16 * sum(memory.values()):
        raise Refused("has many tensors in one memory: save copies of them")
    return tensors, tuple(notes)


def _has_tensors(content: Any, name: str, depth: int = 3) -> bool:
    """Whether a container of this name holds tensors, or containers of them."""
    inside = content.get(name) if isinstance(content, Mapping) and depth else None
    if not isinstance(inside, Mapping):
        return False
    if any(isinstance(value, (Tensor, Later)) for value in inside.values()):
        return True
    return any(_has_tensors(inside, name, depth - 1) for name in _CONTAINERS)


def _dense(key: str, tensor: Any) -> Tensor:
    """A tensor that can be copied and takes no more memory than it has."""
    if isinstance(tensor, Ignored):
        what = tensor.where.rsplit("_rebuild_")[-1]
    elif tensor.device.type == "meta":
        what = "a meta tensor, without values"
    elif tensor.is_quantized or tensor.layout is not torch.strided:
        what = "quantised" if tensor.is_quantized else str(tensor.layout).replace("torch.", "")
    elif tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        what = "expanded: one value stands for many"
    else:
        return tensor.detach()
    raise Refused(f"{key} is no plain dense tensor ({what}): save it as one")
