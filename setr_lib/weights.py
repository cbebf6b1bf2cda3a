"""Weights on disk: safetensors with the configuration inside, so that a file says what it is."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .files import whole_file
from .model import SETR, SETRConfig


def save_checkpoint(model: SETR, path: str | os.PathLike[str], **about: Any) -> None:
    """Write weights and configuration to one safetensors file, whole or not at all.

    Args:
        about: anything JSON can hold that a reader of the file needs (classes, palette, recipe).
    """
    about = {"config": dataclasses.asdict(model.config), **about}
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"setr_lib": json.dumps(about)})


def load_checkpoint(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[SETR, dict[str, Any]]:
    """Read what `save_checkpoint` wrote: the model, in evaluation mode, and what is known of it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or no checkpoint of this library.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; training writes best.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}); restore it"
        ) from error
    if "setr_lib" not in metadata:
        raise ValueError(
            f"{path} does not say which network it holds; it was not written by setr_lib"
        )
    about = json.loads(metadata["setr_lib"])
    model = SETR(SETRConfig.from_dict(about["config"]))
    model.load_state_dict(tensors)
    return model.to(device).eval(), about
