"""Other people's names for the tensors of SETR: recognised, and translated into ours.

Tables of regular expressions over whole keys. The authors', mmsegmentation's and timm's files
differ in names and in the order of MLA's streams, never in the layout of a tensor; JAX lays
matrices the other way round, and it and Hugging Face keep q, k and v apart.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..files import few
from .pickles import Refused


@dataclass
class Translation:
    """What a file's keys mean.

    Attributes:
        owner: whose file it is: `"setr_lib"`, `"authors"`, `"mmseg"`, `"timm"`, `"huggingface"` or
            `"jax"`.
        tensors: by key; the last two owners' in timm's names and layouts.
        names: name in our model -> key.
        left_out: keys that are not used -> why.
        notes: what a user should know, one sentence each.
    """

    owner: str
    tensors: dict[str, Tensor]
    names: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def has_head(self) -> bool:
        """Whether it is a whole segmentation network."""
        return any(name.startswith("head.") for name in self.names)

    @property
    def distilled(self) -> bool:
        """Whether its position table has a slot for DeiT's second token."""
        return any(key.endswith("dist_token") for key in self.left_out)


# Keys that show whose encoder it is; what stands before them is the way to it.
_MARKS = {
    "timm": ("patch_embed.proj.weight", "blocks.0.norm1.weight"),
    "mmseg": ("patch_embed.projection.weight", "layers.0.ln1.weight"),
    "huggingface": (
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.0.layernorm_before.weight",
        "layers.0.layernorm_before.weight",
    ),
    "jax": ("embedding/kernel", "Transformer/encoderblock_0/LayerNorm_0/scale"),
}


def recognise(keys: Iterable[str]) -> tuple[str, list[str]]:
    """Whose checkpoint it is, and what stands before its names (further candidates behind).

    Raises:
        ValueError: if it is nobody's that is known here.
    """
    keys = list(keys)
    ends = ("head.classifier.weight",)
    for way in _ways(keys, ends):
        if any(key.startswith(f"{way}encoder.") for key in keys):
            return "setr_lib", [way]  # also around a timm backbone, or the FCN
    found = Counter(
        (owner, way) for owner, ends in _MARKS.items() for way in _ways(keys, ends)
    ).most_common()
    if not found:
        raise Refused(
            f"these are no weights of a SETR or a ViT that is known here: {few(keys)}. Known are "
            "this library's, timm's, Hugging Face's and JAX's ViT and DeiT, the authors' and "
            "mmsegmentation's SETR"
        )
    (owner, way), most = found[0]
    others = [w for (o, w), count in found[1:] if o == owner and count == most]
    whole = way.removesuffix("backbone.")
    if whole != way and any(key.startswith(f"{whole}decode_head.") for key in keys):
        return {"timm": "authors"}.get(owner, owner), [whole, *others]
    return owner, [way, *others]


def _ways(keys: list[str], ends: tuple[str, ...]) -> list[str]:
    """What stands before those keys that end like this, at the border of a name."""
    ways = [key.removesuffix(end) for key in keys for end in ends if key.endswith(end)]
    return [way for way in ways if not way or way[-1] in "./"]


UNUSED = "SETR does not use it"
COUNTERS = re.compile(r"(.*\.)?total_(ops|params)")  # of the profiler thop
# What torch puts around modules that it compiles or shards, anywhere in a name.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Regular expressions over whole keys; None: never used. The first that fits decides.
_ENCODER = [
    (r"(cls_token|pos_embed|patch_embed\.proj\.\w+)", r"encoder.\1"),
    (r"(blocks\.\d+\.(?:norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.\w+)", r"encoder.\1"),
    (r"(norm|head|head_dist|fc_norm|pre_logits)\..*|dist_token", None),
    (r"mask_token|decoder_.*", None),  # of MAE
]
_MMSEG_ENCODER = [
    (r"(cls_token|pos_embed)", r"encoder.\1"),
    (r"patch_embed\.projection\.(\w+)", r"encoder.patch_embed.proj.\1"),
    (r"layers\.(\d+)\.ln(\d)\.(\w+)", r"encoder.blocks.\1.norm\2.\3"),
    (r"layers\.(\d+)\.attn\.attn\.in_proj_(\w+)", r"encoder.blocks.\1.attn.qkv.\2"),
    (r"layers\.(\d+)\.attn\.attn\.out_proj\.(\w+)", r"encoder.blocks.\1.attn.proj.\2"),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"encoder.blocks.\1.mlp.fc1.\2"),
    (r"layers\.(\d+)\.ffn\.layers\.1\.(\w+)", r"encoder.blocks.\1.mlp.fc2.\2"),
    (r"ln1\..*|dist_token", None),
]
# Into timm's names first; q, k and v are joined then.
_HUGGINGFACE = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    *(
        (rf"(?:encoder\.layer|layers)\.(\d+)\.{old}\.(\w+)", new)
        for old, new in {
            r"layernorm_before": r"blocks.\1.norm1.\2",
            r"layernorm_after": r"blocks.\1.norm2.\2",
            r"attention\.attention\.(query|key|value)": r"blocks.\1.attn.\2.\3",
            r"attention\.output\.dense": r"blocks.\1.attn.proj.\2",
            r"intermediate\.dense": r"blocks.\1.mlp.fc1.\2",
            r"output\.dense": r"blocks.\1.mlp.fc2.\2",
            # The names of transformers 5 in memory; its files keep those above.
            r"attention\.q_proj": r"blocks.\1.attn.query.\2",
            r"attention\.k_proj": r"blocks.\1.attn.key.\2",
            r"attention\.v_proj": r"blocks.\1.attn.value.\2",
            r"attention\.o_proj": r"blocks.\1.attn.proj.\2",
            r"mlp\.(fc1|fc2)": r"blocks.\1.mlp.\2.\3",
        }.items()
    ),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (r"pooler\.(.*)", r"pre_logits.\1"),
]
_JAX = [
    (r"cls", "cls_token"),
    (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed"),
    (r"embedding/(\w+)", r"patch_embed.proj.\1"),
    *(
        (rf"Transformer/encoderblock_(\d+)/{old}/(\w+)", new)
        for old, new in {
            r"LayerNorm_0": r"blocks.\1.norm1.\2",
            r"LayerNorm_[12]": r"blocks.\1.norm2.\2",
            r"MultiHeadDotProductAttention_[01]/(query|key|value)": r"blocks.\1.attn.\2.\3",
            r"MultiHeadDotProductAttention_[01]/out": r"blocks.\1.attn.proj.\2",
            r"MlpBlock_[03]/Dense_0": r"blocks.\1.mlp.fc1.\2",
            r"MlpBlock_[03]/Dense_1": r"blocks.\1.mlp.fc2.\2",
        }.items()
    ),
    (r"Transformer/encoder_norm/(\w+)", r"norm.\1"),
    (r"(head|pre_logits)/(\w+)", r"\1.\2"),
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


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Names in our model for the keys of a file.

    Raises:
        ValueError: if the file is nobody's that is known, or has layers that SETR does not have.
    """
    keys = {re.sub(_WRAPPERS, "", key): key for key in tensors}
    if len(keys) < len(tensors):
        raise Refused("has the same tensor twice, with and without _orig_mod.")
    owner, (way, *others) = recognise(keys)
    found = Translation(owner, dict(tensors))
    if others:
        found.notes.append(f"taken: {way!r}; the file also holds {few(others)}")
    inside = {}
    for name, key in keys.items():
        if re.fullmatch(COUNTERS, name):
            found.left_out[key] = "a profiler's counter"
        elif name.startswith(way):
            inside[name.removeprefix(way)] = key
        else:
            found.left_out[key] = f"outside of {way!r}"
    if owner == "setr_lib":
        found.names = inside
        return found
    if owner in ("huggingface", "jax"):
        found.tensors = _in_timms_form(owner, {n: tensors[key] for n, key in inside.items()})
        inside = {name: name for name in found.tensors}
    is_whole = any(name.startswith("decode_head.") for name in inside)
    is_mla = any(name.startswith("neck.mla.") for name in inside)
    rules = {
        "authors": _AUTHORS,
        "mmseg": _MMSEG if is_whole else _MMSEG_ENCODER,
    }.get(owner, _ENCODER)
    for name, key in inside.items():
        spelled = f"MLA.{name}" if is_mla and name.startswith("decode_head.") else name
        new = _renamed(rules, spelled, owner)
        if new is None:
            found.left_out[key] = UNUSED
        else:
            found.names[new] = key
    _name_the_classifier(found.names)
    return found


def _renamed(rules: list, name: str, owner: str) -> str | None:
    """The new name by the first rule that fits; None: never used."""
    for old, new in rules:
        if re.fullmatch(old, name):
            return new and re.sub(old, new, name)
    raise Refused(
        f"looks like {owner}'s, but has layers that SETR does not have, such as {name}; it is "
        "another network"
    )


def _name_the_classifier(names: dict[str, str]) -> None:
    """The authors number the classifier on: conv_1 in Naive, conv_4 in PUP."""
    for name in [n for n in names if re.fullmatch(r"head\.convs\.\d\.conv\.\w+", n)]:
        _, _, number, _, kind = name.split(".")
        if f"head.convs.{number}.bn.weight" not in names:
            names[f"head.classifier.{kind}"] = names.pop(name)


def _in_timms_form(owner: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ViT of Hugging Face or JAX in timm's names and layouts, q, k and v joined."""
    rules = {"huggingface": _HUGGINGFACE, "jax": _JAX}[owner]
    done = {}
    for key, tensor in tensors.items():
        name = _renamed(rules, key, owner) or key
        if owner == "jax":
            name = re.sub(r"\.(kernel|scale)$", ".weight", name)
            tensor = _laid_out(key, name, tensor)
        done[name] = tensor
    for name in [n for n in done if ".attn.query." in n]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if missing := [part for part in parts if part not in done]:
            raise Refused(f"is not whole: {few(missing)} is missing")
        joined = [done.pop(part) for part in parts]
        if len({tensor.shape for tensor in joined}) > 1 or not joined[0].ndim:
            raise Refused(f"has q, k and v of different shapes: {few(parts)}")
        done[name.replace(".query.", ".qkv.")] = torch.cat(joined)
    return done


def _laid_out(key: str, name: str, tensor: Tensor) -> Tensor:
    """A tensor of JAX as torch wants it: (in, out) -> (out, in), heads and their width as one."""
    if ".attn." in name and not name.endswith("proj.bias"):
        if tensor.ndim < 2:
            raise Refused(f"{key} has {tensor.ndim} dimensions; its heads are not told apart")
        tensor = tensor.flatten(0, 1) if ".proj." in name else tensor.flatten(-2)
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)
    return tensor.mT if tensor.ndim == 2 else tensor
