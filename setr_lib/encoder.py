"""The encoder of SETR: a plain Vision Transformer that reads an image as a sequence of patches.

Paper: section 3.2; the authors' `vit.py`. Every tensor has the name that timm's
`VisionTransformer` gives it, so ViT and DeiT weights load by name. What timm has and SETR has not:
the final norm and the classifier (each decoder brings a norm of its own).
"""

# B batch, N tokens, D width, H heads, K head width, Y X patch rows and columns, S class token 0/1

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .geometry import Size, pad_to_patches, patch_grid, size_of


class TokenEncoder(nn.Module):
    """What every encoder says of itself: ours, the Hybrid, and timm's (`baselines.backbones`)."""

    depth: int  # how many blocks
    width: int  # of a token
    patch_size: int
    grid: Size  # the patches that the position table is made for
    prefix_tokens: int  # that go through the blocks before those of the patches
    blocks: nn.ModuleList

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B,3,H,W)`, normalised -> patch tokens `(B,N,D)` after the last block.

        N = ceil(H/patch) * ceil(W/patch), rows first. No class token, no final norm.
        """
        return self.features(images, [self.depth - 1])[0]

    def features(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The patch tokens `(B,N,D)` after each of the 0-based blocks `layers`, in that order."""
        raise NotImplementedError


class Encoder(TokenEncoder):
    """Patches -> tokens -> `depth` blocks of global self-attention, all at 1/`patch_size`.

    Args:
        image_size: rows and columns of the images that the position table is made for. Images of
            any other size are read too: the table is resized for them.
        width, depth, heads: of the transformer; `tiny` is 192, 12, 3.
        patch_size: side of a patch in pixels.
        class_token: `"kept"` lets the class token take part in every block (Naive, PUP);
            `"dropped"` takes it out before the first block (MLA, the authors' `vit_mla.py`).
        patch_bias: whether the patch embedding has a bias (mmsegmentation 1.2 drops it).
        in_chans: channels of the image.

    Raises:
        ValueError: if the width is no multiple of the heads, or `class_token` is another word.
    """

    def __init__(
        self,
        image_size: Size = (512, 512),
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        patch_size: int = 16,
        class_token: str = "kept",
        patch_bias: bool = True,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        if class_token not in ("kept", "dropped"):
            raise ValueError(f"class_token is {class_token!r}; choose 'kept' or 'dropped'")
        self.depth, self.width, self.in_chans = depth, width, in_chans
        self.patch_size, self.grid = patch_size, patch_grid(image_size, patch_size)
        self.class_token, self.prefix_tokens = class_token, int(class_token == "kept")
        self.patch_embed = PatchEmbed(width, patch_size, patch_bias, in_chans)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.init_weights()

    def init_weights(self) -> None:
        """The authors' start: normal(0, 0.02) cut at 2, zero biases; convolutions as in torch."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def features(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The patch tokens `(B,N,D)` after each of the 0-based blocks `layers`, in that order."""
        if not layers or not all(0 <= layer < self.depth for layer in layers):
            raise ValueError(
                f"layers {tuple(layers)} of a {self.depth}-block encoder; use 0 to {self.depth - 1}"
            )
        tokens, found = self.embed(images), {}
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            tokens = block(tokens)
            if index in layers:
                found[index] = tokens[:, self.prefix_tokens :]
        return [found[layer] for layer in layers]

    def embed(self, images: Tensor) -> Tensor:
        """What enters block 0: `(B,S+N,D)`, patches with positions; a kept class token first."""
        if images.ndim != 4 or images.shape[1] != self.in_chans:
            raise ValueError(
                f"images have the shape {tuple(images.shape)}; "
                f"expected (batch, {self.in_chans}, height, width)"
            )
        images = pad_to_patches(images, self.patch_size)
        grid = patch_grid(size_of(images), self.patch_size)
        patches_BND = self.patch_embed(images)
        class_B1D = self.cls_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([class_B1D, patches_BND], dim=1)
        tokens = tokens + resize_positions(self.pos_embed, self.grid, grid)
        # MLA never lets the class token mix: it leaves before block 0 (official vit_mla.py).
        return tokens if self.prefix_tokens else tokens[:, 1:].contiguous()


class PatchEmbed(nn.Module):
    """Cut the image into patches and project each to a token: one strided convolution."""

    def __init__(self, width: int, patch_size: int, bias: bool, in_chans: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B,D,Y,X) -> (B,N,D), rows first


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Attention(nn.Module):
    """Multi-head self-attention of all tokens with all tokens; no matrix of N x N is stored."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not split into {heads} heads of equal width")
        self.heads, self.seen = heads, None  # a mask (N,N): whom each token sees; None: all
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        B, N, D = tokens.shape
        qkv = self.qkv(tokens).view(B, N, 3, self.heads, D // self.heads)
        q_BHNK, k_BHNK, v_BHNK = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHNK = F.scaled_dot_product_attention(q_BHNK, k_BHNK, v_BHNK, self.seen)  # K ** -0.5
        return self.proj(mixed_BHNK.transpose(1, 2).reshape(B, N, D))


class MLP(nn.Module):
    """Two linear layers with the exact GELU between; the hidden width is 4 times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


def resize_positions(table: Tensor, old: Size, new: Size) -> Tensor:
    """Resample a position table `(1,S+Y*X,D)` from one patch grid to another.

    The rows before the grid (the class token's) are carried over: they have no place on it.
    Bilinear without aligned corners, as the authors do at loading (`helpers.load_pretrained`) and
    mmsegmentation at every forward pass; timm resamples bicubically.
    """
    if old == new:
        return table
    first = table.shape[1] - old[0] * old[1]
    grid_1NYX = table[:, first:].unflatten(1, old).permute(0, 3, 1, 2)
    grid_1NYX = F.interpolate(grid_1NYX, size=new, mode="bilinear", align_corners=False)
    return torch.cat([table[:, :first], grid_1NYX.flatten(2).transpose(1, 2)], dim=1)
