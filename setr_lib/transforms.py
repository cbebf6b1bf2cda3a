"""From a pair of arrays to what the network reads; for training with random changes.

The authors' order: scale, crop, flip, photometric distortion, normalise, pad. Every random number
of a sample comes from the generator that is passed in, so that a sample is decided by its number
alone and a resumed run sees the same pictures.
"""

# H W image rows and columns, h w crop rows and columns

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .geometry import Size
from .losses import IGNORE

# ImageNet statistics on the 0-255 scale, as in every SETR configuration. The ViT weights were
# trained with 127.5 for all of them; the authors do not use that.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def normalise(image: np.ndarray) -> Tensor:
    """`(H,W,3)` uint8 -> `(3,H,W)` float32 with the ImageNet mean and deviation."""
    pixels = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def denormalise(image: Tensor) -> np.ndarray:
    """The way back, `(3,H,W)` float -> `(H,W,3)` uint8, for pictures."""
    pixels = image.cpu() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class TrainTransform:
    """The training augmentation of a recipe.

    Args:
        crop: rows and columns of the result.
        scale: the base (long side, short side) that a drawn ratio multiplies; the image is fitted
            inside, aspect kept.
        ratios: range of that ratio.
        flip: probability of a horizontal flip.
        photometric: whether colours are distorted.
        max_share: a crop is drawn again, up to ten times, while one class covers more of it.
        whole_scale: whether both sides of scale times ratio are cut to whole pixels before the
            image is fitted inside, as the authors and mmcv do; the sizes differ by a pixel or two.
    """

    crop: Size
    scale: Size
    ratios: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    photometric: bool = True
    max_share: float = 0.75
    whole_scale: bool = False

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """`(H,W,3)` and `(H,W)` uint8 -> `(3,h,w)` float normalised and `(h,w)` int64, h x w the
        crop."""
        ratio = rng.uniform(*self.ratios)
        box = self.scale[0] * ratio, self.scale[1] * ratio
        size = fit_inside(label.shape, (int(box[0]), int(box[1])) if self.whole_scale else box)
        image, label = resize_image(image, size), resize_label(label, size)
        rows, cols = random_crop(label, self.crop, rng, self.max_share)
        image, label = image[rows, cols], label[rows, cols]
        if rng.random() < self.flip:
            image, label = image[:, ::-1], label[:, ::-1]
        if self.photometric:
            image = photometric_distortion(image, rng)
        return pad_pair(normalise(image), torch.from_numpy(label.astype(np.int64)), self.crop)


def fit_inside(size: Size, box: tuple[float, float]) -> Size:
    """The size nearest to `box` = (long side, short side) with the aspect kept (mmcv's rule)."""
    factor = min(max(box) / max(size), min(box) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear, without the smoothing that torchvision adds when shrinking (as OpenCV does)."""
    if image.shape[:2] == tuple(size):
        return image
    pixels = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, size=tuple(size), mode="bilinear", align_corners=False)
    return pixels[0].permute(1, 2, 0).numpy()  # in 8 bits: six times faster, within 1 of float


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Nearest neighbour, with pixel centres where `resize_image` has them.

    OpenCV, which the authors call, takes the upper left neighbour instead; with it labels and
    pixels drift apart by up to half a pixel.
    """
    if label.shape == tuple(size):
        return label
    pixels = torch.tensor(np.ascontiguousarray(label))[None, None]
    return F.interpolate(pixels, size=tuple(size), mode="nearest-exact")[0, 0].numpy()


def random_crop(
    label: np.ndarray, crop: Size, rng: np.random.Generator, max_share: float
) -> tuple[slice, slice]:
    """Rows and columns of a crop in which no class covers more than `max_share`,
    if a second to eleventh draw finds one.

    A crop with one class only is always drawn again: its share is 1.
    """
    height, width = label.shape
    for _ in range(11):  # the first draw and ten more
        top = int(rng.integers(0, max(height - crop[0], 0) + 1))
        left = int(rng.integers(0, max(width - crop[1], 0) + 1))
        window = slice(top, top + crop[0]), slice(left, left + crop[1])
        counts = np.bincount(label[window].ravel(), minlength=256)[:IGNORE]
        if counts.max() < max_share * counts.sum():
            break
    return window


def photometric_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness +-32, contrast and saturation 0.5-1.5, hue +-18 of 180, each with probability 0.5.

    Contrast comes before or after the other two, at random. In 8 bits between the steps, like
    mmsegmentation's `PhotoMetricDistortion`.
    """
    coin = rng.random(5) < 0.5
    amount = rng.uniform((-32, 0.5, 0.5, -18), (32, 1.5, 1.5, 18))
    if coin[0]:
        image = _clip(image + np.float32(amount[0]))
    if coin[1] and coin[4]:
        image = _clip(image * np.float32(amount[1]))
    if coin[2] or coin[3]:
        hsv = np.array(Image.fromarray(np.ascontiguousarray(image)).convert("HSV"))
        if coin[2]:
            hsv[..., 1] = _clip(hsv[..., 1] * np.float32(amount[2]))
        if coin[3]:
            hsv[..., 0] += np.uint8(round(amount[3] / 180 * 256) % 256)  # the circle of hues wraps
        image = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    if coin[1] and not coin[4]:
        image = _clip(image * np.float32(amount[1]))
    return image


def _clip(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def pad_pair(image: Tensor, label: Tensor, crop: Size) -> tuple[Tensor, Tensor]:
    """Fill up to the crop at the right and the bottom: image 0 (the mean colour), label 255."""
    below, right = max(crop[0] - label.shape[0], 0), max(crop[1] - label.shape[1], 0)
    return F.pad(image, (0, right, 0, below)), F.pad(label, (0, right, 0, below), value=IGNORE)
