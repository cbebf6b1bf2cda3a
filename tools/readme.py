"""Renew what the README and the book's first page take from records: the table of results.

python tools/readme.py            write the table between the markers
python tools/readme.py --check    fail if it is not what the records say
python tools/readme.py --picture CHECKPOINT    draw the first picture with this network
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from setr_lib.records import list_records, load_record  # noqa: E402

FILES = (ROOT / "README.md", ROOT / "book" / "index.md")
START, END = "<!-- results: written by tools/readme.py -->", "<!-- end of results -->"
PICTURE = ROOT / "book" / "figures" / "prediction.jpg"


def table() -> str:
    """One row per record: runs with their machine, baselines without."""
    head = ["record", "data", "how it was trained", "time", "machine", "seed", "mIoU, val"]
    rows = [head, ["---"] * (len(head) - 1) + ["---:"]]
    for name in list_records():
        record = load_record(name)
        if "recipe" in record:
            rows.append(run_row(name, record))
        elif "scores" in record:
            for guess, found in record["scores"].items():
                miou = f"{100 * found['miou']:.1f}"
                rows.append([f"`{name}`", record["dataset"], f"not: {guess}", "", "", "", miou])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def run_row(name: str, record: dict) -> list[str]:
    recipe, hardware = record["recipe"], record["hardware"]
    machine = hardware.get("gpu") or f"{hardware['threads']} threads of {hardware['processor']}"
    how = f"{recipe['schedule']} steps of {recipe['batch']}, {recipe['optimiser'].upper()}"
    minutes = f"{record['seconds'] / 60:.1f} min"
    miou = f"{100 * record['last']['miou']:.1f}"
    return [f"`{name}`", recipe["dataset"], how, minutes, machine, str(record["seed"]), miou]


def renewed(text: str) -> str:
    """`text` with the table of today between the markers."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


def draw(checkpoint: str) -> None:
    """Three scenes of `shapes` that the network has not seen: image, prediction, truth, errors."""
    import matplotlib

    matplotlib.use("agg")
    import setr_lib
    from setr_lib import plots

    plots.style()
    model, _ = setr_lib.load_checkpoint(checkpoint)
    data = setr_lib.load_dataset("shapes", "test")
    images, labels = zip(*(data[number] for number in (0, 1, 2)))
    guesses = [setr_lib.predict(model, image) for image in images]
    figure = plots.show_predictions(images, guesses, labels, data.classes, data.palette)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=80, pil_kwargs={"quality": 88})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--picture", metavar="CHECKPOINT")
    options = parser.parse_args()
    if options.picture:
        draw(options.picture)
    for file in FILES:
        text = file.read_text()
        if options.check and renewed(text) != text:
            sys.exit(f"{file.name} does not show the records of today: python tools/readme.py")
        if not options.check:
            file.write_text(renewed(text))


if __name__ == "__main__":
    main()
