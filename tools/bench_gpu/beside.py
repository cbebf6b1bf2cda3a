"""Beside others who do the same, and windows beside themselves in float64."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from setr_lib import confusion_matrix, create_model, slide_inference
from setr_lib.model import SIZES

from .common import Bench, Row


def encoder(bench: Bench) -> Iterator[Row]:
    """Forward and backward beside timm's encoder with the same weights."""
    import timm

    width, depth, heads = SIZES[bench.size]
    ours = create_model(f"setr_naive_{bench.size}", bench.classes, bench.pixels).encoder
    theirs = timm.models.VisionTransformer(
        img_size=bench.pixels, embed_dim=width, depth=depth, num_heads=heads, num_classes=0
    )
    theirs.norm = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    ours, theirs = ours.to(bench.device).eval(), theirs.to(bench.device).eval()
    images = bench.crops()[0]

    def run(encode: Callable) -> None:
        with bench.half():
            tokens = encode(images)
        tokens.float().sum().backward()

    with torch.no_grad(), bench.half():
        difference = (ours(images) - theirs.forward_features(images)[:, 1:]).abs().max().item()
    mine = bench.milliseconds(lambda: run(ours), 1.0)
    other = bench.milliseconds(lambda: run(theirs.forward_features), 1.0)
    yield {
        "case": f"{bench.size}, {bench.pixels} px",
        "ms": mine,
        "timm_ms": other,
        "ratio": mine / other,
        "difference": difference,
    }


def metric(bench: Bench) -> Iterator[Row]:
    """Counting a confusion matrix of a map of 1024x2048 beside torchmetrics' Jaccard index."""
    from torchmetrics import JaccardIndex

    size = (2 * bench.pixels, 4 * bench.pixels)
    label, guess = (torch.randint(0, bench.classes, size, device=bench.device) for _ in "ab")
    label[torch.rand(size, device=bench.device) < 0.05] = 255
    theirs = JaccardIndex(
        task="multiclass", num_classes=bench.classes, ignore_index=255, validate_args=False
    ).to(bench.device)
    for dtype in (torch.uint8, torch.int64):
        pair = guess.to(dtype), label.to(dtype)
        mine = bench.milliseconds(lambda pair=pair: confusion_matrix(*pair, bench.classes))
        other = bench.milliseconds(lambda pair=pair: theirs.update(*pair))
        row = {"case": f"{bench.classes} classes, {str(dtype)[6:]}", "ms": mine}
        yield {**row, "torchmetrics_ms": other, "ratio": mine / other}


def beside_mmsegmentation(bench: Bench) -> Iterator[Row]:
    """PUP's step with the same weights; at batch 16 theirs does not fit 80 GB."""
    from ..bench.step import peer, peer_loss, twin

    theirs = peer("pup", bench.size).to(bench.device)
    ours = twin(theirs, "pup", bench.size).to(bench.device)
    images, labels = (x[:8] for x in bench.crops())

    def run(loss: Callable[[], Tensor]) -> None:
        with bench.half():
            value = loss()
        value.backward()

    calls = (
        lambda: ours.loss(images, labels, check=False),
        lambda: peer_loss(theirs, images, labels),
    )
    mine, other = (bench.milliseconds(lambda call=call: run(call), 3.0) for call in calls)
    memory = [bench.added_gib(lambda call=call: run(call)) for call in calls]
    yield {
        "case": f"pup {bench.size}, batch {len(images)}",
        "ms": mine,
        "mmsegmentation_ms": other,
        "ratio": mine / other,
        "gib": memory,
    }


def windows(bench: Bench) -> Iterator[Row]:
    """Sliding windows over an image 1.5 windows wide, one window at a time and all of them."""
    model, side = bench.model("naive").eval(), bench.pixels
    image = torch.randn(1, 3, side, side * 3 // 2, device=bench.device)
    facts = ((side, side), (side * 2 // 3, side * 2 // 3))
    with torch.inference_mode():
        wanted = slide_inference(model.double(), image.double(), *facts)
        model.float()
        for batch in (1, 4):

            def run(batch: int = batch) -> Tensor:
                return slide_inference(model, image, *facts, batch=batch)

            found = run()
            yield {
                "case": f"naive {bench.size}, float32, {batch} at once",
                "ms": bench.milliseconds(run),
                "gib": bench.added_gib(run),
                "error": ((found - wanted).norm() / wanted.norm()).item(),
                "same_labels": (found.argmax(1) == wanted.argmax(1)).double().mean().item(),
            }
