"""The page of full runs: its commands work from check to score, its estimates are what it says."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from test_layouts import label_names, numbers, photo, write, write_lists

from setr_lib import get_recipe, list_recipes, load_record
from setr_lib.costs import step_gflops
from setr_lib.training.estimate import STEPS, estimate
from setr_lib.training.record import ROOT
from setr_lib.weights.config import make_network

PAGE = (ROOT / "book" / "full_runs.md").read_text(encoding="utf-8")
# What `python` and torchrun run first here: the paper's recipes with small networks and crops.
SMALL = """
import dataclasses
from setr_lib.training import recipes
facts = {"width": 24, "depth": 4, "heads": 3, "layers": (0, 1, 2, 3), "channels": 16}
for name in [n for n in recipes.RECIPES if n.endswith("_pup_large")]:
    recipe = recipes.RECIPES[name]
    small = dataclasses.replace(recipe.config, image_size=(32, 32), **facts)
    recipes.RECIPES[name] = dataclasses.replace(
        recipe, config=small, crop=(32, 32), window=(32, 32), stride=(21, 21), scale=(48, 36),
        batch=2, total_steps=2, evaluate_every=1, pretrained=None,
    )
"""


def ade20k(data):
    for part, count in (("training", 3), ("validation", 2)):
        for k in range(count):
            photo(data / f"ADEChallengeData2016/images/{part}/ADE_{k}.jpg")
            label = data / f"ADEChallengeData2016/annotations/{part}/ADE_{k}.png"
            write(label, numbers(48 * k, 48 * k + 47))


def cityscapes(data):
    for part in ("train", "val", "test"):
        for city in ("aachen", "bochum"):
            stem = f"{part}/{city}/{city}_000000_000019"
            photo(data / f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png")
            write(data / f"cityscapes/gtFine/{stem}_gtFine_labelIds.png", numbers(0, 33))


def pascal_context(data):
    """Of mmsegmentation's layout: the .mat files of the archive have tests of their own."""
    top = data / "pascal_context/VOCdevkit/VOC2010"
    write_lists(top, "SegmentationContext")
    for stem in ("2008_000002", "2008_000003"):
        write(top / f"SegmentationClassContext/{stem}.png", numbers(12, 59))
    (data / "pascal_context/labels.txt").write_text(label_names())


MADE_UP = {"ade20k": ade20k, "cityscapes": cityscapes, "pascal_context": pascal_context}


def blocks(dataset):
    """The two blocks of commands on the page: on one GPU, and on eight."""
    section = next(s for s in PAGE.split("\n## ") if f"setr check {dataset}" in s)
    return [block.strip().splitlines() for block in re.findall(r"```\n(.*?)```", section, re.S)]


@pytest.fixture
def shell(tmp_path):
    """Runs a command of the page in a folder of its own, with small networks and no network."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(SMALL)
    own = {**os.environ, "PYTHONPATH": f"{tmp_path / 'first'}{os.pathsep}{ROOT}",
           "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # fmt: skip
    port = 21_000 + os.getpid() % 9_000

    def run(line):
        words = line.split()
        if words[0] == "setr":
            words[:1] = [sys.executable, "-m", "setr_lib"]
        else:
            assert words[:3] == ["torchrun", "--nproc_per_node", "8"]
            words[:3] = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
            words[5:5] = ["--master_port", str(port)]
        return subprocess.run(
            words, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=180
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("dataset", MADE_UP)
def test_the_commands_of_the_page_work_from_check_to_score(tmp_path, shell, dataset):
    """Every line, on made-up pictures in the official layout; then again on two processes."""
    MADE_UP[dataset](tmp_path / "data")
    (fetch, check, *rest), eight = blocks(dataset)
    assert fetch == f"setr download {dataset}"  # from the network: tests/test_download.py
    found = shell(check)
    assert "2 problems" in found.stderr, found.stderr  # the numbers of images, which are published
    assert found.stdout.count("are published") == 2, found.stdout
    for group, processes in ((rest, 1), (eight, 2)):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        for line in group:
            done = shell(line)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            if " evaluate " in line and "--save-predictions" not in line:
                assert "\nmiou " in done.stdout, line
        (folder,) = (tmp_path / "runs").iterdir()
        record = json.loads((folder / "record.json").read_text())
        assert record["finished"] and record["sessions"][0]["processes"] == processes
        assert record["sessions"][0]["precision"] == "bf16"
    for name, views in ((f"{dataset}.json", 1), (f"{dataset}_ms.json", 6)):
        written = json.loads((tmp_path / name).read_text())
        assert written["dataset"] == dataset and len(written["protocol"]["scales"]) == views
        assert written["scores"]
    if dataset == "cityscapes":
        assert len(list((tmp_path / "cityscapes_test").rglob("*.png"))) == 2


def test_every_recipe_on_the_page_is_one():
    names = set(
        re.findall(r"\b(?:ade20k|cityscapes|pascal_context)_\w+_(?:large|base|deit)\b", PAGE)
    )
    assert names <= set(list_recipes()) and len(names) >= 19


def test_an_estimate_of_what_was_measured_is_the_measurement():
    """The measured step, a step with half of the crops on two GPUs, and twice the steps."""
    record = load_record(STEPS)
    for step in record["steps"]:
        if not step["loss"].startswith("fused") or step["compiled"]:
            continue
        recipe = get_recipe(f"ade20k_{step['decoder']}_large")
        found = estimate(recipe)
        assert found.seconds == pytest.approx(step["milliseconds"] / 1000)
        assert found.gib == pytest.approx(step["gib"])
        assert found.hours == pytest.approx(found.seconds * 160_000 / 3600)
        two = estimate(recipe, gpus=2)
        assert two.hours == pytest.approx(found.hours / 2) and two.gib < found.gib
        assert estimate(get_recipe(recipe.name, micro_batch=8)).gib == pytest.approx(two.gib)
    assert record["commit"] != "unknown" and "prototype" in record["about"]


def test_an_estimate_scales_with_the_arithmetic():
    """Counted apart from it: a crop of Cityscapes, and T-Base."""
    measured = get_recipe("ade20k_pup_large")
    for name in ("cityscapes_pup_large", "cityscapes_pup_deit"):
        other = get_recipe(name)
        work = [
            step_gflops(lambda r=r: make_network(r.config), r.crop) * r.batch
            for r in (measured, other)
        ]
        assert estimate(other).seconds / estimate(measured).seconds == pytest.approx(
            work[1] / work[0]
        )


def test_no_step_is_shorter_than_its_launches():
    """Eight GPUs with a crop each are not eight times as fast."""
    record = load_record(STEPS)
    least = record["launches"] * record["launch_microseconds"] / 1e6
    assert estimate(get_recipe("ade20k_mla_deit"), gpus=8).seconds == pytest.approx(least)
    with pytest.raises(ValueError, match="batch of 16 does not split evenly into 3 process"):
        estimate(get_recipe("ade20k_mla_deit"), gpus=3)
    with pytest.raises(ValueError, match="no estimate for camvid_pup_tiny"):
        estimate(get_recipe("camvid_pup_tiny"))
    assert "estimate: " in str(estimate(get_recipe("ade20k_mla_deit"))) and STEPS in PAGE
