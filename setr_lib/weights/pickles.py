"""Pickles, read without running them: tensors are put together, all else is passed over.

No name in a file is looked up or imported. The few that make a tensor are known here, every other
one is answered with an empty stand-in that swallows what it is given.
"""

import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor


class Refused(ValueError):
    """A file that is whole, perhaps, but not what is wanted; the sentence says what to do."""


@dataclass(frozen=True)
class Storage:
    """Where a tensor's values lie: `dtype` of its elements, `key` of the record."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Later:
    """A tensor whose values are read when they are asked for."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self, values: Tensor) -> Tensor:
        """The tensor out of its storage's bytes."""
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = values.view(self.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if min((self.offset, *self.shape, *self.stride)) < 0 or last >= len(flat):
            raise ValueError("a tensor reaches beyond its values")
        return flat.as_strided(self.shape, self.stride, self.offset)


class Ignored:
    """Stands for whatever else a file names; swallows what it is made from."""

    where = ""

    def __new__(cls, *args: Any, **facts: Any) -> "Ignored":
        return super().__new__(cls)

    def __init__(self, *args: Any, **facts: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, item: Any) -> None: ...
    def extend(self, items: Any) -> None: ...
    def add(self, item: Any) -> None: ...
    def __call__(self, *args: Any) -> "Ignored":
        return self


_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
        "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
        "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool, "Untyped": torch.uint8,
        "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
    }.items()
}  # fmt: skip
# No stand-in is given for these: a file that names them was made to run them.
_HOSTILE = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|_?io|importlib|runpy|ctypes|pty|webbrowser|code)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|file|input|__import__)"
)


class _Unpickler(pickle.Unpickler):
    """Puts tensors together and nothing else. No name of the file is looked up or imported."""

    def __init__(self, file: BinaryIO, storages: dict[str, Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name. Bound methods: nothing in the file can change them."""
        known: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": self.later,
            "torch._utils._rebuild_tensor_v2": self.later,
            "torch._utils._rebuild_tensor_v3": self.later_typed,
            "torch._utils._rebuild_parameter": self.first,
            "torch._utils._rebuild_parameter_with_state": self.first,
            "torch._tensor._rebuild_from_type_v2": self.of_type,
            "collections.OrderedDict": OrderedDict,
        }
        where = f"{module}.{name}"
        if where in known:
            return known[where]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if _HOSTILE.fullmatch(where):
            raise Refused(
                f"holds more than tensors ({where!r}), which could run foreign code; it was not "
                "opened. Ask its author for a file with tensors only"
            )
        return type("Ignored", (Ignored,), {"where": where})

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or any(view):
            raise ValueError(f"unknown part {kind!r}")
        if not isinstance(dtype, torch.dtype):
            return Ignored()  # of a quantised tensor, which is named later
        return self.storages.setdefault(str(key), Storage(str(key), dtype))

    def later(self, storage: Storage, offset: int, shape: Any, stride: Any, *_: Any) -> Later:
        return self.later_typed(storage, offset, shape, stride, None, None, storage.dtype)

    def later_typed(
        self, storage: Storage, offset: int, shape: Any, stride: Any, _grad: Any, _hooks: Any,
        dtype: torch.dtype, *_: Any,
    ) -> Later:  # fmt: skip
        return Later(storage, offset, tuple(shape), tuple(stride), dtype)

    def first(self, data: Any, *_: Any) -> Any:
        return data

    def of_type(self, rebuild: Callable[..., Any], _kind: Any, args: Any, _state: Any) -> Any:
        return rebuild(*args)


def unpickle(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """The next pickle of the file, after its instructions have been looked through."""
    start = file.tell()
    _look_through(file)
    file.seek(start)
    return _Unpickler(file, {} if storages is None else storages).load()


def _look_through(file: BinaryIO, most: int = 4000) -> None:
    """Refuse a pickle that would exhaust the stack, the memory or the clock.

    Only tuples can: they are hashed whole, without a limit of depth, when they become a key. So
    their sizes, with all that is in them, are added up, as the instructions would put them
    together. And a place in the memo may not lie far beyond the instructions.

    Raises:
        Refused: if a tuple holds more than `most` values.
    """
    stack: list[int] = []  # sizes; 0: a mark
    memo: dict[Any, int] = {}
    for count, (op, arg, _) in enumerate(pickletools.genops(file)):
        if "GET" in op.name:
            stack.append(memo[arg])
        elif "PUT" in op.name or op.name == "MEMOIZE":
            if arg is not None and arg > count:
                raise ValueError("its memo has gaps")
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif op.name == "MARK":
            stack.append(0)
        else:
            taken, needs = [], len(op.stack_before)
            if pickletools.markobject in op.stack_before:
                needs = op.stack_before.index(pickletools.markobject)
                while size := stack.pop():
                    taken.append(size)
            first = len(stack) - needs
            taken = stack[first:] + taken
            del stack[first:]
            made_of_all = "TUPLE" in op.name or op.name == "FROZENSET"
            size = 1 + sum(taken) if made_of_all else taken[0] if needs else 1
            if size > most:
                raise Refused("holds a tuple of too many values; it was not opened")
            stack.extend([size] * len(op.stack_after))
