"""What a run reads: the endless row of training crops, and how processes share it."""

# H W crop rows and columns

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from .datasets import PairDataset
from .recipes import Recipe
from .transforms import TrainTransform


class TrainingStream(Dataset):
    """The endless row of training crops; crop number n is the same in every run of a recipe.

    Numbers run through shuffled epochs. A crop's randomness comes from (seed, n) alone, so workers,
    interruptions and processes change nothing.
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

    def place(self, number: int) -> tuple[int, int]:
        """Epoch and index in the data set of crop `number`."""
        epoch, position = divmod(number, len(self.data))
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.data))
            self._order = (epoch, order)
        return epoch, int(self._order[1][position])

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[self.place(number)[1]]
        return self.transform(image, label, np.random.default_rng([self.seed, 1, number]))


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
