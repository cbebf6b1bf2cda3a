"""Write the live page: the network in the reader's browser, on the reader's own picture.

    python -m tools.live FOLDER

packs every network of `data/models` that has a record, in 8 bits, and writes what the site serves
and `setr-live.html`, one file that works from disk with the network off. The book does so by itself
at the end of its build: `setup` is a Sphinx extension (`_config.yml`).
"""

import argparse
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import setr_lib
from setr_lib.explorer.live import LiveNetwork, live_network, write_site
from setr_lib.training.record import DATA
from tools.street import png, street

FIRST = "camvid_pup_tiny"  # begins, and travels inside the one file
PLACE = "_static/live"  # in the built book


def networks(models: Path = DATA / "models") -> list[LiveNetwork]:
    """Those of the folder that bring a record, `FIRST` first."""
    found = []
    for folder in sorted(models.iterdir(), key=lambda one: (one.name != FIRST, one.name)):
        if (folder / "record.json").is_file():
            found.append(live_network(folder))
    return found


def still(pixels: np.ndarray) -> bytes:
    """A JPEG for where scripts do not run: the picture, its patches, its classes."""
    model, about = setr_lib.load_checkpoint(DATA / "models" / FIRST / "model.safetensors")
    labels = setr_lib.predict(model, pixels)
    palette = np.array(about["palette"], np.float32)
    shown = 0.35 * pixels + 0.65 * palette[labels]
    figure = Figure(figsize=(7.8, 3.3), dpi=110, layout="constrained")
    for ax, image, title in zip(
        figure.subplots(1, 2), (pixels, shown), ("a picture, cut into patches", "its classes")
    ):
        ax.imshow(image.astype(np.uint8))
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
    side = model.config.patch_size
    figure.axes[0].set(xticks=range(0, 240, side), yticks=range(0, 180, side))
    figure.axes[0].grid(color="white", lw=0.4)
    figure.axes[0].tick_params(length=0, labelbottom=False, labelleft=False)
    there = np.unique(labels)
    colours = [mpl.patches.Patch(color=palette[k] / 255, label=about["classes"][k]) for k in there]
    figure.legend(handles=colours, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", pil_kwargs={"quality": 85})
    return file.getvalue()


def write(folder: Path) -> list[Path]:
    pixels = street()
    return write_site(folder, networks(), png(pixels), still(pixels))


def setup(app):
    """Sphinx: the built HTML gets the live page's files."""
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _finish(app, error) -> None:
    if error is None and app.builder.format == "html":
        write(Path(app.outdir) / PLACE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for path in write(parser.parse_args().folder):
        print(f"{path.stat().st_size:10,} bytes  {path}")
