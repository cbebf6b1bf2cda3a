"""Against mmsegmentation itself, where it is installed: pip install -r requirements-mmseg.txt.

Its networks are built by its own classes and fed the same images. What it imports from compiled
operators is replaced by stand-ins that no SETR calls.
"""

import sys
from unittest import mock

import nbformat
import pytest
import torch

from setr_lib import SETR, config_from_checkpoint, load_weights
from setr_lib.encoder import Block
from setr_lib.training.record import ROOT

pytest.importorskip("mmseg", reason="mmsegmentation is not installed")
for name in ("mmcv.ops", "mmcv.ops.point_sample", "mmcv._ext"):
    sys.modules.setdefault(name, mock.MagicMock())

from mmseg.models.backbones.vit import VisionTransformer  # noqa: E402
from mmseg.models.decode_heads.fcn_head import FCNHead  # noqa: E402
from mmseg.models.decode_heads.setr_mla_head import SETRMLAHead  # noqa: E402
from mmseg.models.decode_heads.setr_up_head import SETRUPHead  # noqa: E402
from mmseg.models.necks.mla_neck import MLANeck  # noqa: E402

BN = {"type": "BN"}


class Theirs(torch.nn.Module):
    """A network of mmsegmentation's parts, wired like its EncoderDecoder."""

    def __init__(self, decoder, layers, width, heads, depth, classes, size, patch_bias, city):
        super().__init__()
        self.backbone = VisionTransformer(
            img_size=size, patch_size=16, embed_dims=width, num_layers=depth, num_heads=heads,
            mlp_ratio=4, out_indices=layers, qkv_bias=True, drop_rate=0.0,
            norm_cfg={"type": "LN", "eps": 1e-6}, interpolate_mode="bilinear",
            with_cls_token=decoder != "mla", output_cls_token=False, patch_bias=patch_bias,
        )  # fmt: skip
        common = {
            "num_classes": classes,
            "norm_cfg": BN,
            "align_corners": False,
            "dropout_ratio": 0,
        }
        self.neck = None
        if decoder == "mla":
            self.neck = MLANeck([width] * 4, 32, norm_cfg=BN, act_cfg={"type": "ReLU"})
            self.decode_head = SETRMLAHead(
                in_channels=(32,) * 4, channels=64, in_index=(0, 1, 2, 3), mla_channels=16,
                up_scale=4, **common,
            )  # fmt: skip
            self.auxiliary_head = torch.nn.ModuleList(
                FCNHead(in_channels=32, channels=32, in_index=i, num_convs=0, kernel_size=1,
                        concat_input=False, **common)
                for i in range(4)
            )  # fmt: skip
            return
        facts = {"naive": (1, 4, 1, 1 if city else 2), "pup": (4, 2, 3, 2)}[decoder]
        convs, scale, kernel, aux_convs = facts
        head = {"in_channels": width, "channels": 32, "kernel_size": kernel, **common}
        self.decode_head = SETRUPHead(in_index=3, num_convs=convs, up_scale=scale, **head)
        self.auxiliary_head = torch.nn.ModuleList(
            SETRUPHead(in_index=i, num_convs=aux_convs, up_scale=4, **head) for i in range(3)
        )

    def forward(self, images):
        features = self.backbone(images)
        features = self.neck(features) if self.neck is not None else features
        return [head(features) for head in (self.decode_head, *self.auxiliary_head)]


NETWORKS = [
    {"layers": (1, 2, 4, 5), "width": 48, "heads": 3, "depth": 6, "classes": 7},
    {"layers": (0, 3, 6, 8), "width": 64, "heads": 2, "depth": 9, "classes": 19},
]


@pytest.mark.parametrize("patch_bias", [True, False])
@pytest.mark.parametrize("facts", NETWORKS, ids=["six blocks", "nine blocks"])
@pytest.mark.parametrize(
    "decoder, city", [("naive", False), ("naive", True), ("pup", False), ("mla", False)]
)
@torch.no_grad()
def test_every_head_agrees_with_mmsegmentation(decoder, city, facts, patch_bias):
    """Each head's scores, and the main ones at the image's size, to 2e-4 of their deviation."""
    torch.manual_seed(0)
    theirs = Theirs(decoder, size=(128, 128), patch_bias=patch_bias, city=city, **facts).eval()
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            torch.nn.init.normal_(tensor, std=0.2).abs_()
    state = theirs.state_dict()
    config = config_from_checkpoint(state, heads=facts["heads"], layers=facts["layers"])
    assert config.graph == "mmseg" and config.patch_bias == patch_bias
    assert config.image_size == (128, 128) and config.num_classes == facts["classes"]
    ours = SETR(config).eval()
    assert not load_weights(ours, state).fresh
    for size in [(512, 512), (480, 640), (250, 333), (15, 33)]:
        images = torch.randn(1, 3, *size)
        heads, wanted = ours.head_logits(images), theirs(images)
        for found, expected in zip((heads["main"], *heads["aux"]), wanted, strict=True):
            assert found.shape == expected.shape
            assert (found - expected).abs().max() < 2e-4 * expected.std()
        full = torch.nn.functional.interpolate(wanted[0], size=size, mode="bilinear")
        assert (ours(images) - full).abs().max() < 2e-4 * full.std()


def test_the_books_mask_head_is_segmenters():
    """The chapter *After SETR* builds Segmenter's head; mmsegmentation's has the same logits."""
    from mmseg.models.decode_heads import SegmenterMaskTransformerHead

    names = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "Block": Block}
    for cell in nbformat.read(ROOT / "book/after.ipynb", as_version=4).cells:
        if cell.source.startswith(("class MaskHead", "def mask_forward")):
            exec(cell.source, names)
    ours = names["MaskHead"](96, 8, depth=2, heads=3).eval()
    theirs = SegmenterMaskTransformerHead(
        96, 2, 3, 96, num_classes=8, channels=96, dropout_ratio=0.0,
        drop_path_rate=0.0, norm_cfg={"type": "LN", "eps": 1e-6},
    ).eval()  # fmt: skip
    for name, norm in (("decoder_norm", ours.norm), ("mask_norm", ours.mask_norm)):
        getattr(theirs, name).eps = norm.eps  # theirs has one for all, ours Block's own
    for p in ours.parameters():  # nothing may hide behind a zero or a one
        p.data += 0.1 * torch.randn_like(p)
    translated = {
        "cls_emb": ours.classes_KD[None],
        "patch_proj.weight": ours.patch.T,
        "classes_proj.weight": ours.kind.T,
    }
    parts = {"project": "dec_proj", "norm": "decoder_norm", "mask_norm": "mask_norm"}
    inside = {
        "norm1": "ln1",
        "norm2": "ln2",
        "mlp.fc1": "ffn.layers.0.0",
        "mlp.fc2": "ffn.layers.1",
    }
    for number in range(2):
        at = f"layers.{number}"
        parts |= {f"blocks.{number}.{a}": f"{at}.{b}" for a, b in inside.items()}
        parts[f"blocks.{number}.attn.proj"] = f"{at}.attn.attn.out_proj"
        qkv = ours.blocks[number].attn.qkv
        translated[f"{at}.attn.attn.in_proj_weight"] = qkv.weight
        translated[f"{at}.attn.attn.in_proj_bias"] = qkv.bias
    for mine, name in parts.items():
        for kind in ("weight", "bias"):
            translated[f"{name}.{kind}"] = ours.get_submodule(mine).get_parameter(kind)
    unused = {"conv_seg.weight", "conv_seg.bias"}  # a layer that nobody calls
    assert set(theirs.state_dict()) - set(translated) <= unused
    theirs.load_state_dict(translated, strict=False)
    tokens = torch.randn(2, 24, 96)
    with torch.no_grad():
        logits = theirs([tokens.transpose(1, 2).unflatten(2, (4, 6))])
        assert (ours(tokens, (4, 6)) - logits).abs().max() < 1e-4 * logits.std()
