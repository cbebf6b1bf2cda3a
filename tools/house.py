"""The house: which module stands where, and what it holds. `tests/test_house.py` holds us to it.

    python -m tools.house            renew the table in CONTRIBUTING.md
    python -m tools.house imports    every import of the library, as FROM -> TO

The rooms stand in the order of imports: a module may import from the rooms above its own, and from
its own where no circle comes of it.
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIBRARY, GUIDE = ROOT / "setr_lib", ROOT / "CONTRIBUTING.md"
START, END = "<!-- house: written by tools/house.py -->", "<!-- end of house -->"
ROOMS = {
    "files": "files that are whole or absent, and words for mistakes",
    "losses/strips": "resizing as matrix products; the loss in strips of the image (CPU)",
    "geometry": "**1** patch grid, padding, resizing back: decided here, used everywhere",
    "images": "any image as pixels, and pixels as what a network reads",
    "losses": "cross-entropy without the enlarged map: in strips (CPU) or fused (GPU); Dice, focal",
    "encoder": "**2** image -> tokens",
    "decoders": "**3** tokens -> logits: Naive, PUP, MLA with their auxiliary heads",
    "baselines/backbones": "other encoders behind the interface of ours: the hybrid, timm's",
    "baselines/variants": "what the paper does not have: a stem of convolutions, near attention",
    "model": "**4** configuration, encoder, decoder and loss together",
    "baselines/fcn": "the convolutional network that the paper compares with",
    "weights": "any file as tensors, safely; other people's names; what fills a network",
    "data": "data sets by name: files, classes, crops, download, check, and how each is scored",
    "inference": "**6** image -> class of every pixel: windows, test-time augmentation",
    "zoo": "everything that makes a network: by name, from a configuration, from a file",
    "evaluation": "data set -> confusion matrix -> mIoU; two guesses that do not look",
    "costs": "parameters, arithmetic, memory",
    "plots": "the figures of the book",
    "training": "**5** is `loop`: a run from recipe to record; recipes, learning rates, state",
    "attention": "what the heads look at: maps, statistics, occlusion, probes",
    "explorer": "the attention explorer: a widget, and a page of its own",
    "cli": "flags from dataclasses, the commands' words, what `predict` writes",
    "__main__": "the command line: words to calls",
}
READING_PATH = ("geometry", "encoder", "decoders", "model", "training/loop", "inference")
READING_LINES, FILE_LINES, FUNCTION_LINES, TOP_LEVEL = 1300, 400, 40, 21
LONG: dict[str, str] = {}  # functions that may be longer, each with the reason


class Import(NamedTuple):
    """`source` needs `target`; both are modules, "" is `setr_lib/__init__`."""

    source: str
    target: str
    name: str
    when: str  # "first", "called" (inside a function) or "checked" (only by a type checker)


def modules() -> dict[str, Path]:
    """`training/loop` -> its file; a folder has the name of its `__init__`."""
    return {
        "/".join(file.relative_to(LIBRARY).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip("/"): file
        for file in sorted(LIBRARY.rglob("*.py"))
    }


def room(module: str) -> str | None:
    """The room that a module is in; that of the first one in it for a folder of several."""
    inside = [name for name in ROOMS if f"{module}/".startswith(f"{name}/")]
    return next(iter(inside + [name for name in ROOMS if name.startswith(f"{module}/")]), None)


def imports() -> list[Import]:
    """Every import of a module of the library by another one."""
    known = modules()
    return [found for name in known for found in _imports(name, known)]


def _imports(module: str, known: dict[str, Path]) -> Iterator[Import]:
    file = known[module]
    package = file.relative_to(LIBRARY.parent).parent.parts  # ("setr_lib", "training")
    for node, when in _nodes(ast.parse(file.read_text(encoding="utf-8")), "first"):
        if isinstance(node, ast.Import):
            paths = [(tuple(alias.name.split(".")), "") for alias in node.names]
        else:
            above = package[: len(package) - node.level + 1] if node.level else ()
            path = (*above, *(node.module or "").split(".")) if node.module else above
            paths = [(path, alias.name) for alias in node.names]
        for path, name in paths:
            if path[0] == LIBRARY.name:
                target = "/".join(path[1:])
                below = f"{target}/{name}".strip("/")
                yield Import(module, below if below in known else target, name, when)


def _nodes(tree: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, when
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _nodes(node, "checked")
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _nodes(node, "called" if inside and when == "first" else when)


def functions() -> Iterator[tuple[str, int]]:
    """Each function, and its lines below signature and docstring; a kernel's count for nothing:
    Triton compiles one function as a whole."""
    for module, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                kernel = any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
                first = node.body[0]
                above = first.end_lineno if ast.get_docstring(node) else first.lineno - 1
                yield f"{module}.{node.name}", 0 if kernel else node.end_lineno - above


def table() -> str:
    """A row for every room, with the files of a folder."""
    rows = ["| room | holds |", "|---|---|"]
    for name, holds in ROOMS.items():
        folder = LIBRARY / name
        if folder.is_dir():
            within = [m.split("/", 1)[1] for m in modules() if m.startswith(f"{name}/")]
            holds += ": " * bool(within) + ", ".join(f"`{one}`" for one in within)
        rows.append(f"| `{name}{'/' if folder.is_dir() else '.py'}` | {holds} |")
    return "\n".join(rows)


def renewed(text: str) -> str:
    """The guide with the table of today."""
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("what", nargs="?", choices=["imports"])
    if parser.parse_args().what:
        for found in imports():
            print(f"{found.source or 'setr_lib'} -> {found.target or 'setr_lib'}  ({found.when})")
    else:
        GUIDE.write_text(renewed(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
