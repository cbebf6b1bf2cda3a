"""What a run reads: the endless row of training crops, each decided by its number alone."""

# H W image rows and columns, S crop rows and columns

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ..files import reason
from ..geometry import IGNORE, Size
from ..images import fit_inside, nearest
from .crops import Crop, Uncut, as_rows, cut
from .files import FileDataset, Pair, PairDataset


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
        keep: bytes of decoded pairs that may stay in memory, in each process that reads; what has
            no room is read again every time. Only pairs of files are kept.

    Attributes:
        left_out: what is wrong with each pair that was left out since the last `collate`, by file.
    """

    def __init__(
        self, data: PairDataset, transform: "TrainTransform", seed: int, keep: float = 0
    ) -> None:
        self.data, self.transform, self.seed = data, transform, seed
        self.room = keep if isinstance(data, FileDataset) else 0
        self._kept: dict[int, Pair] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, int))
        self.left_out: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are not forked: what is kept stays here."""
        return {**self.__dict__, "_kept": {}}

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

    def __getitem__(self, number: int) -> Any:
        return self.transform(*self.pair(number)[1], self.rng(number))

    def rng(self, number: int) -> np.random.Generator:
        """The random numbers of crop `number`."""
        return np.random.default_rng([self.seed, 1, number])

    def pair(self, number: int) -> tuple[int, Pair]:
        """What crop `number` is cut from, and its index in the data set.

        Raises:
            ValueError: if too many pairs in a row cannot be read.
        """
        epoch, here = divmod(number, len(self.data))
        order = self.order(epoch)
        for index in np.roll(order, -here)[: most_left_out(len(order)) + 1].tolist():
            try:
                return index, self.read(index)
            except (ValueError, OSError) as error:
                self.left_out[self.data.file(index)] = reason(error)
        raise ValueError(too_many(self.left_out, len(order)))

    def read(self, index: int) -> Pair:
        """Pair `index` of the data set, from memory if it was kept."""
        if index in self._kept:
            return self._kept[index]
        pair = self.data[index]
        size = sum(part.nbytes for part in pair) if self.room else 0
        if 0 < size <= self.room:
            self.room -= size
            self._kept[index] = pair
        return pair

    def collate(self, crops: list[Any]) -> tuple[Any, Tensor, dict[str, str]]:
        """Crops as a batch, and what was left out on the way to them."""
        images, labels = default_collate(crops)
        left_out, self.left_out = self.left_out, {}
        return images, labels, left_out


class UncutStream(TrainingStream):
    """The same crops for a device that cuts them itself: whole images as uint8 and the numbers.

    Labels are cut here, where the draw counts them. They travel as uint8.

    Attributes:
        on_device: pairs whose images the device has; they do not travel.
    """

    on_device: frozenset[int] = frozenset()

    def __getitem__(self, number: int) -> tuple[int, np.ndarray, Crop, Tensor]:
        index, (image, label) = self.pair(number)
        return index, image, *self.transform.draw(label, self.rng(number))

    def collate(self, crops: list[Any]) -> tuple[Uncut, Tensor, dict[str, str]]:
        places, images, numbers, labels = zip(*crops)
        flat = [] if self.on_device.issuperset(places) else [i.reshape(-1) for i in images]
        pixels = torch.from_numpy(np.concatenate(flat) if flat else np.empty(0, np.uint8))
        sizes = [image.shape[:2] for image in images]
        left_out, self.left_out = self.left_out, {}
        uncut = Uncut(pixels, sizes, list(places), as_rows(numbers))
        return uncut, torch.stack(labels), left_out


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
        crop, window = self.draw(label, rng)
        pixels = torch.tensor(np.ascontiguousarray(image))[None]
        return cut(pixels, as_rows([crop]), self.crop)[0], window.long()

    def draw(self, label: np.ndarray, rng: np.random.Generator) -> tuple[Crop, Tensor]:
        """The numbers of a crop, and its label `(h,w)` uint8, 255 where it leaves the image."""
        if label.dtype != np.uint8:
            raise ValueError(f"the label is an array of {label.dtype}; give class numbers as uint8")
        ratio = rng.uniform(*self.ratio_range)
        box = self.scale[0] * ratio, self.scale[1] * ratio
        size = fit_inside(label.shape, (int(box[0]), int(box[1])) if self.whole_scale else box)
        (top, left), window = random_window(label, size, self.crop, rng, self.max_share)
        flip = rng.random() < self.flip
        padded = np.full(self.crop, IGNORE, np.uint8)
        padded[: window.shape[0], : window.shape[1]] = window[:, ::-1] if flip else window
        colours = photometric_distortion(rng) if self.photometric else ()
        return Crop(*size, top, left, int(flip), *colours), torch.from_numpy(padded)


def random_window(
    label: np.ndarray, size: Size, crop: Size, rng: np.random.Generator, max_share: float
) -> tuple[tuple[int, int], np.ndarray]:
    """Top and left of a window of the label scaled to `size`, and the window, in which no class
    covers more than `max_share`, if a second to eleventh draw finds one.

    A window with one class only is always drawn again: its share is 1.
    """
    rows, cols = (nearest(*sides) for sides in zip(label.shape, size))
    spare = [max(side - least, 0) for side, least in zip(size, crop)]
    for _ in range(11 if any(spare) else 1):  # the first draw and ten more
        top, left = (int(rng.integers(0, most + 1)) for most in spare)
        window = label.take(rows[top : top + crop[0]], 0).take(cols[left : left + crop[1]], 1)
        counts = np.array(Image.fromarray(window).histogram()[:IGNORE])  # twice as fast as NumPy's
        if counts.max() < max_share * counts.sum():
            break
    return (top, left), window


def photometric_distortion(rng: np.random.Generator) -> tuple[float, ...]:
    """The last five numbers of a `Crop`.

    Brightness +-32, contrast and saturation 0.5-1.5, hue +-18 of 180, each with probability 0.5.

    Contrast comes before or after saturation and hue, at random; `crops.distort` applies them.
    The draws of mmsegmentation's `PhotoMetricDistortion`.
    """
    coin = (rng.random(5) < 0.5).tolist()
    amount = rng.uniform((-32, 0.5, 0.5, -18), (32, 1.5, 1.5, 18)).tolist()
    contrast = amount[1] if coin[1] else 1.0
    return (
        amount[0] if coin[0] else 0.0,
        contrast if coin[4] else 1.0,
        amount[2] if coin[2] else 1.0,
        amount[3] / 30 if coin[3] else 0.0,  # of 180, in sixths of the circle
        1.0 if coin[4] else contrast,
    )
