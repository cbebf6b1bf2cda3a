"""Other people's names for the tensors of SETR: recognised, and translated into ours.

Tables of regular expressions over whole keys, from the fact that the three code bases differ in
names and in the order of MLA's streams, never in the layout of a tensor.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from .errors import few


def recognise(tensors: Mapping[str, Tensor]) -> str:
    """Whose checkpoint it is: `"setr_lib"`, `"authors"`, `"mmseg"` or `"timm"`."""
    parts = {key.split(".")[0] for key in tensors}
    if "encoder" in parts and parts <= {"encoder", "neck", "head", "aux_heads"}:
        return "setr_lib"  # also around a timm backbone, or the FCN
    for key, owner in {
        "backbone.blocks.0.norm1.weight": "authors",
        "backbone.layers.0.ln1.weight": "mmseg",
        "blocks.0.norm1.weight": "timm",
        "layers.0.ln1.weight": "mmseg",  # the encoder alone, as its converter writes it
    }.items():
        if key in tensors:
            return owner
    raise ValueError(
        f"these are no weights of a SETR or a ViT that is known here: {few(list(tensors))}. Known "
        "are this library's, timm's ViT and DeiT, the authors' and mmsegmentation's SETR"
    )


UNUSED = "SETR does not use it"
# Regular expressions over whole keys; None: never used. The first that fits decides.
_ENCODER = [
    (r"(cls_token|pos_embed|patch_embed\.proj\.\w+)", r"encoder.\1"),
    (r"(blocks\.\d+\.(?:norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.\w+)", r"encoder.\1"),
    (r"(norm|head|head_dist|fc_norm|pre_logits)\..*|dist_token", None),
]
_MMSEG_ENCODER = [
    (r"(cls_token|pos_embed)", r"encoder.\1"),
    (r"patch_embed\.projection\.(\w+)", r"encoder.patch_embed.proj.\1"),
    (r"layers\.(\d+)\.ln(\d)\.(\w+)", r"encoder.blocks.\1.norm\2.\3"),
    (r"layers\.(\d+)\.attn\.attn\.in_proj_(\w+)", r"encoder.blocks.\1.attn.qkv.\2"),
    (r"layers\.(\d+)\.attn\.attn\.out_proj\.(\w+)", r"encoder.blocks.\1.attn.proj.\2"),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"encoder.blocks.\1.mlp.fc1.\2"),
    (r"layers\.(\d+)\.ffn\.layers\.1\.(\w+)", r"encoder.blocks.\1.mlp.fc2.\2"),
    (r"ln1\..*", None),
]
_AUTHORS = [
    *((rf"backbone\.(?:{old})", new) for old, new in _ENCODER),
    (r"(?:decode_head|auxiliary_head\.\d+)\.conv_seg\..*", None),  # every head carries a dead one
    *(  # MLA: streams p2 to p5, from shallow to deep
        (rf"{old.format(p=p)}\.(\w+)", rf"{new.format(i=p - 2)}.\1")
        for p in (2, 3, 4, 5)
        for old, new in {
            r"backbone\.mla\.mla_p{p}_1x1\.0": "neck.projections.{i}.conv",
            r"backbone\.mla\.mla_p{p}_1x1\.1": "neck.projections.{i}.bn",
            r"backbone\.mla\.mla_p{p}\.0": "neck.fusions.{i}.conv",
            r"backbone\.mla\.mla_p{p}\.1": "neck.fusions.{i}.bn",
            r"decode_head\.mlahead\.head{p}\.0": "head.streams.{i}.0.conv",
            r"decode_head\.mlahead\.head{p}\.1": "head.streams.{i}.0.bn",
            r"decode_head\.mlahead\.head{p}\.3": "head.streams.{i}.1.conv",
            r"decode_head\.mlahead\.head{p}\.4": "head.streams.{i}.1.bn",
        }.items()
    ),
    (r"backbone\.norm_(\d)\.(\w+)", r"neck.norms.\1.\2"),
    (r"decode_head\.cls\.(\w+)", r"head.classifier.\1"),
    (r"auxiliary_head\.(\d)\.aux\.(\w+)", r"aux_heads.\1.classifier.\2"),
    (r"decode_head\.norm\.(\w+)", r"head.norm.\1"),
    (r"decode_head\.syncbn_fc_(\d)\.(\w+)", r"head.convs.\1.bn.\2"),
    (r"auxiliary_head\.(\d)\.norm\.(\w+)", r"aux_heads.\1.norm.\2"),
    (r"auxiliary_head\.(\d)\.conv_0\.(\w+)", r"aux_heads.\1.convs.0.conv.\2"),
    (r"auxiliary_head\.(\d)\.syncbn_fc_0\.(\w+)", r"aux_heads.\1.convs.0.bn.\2"),
    (r"auxiliary_head\.(\d)\.conv_1\.(\w+)", r"aux_heads.\1.classifier.\2"),
    (r"decode_head\.conv_(\d)\.(\w+)", r"head.convs.\1.conv.\2"),  # the last is the classifier
]
_MMSEG = [
    *((rf"backbone\.(?:{old})", new) for old, new in _MMSEG_ENCODER),
    *(  # MLA: the fusion and the heads count from deep to shallow
        (rf"{old.format(j=3 - i)}\.(\w+)", rf"{new.format(i=i)}.\1")
        for i in (0, 1, 2, 3)
        for old, new in {
            r"neck\.mla\.feat_extract\.{j}\.conv": "neck.fusions.{i}.conv",
            r"neck\.mla\.feat_extract\.{j}\.bn": "neck.fusions.{i}.bn",
            r"MLA\.decode_head\.up_convs\.{j}\.0\.conv": "head.streams.{i}.0.conv",
            r"MLA\.decode_head\.up_convs\.{j}\.0\.bn": "head.streams.{i}.0.bn",
            r"MLA\.decode_head\.up_convs\.{j}\.1\.conv": "head.streams.{i}.1.conv",
            r"MLA\.decode_head\.up_convs\.{j}\.1\.bn": "head.streams.{i}.1.bn",
        }.items()
    ),
    (r"neck\.norm\.(\d)\.(\w+)", r"neck.norms.\1.\2"),
    (r"neck\.mla\.channel_proj\.(\d)\.(conv|bn)\.(\w+)", r"neck.projections.\1.\2.\3"),
    (r"(?:MLA\.)?decode_head\.conv_seg\.(\w+)", r"head.classifier.\1"),
    (r"auxiliary_head\.(\d)\.conv_seg\.(\w+)", r"aux_heads.\1.classifier.\2"),
    (r"decode_head\.norm\.(\w+)", r"head.norm.\1"),
    (r"decode_head\.up_convs\.(\d)\.0\.(conv|bn)\.(\w+)", r"head.convs.\1.\2.\3"),
    (r"auxiliary_head\.(\d)\.norm\.(\w+)", r"aux_heads.\1.norm.\2"),
    (
        r"auxiliary_head\.(\d)\.up_convs\.(\d)\.0\.(conv|bn)\.(\w+)",
        r"aux_heads.\1.convs.\2.\3.\4",
    ),
]


def translate(tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, str]]:
    """Names in our model -> keys of the file; and the keys that are not used -> why.

    Raises:
        ValueError: for a key that stands for a layer which SETR does not have.
    """
    owner = recognise(tensors)
    if owner == "setr_lib":
        return {key: key for key in tensors}, {}
    rules = {"authors": _AUTHORS, "mmseg": _MMSEG, "timm": _ENCODER}[owner]
    if owner == "mmseg" and "layers.0.ln1.weight" in tensors:
        rules = _MMSEG_ENCODER
    is_mla = any(key.startswith("neck.mla.") for key in tensors)
    names: dict[str, str] = {}
    left_out: dict[str, str] = {}
    foreign: list[str] = []
    for key in tensors:
        spelled = f"MLA.{key}" if is_mla and key.startswith("decode_head.") else key
        for old, new in rules:
            if re.fullmatch(old, spelled):
                if new is None:
                    left_out[key] = UNUSED
                else:
                    names[re.sub(old, new, spelled)] = key
                break
        else:
            foreign.append(key)
    if foreign:
        raise ValueError(
            f"the file looks like {owner}'s, but has layers that SETR does not have: "
            f"{few(foreign)}; it is another network"
        )
    # The authors number the classifier on: conv_1 in Naive, conv_4 in PUP.
    for name in [n for n in names if re.fullmatch(r"head\.convs\.\d\.conv\.\w+", n)]:
        _, _, number, _, kind = name.split(".")
        if f"head.convs.{number}.bn.weight" not in names:
            names[f"head.classifier.{kind}"] = names.pop(name)
    return names, left_out
