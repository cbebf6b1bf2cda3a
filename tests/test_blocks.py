"""Every code block of the README and of the pages runs, on small made-up data, in its order."""

import functools
import os
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from own_folder import make_folder
from PIL import Image
from test_data import write_camvid

import setr_lib
from setr_lib.__main__ import _parser, main
from setr_lib.data.load import Shapes
from setr_lib.training.record import ROOT

PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "book").glob("*.md"))]
MARKUP = {"{eval-rst}", "{raw} html"}  # what the page's builder reads
NOT_RUN = {  # the beginning of a line or block -> why it does not run here
    "setr download": "a download; tests/test_download.py serves one",
    "setr check camvid": "counts the whole data set; tests/test_checking.py",
    "setr train ade20k_pup_large": "needs a GPU and ADE20K",
    "accelerate launch": "needs eight GPUs and ADE20K",
    "torchrun": "needs eight GPUs and ADE20K; tests/test_processes.py starts two on CPUs",
    "from accelerate import": "starts processes on GPUs",
    "python -m tools.bench_gpu": "needs a GPU; tests/test_bench_gpu.py runs it in small",
    "PATH/classes.txt": "shows a folder, not a command",
}
SHORTER = ["--total-steps", "2", "--device", "cpu", "--quiet"]


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and text of each fenced block."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [(language, text) for language, text in found if language not in MARKUP]


def skipped(text: str) -> bool:
    return any(text.startswith(beginning) for beginning in NOT_RUN)


def run_line(line: str) -> None:
    """One command of a shell block, with fewer steps where it trains."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    if skipped(line):  # its words are looked at all the same
        (command,) = re.findall(r"setr(?:_lib)? (.*)", line.split("#")[0])
        _parser().parse_args(shlex.split(command))
        return
    assert words[0] == "setr", f"what is {line}?"
    if words[1] == "train":
        words += SHORTER
    if words[1] == "export" and find_spec("onnx") is None:
        words[-1] = words[-1].replace(".onnx", ".pt2")
    assert main(words[1:]) == 0, line


@pytest.fixture
def a_reader(tmp_path, monkeypatch):
    """The folder of somebody who follows the README, with what it takes for granted."""
    for split in ("train", "val"):
        write_camvid(tmp_path / "data", split, size=(45, 60))
    (tmp_path / "data" / "models").symlink_to(ROOT / "data" / "models")
    make_folder(tmp_path / "mine", {"train": 3, "val": 2})
    rng = np.random.default_rng(1)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "street.jpg", "photos/a.jpg"):
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / name)
    theirs = setr_lib.create_model("setr_naive_tiny", num_classes=3, image_size=64)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pth")
    monkeypatch.chdir(tmp_path)
    given = set(os.listdir())
    monkeypatch.setenv("SETR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(Shapes, "lengths", {"train": 12, "val": 3, "test": 3})
    shorter = functools.partial(setr_lib.train, progress=False, device="cpu")
    monkeypatch.setattr(
        setr_lib, "train", lambda *a, **facts: shorter(*a, **{**facts, "total_steps": 2})
    )
    return given


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_code_block_runs(a_reader, page):
    """From the top of a page to its end, what one block defines is there in the next."""
    names: dict = {}
    for language, text in blocks(page):
        if skipped(text):
            continue
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
            continue
        assert language in ("", "bash"), language
        for line in text.splitlines():
            run_line(line)
    if page.name == "README.md" and page.parent == ROOT:
        made = set(os.listdir()) - a_reader
        assert made >= {"overlay.png", "scores.json", "ours.safetensors", "attention.html", "runs"}
        named = [f"{name}{'/' * Path(name).is_dir()}" for name in made]
        check = ["git", "check-ignore", "--no-index", *named]
        ignored = subprocess.run(check, cwd=ROOT, capture_output=True, text=True).stdout.split()
        assert {name.rstrip("/") for name in ignored} == made, "a checkout would not stay clean"


def test_what_does_not_run_is_still_there():
    """The list of exceptions names no line that is gone."""
    lines = [line for page in PAGES for _, text in blocks(page) for line in text.splitlines()]
    for beginning in NOT_RUN:
        assert any(line.startswith(beginning) for line in lines), beginning
