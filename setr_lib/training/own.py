"""A recipe for data that nobody has trained on: sized to the images, classes and machine."""

# H W image rows and columns, K classes

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import PairDataset, read_label
from ..data.labels import find_form, label_values, names_of_values
from ..data.layouts import Folder, make_splits
from ..data.load import Augment, folder_path, load_splits
from ..files import few, say
from ..geometry import Size
from ..images import open_picture
from ..model import SETRConfig
from ..zoo import model_config, with_encoder
from .devices import RunOptions, default_device
from .recipe import Recipe
from .recipe import replace as replaced
from .recipes import FROM_SCRATCH, get_recipe

FEW = 50  # images: below this they are scaled more


def prepare(
    recipe: str | Recipe,
    data: Any,
    root: Any,
    augment: Augment | None,
    options: RunOptions,
    facts: dict[str, Any],
) -> tuple[Recipe, tuple[PairDataset, PairDataset]]:
    """The recipe of a run with its facts, and the two data sets that it reads.

    Args:
        recipe, data, root, augment, options: as `train` gets them.
        facts: of the recipe, to replace.

    Raises:
        ValueError: if the recipe is `"own"` without data, or labels are in a form that would be
            misunderstood.
    """
    if recipe == "own" and data is None:
        raise ValueError("the recipe 'own' follows from the data: name them (data=..., --data)")
    if isinstance(data, str) and data.startswith("folder:"):
        prepare_folder(folder_path(data))
    if recipe == "own":
        splits = load_splits(data, facts.get("evaluate_split", "val"), root, augment)
        made = own_recipe(splits[0], options.device or default_device(), **facts)
        if not int(os.environ.get("RANK", "0")):  # one of several processes speaks
            say(describe(made, *splits))
        return made, splits
    made = replaced(get_recipe(recipe) if isinstance(recipe, str) else recipe, **facts)
    if facts.get("pretrained") and "config" not in facts:
        made = replace(made, config=started(made.config, made.pretrained))
    splits = load_splits(made.dataset if data is None else data, made.evaluate_split, root, augment)
    return (made if data is None else fit_to(made, splits[0])), splits


def prepare_folder(path: Path) -> None:
    """Divide a folder that has no splits; refuse labels that are in need of `convert-labels`."""
    splits = Folder.names(path)
    if splits is None:
        train, val = make_splits(path)
        say(
            f"{path} has no splits: {train} pairs to train on, {val} for val, chosen at random and "
            f"written down in {path / 'splits'} (frames of one film look alike: if there are some, "
            "change these lists)"
        )
    data = Folder("train", path)
    files = [label for _, label in data.pairs[:200] if label]
    listed = data.class_list
    values = label_values(files, listed.colours)
    if files and not values:
        read_label(files[0], listed.colours)  # none can be read: for the reason
    form = find_form(values, names_of_values(listed))
    if form.converts:
        raise ValueError(
            f"the labels of {path} are {form.words}: write them as class numbers first, setr "
            f"convert-labels {path} NEW, and train on folder:NEW"
        )


def own_recipe(data: PairDataset, device: str = "cpu", **facts: Any) -> Recipe:
    """What to begin with on somebody's own data.

    A Naive decoder on T-Tiny: on a CPU for a few minutes, at about 20 patches along the long side;
    on a GPU longer and at up to 512 pixels. Rare classes weigh more. Few images are scaled more.

    Args:
        data: the training split.
        device: what it is run on, `"cpu"` or `"cuda"`.
        facts: of the recipe, in place of these. `pretrained` brings its own encoder, and patches of
            16 pixels where it takes any; `freeze="encoder"` a linear head without auxiliary ones.
    """
    on_gpu = not device.startswith("cpu")
    height, width = typical_size(data)
    longest = 512 if on_gpu else 240
    factor = min(1.0, longest / max(height, width))
    crop = (max(32, round(factor * height)), max(32, round(factor * width)))
    patch = 16 if facts.get("pretrained") or on_gpu else min(16, max(8, round(max(crop) / 80) * 4))
    steps = (
        min(400, max(200, 10 * len(data))) if not on_gpu else min(8000, max(2000, 10 * len(data)))
    )
    steps = facts.get("total_steps", steps)
    network = replace(model_config("setr_naive_tiny", len(data.classes), crop), patch_size=patch)
    if facts.get("freeze") == "encoder":  # linear probing
        network = replace(network, linear=True, aux=False)
    ours = {
        **FROM_SCRATCH,
        "config": started(network, facts.get("pretrained")),
        "crop": crop, "scale": (max(crop), min(crop)),
        "total_steps": steps, "warmup": steps // 10,
        "evaluate_every": max(1, steps // (20 if facts.get("patience") else 4)),
        "class_weights": True,
    }  # fmt: skip
    if len(data) < FEW:
        ours["ratio_range"] = (0.5, 2.0)
    if facts.get("pretrained"):
        ours |= {"lr": 1e-4, "head_lr_mult": 10.0}
    return Recipe("own", data.name, **{**ours, **facts})


def started(config: Any, pretrained: str | None) -> Any:
    """The network with the encoder of a timm model, in place of ours; else as it is."""
    ours = isinstance(config, SETRConfig) and config.backbone == "vit"
    if not ours or not pretrained or Path(pretrained).expanduser().is_file():
        return config
    return with_encoder(config, pretrained)


def describe(recipe: Recipe, data: PairDataset, validation: PairDataset) -> str:
    """Three lines on what a recipe of `own_recipe` does, for who did not choose it."""
    start = recipe.pretrained or "random weights (--pretrained NAME starts from a model of timm)"
    start += ", which stays as it is: only the head learns" * (recipe.freeze == "encoder")
    return (
        f"{len(data)} images to learn from, {len(validation)} to score on; "
        f"{len(data.classes)} classes: {few(list(data.classes), 8)}\n"
        f"crops of {recipe.crop[0]}x{recipe.crop[1]}, {recipe.total_steps} steps of "
        f"{recipe.batch}, from {start}\n"
        "every fact of this recipe is a flag: setr train --help"
    )


def typical_size(data: PairDataset, most: int = 50) -> Size:
    """The median rows and columns of some images."""
    sizes = []
    for index in data.spread(most):
        file = Path(data.file(index))
        if file.is_file():
            with open_picture(file) as image:
                sizes.append((image.height, image.width))
        else:
            sizes.append(data[index][0].shape[:2])
    height, width = np.median(np.array(sizes), axis=0).astype(int).tolist()
    return height, width


def fit_to(recipe: Recipe, data: PairDataset) -> Recipe:
    """The recipe with a data set in place of its own, and as many classes."""
    config = replace(recipe.config, num_classes=len(data.classes))
    return replace(recipe, dataset=data.name, config=config)
