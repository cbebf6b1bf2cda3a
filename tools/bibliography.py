"""Write book/bibliography.md from the lists of references of the chapters, each work once.

python -m tools.bibliography
"""

import re

import nbformat

from tools import notebooks

PAGE = notebooks.ROOT / "book" / "bibliography.md"
LINK = re.compile(r"https?://(?:doi\.org|arxiv\.org/abs)/[^)\s]+")
BEGIN = (
    "# Bibliography\n\nEvery work that a chapter refers to, with the chapters that do. "
    "The lists at the end of the chapters are the source; "
    "`python -m tools.bibliography` writes this page."
)


def references() -> dict[str, list[tuple[str, str]]]:
    """DOI or arXiv address -> [(chapter, its line)]."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in notebooks.chapters():
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type != "markdown" or "## References" not in cell.source:
                continue
            for line in cell.source.split("## References", 1)[1].splitlines():
                for link in LINK.findall(line) if line.startswith("- ") else ():
                    found.setdefault(link, []).append((path.stem, line[2:]))
    return found


def text() -> str:
    """The page: each line as the chapter with the most to say has it."""
    merged: dict[str, set[str]] = {}
    for cited in references().values():
        line = max((line for _, line in cited), key=len)
        merged.setdefault(line, set()).update(name for name, _ in cited)
    lines = []
    for line in sorted(merged, key=lambda line: (line.split(",")[0].split()[-1], line)):
        chapters = ", ".join(f"[{name}]({name}.ipynb)" for name in sorted(merged[line]))
        lines.append(f"- {line} In: {chapters}.")
    return "\n".join([BEGIN, "", *lines]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    print(PAGE)
