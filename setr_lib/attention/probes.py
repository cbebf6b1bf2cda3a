"""Where the segmentation emerges: decoder stages, auxiliary heads, a linear probe per block.

A probe is one linear classifier on the frozen patch tokens of one block (Alain and Bengio,
*Understanding intermediate layers using linear classifier probes*, 2016). `tools.measure`
fits those of the shipped model.
"""

# B batch, N patches, Y X patch rows and columns, D width, K classes, L blocks

import json
import os
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data.files import PairDataset
from ..decoders import MLA, to_map
from ..files import whole_file
from ..geometry import Size, patch_grid, resize
from ..inference import evaluating
from ..model import SETR
from ..weights.tensors import read_tensors
from .capture import encoder_of
from .maps import prepare
from .stats import class_counts


def forward_stages(model: SETR, images: Tensor) -> dict[str, Any]:
    """Everything between the last token and the scores, at its own resolution.

    Args:
        images: `(B,3,H,W)` normalised.

    Returns:
        `"grid"`: (Y, X); `"stages"`: name -> `(B,C,h,w)` in the order of computation, after each
        convolution: one for Naive at the patch grid, four for PUP, each at twice the resolution of
        the one before, eight for MLA (each stream after its fusion, then before its x4);
        `"head_logits"`: `(B,K,h,w)` before the last resize; `"logits"`: `(B,K,H,W)` after it;
        `"aux"`: the auxiliary heads' `(B,K,h,w)`, shallowest first; `"aux_layers"`: the blocks that
        they read.

    Raises:
        ValueError: if the model has no encoder of the library (the FCN).
    """
    encoder = encoder_of(model)
    parts: dict[str, nn.Module] = {}
    if model.neck is not None:
        layers = model.config.layers
        parts |= {f"block {n}, fused": m for n, m in zip(layers, model.neck.fusions)}
        parts |= {f"block {n}, stream": m for n, m in zip(layers, model.head.streams)}  # type: ignore[arg-type]
    else:
        parts |= {f"convolution {n}": m for n, m in enumerate(model.head.convs)}  # type: ignore[arg-type]
    stages: dict[str, Tensor] = {}
    hooks = [
        part.register_forward_hook(lambda _, __, out, name=name: stages.update({name: out}))
        for name, part in parts.items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            heads = model.head_logits(images)
    finally:
        for hook in hooks:
            hook.remove()
    size = (images.shape[-2], images.shape[-1])
    aux_layers, aux = aux_heads(model, heads["aux"])
    return {
        "grid": patch_grid(size, encoder.patch_size),
        "stages": {name: stages[name] for name in parts},
        "head_logits": heads["main"],
        "logits": model.to_image(heads["main"], size),
        "aux": aux,
        "aux_layers": aux_layers,
    }


def aux_heads(model: SETR, maps: list[Tensor]) -> tuple[list[int], list[Tensor]]:
    """The blocks that the auxiliary heads read and what they say, shallowest first."""
    c = model.config
    if c.decoder == "mla" and MLA[c.graph].deepest_first:
        maps = maps[::-1]
    return list(c.aux_layers)[: len(maps)], maps


@dataclass(frozen=True)
class Probes:
    """Linear classifiers on the patch tokens of every block.

    Attributes:
        weight: `(L,K,D)`, the standardisation of the tokens folded in.
        bias: `(L,K)`.
        about: what is known of them: data set, mIoU on its validation images, commit.
    """

    weight: Tensor
    bias: Tensor
    about: dict[str, Any] = field(default_factory=dict)


def probe_logits(probes: Probes, model: SETR, images: Tensor) -> list[Tensor]:
    """What the probe of every block says: L maps `(B,K,Y,X)` of the patch grid.

    Raises:
        ValueError: if the probes were made for another depth or width.
    """
    encoder = encoder_of(model)
    if len(probes.weight) != encoder.depth:
        raise ValueError(
            f"{len(probes.weight)} probes for a network of {encoder.depth} blocks; fit new ones"
        )
    grid = patch_grid((images.shape[-2], images.shape[-1]), encoder.patch_size)
    found = block_tokens(model, images)
    width = found[0].shape[-1]
    if probes.weight.shape[-1] != width:
        raise ValueError(
            f"probes for tokens of width {probes.weight.shape[-1]}, the network's have {width}; "
            "fit new ones"
        )
    return [
        to_map(F.linear(tokens.float(), w.to(tokens.device), b.to(tokens.device)), grid)
        for tokens, w, b in zip(found, probes.weight, probes.bias)
    ]


def block_tokens(model: SETR, images: Tensor) -> list[Tensor]:
    """The patch tokens `(B,N,D)` after every block."""
    encoder = encoder_of(model)
    with evaluating(model), torch.no_grad():
        return encoder.features(images, range(encoder.depth))


@dataclass(frozen=True)
class Emergence:
    """What can be read off one block.

    Attributes:
        name: for a slider, for example "probe of block 3".
        source: `"probe"`, `"auxiliary"` or `"main"`.
        layer: the 0-based block.
        labels: `(B,H,W)` uint8.
        miou: over the validation images, as the probes' file says; None if it does not.
    """

    name: str
    source: str
    layer: int
    labels: Tensor
    miou: float | None


def emergence(
    model: SETR, images: Tensor, probes: Probes | None = None, size: Size | None = None
) -> list[Emergence]:
    """The label maps of every probe, every auxiliary head and the main head, shallowest first.

    Args:
        images: `(B,3,H,W)` normalised.
        probes: None: heads only.
        size: rows and columns of the label maps; None: of the images.
    """
    with evaluating(model), torch.no_grad():
        heads = model.head_logits(images)
    read: list[tuple[str, int, Tensor]] = []
    if probes is not None:
        read += [("probe", n, m) for n, m in enumerate(probe_logits(probes, model, images))]
    read += [("auxiliary", n, m) for n, m in zip(*aux_heads(model, heads["aux"]))]
    read.append(("main", model.config.layers[-1], heads["main"]))
    known = {} if probes is None else probes.about.get("miou", {})
    shown = (images.shape[-2], images.shape[-1])
    found = []
    for source, layer, scores in sorted(read, key=lambda entry: entry[1]):
        name = {"probe": "probe of", "auxiliary": "auxiliary head at", "main": "main head, after"}
        maps = resize(model.to_image(scores, shown), size or shown)
        miou = known.get(source, {}).get(str(layer))
        labels = maps.argmax(1).byte()
        found.append(Emergence(f"{name[source]} block {layer}", source, layer, labels, miou))
    return found


def fit_probes(
    model: SETR,
    dataset: PairDataset,
    base: tuple[int, int] | None = None,
    decay: float = 1e-4,
    steps: int = 100,
    progress: bool = True,
) -> Probes:
    """Fit one linear classifier per block on the frozen tokens of a data set.

    Multinomial logistic regression by L-BFGS, from zero, on standardised tokens; the target of a
    patch is the histogram of its labelled pixels, so that every pixel weighs the same, and 255
    does not count. Nothing is drawn: the same images give the same probes.

    Args:
        base: (long side, short side) that images are fitted into; None: their own size.
        decay: weight of half the squared norm of the weights, in the mean loss.
        steps: of L-BFGS per block.
    """
    encoder, classes = encoder_of(model), len(dataset.classes)
    tokens: list[list[Tensor]] = [[] for _ in range(encoder.depth)]
    counts = []
    for image, label in tqdm(dataset, desc="tokens", disable=not progress, leave=False):
        images, _ = prepare(model, image, base)
        size = (images.shape[-2], images.shape[-1])
        some = class_counts(label, size, encoder.patch_size)[..., :classes].flatten(0, 1)
        labelled = some.sum(1) > 0
        counts.append(some[labelled].float())
        found = block_tokens(model, images)
        for kept, block_BND in zip(tokens, found):
            kept.append(block_BND[0].float().cpu()[labelled])
    target_NK = torch.cat(counts)
    layers = tqdm(tokens, desc="probes", disable=not progress, leave=False)
    fitted = [_fit(torch.cat(block), target_NK, decay, steps) for block in layers]
    weight, bias = (torch.stack(parts) for parts in zip(*fitted))
    return Probes(weight, bias, {"decay": decay, "steps": steps, "base": base})


def _fit(tokens_ND: Tensor, target_NK: Tensor, decay: float, steps: int) -> tuple[Tensor, Tensor]:
    """Weights `(K,D)` and biases `(K)` of one probe, for tokens as they come."""
    std, mean = torch.std_mean(tokens_ND, 0)
    std = std.clamp_min(1e-6)
    tokens_ND = (tokens_ND - mean) / std
    weight = torch.zeros(target_NK.shape[1], tokens_ND.shape[1], requires_grad=True)
    bias = torch.zeros(target_NK.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = F.linear(tokens_ND, weight, bias).log_softmax(1)
        value = -(target_NK * scores).sum() / target_NK.sum() + decay / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    folded = weight.detach() / std
    return folded, bias.detach() - folded @ mean


def save_probes(probes: Probes, path: str | os.PathLike[str]) -> None:
    """Write probes to one safetensors file, whole or not at all."""
    with whole_file(path) as temporary:
        save_file(
            {"weight": probes.weight.contiguous(), "bias": probes.bias.contiguous()},
            temporary,
            metadata={"setr_lib": json.dumps(probes.about)},
        )


def load_probes(path: str | os.PathLike[str]) -> Probes:
    """Read what `save_probes` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds something else.
    """
    checkpoint = read_tensors(path)
    tensors = checkpoint.tensors
    if set(tensors) != {"weight", "bias"}:
        raise ValueError(f"{path} holds no probes; fit them with setr_lib.attention.fit_probes")
    return Probes(tensors["weight"], tensors["bias"], checkpoint.about)
