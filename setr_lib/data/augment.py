"""What a run reads: the endless row of training crops, each decided by its number alone."""

# H W image rows and columns, S crop rows and columns

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ..files import reason
from ..geometry import IGNORE, Size
from ..images import fit_inside, normalise, resize_image, resize_label
from .files import Pair, PairDataset


class TrainingStream(Dataset):
    """The endless row of training crops; crop number n is the same in every run with one seed.

    Numbers run through shuffled epochs. A crop's randomness comes from (seed, n) alone, so workers,
    interruptions and processes change nothing. A pair that cannot be read is left out: its crops
    are cut from the next pair of the epoch's order, so that crop n stays the same in every run on
    the same files.

    Args:
        data: from `load_dataset`.
        transform: how a crop is cut from a pair; a recipe has one, `recipe.transform`.
        seed: of the order and of every crop.

    Attributes:
        left_out: what is wrong with each pair that was left out since the last `collate`, by file.
    """

    def __init__(self, data: PairDataset, transform: "TrainTransform", seed: int) -> None:
        self.data, self.transform, self.seed = data, transform, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, int))
        self.left_out: dict[str, str] = {}

    def place(self, number: int) -> tuple[int, int]:
        """Epoch and index in the data set of crop `number`."""
        epoch, position = divmod(number, len(self.data))
        return epoch, int(self.order(epoch)[position])

    def order(self, epoch: int) -> np.ndarray:
        """The numbers of all pairs as they come in an epoch."""
        if self._order[0] != epoch:
            shuffled = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.data))
            self._order = (epoch, shuffled)
        return self._order[1]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image, label = self.pair(number)
        return self.transform(image, label, np.random.default_rng([self.seed, 1, number]))

    def pair(self, number: int) -> Pair:
        """What crop `number` is cut from.

        Raises:
            ValueError: if too many pairs in a row cannot be read.
        """
        epoch, here = divmod(number, len(self.data))
        order = self.order(epoch)
        for index in np.roll(order, -here)[: most_left_out(len(order)) + 1].tolist():
            try:
                return self.data[index]
            except (ValueError, OSError) as error:
                self.left_out[self.data.file(index)] = reason(error)
        raise ValueError(too_many(self.left_out, len(order)))

    def collate(self, crops: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, dict[str, str]]:
        """Crops as a batch, and what was left out on the way to them."""
        images, labels = default_collate(crops)
        left_out, self.left_out = self.left_out, {}
        return images, labels, left_out


def most_left_out(pairs: int) -> int:
    """How many of so many pairs may be left out; more are no accident."""
    return max(1, pairs // 10)


def too_many(left_out: dict[str, str], pairs: int) -> str:
    """The sentence on a data set of which too much would be left out."""
    return (
        f"{len(left_out)} of {pairs} training pairs cannot be used, which is no accident: "
        f"{next(iter(left_out.values()))}. Look for all of them: python -m setr_lib check"
    )


@dataclass(frozen=True)
class TrainTransform:
    """The training augmentation of a recipe.

    Args:
        crop: rows and columns of the result.
        scale: the base (long side, short side) that a drawn ratio multiplies; the image is fitted
            inside, aspect kept.
        ratio_range: range of that ratio.
        flip: probability of a horizontal flip.
        photometric: whether colours are distorted.
        max_share: a crop is drawn again, up to ten times, while one class covers more of it.
        whole_scale: whether both sides of scale times ratio are cut to whole pixels before the
            image is fitted inside, as the authors and mmcv do; the sizes differ by a pixel or two.
    """

    crop: Size
    scale: Size
    ratio_range: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    photometric: bool = True
    max_share: float = 0.75
    whole_scale: bool = False

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """`(H,W,3)` and `(H,W)` uint8 -> `(3,h,w)` float normalised and `(h,w)` int64, h x w the
        crop."""
        ratio = rng.uniform(*self.ratio_range)
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
