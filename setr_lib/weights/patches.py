"""A patch embedding for other channels and other patch sizes than it was trained with."""

# D width, C channels, P side of a patch

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_patches(weight: Tensor, like: Tensor, resample: bool) -> tuple[Tensor, str]:
    """A patch embedding `(D,C,P,P)` in the shape of `like`, and what was done ("" if nothing).

    Args:
        resample: whether another size of patches is fitted too; if not, or where another width is
            what differs, the weight is returned as it is, for the caller to refuse.
    """
    old, new = weight.shape, like.shape
    if len(old) != 4 or len(new) != 4 or old[0] != new[0] or 0 in old:
        return weight, ""
    done = []
    if old[2:] != new[2:]:
        if not (resample and weight.is_floating_point()):
            return weight, ""
        done.append(f"patches of {old[2]}x{old[3]} resampled to {new[2]}x{new[3]}")
        weight = resample_patches(weight, (new[2], new[3]))
    if old[1] != new[1]:
        done.append(f"{old[1]} channels to {new[1]}")
        weight = inflate(weight, new[1])
    return weight, ", ".join(done)


def resample_patches(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The embedding of resized patches that gives the tokens nearest to the old ones.

    FlexiViT's rule (Beyer et al., CVPR 2023): with B the matrix of the bicubic, antialiased resize
    of a patch, the pseudo-inverse of its transpose times the weight. Larger patches give the old
    tokens exactly; smaller ones the best in the mean over patches of white noise.
    """
    old = weight.shape[2] * weight.shape[3]
    pixels = torch.eye(old, dtype=torch.float64).view(old, 1, *weight.shape[2:])
    resized = F.interpolate(pixels, size, mode="bicubic", antialias=True)  # row: one pixel's share
    solve = torch.linalg.pinv(resized.flatten(1))  # (new, old), of B transposed
    found = weight.flatten(2).to(solve) @ solve.T
    return found.view(*weight.shape[:2], *size).to(weight)


def inflate(weight: Tensor, channels: int) -> Tensor:
    """A patch embedding `(D,3,P,P)` for images of another number of channels.

    One channel: the sum over the old ones, so that a grey image gives what it gave in RGB. More:
    the old ones repeated and scaled, so that sums keep their size (timm's rule).
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // weight.shape[1])
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (weight.shape[1] / channels)
