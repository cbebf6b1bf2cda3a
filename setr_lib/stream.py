"""What a run reads: the endless row of training crops, and how processes share it."""

# H W crop rows and columns

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from .datasets import PairDataset
from .errors import reason
from .reading import Pair
from .recipes import Recipe
from .transforms import TrainTransform


class TrainingStream(Dataset):
    """The endless row of training crops; crop number n is the same in every run of a recipe.

    Numbers run through shuffled epochs. A crop's randomness comes from (seed, n) alone, so workers,
    interruptions and processes change nothing. A pair that cannot be read is left out: its crops
    are cut from the next pair of the epoch's order, so that crop n stays the same in every run on
    the same files.

    Attributes:
        left_out: what is wrong with each pair that was left out since the last `collate`, by file.
    """

    def __init__(self, data: PairDataset, recipe: Recipe) -> None:
        self.data, self.seed = data, recipe.seed
        self.transform = TrainTransform(
            recipe.crop,
            recipe.scale,
            recipe.ratios,
            photometric=recipe.photometric,
            whole_scale=recipe.whole_scale,
        )
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


def split_batch(recipe: Recipe, processes: int) -> tuple[int, int]:
    """Crops of a micro-batch, and how many of them make one process's share of a step.

    Raises:
        ValueError: if the parts would not be equal.
    """
    share, rest = divmod(recipe.batch, processes)
    micro = recipe.micro_batch or share
    if rest or share % micro:
        raise ValueError(
            f"a batch of {recipe.batch} does not split evenly into {processes} process(es) with "
            f"micro-batches of {micro or 1}; choose a batch that is a multiple of "
            f"{processes * (recipe.micro_batch or 1)} (batch=..., micro_batch=...)"
        )
    return micro, share // micro
