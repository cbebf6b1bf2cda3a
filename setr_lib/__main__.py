"""The command line: words to calls, nothing else. `python -m setr_lib --help`."""

import argparse
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .checking import check_dataset, splits_to_check
from .costs import costs
from .datasets import NAMES, load_dataset
from .download import ARCHIVES, GUIDES, download
from .evaluation import IncompleteEvaluation, check_classes, evaluate, join_processes
from .execution import PRECISIONS, Execution, default_device
from .exports import find_images, save_label_ids, save_mask, save_overlay
from .files import sha256, whole_file, write_json
from .metric import Scores, scores
from .model import create_model, list_models, make_network
from .plots import show_curves, spread_palette
from .prediction import predict, to_pixels
from .priors import prior_scores
from .protocol import PROTOCOLS, Protocol, find_protocol
from .rates import describe_groups, parameter_groups
from .recipes import Recipe, get_recipe, list_recipes, recipe_table
from .records import ROOT, load_log, load_record, surroundings
from .training import train
from .weights import (
    config_from_checkpoint,
    load_checkpoint,
    load_weights,
    read_tensors,
    save_checkpoint,
)

SHIPPED = ROOT / "data" / "models" / "camvid_naive_tiny" / "model.safetensors"
FACTS = {  # of a recipe that the command line can replace
    "schedule": int, "rate": float, "batch": int, "micro_batch": int, "seed": int,
    "optimiser": str, "head_factor": float, "head_scope": str, "floor": float,
    "weight_decay": float, "average": str, "evaluate_every": int, "evaluate_split": str,
    "pretrained": str,
}  # fmt: skip
SWITCHES = {  # of the execution
    "activation_checkpointing": "less memory: compute the blocks again in the backward pass",
    "compile": "torch.compile the network",
    "channels_last": "convolutions with the channels innermost",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 2 a mistake that is explained, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"setr_lib {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m setr_lib", description="SETR, step by step.")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def verb(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").strip()
        added = verbs.add_parser(name, help=text.splitlines()[0], description=text)
        added.set_defaults(run=run)
        return added

    one = verb("summary", _summary)
    one.add_argument("model", nargs="?", help="for example setr_pup_large")
    one.add_argument("--all", action="store_true", help="a table of every model")
    one.add_argument("--image-size", type=int, nargs="+", default=[512], metavar="PIXELS")
    one.add_argument("--classes", type=int, default=150)

    one = verb("convert", _convert)
    one.add_argument("input", help="a checkpoint of the authors or of mmsegmentation")
    one.add_argument("output", help="a safetensors file")
    one.add_argument("--heads", type=int, help="attention heads; width / 64 if not given")
    one.add_argument("--layers", type=int, nargs="+", help="0-based blocks that the heads read")
    one.add_argument("--image-size", type=int, nargs="+", help="of a table that is not square")

    one = verb("download", _download)
    one.add_argument("dataset", choices=sorted([*ARCHIVES, *GUIDES]))
    one.add_argument("--root", default="data")

    one = verb("check", _check)
    one.add_argument("dataset", help=", ".join(NAMES[1:]))
    one.add_argument("--split", nargs="+", help="train and val if not given; of folder:PATH, all")
    one.add_argument("--root", default="data")
    one.add_argument("--json", help="write the findings to this file too")
    one.add_argument("--workers", type=int, default=4, help="threads that read files")
    one.add_argument("--quiet", action="store_true", help="no progress bar")

    one = verb("recipes", _recipes)
    one.add_argument("name", nargs="?", default="", help="a recipe, or a part of names")

    one = verb("train", _train)
    one.add_argument("recipe", help="a name that `recipes` lists")
    one.add_argument("--out", help="the run folder; runs/RECIPE if not given")
    one.add_argument("--resume", action="store_true", help="go on with the run in --out")
    one.add_argument("--steps", type=int, help="stop after so many steps in all")
    one.add_argument("--root", default="data", help="the folder with the data sets")
    one.add_argument("--device", help="cpu, cuda, ...; a GPU if there is one")
    one.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    one.add_argument("--workers", type=int, default=0, help="processes that prepare the crops")
    for switch, text in SWITCHES.items():
        one.add_argument(f"--{switch.replace('_', '-')}", action="store_true", help=text)
    one.add_argument("--quiet", action="store_true", help="no progress bar")
    for fact, kind in FACTS.items():
        one.add_argument(f"--{fact.replace('_', '-')}", type=kind, help="replaces the recipe's")

    one = verb("plot", _plot)
    one.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or a record's name")
    one.add_argument("--out", default="curves.png")

    one = verb("evaluate", _evaluate)
    one.add_argument("checkpoint", nargs="?", help="the one that comes with the book if not given")
    one.add_argument("--data", help="the data set; the one it was trained on if not given")
    one.add_argument("--split", default="val")
    one.add_argument("--root", default="data")
    _add_protocol(one)
    one.add_argument("--json", help="write the scores to this file too, with all that led to them")
    one.add_argument(
        "--save-predictions",
        metavar="FOLDER",
        help="a PNG per image, in the data set's own numbers",
    )
    one.add_argument("--device")
    one.add_argument("--quiet", action="store_true", help="no progress bar")

    one = verb("predict", _predict)
    one.add_argument("images", nargs="+", help="files, and folders of images")
    one.add_argument("--checkpoint", help="the one that comes with the book if not given")
    one.add_argument(
        "--out",
        help="of one file: the image with the classes laid over it (overlay.png); of more: the "
        "folder for masks/ and overlays/ (predictions)",
    )
    one.add_argument("--mask", help="of one file: write the class numbers to this PNG too")
    one.add_argument("--opacity", type=float, default=0.55)
    _add_protocol(one)
    one.add_argument("--device")
    one.add_argument("--quiet", action="store_true", help="no progress bar")

    one = verb("baselines", _baselines)
    one.add_argument("dataset")
    one.add_argument("--split", default="val")
    one.add_argument("--root", default="data")
    one.add_argument("--out", help="write a record to this folder too")
    return parser


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocol", help=f"how images are read: {', '.join(PROTOCOLS)}")
    parser.add_argument("--ms", action="store_true", help="six scales and their mirror images")


def _summary(options: argparse.Namespace) -> None:
    """What a model costs: parameters by part, arithmetic, memory, tokens."""
    if bool(options.model) == options.all:
        raise ValueError("name one model, or say --all")
    size = tuple(options.image_size * 2)[:2]
    if options.all:
        print("model               params M    GFLOPs   infer GiB   train GiB    tokens")
    for name in list_models() if options.all else [options.model]:
        found = costs(functools.partial(create_model, name, options.classes, size), size)
        count = sum(found.parameters.values())
        rows, cols = found.tokens
        if options.all:
            numbers = (count / 1e6, found.gflops, found.inference_gib, found.training_gib)
            print(name.ljust(17), *(f"{n:11.2f}" for n in numbers), f"{rows * cols:9}")
            continue
        print(f"{name}, {options.classes} classes, one image of {size[0]}x{size[1]}, float32")
        for part, parameters in found.parameters.items():
            print(f"  {part:16}{parameters:>13,} parameters")
        print(f"  {'all':16}{count:>13,} parameters")
        print(f"  {'forward':16}{found.gflops:>13,.1f} GFLOP (a multiply-add is two)")
        print(f"  {'inference':16}{found.inference_gib:>13.2f} GiB of activations at the peak")
        print(f"  {'training step':16}{found.training_gib:>13.2f} GiB of activations and gradients")
        print(f"  {'tokens':16}{rows * cols:>13,} = {rows} x {cols} patches")


def _convert(options: argparse.Namespace) -> None:
    """Bring other people's checkpoint of a whole SETR into this library's form."""
    size = options.image_size and tuple(options.image_size * 2)[:2]
    layers = options.layers and tuple(options.layers)
    checkpoint = read_tensors(options.input)
    config = config_from_checkpoint(checkpoint, options.heads, layers, size)
    model = make_network(config)
    print(load_weights(model, checkpoint, table_size=size))
    save_checkpoint(model, options.output)
    print(f"{options.output}: {config}")


def _download(options: argparse.Namespace) -> None:
    """Fetch a data set, check it and unpack it under data/, or say where to get it."""
    print(f"{options.dataset} is in {download(options.dataset, options.root)}")
    print(f"Terms of use: {ARCHIVES[options.dataset].terms}")


def _check(options: argparse.Namespace) -> None:
    """Read every file of a data set and report what is missing, damaged or mislabelled."""
    splits = options.split or splits_to_check(options.dataset)
    found = [
        check_dataset(options.dataset, split, options.root, options.workers, not options.quiet)
        for split in splits
    ]
    print(*found, sep="\n\n")
    if options.json:
        write_json(options.json, [report.to_dict() for report in found])
    if bad := sum(len(report.problems) for report in found):
        raise ValueError(f"{bad} problem{'s'[: bad > 1]} in {options.dataset}")


def _recipes(options: argparse.Namespace) -> None:
    """List the recipes, or show every fact of one."""
    if options.name not in list_recipes():
        print(recipe_table(options.name))
        return
    recipe = get_recipe(options.name)
    for fact, value in recipe.to_dict().items():
        print(f"{fact:16} {value}")
    with torch.device("meta"):
        model = make_network(recipe.config)
    print(describe_groups(parameter_groups(model, recipe), recipe))


def _plot(options: argparse.Namespace) -> None:
    """Draw loss, rate and mIoU of several runs."""
    runs = {name: (load_log(name), load_record(name)) for name in options.runs}
    with whole_file(options.out) as temporary:
        show_curves(runs).savefig(temporary, dpi=120, bbox_inches="tight")
    print(options.out)


def _train(options: argparse.Namespace) -> None:
    """Train by a recipe and write the run folder."""
    facts = {fact: getattr(options, fact) for fact in FACTS}
    out = options.out or f"runs/{options.recipe}"
    facts = {k: None if v == "none" else v for k, v in facts.items() if v is not None}
    switches = {switch: getattr(options, switch) for switch in SWITCHES}
    execution = Execution(options.precision, options.device, options.workers, **switches)
    record = train(
        options.recipe, out, options.resume, options.steps, options.root, execution,
        not options.quiet, **facts,
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")):
        return  # one of several processes speaks
    miou = f"{100 * record['last']['miou']:.1f} mIoU" if record["last"] else "no score yet,"
    print(f"{miou} after {record['step']} steps and "
          f"{record['seconds'] / 60:.1f} minutes; the record is {out}/record.json")  # fmt: skip


def _evaluate(options: argparse.Namespace) -> None:
    """Score a checkpoint on a data set: IoU per class, mIoU, accuracy."""
    device, first = join_processes(options.device or default_device())
    model, about, file = _load(options, device)
    trained_on = about.get("recipe", {}).get("dataset")
    if not (options.data or trained_on):
        raise ValueError("the checkpoint does not say what it was trained on; name it with --data")
    dataset = load_dataset(options.data or trained_on, options.split, options.root)
    check_classes(about.get("classes"), model.config.num_classes, dataset)
    folder = options.save_predictions and Path(options.save_predictions)
    if not (dataset.labelled or folder):
        raise ValueError(
            f"the labels of {dataset.name} {options.split} are kept by its server; nothing can be "
            "scored here (--save-predictions FOLDER writes what the server takes)"
        )
    protocol = _protocol(options, about, dataset.name)
    print(f"protocol: {protocol}", file=sys.stderr)
    clock, incomplete = time.monotonic(), None
    each = functools.partial(save_label_ids, folder, dataset) if folder else None
    try:
        counts = evaluate(model, dataset, progress=not options.quiet, protocol=protocol, each=each)
    except IncompleteEvaluation as error:
        counts, incomplete = error.counts, error
    if first:
        recipe = about.get("recipe")
        name = f"{recipe['name']}, step {about['step']}" if recipe else "checkpoint"
        found = _report({name: scores(counts)}, dataset.classes) if dataset.labelled else {}
        if options.json:
            facts = {
                "dataset": dataset.name,
                "split": options.split,
                "images": len(dataset),
                "left_out": incomplete.left_out if incomplete else {},
                "protocol": dataclasses.asdict(protocol),
                "checkpoint": {"file": str(file), "sha256": sha256(file)},
                "seconds": round(time.monotonic() - clock, 1),
                "scores": found,
                "counts": counts.tolist(),
            }
            write_json(options.json, {**facts, **surroundings(torch.device(device))})
    if incomplete:
        raise incomplete


def _predict(options: argparse.Namespace) -> None:
    """Find the class of every pixel of images and lay the classes over them."""
    files = find_images(options.images)
    single = len(options.images) == 1 and files == [Path(options.images[0])]
    if options.mask and not single:
        raise ValueError("--mask names the mask of one image; of more, --out names a folder")
    model, about, _ = _load(options, options.device or default_device())
    protocol = _protocol(options, about, about.get("recipe", {}).get("dataset"))
    classes = about.get("classes") or [f"class {k}" for k in range(model.config.num_classes)]
    palette = about.get("palette") or spread_palette(len(classes))
    out = Path(options.out or ("overlay.png" if single else "predictions"))
    bad: list[str] = []
    for file in tqdm(files, desc="predict", disable=single or options.quiet):
        try:
            pixels = to_pixels(file)
        except ValueError as error:
            bad.append(str(error))
            continue
        label = predict(model, pixels, protocol=protocol)
        overlaid = out if single else out / "overlays" / f"{file.stem}.png"
        save_overlay(overlaid, pixels, label, classes, palette, options.opacity)
        if options.mask or not single:
            mask = Path(options.mask) if single else out / "masks" / f"{file.stem}.png"
            save_mask(mask, label, palette)
        shares = {name: (label == k).mean() for k, name in enumerate(classes)}
        most = sorted(((s, n) for n, s in shares.items() if s >= 0.005), reverse=True)
        tqdm.write(", ".join(f"{n} {100 * s:.0f} %" for s, n in most) + f" -> {overlaid}")
    if bad:
        others = f"; the other {len(files) - len(bad)} are in {out}" if not single else ""
        raise ValueError("; ".join(bad) + others)


def _baselines(options: argparse.Namespace) -> None:
    """Score two guesses that never look: the majority class, and the commonest class per place."""
    train_set, test = (
        load_dataset(options.dataset, s, options.root) for s in ("train", options.split)
    )
    found = {name: scores(counts) for name, counts in prior_scores(train_set, test).items()}
    plain = _report(found, test.classes)
    if options.out:
        about = {"dataset": options.dataset, "split": options.split, "scores": plain}
        write_json(
            Path(options.out) / "record.json", {**about, **surroundings(torch.device("cpu"))}
        )


def _load(options: argparse.Namespace, device: str) -> tuple[Any, dict[str, Any], Path]:
    """The model, what its file says of it, and the file."""
    path = Path(options.checkpoint or SHIPPED)
    if options.checkpoint is None:
        if not SHIPPED.is_file():
            raise FileNotFoundError(
                f"the trained network of the repository is not here ({SHIPPED}); name a "
                "checkpoint, or work in a clone of the repository"
            )
        print(
            f"using {path.relative_to(ROOT)}, the network that comes with the book", file=sys.stderr
        )
    return *load_checkpoint(path, device), path


def _protocol(options: argparse.Namespace, about: dict[str, Any], dataset: str | None) -> Protocol:
    """The one that is named; else the paper's for the data set; else that of the training."""
    recipe = about.get("recipe", {})  # a converted checkpoint has none: images as they are
    if options.protocol:
        found = find_protocol(options.protocol)
    elif dataset and dataset in PROTOCOLS:
        found = PROTOCOLS[dataset]
    else:
        found = Recipe.from_dict(recipe).protocol if recipe else Protocol()
    return found.many() if options.ms else found


def _report(found: dict[str, Scores], classes: tuple[str, ...]) -> dict[str, dict]:
    """Print IoU per class and the means as a table; return them as plain values."""
    print("IoU in %".ljust(15), *(f"{name:>18}" for name in found))
    for k, name in enumerate(classes):
        print(name.ljust(15), *(f"{100 * s.iou[k]:18.1f}" for s in found.values()))
    for name in ("miou", "accuracy", "mean_accuracy"):
        print(name.ljust(15), *(f"{100 * getattr(s, name):18.1f}" for s in found.values()))
    return {name: s.to_dict(classes) for name, s in found.items()}


if __name__ == "__main__":
    sys.exit(main())
