"""Crops: equal wherever and by whomever they are cut, with pairs that are kept and without."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from own_folder import folder_recipe, make_folder
from PIL import Image
from torch.utils.data import DataLoader

from setr_lib import load_checkpoint, load_dataset, train
from setr_lib.data import feed as feeding
from setr_lib.data.augment import TrainingStream, TrainTransform, UncutStream
from setr_lib.data.crops import Crop, as_rows, cut
from setr_lib.data.feed import Cutter, feed, fits, free_memory, on_device
from setr_lib.data.load import Shapes
from setr_lib.images import MEAN, STD
from setr_lib.training import devices
from setr_lib.training.devices import RunOptions

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def recipe(tmp_path):
    """Colours distorted, and images of two sizes."""
    folder = make_folder(tmp_path / "data", {"train": 12, "val": 2})
    for number in (3, 7):
        for part, kind in (("images", 3), ("labels", 1)):
            pixels = np.random.default_rng(number).integers(
                0, 3, (40, 28, kind), np.uint8
            ) * 60 ** (kind // 3)
            Image.fromarray(pixels.squeeze()).save(folder / part / "train" / f"{number}.png")
    return folder_recipe(folder, photometric=True, scale=(64, 48), batch=4)


def streams(recipe, keep=0.0):
    data = load_dataset(recipe.dataset, "train")
    return [kind(data, recipe.transform, 5, keep) for kind in (TrainingStream, UncutStream)]


def batches(stream, cutter=None, workers=0, numbers=range(48)):
    loader = DataLoader(
        stream, 4, sampler=numbers, collate_fn=stream.collate, num_workers=workers,
        generator=torch.Generator(),
    )  # fmt: skip
    cutter = cutter or Cutter((32, 32), CPU)
    found = [(cutter(images), labels.long()) for images, labels, _ in loader]
    return [torch.cat(part) for part in zip(*found)]


def test_whoever_cuts_a_crop_cuts_the_same(recipe):
    """Alone, in batches, by workers, where the network is, from kept images: to the last bit."""
    whole, uncut = streams(recipe)
    wanted = [torch.stack(part) for part in zip(*(whole[n] for n in range(48)))]
    ways = [batches(whole), batches(whole, workers=2), batches(uncut), batches(uncut, workers=2)]
    kept = on_device(uncut, CPU)
    uncut.on_device = frozenset(kept)
    assert len(kept) == 12
    ways += [batches(uncut, Cutter((32, 32), CPU, kept), workers=w) for w in (0, 2)]
    for images, labels in ways:
        assert torch.equal(images, wanted[0]) and torch.equal(labels, wanted[1])
    assert len(wanted[0].unique(dim=0)) == 48


def test_what_the_device_has_does_not_travel(recipe):
    uncut = streams(recipe)[1]
    travels, *_ = uncut.collate([uncut[n] for n in range(4)])
    assert travels.pixels.dtype == torch.uint8
    assert travels.pixels.numel() == sum(3 * rows * cols for rows, cols in travels.sizes)
    kept = on_device(uncut, CPU)
    uncut.on_device = frozenset(kept)
    numbers, labels, _ = uncut.collate([uncut[n] for n in range(4)])
    assert numbers.pixels.numel() == 0 and labels.dtype == torch.uint8
    uncut.on_device = frozenset(list(kept)[:-1])  # one that it lacks sends its whole batch
    lacking = next(n for n in range(12) if uncut.place(n)[1] == 11)
    assert uncut.collate([uncut[lacking], uncut[lacking + 1]])[0].pixels.numel() > 0


def test_a_run_is_the_same_with_any_cache_and_way_of_cutting(tmp_path, recipe, monkeypatch):
    """To the last bit of the weights, with a stop in between, other workers and another cache."""
    recipe = dataclasses.replace(recipe, total_steps=6, class_weights=True, average="valid")
    run = {"progress": False, "device": "cpu"}
    train(recipe, tmp_path / "none", cache="none", **run)
    train(recipe, tmp_path / "memory", cache="memory", steps=3, workers=2, **run)
    train(recipe, tmp_path / "memory", cache="auto", resume=True, **run)

    def as_for_a_gpu(data, transform, seed, device, *_):
        stream = UncutStream(data, transform, seed)
        kept = on_device(stream, device)
        stream.on_device = frozenset(kept)
        return stream, Cutter(transform.crop, device, kept)

    monkeypatch.setattr(devices, "feed", as_for_a_gpu)
    train(recipe, tmp_path / "uncut", workers=1, **run)
    one, *others = (
        load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict()
        for name in ("none", "memory", "uncut")
    )
    for other in others:
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_pairs_are_kept_as_long_as_there_is_room(recipe, monkeypatch):
    whole = streams(recipe, keep=3 * 24 * 32 * 4)[0]  # three pairs of 3 + 1 bytes a pixel
    read = []
    monkeypatch.setattr(type(whole.data), "__getitem__", lambda data, n: read.append(n) or pair)
    pair = np.zeros((24, 32, 3), np.uint8), np.zeros((24, 32), np.uint8)
    for index in (0, 1, 2, 3, 0, 1, 2, 3):
        assert whole.read(index)[0] is pair[0]
    assert read == [0, 1, 2, 3, 3]
    assert pickle.loads(pickle.dumps(whole))._kept == {}  # a spawned worker gets no copy


def test_what_a_generator_makes_is_not_kept(recipe):
    stream, cutter = feed(Shapes("train"), recipe.transform, 0, CPU, "memory")
    stream.read(0)
    assert not stream._kept and not cutter.kept
    monitored = UncutStream(Shapes("train"), recipe.transform, 0)
    assert not fits(monitored, torch.device("cuda"), 1e12)


def test_a_damaged_pair_is_no_matter_on_the_device(recipe):
    """It is left out as everywhere; its crop is cut from the next pair."""
    whole, uncut = streams(recipe)
    path = load_dataset(recipe.dataset, "train").file(5)
    with open(path, "rb+") as file:
        file.truncate(60)
    kept = on_device(uncut, CPU)
    uncut.on_device = frozenset(kept)
    assert sorted(kept) == [n for n in range(12) if n != 5] and not uncut.left_out
    numbers = range(12)
    ours = batches(uncut, Cutter((32, 32), CPU, kept), numbers=numbers)
    assert torch.equal(ours[0], batches(whole, numbers=numbers)[0])
    assert [path in why for why in uncut.left_out.values()] in ([], [True])


def test_the_share_of_the_memory(recipe, monkeypatch, tmp_path):
    """A quarter of what is free, for each process its part; a container's limit counts."""
    monkeypatch.setattr(feeding, "free_memory", lambda: 800.0)
    data = load_dataset(recipe.dataset, "train")
    rooms = {c: feed(data, recipe.transform, 0, CPU, c, 4)[0].room for c in feeding.CACHES}
    assert rooms["auto"] == 50 and rooms["none"] == 0 and rooms["memory"] == float("inf")
    monkeypatch.undo()
    assert 0 < free_memory() < 2**50
    with pytest.raises(ValueError, match="cache is 'disk'; choose auto, memory, device, none"):
        RunOptions(device="cpu", cache="disk")


@pytest.mark.parametrize("crop", [Crop(60, 80), Crop(60, 80, 7, 11, 1), Crop(33, 44, flip=1)])
def test_unscaled_and_scaled_pixels_are_interpolates(crop):
    """Within 0.03 of 255 of `F.interpolate` in float64, edges too; outside is the mean colour."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    found = cut(image[None], as_rows([crop]), (40, 56))[0]
    whole = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None].double(), (crop.rows, crop.cols), mode="bilinear"
    )[0]
    wanted = whole[:, crop.top : crop.top + 40, crop.left : crop.left + 56]
    wanted = wanted.flip(2) if crop.flip else wanted
    rows, cols = wanted.shape[1:]
    grey = found * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert (grey[:, :rows, :cols] - wanted).abs().max() < 0.03
    assert not found[:, rows:].any() and not found[:, :, cols:].any()


def test_labels_are_unsigned_bytes(recipe):
    image, label = np.zeros((24, 32, 3), np.uint8), np.zeros((24, 32), np.int64)
    with pytest.raises(ValueError, match="int64; give class numbers as uint8"):
        TrainTransform((8, 8), (32, 24))(image, label, np.random.default_rng(0))


@needs_gpu
def test_a_gpus_crops_are_the_cpus(recipe):
    """Within 0.02 of 255; labels to the bit; its own crops twice, alone or not, to the bit."""
    gpu = torch.device("cuda")
    whole, uncut = streams(recipe)
    stream, cutter = feed(uncut.data, recipe.transform, 5, gpu, "device")
    wanted, found = batches(whole), batches(stream, cutter)
    assert torch.equal(found[1], wanted[1])
    assert 57.4 * (found[0].cpu() - wanted[0]).abs().max() < 0.02
    travelling = feed(uncut.data, recipe.transform, 5, gpu, "none")
    for workers in (0, 2):
        assert torch.equal(batches(*travelling, workers=workers)[0], found[0])
