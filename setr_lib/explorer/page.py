"""The explorer as HTML that needs nothing else: in a notebook's output, or as a file of its own."""

import hashlib
import html
import io
import re
from collections.abc import Sequence
from importlib.resources import files

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from .packing import deflate, text64

# What a file imports stands before it; tests/test_explorer_modules.py holds this.
MODULES = (
    *("names", "numbers", "parcel", "cells", "attention", "live", "npz"),
    *("measures", "scores", "view", "words"),
    *("address", "canvas", "chart", "picture", "maps", "theme", "save", "hiding"),
    *("panel_grid", "panel_heads", "panel_forward", "panel_emergence", "panel_cause", "asks"),
    *("hands", "bars", "pictures", "stops", "tour", "layout", "explorer", "twins", "index"),
)
# A box whose attributes hold the module and the data, with a picture for where scripts do not run.
# The module starts every box of the page that waits; an old browser keeps the picture.
START = (
    "(async()=>{for(const box of document.querySelectorAll"
    "('.setr-explorer:not([data-started])')){box.dataset.started='';"
    "const packed=Uint8Array.from(atob(box.dataset.module),c=>c.charCodeAt(0));"
    "const stream=new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));"
    "const script=document.createElement('script');script.type='module';"
    "script.textContent=await new Response(stream).text();box.append(script)}})()"
)


def module() -> str:
    """The explorer as one ES module, with its style sheet inside."""
    return joined("js", MODULES)


def joined(folder: str, names: Sequence[str]) -> str:
    """ES modules of a folder in one scope, in the order of `names`; style sheets where they ask.

    Each is an ES module of its own, for readers and for tests; joined they need no imports.
    """
    here = files(__package__)
    texts = [(here / folder / f"{name}.js").read_text(encoding="utf-8") for name in names]
    code = "\n".join(re.sub(r"(?ms)^import .*?;\n|^export (?!default)", "", one) for one in texts)
    for sheet in ("explorer.css", "live/live.css"):
        style = (here / sheet).read_text(encoding="utf-8")
        code = code.replace(f"/* {sheet.split('/')[-1]} */", style, 1)
    return code


def colours() -> dict[str, np.ndarray]:
    """Colour tables `(256,3)` uint8 by their name in the modules."""
    maps = {"viridis": "viridis", "difference": "PuOr_r", "times": "RdBu_r"}
    steps = np.arange(256)
    return {
        name: (mpl.colormaps[found](steps)[:, :3] * 255).round().astype(np.uint8)
        for name, found in maps.items()
    }


def fragment(data: bytes, still: bytes, alt: str, title: str) -> str:
    """What goes into a page; one line, attributes in double quotes.

    Args:
        data: the parcel of the explorer.
        still: the JPEG in place of it.
        alt: the picture in words.
        title: of the file that the page's own button keeps.
    """
    return (
        f'<div class="setr-explorer" data-module="{text64(deflate(module().encode()))}" '
        f'data-payload="{text64(data)}" data-head="{html.escape(head(title), quote=True)}">'
        f"{picture(still, alt)}"
        "<noscript><p>A still picture: where scripts may run, this is an explorer that shows the "
        "attention of every patch.</p></noscript></div>"
        f"<script>{START}</script>"
    )


def picture(still: bytes, alt: str) -> str:
    """The picture alone, with its words."""
    return (
        f'<img style="max-width:100%;height:auto" alt="{html.escape(alt, quote=True)}" '
        f'src="data:image/jpeg;base64,{text64(still)}">'
    )


def document(fragment: str, title: str) -> str:
    """A file of its own."""
    return f"{head(title)}{fragment}</main>\n</body>\n</html>\n"


def head(title: str) -> str:
    """A page up to where the fragment goes.

    Its policy forbids the browser to fetch anything, and to run any script but the two of the
    fragment, which it knows by their hashes.
    """
    scripts = " ".join(
        f"'sha256-{text64(hashlib.sha256(code.encode()).digest())}'" for code in (START, module())
    )
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:"
    )
    return page_head(title, policy)


def page_head(title: str, policy: str) -> str:
    """A page up to where its contents go, with what it may load and run."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n"
        "<style>body{margin:0 auto;padding:12px;max-width:1180px;font-family:system-ui,sans-serif}"
        "</style>\n</head>\n<body>\n<main>"
    )


def still_picture(
    pixels: np.ndarray, maps: Sequence[np.ndarray], titles: Sequence[str], patch: int, number: int
) -> bytes:
    """A JPEG: the image with the asking patch marked, and maps `(Y,X)` of its attention.

    Args:
        number: of the asking patch, rows first.
    """
    height, width = pixels.shape[:2]
    tall = 7.8 / (len(maps) + 1) * height / width
    figure = Figure(figsize=(7.8, tall + 0.35), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(maps) + 1, squeeze=False)[0]
    row, col = divmod(number, maps[0].shape[1])
    for ax, shown, title in zip(axes, [None, *maps], ["the patch that asks", *titles]):
        ax.imshow(
            pixels if shown is None else pixels.mean(2), cmap="gray", extent=(0, width, height, 0)
        )
        if shown is not None:
            covers = (0, shown.shape[1] * patch, shown.shape[0] * patch, 0)
            ax.imshow(shown, cmap="viridis", alpha=0.75, extent=covers, vmin=0)
        corner = (col * patch, row * patch)
        ax.add_patch(
            mpl.patches.Rectangle(corner, patch, patch, fill=False, edgecolor="white", lw=1.5)
        )
        ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        ax.set_title(title, fontsize=8)
        ax.spines[:].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", pil_kwargs={"quality": 85})
    return file.getvalue()
