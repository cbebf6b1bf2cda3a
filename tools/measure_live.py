"""Measure the live page in a headless Chromium: seconds and memory, and what 8 bits cost.

    pip install -r requirements-browser.txt
    python -m tools.measure_live data/records/live_browser

writes `record.json`. One worker thread; sizes: the shipped network (301 tokens), and an untrained
Tiny with patches of 16 at 360x480 (691 tokens), of which time and memory count only. With CamVid
in `data/camvid` also the mIoU of the shipped weights in 16 and in 8 bits.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import setr_lib
from setr_lib.explorer.live import LiveNetwork, one_file
from setr_lib.explorer.weights import page_weights
from setr_lib.files import write_json
from setr_lib.training.record import DATA, surroundings
from setr_lib.weights.bits import from_bits, in_bits
from tools.live import networks
from tools.street import png, street

SITE = "document.querySelector('.setr-live').site"
DRAWN = (  # what was asked for is on the screen
    f"new Promise((go) => {{ const look = () => {SITE}.explorer.at.card.ariaBusy === 'false' "
    "? go() : setTimeout(look); look(); })"
)
TURNS = 7  # of each question; the median and the least are kept


def untrained() -> LiveNetwork:
    """Tiny as the paper's patches would have it, at the size of CamVid."""
    torch.manual_seed(0)
    config = setr_lib.SETRConfig(
        "naive", 11, (360, 480), width=192, depth=12, heads=3, patch_size=16
    )
    classes = {"classes": [str(n) for n in range(11)], "palette": [[20 * n] * 3 for n in range(11)]}
    weights = page_weights(setr_lib.SETR(config), classes)
    facts = {"name": "untrained", "title": "untrained", "says": "", "base": [480, 360]}
    return LiveNetwork(facts | {"miou": None, "file": "x", "bytes": len(weights)}, weights)


def measured(browser: Any, network: LiveNetwork, pixels: np.ndarray) -> dict[str, Any]:
    """Milliseconds: median and least; megabytes of the page's heap and of the worker's memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(one_file(network, png(pixels), b""), encoding="utf-8")
        page = browser.new_context(offline=True).new_page()
        page.goto(file.as_uri())
        while not page.evaluate(f"Boolean({SITE}?.settled)"):
            page.wait_for_timeout(50)
        first = dict(page.evaluate(f"{SITE}.log"))
        tokens = page.evaluate(f"{SITE}.scene.sources[0].tokens")
        found: dict[str, Any] = {"tokens": tokens, "size": list(pixels.shape[:2])}
        found["unpack_ms"], found["load_ms"] = round(first["fetch"]), round(first["load"])
        questions = {
            "labels_ms": f"{SITE}.runners[0].run({SITE}.photo, {{ keep: false }})",
            "click_ms": f"({SITE}.explorer.tour.askAt([20 + 12 * TURN, 100]), {DRAWN})",
            "hide_ms": f"{SITE}.runners[0].rerun({SITE}.photo, {{ hidden: [TURN, 50, 51, 52] }})",
        }
        for name, question in questions.items():
            took = [
                page.evaluate(
                    "async () => { const start = performance.now();"
                    f"await {question.replace('TURN', str(turn))};"
                    "return performance.now() - start; }"
                )
                for turn in range(TURNS)
            ]
            found[name] = {"median": round(statistics.median(took)), "least": round(min(took))}
        heap = page.evaluate("performance.memory.usedJSHeapSize")
        found["page_heap_mb"] = round(heap / 1e6, 1)
        found["file_mb"] = round(file.stat().st_size / 1e6, 2)
        return found


def bits() -> dict[str, float] | None:
    """mIoU on CamVid val of a network that ships in 16 bits, then in 8; None without the data."""
    if not (DATA / "camvid").is_dir():
        return None
    model, _ = setr_lib.load_checkpoint(DATA / "models" / "camvid_naive_tiny" / "model.safetensors")
    val = setr_lib.load_dataset("camvid", "val")
    found = {"16 bits": setr_lib.evaluate(model, val, progress=False).miou}
    model.load_state_dict(from_bits(in_bits(model.state_dict(), 8)))
    found["8 bits"] = setr_lib.evaluate(model, val, progress=False).miou
    return {name: round(value, 5) for name, value in found.items()}


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    folder = parser.parse_args().record
    large = np.asarray(Image.fromarray(street()).resize((480, 360)))
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        rows = [
            measured(browser, networks()[0], street()),
            measured(browser, untrained(), large),
        ]
        version = browser.version
        browser.close()
    facts = {"browser": f"Chromium {version}, headless", "load": os.getloadavg()[0], "rows": rows}
    folder.mkdir(parents=True, exist_ok=True)
    record = {**surroundings(torch.device("cpu")), **facts, "miou": bits()}
    write_json(folder / "record.json", record)


if __name__ == "__main__":
    main()
