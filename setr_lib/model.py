"""SETR, whole: encoder, decoder, auxiliary heads, and the names under which they are made."""

# B batch, H W image rows and columns, N tokens, D width, K classes, h w size of a head's map

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .decoders import MLA, UPSAMPLING, MLAAuxHead, MLAHead, MLANeck, UpsamplingHead, upsample
from .encoder import Encoder
from .geometry import Size, as_count, as_size, as_switch, grid_to_image, patch_grid, resize
from .losses.cross_entropy import heads_loss

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
        num_classes: classes of the scores.
        image_size: rows and columns that the position table is made for (int: a square).
        width, depth, heads: of the transformer.
        layers: 0-based blocks that the main and the auxiliary heads read, in ascending order;
            by default the published ones for 12 and 24 blocks. Naive and PUP: the last is the main
            head's. MLA: exactly four streams.
        channels: hidden width of the heads (MLA's streams end at half of it).
        graph: `"authors"`, the network of the authors' code, or `"mmseg"`, the one that
            mmsegmentation calls by the same name; `setr_lib.decoders` shows where they differ.
        aux: whether the auxiliary heads exist. They are used by the loss, never by `model(images)`.
        patch_size: side of a patch in pixels.
        patch_bias: whether the patch embedding has a bias.
        in_chans: channels of the image.
        aux_convs: convolutions of an auxiliary Naive or PUP head; 0: as many as the graph has.
            (mmsegmentation's Naive has 2 in its ADE20K configuration, 1 in that of Cityscapes.)
        backbone: `"vit"`: our encoder; `"hybrid"`: with a ResNet-50 in front of it; or the name of
            a timm model.

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

    def __post_init__(self) -> None:
        counts = ("num_classes", "width", "depth", "heads", "channels", "patch_size", "in_chans")
        values: dict[str, Any] = {name: as_count(getattr(self, name), name) for name in counts}
        values["aux_convs"] = as_count(self.aux_convs, "aux_convs", 0)
        values["image_size"] = as_size(self.image_size)
        for name in ("aux", "patch_bias"):
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


class SETR(nn.Module):
    """The network of `config`; see `create_model` for the published ones by name.

    `model(images)` gives class scores at the images' own size, `model.loss(images, labels)` the
    training loss with the auxiliary heads, `model.head_logits(images)` what each head says before
    its last resize.
    """

    def __init__(self, config: SETRConfig) -> None:
        super().__init__()
        self.config = c = config
        self.encoder: Any = make_encoder(c)
        self.neck: MLANeck | None = None
        self.head: Any
        aux: list[nn.Module]
        if c.decoder == "mla":
            graph = MLA[c.graph]
            self.neck = MLANeck(c.width, c.channels)
            self.head = MLAHead(c.channels, c.num_classes, graph)
            aux = [MLAAuxHead(c.channels, c.num_classes, graph) for _ in c.layers]
        else:
            sizes, heads = (c.width, c.channels, c.num_classes), UPSAMPLING[c.graph]
            self.head = UpsamplingHead(*sizes, heads[c.decoder])
            small = heads[f"{c.decoder} auxiliary"]
            if c.aux_convs:
                small = small._replace(factors=small.factors[:1] * c.aux_convs)
            aux = [UpsamplingHead(*sizes, small) for _ in c.aux_layers]
        self.aux_heads = nn.ModuleList(aux if c.aux else [])

    def forward(self, images: Tensor) -> Tensor:
        """Class scores at the images' own size.

        Args:
            images: `(B,3,H,W)` float, normalised with the ImageNet statistics; any H and W >= 1.

        Returns:
            `(B,K,H,W)` float: logits, before the softmax.

        Raises:
            ValueError: if the images have another number of channels or dimensions.
        """
        main = upsample(*self._heads(images, aux=False)[0])
        return self.to_image(main, (images.shape[-2], images.shape[-1]))

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        average: str = "all",
        way: str = "lean",
        check: bool = True,
    ) -> Tensor:
        """Main loss plus 0.4 times the sum of the auxiliary losses: a scalar.

        Args:
            images: `(B,3,H,W)` float, normalised.
            labels: `(B,H,W)` int64, 0 to K-1, and 255 for pixels that do not count.
            average: `"all"` divides the cross-entropy by every pixel, ignored ones included, as the
                authors' and mmsegmentation's code does; `"valid"` by those that count.
            way: `"lean"`: no map of scores at the image's size is made; `"plain"`: the same loss
                by enlarging them.
            check: whether the labels are looked through first, which waits for a GPU.

        Raises:
            ValueError: if the sizes of images and labels differ, or a label is no class.
        """
        return heads_loss(self, images, labels, average, way, check)

    def head_logits(self, images: Tensor) -> dict[str, Any]:
        """Every head's scores before its last resize.

        Returns:
            A dictionary with "main", `(B,K,h,w)`, and "aux", a list of such maps from shallow to
            deep (in mmsegmentation's MLA from deep to shallow). In the authors' graph h is, for
            Naive, the rows of the patch grid; for PUP 8 times that, its auxiliaries 4 times; for
            MLA 4 times, its auxiliaries once.
        """
        main, *aux = (upsample(*small) for small in self._heads(images, aux=True))
        return {"main": main, "aux": aux}

    def small_logits(self, images: Tensor, aux: bool = True) -> list[tuple[Tensor, list[Size]]]:
        """Scores as small as they come, and their way to the image; the main head's first.

        Args:
            aux: whether the auxiliary heads speak too.

        Returns:
            For each head `(B,K,h,w)` and the sizes of the resizes that follow; what is then larger
            than the image is cropped. Two resizes are one matrix product: see `setr_lib.losses`.
        """
        size = (images.shape[-2], images.shape[-1])
        grid, patch = patch_grid(size, self.config.patch_size), self.config.patch_size
        full = size if self.config.graph == "mmseg" else (grid[0] * patch, grid[1] * patch)
        return [
            (scores, [(factor * scores.shape[-2], factor * scores.shape[-1]), full])
            for scores, factor in self._heads(images, aux)
        ]

    def to_image(self, scores: Tensor, size: Size) -> Tensor:
        """The last resize: a head's `(B,K,h,w)` -> `(B,K,H,W)` for images of `size`.

        With `graph="mmseg"` the scores of the padded image are squeezed into the image, as
        mmsegmentation does; they move by up to 15 pixels where a side is no multiple of the patch.
        """
        if self.config.graph == "mmseg":
            return resize(scores, size)
        return grid_to_image(scores, size, self.config.patch_size)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """What trains at ten times the rate: main and auxiliary heads, without MLA's neck.

        The authors select by the word "head" in a parameter's name; MLA's norms and fusion layers
        are in their backbone and train at the backbone's rate.
        """
        yield from self.head.parameters()
        yield from self.aux_heads.parameters()

    def _heads(self, images: Tensor, aux: bool) -> list[tuple[Tensor, int]]:
        """Scores of the main head and, if asked for, of the auxiliary heads behind it.

        Each as it leaves the classifier, with the factor by which its head enlarges it.
        """
        c = self.config
        grid = patch_grid((images.shape[-2], images.shape[-1]), c.patch_size)
        aux_heads: list[Any] = list(self.aux_heads) if aux else []
        if self.neck is not None:
            maps = self.neck(self.encoder.features(images, c.layers), grid)
            ordered = maps[::-1] if MLA[c.graph].deepest_first else maps
            return [(self.head(maps), 1)] + [(h(m), 1) for h, m in zip(aux_heads, ordered)]
        layers = [*c.aux_layers[: len(aux_heads)], c.layers[-1]]
        *early, last = self.encoder.features(images, layers)
        pairs = zip([self.head, *aux_heads], [last, *early])
        return [(head.small(tokens, grid), head.factors[-1]) for head, tokens in pairs]


def make_encoder(c: SETRConfig) -> nn.Module:
    """The encoder of a configuration: it has `features(images, layers)` and `grid`."""
    class_token = "dropped" if c.decoder == "mla" else "kept"
    if c.backbone == "vit":
        return Encoder(
            c.image_size, c.width, c.depth, c.heads, c.patch_size,
            class_token, c.patch_bias, c.in_chans,
        )  # fmt: skip
    from .baselines.backbones import HybridEncoder, TimmEncoder  # timm takes seconds to import

    if c.backbone == "hybrid":
        return HybridEncoder(c.image_size, c.width, c.depth, c.heads, class_token, c.in_chans)
    encoder = TimmEncoder(c.backbone, c.image_size, c.in_chans)
    for name in ("width", "depth", "patch_size"):
        if getattr(c, name) != getattr(encoder, name):
            raise ValueError(
                f"{name} is {getattr(c, name)}, that of {c.backbone} {getattr(encoder, name)}; "
                "make the configuration with setr_lib.model.timm_config"
            )
    return encoder
