"""What the site adds to Jupyter Book: numbered figures with alt text, and words on the folds.

A figure's caption is the first italic sentence of the text after its cell. It gets a number and
becomes the picture's alternative text, so a caption is written once.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode

PROMPTS = (  # the first tag that a folded cell has decides what its line says
    ("tag_reveal", "Reveal"),
    ("tag_bootstrap", "Set-up: run this first"),
    ("tag_hide-cell", "Show the solution"),
    ("tag_hide-input", "Show the code"),
    ("tag_hide-output", "Show the output"),
)
UNUSED = (  # scripts that the theme loads and this book never uses
    r"<script>const THEBE_JS_URL.*?</script>",
    r"<script[^>]*sphinx-thebe\.js[^>]*></script>",
    r"<link[^>]*sphinx-thebe\.css[^>]*/>",
    r"<script[^>]*fontawesome[^>]*></script>",
    r"<script>window\.MathJax.*?</script>",
)


def _in_output(node: nodes.Node) -> bool:
    while node := node.parent:
        if "cell_output" in node.get("classes", ()):
            return True
    return False


def _is_caption(node: nodes.Node) -> bool:
    """A whole sentence: a single word in italics is a term that is explained."""
    return isinstance(node, nodes.emphasis) and node.astext().endswith((".", "?", "!"))


def name_figures(app: Any, doctree: nodes.document, docname: str) -> None:
    """Give each figure of a page a number, and its pictures the caption as alternative text."""
    number, waiting = 0, []
    for node in list(doctree.findall(lambda n: isinstance(n, nodes.image | nodes.paragraph))):
        if isinstance(node, nodes.image):
            if _in_output(node):
                node["alt"] = "A figure; the text below describes it"
                waiting.append(node)
        elif waiting and node.children and _is_caption(node[0]):
            number += 1
            for image in waiting:
                image["alt"] = node[0].astext()
            node.insert(0, nodes.strong("", f"Figure {number}. "))
            node["classes"].append("figure")
            node["ids"].append(f"figure-{number}")
            waiting = []


def name_folds(app: Any, doctree: nodes.document, docname: str) -> None:
    """Say in the reader's words what is folded."""
    for cell in doctree.findall(nodes.container):
        tags = cell.get("classes", ())
        for fold in (node for node in cell if isinstance(node, HideCodeCellNode)):
            word = next((word for tag, word in PROMPTS if tag in tags), "Show the code")
            if word == "Reveal" and "above-input" in fold["classes"]:
                word = "Show the code"
            fold["prompt_show"], fold["prompt_hide"] = word, "Hide again"


def drop_unused(app: Any, problem: Exception | None) -> None:
    """Take the scripts out of the pages that nothing on them calls."""
    if problem is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            kept = re.sub("|".join(UNUSED), "", text, flags=re.S)
            if kept != text:
                page.write_text(kept, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-resolved", name_figures)
    app.connect("doctree-resolved", name_folds)
    app.connect("build-finished", drop_unused)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
