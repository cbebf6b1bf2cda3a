"""Malformed pictures, labels and lists for tests/test_fuzz.py."""

import functools
import io
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from fuzz_checkpoints import own
from fuzz_inputs import MUTATIONS, Case, Content, chance, command, encoded, mutate, picture
from fuzz_inputs import wrong_unless as check
from PIL import Image
from scipy.io import savemat

from setr_lib.data import classes as names
from setr_lib.data.check import check_dataset
from setr_lib.data.load import load_dataset
from setr_lib.images import read_image

# ---- pictures

ENCODINGS = {
    "PNG": "1 L LA P RGB RGBA I;16", "JPEG": "L RGB CMYK", "TIFF": "L RGB I;16 F CMYK",
    "BMP": "L RGB", "WEBP": "RGB RGBA", "GIF": "P", "PPM": "RGB", "ICO": "RGB", "TGA": "RGB",
}  # fmt: skip


def see(path: str, size: tuple[int, ...] | None = None) -> None:
    """`read_image`: rows, columns and three colours of 8 bits; of `size` where that is known."""
    found = read_image(path)
    right = found.ndim == 3 and found.shape[2] == 3 and found.dtype == np.uint8 and found.size > 0
    check(right and size in (None, found.shape[:2]), f"reads {found.shape} {found.dtype}")


def png(rows: int, cols: int, bits: int = 8, colour: int = 2, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of zeros, a few kB whatever its size; `extra` chunks stand before the pixels."""
    line = 1 + -(-cols * bits * {0: 1, 2: 3}[colour] // 8)
    press = zlib.compressobj(9)
    pixels = b"".join(press.compress(bytes(line)) for _ in range(min(rows, 20_000))) + press.flush()
    header = struct.pack(">IIBBBBB", cols, rows, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nx\n%%EOF\n"
EXIF = (
    b"\xff\xd8\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\x06\0\0\0"
)
STRANGE: dict[str, Content] = {
    "empty": b"", "text": b"no picture", "html": b"<html>404</html>" * 99, "zeros": bytes(9999),
    "PostScript": POSTSCRIPT,
    "PostScript, DOS": b"\xc5\xd0\xd3\xc6\x1e\0\0\0" + bytes(22) + POSTSCRIPT,
    "13000 x 13000": png(13_000, 13_000),
    "60000 x 60000": png(60_000, 60_000), "2^31 rows": png(2**31 - 1, 1), "no rows": png(0, 5),
    "16 bits": png(30, 40, 16), "1 bit": png(30, 40, 1, 0),
    "text bomb": png(30, 40, 8, 2, (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27)))),
    "colour profile": png(30, 40, 8, 2, (b"iCCP", b"a\0\0" + zlib.compress(b"x" * 99))),
    "no end of EXIF": EXIF + encoded("RGB", "JPEG")[2:],
    "a pipe": os.mkfifo, "a folder": os.mkdir, "a link to itself": lambda p: os.symlink(p.name, p),
    "a link to zeros": lambda path: os.symlink("/dev/zero", path), "missing": lambda path: None,
    "a link to nothing": lambda path: os.symlink("nothing", path),
}  # fmt: skip


def pictures() -> Iterator[Case]:
    kinds = [(form, mode) for form, modes in ENCODINGS.items() for mode in modes.split()]
    for n, (form, mode) in enumerate(kinds):
        data = encoded(mode, form)
        floats = mode == "F"
        size = None if form == "ICO" else (30, 40)
        call = functools.partial(see, "a.png", size)
        yield Case(f"{form} {mode}", {"a.png": data}, (call,), "fail" if floats else "")
        for k in range(2):
            rng = chance(10 * n + k)
            how = str(rng.choice(MUTATIONS[1:]))
            call = functools.partial(see, "a.png")
            yield Case(f"{form} {mode}, {how} {k}", {"a.png": mutate(data, how, rng)}, (call,))
    predict = command(
        "predict", "a.png", "--checkpoint", "net", "--out", "b.png", "--device", "cpu"
    )
    for name, content in STRANGE.items():
        calls = (functools.partial(see, "a.png"), predict)[: 1 if "13000" in name else 2]
        files: dict[str, Content] = {"a.png": content, "net": own()}
        yield Case(name, files, calls, "", ("a.png",), ("b.png",))


# ---- labels

LABEL = np.random.default_rng(0).integers(0, 8, (5, 6)).astype(np.uint8).repeat(6, 0).repeat(7, 1)
LABEL[:6, :7] = 255


def folder(label: Content, classes: bytes = b"a\nb\nc\nd\ne\nf\ng\nh\n") -> dict[str, Content]:
    photograph = encoded("", "PNG", picture("RGB", LABEL.shape[::-1]))
    return {"d/images/a.png": photograph, "d/labels/a.png": label, "d/classes.txt": classes}


def read_folder(where: str = ".") -> None:
    label = load_dataset(f"folder:{where}/d", "train")[0][1]
    check(np.array_equal(label, LABEL), f"reads other labels: {np.unique(label)[:12]}")


def check_folder() -> None:
    for problem in check_dataset("folder:d", "train", progress=False).problems:
        raise ValueError(problem)


def labels() -> Iterator[Case]:
    def case(name: str, data: Content, must: str = "") -> Case:
        return Case(name, folder(data), (read_folder, check_folder), must, ("a.png",))

    grey = Image.fromarray(LABEL)
    yield case("healthy", encoded("", "PNG", grey), "work")
    palette = grey.copy()
    palette.putpalette(np.random.default_rng(0).bytes(768))
    wide = LABEL.astype(np.uint16)
    for name, image, form, options in (
        ("palette", palette, "PNG", {}), ("16 bits", Image.fromarray(wide), "PNG", {}),
        ("above 255", Image.fromarray(wide * 99), "PNG", {}), ("tiff", grey, "TIFF", {}),
        ("jpeg", grey, "JPEG", {}), ("best jpeg", grey, "JPEG", {"quality": 100}),
        ("webp", grey, "WEBP", {}), ("lossless webp", grey, "WEBP", {"lossless": True}),
        ("jpeg in tiff", grey, "TIFF", {"compression": "jpeg"}), ("gif", grey, "GIF", {}),
        ("lzw", grey, "TIFF", {"compression": "tiff_lzw"}), ("bmp", grey, "BMP", {}),
        ("colours", grey.convert("RGB"), "PNG", {}), ("blue", grey.convert("YCbCr"), "TIFF", {}),
        ("alpha", grey.convert("LA"), "PNG", {}),
        ("turned", grey.rotate(90, expand=True), "PNG", {}),
        ("floats", Image.fromarray(LABEL.astype(np.float32)), "TIFF", {}),
        ("negative", Image.fromarray(-LABEL.astype(np.int32)), "TIFF", {}),
        ("a class too many", Image.fromarray(LABEL + (LABEL == 7)), "PNG", {}),
    ):  # fmt: skip
        yield case(name, encoded("", form, image, **options))
    for n in range(24):
        how = MUTATIONS[1 + n % 8]
        yield case(f"{how} {n}", mutate(encoded("", "PNG", grey), how, chance(n)))
    for name in ("a pipe", "a folder", "a link to itself", "PostScript"):
        yield case(name, STRANGE[name], "fail")


# ---- lists

LIST = b"road 1 2 3\nthe sky 4 5 6\nbus 7 8 9\n"
LISTS = {
    "healthy": LIST, "BOM": b"\xef\xbb\xbf" + LIST, "CRLF": LIST.replace(b"\n", b"\r\n"),
    "UTF-16": LIST.decode().encode("utf-16"), "Latin-1": LIST.replace(b"bus", b"b\xfcs"),
    "empty": b"", "blank lines": b"\n\n\n", "NUL": LIST.replace(b"bus", b"b\0s"),
    "form feed": LIST.replace(b"bus", b"b\fs"), "NEL": LIST.replace(b"bus", b"b\xc2\x85s"),
    "line separator": LIST.replace(b"bus", b"b\xe2\x80\xa8s"), "vertical tab": b"a\x0bb\nc\nd\n",
    "escape": LIST.replace(b"bus", b"\x1b]0;title\x07"), "twice": LIST + LIST,
    "big colour": LIST.replace(b"9", b"999"), "5000 digits": LIST.replace(b"9", b"9" * 5000),
    "one without": LIST + b"car\n", "gap": LIST + b"\ncar 1 2 3\n",
    "256": b"%d\n" * 256 % (*range(256),), "40000": b"".join(b"%d\n" % k for k in range(40_000)),
    "plain NEL": b"a\xc2\x85b\nc\nd\n", "a line of 5 MB": b"x" * 5_000_000,
    "10^6 blanks": b" " * 1_000_000 + b"a\nb\nc\n", "digits": b"1 2 3\n4 5 6\n7 8 9\n",
}  # fmt: skip
NUMBERED = b"".join(b"%d: %s\n" % (k, name.encode()) for k, name in enumerate(names.PASCAL_CONTEXT))
TABLES = {
    "healthy": NUMBERED, "empty": b"", "blank lines": b"\n" * 100_000, "blanks": b" " * 100_000,
    "huge number": NUMBERED.replace(b"59:", b"10000000000:"),
    "UTF-16": NUMBERED.decode().encode("utf-16"),
    "5000 digits": NUMBERED.replace(b"59:", b"9" * 5000 + b":"), "cut": NUMBERED[:300],
    "Latin-1": NUMBERED + b"60: caf\xe9\n", "twice": NUMBERED + NUMBERED.replace(b"1:", b"2:"),
    "one number for all": b"".join(b"1: %s\n" % n.encode() for n in names.PASCAL_CONTEXT),
}  # fmt: skip


def read_list(data: bytes) -> None:
    """As many names as there are lines; of the healthy ones, exactly these."""
    dataset = load_dataset("folder:d", "train")
    found, lines = dataset.classes, len(data.strip(b"\r\n\0").split(b"\n"))
    check(len(found) == lines == len(dataset.palette), f"reads {len(found)} names, {lines} lines")
    check(all(name.isprintable() and name.strip() for name in found), f"reads names {found}"[:99])
    check(
        not data.strip().endswith(LIST.strip()) or found == ("road", "the sky", "bus"), f"{found}"
    )


def context(table: bytes, label: Content) -> dict[str, Content]:
    top = "r/VOCdevkit/VOC2010"
    photograph = encoded("", "JPEG", picture("RGB", LABEL.shape[::-1]))
    return {
        f"{top}/JPEGImages/a.jpg": photograph, "r/labels.txt": table, "r/trainval/a.mat": label,
        f"{top}/ImageSets/Main/train.txt": b"a\n",
    }  # fmt: skip


def read_context(exact: bool) -> None:
    label = load_dataset("pascal_context", "train", "r")[0][1]
    good = np.where(LABEL == 255, 9, LABEL)
    right = np.array_equal(label, good) if exact else label.shape == LABEL.shape
    check(right and label.dtype == np.uint8, f"reads {label.shape}, {np.unique(label)[:12]}")


def lists() -> Iterator[Case]:
    mutated = {f"{n}": mutate(LIST, MUTATIONS[1 + n % 8], chance(n)) for n in range(16)}
    label = encoded("", "PNG", Image.fromarray(LABEL))
    for name, data in {**LISTS, **mutated}.items():
        calls = (functools.partial(read_list, data),)
        yield Case(f"classes {name}", folder(label, data), calls, "", ("classes.txt",))
    file, good = io.BytesIO(), np.where(LABEL == 255, 9, LABEL).astype(np.uint16)
    savemat(file, {"LabelMap": good})
    mat = file.getvalue()
    for name, data in TABLES.items():
        calls = (functools.partial(read_context, True),)
        yield Case(f"table {name}", context(data, mat), calls, "", ("labels.txt", "a.mat"))
    for n in range(32):  # in the header and the first tags, of which some crash scipy's reader
        at, value = 128 + n * 2, int(chance(n).choice([0, 1, 5, 14, 17, 64, 127, 128, 255]))
        data = mat[:at] + bytes([value]) + mat[at + 1 :]
        calls = (functools.partial(read_context, False),)
        yield Case(f"mat {at} = {value}", context(NUMBERED, data), calls, "", ("a.mat", "a.jpg"))
    for name, data in {"cut": mat[:150], "empty": b"", "HDF5": b"\x89HDF\r\n\x1a\n" * 99}.items():
        calls = (functools.partial(read_context, True),)
        yield Case(f"mat {name}", context(NUMBERED, data), calls, "fail", ("a.mat",))


FAMILIES = {"pictures": pictures, "labels": labels, "lists": lists}
