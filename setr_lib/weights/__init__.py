"""One door to weights: what fills a network, what is read off a file, and our own files."""

from .config import config_from_checkpoint
from .load import LoadReport, fit_positions, load_pretrained, load_weights, save_checkpoint
from .tensors import Checkpoint, read_tensors

__all__ = [
    "Checkpoint",
    "LoadReport",
    "config_from_checkpoint",
    "fit_positions",
    "load_pretrained",
    "load_weights",
    "read_tensors",
    "save_checkpoint",
]
