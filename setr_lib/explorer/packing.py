"""Attention small enough for a page: queries and keys in few bits, and everything else beside them.

The attention of a head is softmax(q @ k^T): T rows of T numbers that follow from 2 T vectors. These
are turned so that the directions that matter most come first, and rounded more coarsely where it
matters less, until the rows that follow from the rounded vectors just stay within `ACCURACY`.
"""

# T tokens, K head width, R kept directions, L layers, H heads, S prefix tokens, Y X patch grid

import base64
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geometry import Size, patch_grid

# The largest error of a shown number, as a share of the largest number in the same picture: one
# step of an 8-bit colour scale. It holds for rows ("from") and for columns ("to").
ACCURACY = 1 / 255


@dataclass(frozen=True)
class PackedAttention:
    """The maps of all layers and heads, as whole numbers; `unpack_head` is the way back.

    Attributes:
        shape: L, H, T, R.
        steps: `(L,H,R)` float32, the size of one step along each direction.
        sizes: `(L,H,2,R)` uint8, bytes per number (queries, keys); 0 where all of them are 0.
        body: the numbers; all columns of one byte first, then those of two, byte by byte.
        error: largest error of a number as a share of the largest in its row and in its column.
    """

    shape: tuple[int, int, int, int]
    steps: np.ndarray
    sizes: np.ndarray
    body: bytes
    error: float


def pack_attention(pairs: Sequence[tuple[Tensor, Tensor]]) -> PackedAttention:
    """Round the queries and keys of one image.

    Args:
        pairs: over layers, `(1,H,T,K)` twice, as `queries_keys` or `pooled_pairs` give them.
    """
    layers, heads, tokens = len(pairs), pairs[0][0].shape[1], pairs[0][0].shape[2]
    rounded, step, worst = [], 0.02, 0.0
    for q, k in pairs:
        for head in range(heads):
            numbers, steps, step, error = _round_head(q[0, head], k[0, head], step)
            rounded.append((numbers, steps))
            worst = max(worst, error)
    rank = max(steps.size for _, steps in rounded)
    all_steps = np.zeros((layers * heads, rank), np.float32)
    sizes = np.zeros((layers * heads, 2, rank), np.uint8)
    planes: dict[int, list[np.ndarray]] = {size: [] for size in (1, 2, 3, 4)}
    for at, (numbers, steps) in enumerate(rounded):
        all_steps[at, : steps.size] = steps
        for side in (0, 1):
            for direction, column in enumerate(numbers[side].T):
                size = _bytes_for(column)
                sizes[at, side, direction] = size
                if size:
                    planes[size].append(column)
    body = b"".join(_by_byte(np.array(columns), size) for size, columns in planes.items())
    return PackedAttention(
        (layers, heads, tokens, rank),
        all_steps.reshape(layers, heads, rank),
        sizes.reshape(layers, heads, 2, rank),
        body,
        worst,
    )


def unpack_head(packed: PackedAttention, layer: int, head: int) -> np.ndarray:
    """The `(T,T)` attention of one head, as the page computes it."""
    layers, heads, tokens, rank = packed.shape
    sizes = packed.sizes.reshape(layers * heads, 2, rank)
    at, start = 0, {}
    for size in (1, 2, 3, 4):
        start[size] = at
        at += size * tokens * int((sizes == size).sum())
    found = np.zeros((2, tokens, rank))
    body = np.frombuffer(packed.body, np.uint8)
    for size in (1, 2, 3, 4):
        columns = int((sizes == size).sum())
        before = int((sizes[: layer * heads + head] == size).sum())
        for side in (0, 1):
            for direction in np.flatnonzero(sizes[layer * heads + head, side] == size):
                total = np.zeros(tokens, np.int64)
                for byte in range(size):
                    first = start[size] + (byte * columns + before) * tokens
                    part = body[first : first + tokens].astype(np.int64)
                    total += part << (8 * byte)
                top = 1 << (8 * size - 1)
                found[side, :, direction] = (total ^ top) - top  # the sign
                before += 1
    logits = (found[0] * packed.steps[layer, head].astype(np.float64) ** 2) @ found[1].T
    return _softmax(torch.from_numpy(logits)).numpy()


def pooled_pairs(
    pairs: Sequence[tuple[Tensor, Tensor]], grid: Size, prefix: int, pool: int
) -> list[tuple[Tensor, Tensor]]:
    """Pairs whose attention is that of cells of `pool` x `pool` patches.

    A cell's row is the mean over its patches as queries, its column the sum over its patches as
    keys, so that rows still sum to 1. The prefix tokens stay as they are. (Sums over queries are
    enough here: the softmax that follows divides them.)
    """
    cells = cell_numbers(grid, prefix, pool)
    count = int(cells.max()) + 1
    belongs = torch.nn.functional.one_hot(cells, count).double()  # (T,cells)
    pooled = []
    for q, k in pairs:
        logs = torch.stack(
            [
                (belongs.T @ _softmax(one_q.double() @ one_k.double().T) @ belongs).log()
                for one_q, one_k in zip(q[0], k[0])
            ]
        )
        pooled.append(
            (logs[None], torch.eye(count, dtype=torch.float64).expand(1, len(logs), -1, -1))
        )
    return pooled


def cell_numbers(grid: Size, prefix: int, pool: int) -> Tensor:
    """`(T)`: which cell each token belongs to; prefix tokens are cells of their own."""
    y, x = torch.meshgrid(*(torch.arange(side) // pool for side in grid), indexing="ij")
    cells = prefix + y * patch_grid(grid, pool)[1] + x
    return torch.cat([torch.arange(prefix), cells.flatten()])


def pooled_tokens(units: Tensor, grid: Size, pool: int) -> Tensor:
    """`(L,N,D)` of length 1 -> `(L,cells,D)` of length 1: the mean token of every cell."""
    cells = cell_numbers(grid, 0, pool)
    sums = torch.zeros(len(units), int(cells.max()) + 1, units.shape[2])
    return torch.nn.functional.normalize(sums.index_add(1, cells, units), dim=-1)


def few_directions(units: Tensor, accuracy: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of length 1 in the fewest numbers that keep every cosine within `accuracy`.

    Turned to their principal directions, what the last of them add to a cosine is at most the
    largest squared length that a token has along them.

    Args:
        units: `(L,N,D)`.

    Returns:
        `(L,N,R)` int8 and the step `(L)` float32 that each block's numbers count in.
    """
    turned = []
    for tokens in units.double():
        _, vectors = torch.linalg.eigh(tokens.T @ tokens)
        turned.append(tokens @ vectors.flip(1))
    whole = torch.stack(turned)
    behind = whole.square().flip(2).cumsum(2).flip(2).amax((0, 1))  # of directions d, d + 1, ...
    whole = whole[:, :, : int((behind > accuracy).sum())]
    steps = whole.abs().amax((1, 2)) / 127
    numbers = (whole / steps[:, None, None]).round().to(torch.int8)
    return numbers.numpy(), steps.float().numpy()


class Parcel:
    """One file of JSON and arrays: `add` gives what the JSON says of an array, `pack` the bytes.

    Length of the JSON (4 bytes, little end first), the JSON, then the arrays, each starting at a
    multiple of 4 counted from the first of them; all deflated without a header.
    """

    def __init__(self) -> None:
        self._arrays: list[bytes] = []
        self._at = 0

    def add(self, array: np.ndarray | bytes, form: str = "") -> dict[str, Any]:
        """Where the array will be; `form` (u1, i1, i2, f4) by default the array's own."""
        if isinstance(array, bytes):
            array = np.frombuffer(array, np.uint8)
        form = form or array.dtype.str[1:]
        data = np.ascontiguousarray(array.astype("<" + form)).tobytes()
        place = {"at": self._at, "form": form, "shape": list(array.shape)}
        self._arrays.append(data + bytes(-len(data) % 4))
        self._at += len(self._arrays[-1])
        return place

    def pack(self, header: dict[str, Any]) -> bytes:
        text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        return deflate(struct.pack("<I", len(text)) + text + b"".join(self._arrays))


def check_finite(tensors: Sequence[Tensor], what: str) -> None:
    """A network that gives NaN or infinity has nothing to show."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError(
            f"the network's {what} are not finite numbers: its weights or its input hold NaN or "
            "infinity"
        )


def deflate(data: bytes) -> bytes:
    """Deflated without a header, as the browser's `deflate-raw` reads it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _round_head(
    q: Tensor, k: Tensor, step: float
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, float, float]:
    """Whole numbers for q and k `(T,R)`, the steps `(R)`, the step to start the next head with.

    With q @ k^T = U diag(s) V^T, both U sqrt(s) and V sqrt(s) are rounded to multiples of
    step / sqrt(s): every direction then adds the same error to q @ k^T, which takes the fewest bits
    for a given sum of errors. A constant per row does not change a softmax: the mean key goes.
    """
    q, k = q.double(), k.double()
    check_finite([q, k], "queries or keys")
    exact = _softmax(q @ k.T)
    limit = torch.minimum(exact.amax(1, keepdim=True), exact.amax(0, keepdim=True)) * ACCURACY
    k = k - k.mean(0)
    (turn_q, core_q), (turn_k, core_k) = torch.linalg.qr(q), torch.linalg.qr(k)
    left, size, right = torch.linalg.svd(core_q @ core_k.T)
    kept = size > 1e-6 * size[0].clamp(min=1e-9)
    root = size[kept].sqrt()
    left, right = turn_q @ left[:, kept] * root, turn_k @ right.T[:, kept] * root
    error = torch.inf
    for attempt in range(40):
        steps = (step / root).float().double()
        numbers = (left / steps).round(), (right / steps).round()
        found = _softmax((numbers[0] * steps) @ (numbers[1] * steps).T)
        error = ((found - exact).abs() / limit).max().item()
        if error <= 0.98 and (error >= 0.75 or attempt >= 3 or not len(root)):
            break
        step *= min(max(0.9 / max(error, 1e-9), 0.01), 4.0)
    else:
        raise ValueError(
            f"no rounding of a head's queries and keys keeps its attention within {ACCURACY:.4f} "
            f"(error {error * ACCURACY:.2g}); choose larger cells with pool=2"
        )
    used = (numbers[0].abs().amax(0) > 0) & (numbers[1].abs().amax(0) > 0)
    whole = numbers[0][:, used].long().numpy(), numbers[1][:, used].long().numpy()
    return whole, steps[used].float().numpy(), step, error * ACCURACY


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _bytes_for(column: np.ndarray) -> int:
    largest = max(int(column.max()), -int(column.min()) - 1)
    return 0 if not column.any() else largest.bit_length() // 8 + 1


def _by_byte(columns: np.ndarray, size: int) -> bytes:
    """All lowest bytes first, then the next ones: the deeper bytes are nearly all the same."""
    if not columns.size:
        return b""
    whole = columns.astype("<i8").view(np.uint8).reshape(*columns.shape, 8)
    return b"".join(whole[..., byte].tobytes() for byte in range(size))
