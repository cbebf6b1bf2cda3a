"""What `pip install .` brings: the library, its records, a trained network, and nothing else."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from own_folder import make_folder
from PIL import Image

from setr_lib import __version__, list_records
from setr_lib.training.record import ROOT, load_log
from tools import notebooks

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NETWORK = "setr_lib/shipped/models/camvid_mla_tiny/model.safetensors"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built without a network, from a copy of the tracked files with a photograph beside them."""
    if find_spec("setuptools") is None:
        pytest.skip("needs setuptools")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("book/", "tests/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for place in ("data/camvid/val", "data/records/camvid_views"):
        (copy / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(copy / place / "street.png")
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*build, "--no-index", "-w", str(out)], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel as pip would unpack it."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run(installed: Path, where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python in a folder of its own that knows nothing of the checkout."""
    surroundings = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *words], cwd=where, env=surroundings, capture_output=True, text=True
    )


def test_every_folder_of_the_library_is_packed():
    """A new folder has a line in pyproject.toml."""
    folders = {path.parent for path in (ROOT / "setr_lib").rglob("*.py")}
    names = {".".join(path.relative_to(ROOT).parts) for path in folders}
    assert names | {"setr_lib.shipped"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_wheel_holds_what_is_committed(wheel):
    """Every module, script and style sheet, the network, the records: no photograph, no label."""
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for kind in ("py", "js", "css") for path in ROOT.glob(f"setr_lib/**/*.{kind}")]
    library = {path.relative_to(ROOT).as_posix() for path in files}
    assert names >= library
    shipped = [name for name in names - library if ".dist-info/" not in name]
    assert {Path(name).suffix for name in shipped} <= {".json", ".jsonl", ".safetensors"}
    assert {Path(name).parts[3] for name in shipped if "/records/" in name} == set(list_records())
    assert NETWORK in shipped
    assert wheel.stat().st_size < 25e6, "the README says 24 MB"


def test_the_package_says_what_it_is(wheel):
    """Version, licence and the repository's address; the licence itself is inside."""
    archive = zipfile.ZipFile(wheel)
    about = f"setr_lib-{__version__}.dist-info"
    facts = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    assert (facts["Version"], facts["License-Expression"]) == (__version__, "MIT")
    urls = dict(line.split(", ") for line in facts.get_all("Project-URL"))
    assert urls["Repository"] == notebooks.address()
    assert archive.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "setr = setr_lib.__main__:main" in archive.read(f"{about}/entry_points.txt").decode()


def test_an_installed_library_knows_its_records(installed, tmp_path):
    """Outside the checkout, in an empty folder."""
    code = (
        "import setr_lib; from setr_lib.training.record import load_log;"
        "from setr_lib.training.scoreboard import published; assert len(published()) > 600;"
        "print(setr_lib.__file__, len(load_log('camvid_naive_tiny')), *setr_lib.list_records())"
    )
    done = run(installed, tmp_path, "-c", code)
    place, lines, *names = done.stdout.split()
    assert Path(place) == installed / "setr_lib" / "__init__.py", done.stderr
    assert int(lines) == len(load_log("camvid_naive_tiny")) and names == list_records()


def test_an_installed_library_predicts_with_the_network_it_brings(installed, tmp_path):
    """`predict` needs no checkpoint, and says whose network it uses."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    done = run(installed, tmp_path, "-m", "setr_lib", "predict", "photo.png")
    assert done.returncode == 0, done.stderr
    assert f"using {NETWORK}" in done.stderr and (tmp_path / "overlay.png").is_file()
    version = run(installed, tmp_path, "-m", "setr_lib", "--version")
    assert __version__ in version.stdout


def test_an_installed_library_trains_checks_exports_and_shows_attention(installed, tmp_path):
    """In a folder of its own, one process: a network of one step, own data, a `.pt2`, a page."""
    make_folder(tmp_path / "mine", {"train": 2, "val": 1})
    code = """
import setr_lib
from setr_lib.__main__ import main
from setr_lib.data.load import Shapes
Shapes.lengths = {"train": 4, "val": 2}
for line in (
    "train shapes_naive_tiny --total-steps 1 --batch 1 --device cpu --quiet",
    "check folder:mine --quiet",
    "export runs/shapes_naive_tiny model.pt2",
):
    assert main(line.split()) == 0, line
model, about = setr_lib.load_checkpoint("runs/shapes_naive_tiny/last.safetensors")
image, _ = setr_lib.load_dataset("folder:mine", "val")[0]
explorer = setr_lib.AttentionExplorer(model, image, classes=about["classes"])
explorer.save_html("attention.html")
print(setr_lib.__file__)
"""
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(str(installed))
    for name in ("runs/shapes_naive_tiny/record.json", "model.pt2", "attention.html"):
        assert (tmp_path / name).stat().st_size > 1000, name
