"""Files of any kind become one form of array, or an error that names them."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from setr_lib.data.files import check_labels, read_label, read_pair, read_text
from setr_lib.images import BAND, read_image


def save(path, array, mode=None, **options):
    image = Image.fromarray(np.asarray(array))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def grey_png(path, values, bits):
    """A grey PNG of 1, 2, 4, 8 or 16 bits by the format's definition, without Pillow."""
    height, width = values.shape
    cells = (values[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(cells.reshape(height, -1).astype(np.uint8), axis=1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return write_png(path, struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0), body)


def write_png(path, head, body):
    chunks = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )
    return path


COLOUR = np.arange(60, dtype=np.uint8).reshape(4, 5, 3) * 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK", "YCbCr"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    """White stays white; the size is rows, columns."""
    ending = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    found = read_image(save(tmp_path / f"x.{ending}", np.full((5, 4, 3), 255, np.uint8), mode))
    assert found.dtype == np.uint8 and found.shape == (5, 4, 3) and (found == 255).all()


def test_transparency_is_dropped(tmp_path):
    """The colours of an RGBA image are those under the transparency, not mixed with anything."""
    alpha = np.linspace(0, 255, 20).astype(np.uint8).reshape(4, 5, 1)
    path = save(tmp_path / "x.png", np.concatenate([COLOUR, alpha], 2))
    assert np.array_equal(read_image(path), COLOUR)


def test_palette_images_have_the_palettes_colours(tmp_path):
    indices = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    indices.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    indices.save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png")[1].tolist() == [[70, 80, 90], [40, 50, 60]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 255, 256, 300], [1000, 32768, 65000, 65535]])
    for path in (
        grey_png(tmp_path / "x.png", values, 16),
        save(tmp_path / "y.tif", values.astype(np.uint16)),
        save(tmp_path / "z.tif", values.astype(np.int32)),
    ):
        assert np.array_equal(read_image(path), np.repeat((values // 256)[..., None], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photographs_orientation_is_obeyed(tmp_path, orientation):
    """All eight cases of the EXIF standard, built by the inverse turn."""
    flip, turn = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose
    stored = {
        1: [], 2: [flip], 3: [turn.ROTATE_180], 4: [turn.FLIP_TOP_BOTTOM], 5: [turn.TRANSPOSE],
        6: [turn.ROTATE_90], 7: [turn.TRANSVERSE], 8: [turn.ROTATE_270],
    }[orientation]  # fmt: skip
    image = Image.fromarray(COLOUR)
    for step in stored:
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "x.png"), COLOUR)


def test_a_label_that_was_not_turned_is_named(tmp_path):
    """Rows and columns are those of the upright photograph; the message says why they differ."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = save(tmp_path / "x.jpg", COLOUR, exif=exif)
    label = save(tmp_path / "x.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="x.jpg is 5x4 pixels, its label .*x.png 4x5.*EXIF"):
        read_pair(image, label)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(image)))
    upright = save(tmp_path / "y.png", np.zeros((5, 4), np.uint8))
    assert np.array_equal(read_pair(image, upright)[0], turned)
    with pytest.raises(ValueError, match="same size$"):  # square or not, no EXIF: no such hint
        read_pair(save(tmp_path / "z.png", COLOUR), upright)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("height", [BAND - 1, BAND, 2 * BAND + 3])
def test_tall_pictures_are_read_in_bands(tmp_path, mode, height):
    """Band by band, the pixels are those of the whole picture converted at once."""
    values = np.random.default_rng(0).integers(0, 256, (height, 3, 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
        wanted = values[..., :1].repeat(3, 2)
    else:
        image = Image.fromarray(values).convert(mode)
        wanted = np.array(image.convert("RGB"))
    image.save(tmp_path / "x.tif")
    assert np.array_equal(read_image(tmp_path / "x.tif"), wanted)


def test_a_tiff_is_turned_once(tmp_path):
    """Pillow turns a TIFF when it loads it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "x.tif", exif=exif)
    assert np.array_equal(read_image(tmp_path / "x.tif"), np.rot90(COLOUR, -1))


def test_a_fourth_band_of_unknown_meaning_is_refused(tmp_path):
    """Near infrared beside red, green, blue; what is declared as transparency is dropped."""
    alpha = np.full((4, 5, 1), 255, np.uint8)
    path = save(tmp_path / "x.tif", np.concatenate([COLOUR, alpha], 2))
    assert np.array_equal(read_image(path), COLOUR)
    says = [struct.pack("<HHIHH", 338, 3, 1, meaning, 0) for meaning in (2, 0)]
    assert says[0] in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(*says))
    for reader in (read_image, read_label):
        with pytest.raises(ValueError, match="x.tif .*4 bands.*infrared.*save the bands"):
            reader(path)


@pytest.mark.parametrize(
    "head, words",
    [
        (b"GIF89a", "GIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\x93NUMPY\1\0", "NumPy"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"II*\0\x08\0\0\0\0\0", "TIFF"),
    ],
)
@pytest.mark.parametrize("reader", [read_image, read_label])
def test_other_kinds_are_called_by_their_names(tmp_path, reader, head, words):
    """Whatever the file's name; nothing but the five formats is tried."""
    (tmp_path / "x.png").write_bytes(head + bytes(64))
    with pytest.raises(ValueError, match=f"x.png cannot be read .*{words}"):
        reader(tmp_path / "x.png")


def test_no_reader_of_pillow_that_starts_programs_is_asked(tmp_path, monkeypatch):
    save(tmp_path / "x.eps", COLOUR)
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("was called"))
    with pytest.raises(ValueError, match="PostScript"):
        read_image(tmp_path / "x.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / "x.png")
    with pytest.raises(ValueError, match="x.png is a folder or a special file"):
        read_image(tmp_path / "x.png")


def test_the_limit_of_pixels_can_be_lifted(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(ValueError, match="x.png .*20 pixels.*SETR_MAX_PIXELS"):
        read_image(path)
    monkeypatch.setenv("SETR_MAX_PIXELS", "20")
    assert np.array_equal(read_image(path), COLOUR)
    monkeypatch.setenv("SETR_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="SETR_MAX_PIXELS is 'many'"):
        read_image(path)


# ---- labels


@pytest.mark.parametrize(
    "ending, options",
    [
        ("jpg", {}),
        ("webp", {}),
        ("webp", {"exif": Image.Exif()}),
        ("tif", {"compression": "jpeg"}),
    ],
)
@pytest.mark.parametrize("name", ["x.png", "x.{}"])
def test_labels_that_lost_something_are_refused(tmp_path, ending, options, name):
    """By the content, whatever the name says: such a file has values that nobody wrote."""
    path = save(tmp_path / f"a.{ending}", np.full((4, 5, 3), 3, np.uint8), **options)
    path = path.rename(tmp_path / name.format(ending))
    with pytest.raises(ValueError, match=f"{path.name} cannot be read .*with loss.*save .*PNG"):
        read_label(path)


@pytest.mark.parametrize(
    "ending, options",
    [
        ("png", {}),
        ("bmp", {}),
        ("webp", {"lossless": True}),
        ("webp", {"lossless": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("tif", {"compression": "tiff_adobe_deflate"}),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_three_equal_channels_are_one(tmp_path, mode, ending, options):
    """A grey label saved as RGB or RGBA holds class numbers; lossless WebP has no other way."""
    values = np.random.default_rng(0).choice([0, 3, 7, 255], (9, 11)).astype(np.uint8)
    path = save(tmp_path / f"x.{ending}", values, mode, **options)
    assert np.array_equal(read_label(path), values)


def test_colours_are_read_where_they_are_named(tmp_path):
    """Black and white are colours too: they go before three equal channels."""
    colours = ((0, 0, 0), (255, 255, 255), (128, 64, 128))
    values = np.random.default_rng(0).integers(0, 3, (9, 11)).astype(np.uint8)
    path = save(tmp_path / "x.png", np.array(colours, np.uint8)[values])
    assert np.array_equal(read_label(path, colours), values)
    save(path, np.array(colours, np.uint8)[values], "RGBA")
    assert np.array_equal(read_label(path, colours), values)
    save(path, values, "RGB")  # numbers all the same
    assert np.array_equal(read_label(path, colours), values)
    with pytest.raises(
        ValueError, match=r"x.png .*no class has: \(1 1 1\), \(2 2 2\).*classes.txt"
    ):
        read_label(save(path, values, "RGB"), colours[:2])


def test_labels_of_sixteen_bits_in_colours_are_refused(tmp_path):
    """Pillow keeps the upper eight bits of each channel: every class would be 0."""
    body = zlib.compress(b"".join(b"\0" + struct.pack(">12H", *[3] * 12) for _ in range(4)))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    write_png(tmp_path / "x.png", head, body)
    with pytest.raises(ValueError, match="x.png .*16 bits"):
        read_label(tmp_path / "x.png")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_labels_of_any_depth_are_numbers(tmp_path, bits):
    """Pillow spreads 2 and 4 bits over 0 to 255; a label 3 must stay 3."""
    values = np.random.default_rng(0).integers(0, min(2**bits, 256), (5, 7))
    found = read_label(grey_png(tmp_path / "x.png", values, bits))
    assert found.dtype == np.uint8 and np.array_equal(found, values)


def test_palette_labels_are_indices(tmp_path):
    values = np.array([[0, 3], [255, 1]], np.uint8)
    label = Image.fromarray(values)
    label.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    label.save(tmp_path / "x.png")
    assert np.array_equal(read_label(tmp_path / "x.png"), values)


@pytest.mark.parametrize(
    "array, words",
    [
        (np.full((4, 5), 300, np.uint16), "labels go from 300 to 300; class numbers are 0 to 255"),
        (COLOUR, r"mode RGB and colours that no class has: \(0 4 8\).* save a grey"),
        (np.zeros((4, 5, 4), np.uint8), "transparent"),
        (np.zeros((4, 5, 2), np.uint8), "transparent"),
    ],
)
def test_a_label_that_holds_no_numbers_is_named(tmp_path, array, words):
    with pytest.raises(ValueError, match=f"x.png cannot be read .*{words}"):
        read_label(save(tmp_path / "x.png", array))


@pytest.mark.parametrize(
    "reader, ending", [*((read_image, e) for e in ("png", "jpg", "tif")), (read_label, "png"),
                       (read_label, "tif")]
)  # fmt: skip
def test_a_truncated_file_is_named(tmp_path, reader, ending):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    path = save(tmp_path / f"x.{ending}", noise)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=f"x.{ending} cannot be read .*restore"):
        reader(path)


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "x.png").write_text("not an image")
    with pytest.raises(ValueError, match="x.png cannot be read"):
        read_image(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError, match="y.png"):
        read_image(tmp_path / "y.png")
    save(tmp_path / "z.tif", np.zeros((4, 5), np.float32))
    with pytest.raises(ValueError, match="z.tif cannot be read .*floating-point"):
        read_image(tmp_path / "z.tif")
    save(tmp_path / "w.tif", np.full((4, 5), 70000, np.int32))
    with pytest.raises(ValueError, match="w.tif cannot be read .*from 70000 to 70000"):
        read_image(tmp_path / "w.tif")


def test_floating_point_labels_are_told_to_become_integers(tmp_path):
    with pytest.raises(ValueError, match="x.tif .*floating-point.*integers"):
        read_label(save(tmp_path / "x.tif", np.zeros((4, 5), np.float32)))


def test_labels_that_may_count_from_one_are_told_so():
    with pytest.raises(ValueError, match="x.png holds the label 3; .*count from 1"):
        check_labels(np.array([[1, 2, 3]], np.uint8), 3, "x.png")
    with pytest.raises(ValueError, match="x.png holds the label 3; .*classes$"):
        check_labels(np.array([[0, 2, 3]], np.uint8), 3, "x.png")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_is_read_in_any_encoding_that_says_which(tmp_path, encoding, end):
    (tmp_path / "x.txt").write_bytes(f"Straße{end}道路{end}".encode(encoding))
    assert read_text(tmp_path / "x.txt") == "Straße\n道路\n"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gbk", "cp437"])
def test_text_in_another_encoding_is_named(tmp_path, encoding):
    word = "道路" if encoding == "gbk" else "Straße"
    (tmp_path / "x.txt").write_bytes(word.encode(encoding))
    with pytest.raises(ValueError, match="x.txt is not in UTF-8.*save it as UTF-8"):
        read_text(tmp_path / "x.txt")


def test_values_that_are_no_class_are_listed():
    label = np.array([[0, 18, 255], [200, 19, 200]], np.uint8)
    check_labels(label[:1], 19, "x.png")
    with pytest.raises(ValueError, match="x.png holds the label 19, 200; known are 0 to 18"):
        check_labels(label, 19, "x.png")
