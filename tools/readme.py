"""Renew what README and pages take from records: results, speed, estimates, runs of the book.

python -m tools.readme            write the tables between their markers
python -m tools.readme --check    fail if they are not what the records say
python -m tools.readme --picture CHECKPOINT    draw the first picture with this network
"""

import argparse
import sys

from setr_lib.training.estimate import estimate
from setr_lib.training.recipes import ROWS, get_recipe
from setr_lib.training.record import ROOT, list_records, load_record
from setr_lib.training.suites import EDITIONS, suite_rows

PAGES = ("index", "speed", "full_runs")
FILES = (ROOT / "README.md", *(ROOT / "book" / f"{page}.md" for page in PAGES))
OWNERS = ("ours", "theirs")
PICTURE = ROOT / "book" / "figures" / "prediction.jpg"


def results() -> str:
    """One row per record: runs with their machine, baselines without."""
    head = ["record", "data", "how it was trained", "time", "machine", "seed", "mIoU, val"]
    rows = [head, ["---"] * (len(head) - 1) + ["---:"]]
    parts = {row.name for suite, edition in EDITIONS.items() for row in suite_rows(suite)
             if row.recipe.total_steps < edition.full}  # fmt: skip
    for name in list_records():
        record = load_record(name)
        if name in parts:  # of the whole schedule: they are compared in a chapter
            continue
        if "recipe" in record:
            rows.append(run_row(name, record))
        elif "scores" in record:
            for guess, found in record["scores"].items():
                miou = f"{100 * found['miou']:.1f}"
                rows.append([f"`{name}`", record["dataset"], f"not: {guess}", "", "", "", miou])
    return as_text(rows)


def run_row(name: str, record: dict) -> list[str]:
    recipe, hardware = record["recipe"], record["hardware"]
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
    machine = hardware.get("gpu") or f"{threads} of {hardware['processor']}"
    how = f"{recipe['total_steps']} steps of {recipe['batch']}, {recipe['optimizer'].upper()}"
    minutes = f"{record['seconds'] / 60:.1f} min"
    last = (record["last"] or {}).get("miou")
    miou = "" if last is None else f"{100 * last:.1f}"
    return [f"`{name}`", recipe["dataset"], how, minutes, machine, str(record["seed"]), miou]


def speed() -> str:
    """One row per case of the records that `make bench` wrote."""
    head = ["what", "beside", "CPU time, ours / theirs", "quartiles", "memory", "record", "day"]
    rows, machines = [head, ["---"] * 2 + ["---:"] * 3 + ["---"] * 2], {}
    for name in list_records():
        record = load_record(name)
        for row in record.get("bench", []):
            if "quartiles" not in row:  # of a GPU
                continue
            low, high = row["quartiles"]
            memory = row.get("memory")
            share = f"{memory['ours'] / memory['theirs']:.2f}" if memory else ""
            peer = f"{row['peer']} {record['peers'][row['peer']]}"
            numbers = [f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}", share]
            rows.append([row["case"], peer, *numbers, f"`{name}`", record["day"]])
            machines.setdefault(record["hardware"]["processor"], []).append(f"`{name}`")
    measured = (f"{cpu}: {', '.join(dict.fromkeys(names))}" for cpu, names in machines.items())
    return f"{as_text(rows)}\n\nMeasured on {'; on '.join(measured)}."


def gpu() -> str:
    """What was measured on GPUs: by hand with the loss's prototype, then by `tools.bench_gpu`."""
    step, loss = load_record("gpu_h100_step"), load_record("gpu_h100_loss")
    ways = list(loss["heads"][0]["milliseconds"])
    heads = [["scores", *(w.replace("_", ", ") for w in ways), "MB, ordinary", "MB, fused"]]
    heads.append(["---"] + ["---:"] * (len(ways) + 2))
    for head in loss["heads"]:
        ms, megabytes = (head[kind] for kind in ("milliseconds", "megabytes"))
        found = [str(ms.get(way, "")) for way in ways]
        side = f"{head['side']}x{head['side']}"
        heads.append([side, *found, *(str(megabytes[way]) for way in ("ordinary", "fused"))])
    steps = [["decoder", "loss", "blocks", "ms", "images/s", "GiB"]]
    steps.append(["---"] * 3 + ["---:"] * 3)
    for s in step["steps"]:
        blocks = "compiled" if s["compiled"] else ""
        rate = f"{1000 * step['batch'] / s['milliseconds']:.0f}"
        loss_of = {"lean": "strips", "plain": "ordinary"}.get(s["loss"], s["loss"])
        steps.append([s["decoder"], loss_of, blocks, str(s["milliseconds"]), rate, str(s["gib"])])
    parts = [card("gpu_h100_step"), as_text(steps), beside(step)]
    parts += [card("gpu_h100_loss"), as_text(heads), *gpu_benches()]
    return "\n\n".join(parts)


def beside(step: dict) -> str:
    """What else the record of the step holds, in sentences."""
    peer, tokens = step["mmsegmentation"], step["attention"]["milliseconds"]
    ours, theirs = ([f"{peer[kind][who]}" for kind in ("milliseconds", "gib")] for who in OWNERS)
    return (
        f"PUP's step with the {peer['loss']}, batch 8: {ours[0]} ms and {ours[1]} GiB, where "
        f"mmsegmentation's takes {theirs[0]} ms and {theirs[1]} GiB; with the loss in strips "
        f"{peer['ratio_of_lean']} of its time. One layer's attention: "
        + ", ".join(f"{ms} ms over {count} tokens" for count, ms in tokens.items())
        + "."
    )


def card(name: str) -> str:
    """Where a record of a GPU was measured, with what, and of which commit."""
    record = load_record(name)
    where, has = record["hardware"], record["versions"]
    facts = [where["gpu"]]
    facts += [f"{where['watts']} W"] if where.get("watts") else []
    facts += [f"driver {where['driver']}"] if where.get("driver") else []
    facts += [f"{what} {has[what]}" for what in ("python", "torch", "triton") if what in has]
    return f"`{name}`: commit {record['commit'][:7]}, {', '.join(facts)}."


def gpu_benches() -> list[str]:
    """A sentence and a table for each record of `tools.bench_gpu`; its numbers to four digits."""
    found = []
    for name in list_records():
        rows = [row for row in load_record(name).get("bench", []) if "part" in row]
        rows = [row for row in rows if "groups" not in row]
        table = [["part", "case", "numbers"], ["---"] * 3]
        for row in rows:
            numbers = ", ".join(
                f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float)
            )
            table.append([row["part"], str(row["case"]), numbers])
        found += [card(name), as_text(table)] if rows else []
    return found


def full_runs() -> str:
    """One row per recipe of the paper: what its training would cost on one GPU and on eight."""
    head = ["recipe", "steps", "batch", "hours, 1 GPU", "GiB", "hours, 8 GPUs", "GiB on each"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for dataset, decoders in ROWS.items():
        for decoder, encoders in decoders.items():
            for encoder in encoders:
                recipe = get_recipe(f"{dataset}_{decoder}_{encoder}")
                facts = [f"`{recipe.name}`", f"{recipe.total_steps}", f"{recipe.batch}"]
                both = (estimate(recipe, gpus) for gpus in (1, 8))
                cells = [cell for e in both for cell in (f"{e.hours:.1f}", f"{e.gib:.0f}")]
                rows.append([*facts, *cells])
    return as_text(rows)


def reruns() -> str:
    """One row per record of `tools.rerun`: which chapters ran, with which versions."""
    names = ("python", "torch", "numpy", "timm", "ipython", "ipywidgets", "anywidget")
    head = ["record", "chapters", "errors", "minutes", *names, "day"]
    rows = [head, ["---"] + ["---:"] * 3 + ["---"] * (len(names) + 1)]
    for name in list_records():
        record = load_record(name)
        if "chapters" not in record:
            continue
        found = record["chapters"].values()
        there = {**record["packages"], **record["versions"]}
        minutes = f"{sum(each['seconds'] for each in found) / 60:.0f}"
        errors = sum(each["error"] is not None for each in found)
        facts = [f"`{name}`", f"{len(found)}", f"{errors}", minutes]
        rows.append([*facts, *(there[package] for package in names), record["day"]])
    return as_text(rows)


def as_text(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def renewed(text: str) -> str:
    """`text` with the tables of today between their markers."""
    for table in (results, speed, gpu, full_runs, reruns):
        start, end = f"<!-- {table.__name__}: written by tools/readme.py -->", "<!-- end of {} -->"
        if start in text:
            before, rest = text.split(start)
            _, after = rest.split(end.format(table.__name__))
            text = f"{before}{start}\n{table()}\n{end.format(table.__name__)}{after}"
    return text


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
    as_it_is = setr_lib.TestProtocol()
    guesses = [setr_lib.predict(model, image, protocol=as_it_is) for image in images]
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
        text = file.read_text(encoding="utf-8")
        if options.check and renewed(text) != text:
            sys.exit(f"{file.name} does not show the records of today: python -m tools.readme")
        if not options.check:
            file.write_text(renewed(text), encoding="utf-8")


if __name__ == "__main__":
    main()
