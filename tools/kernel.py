"""Turn the kernel of the live page from text into bytes.

    pip install -r requirements-browser.txt    (wasmtime, whose assembler reads the text)
    python -m tools.kernel

writes `kernel.js` beside `kernel.wat`; tests/test_engine.py holds the two together.
"""

import base64
import textwrap
from pathlib import Path

from setr_lib.files import whole_file

FOLDER = Path(__file__).parents[1] / "setr_lib/explorer/engine"


def kernel_js() -> str:
    """The text of `kernel.js` as `kernel.wat` asks for it."""
    from wasmtime import wat2wasm

    code = base64.b64encode(wat2wasm((FOLDER / "kernel.wat").read_text(encoding="utf-8"))).decode()
    lines = "\n".join(f'  "{line}",' for line in textwrap.wrap(code, 94))
    return (
        "// kernel.wat in bytes; written by `python -m tools.kernel`.\n\n"
        f'export const KERNEL = [\n{lines}\n].join("");\n'
    )


if __name__ == "__main__":
    with whole_file(FOLDER / "kernel.js") as temporary:
        temporary.write_text(kernel_js(), encoding="utf-8")
