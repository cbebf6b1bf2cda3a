"""Everything that makes a network: by name, from a configuration, or from a file."""

import os
import warnings
from dataclasses import replace
from typing import Any

import torch

from .data.classes import colours_of
from .data.protocols import stored_protocol
from .files import unknown
from .geometry import Size, as_size
from .model import DECODERS, LAYERS, SETR, SIZES, Segmenter, SETRConfig, make_encoder
from .weights.config import make_network, own_config
from .weights.keys import translate
from .weights.load import load_weights
from .weights.tensors import naming, read_tensors


def list_models() -> list[str]:
    """The names that `create_model` knows."""
    names = [f"setr_{decoder}_{size}" for decoder in DECODERS for size in SIZES]
    return [*names, "setr_hybrid_base", "fcn_resnet50", "fcn_resnet101"]


def create_model(
    name: str,
    num_classes: int = 150,
    image_size: int | Size = 512,
    aux: bool = True,
    graph: str = "authors",
    pretrained: str | None = None,
    backbone: str | None = None,
    in_chans: int = 3,
    patch_size: int | None = None,
) -> Segmenter:
    """Make a network of the paper by name.

    Args:
        name: `setr_{naive,pup,mla}_{tiny,small,base,large}`; `setr_hybrid_base`, the paper's
            ResNet-50 + T-Base with the Naive decoder; `fcn_resnet{50,101}`, the convolutional
            network that the paper compares with, for its costs (it takes no pretrained weights).
            Base and Large are the paper's T-Base and T-Large; Tiny and Small have the shapes of
            DeiT's.
        num_classes: classes of the logits.
        image_size: rows and columns that the position table is made for, or one number for both.
        aux: whether the auxiliary heads exist.
        graph: `"authors"`: the network of the authors' code; `"mmseg"`: mmsegmentation's.
        pretrained: the name of a timm model, whose weights are fetched, or the path of any
            checkpoint that `load_weights` knows. The paper's T-Base is timm's
            `vit_base_patch16_384.orig_in21k_ft_in1k`, its DeiT `deit_base_distilled_patch16_384`.
        backbone: a timm model that replaces the encoder, for example `vit_small_patch14_dinov2`;
            the size in `name` then plays no part. With `pretrained` equal to it, it gets its
            weights.
        in_chans: channels of the images; pretrained patch embeddings are fitted to them.
        patch_size: side of a patch in pixels; None: 16, or the backbone's.

    Raises:
        ValueError: for an unknown name (the message lists the nearest ones), and for an argument
            that the network of this name does not have.
        ConnectionError: if pretrained weights cannot be fetched.
    """
    if name not in list_models():
        raise ValueError(unknown("model", name, list_models()))
    if name.startswith("fcn"):
        from .baselines.fcn import FCN, FCNConfig

        given = {"pretrained": pretrained, "backbone": backbone, "patch_size": patch_size}
        given["graph"] = None if graph == "authors" else graph
        _refuse(name, given)
        as_size(image_size, "image_size")  # it has no table of positions to make for it
        return FCN(FCNConfig(int(name.removeprefix("fcn_resnet")), num_classes, aux, in_chans))
    if backbone is None:
        config = model_config(name, num_classes, image_size, aux, graph)
        patch_size = config.patch_size if patch_size is None else patch_size
        config = replace(config, in_chans=in_chans, patch_size=patch_size)
    else:
        _refuse(name, {"backbone": backbone if "hybrid" in name else None})
        config = timm_config(name.split("_")[1], backbone, num_classes, image_size, aux, graph)
        if patch_size not in (None, config.patch_size):
            raise ValueError(f"patch_size is {patch_size}; {backbone} has {config.patch_size}")
        config = replace(config, in_chans=in_chans)
    model = SETR(config)
    if pretrained is not None:
        from .weights.load import load_pretrained

        load_pretrained(model, pretrained)
    return model


def _refuse(name: str, given: dict[str, Any]) -> None:
    for argument, value in given.items():
        if value is not None:
            raise ValueError(f"{name} has no {argument}, which is {value!r} here; leave it out")


def model_config(
    name: str,
    num_classes: int = 150,
    image_size: int | Size = 512,
    aux: bool = True,
    graph: str = "authors",
) -> SETRConfig:
    """The configuration of a published SETR by name; arguments as in `create_model`."""
    _, decoder, size = name.split("_")
    width, depth, heads = SIZES[size]
    backbone = "vit"
    if decoder == "hybrid":
        decoder, backbone = "naive", "hybrid"
    return SETRConfig(
        decoder, num_classes, as_size(image_size), width, depth, heads,
        graph=graph, aux=aux, backbone=backbone,
    )  # fmt: skip


def timm_config(
    decoder: str,
    backbone: str,
    num_classes: int,
    image_size: int | Size,
    aux: bool = True,
    graph: str = "authors",
    layers: tuple[int, ...] = (),
) -> SETRConfig:
    """The configuration of a SETR on a timm backbone.

    Args:
        layers: the blocks that the heads read; by default the published ones, or quarters of the
            depth where it is neither 12 nor 24.
    """
    from .baselines.backbones import TimmEncoder

    with torch.device("meta"):
        probe = TimmEncoder(backbone, as_size(image_size))
    if not layers and (decoder, probe.depth) not in LAYERS:
        layers = tuple(probe.depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
    return SETRConfig(
        decoder, num_classes, as_size(image_size), probe.width, probe.depth, heads=1,
        layers=layers, graph=graph, aux=aux, patch_size=probe.patch_size, backbone=backbone,
    )  # fmt: skip


def with_encoder(config: SETRConfig, pretrained: str) -> SETRConfig:
    """A network's configuration with an encoder that a timm model's weights fill.

    Ours where the tensors are those of a plain ViT (AugReg, DeiT): patches of any size, and the
    positions and patches are resampled. Else timm's own, with its patches (DINOv2, DINOv3).

    Raises:
        ValueError: for an unknown model, or one that keeps no single grid of patches.
    """
    import timm

    if not timm.is_model(pretrained):
        raise ValueError(
            f"no file here, and {unknown('timm model', pretrained, timm.list_models())}"
        )
    with torch.device("meta"):
        theirs: Any = timm.create_model(pretrained, num_classes=0)
    found = timm_config(config.decoder, pretrained, config.num_classes, config.image_size)
    facts: dict[str, Any] = {"width": found.width, "depth": found.depth}
    facts["layers"] = config.layers if config.depth == found.depth else found.layers
    try:
        heads = theirs.blocks[0].attn.num_heads
        ours = replace(config, **facts, heads=heads, backbone="vit")
        with torch.device("meta"):
            wanted = {f"encoder.{name}" for name in make_encoder(ours).state_dict()}
        if wanted <= translate(theirs.state_dict()).names.keys():
            return ours
    except (AttributeError, ValueError):  # no plain ViT
        pass
    facts |= {"heads": 1, "patch_size": found.patch_size, "backbone": pretrained}
    return replace(config, **facts)


def load_checkpoint(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[Segmenter, dict[str, Any]]:
    """Read what `save_checkpoint` wrote: the model, in evaluation mode, and what is known of it.

    `model.protocol` is the `TestProtocol` that its run was scored by, which `predict` and
    `evaluate` follow; None, if the file has none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or no checkpoint of this library.
    """
    checkpoint = read_tensors(path)
    with naming(checkpoint.file):
        config = own_config(checkpoint)
        if config is None:
            raise ValueError(
                "it does not say which network it holds; bring it into this library's form first: "
                f"python -m setr_lib convert {path} OUT.safetensors"
            )
        protocol = stored_protocol(checkpoint.about)
    model = make_network(config)
    load_weights(model, checkpoint)
    model.protocol = protocol
    for note in checkpoint.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    about = dict(checkpoint.about)
    if "palette" in about:
        about["palette"] = colours_of(about.get("classes", ()), about["palette"])
    return model.to(device).eval(), about
