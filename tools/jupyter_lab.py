"""Settings of `make lab`: a chapter is brought into its one form whenever it is saved."""

from pathlib import Path
from typing import Any

import nbformat

from tools import notebooks


def tidy(model: dict[str, Any], path: str, **_: Any) -> None:
    """Normalise a notebook on its way to the disk, so that opening and saving makes no diff."""
    if model["type"] == "notebook":
        notebook = nbformat.from_dict(model["content"])
        notebooks.normalise(notebook, Path(path).stem)
        model["content"] = notebook


if "get_config" in globals():
    get_config().FileContentsManager.pre_save_hook = tidy  # noqa: F821
