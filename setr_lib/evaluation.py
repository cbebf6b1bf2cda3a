"""From class scores to a number: windows, scales, the confusion matrix and what is read off it."""

# B batch, H W image rows and columns, K classes

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from .datasets import PairDataset, read_image
from .geometry import Size, as_size, resize
from .losses import IGNORE
from .transforms import fit_inside, normalise, resize_image

Pixels = np.ndarray | Tensor


def confusion_matrix(
    prediction: Pixels, label: Pixels, num_classes: int, ignore_index: int = IGNORE
) -> Tensor:
    """How often each true class was given each predicted class.

    Args:
        prediction, label: class numbers of the same shape, any number of dimensions.
        num_classes: K.
        ignore_index: pixels with this label do not count, whatever was predicted there.

    Returns:
        `(K,K)` int64: rows truth, columns prediction. Matrices of several images add up.

    Raises:
        ValueError: if the shapes differ, or a value is no class; the message names it.
    """
    prediction, label = torch.as_tensor(prediction), torch.as_tensor(label)
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction has the shape {tuple(prediction.shape)}, label {tuple(label.shape)}; "
            "they must be equal"
        )
    truth, guess = label.flatten().long(), prediction.flatten().long()
    ignored = truth == ignore_index
    for values, what in ((truth[~ignored], "label"), (guess[~ignored], "prediction")):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            wrong = values[(values < 0) | (values >= num_classes)].unique().tolist()
            raise ValueError(
                f"the {what} holds {wrong}; {num_classes} classes are 0 to {num_classes - 1}, and "
                f"{ignore_index} in a label is ignored"
            )
    pairs = truth[~ignored] * num_classes + guess[~ignored]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; fractions between 0 and 1.

    Attributes:
        miou: mean of `iou` over the classes that occur.
        iou: `(K,)` float64, intersection over union per class; NaN for a class that is neither in
            the labels nor in the predictions.
        accuracy: share of the counted pixels that are right.
        mean_accuracy: mean over the classes in the labels of the share of each that was found.
    """

    miou: float
    iou: Tensor
    accuracy: float
    mean_accuracy: float

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """As plain values for JSON, IoU by class name; NaN, which JSON lacks, becomes None."""
        iou = {name: None if math.isnan(v) else v for name, v in zip(classes, self.iou.tolist())}
        means = {"accuracy": self.accuracy, "mean_accuracy": self.mean_accuracy}
        return {"miou": self.miou, **means, "iou": iou}


def scores(counts: Pixels) -> Scores:
    """Read IoU and accuracy off a `(K,K)` confusion matrix (rows truth, columns prediction).

    IoU of a class = hits / (truth + predicted - hits), over the whole data set. A class that never
    occurs is NaN and left out of the mean.

    Raises:
        ValueError: if the matrix is not square.
    """
    counts = torch.as_tensor(counts).double()
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(
            f"counts have the shape {tuple(counts.shape)}; expected (classes, classes)"
        )
    hits, truth, guessed = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = hits / (truth + guessed - hits)  # 0 / 0 is NaN: the class never occurs
    recall = hits / truth
    return Scores(
        miou=iou.nanmean().item(),
        iou=iou,
        accuracy=(hits.sum() / truth.sum()).item(),
        mean_accuracy=recall.nanmean().item(),
    )


def evaluate(
    model: nn.Module,
    dataset: PairDataset,
    base: tuple[int, int] | None = None,
    window: int | Size | None = None,
    stride: int | Size | None = None,
    progress: bool = True,
) -> Tensor:
    """The confusion matrix of `model` on a whole data set, at the labels' own resolution.

    Args:
        base: (long side, short side) that images are fitted into before the network reads them;
            None: their own size.
        window, stride: slide a window of this size; None: the whole image at once.

    Returns:
        `(K,K)` int64, see `confusion_matrix`; `scores` turns it into mIoU.
    """
    classes = len(dataset.classes)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for image, label in tqdm(dataset, desc="evaluate", disable=not progress, leave=False):
        prediction = predict(model, image, base=base, window=window, stride=stride)
        counts += confusion_matrix(prediction, label, classes, dataset.ignore_index)
    return counts


def predict(
    model: nn.Module,
    image: "Image.Image | Pixels | str | os.PathLike[str]",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    base: tuple[int, int] | None = None,
    window: int | Size | None = None,
    stride: int | Size | None = None,
) -> np.ndarray:
    """The class of every pixel of one image.

    Args:
        image: a path, a PIL image, an array `(H,W,3)` or `(H,W)` uint8, or a tensor `(3,H,W)`
            (uint8, or float between 0 and 1).
        scales: ratios at which the image is read; the probabilities are averaged. Paper, section
            4.2: 0.5, 0.75, 1, 1.25, 1.5, 1.75.
        flip: read each of them mirrored too.
        base: (long side, short side) that ratio 1 is fitted into; None: the image's own size.
        window, stride: slide a window; None: the whole image at once.

    Returns:
        `(H,W)` uint8 at the image's own size.

    Raises:
        ValueError: if the image cannot be read or has another shape.
    """
    pixels = to_pixels(image)
    size = (pixels.shape[0], pixels.shape[1])
    height, width = fit_inside(size, base) if base else size
    was_training = model.training
    model.eval()
    try:
        total: Tensor | float = 0.0
        for ratio in scales:
            view = resize_image(
                pixels, (max(1, round(height * ratio)), max(1, round(width * ratio)))
            )
            for mirrored in (False, True)[: 1 + flip]:
                logits = _logits(model, view[:, ::-1] if mirrored else view, window, stride)
                logits = resize(logits.flip(-1) if mirrored else logits, size)
                total = total + logits.softmax(1)
    finally:
        model.train(was_training)
    return total.argmax(1)[0].byte().cpu().numpy()  # type: ignore[union-attr]


@torch.inference_mode()
def _logits(
    model: nn.Module, pixels: np.ndarray, window: int | Size | None, stride: int | Size | None
) -> Tensor:
    images = normalise(pixels)[None].to(next(model.parameters()).device)
    if window is None:
        return model(images).float()
    return slide_inference(model, images, window, stride or window)


def slide_inference(
    model: nn.Module,
    images: Tensor,
    window: int | Size = (512, 512),
    stride: int | Size = (341, 341),
) -> Tensor:
    """Scores of large images from overlapping windows.

    Paper section 4.2 and mmsegmentation's rule: windows start every `stride` pixels, the last one
    moves back to end at the border, and where windows overlap the logits are averaged.

    Args:
        images: `(B,3,H,W)` float, normalised.
        window, stride: rows and columns, or one number for both. A window larger than the image
            is cut to it.

    Returns:
        `(B,K,H,W)` float.

    Raises:
        ValueError: if the stride is larger than the window, which would leave pixels out.
    """
    height, width = images.shape[-2:]
    (wh, ww), (sh, sw) = as_size(window, "window"), as_size(stride, "stride")
    if sh > wh or sw > ww:
        raise ValueError(
            f"stride {sh}x{sw} is larger than the window {wh}x{ww}: pixels would be left out"
        )
    tops, lefts = window_starts(height, wh, sh), window_starts(width, ww, sw)
    total: Tensor | None = None
    for top in tops:
        for left in lefts:
            rows, cols = slice(top, min(top + wh, height)), slice(left, min(left + ww, width))
            logits = model(images[..., rows, cols]).float()
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], height, width)
                coverage = logits.new_zeros(height, width)
            total[..., rows, cols] += logits
            coverage[rows, cols] += 1
    assert total is not None
    return total / coverage


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows begin along one side; the last one ends at the border."""
    count = -(-max(length - window, 0) // stride) + 1
    return [max(min(index * stride, length - window), 0) for index in range(count)]


def to_pixels(image: "Image.Image | Pixels | str | os.PathLike[str]") -> np.ndarray:
    """Any form of an image -> `(H,W,3)` uint8."""
    if isinstance(image, str | os.PathLike):
        if not Path(image).is_file():
            raise FileNotFoundError(f"there is no image {image}")
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f"the image tensor has the shape {tuple(image.shape)}; expected (3, H, W)"
            )
        if image.is_floating_point():
            if image.min() < 0 or image.max() > 1:
                raise ValueError(
                    f"the image tensor goes from {image.min():.3g} to {image.max():.3g}; floats "
                    "must lie between 0 and 1 (before normalisation), or give uint8"
                )
            image = (image * 255).round().byte()
        return image.permute(1, 2, 0).cpu().numpy()
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"the image array is {array.dtype} of the shape {array.shape}; expected uint8 (H, W, 3)"
        )
    return np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array
