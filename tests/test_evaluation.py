"""Windows, scales and counts against brute force and scikit-learn."""

import dataclasses
import math
import re
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_labels, small_config
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score
from torch.utils._python_dispatch import TorchDispatchMode

import setr_lib
from setr_lib import (
    PROTOCOLS,
    SETR,
    TestProtocol,
    confusion_matrix,
    load_dataset,
    scores,
    slide_inference,
)
from setr_lib.baselines.fcn import FCN, FCNConfig
from setr_lib.costs import PeakMemory
from setr_lib.data.files import PairDataset
from setr_lib.data.load import Shapes
from setr_lib.evaluation import prior_scores
from setr_lib.geometry import resize
from setr_lib.images import to_pixels
from setr_lib.inference import (
    casting,
    default_protocol,
    evaluating,
    resized_strips,
    view_logits,
    window_starts,
)


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


@pytest.mark.parametrize("classes", [2, 19, 150, 255, 300])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type_gives_the_same_counts(classes, kind):
    """Bytes and wider numbers take two ways; a loop in Python is the reference."""
    rng = np.random.default_rng(classes)
    classes = min(classes, 255 if kind == torch.uint8 else 300)
    ignored = 255 if classes <= 255 else -1
    truth, guess = rng.integers(0, classes, (2, 500))
    truth[::7] = ignored
    wanted = np.zeros((classes, classes), np.int64)
    for t, g in zip(truth, guess):
        if t != ignored:
            wanted[t, g] += 1
    pair = torch.from_numpy(guess).to(kind), torch.from_numpy(truth).to(kind)
    assert np.array_equal(confusion_matrix(*pair, classes, ignored), wanted)


def test_a_matrix_has_all_classes_even_if_few_occur():
    counts = confusion_matrix(torch.tensor([0, 3]), torch.tensor([0, 3]), 300)
    assert counts.shape == (300, 300) and counts.sum() == counts[0, 0] + counts[3, 3] == 2


def test_a_class_can_be_the_ignored_one():
    assert confusion_matrix([0, 1, 1], [0, 0, 1], 2, ignore_index=0).tolist() == [[0, 0], [0, 1]]


def test_no_pixels_count_nothing():
    assert confusion_matrix(torch.zeros(0), torch.zeros(0), 2).tolist() == [[0, 0], [0, 0]]


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
        ([0, 256], [0, 1], r"prediction holds \[256\]"),
        ([0, 1], [0, 1000], r"label holds \[1000\]"),
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
        scores = torch.einsum("kc,bchw->bkhw", self.weight, images) * (1 + place)
        return scores + 2 * place * torch.arange(4.0)[:, None, None]


NETWORKS = {  # whose maps are small, in the ways that there are, and one whose scores are not
    "naive": lambda: SETR(small_config("naive")),
    "pup": lambda: SETR(small_config("pup")),
    "mla": lambda: SETR(small_config("mla")),
    "mmseg": lambda: SETR(small_config("naive", graph="mmseg")),
    "fcn": lambda: FCN(FCNConfig(50, 4)),
    "plain": lambda: PixelModel(),
}


def slide_by_brute_force(model, images, window, stride, blend=False):
    """Full-size scores of every window, padded to nothing, added pixel by pixel; with `blend` each
    weighs its distance to the window's border."""
    (wh, ww), (sh, sw), (height, width) = window, stride, images.shape[-2:]
    total, cover = 0, torch.zeros(height, width)
    tops = sorted({min(t, max(height - wh, 0)) for t in range(0, height, sh)})
    lefts = sorted({min(t, max(width - ww, 0)) for t in range(0, width, sw)})
    # the last window is the first that reaches the border
    tops = tops[: next(i for i, t in enumerate(tops) if t + wh >= height) + 1]
    lefts = lefts[: next(i for i, t in enumerate(lefts) if t + ww >= width) + 1]
    for top in tops:
        for left in lefts:
            part = images[..., top : top + wh, left : left + ww]
            found = model(part)
            size = found.shape[-2:]
            weight = torch.ones(size)
            if blend:
                sides = [[min(i + 1, n - i) for i in range(n)] for n in size]
                weight = torch.tensor(sides[0])[:, None] * torch.tensor(sides[1]).float()
            found = found * weight
            padding = (left, width - left - found.shape[-1], top, height - top - found.shape[-2])
            total = total + torch.nn.functional.pad(found, padding)
            cover[top : top + wh, left : left + ww] += weight
    assert cover.min() >= 1
    return total / cover


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("network", ["naive", "pup", "mla", "mmseg", "plain"])
@torch.no_grad()
def test_sliding_window_equals_adding_up_full_windows(network, seed):
    """Random sizes, windows, strides and batches, windows larger than the image included; also
    where windows count less towards their borders."""
    rng = np.random.default_rng(seed)
    height, width, wh, ww = (int(v) for v in rng.integers(1, 70, 4))
    sh, sw = int(rng.integers(1 + wh // 3, wh + 1)), int(rng.integers(1 + ww // 3, ww + 1))
    model, images = NETWORKS[network]().eval(), torch.randn(2, 3, height, width)
    batch, blend = int(rng.integers(1, 5)), bool(seed % 2)
    wanted = slide_by_brute_force(model, images, (wh, ww), (sh, sw), blend)
    found = slide_inference(model, images, (wh, ww), (sh, sw), batch, blend)
    # a resize by a matrix rounds differently: 1e-5 of a deviation of about 1
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_fcn_slides_too():
    model, images = NETWORKS["fcn"]().eval(), torch.randn(1, 3, 40, 70)
    wanted = slide_by_brute_force(model, images, (32, 32), (20, 20))
    found = slide_inference(model, images, 32, 20)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_window_is_the_whole_image():
    model, images = SETR(small_config("pup")).eval(), torch.randn(1, 3, 40, 56)
    for window in ((40, 56), (100, 100)):
        found = slide_inference(model, images, window, window)
        torch.testing.assert_close(found, model(images), rtol=1e-5, atol=1e-5)


def test_windows_do_not_add_to_the_memory():
    """100 windows that overlap by a third need as much as 49 that do not."""
    model, images = SETR(small_config()).eval(), torch.randn(1, 3, 224, 224)

    def peak(stride):
        with PeakMemory() as memory:
            slide_inference(model, images, 32, stride, batch=1)
        return memory.peak

    assert peak(22) < 1.1 * peak(32)


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


@pytest.mark.parametrize("seed", range(6))
def test_strips_are_the_resized_map(seed):
    rng = np.random.default_rng(seed)
    h, w, height, width = (int(v) for v in rng.integers(1, 60, 4))
    maps = torch.randn(5, h, w)
    for values in (1, 1000, 10**9):
        strips = list(resized_strips(maps, (height, width), values))
        found = torch.cat([strip for _, strip in strips], 1)
        torch.testing.assert_close(found, resize(maps[None], (height, width))[0])
        assert sum(strip.shape[1] for _, strip in strips) == height


def view_sizes(protocol, size):
    """What the paper says, without the library's helpers: sizes of all ratios."""
    found = []
    for ratio in protocol.scales:
        if protocol.rule == "original":
            height, width = (int(ratio * side + 0.5) for side in size)
            factor = min(max(width, height) / max(size), min(width, height) / min(size))
        elif protocol.rule == "fit":
            long, short = (int(ratio * side) for side in protocol.base)
            factor = min(long / max(size), short / min(size))
        else:
            short = max(int(ratio * protocol.base[1]), min(protocol.window))
            factor = short / min(size)
        found.append(tuple(max(1, int(side * factor + 0.5)) for side in size))
    return found


class Foursome(Shapes):
    """Of the classes the first four; the others do not count."""

    classes = Shapes.classes[:4]

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, np.where(label < 4, label, 255)


PLANS = [
    TestProtocol(scales=(0.5, 1.0, 1.75), flip=True),
    TestProtocol((32, 32), (20, 20), (90, 48), "fit", (0.5, 1.0), True),
    TestProtocol((32, 32), (21, 13), (90, 48), "short", (0.5, 0.75, 1.5), True),
    TestProtocol((24, 40), (24, 40), None, "original", (0.3, 1.25), False),
    TestProtocol((32, 32), (20, 20), (90, 48), "fit"),
    TestProtocol(),
]


@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_every_protocol_equals_brute_force(plan):
    """Windows, resize to the image, softmax, mean over views, argmax: each step in full."""
    model = PixelModel().eval()  # its scores differ from place to place
    image = np.random.default_rng(0).integers(0, 256, (41, 58, 3), dtype=np.uint8)
    total = 0
    for size in view_sizes(plan, (41, 58)):
        view = setr_lib.images.resize_image(image, size)
        for pixels in (view, view[:, ::-1].copy())[: 1 + plan.flip]:
            images = setr_lib.images.normalise(pixels)[None]
            if plan.window:
                logits = slide_by_brute_force(model, images, plan.window, plan.stride)
            else:
                logits = model(images)
            if pixels is not view:
                logits = logits.flip(-1)
            logits = torch.nn.functional.interpolate(logits, size=(41, 58), mode="bilinear")
            total = total + logits.softmax(1)
    top, second = total[0].topk(2, 0).values
    clear = (top - second > 1e-5).numpy()  # where rounding cannot change the largest
    found = setr_lib.predict(model, image, protocol=plan)
    assert clear.mean() > 0.99 and np.array_equal(found[clear], total[0].argmax(0).numpy()[clear])


def test_scales_and_flip_change_the_views_of_a_protocol():
    """In both directions, for `predict` and `evaluate`, and None leaves them as they are."""
    model, data = PixelModel().eval(), Foursome("val", size=(41, 58), length=2)
    other = TestProtocol((32, 32), (20, 20), (90, 48), "fit")
    for wanted, given in (
        (PLANS[1], {"protocol": other, "scales": (0.5, 1.0), "flip": True}),
        (other, {"protocol": PLANS[1], "scales": [1.0], "flip": False}),
        (PLANS[1], {"protocol": PLANS[1], "scales": None, "flip": None}),
    ):
        found = setr_lib.predict(model, data[0][0], **given)
        assert np.array_equal(found, setr_lib.predict(model, data[0][0], protocol=wanted))
        counts = [
            setr_lib.evaluate(model, data, progress=False, **words).counts
            for words in (given, {"protocol": wanted})
        ]
        assert torch.equal(*counts)
    for call in (setr_lib.predict, setr_lib.evaluate):
        with pytest.raises(ValueError, match="scales are .*; name at least one"):
            call(model, data[0][0] if call is setr_lib.predict else data, scales=(0.0,))


def test_mirroring_the_image_mirrors_the_prediction():
    """With flip, a picture and its mirror image are told the same; without, they are not."""
    model = PixelModel().eval()
    image = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    found = setr_lib.predict(model, image, flip=True)
    assert np.array_equal(setr_lib.predict(model, image[:, ::-1], flip=True)[:, ::-1], found)
    alone = setr_lib.predict(model, image)
    assert not np.array_equal(setr_lib.predict(model, image[:, ::-1])[:, ::-1], alone)


def test_the_published_sizes():
    """Cityscapes 2048x1024 becomes 2049x1025; ADE20K's short side 512 unless the long one passes
    2048; Pascal Context's short side 520; no short side under the window in multi-scale."""
    assert PROTOCOLS["cityscapes"].view_size((1024, 2048), 1.0) == (1025, 2049)
    assert PROTOCOLS["ade20k"].view_size((600, 800), 1.0) == (512, 683)
    assert PROTOCOLS["ade20k"].view_size((300, 1500), 1.0) == (410, 2048)
    assert PROTOCOLS["pascal_context"].view_size((375, 500), 1.0) == (520, 693)
    many = PROTOCOLS["ade20k_ms"]
    assert [min(many.view_size((600, 800), r)) for r in many.scales] == [
        512,
        512,
        512,
        640,
        768,
        896,
    ]
    assert many.view_size((300, 1500), 1.0) == (512, 2560)
    mmseg = PROTOCOLS["ade20k_ms_mmseg"]
    assert [min(mmseg.view_size((600, 800), r)) for r in mmseg.scales] == [
        300,
        450,
        600,
        750,
        900,
        1050,
    ]
    assert len(many.views()) == len(mmseg.views()) == 12 and len(many.views([1], False)) == 1


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"rule": "fitt", "base": (9, 9)}, "did you mean fit"),
        ({"rule": "fit"}, "'fit' and base None"),
        ({"base": (9, 9)}, "'original' has no base"),
        ({"scales": ()}, "at least one"),
        ({"scales": (1.0, math.nan)}, "all finite and above 0"),
        ({"scales": "12"}, "all finite and above 0"),
        ({"flip": 1}, "flip is 1; it must be True or False"),
        ({"base": (9, 0), "rule": "fit"}, "base is 9x0"),
        ({"stride": (4, 4)}, "without a window"),
        ({"window": (8, 8), "stride": (9, 9)}, "stride 9x9 is larger than the window 8x8"),
    ],
)
def test_a_protocol_that_means_nothing_is_named(facts, words):
    with pytest.raises(ValueError, match=words):
        TestProtocol(**facts)


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
        assert torch.equal(found[name].counts, wanted)


def test_evaluate_sums_over_the_data_set(monkeypatch):
    monkeypatch.setattr(Shapes, "lengths", {"train": 1, "val": 3, "test": 1})
    model, data = SETR(small_config()), Shapes("val", size=(40, 56))
    wanted = sum(confusion_matrix(setr_lib.predict(model, i), t, 8) for i, t in data)
    found = setr_lib.evaluate(model, data, progress=False)
    assert torch.equal(found.counts, wanted) and found.left_out == {}
    assert found.miou == scores(wanted).miou


def test_the_model_is_left_as_it_was():
    """Also parts of it that were frozen, and also after an error."""
    model = SETR(small_config())
    model.encoder.eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == before and model.training


class WithDamage(Shapes):
    """Number 2 cannot be read, number 5 holds a label that is no class."""

    def __getitem__(self, index):
        if index == 2:
            raise ValueError("street2.png cannot be read")
        image, label = super().__getitem__(index)
        label[0, 0] = 200 if index == 5 else 0
        return image, label


def test_bad_files_are_named_and_the_others_counted(monkeypatch, capsys):
    monkeypatch.setattr(Shapes, "lengths", {"train": 1, "val": 7, "test": 1})
    model, data = SETR(small_config()), WithDamage("val", size=(32, 32))
    seen = []
    found = setr_lib.evaluate(model, data, each=lambda number, label: seen.append(number))
    said = capsys.readouterr().err
    assert "left out: street2.png cannot be read" in said and "left out: shapes number 5" in said
    assert found.left_out["shapes number 2"] == "street2.png cannot be read"
    assert "holds [200]; 8 classes" in found.left_out["shapes number 5"]
    good = [data[n] for n in (0, 1, 3, 4, 6)]
    wanted = sum(confusion_matrix(setr_lib.predict(model, i), t, 8) for i, t in good)
    assert torch.equal(found.counts, wanted) and seen == [0, 1, 3, 4, 6]


def _one_process(rank, port, folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    where = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", where, world_size=2, rank=rank)
    Shapes.lengths = {"train": 1, "val": 7, "test": 1}
    model = SETR(small_config())
    for kind in (Shapes, WithDamage):
        data, seen = kind("val", size=(32, 32)), []
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        found = setr_lib.evaluate(
            parallel, data, progress=False, each=lambda n, _, seen=seen: seen.append(n)
        )
        if found.left_out:
            seen.append(sorted(found.left_out))
        torch.save((found.counts, seen), folder / f"{kind.__name__}{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_count_every_image_once(monkeypatch, tmp_path):
    """7 images on 2 processes: the counts of one, in both; a bad file is known to both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_one_process, (port, tmp_path), 2, start_method="fork")
    monkeypatch.setattr(Shapes, "lengths", {"train": 1, "val": 7, "test": 1})
    torch.manual_seed(0)
    data = Shapes("val", size=(32, 32))
    wanted = setr_lib.evaluate(SETR(small_config()), data, progress=False).counts
    found = [torch.load(tmp_path / f"Shapes{rank}.pt") for rank in (0, 1)]
    assert torch.equal(found[0][0], wanted) and torch.equal(found[1][0], wanted)
    assert [seen for _, seen in found] == [[0, 2, 4, 6], [1, 3, 5]]
    damaged = [torch.load(tmp_path / f"WithDamage{rank}.pt") for rank in (0, 1)]
    bad = ["shapes number 2", "shapes number 5"]
    assert torch.equal(damaged[0][0], damaged[1][0])
    assert [seen for _, seen in damaged] == [[0, 4, 6, bad], [1, 3, bad]]


@pytest.mark.parametrize("size", [(3, 4), (41, 58), (18, 475), (333, 500), (1, 100), (97, 97)])
@pytest.mark.parametrize("ratio", [0.4, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
def test_the_image_itself_times_a_ratio_is_rounded_twice_as_by_mmcv(size, ratio):
    """Both sides are rounded, then the image is fitted into them, aspect kept; so one side can
    differ by a pixel from a single rounding."""
    box = sorted(max(1, math.floor(side * ratio + 0.5)) for side in size)
    factor = min(box[1] / max(size), box[0] / min(size))
    wanted = tuple(max(1, math.floor(side * factor + 0.5)) for side in size)
    assert TestProtocol().view_size(size, ratio) == wanted


def test_two_roundings_can_differ_from_one():
    """One would give 226 x 600."""
    assert TestProtocol().view_size((181, 480), 1.25) == (226, 599)


@pytest.mark.parametrize("network", ["naive", "pup", "mla", "plain"])
@torch.no_grad()
def test_windows_under_autocast_are_those_in_float32(network):
    model, images = NETWORKS[network]().eval(), torch.randn(1, 3, 50, 70)
    wanted = slide_inference(model, images, 32, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = slide_inference(model, images, 32, 20)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=1e-2 * float(wanted.abs().max()))


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch < 2.9")
@torch.no_grad()
def test_windows_are_added_up_in_float32_whatever_products_may_be_rounded_to():
    """Where float32 products may be in fewer bits (TF32 on a GPU, bfloat16 on a CPU) the resize of
    scores is not; the switch is as it was afterwards."""
    model, images = SmallMap(torch.randn(1, 5, 8, 8), (16, 16)), torch.randn(1, 3, 96, 96)
    wanted, found = slide_inference(model, images, 64, 40), Products()
    try:
        torch.set_float32_matmul_precision("medium")
        with found:
            assert torch.equal(slide_inference(model, images, 64, 40), wanted)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(found.bits) >= 8 and set(found.bits) == {("ieee", "ieee")}


class Products(TorchDispatchMode):
    """In which precision each matrix product is asked for."""

    def __init__(self):
        super().__init__()
        self.bits = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if re.search(r"mm|matmul", str(op)):
            kinds = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
            self.bits.append(tuple(kind.fp32_precision for kind in kinds))
        return op(*args, **(kwargs or {}))


class SmallMap(torch.nn.Module):
    """Gives the same map for every window, to be enlarged in steps."""

    def __init__(self, scores, *sizes):
        super().__init__()
        self.scores, self.sizes, self.bn = scores, sizes, torch.nn.BatchNorm2d(3)

    def small_logits(self, images, aux):
        self.bn(images)
        size = tuple(images.shape[-2:])
        return [(self.scores.expand(len(images), -1, -1, -1), [*self.sizes, size])]


def test_sliding_windows_move_no_running_means():
    model = SmallMap(torch.randn(1, 4, 4, 4))
    slide_inference(model, torch.randn(2, 3, 40, 40) + 5, 16, 16)
    assert model.training and model.bn.num_batches_tracked == 0 and not model.bn.running_mean.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("window", [None, 32])
def test_a_network_in_other_bits_is_read_in_its_own(dtype, window):
    """Images take the parameters' precision; in 16 bits the same classes nearly everywhere."""
    model, image = SETR(small_config()), np.random.default_rng(0).integers(0, 256, (40, 56, 3))
    image = image.astype(np.uint8)
    way = TestProtocol(window)
    wanted = setr_lib.predict(model, image, protocol=way)
    found = setr_lib.predict(model.to(dtype), image, protocol=way)
    assert (found == wanted).mean() > (0.999 if dtype == torch.float64 else 0.9)
    data = Shapes("val", size=(32, 32))
    data.lengths = {"val": 1}
    counts = setr_lib.evaluate(model, data, protocol=way, progress=False).counts
    assert counts.sum() == 32 * 32
    assert slide_inference(model, torch.randn(1, 3, 40, 56), 32, 32).dtype == max(
        dtype, torch.float32, key=lambda kind: torch.finfo(kind).bits
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("plan", [TestProtocol(), PLANS[0], PLANS[1]])
def test_scores_that_are_not_finite_are_no_classes(value, plan):
    model = SETR(small_config())
    with torch.no_grad():
        model.head.classifier.bias[3] = value
    image = np.zeros((40, 56, 3), np.uint8)
    with pytest.raises(FloatingPointError, match=r"logits go from .*(nan|inf)"):
        setr_lib.predict(model, image, protocol=plan)
    data = Shapes("val", size=(32, 32))
    with pytest.raises(FloatingPointError, match="no class can be read"):
        setr_lib.evaluate(model, data, protocol=plan, progress=False)


@pytest.mark.parametrize(
    "give, words",
    [
        (lambda x: {"out": x}, "gives dict; expected logits"),
        (lambda x: (x, x), "gives tuple; expected"),
        (lambda x: x[0], r"gives \(3, 8, 8\); expected"),
        (lambda x: x.repeat(2, 1, 1, 1), r"gives \(2, 3, 8, 8\); expected"),
        (lambda x: x.repeat(1, 100, 1, 1), "has 300 classes; a uint8 map holds 256"),
    ],
)
def test_what_is_no_map_of_scores_is_named(give, words):
    model = torch.nn.Module()
    model.forward = give
    with pytest.raises(ValueError, match=words):
        setr_lib.predict(model, np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 0), np.uint8),
        torch.zeros(3, 0, 5),
        torch.zeros(3, 5, 0, dtype=torch.uint8),
        Image.new("RGB", (0, 5)),
    ],
    ids=lambda image: type(image).__name__,
)
def test_an_image_without_pixels_is_named(image):
    for window in (None, 32):
        with pytest.raises(ValueError, match=r"(0x5|5x0)"):
            setr_lib.predict(PixelModel(), image, protocol=TestProtocol(window))
    with pytest.raises(ValueError, match="image is 0x5"):
        slide_inference(PixelModel(), torch.zeros(1, 3, 0, 5), 32, 32)


def test_a_tensor_with_nan_is_no_image():
    with pytest.raises(ValueError, match="nan"):
        to_pixels(torch.full((3, 4, 4), math.nan))


@pytest.mark.parametrize("turn", [np.fliplr, np.flipud, np.transpose, lambda a: a[::-2, ::-3]])
@pytest.mark.parametrize("dtype", ["u1", ">u2", ">i8"])
def test_mirrored_arrays_and_foreign_byte_orders_count_as_their_copies(turn, dtype):
    rng = np.random.default_rng(0)
    truth, guess = random_labels(rng, (12, 15), 5).astype(dtype), rng.integers(0, 5, (12, 15))
    copies = turn(guess).copy(), turn(truth).astype(np.int64)
    assert torch.equal(
        confusion_matrix(turn(guess.astype(dtype)), turn(truth), 5), confusion_matrix(*copies, 5)
    )
    counts = confusion_matrix(*copies, 5).numpy()
    assert scores(counts[::-1, ::-1]).miou == pytest.approx(scores(counts).miou)


def test_a_mirrored_image_is_predicted_and_laid_over():
    from setr_lib.plots import overlay

    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    model = PixelModel()
    label = setr_lib.predict(model, image[::-1, ::-1])
    assert np.array_equal(label, setr_lib.predict(model, image[::-1, ::-1].copy()))
    palette = [(k, 0, 9) for k in range(4)]
    shown = overlay(image[:, ::-1], label[:, ::-1], palette)[:, ::-1]
    assert np.array_equal(shown, overlay(image, label, palette))


@pytest.mark.parametrize("opacity", [0.0, 0.3, 0.55, 1.0])
def test_an_overlay_is_the_mean_of_colour_and_image(opacity):
    from setr_lib.plots import colour, overlay

    rng = np.random.default_rng(0)
    image, label = (
        rng.integers(0, 256, (30, 40, 3), dtype=np.uint8),
        random_labels(rng, (30, 40), 5),
    )
    palette = [tuple(rng.integers(0, 256, 3).tolist()) for _ in range(5)]
    mixed = (1 - opacity) * image.astype(np.float32) + opacity * colour(label, palette)
    assert np.array_equal(overlay(image, label, palette, opacity), mixed.round().astype(np.uint8))
    for wrong in (-1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"opacity is {wrong}"):
            overlay(image, label, palette, wrong)


def test_an_empty_data_set_has_no_score(monkeypatch):
    monkeypatch.setattr(Shapes, "lengths", {"val": 0})
    with pytest.raises(ValueError, match="shapes has no images"):
        setr_lib.evaluate(PixelModel(), Shapes("val"), progress=False)


def test_scores_have_a_name_each():
    with pytest.raises(ValueError, match="2 names for the scores of 3"):
        scores(torch.eye(3)).to_dict(["a", "b"])


@pytest.mark.parametrize(
    "gpu, peak",
    [
        ("NVIDIA L40", 181), ("NVIDIA L40S", 362), ("NVIDIA L4", 121), ("NVIDIA H100 NVL", 836),
        ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H200 NVL", 836),
        ("NVIDIA A100-SXM4-40GB", 312), ("Tesla V100-SXM2-16GB", 125), ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090", 165), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("NVIDIA RTX A1000", None),
        ("NVIDIA GH200 480GB", None), ("NVIDIA H20", None), ("NVIDIA A10", None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_whole_words(gpu, peak):
    from setr_lib.costs import peak_tflops

    assert peak_tflops(gpu, "bf16") == peak


# ---- one protocol, which a checkpoint carries


def test_a_networks_own_protocol_holds_unless_another_is_given():
    model, image = PixelModel(), np.random.default_rng(0).integers(0, 256, (41, 58, 3))
    image, data = image.astype(np.uint8), Foursome("val", size=(41, 58), length=2)
    whole, own = setr_lib.predict(model, image), PLANS[2]
    model.protocol = own
    assert np.array_equal(
        setr_lib.predict(model, image), setr_lib.predict(model, image, protocol=own)
    )
    assert np.array_equal(setr_lib.predict(model, image, protocol=TestProtocol()), whole)
    counts = [
        setr_lib.evaluate(model, data, protocol=way, progress=False).counts
        for way in (None, own, TestProtocol())
    ]
    assert torch.equal(counts[0], counts[1]) and not torch.equal(counts[0], counts[2])


def test_a_network_without_a_protocol_is_scored_as_the_paper_scores_its_data_sets():
    """A converted checkpoint of the authors, say; and whole images as they are elsewhere."""
    model = PixelModel()
    assert default_protocol(model, "ade20k") == PROTOCOLS["ade20k"]
    assert default_protocol(model, "shapes") == default_protocol(model) == TestProtocol()
    model.protocol = PLANS[1]
    assert default_protocol(model, "ade20k") == PLANS[1]


def test_a_checkpoint_carries_its_protocol(tmp_path):
    """As facts of its own; in files of older runs as facts of their recipe; or not at all."""
    model, file = SETR(small_config()), tmp_path / "net.safetensors"
    recipe = {"config": {}, "scale": [90, 48], "window": [32, 32], "stride": None}
    for about, wanted in (
        ({"protocol": dataclasses.asdict(PLANS[2]), "recipe": recipe}, PLANS[2]),
        ({"recipe": recipe}, TestProtocol((32, 32), None, (90, 48), "fit")),
        ({"recipe": {**recipe, "rule": "short"}}, TestProtocol((32, 32), None, (90, 48), "short")),
        ({"recipe": {"config": {}}}, None),
        ({}, None),
    ):
        setr_lib.save_checkpoint(model, file, **about)
        assert setr_lib.load_checkpoint(file)[0].protocol == wanted


@pytest.mark.parametrize(
    "facts",
    [
        "fit", [], {"windows": 3}, {"window": "all"}, {"window": [1, 2, 3]}, {"scales": []},
        {"scales": [1e400]}, {"scales": [None]}, {"base": [8, 8], "rule": "fill"}, {"flip": "no"},
        {"base": ["\x1b]0;", 1], "rule": "fit"}, {"window": [8, 8], "stride": [9, 9]},
    ],
)  # fmt: skip
def test_a_broken_protocol_in_a_file_is_named(tmp_path, facts):
    file = tmp_path / "net.safetensors"
    setr_lib.save_checkpoint(SETR(small_config()), file, protocol=facts)
    with pytest.raises(ValueError, match=r"net.safetensors: its protocol is .* means noth") as seen:
        setr_lib.load_checkpoint(file)
    assert str(seen.value).isprintable()


# ---- precision, windows at once, reading ahead


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("plan", [TestProtocol(), TestProtocol((32, 32), (20, 20))])
@torch.no_grad()
def test_a_network_in_16_bits_is_enlarged_in_32(monkeypatch, precision, plan):
    """Nearly the same classes; the network's products are in 16 bits, the resizes' are not."""
    model, image = SETR(small_config("pup")).eval(), np.random.default_rng(0)
    image = image.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    maps, plain = [], model.small_logits

    def small(*args, **words):
        maps.append(plain(*args, **words))
        return maps[-1]

    monkeypatch.setattr(model, "small_logits", small)
    logits = view_logits(model, image, False, plan, None)
    with casting(model, precision):
        found = view_logits(model, image, False, plan, None)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert maps[-1][0][0].dtype == kind and found.dtype == torch.float32
    assert not torch.equal(found.to(kind).float(), found)  # no map of 16 bits, widened
    torch.testing.assert_close(found, logits, rtol=2e-2, atol=2e-2 * float(logits.abs().max()))
    same = setr_lib.predict(model, image, protocol=plan)
    given = {"protocol": plan, "precision": precision}
    assert (setr_lib.predict(model, image, **given) == same).mean() > 0.9
    data = Shapes("val", size=(32, 32), length=1)
    assert setr_lib.evaluate(model, data, progress=False, **given).counts.sum() == 32 * 32


def test_another_precision_is_named():
    with pytest.raises(ValueError, match="unknown precision 'bf61': did you mean bf16"):
        setr_lib.predict(PixelModel(), np.zeros((4, 4, 3), np.uint8), precision="bf61")


def test_windows_at_once_are_as_many_as_asked_for():
    seen = []

    class Watched(PixelModel):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    model, image = Watched(), np.random.default_rng(0).integers(0, 256, (16, 80, 3), np.uint8)
    plan = TestProtocol((16, 16))
    one = setr_lib.predict(model, image, protocol=plan)
    assert seen == [1] * 5
    assert np.array_equal(setr_lib.predict(model, image, protocol=plan, batch=3), one)
    assert seen[5:] == [3, 2]


class Slow(Shapes):
    """Pairs that come out of order, and a note of how many were read and not yet counted."""

    def __init__(self, readers):
        super().__init__("val", size=(16, 16), length=12)
        self.readers, self.ahead, self.most, self.lock = readers, 0, 0, threading.Lock()
        self.now, self.together = 0, 0
        self.start = threading.Barrier(readers, timeout=60)  # however slow the machine is

    def __getitem__(self, index):
        with self.lock:
            self.ahead, self.now = self.ahead + 1, self.now + 1
            self.most, self.together = max(self.most, self.ahead), max(self.together, self.now)
        if index < self.readers:
            self.start.wait()
        time.sleep(0.03 if index % 4 == 0 else 0.001)
        with self.lock:
            self.now -= 1
        return super().__getitem__(index)


@pytest.mark.parametrize("readers", [1, 3])
def test_images_are_read_ahead_in_order_and_not_too_many(readers):
    """One thread for somebody else's data set, which may not be made for more."""
    torch.manual_seed(1)
    model, data, order = SETR(small_config()), Slow(readers), []

    def each(number, _):
        order.append(number)
        data.ahead -= 1

    found = setr_lib.evaluate(model, data, progress=False, each=each)
    wanted = sum(confusion_matrix(setr_lib.predict(model, i), t, 8) for i, t in Slow(1))
    assert torch.equal(found.counts, wanted) and order == list(range(12))
    assert data.most <= readers + 2 and data.together == readers
    assert PairDataset.readers == load_dataset(Given(), "val").readers == 1


class Given:
    """Pairs in memory."""

    classes, palette = Shapes.classes, Shapes.palette

    def __init__(self, count=3):
        self.pairs = [Shapes("val", size=(48, 64))[number] for number in range(count)]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def test_an_error_of_the_network_ends_an_evaluation_and_its_readers():
    class Broken(torch.nn.Module):
        def forward(self, images):
            raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        setr_lib.evaluate(Broken(), Slow(3), progress=False)
    assert threading.active_count() == before


def test_a_label_of_another_size_is_left_out():
    data = Given()
    data.pairs[1] = (data.pairs[1][0], data.pairs[1][1][:40])
    found = setr_lib.evaluate(SETR(small_config()), load_dataset(data, "val"), progress=False)
    assert list(found.left_out) == ["Given number 1"] and found.counts.sum() == 2 * 48 * 64


# ---- how far a reader has to walk


def files_of(call):
    """The files of the library in which a call runs, the data set's own left out."""
    home, seen = Path(setr_lib.__file__).parent, set()

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(home):
            seen.add(str(path.relative_to(home)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_prediction_runs_in_three_files_and_an_evaluation_in_four(plan, precision):
    model, image = PixelModel(), np.zeros((48, 64, 3), np.uint8)
    data = load_dataset(Given(), "val")
    data.classes, data.pairs.pairs = data.classes[:4], [(image, image[..., 0])] * 3
    given = {"protocol": plan, "precision": precision, "scales": (0.5, 1.0), "flip": True}
    three = {"inference.py", "images.py", "losses/strips.py"}
    assert files_of(lambda: setr_lib.predict(model, image, **given)) <= three
    found = files_of(lambda: setr_lib.evaluate(model, data, progress=False, **given))
    assert found - {"data/load.py", "data/files.py"} <= three | {"evaluation.py"}


def test_the_old_name_of_a_protocol_says_that_it_is_old():
    with pytest.warns(DeprecationWarning, match="called TestProtocol now"):
        assert setr_lib.Protocol is TestProtocol
    assert setr_lib.__all__ == sorted(setr_lib.__all__, key=lambda n: (not n.isupper(), n))
