"""Windows, scales and counts against brute force and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from conftest import random_labels, small_config
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score

import setr_lib
from setr_lib import SETR, confusion_matrix, scores, slide_inference
from setr_lib.datasets import Shapes
from setr_lib.prediction import to_pixels
from setr_lib.windows import window_starts
from setr_lib.priors import prior_scores


@pytest.mark.parametrize("seed", range(5))
def test_confusion_and_iou_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    classes, shape = int(rng.integers(2, 9)), tuple(rng.integers(1, 40, 2))
    truth = random_labels(rng, shape, classes, 0.2)
    guess = rng.integers(0, classes, shape)
    kept = truth != 255
    counts = confusion_matrix(guess, truth, classes)
    wanted = sklearn_confusion(truth[kept], guess[kept], labels=range(classes))
    assert counts.dtype == torch.int64 and np.array_equal(counts, wanted)
    iou = jaccard_score(
        truth[kept], guess[kept], labels=range(classes), average=None, zero_division=0
    )
    found = scores(counts)
    np.testing.assert_allclose(found.iou.nan_to_num().numpy(), iou)
    assert found.accuracy == pytest.approx((truth[kept] == guess[kept]).mean())


def test_a_case_by_hand():
    """Truth 0 0 1 1 2 x, guess 0 1 1 1 0 2 (x ignored): IoU 1/3, 2/3, 0."""
    counts = confusion_matrix([0, 1, 1, 1, 0, 2], [0, 0, 1, 1, 2, 255], 3)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    found = scores(counts)
    assert found.iou.tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    assert (found.miou, found.accuracy) == pytest.approx((1 / 3, 3 / 5))
    assert found.mean_accuracy == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_ignored_pixels_change_nothing():
    truth = torch.tensor([0, 1, 255, 255])
    for guess in ([0, 1, 0, 1], [0, 1, 9, 200]):
        assert confusion_matrix(torch.tensor(guess), truth, 2).tolist() == [[1, 0], [0, 1]]


def test_absent_class_is_nan_and_left_out():
    """Neither in truth nor guess: NaN. Guessed but not there: IoU 0, and it counts."""
    found = scores(confusion_matrix([0, 0, 1], [0, 0, 0], 3))
    assert found.iou.tolist()[:2] == [2 / 3, 0] and math.isnan(found.iou[2])
    assert found.miou == pytest.approx(1 / 3)
    assert math.isnan(scores(torch.zeros(3, 3)).miou)


def test_matrices_of_parts_add_up():
    rng = np.random.default_rng(0)
    truth, guess = random_labels(rng, (6, 20, 20), 4), rng.integers(0, 4, (6, 20, 20))
    parts = sum(confusion_matrix(g, t, 4) for g, t in zip(guess, truth))
    assert torch.equal(parts, confusion_matrix(guess, truth, 4))


@pytest.mark.parametrize(
    "guess, truth, words",
    [
        ([0, 1], [0, 1, 1], r"\(2,\).*\(3,\)"),
        ([0, 5], [0, 1], r"prediction holds \[5\]; 3 classes are 0 to 2"),
        ([0, 1], [0, 200], r"label holds \[200\]"),
        ([0, -1], [0, 1], r"prediction holds \[-1\]"),
    ],
)
def test_mistakes_are_named(guess, truth, words):
    with pytest.raises(ValueError, match=words):
        confusion_matrix(guess, truth, 3)


def test_scores_want_a_square():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        scores(torch.zeros(2, 3))


class PixelModel(torch.nn.Module):
    """Scores of a pixel depend on its colour and on its place in the window."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3))

    def forward(self, images):
        place = (
            torch.linspace(0, 1, images.shape[-1]) + torch.linspace(0, 2, images.shape[-2])[:, None]
        )
        return torch.einsum("kc,bchw->bkhw", self.weight, images) * (1 + place)


@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_sliding_window_equals_a_loop_over_pixels(seed):
    """Random sizes, windows and strides, windows larger than the image included."""
    rng = np.random.default_rng(seed)
    height, width, wh, ww = (int(v) for v in rng.integers(1, 30, 4))
    sh, sw = int(rng.integers(1, wh + 1)), int(rng.integers(1, ww + 1))
    model, images = PixelModel(), torch.randn(2, 3, height, width)
    total, cover = torch.zeros(2, 4, height, width), torch.zeros(height, width)
    tops = sorted({min(t, max(height - wh, 0)) for t in range(0, height, sh)})
    lefts = sorted({min(t, max(width - ww, 0)) for t in range(0, width, sw)})
    # the last window is the first that reaches the border
    tops = tops[: next(i for i, t in enumerate(tops) if t + wh >= height) + 1]
    lefts = lefts[: next(i for i, t in enumerate(lefts) if t + ww >= width) + 1]
    for top in tops:
        for left in lefts:
            part = images[..., top : top + wh, left : left + ww]
            total[..., top : top + wh, left : left + ww] += model(part)
            cover[top : top + wh, left : left + ww] += 1
    assert cover.min() >= 1
    torch.testing.assert_close(slide_inference(model, images, (wh, ww), (sh, sw)), total / cover)


def test_the_papers_grid():
    """Cityscapes: 1025 x 2049 with windows of 768 every 512 pixels gives 2 x 4 windows."""
    assert window_starts(1025, 768, 512) == [0, 257]
    assert window_starts(2049, 768, 512) == [0, 512, 1024, 1281]
    assert window_starts(300, 512, 341) == [0]


def test_a_stride_larger_than_the_window_is_named():
    with pytest.raises(ValueError, match="stride 20x20 is larger than the window 16x16"):
        slide_inference(PixelModel(), torch.zeros(1, 3, 64, 64), 16, 20)


@pytest.mark.parametrize("size", [(1, 1), (15, 33), (50, 37)])
def test_predict_takes_any_form_and_size_of_image(tmp_path, size):
    model = SETR(small_config())
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    wanted = setr_lib.predict(model, pixels)
    assert wanted.shape == size and wanted.dtype == np.uint8 and wanted.max() < 8
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = (
        Image.fromarray(pixels),
        tensor,
        tensor / 255,
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
    )
    for form in forms:
        assert np.array_equal(setr_lib.predict(model, form), wanted)
    assert model.training  # predict leaves the model as it was


def test_predict_averages_probabilities_over_views():
    model = PixelModel().eval()  # its scores differ from place to place
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    total = 0
    with torch.no_grad():
        for ratio in (0.5, 1.0, 1.75):
            view = setr_lib.transforms.resize_image(image, (round(40 * ratio), round(56 * ratio)))
            pixels = setr_lib.transforms.normalise(view)[None]
            for logits in (model(pixels), model(pixels.flip(-1)).flip(-1)):
                logits = torch.nn.functional.interpolate(logits, size=(40, 56), mode="bilinear")
                total = total + logits.softmax(1)
    found = setr_lib.predict(model, image, scales=(0.5, 1.0, 1.75), flip=True)
    assert np.array_equal(found, total.argmax(1)[0])


@pytest.mark.parametrize(
    "image, words",
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (torch.zeros(4, 4, 3), r"\(4, 4, 3\); expected \(3, H, W\)"),
        (torch.full((3, 4, 4), 80.0), "from 80 to 80"),
    ],
)
def test_images_of_another_form_are_named(image, words):
    with pytest.raises(ValueError, match=words):
        to_pixels(image)


def test_a_missing_image_is_named():
    with pytest.raises(FileNotFoundError, match="there is no image nowhere.png"):
        setr_lib.predict(SETR(small_config()), "nowhere.png")


def test_grey_arrays_are_images():
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert np.array_equal(to_pixels(grey), np.stack([grey] * 3, 2))


def test_priors_by_brute_force(monkeypatch):
    """The commonest class per place, counted pixel by pixel, scored on other scenes."""
    monkeypatch.setattr(Shapes, "lengths", {"train": 9, "val": 4, "test": 4})
    train, val = Shapes("train", size=(24, 32)), Shapes("val", size=(24, 32))
    found = prior_scores(train, val)
    stack = np.stack([label for _, label in train])
    votes = np.stack([(stack == k).sum(0) for k in range(8)])
    for name, guess in (
        ("position prior", votes.argmax(0)),
        ("majority class", np.full((24, 32), votes.sum((1, 2)).argmax())),
    ):
        wanted = sum(confusion_matrix(guess, label, 8) for _, label in val)
        assert torch.equal(found[name], wanted)


def test_evaluate_sums_over_the_data_set(monkeypatch):
    monkeypatch.setattr(Shapes, "lengths", {"train": 1, "val": 3, "test": 1})
    model, data = SETR(small_config()), Shapes("val", size=(40, 56))
    wanted = sum(confusion_matrix(setr_lib.predict(model, i), t, 8) for i, t in data)
    assert torch.equal(setr_lib.evaluate(model, data, progress=False), wanted)
