"""mmsegmentation as it is, with stand-ins for the compiled operators that no SETR calls."""

import logging
import sys
import warnings
from unittest import mock

import torch

for name in ("mmcv.ops", "mmcv.ops.point_sample", "mmcv._ext"):
    sys.modules.setdefault(name, mock.MagicMock())
warnings.filterwarnings("ignore")

import mmseg.models  # noqa: E402, F401
from mmengine.config import ConfigDict  # noqa: E402
from mmseg.evaluation.metrics.iou_metric import IoUMetric as IoUMetric  # noqa: E402
from mmseg.models.segmentors import EncoderDecoder  # noqa: E402

logging.disable(logging.WARNING)


def encoder_decoder(
    decoder: str, classes: int, window: int, stride: int
) -> tuple[torch.nn.Module, list[dict]]:
    """Its SETR-Naive or -PUP with DeiT-Tiny's shape, and what `slide_inference` wants beside
    images."""
    convs, scale, kernel = {"naive": (1, 4, 1), "pup": (4, 2, 3)}[decoder]
    torch.manual_seed(0)
    network = EncoderDecoder(
        backbone={
            "type": "VisionTransformer", "img_size": (window, window), "patch_size": 16,
            "embed_dims": 192, "num_layers": 12, "num_heads": 3, "mlp_ratio": 4,
            "out_indices": (2, 5, 8, 11), "qkv_bias": True, "drop_rate": 0.0,
            "norm_cfg": {"type": "LN", "eps": 1e-6}, "interpolate_mode": "bilinear",
            "with_cls_token": True, "patch_bias": True,
        },
        decode_head={
            "type": "SETRUPHead", "in_channels": 192, "channels": 256, "in_index": 3,
            "num_classes": classes, "dropout_ratio": 0, "norm_cfg": {"type": "BN"},
            "num_convs": convs, "up_scale": scale, "kernel_size": kernel, "align_corners": False,
        },
        test_cfg=ConfigDict(mode="slide", crop_size=(window, window), stride=(stride, stride)),
    ).eval()  # fmt: skip
    return network, [{"padding_size": [0] * 4}]
