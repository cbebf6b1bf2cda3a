"""One door to data sets: by name, as pairs of arrays, as training crops."""

from .augment import TrainingStream, TrainTransform
from .check import check_dataset
from .files import PairDataset
from .load import Shapes, load_dataset
from .protocols import PROTOCOLS

__all__ = [
    "PROTOCOLS", "PairDataset", "Shapes", "TrainTransform", "TrainingStream", "check_dataset",
    "load_dataset",
]  # fmt: skip
