"""The live page: the network runs in the reader's browser, on the reader's own picture.

`write_site` makes the files that a site serves; `one_file` a page that works from disk with the
network off. Both hold the explorer's modules (`js`), the tour (`live`) and, as text for a worker,
the network in JavaScript (`engine`).
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from ..attention.probes import load_probes
from ..files import whole_file
from ..model import SETR
from ..zoo import load_checkpoint
from .packing import deflate, text64
from .page import MODULES, colours, joined, page_head
from .weights import page_weights

ENGINE = (
    *("kernel", "machine", "tensors", "layers", "encoder", "decoders", "network"),
    *("answers", "worker"),
)
LIVE = (
    *("client", "take", "scene", "hiding", "bars", "pictures", "stops", "tour", "page", "site"),
    "start",
)
ONE_FILE = "setr-live.html"
LIMIT = 8_000_000  # bytes of the one file


SHARED = [name for name in MODULES if name not in ("twins", "index")]
ALT = "A made-up street, and the classes that the network gives its pixels"


@dataclass(frozen=True)
class LiveNetwork:
    """A trained network as a page offers it.

    Attributes:
        facts: what the page shows and needs: name, title, says, base, bytes, file, miou, probes.
        weights: a safetensors file, see `page_weights`.
    """

    facts: dict[str, Any]
    weights: bytes


def live_network(folder: str | os.PathLike[str]) -> LiveNetwork:
    """Pack the network of `folder`: `model.safetensors`, perhaps `probes.safetensors`, and
    `record.json`, which says how good it is.

    Raises:
        FileNotFoundError, ValueError: for files that are not there or cannot be read.
    """
    folder = Path(folder)
    model, about = load_checkpoint(folder / "model.safetensors")
    if not isinstance(model, SETR):
        raise ValueError(f"{folder} holds no SETR; the page knows nothing else")
    facts = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    recipe, classes = about["recipe"], list(about["classes"])
    miou = facts["best"]["miou"]
    words = {"naive": "Naive", "pup": "PUP", "mla": "MLA"}
    title = f"SETR-{words[model.config.decoder]}, tiny"
    data = {"camvid": "CamVid"}.get(recipe["dataset"], recipe["dataset"])
    size = " x ".join(str(side) for side in recipe["scale"])
    says = (
        f"{title}: trained on photographs of streets ({data}, seen from a car), it knows "
        f"{len(classes)} classes and nothing else: {', '.join(classes)}. Whatever you show it "
        f"becomes one of these. It is small and often wrong: {100 * miou:.1f} mIoU on streets "
        f"it has not seen, at {size} pixels."
    )
    known = {"classes": classes, "palette": about["palette"]}
    weights = page_weights(model, known)
    file = folder / "probes.safetensors"
    probes = load_probes(file) if file.is_file() else None
    shown = {"name": folder.name, "title": title, "says": says, "base": recipe["scale"]}
    shown |= {"file": f"{folder.name}.safetensors", "bytes": len(weights), "miou": miou}
    if probes:
        of_blocks = probes.about.get("miou", {}).get("probe", {})
        shown["probed"] = [of_blocks.get(str(n)) for n in range(model.config.depth)]
        half = {"weight": probes.weight.half(), "bias": probes.bias.half()}
        shown["probes"] = text64(deflate(save(half, {"setr_lib": "{}"})))
    return LiveNetwork(shown, weights)


def script(networks: Sequence[LiveNetwork], sample: bytes, one_file: dict[str, str] | None) -> str:
    """The page's program: the modules of `js` and `live` in one scope, the engine as a text.

    Args:
        sample: a PNG to begin with.
        one_file: {"url", "size"} of the page that works from disk, to offer it.
    """
    settings = {
        "networks": [network.facts for network in networks],
        "sample": f"data:image/png;base64,{text64(sample)}",
        "tables": {name: text64(table.tobytes()) for name, table in colours().items()},
        "oneFile": one_file,
    }
    shared = joined("js", SHARED)
    return (
        f"(() => {{\nconst ENGINE = {_quoted(joined('engine', ENGINE))};\n"
        f"const SETTINGS = {_quoted(settings)};\n{shared}\n{joined('live', LIVE)}\n}})();\n"
    )


def one_file(network: LiveNetwork, sample: bytes, still: bytes) -> str:
    """A page with everything inside. Its policy lets it fetch nothing and run its script alone.

    Raises:
        ValueError: where it would be larger than 8 MB.
    """
    code = script([network], sample, None)
    digest = text64(hashlib.sha256(code.encode()).digest())
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}' 'wasm-unsafe-eval' blob:; "
        "worker-src blob:; style-src 'unsafe-inline'; img-src data: blob:"
    )
    weights = text64(deflate(network.weights))
    page = (
        f"{page_head('SETR, live on your picture', policy)}{box(still_address(still))}"
        f'<script type="text/plain" data-network="{network.facts["name"]}">{weights}</script>\n'
        f"<script>{code}</script></main>\n</body>\n</html>\n"
    )
    if (size := len(page.encode())) > LIMIT:
        raise ValueError(f"the one file would have {size} bytes; at most {LIMIT} are allowed")
    return page


def write_site(
    folder: str | os.PathLike[str], networks: Sequence[LiveNetwork], sample: bytes, still: bytes
) -> list[Path]:
    """Write what a site serves: the program, the weights, a still picture, the one file."""
    page = one_file(networks[0], sample, still)
    offer = {"url": ONE_FILE, "size": f"{len(page) / 1e6:.1f} MB"}
    contents = {
        "live.js": script(networks, sample, offer).encode(),
        "still.jpg": still,
        ONE_FILE: page.encode(),
        **{network.facts["file"]: network.weights for network in networks},
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        with whole_file(folder / name) as temporary:
            temporary.write_bytes(data)
    return [folder / name for name in contents]


def box(still: str) -> str:
    """What a page embeds, before the script: where scripts do not run, a picture.

    Args:
        still: its address.
    """
    return (
        f'<div class="setr-live"><img style="max-width:100%;height:auto" src="{still}" '
        f'alt="{ALT}"><noscript><p>A still picture: where scripts may run, the network reads your '
        "own picture here.</p></noscript></div>\n"
    )


def still_address(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{text64(picture)}"


def _quoted(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")
