"""Which parameter moves how fast, and which pixel weighs how much."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.files import PairDataset
from ..geometry import IGNORE
from ..losses.segmentation import class_weights
from .recipes import Recipe


def lr_at(step: int, recipe: Recipe, base: float) -> float:
    """The learning rate of 0-based step t: (base - min_lr) * (1 - t/T) ** power + min_lr.

    `min_lr` is absolute, the same for every group, as in the authors' configurations. A warm-up,
    if there is one, multiplies this by (t + 1) / warmup.
    """
    min_lr = min(recipe.min_lr, base)
    lr = (base - min_lr) * (1 - step / recipe.total_steps) ** recipe.power + min_lr
    return lr * min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else lr


def freeze(model: Any, recipe: Recipe) -> Any:
    """The model, its encoder without gradients and in evaluation mode if the recipe says so."""
    if recipe.freeze == "encoder":
        model.encoder.requires_grad_(False).eval()
    return model


def make_optimizer(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW over `parameter_groups`; on a CUDA GPU each step is a few kernels."""
    groups = parameter_groups(model, recipe)
    fused = next(model.parameters()).is_cuda or None
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, fused=fused)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from a saved state, by this machine's kernels and in its order of memory.

    Raises:
        ValueError, KeyError: if it is the state of other parameters.
    """
    for group, own in zip(state["param_groups"], optimizer.param_groups):
        group["fused"] = own["fused"]
    optimizer.load_state_dict(state)
    for p, seen in optimizer.state.items():  # the kernels want sums that lie as the weights do
        for name, value in seen.items():
            if value is not None and value.shape == p.shape and value.stride() != p.stride():
                seen[name] = torch.empty_like(p).copy_(value)


def parameter_groups(model: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """Encoder, MLA's neck and heads, each with its peak learning rate as `base`.

    The heads have `head_lr_mult` times the encoder's. The authors pick them by the word "head" in a
    parameter's name, and so leave out MLA's norms and fusion layers, which are in their backbone:
    `head_scope` says whether the neck is taken along. Weight decay, if there is any, leaves out
    everything with one dimension (biases, norms) and the position and class tokens. A frozen
    encoder is in no group.
    """
    heads = {id(p) for p in model.head_parameters()}
    factors = {"heads": recipe.head_lr_mult, "encoder": 1.0, "neck": 1.0}
    if recipe.head_scope == "decoder":
        factors["neck"] = recipe.head_lr_mult
    groups: dict[str, dict[str, Any]] = {}
    for name, p in model.named_parameters():
        part = "heads" if id(p) in heads else "neck" if name.startswith("neck.") else "encoder"
        if part == "encoder" and recipe.freeze == "encoder":
            continue
        decays = p.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
        label = part if decays or not recipe.weight_decay else f"{part}, without decay"
        group = groups.setdefault(
            label,
            {
                "params": [],
                "name": label,
                "base": recipe.lr * factors[part],
                "lr": recipe.lr * factors[part],  # until the loop says what the step's is
                "weight_decay": recipe.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(p)
    return list(groups.values())


def describe_groups(groups: list[dict[str, Any]], recipe: Recipe) -> str:
    """A table of parameter groups: what is in them, their first and last learning rate."""
    lines = [f"{'parameters':24}{'tensors':>8}{'numbers':>13}     first lr      last lr   decay"]
    for group in groups:
        first, last = (lr_at(t, recipe, group["base"]) for t in (0, recipe.total_steps - 1))
        count = sum(p.numel() for p in group["params"])
        lines.append(
            f"{group['name']:24}{len(group['params']):>8}{count:>13,}{first:>13.3g}{last:>13.3g}"
            f"{group['weight_decay']:>8g}"
        )
    return "\n".join(lines)


def count_class_weights(data: PairDataset) -> Tensor:
    """`(K,)` weights of the classes, rare ones heavy, counted on all labels that can be read."""

    def labels() -> Iterator[np.ndarray]:
        for index in range(len(data)):
            with suppress(ValueError, OSError):  # left out of training, too, where that is said
                yield data.label(index)

    return class_weights(labels(), len(data.classes))


def shares_of_step(
    batch: list[Any], recipe: Recipe, team: Any, weight: Tensor | None
) -> list[float]:
    """What the mean loss of each micro-batch weighs, so that the step's loss is one mean.

    That is its share of the pixels that count, times the number of processes, over which the
    gradients are averaged.
    """
    if recipe.average == "all" or len(batch) == team.size == 1:
        return [1 / len(batch)] * len(batch)
    counted = [pixels_that_count(labels, weight) for _, labels in batch]
    (total,) = team.total(sum(counted))
    return [team.size * count / max(total, 1) for count in counted]


def pixels_that_count(labels: Tensor, class_weight: Tensor | None) -> float:
    """How many pixels of `(B,H,W)` labels count, or the sum of their classes' weights."""
    counts = labels != IGNORE
    if class_weight is None:
        return int(counts.sum())
    return class_weight[labels[counts].long()].double().sum().item()
