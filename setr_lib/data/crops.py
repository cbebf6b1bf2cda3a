"""A training crop as a handful of numbers, and the tensor operations that cut it.

The numbers are drawn where the label is (`TrainTransform.draw`); the pixels are computed wherever
they lie: scale, crop and flip are one bilinear reading of the image, colours a few products. Images
travel as uint8 and are normalised here, once, on the device.
"""

# B batch, H W image rows and columns, h w crop rows and columns

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Size
from ..images import MEAN, STD

STRIP = 96  # rows whose colours a CPU turns at a time: larger pieces of memory are slow to get


class Crop(NamedTuple):
    """What is done to an image: all that chance decides about one crop.

    Args:
        rows, cols: size of the scaled image that the crop is a window of.
        top, left: of the window.
        flip: 1 mirrors the window left to right.
        brightness: what is added, of 255.
        early: contrast before saturation and hue, a factor.
        saturation: a factor.
        hue: turn, in sixths of the circle.
        late: contrast after saturation and hue, a factor.
    """

    rows: int
    cols: int
    top: int = 0
    left: int = 0
    flip: int = 0
    brightness: float = 0.0
    early: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    late: float = 1.0


class Uncut(NamedTuple):
    """A batch before its crops are cut, as it travels to the device.

    Args:
        pixels: the uint8 pixels of all images, one after the other; empty if the device has them.
        sizes: rows and columns of each image.
        places: number of each image in the data set.
        numbers: `(B,10)` float32, a row for each `Crop`.
    """

    pixels: Tensor
    sizes: list[Size]
    places: list[int]
    numbers: Tensor

    def images(self, kept: Mapping[int, Tensor], device: torch.device) -> list[Tensor]:
        """The images `(H,W,3)` uint8, on the device."""
        if not self.pixels.numel():
            return [kept[place] for place in self.places]
        pixels = self.pixels.to(device, non_blocking=device.type == "cuda")
        parts = pixels.split([3 * rows * cols for rows, cols in self.sizes])
        return [part.view(*size, 3) for part, size in zip(parts, self.sizes)]


def as_rows(crops: Sequence[Crop]) -> Tensor:
    """Crops as they travel, `(B,10)` float32."""
    return torch.tensor(crops, dtype=torch.float32)


@torch.no_grad()
def cut(images: Tensor, numbers: Tensor, size: Size) -> Tensor:
    """Crops of images of one size, normalised.

    Computed in float32 from the image's 8 bits to the end, without rounding in between. On the
    CPU a crop is cut alone or with others to the same bits; a GPU's agree within 0.05 of 255.

    Args:
        images: `(B,H,W,3)` uint8, on any device.
        numbers: `(B,10)` from `as_rows`, on the same one.
        size: rows and columns of the crops.

    Returns:
        `(B,3,h,w)` float32; right of the scaled image and below it 0, the mean colour.
    """
    if images.device.type == "cpu" and len(images) > 1:  # alone they stay in the caches
        return torch.cat([cut(*one, size) for one in zip(images.split(1), numbers.split(1))])
    rows, cols, top, left, flip = numbers[:, :5].unbind(1)
    y, below = _coordinates(rows, top, images.shape[1], size[0])
    x, beyond = _coordinates(cols, left, images.shape[2], size[1], flip)
    places = x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])
    source = images.permute(0, 3, 1, 2).float()
    pixels = F.grid_sample(source, torch.stack(places, 3), align_corners=False)
    pixels = distort(pixels, *as_factors(numbers[:, 5:]))
    for channel, mean, std in zip(pixels.unbind(1), MEAN, STD):
        channel.sub_(mean).div_(std)  # as tensors they would have to be sent, and be waited for
    if images.device.type == "cpu" and not (below.any() or beyond.any()):
        return pixels
    return pixels.masked_fill_((below[:, :, None] | beyond[:, None])[:, None], 0.0)


def as_factors(colours: Tensor) -> Any:
    """The colours of `(B,5)` crops as `distort` takes them: floats on a host, where B is 1."""
    return colours[0].tolist() if colours.device.type == "cpu" else colours.T[..., None, None, None]


def _coordinates(
    scaled: Tensor, start: Tensor, source: int, count: int, flip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where each of `count` pixels of a crop is read, `(B,count)` from -1 to 1, and which pixels
    lie outside. Pixel centres: pixel i of the scaled image is at (i + 1/2) / scaled of its side."""
    place = torch.arange(count, device=scaled.device, dtype=scaled.dtype).expand(len(scaled), -1)
    inside = (scaled - start).clamp(max=count)[:, None]
    outside = place >= inside
    if flip is not None:
        place = torch.where(flip[:, None] > 0, inside - 1 - place, place)
    middle = 1 - 1 / source  # of the last pixel; what lies beyond it reads that
    return ((place + start[:, None] + 0.5) * (2 / scaled[:, None]) - 1).clamp(
        -middle, middle
    ), outside


def cut_batch(
    images: Sequence[Tensor], numbers: Tensor, size: Size, cut: Callable[..., Tensor] = cut
) -> Tensor:
    """As `cut`, of images `(H,W,3)` whose sizes may differ: then one by one."""
    if len({image.shape for image in images}) == 1:
        return cut(torch.stack(list(images)), numbers, size)
    pairs = zip(images, numbers.split(1))
    return torch.cat([cut(image[None], row, size) for image, row in pairs])


def distort(
    pixels: Tensor, brightness: Any, early: Any, saturation: Any, hue: Any, late: Any
) -> Tensor:
    """Images `(B,3,h,w)`, 0 to 255, with the colours that the last five numbers of `Crop` say.

    What mmsegmentation's `PhotoMetricDistortion` does, without its rounding to 8 bits between the
    steps. Numbers on a device are `(B,1,1,1)`; a host's are floats, so that steps that change
    nothing can be passed over. Works in place.
    """
    if _changes(brightness, 0):
        pixels = pixels.add_(brightness).clamp_(0, 255)
    if _changes(early, 1):
        pixels = pixels.mul_(early).clamp_(max=255)
    if _changes(saturation, 1) or _changes(hue, 0):
        for strip in pixels.split(STRIP if pixels.device.type == "cpu" else pixels.shape[2], 2):
            strip.copy_(turn_colours(strip, saturation, hue))
    if _changes(late, 1):
        pixels = pixels.mul_(late).clamp_(max=255)
    return pixels


def _changes(value: Any, neutral: float) -> bool:
    return isinstance(value, Tensor) or value != neutral


def turn_colours(pixels: Tensor, saturation: Any, hue: Any) -> Tensor:
    """Saturation times a factor and hue turned, as in HSV, of `(B,3,h,w)` pixels.

    With V the largest channel and C the largest less the smallest, HSV's S is C / V: saturation
    changes C alone, at most to V. A channel stands at V - C + C share. Its share is 1 up to one
    sixth of the circle from its own hue, 0 from two sixths on, and between them falls evenly; so
    from the three shares s a pixel's hue is 1 - s0 + s1 + s2 sixths away from channel 0.
    """
    red, green, blue = pixels.split(1, 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    scale = chroma.clamp(min=1e-3).reciprocal_()
    total = (red + green).add_(blue).sub_(least, alpha=3).mul_(scale).add_(1)  # 1 + s0 + s1 + s2
    scale.mul_(2)
    chroma = torch.minimum(chroma.mul_(saturation), value)
    floor = value.sub_(chroma)
    turned = torch.empty_like(pixels)
    channels = ((red, green, blue), (green, blue, red), (blue, red, green))
    for (own, second, third), out in zip(channels, turned.split(1, 1)):
        out.copy_(own).sub_(least).mul_(scale).neg_().add_(total)  # 1 - s0 + s1 + s2
        out.copysign_(second - third).add_(hue).abs_().neg_().add_(2)
        out.clamp_(0, 1).mul_(chroma).add_(floor)
    return turned
