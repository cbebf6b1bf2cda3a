"""What an encoder may learn before it sees a label of ours: starts that everybody can repeat.

    leaves         dead leaves from a formula, with labels (`data.procedural`)
    street         a street from a formula, in CamVid's classes
    masked-R       the training images without their labels: guess the share R of the patches that
                   is hidden (as SimMIM, Xie et al., CVPR 2022: a linear layer guesses pixels)
    dyck           no pictures: brackets of 64 kinds that open and close, the blocks guess hidden
                   ones (after Shinnick et al., CVPR 2026)

Only the encoder is handed on, whatever the start: the fine-tuning is equal. All but `masked` need
no image at all.
"""

# B batch, N patches, D width, P pixels of a patch, T tokens

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.procedural import LEAF_CLASSES, leaves, street
from ..geometry import Size, pad_to_patches
from ..images import normalise, resize_image
from ..model import SETR, SETRConfig

if TYPE_CHECKING:
    from .loop import Run

SEED = 71  # added to the run's: the start draws other numbers than the run
KINDS = 64  # of brackets
HIDDEN = 0.15  # share of the brackets that are guessed
MOST = 2000  # images that are kept in memory


def begin(run: "Run", steps: int | None = None) -> dict[str, Any]:
    """Teach the encoder of a run what its recipe's `start` says.

    Args:
        steps: None: the recipe's `start_steps`.

    Returns:
        A dictionary for the record, with kind, steps, pictures, seconds, and the mean loss of the
        first and of the last tenth.

    Raises:
        ValueError: in several processes, which would learn different things.
    """
    recipe, device = run.recipe, run.device
    if run.team.size > 1:
        raise ValueError(
            f"start is {recipe.start!r}: make it in one process, there are {run.team.size}"
        )
    steps = steps or recipe.start_steps
    clock, losses = time.monotonic(), []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(SEED + recipe.seed)
        parameters, loss_of = task(run)
        optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
        for step in range(steps):
            rise = min(1.0, (step + 1) / max(1, steps // 10))
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rise * (1 - step / steps) ** recipe.power
            optimizer.zero_grad(set_to_none=True)
            with run.autocast:
                loss = loss_of(recipe.batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    few = max(1, steps // 10)
    ends = [round(torch.stack(part).mean().item(), 4) for part in (losses[:few], losses[-few:])]
    seconds = round(time.monotonic() - clock, 1)
    pictures = steps * recipe.batch
    return {"kind": recipe.start, "steps": steps, "pictures": pictures, "seconds": seconds,
            "loss": ends}  # fmt: skip


def task(run: "Run") -> tuple[list[nn.Parameter], Callable[[int], Tensor]]:
    """What is learnt: the parameters, and the loss of a new batch of so many pictures."""
    recipe, encoder, device = run.recipe, run.model.encoder, run.device
    config, word = recipe.config, recipe.start
    assert isinstance(config, SETRConfig)  # a recipe with a start has no other
    if word in ("leaves", "street"):
        make, classes = (leaves, LEAF_CLASSES) if word == "leaves" else (street, 11)
        network = SETR(replace(config, num_classes=classes)).to(device)
        network.encoder = encoder
        network.train()
        return [*network.parameters()], lambda n: network.loss(
            *make(n, recipe.crop, device), "valid", check=False
        )
    if word == "dyck":
        brackets = Brackets(encoder).to(device)
        return [*brackets.parameters()], brackets
    images = small_images(run.data, recipe.crop).to(device)
    masked = Masked(encoder, float(word.removeprefix("masked-"))).to(device)
    return [*masked.parameters()], lambda n: masked(crops(images, n, recipe.crop))


class Masked(nn.Module):
    """Guess the pixels of hidden patches, each patch normalised, by one linear layer."""

    def __init__(self, encoder: Any, share: float) -> None:
        super().__init__()
        self.encoder, self.share = encoder, share
        self.guess = nn.Linear(encoder.width, 3 * encoder.patch_size**2)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised `(B,3,H,W)` -> the mean squared error on hidden patches, a scalar."""
        p = self.encoder.patch_size
        images = pad_to_patches(images, p)
        patches_BPN = F.unfold(images, p, stride=p)
        N = patches_BPN.shape[2]
        rank_B1N = torch.rand_like(patches_BPN[:, :1]).argsort(2).argsort(2)
        hidden_B1N = rank_B1N < max(1, round(self.share * N))  # a guess in every picture
        visible = F.fold(
            patches_BPN * ~hidden_B1N, images.shape[-2:], p, stride=p
        )  # 0: mean colour
        guessed = self.guess(self.encoder(visible)).transpose(1, 2).float()
        wanted = F.layer_norm(patches_BPN.mT, patches_BPN.shape[1:2]).mT
        errors = (guessed - wanted).square().mean(1, keepdim=True) * hidden_B1N
        return errors.sum() / hidden_B1N.sum()


class Brackets(nn.Module):
    """Guess hidden brackets; symbols enter by a frozen random table in place of the patches."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, width = encoder, encoder.width
        self.register_buffer("table", 0.5 * torch.randn(2 * KINDS + 1, width))  # the last: hidden
        self.norm, self.guess = nn.LayerNorm(width), nn.Linear(width, 2 * KINDS)

    def forward(self, n: int) -> Tensor:
        """The cross-entropy of a new batch of `n` sequences, a scalar."""
        e, table = self.encoder, self.get_buffer("table")
        symbols = torch.from_numpy(dyck(n, e.grid[0] * e.grid[1])).to(table.device)
        hidden = torch.rand(symbols.shape, device=table.device) < HIDDEN
        seen = torch.where(hidden, 2 * KINDS, symbols)
        first = e.cls_token.expand(n, -1, -1)
        tokens = torch.cat([first, table[seen]], 1) + e.pos_embed
        tokens = tokens if e.prefix_tokens else tokens[:, 1:]
        for block in e.blocks:
            tokens = block(tokens)
        scores = self.guess(self.norm(tokens[:, e.prefix_tokens :]))
        return F.cross_entropy(scores[hidden].float(), symbols[hidden])


def dyck(n: int, length: int) -> np.ndarray:
    """`(n,length)`: brackets of `KINDS` kinds, k opens and k + KINDS closes, all closed at the end.

    (Of an odd length the last one is left open.) numpy's numbers come from torch's.
    """
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    stack, depth = np.zeros((n, length + 1), np.int64), np.zeros(n, np.int64)
    found, each = np.zeros((n, length), np.int64), np.arange(n)
    for position in range(length):
        opens = (rng.random(n) < 0.5) & (depth < length - position) | (depth == 0)
        kind = np.where(opens, rng.integers(KINDS, size=n), stack[each, depth - 1])
        stack[each, depth] = np.where(opens, kind, stack[each, depth])
        found[:, position] = np.where(opens, kind, kind + KINDS)
        depth += np.where(opens, 1, -1)
    return found


def small_images(data: Any, crop: Size) -> Tensor:
    """Training images a quarter larger than a crop, `(images,3,H,W)`, normalised, in float16."""
    size = (crop[0] * 5 // 4, crop[1] * 5 // 4)
    read = [data[number][0] for number in range(min(len(data), MOST))]
    return torch.stack([normalise(resize_image(image, size)).half() for image in read])


def crops(images: Tensor, n: int, crop: Size) -> Tensor:
    """`n` random crops `(n,3,h,w)`, each mirrored or not."""
    found = []
    for number in torch.randint(len(images), (n,)).tolist():
        top, left = (int(torch.randint(crop[side] // 4 + 1, ())) for side in (0, 1))
        part = images[number, :, top : top + crop[0], left : left + crop[1]].float()
        found.append(part.flip(-1) if torch.rand(()) < 0.5 else part)
    return torch.stack(found)  # autocast on the CPU stacks no float16
