"""Write the tables of book/cheatsheet.md from the library: shapes, layers, recipes, windows.

python -m tools.cheatsheet
"""

from pathlib import Path

from setr_lib.data.protocols import PROTOCOLS
from setr_lib.model import LAYERS, SIZES
from setr_lib.training.recipes import get_recipe

PAGE = Path(__file__).resolve().parent.parent / "book" / "cheatsheet.md"
PAPER = ("ade20k", "cityscapes", "pascal_context")


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def text() -> str:
    """The page."""
    sizes = [(f"T-{n.capitalize()}", *facts) for n, facts in SIZES.items()]
    layers = [
        (f"{decoder}, {depth} blocks", ", ".join(map(str, blocks)))
        for (decoder, depth), blocks in LAYERS.items()
    ]
    recipes = []
    for data in PAPER:
        for decoder in ("naive", "pup", "mla"):
            r = get_recipe(f"{data}_{decoder}_large")
            facts = (f"{r.crop[0]} x {r.crop[1]}", r.batch, r.total_steps, f"{r.lr:g}")
            recipes.append((f"`{data}_{decoder}_large`", *facts, f"x{r.head_lr_mult:g}"))
    windows = []
    for data in PAPER:
        p = PROTOCOLS[data]
        windows.append((data, f"{p.window[0]} x {p.window[1]}", f"{p.stride[0]}"))
    parts = [
        "# Cheat sheet",
        "SETR on one page; `python -m tools.cheatsheet` writes it from the library.",
        "## Encoders",
        table(("size", "width D", "blocks", "heads"), sizes),
        "## Shapes",
        table(
            ("what", "shape", "T-Large at 512 x 512"),
            [
                ("image", "(B, 3, H, W)", "3 x 512 x 512"),
                ("tokens", "(B, N, D), rows first, N = (H/16)(W/16)", "1024 x 1024"),
                ("Naive: 1x1, BN, ReLU, 1x1, x16", "(B, K, h, w)", "150 x 32 x 32"),
                ("PUP: four times 3x3, BN, ReLU, x2", "(B, K, h, w)", "150 x 256 x 256"),
                ("MLA: four streams, sums, x4, 3x3", "(B, K, h, w)", "150 x 128 x 128"),
                ("logits", "(B, K, H, W)", "150 x 512 x 512"),
                ("labels", "(B, H, W), 255 is ignored", "512 x 512"),
            ],
        ),
        "## Blocks that the heads read, counted from 0",
        "The paper counts from 1: its $Z^{10}$ is the output of block 9.",
        table(("decoder", "blocks"), layers),
        "## Recipes of the paper's networks, as the authors' configurations have them",
        "SGD, momentum 0.9, no weight decay, polynomial schedule of power 0.9.",
        table(("recipe", "crop", "batch", "steps", "lr", "heads"), recipes),
        "## Windows at inference",
        table(("data set", "window", "stride"), windows),
        "## Commands",
        "```bash\nsetr summary setr_pup_large      # parameters, arithmetic, memory\n"
        "setr predict photo.jpg           # with the network that comes with the book\n"
        "setr train shapes_naive_tiny --out runs/first\n"
        "setr evaluate runs/first/last.safetensors\n```",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    print(PAGE)
