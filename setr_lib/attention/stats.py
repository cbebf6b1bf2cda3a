"""Numbers that sum up attention: how spread, how far, and how much inside the object.

Pure functions of maps or of single rows. Where prefix tokens are left out, the rows are divided by
what is left, so that numbers of networks with and without a class token can be compared.
"""

# B batch, L layers, H heads, T tokens = S prefix tokens, then N patches; Y X patch rows and columns

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..geometry import IGNORE, Size, patch_grid
from ..images import resize_label

Maps = Tensor | Sequence[Tensor]


def attention_entropy(maps: Maps) -> Tensor:
    """Entropy in nats of every row: `(...,T)` -> `(...)`, a list of `(B,H,T,T)` -> `(L,B,H,T)`.

    Attention that is uniform over T tokens has log(T), attention on one token 0.
    """
    return torch.special.entr(_stacked(maps)).sum(-1)


def attention_distance(maps: Maps, grid: Size, patch: int, query: int | None = None) -> Tensor:
    """Mean distance in pixels between the centres of the asking patch and of those it looks at.

    Args:
        maps: a list over layers of `(B,H,T,T)`, or one tensor `(...,T,T)`; with `query`, rows
            `(...,T)` of that patch alone (`attention_rows(..., "from")`). Prefix tokens are left
            out: T is N or more.
        grid: rows and columns of patches.
        patch: side of a patch in pixels.
        query: the number of the one patch that the rows belong to.

    Returns:
        `(L,B,H,N)`; for one tensor `(...,N)`; with `query` `(...)`.
    """
    rows = _patches(maps, grid, query)
    far = distances(grid, patch).to(rows.device)
    return (rows * (far if query is None else far[query])).sum(-1)


def uniform_distance(grid: Size, patch: int, query: int | None = None) -> float:
    """`attention_distance` of attention that is the same everywhere, in pixels.

    Over all queries: the mean over offsets (y, x) of the grid, each as often as it fits,
    `sum (Y - abs(y)) (X - abs(x)) sqrt(y^2 + x^2) / (Y X)^2`; with `query`, of that patch alone.
    """
    rows, cols = grid
    if query is not None:
        return distances(grid, patch)[query].mean().item()
    y, x = np.mgrid[1 - rows : rows, 1 - cols : cols]
    times = (rows - abs(y)) * (cols - abs(x))
    return float(patch * (times * np.hypot(y, x)).sum() / (rows * cols) ** 2)


def label_grid(label: np.ndarray | Tensor, size: Size, patch: int) -> Tensor:
    """The commonest class in each patch: label `(H,W)` -> `(Y,X)` int64.

    Args:
        label: class numbers, 255 for what does not count; of any size.
        size: rows and columns of the image that the network reads; the label is brought to it.

    Returns:
        255 where a patch holds no labelled pixel; the smaller class of equally common ones.
    """
    counts = class_counts(label, size, patch)
    return torch.where(counts.sum(-1) > 0, counts.argmax(-1), IGNORE)


def class_counts(label: np.ndarray | Tensor, size: Size, patch: int) -> Tensor:
    """How many pixels of each class every patch holds, 255 left out: `(H,W)` -> `(Y,X,255)`."""
    pixels = torch.from_numpy(resize_label(np.asarray(label, dtype=np.uint8), size)).long()
    rows, cols = patch_grid(size, patch)
    pixels = F.pad(pixels, (0, cols * patch - size[1], 0, rows * patch - size[0]), value=IGNORE)
    cells = pixels.view(rows, patch, cols, patch).transpose(1, 2).flatten(2)
    counts = torch.zeros(rows, cols, IGNORE + 1, dtype=torch.int64)
    return counts.scatter_add_(2, cells, torch.ones_like(cells))[..., :IGNORE]


def attention_inside(
    maps: Maps, labels: Tensor, region: str = "class", query: int | None = None
) -> tuple[Tensor, Tensor]:
    """The share of every patch's attention that stays in the object the patch belongs to.

    Args:
        maps: as in `attention_distance`; prefix tokens are left out.
        labels: class of each patch, `(Y,X)` or `(B,Y,X)`, from `label_grid`; 255 is no object.
        region: `"class"`: all patches of the same class; `"connected"`: those of them that hang
            together with the patch (over edges, not corners).
        query: the number of the one patch that the rows belong to.

    Returns:
        The share, in the shape of `attention_distance`, and the share of the area that the object
        covers, `(N)` or `(B,N)` (with `query` `()` or `(B)`): what uniform attention would have.
        NaN for patches without a label.
    """
    if region not in ("class", "connected"):
        raise ValueError(f"region is {region!r}; choose 'class' or 'connected'")
    rows = _patches(maps, (labels.shape[-2], labels.shape[-1]), query)
    labels = labels.to(rows.device)
    regions = labels if region == "class" else _connected(labels)
    ids, classes = regions.flatten(-2), labels.flatten(-2)
    same = (ids[..., :, None] == ids[..., None, :]).float()
    same = torch.where((classes == IGNORE)[..., None], torch.nan, same)
    area = same.mean(-1)
    if query is not None:
        same, area = same[..., query, :], area[..., query]
    if labels.ndim == 3:
        same = same[:, None]  # the same for every head
    return (rows * same).sum(-1), area


def _stacked(maps: Maps) -> Tensor:
    return maps if isinstance(maps, Tensor) else torch.stack(list(maps))


def _patches(maps: Maps, grid: Size, query: int | None) -> Tensor:
    """The patches' part of maps or rows, prefix taken out, rows summing to 1."""
    rows, count = _stacked(maps), grid[0] * grid[1]
    prefix = rows.shape[-1] - count
    if prefix != getattr(maps, "prefix", max(prefix, 0)):
        raise ValueError(
            f"the maps have {rows.shape[-1]} tokens, which are no grid of {grid[0]}x{grid[1]} = "
            f"{count} patches with the prefix tokens of this network"
        )
    rows = rows[..., prefix:] if query is not None else rows[..., prefix:, prefix:]
    return rows / rows.sum(-1, keepdim=True)


def distances(grid: Size, patch: int) -> Tensor:
    """Between the centres of all patches, `(N,N)`, in pixels."""
    y, x = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    centres = torch.stack([y.flatten(), x.flatten()], dim=1).float()
    return patch * torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")


def _connected(labels: Tensor) -> Tensor:
    """Number the connected regions of equal class, `(Y,X)` or `(B,Y,X)`."""
    if labels.ndim == 3:
        return torch.stack([_connected(one) for one in labels])
    numbers, last = np.zeros(tuple(labels.shape), np.int64), 0
    for kind in labels.unique().tolist():
        found, count = ndimage.label((labels == kind).cpu().numpy())
        numbers[found > 0] = found[found > 0] + last
        last += count
    return torch.from_numpy(numbers).to(labels.device)
