"""SETR, step by step: semantic segmentation with a plain transformer as encoder (CVPR 2021)."""

import os
import sys

# `python -m setr_lib` looks for modules in the working folder first, where a `torch.py` may lie
# that somebody else wrote. It is taken off the path here, before anything else is imported, unless
# this package lies there itself.
if (
    sys.argv[:1] == ["-m"]
    and __name__ in sys.orig_argv
    and not sys.flags.safe_path
    and sys.path[0] != os.path.dirname(*__path__)
):
    del sys.path[0]

import warnings
from typing import TYPE_CHECKING, Any

from .attention.maps import attention_maps, attention_rollout
from .data.load import load_dataset
from .data.protocols import PROTOCOLS
from .encoder import Encoder, resize_positions
from .evaluation import Scores, confusion_matrix, evaluate, scores
from .images import TestProtocol
from .inference import predict, slide_inference
from .losses.cross_entropy import upsample_cross_entropy
from .losses.segmentation import class_weights, segmentation_loss
from .model import SETR, SETRConfig
from .training.loop import train
from .training.recipes import Recipe, get_recipe, list_recipes
from .training.record import list_records, load_record
from .weights.config import config_from_checkpoint
from .weights.load import LoadReport, load_weights, save_checkpoint
from .zoo import create_model, list_models, load_checkpoint

if TYPE_CHECKING:
    from .explorer import AttentionExplorer
    from .training.scoreboard import scoreboard

__version__ = "0.1.0"
__all__ = [
    "PROTOCOLS",
    "SETR",
    "AttentionExplorer",
    "Encoder",
    "LoadReport",
    "Recipe",
    "SETRConfig",
    "Scores",
    "TestProtocol",
    "attention_maps",
    "attention_rollout",
    "class_weights",
    "config_from_checkpoint",
    "confusion_matrix",
    "create_model",
    "evaluate",
    "get_recipe",
    "list_models",
    "list_recipes",
    "list_records",
    "load_checkpoint",
    "load_dataset",
    "load_record",
    "load_weights",
    "predict",
    "resize_positions",
    "save_checkpoint",
    "scoreboard",
    "scores",
    "segmentation_loss",
    "slide_inference",
    "train",
    "upsample_cross_entropy",
]


def __getattr__(name: str) -> Any:
    """What most programs do without is imported when it is first asked for."""
    if name == "Protocol":
        warnings.warn("Protocol is called TestProtocol now", DeprecationWarning, stacklevel=2)
        return TestProtocol
    if name == "scoreboard":
        from .training.scoreboard import scoreboard

        return scoreboard
    if name != "AttentionExplorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .explorer import AttentionExplorer

    return AttentionExplorer
