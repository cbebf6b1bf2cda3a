"""The published numbers beside ours: which are exact, which repeated small, which nobody ran here.

`data/paper.json` holds what the paper, the authors' code and mmsegmentation say, with the place.
Nothing in it says how we stand: that is computed, from the code (`published.py`) and the records.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ..baselines.variants import OF_PAPER
from ..files import read_json
from .published import Entry, computed, is_here, recipe_of, row
from .recipes import RECIPES
from .record import DATA, list_records, load_record

SOURCES = {
    "paper": "Zheng et al., CVPR 2021, arXiv 2012.15840: text and tables",
    "authors": "github.com/fudan-zvg/SETR at 1361561: code, configurations, README",
    "authors-first": "the same at f27d823, its first release",
    "authors-13": "fudan-zvg/SETR, issue 13",
    "authors-47": "fudan-zvg/SETR, issue 47",
    "mmseg": "mmsegmentation 1.2.2: code, configs/setr/README.md, metafile",
    "mmseg-1.1": "mmsegmentation 1.1.2",
    "mmseg-531": "open-mmlab/mmsegmentation, pull request 531",
    "mmseg-721": "open-mmlab/mmsegmentation, issue 721",
    "mmseg-3401": "open-mmlab/mmsegmentation, issue 3401",
    "sssegmentation": "SegmentationBLWX/sssegmentation, as a search page shows it",
    "timm": "timm's default_cfgs, as the authors' code copies them",
}
STATUSES = ("exact", "small-scale", "not-run", "contradictory")
PLAIN = {"aux": True, **OF_PAPER}


def published() -> list[Entry]:
    """The entries of `data/paper.json`.

    An entry has an id, its source (a word of `SOURCES`) and place there, data set and model (None:
    all), measure, value and conditions; "contradicts" lists the entries that say otherwise.
    """
    return read_json(DATA / "paper.json")


def scoreboard(
    records: Sequence[str] | None = None, entries: Iterable[Entry] | None = None
) -> list[Entry]:
    """Every published number with "status", "ours", "record", "check" and "command".

    Status:
        exact: code computes the same value here, without training; "check" names the function.
        contradictory: the sources say two things ("contradicts"), or the code computes another
            value; "ours" is what the code holds.
        small-scale: a record of our own asks the same of small networks on CamVid. "ours" is its
            mIoU there, in percent: it answers the question, and is no reproduction of the value.
        not-run: nobody ran it here; "command" does, where there is one.

    Args:
        records: names of the records that count; None: all committed ones.
        entries: instead of `published()`.
    """
    own = answers(list_records() if records is None else records)
    known = list(published() if entries is None else entries)
    values = {entry["id"]: entry["value"] for entry in known}
    return [{**entry, **_standing(entry, own, values)} for entry in known]


def _standing(entry: Entry, own: list[dict[str, Any]], values: dict[str, Any]) -> dict[str, Any]:
    """What the scoreboard adds to an entry."""
    ours, record = computed(entry), None
    check = None if ours is None else f"setr_lib.training.published.computed: {entry['measure']}"
    disputed = any(values.get(other) != entry["value"] for other in entry.get("contradicts", []))
    if disputed or ours not in (None, entry["value"]):
        status = "contradictory"
    else:
        status = "not-run" if ours is None else "exact"
    if ours is None and (found := answer(entry, own)):
        ours, record = found["miou"], found["record"]
        status = "small-scale" if status == "not-run" else status
    return {
        "status": status,
        "ours": ours,
        "record": record,
        "check": check,
        "command": None if check else command(entry),
    }


# ---- our own experiments


def answers(names: Iterable[str]) -> list[dict[str, Any]]:
    """What finished runs on CamVid answer: network, start and mIoU; the longest run first.

    What a run asks is read off its recipe. Those that change the network otherwise (no auxiliary
    heads, other stems, attention of a radius, two steps) or train by SGD answer other questions.
    """
    found = []
    for name in names:
        record = load_record(name)
        recipe, miou = record.get("recipe"), (record.get("last") or {}).get("miou")
        if not isinstance(recipe, dict) or recipe.get("dataset") != "camvid" or miou is None:
            continue
        if not record.get("finished") or recipe.get("optimizer") != "adamw":
            continue
        network = recipe["config"]
        if any(network.get(fact, plain) != plain for fact, plain in PLAIN.items()):
            continue
        start = recipe.get("pretrained") or recipe.get("start", "random")
        found.append({
            "network": network.get("decoder", "fcn"),
            "start": start,
            "miou": round(100 * miou, 1),
            "record": f"data/records/{name}/record.json",
            "order": (-recipe["total_steps"], len(name), name),
        })  # fmt: skip
    return sorted(found, key=lambda run: run["order"])


def question(entry: Entry) -> str:
    """Which of the paper's questions a score belongs to; "" for another measure or network.

    RQ1, "encoder": a convolutional network beside SETR; RQ3, "pretraining": random weights, or
    DeiT's; RQ2, "decoder": the three decoders otherwise.
    """
    if entry["measure"] != "miou" or not is_here(entry["model"]):
        return ""
    if entry["model"] == "FCN R-101":
        return "encoder"
    start = entry["conditions"].get("pretrained", "21K")
    return "decoder" if start == "21K" else "pretraining"


def answer(entry: Entry, own: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first of our runs that asks what a score answers, with the same kind of network."""
    asked = question(entry)
    if not asked:
        return None
    network = "fcn" if asked == "encoder" else row(entry)[0]
    deit = entry["conditions"].get("pretrained") == "1K" and asked == "pretraining"
    for run in own:
        start = run["start"].startswith("deit") if deit else run["start"] == "random"
        if run["network"] == network and start:
            return run
    return None


# ---- what nobody ran here


def command(entry: Entry) -> str | None:
    """The command that gives a number which needs training or somebody's weights; None if none."""
    said = entry["conditions"]
    if entry["measure"] == "fps":
        return "python -m tools.bench_gpu --out FOLDER"
    if entry["measure"] not in ("miou", "memory_gb") or not is_here(entry["model"]):
        return None
    views = " --tta" if "mirrored" in said.get("views", "") else ""
    if entry["source"] in ("mmseg", "mmseg-3401") and entry["measure"] == "miou":
        return (
            "setr convert theirs.pth ours.safetensors && "
            f"setr evaluate ours.safetensors --data {entry['dataset']}{views}"
        )
    elsewhere = entry["source"] in ("mmseg-531", "sssegmentation") or "coarse" in str(said)
    if elsewhere or entry["model"].startswith(("FCN", "Hybrid")):
        return None  # another code's training, networks without a recipe
    recipe = recipe_of(entry)
    name = recipe.name + "_40k_random" * (said.get("pretrained") == "random")
    if name not in RECIPES:
        return None
    facts = {f: said[f] for f in ("batch", "total_steps") if f in said}
    words = [
        f"--{fact.replace('_', '-')} {value}"
        for fact, value in facts.items()
        if value != getattr(RECIPES[name], fact)
    ]
    train = " ".join(["setr train", name, *words])
    if entry["measure"] == "memory_gb":  # of one of eight; its log.jsonl has ours
        return train.replace("setr", "torchrun --nproc_per_node 8 -m setr_lib")
    where = " --split test --save-predictions FOLDER" if said.get("split") == "test" else ""
    return f"{train} && setr evaluate runs/{name}/last.safetensors{where}{views}"


# ---- on a page


def scoreboard_table(board: Sequence[Entry], markdown: bool = True) -> str:
    """A row per number: place, network, measure, published value, ours, status.

    Args:
        board: of `scoreboard`, or a part of it.
        markdown: a Markdown table; False: columns of plain text.
    """
    head = ("source", "data set", "model", "measure", "published", "ours", "status")
    rows = [head, *(_cells(entry) for entry in board)]
    if markdown:
        rows.insert(1, ("---",) * len(head))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(w.ljust(n) for w, n in zip(r, widths)).rstrip() for r in rows)


def _cells(entry: Entry) -> tuple[str, ...]:
    shown = ["" if entry[key] is None else json.dumps(entry[key]) for key in ("value", "ours")]
    if entry["status"] == "small-scale":
        shown[1] += " (CamVid)"
    words = [entry["dataset"] or "", entry["model"] or "", entry["measure"]]
    return (f"{entry['source']}, {entry['place']}", *words, *shown, entry["status"])


def counts(board: Iterable[Entry]) -> dict[str, int]:
    """How many numbers have each status."""
    found = Counter(entry["status"] for entry in board)
    return {status: found[status] for status in STATUSES}
