"""What the explorer shows of an image and a network, computed once; rows of attention on demand."""

# L layers, H heads, T tokens = S prefix tokens, then N patches; K classes, h w a map's size

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.func import functional_call

from ..attention.capture import prefix_tokens
from ..attention.maps import attention_row, queries_keys
from ..attention.occlusion import hidden_logits, hide
from ..attention.probes import Probes, block_tokens, emergence, forward_stages
from ..attention.stats import (
    attention_distance,
    attention_entropy,
    attention_inside,
    label_grid,
    uniform_distance,
)
from ..evaluation import confusion_matrix, scores
from ..geometry import IGNORE, Size, patch_grid
from ..images import denormalise
from ..model import SETR
from .packing import (
    PackedAttention,
    Parcel,
    check_finite,
    few_directions,
    pack_attention,
    pooled_pairs,
    pooled_tokens,
)

CHOICES = ("attended", "nearest", "random")
HIDDEN_SHARES = (0.05, 0.1, 0.2)  # of the patches, in the causal check of a page
SCORE_STEP = 0.01  # class scores of a page are whole multiples of it
STAGE_SIDE = 160  # decoder stages are shown at most this large
MANY_CLASSES = 40  # more than these: only those that occur are sent


@dataclass(frozen=True)
class Scene:
    """One image as the network reads it.

    Attributes:
        images: `(1,3,H,W)` normalised.
        label: `(H,W)` uint8, or None.
        same_classes: whether the label's classes are the network's.
    """

    name: str
    images: Tensor
    label: np.ndarray | None
    same_classes: bool

    @property
    def size(self) -> Size:
        return self.images.shape[-2], self.images.shape[-1]

    def pixels(self) -> np.ndarray:
        return denormalise(self.images[0])


class View:
    """What one network makes of one scene. Nothing is computed before it is asked for.

    Args:
        cause_pixels: (row, column) of those that the causal check of a page is made for.
    """

    def __init__(
        self,
        model: SETR,
        scene: Scene,
        probes: Probes | None,
        cause_pixels: Sequence[tuple[int, int]],
    ) -> None:
        self.model, self.scene, self.probes, self.cause_pixels = model, scene, probes, cause_pixels
        self.patch = model.encoder.patch_size
        self.grid = patch_grid(scene.size, self.patch)
        self.prefix = prefix_tokens(model)
        self._packed: dict[int, PackedAttention] = {}

    @cached_property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Queries and keys of every layer: their size grows with T, that of maps with T * T."""
        found = queries_keys(self.model, self.scene.images)
        check_finite([part for pair in found for part in pair], "queries or keys")
        return found

    def forget(self) -> None:
        """Let go of queries, keys and tokens, 0.3 GB of an L encoder at 512 pixels."""
        for name in ("pairs", "units"):  # they come back
            self.__dict__.pop(name, None)

    @cached_property
    def units(self) -> Tensor:
        """`(L,N,D)`: the patch tokens after every block, each of length 1."""
        tokens = torch.cat(block_tokens(self.model, self.scene.images))
        return torch.nn.functional.normalize(tokens.float(), dim=-1)

    def likeness(self, patch: int) -> Tensor:
        """`(L,N)`: the cosine between the patch's token and every other, after every block."""
        return (self.units @ self.units[:, patch, :, None])[..., 0].cpu()

    def products(self, block: int, head: int, patch: int, other: int) -> Tensor:
        """`(K)`: what a query and a key give number by number; their sum enters the softmax."""
        q, k = self.pairs[block]
        return (q[0, head, self.prefix + patch] * k[0, head, self.prefix + other]).cpu()

    @cached_property
    def unplaced(self) -> np.ndarray | None:
        """`(H,W)`: the classes where no token is told its place; None without a table of them."""
        named = self.model.named_parameters()
        tables = {n: torch.zeros_like(p) for n, p in named if n.endswith("pos_embed")}
        if not tables:
            return None
        with torch.no_grad():
            logits = functional_call(self.model, tables, (self.scene.images,))
        return logits[0].argmax(0).byte().cpu().numpy()

    def without(self, patches: Sequence[int], pixel: tuple[int, int]) -> dict[str, Any]:
        """Class and probability of a pixel, what is left of it with patches hidden, and `labels`
        `(H,W)` then."""
        hidden = torch.tensor([list(patches)], dtype=torch.int64)
        logits = hidden_logits(self.model, self.scene.images, hidden)[0].float().cpu()
        row, col = pixel
        before = self.stages["logits"][0, :, row, col].float().softmax(0)
        kind = int(before.argmax())
        left = logits[:, row, col].softmax(0)[kind]
        labels = logits.argmax(0).byte().numpy()
        return {"kind": kind, "before": float(before[kind]), "left": float(left), "labels": labels}

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """L, H, T."""
        return len(self.pairs), self.pairs[0][0].shape[1], self.pairs[0][0].shape[2]

    def numbers(self, pool: int) -> int:
        """How many numbers the queries and keys are where cells of `pool` patches hold them."""
        rows, cols = patch_grid(self.grid, pool)
        layers, heads, _ = self.shape
        width = self.model.config.width // heads
        return 2 * layers * heads * width * (rows * cols + self.prefix)

    def rows(self, patch: int, direction: str) -> Tensor:
        """`(L,H,T)`: what the patch looks at, or who looks at it, in every layer and head."""
        token = self.prefix + patch
        return torch.stack([attention_row(q, k, token, direction)[0] for q, k in self.pairs]).cpu()

    def rollout(self, patch: int, direction: str) -> Tensor:
        """`(L,N)`: the patch's row or column of the rollout up to each layer.

        The same numbers as `attention_rollout`, from one pass over the layers with one layer's maps
        at a time: rows are multiplied from the last layer down, columns from the first one up.
        """
        start = torch.zeros(1, self.shape[2], device=self.pairs[0][0].device)
        start[0, self.prefix + patch] = 1
        if direction == "from":
            rows = start[:0]
            for pair in reversed(self.pairs):
                rows = torch.cat([start, rows]) @ _mixed(*pair)
            rows = rows[:, self.prefix :]
            return (rows / rows.sum(1, keepdim=True)).cpu()
        prefix = torch.eye(self.shape[2], device=start.device)[: self.prefix]
        columns = torch.cat([start, prefix]).T  # (T,1+S)
        found = []
        for pair in self.pairs:
            columns = _mixed(*pair) @ columns
            own, others = columns[self.prefix :, 0], columns[self.prefix :, 1:].sum(1)
            found.append(own / (1 - others))
        return torch.stack(found).cpu()

    @cached_property
    def means(self) -> dict[str, Any]:
        """Per layer and head, the mean over all patches of what is shown for one."""
        labels = None
        if self.scene.label is not None:
            labels = label_grid(self.scene.label, self.scene.size, self.patch)
        found: dict[str, list[Any]] = {"entropy": [], "distance": [], "inside": []}
        for q, k in self.pairs:
            maps = (q @ k.mT).softmax(-1).cpu()  # one layer's at a time
            found["entropy"].append(attention_entropy(maps)[0, :, self.prefix :].mean(-1))
            found["distance"].append(attention_distance(maps, self.grid, self.patch)[0].mean(-1))
            if labels is not None:
                found["inside"].append(attention_inside(maps, labels)[0][0].nanmean(-1))
        result: dict[str, Any] = {k: _plain(torch.stack(v)) for k, v in found.items() if v}
        result["uniform_distance"] = uniform_distance(self.grid, self.patch)
        return result

    @cached_property
    def stages(self) -> dict[str, Any]:
        found = forward_stages(self.model, self.scene.images)
        check_finite([*found["stages"].values(), found["logits"]], "scores")
        return found

    def cause(self, pixels: Sequence[tuple[int, int]], k: int, seed: int = 0) -> dict[str, Any]:
        """The causal check: by how much the score falls, `(P)` per choice of hidden patches."""
        found = hide(self.model, self.scene.images, pixels, k, seed=seed)
        return {
            "k": k,
            "class": found.classes.tolist(),
            "logit": _plain(found.logit),
            "probability": _plain(found.probability),
            "logit_fall": {c: _plain(found.logit_fall[c]) for c in CHOICES},
            "probability_fall": {c: _plain(found.probability_fall[c]) for c in CHOICES},
            "patches": torch.stack([found.patches[c] for c in CHOICES], 1),  # (P,3,k)
        }

    @cached_property
    def checks(self) -> list[dict[str, Any]]:
        """The causal check of the page's pixels, for 5, 10 and 20 % of the patches."""
        count = self.grid[0] * self.grid[1]
        ks = sorted({max(1, round(share * count)) for share in HIDDEN_SHARES})
        return [self.cause(self.cause_pixels, k) for k in ks if k < count and self.cause_pixels]

    def forward(self, parcel: Parcel) -> dict[str, Any]:
        """The way from the tokens to the class: everything but the attention."""
        layers, heads, _ = self.shape
        logits = self.stages["logits"][0].float().cpu()
        predicted = logits.argmax(0).byte().numpy()
        return {
            "layers": layers,
            "heads": heads,
            "prefix": self.prefix,
            "width": self.model.encoder.width,
            "stages": [
                {"name": name, "channels": int(maps.shape[1]), "size": list(maps.shape[-2:])}
                | {"colours": parcel.add(principal_colours(maps[0].float().cpu()))}
                for name, maps in self.stages["stages"].items()
            ],
            "scores": self._scores(parcel, predicted),
            "predicted": parcel.add(predicted),
            "emergence": [self._emerging(parcel, entry) for entry in self._emergence()],
        }

    def attention(self, parcel: Parcel, pool: int) -> dict[str, Any]:
        """The attention of every patch in every layer and head, in few bytes."""
        packed = self.packed(pool)
        return {
            "pool": pool,
            "rank": packed.shape[3],
            "error": packed.error,
            "steps": parcel.add(packed.steps),
            "sizes": parcel.add(packed.sizes),
            "body": parcel.add(packed.body),
        }

    def tour(self, parcel: Parcel, pool: int) -> dict[str, Any]:
        """What the guided tour asks a kernel for, where a page has none."""
        units = self.units.cpu()
        if pool > 1:
            units = pooled_tokens(units, self.grid, pool)
        numbers, steps = few_directions(units)
        unplaced = None if self.unplaced is None else parcel.add(self.unplaced)
        likeness = {"numbers": parcel.add(numbers), "steps": parcel.add(steps)}
        return {"unplaced": unplaced, "likeness": likeness}

    def packed(self, pool: int) -> PackedAttention:
        if pool not in self._packed:
            self._packed[pool] = self._pack(pool)
        return self._packed[pool]

    def _pack(self, pool: int) -> PackedAttention:
        pairs = [(q.cpu(), k.cpu()) for q, k in self.pairs]
        if pool > 1:
            pairs = pooled_pairs(pairs, self.grid, self.prefix, pool)
        return pack_attention(pairs)

    def causes(self, parcel: Parcel) -> dict[str, Any] | None:
        """The causal check for the pixels of a page, for several numbers of hidden patches."""
        if not self.checks:
            return None
        patches = self.checks[-1]["patches"].numpy()  # the fewer ones are the first of these
        return {
            "pixels": [list(pixel) for pixel in self.cause_pixels],
            "checks": [{k: v for k, v in one.items() if k != "patches"} for one in self.checks],
            "patches": parcel.add(patches, "u2"),
        }

    def _scores(self, parcel: Parcel, predicted: np.ndarray) -> dict[str, Any]:
        """Class scores before the last resize; the page does that resize itself."""
        maps = self.stages["head_logits"][0].float().cpu()
        classes = np.arange(len(maps))
        if len(maps) > MANY_CLASSES:
            occur = set(np.unique(predicted).tolist())
            if self.scene.label is not None and self.scene.same_classes:
                occur |= set(np.unique(self.scene.label).tolist()) - {IGNORE}
            classes = np.array(sorted(occur))
        whole = np.round(maps.numpy()[classes] / SCORE_STEP).clip(-32767, 32767).astype(np.int32)
        whole[..., 1:] -= whole[..., :-1].copy()  # neighbours differ little
        bytes_ = whole.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].T
        padded = self.model.config.graph == "authors"
        side = self.patch if padded else 1
        covers = [g * side for g in self.grid] if padded else list(self.scene.size)
        return {
            "size": list(maps.shape[-2:]),
            "covers": covers,
            "step": SCORE_STEP,
            "classes": classes.tolist(),
            "differences": parcel.add(np.ascontiguousarray(bytes_)),
        }

    def _emergence(self) -> list[Any]:
        return emergence(self.model, self.scene.images, self.probes)

    def _emerging(self, parcel: Parcel, entry: Any) -> dict[str, Any]:
        labels = entry.labels[0].cpu().numpy()
        here = None
        if self.scene.label is not None and self.scene.same_classes:
            classes = self.model.config.num_classes
            here = _plain(scores(confusion_matrix(labels, self.scene.label, classes)).miou)
        known = {"name": entry.name, "source": entry.source, "layer": entry.layer}
        return known | {"miou": _plain(entry.miou), "here": here, "labels": parcel.add(labels)}


def principal_colours(maps: Tensor) -> np.ndarray:
    """`(C,h,w)` -> `(h,w,3)` uint8: the first three principal components as red, green, blue."""
    height, width = maps.shape[-2:]
    shrink = max(1, -(-max(height, width) // STAGE_SIDE))
    maps = maps[:, ::shrink, ::shrink]
    points = maps.flatten(1).T.double()
    points = points - points.mean(0)
    _, vectors = torch.linalg.eigh(points.T @ points)
    axes = vectors[:, -3:].flip(1)
    axes = axes * torch.where(axes.sum(0) < 0, -1.0, 1.0)  # the sign of an axis is free: fix it
    found = points @ axes
    low, high = found.quantile(0.01, dim=0), found.quantile(0.99, dim=0)
    found = ((found - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    colours = np.zeros((*maps.shape[1:], 3), np.uint8)
    colours[..., : found.shape[1]] = (found * 255).round().byte().view(*maps.shape[1:], -1).numpy()
    return colours


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _mixed(q: Tensor, k: Tensor) -> Tensor:
    """Half the mean over the heads, half the identity: one factor of the rollout, `(T,T)`."""
    mean = (q[0] @ k[0].mT).softmax(-1).mean(0)
    return 0.5 * mean + 0.5 * torch.eye(len(mean), device=mean.device)


def _plain(values: Any) -> Any:
    """Numbers as JSON can hold them; NaN and infinity, which it lacks, become None."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return round(values, 6) if values is not None and math.isfinite(values) else None
