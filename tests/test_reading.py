"""Files of any kind become one form of array, or an error that names them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from setr_lib.reading import check_labels, read_image, read_label, read_pair


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
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
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
        (np.zeros((4, 5, 3), np.uint8), "mode RGB; a label map has one channel .* save a grey"),
        (np.zeros((4, 5, 4), np.uint8), "mode RGBA"),
        (np.zeros((4, 5, 2), np.uint8), "mode LA"),
    ],
)
def test_a_label_that_holds_no_numbers_is_named(tmp_path, array, words):
    with pytest.raises(ValueError, match=f"x.png cannot be read .*{words}"):
        read_label(save(tmp_path / "x.png", array))


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@pytest.mark.parametrize("reader", [read_image, read_label])
def test_a_truncated_file_is_named(tmp_path, ending, reader):
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


def test_values_that_are_no_class_are_listed():
    label = np.array([[0, 18, 255], [200, 19, 200]], np.uint8)
    check_labels(label[:1], 19, "x.png")
    with pytest.raises(ValueError, match="x.png holds the label 19, 200; known are 0 to 18"):
        check_labels(label, 19, "x.png")
