"""What every test starts from: one thread, no window, no data folder of the user's."""

import dataclasses
import os
import shutil

import matplotlib
import numpy as np
import pytest
import torch

from setr_lib.data.load import Shapes
from setr_lib.model import SETRConfig
from setr_lib.training.recipes import Recipe, get_recipe

matplotlib.use("agg")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch):
    """No test depends on the user's data folder or on the test before it."""
    monkeypatch.delenv("SETR_DATA", raising=False)
    torch.manual_seed(0)


def small_config(decoder: str = "naive", **facts) -> SETRConfig:
    """A network that fits any test: 4 blocks of width 24."""
    layers = (0, 1, 2, 3)
    sizes = {"num_classes": 8, "image_size": (48, 64), "width": 24, "depth": 4, "heads": 3}
    return SETRConfig(decoder, **{**sizes, "layers": layers, "channels": 16, **facts})


@pytest.fixture
def small_recipe(monkeypatch) -> Recipe:
    """A run of seconds on a dozen made-up scenes."""
    monkeypatch.setattr(Shapes, "lengths", {"train": 12, "val": 3, "test": 3})
    return dataclasses.replace(
        get_recipe("shapes_naive_tiny"),
        config=small_config(image_size=(32, 32)),
        crop=(32, 32),
        batch=2,
        total_steps=12,
        warmup=2,
        evaluate_every=6,
    )


def random_labels(rng: np.random.Generator, shape, classes: int, ignored: float = 0.1):
    """Class numbers with some 255 between them."""
    labels = rng.integers(0, classes, shape)
    labels[rng.random(shape) < ignored] = 255
    return labels


@pytest.fixture(scope="session")
def chromium():
    """One browser for all tests: a process may drive only one. CHROMIUM=path names another."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install -r requirements-browser.txt"
    )
    named = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        path = next((p for p in map(_found, [*named, own]) if p), None)
        if path is None:
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


def _found(name: str | None) -> str | None:
    return shutil.which(name) if name else None


MAY_BE_MISSING = ("GPU", "CamVid is not in data/camvid")  # not to be had on every machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """For .ci/run: SETR_SKIPPED=FILE notes skipped tests, SETR_NO_SKIPS=1 makes them failures."""
    report = yield
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if reason and not any(word in reason for word in MAY_BE_MISSING):
        if file := os.environ.get("SETR_SKIPPED"):
            with open(file, "a") as skipped:
                print(report.nodeid, file=skipped)
        if os.environ.get("SETR_NO_SKIPS"):
            report.outcome = "failed"
    return report


pytest_make_collect_report = pytest_runtest_makereport  # a whole file can be skipped, too


def noted_page(context, complaints: list[str], requests: list[str]):
    """A new page of a browser; what goes wrong on it and what it asks for is noted."""
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    return page
