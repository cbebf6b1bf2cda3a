"""SETR, whole: encoder, decoder, auxiliary heads, and the names under which they are made."""

# B batch, H W image rows and columns, N tokens, D width, K classes, h w size of a head's map

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from .baselines.variants import VariantEncoder, check_variant, variant_head
from .decoders import MLA, UPSAMPLING, MLAAuxHead, MLAHead, MLANeck, UpsamplingHead
from .encoder import Encoder, TokenEncoder
from .files import as_count, as_switch
from .geometry import IGNORE, Size, as_size, patch_grid, resize, size_of, whole_patches
from .images import TestProtocol
from .losses.cross_entropy import upsample_cross_entropy
from .losses.segmentation import AUX_WEIGHT, check_labels, segmentation_loss
from .losses.strips import in_float32

DECODERS = ("naive", "pup", "mla")
SIZES = {  # width, depth, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
# The 0-based blocks that the heads read. 24 blocks: paper section 4.1; 12 blocks: the authors'
# T-Base and DeiT configurations. The last one feeds the main head of Naive and PUP.
LAYERS = {
    ("naive", 24): (9, 14, 19, 23),
    ("pup", 24): (9, 14, 19, 23),
    ("mla", 24): (5, 11, 17, 23),
    ("naive", 12): (2, 5, 8, 11),
    ("pup", 12): (4, 7, 9, 11),
    ("mla", 12): (2, 5, 8, 11),
}


@dataclass(frozen=True)
class SETRConfig:
    """Everything that decides the network. The defaults are SETR-PUP with T-Large on ADE20K.

    Args:
        decoder: `"naive"`, `"pup"` or `"mla"`.
        num_classes: classes of the logits.
        image_size: rows and columns that the position table is made for (int: a square).
        width, depth, heads: of the transformer.
        layers: 0-based blocks that the main and the auxiliary heads read, in ascending order;
            by default the published ones for 12 and 24 blocks. Naive and PUP: the last is the main
            head's. MLA: exactly four streams.
        channels: hidden width of the heads (MLA's streams end at half of it).
        graph: `"authors"`, the network of the authors' code, or `"mmseg"`, the one that
            mmsegmentation calls by the same name; `setr_lib.decoders` shows where they differ.
        aux: whether the auxiliary heads exist. They are used by the loss, never by `model(images)`.
        patch_size, patch_bias: side of a patch in pixels, whether its embedding has a bias.
        in_chans: channels of the image.
        aux_convs: convolutions of an auxiliary Naive or PUP head; 0: as many as the graph has.
            (mmsegmentation's Naive has 2 in its ADE20K configuration, 1 in that of Cityscapes.)
        backbone: `"vit"`: our encoder; `"hybrid"`: with a ResNet-50 in front of it; or the name of
            a timm model.
        stem, attention_radius, pup_steps, linear: not in the paper, see `baselines.variants`:
            `"conv"`; how many patches around it a patch sees; 2: PUP in two steps of four; whether
            the Naive head is one linear layer. 0: as in the paper.

    Raises:
        ValueError: for a value outside its range; the message names it and what is possible.
    """

    decoder: str = "pup"
    num_classes: int = 150
    image_size: Size = (512, 512)
    width: int = 1024
    depth: int = 24
    heads: int = 16
    layers: tuple[int, ...] = ()
    channels: int = 256
    graph: str = "authors"
    aux: bool = True
    patch_size: int = 16
    patch_bias: bool = True
    in_chans: int = 3
    aux_convs: int = 0
    backbone: str = "vit"
    stem: str = "patch"
    attention_radius: int = 0
    pup_steps: int = 0
    linear: bool = False

    def __post_init__(self) -> None:
        counts = ("num_classes", "width", "depth", "heads", "channels", "patch_size", "in_chans")
        values: dict[str, Any] = {name: as_count(getattr(self, name), name) for name in counts}
        for name in ("aux_convs", "attention_radius", "pup_steps"):
            values[name] = as_count(getattr(self, name), name, 0)
        values["image_size"] = as_size(self.image_size)
        for name in ("aux", "patch_bias", "linear"):
            as_switch(getattr(self, name), name)
        for name, words in {"decoder": DECODERS, "graph": tuple(UPSAMPLING)}.items():
            if getattr(self, name) not in words:
                choice = ", ".join(words)
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {choice}")
        if not isinstance(self.backbone, str):
            raise ValueError(f"backbone is {self.backbone!r}; it must be the name of one")
        if self.backbone != "vit" and not self.patch_bias:
            raise ValueError(f"patch_bias=False is for our own encoder, not for {self.backbone!r}")
        if self.backbone == "hybrid" and self.patch_size != 16:
            raise ValueError(f"patch_size is {self.patch_size}; the hybrid's ResNet-50 makes it 16")
        check_variant(self)
        values["layers"] = self._checked_layers(values["depth"])
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _checked_layers(self, depth: int) -> tuple[int, ...]:
        if not isinstance(self.layers, (tuple, list)):
            raise ValueError(f"layers is {self.layers!r}; it must be a tuple of block numbers")
        if not self.layers and (self.decoder, depth) not in LAYERS:
            raise ValueError(
                f"no published layers for {self.decoder!r} with {depth} blocks (only for 12 "
                f"and 24); name them, for example layers=(1, 2, 3, {depth - 1})"
            )
        layers = self.layers or LAYERS[self.decoder, depth]
        layers = tuple(as_count(layer, "one of layers", 0) for layer in layers)
        if list(layers) != sorted(set(layers)) or layers[-1] >= depth:
            raise ValueError(
                f"layers {layers} must ascend and lie in 0 to {depth - 1}, the blocks it has"
            )
        if self.decoder == "mla" and len(layers) != 4:
            raise ValueError(f"MLA reads exactly 4 layers, got {len(layers)}: {layers}")
        return layers

    @property
    def aux_layers(self) -> tuple[int, ...]:
        """The blocks that the auxiliary heads read; in the authors' PUP also the main head's."""
        both = self.decoder == "mla" or (self.decoder == "pup" and self.graph == "authors")
        return self.layers if both else self.layers[:-1]


class Segmenter(nn.Module):
    """What every network here can do: all follows from `small_logits`, which each defines."""

    config: Any  # SETRConfig or FCNConfig
    encoder: nn.Module
    head: nn.Module
    aux_heads: nn.ModuleList
    protocol: TestProtocol | None = None  # how its checkpoint says that it is scored
    multiple = 1  # the last resize leads to the image, its sides rounded up to multiples of this

    def small_logits(self, images: Tensor, aux: bool = True) -> list[tuple[Tensor, list[Size]]]:
        """Logits as small as they come, and their way to the image; the main head's first.

        For each head, with `aux` the auxiliary ones too, `(B,K,h,w)` and the sizes of the resizes
        that follow; what is then larger than the image is cropped.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B,3,H,W)` -> logits `(B,K,H,W)`, before the softmax; any H and W >= 1.

        Images are float, normalised with the ImageNet statistics. ValueError if they have another
        number of channels or dimensions.
        """
        return self.to_image(self.head_logits(images, aux=False)["main"], size_of(images))

    def head_logits(self, images: Tensor, aux: bool = True) -> dict[str, Any]:
        """Every head's logits before its last resize.

        Returns:
            A dictionary with "main", `(B,K,h,w)`, and "aux", a list of such maps from shallow to
            deep (in mmsegmentation's MLA from deep to shallow). In the authors' graph h is, for
            Naive, the rows of the patch grid; for PUP 8 times that, its auxiliaries 4 times; for
            MLA 4 times, its auxiliaries once. The FCN's are at 1/8 of the image.
        """
        # The class's own: training compiles what the loss calls, for crops of one size.
        small = type(self).small_logits(self, images, aux)
        main, *others = (reduce(resize, sizes[:-1], logits) for logits, sizes in small)
        return {"main": main, "aux": others}

    def to_image(self, logits: Tensor, size: Size) -> Tensor:
        """The last resize and the crop: a head's `(B,K,h,w)` -> `(B,K,H,W)` for images of `size`.

        With `graph="mmseg"` the logits of the padded image are squeezed into the image, as
        mmsegmentation does; they move by up to 15 pixels where a side is no multiple of the patch.
        """
        return resize(logits, whole_patches(size, self.multiple))[..., : size[0], : size[1]]

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """What trains at ten times the rate: main and auxiliary heads, without MLA's neck.

        The authors select by the word "head" in a parameter's name; MLA's norms and fusion layers
        are in their backbone and train at the backbone's rate.
        """
        yield from self.head.parameters()
        yield from self.aux_heads.parameters()

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        average: str = "all",
        way: str = "lean",
        check: bool = True,
        kind: str = "cross_entropy",
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Main loss plus 0.4 times the sum of the auxiliary losses: a scalar.

        Args:
            images, labels: `(B,3,H,W)` float, normalised; `(B,H,W)` int64, 255 does not count.
            way: `"lean"`: without logits at the image's size; `"plain"`: with them, as dice, focal.
            check: whether the labels are looked through first, which waits for a GPU.
            average, kind, weight, label_smoothing: as in `segmentation_loss`.

        Raises:
            ValueError: for sizes that differ, a label that is no class, an unknown word.
        """
        if way not in ("lean", "plain"):
            raise ValueError(f"way is {way!r}; choose 'lean' or 'plain'")
        check_labels(labels, images, self.config.num_classes if check else None)
        if way == "lean" and kind == "cross_entropy":
            how = (False, weight, IGNORE, average)
            losses = [
                upsample_cross_entropy(logits, labels, *how, sizes, label_smoothing)
                for logits, sizes in self.small_logits(images)
            ]
        else:
            heads, size = self.head_logits(images), size_of(images)
            facts = (labels, average, False, kind, weight, label_smoothing)
            with torch.autocast(images.device.type, enabled=False):
                losses = [  # in float32, whatever the heads ran in
                    segmentation_loss(self.to_image(in_float32(logits), size), *facts)
                    for logits in (heads["main"], *heads["aux"])
                ]
        return losses[0] + AUX_WEIGHT * sum(losses[1:])


class SETR(Segmenter):
    """The network of `config`; see `create_model` for the published ones by name."""

    config: SETRConfig
    encoder: TokenEncoder

    def __init__(self, config: SETRConfig) -> None:
        super().__init__()
        self.config = c = config
        self.multiple = 1 if c.graph == "mmseg" else c.patch_size
        self.encoder = make_encoder(c)
        self.neck: MLANeck | None = None
        aux: list[nn.Module]
        if c.decoder == "mla":
            graph = MLA[c.graph]
            self.neck = MLANeck(c.width, c.channels)
            self.head = MLAHead(c.channels, c.num_classes, graph)
            aux = [MLAAuxHead(c.channels, c.num_classes, graph) for _ in c.layers]
        else:
            sizes, heads = (c.width, c.channels, c.num_classes), UPSAMPLING[c.graph]
            self.head = variant_head(c, heads) or UpsamplingHead(*sizes, heads[c.decoder])
            small = heads[f"{c.decoder} auxiliary"]
            if c.aux_convs:
                small = small._replace(factors=small.factors[:1] * c.aux_convs)
            aux = [UpsamplingHead(*sizes, small) for _ in c.aux_layers]
        self.aux_heads = nn.ModuleList(aux if c.aux else [])

    def small_logits(self, images: Tensor, aux: bool = True) -> list[tuple[Tensor, list[Size]]]:
        """Each head's logits as they leave its classifier; the resizes that follow."""
        c, grid = self.config, patch_grid(size_of(images), self.config.patch_size)
        heads: list[Any] = [self.head, *(self.aux_heads if aux else [])]
        found: list[tuple[Tensor, int]]  # with the factor by which a head enlarges them
        if self.neck is not None:
            maps = self.neck(self.encoder.features(images, c.layers), grid)
            ordered = maps[::-1] if MLA[c.graph].deepest_first else maps
            found = [(head(read), 1) for head, read in zip(heads, [maps, *ordered])]
        else:
            layers = [*c.aux_layers[: len(heads) - 1], c.layers[-1]]
            *early, last = self.encoder.features(images, layers)
            pairs = zip(heads, [last, *early])
            found = [(head.small(tokens, grid), head.factors[-1]) for head, tokens in pairs]
        full = whole_patches(size_of(images), self.multiple)
        return [
            (logits, [(factor * logits.shape[-2], factor * logits.shape[-1]), full])
            for logits, factor in found
        ]


def make_encoder(c: SETRConfig) -> TokenEncoder:
    """The encoder of a configuration."""
    class_token = "dropped" if c.decoder == "mla" else "kept"
    sizes = (c.image_size, c.width, c.depth, c.heads, c.patch_size, class_token)
    if c.stem != "patch" or c.attention_radius:
        return VariantEncoder(*sizes, c.patch_bias, c.in_chans, c.stem, c.attention_radius)
    if c.backbone == "vit":
        return Encoder(*sizes, c.patch_bias, c.in_chans)
    from .baselines.backbones import other_encoder  # timm takes seconds to import

    return other_encoder(c.backbone, *sizes, c.in_chans)
