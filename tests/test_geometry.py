"""Where a pixel is: decided once, tested against the definition."""

import pytest
import torch

from setr_lib.geometry import as_size, pad_to_patches, patch_grid, resize


@pytest.mark.parametrize(
    "size, grid", [((1, 1), (1, 1)), ((16, 17), (1, 2)), ((480, 360), (30, 23))]
)
def test_a_started_patch_counts(size, grid):
    assert patch_grid(size, 16) == grid
    padded = pad_to_patches(torch.ones(1, 3, *size), 16)
    assert padded.shape[-2:] == (16 * grid[0], 16 * grid[1])
    assert padded.sum() == 3 * size[0] * size[1]  # nothing but zeros was added
    assert padded[..., : size[0], : size[1]].min() == 1  # and the image is at the top left


def test_a_ramp_stays_where_it_is():
    """A map that holds its own pixel positions still holds them at the image's size."""
    patch, size = 16, (40, 56)  # neither side is a multiple of 16
    rows, cols = patch_grid(size, patch)
    centres = torch.arange(cols) * patch + (patch - 1) / 2
    ramp = centres.expand(1, 1, rows, cols)
    found = resize(ramp, (rows * patch, cols * patch))[0, 0, 0, : size[1]]
    inside = slice(8, size[1] - 8)  # between the first and the last patch's centre
    torch.testing.assert_close(found[inside], torch.arange(size[1], dtype=torch.float32)[inside])


def test_resize_to_the_same_size_is_the_same_map():
    maps = torch.randn(1, 2, 3, 4)
    assert resize(maps, (3, 4)) is maps


def test_sizes_are_checked():
    assert as_size(7) == (7, 7) and as_size((3, 4)) == (3, 4)
    with pytest.raises(ValueError, match="window is 0x3"):
        as_size((0, 3), "window")


@pytest.mark.parametrize("size", [(224, 448, 3), (224,), 512.0, (1.5, 2), "512", None, True, {}])
def test_what_is_no_size_is_named(size):
    with pytest.raises(ValueError, match="image_size is "):
        as_size(size)
