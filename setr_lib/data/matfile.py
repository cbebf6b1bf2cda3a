"""One array out of a MATLAB file of version 5: all that Pascal Context's archive needs.

SciPy's reader ends the whole process on some damaged files; numpy checks every length here.
Format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MATRIX, COMPRESSED = 14, 15  # types of elements; the others that matter hold numbers:
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
LARGEST = 1 << 28  # bytes of an unpacked element


def read_mat(file: Path, name: str) -> np.ndarray:
    """The two-dimensional array of whole numbers called `name`, as uint16.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another version, or has no such array.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    data = file.read_bytes()
    try:
        if data[126:128] != b"IM" or data[124:126] != b"\0\1":
            raise ValueError("no little-endian MATLAB file of version 5")
        for kind, content in _elements(data[128:]):
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(content, LARGEST)
                kind, content = next(_elements(unpacked))
            if kind == MATRIX and (array := _matrix(content, name)) is not None:
                return array
        raise ValueError(f"it has no array {name}")
    except (ValueError, KeyError, StopIteration, zlib.error) as error:
        raise ValueError(f"{file} cannot be read ({error}); restore the file") from error


def _matrix(content: bytes, name: str) -> np.ndarray | None:
    """The array, or None if it has another name."""
    parts = _elements(content)
    next(parts)  # flags: the class of the array; the type of the numbers says enough
    (_, shape), (_, title) = next(parts), next(parts)
    if title.decode("latin-1") != name:
        return None
    kind, numbers = next(parts)
    rows, cols = np.frombuffer(shape, "<i4").tolist()
    values = np.frombuffer(numbers, "<" + NUMBERS[kind]).reshape(cols, rows).T  # columns first
    if values.size == 0 or values.min() < 0 or values.max() > 65535 or (values % 1).any():
        raise ValueError("its values are no whole numbers from 0 to 65535")
    return values.astype(np.uint16)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of one element after the other."""
    at = 0
    while at + 8 <= len(data):
        kind, size = np.frombuffer(data, "<u4", 2, at).tolist()
        begin = at + 8
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, size, begin = kind & 0xFFFF, kind >> 16, at + 4
        end = begin + size
        if end > len(data) or (begin == at + 4 and size > 4):
            raise ValueError("it ends too early")
        yield kind, data[begin:end]
        at = end if kind == COMPRESSED else -(-end // 8) * 8
    if at == 0:
        raise ValueError("it is empty")
