"""The command line: words to calls, nothing else. `setr --help`."""

import argparse
import dataclasses
import functools
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .cli.flags import given, size_of
from .cli.huge import HUGE, in_strips, label_strips, save_strips
from .cli.network import load_network, naming_file, what_is_lost
from .cli.outputs import (
    check_destinations,
    find_images,
    font_file,
    label_writer,
    plan_outputs,
    save_mask,
    save_overlay,
    score_table,
)
from .cli.parser import make_parser
from .costs import cost_table, costs
from .data.check import check_dataset, splits_to_check
from .data.classes import spread_palette
from .data.download import ARCHIVES, download
from .data.files import IMAGE_SUFFIXES, PairDataset
from .data.labels import convert_labels
from .data.load import check_classes, folder_path, load_dataset
from .data.protocols import default_protocol, find_protocol
from .evaluation import Scores, evaluate, prior_scores
from .files import few, sha256, whole_file, write_json
from .images import TestProtocol, to_pixels
from .inference import predict
from .plots import show_curves
from .training.devices import RunOptions, default_device, join_processes, usable_device
from .training.estimate import estimate
from .training.experiments import answers, pack, process_seconds, repeat, run_suite, suite_table
from .training.loop import train
from .training.optim import describe_groups, parameter_groups
from .training.recipes import Recipe, get_recipe, list_recipes, recipe_table
from .training.record import load_log, load_record, surroundings
from .weights.config import config_from_checkpoint, make_network
from .weights.export import SUFFIXES, export_model
from .weights.load import load_weights, save_checkpoint
from .weights.tensors import read_tensors
from .zoo import create_model, list_models


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 2 a mistake that is explained, 130 interrupted."""
    if hasattr(sys.stdout, "reconfigure"):  # what a console lacks the letters for is spelled out
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except (ValueError, OSError, FloatingPointError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 0
        print(f"setr_lib {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _nobody_reads() -> bool:
    """Whether what reads our output, as `head` in a pipe, has enough; then we are silent."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _parser() -> argparse.ArgumentParser:
    return make_parser([
        _summary, _convert, _export, _download, _check, _convert_labels, _recipes, _train,
        _experiments, _plot, _evaluate, _predict, _baselines,
    ])  # fmt: skip


def _summary(options: argparse.Namespace) -> None:
    """What a model costs: parameters by part, arithmetic, memory, tokens."""
    if bool(options.model) == options.all:
        raise ValueError("name one model, or say --all")
    size = size_of(options.image_size)
    if options.all:
        print("model               params M    GFLOPs   infer GiB   train GiB    tokens")
    for name in list_models() if options.all else [options.model]:
        found = costs(functools.partial(create_model, name, options.classes, size), size)
        count = sum(found.parameters.values())
        if options.all:
            numbers = (count / 1e6, found.gflops, found.inference_gib, found.training_gib)
            print(name.ljust(17), *(f"{n:11.2f}" for n in numbers), f"{math.prod(found.tokens):9}")
            continue
        print(f"{name}, {options.classes} classes, one image of {size[0]}x{size[1]}, float32")
        print(cost_table(found))


def _convert(options: argparse.Namespace) -> None:
    """Bring other people's checkpoint of a whole SETR into this library's form."""
    check_destinations([options.output], [options.input], [".safetensors"])
    size = options.image_size and size_of(options.image_size)
    layers = options.layers and tuple(options.layers)
    checkpoint = read_tensors(options.input)
    config = config_from_checkpoint(checkpoint, options.heads, layers, size)
    model = make_network(config)
    print(load_weights(model, checkpoint, table_size=size))
    save_checkpoint(model, options.output)
    print(f"{options.output}: {config}")


def _export(options: argparse.Namespace) -> None:
    """Write a network as one file for other programs, ONNX or torch.export, and compare it."""
    model, about, file = load_network(options.checkpoint, "cpu")
    check_destinations([options.output], [file], SUFFIXES)
    print(export_model(model, options.output, about, options.int8))
    if options.int8:
        name = options.data or about.get("recipe", about).get("dataset")
        print(what_is_lost(model, options.output, name, options.root))


def _download(options: argparse.Namespace) -> None:
    """Fetch a data set, check it and unpack it under data/, or say where to get it."""
    print(f"{options.dataset} is in {download(options.dataset, root=options.root)}")
    print(f"Terms of use: {ARCHIVES[options.dataset].terms}")


def _check(options: argparse.Namespace) -> None:
    """Read every file of a data set and report what is missing, damaged or mislabelled."""
    check_destinations([options.json] if options.json else [])
    show = not options.quiet
    splits = options.split or splits_to_check(options.dataset)
    found = [
        check_dataset(
            options.dataset, split, workers=options.workers, progress=show, root=options.root
        )
        for split in splits
    ]
    if options.json:
        write_json(options.json, [report.to_dict() for report in found])
    print(*found, sep="\n\n")
    if bad := sum(len(report.problems) for report in found):
        raise ValueError(f"{bad} problem{'s'[: bad > 1]} in {options.dataset}")


def _convert_labels(options: argparse.Namespace) -> None:
    """Write a copy of a data set folder whose labels are class numbers."""
    source = folder_path(str(options.source))
    form, classes, count = convert_labels(source, folder_path(str(options.target)), options.map)
    print(f"{source}: {form.words}")
    print(f"{options.target}: {count} labels of {len(classes)} classes, {few(list(classes), 12)}")


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
    with suppress(ValueError):  # for networks like those that were measured
        print(estimate(recipe), estimate(recipe, gpus=8), sep="\n")


def _plot(options: argparse.Namespace) -> None:
    """Draw loss, learning rate and mIoU of several runs."""
    check_destinations([options.out])
    runs = {
        name: (load_log(name, ("step", "loss", "lr")), load_record(name)) for name in options.runs
    }
    with whole_file(options.out) as temporary:
        show_curves(runs).savefig(temporary, dpi=120, bbox_inches="tight")
    print(options.out)


def _train(options: argparse.Namespace) -> None:
    """Train by a recipe and write the run folder."""
    facts = {**given(options, Recipe), **given(options, RunOptions)}
    data = facts.pop("dataset", None)
    if options.recipe == "own" and options.out is None and data:
        options.out = Path("runs", Path(data.removeprefix("folder:")).name)
    out = options.out or Path("runs", options.recipe)
    record = train(
        options.recipe, out, options.resume, options.steps, options.root,
        progress=not options.quiet, data=data, **facts,
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")):
        return  # one of several processes speaks
    last = (record["last"] or {}).get("miou")
    miou = "no score" if last is None else f"{100 * last:.1f} mIoU"
    print(f"{miou} after {record['step']} steps and "
          f"{record['seconds'] / 60:.1f} minutes; the record is {out}/record.json")  # fmt: skip
    print(f"next: setr evaluate {out}; setr predict PHOTO --checkpoint {out}")


def _experiments(options: argparse.Namespace) -> None:
    """Run the rows of a suite that have no record yet, most valuable first."""
    root, show = options.root, not options.quiet
    if options.repeat:
        if wrong := repeat(options.repeat, options.out, root, show):
            raise ValueError(f"{options.repeat} was not repeated: {'; '.join(wrong)}")
        print(f"{options.repeat}: the same scores to the last digit")
    elif options.results:
        print(answers(options.suite, options.out))
    elif options.list:
        print(suite_table(options.suite, options.out, root, options.only))
    else:
        seconds = options.seconds and options.seconds - process_seconds()
        done = run_suite(
            options.suite, options.out, seconds, root, options.only, options.jobs, show
        )
        print(f"{len(done)} rows finished{': ' + few(done) if done else ''}; their records are in "
              f"{options.out}")  # fmt: skip
        if options.pack:
            print(*pack(options.suite, options.out, options.pack), sep="\n")


def _evaluate(options: argparse.Namespace) -> None:
    """Score a checkpoint on a data set: IoU per class, mIoU, accuracy."""
    device, first = join_processes(usable_device(options.device or default_device()))
    model, about, file = load_network(options.checkpoint, device, first)
    if options.json:
        check_destinations([options.json], [file, file.with_name("record.json")])
    name = options.data or about.get("recipe", about).get("dataset")
    if not name:
        raise ValueError("the checkpoint does not say what it was trained on; name it with --data")
    dataset = load_dataset(name, options.split, root=options.root)
    check_classes(about.get("classes"), model.config.num_classes, dataset)
    if not (dataset.labelled or options.save_predictions):
        raise ValueError(
            f"the labels of {dataset.name} {options.split} are kept by its server; nothing can be "
            "scored here (--save-predictions FOLDER writes what the server takes)"
        )
    each = options.save_predictions and label_writer(options.save_predictions, dataset)
    protocol = _protocol(options, model, dataset.name)
    if first:
        print(f"protocol: {protocol}", file=sys.stderr)
    clock = time.monotonic()
    with naming_file(file):
        found = evaluate(
            model, dataset, protocol=protocol, precision=options.precision,
            progress=not options.quiet, each=each,
        )  # fmt: skip
    if first:
        facts = {
            "dataset": dataset.name, "split": options.split, "images": len(dataset),
            "protocol": dataclasses.asdict(protocol), "precision": options.precision,
            "checkpoint": {"file": str(file), "sha256": sha256(file)},
            "seconds": round(time.monotonic() - clock, 1),
            **surroundings(torch.device(device)),
        }  # fmt: skip
        _report(found, dataset, about, options.json, facts)
    if found.left_out:
        wrong = list(found.left_out.values())
        more = f" ({len(wrong) - 1} more)" if wrong[1:] else ""
        raise ValueError(f"{len(wrong)} of {len(dataset)} pairs are not counted: {wrong[0]}{more}")


def _report(
    found: Scores, dataset: PairDataset, about: dict[str, Any], out: Path | None, facts: Any
) -> None:
    """Write scores, counts and how they came about to a file, then print the table."""
    recipe = about.get("recipe")
    name = f"{recipe['name']}, step {about['step']}" if recipe else "checkpoint"
    shown = {name: found} if dataset.labelled else {}
    if out:
        plain = {name: read.to_dict(dataset.classes) for name, read in shown.items()}
        read_off = {"scores": plain, "counts": found.counts.tolist(), "left_out": found.left_out}
        write_json(out, {**facts, **read_off})
    if shown:
        print(score_table(shown, dataset.classes))


def _predict(options: argparse.Namespace) -> None:
    """Find the class of every pixel of images and lay the classes over them."""
    files, passed_over = find_images(options.images)
    if passed_over:
        names = few([file.name for file in passed_over])
        print(f"passed over: {names} (read are {', '.join(IMAGE_SUFFIXES)})", file=sys.stderr)
    single = files == options.images and len(files) == 1
    places = plan_outputs(files, single, options.out, options.mask)
    device = usable_device(options.device or default_device())
    model, about, network = load_network(options.checkpoint, device)
    protocol = _protocol(options, model)
    classes = about.get("classes") or [f"class {k}" for k in range(model.config.num_classes)]
    palette = about.get("palette") or spread_palette(len(classes))
    if font_file("".join(classes)) is None:
        numbers = ", ".join(f"{k} {name}" for k, name in enumerate(classes))
        print(f"no font here has the letters of the classes; the legend has their numbers: "
              f"{numbers}", file=sys.stderr)  # fmt: skip
    bad: list[str] = []
    bar = tqdm(files, desc="predict", disable=single or options.quiet)
    for file, (overlaid, mask) in zip(bar, places, strict=True):
        try:
            pixels = to_pixels(file)
        except ValueError as error:
            bad.append(str(error))
            continue
        with naming_file(network):
            counts = _label(model, pixels, protocol, options, (overlaid, mask), classes, palette)
        most = sorted(zip(counts / counts.sum(), classes), reverse=True)
        shares = ", ".join(f"{n} {100 * s:.0f} %" for s, n in most if s >= 0.005)
        tqdm.write(f"{shares} -> {overlaid}")
    if bad:
        out = options.out or "predictions"
        others = f"; the other {len(files) - len(bad)} are in {out}" if not single else ""
        raise ValueError("; ".join(bad) + others)


def _label(
    model: Any, pixels: Any, protocol: TestProtocol, options: argparse.Namespace,
    files: tuple[Path, Path | None], classes: list[str], palette: Any,
) -> Any:  # fmt: skip
    """Write overlay and mask of an image; how many pixels each class has."""
    size, (overlaid, mask) = pixels.shape[:2], files
    if math.prod(size) > HUGE and in_strips(size, protocol):
        strips = label_strips(model, pixels, protocol, options.precision)
        return save_strips(overlaid, mask, pixels, strips, palette, options.opacity)[: len(classes)]
    label = predict(model, pixels, protocol=protocol, precision=options.precision)
    save_overlay(overlaid, pixels, label, classes, palette, options.opacity)
    if mask:
        save_mask(mask, label, palette)
    return np.bincount(label.ravel(), minlength=len(classes))


def _baselines(options: argparse.Namespace) -> None:
    """Score two guesses that never look: the majority class, and the commonest class per place."""
    train_set, test = (
        load_dataset(options.dataset, s, root=options.root) for s in ("train", options.split)
    )
    found = prior_scores(train_set, test)
    if options.out:
        plain = {name: guess.to_dict(test.classes) for name, guess in found.items()}
        about = {"dataset": options.dataset, "split": options.split, "scores": plain}
        write_json(options.out / "record.json", {**about, **surroundings(torch.device("cpu"))})
    print(score_table(found, test.classes))


def _protocol(options: argparse.Namespace, model: Any, dataset: str = "") -> TestProtocol:
    """The one that is named, else the one that Python takes; with --tta in all its views."""
    name = options.protocol
    found = find_protocol(name) if name else default_protocol(model, dataset)
    if options.stride and not options.window:
        raise ValueError("--stride is that of --window; name both")
    if options.window:
        window = size_of(options.window, "--window")
        thirds = [max(1, side * 2 // 3) for side in window]
        stride = size_of(options.stride or thirds, "--stride")
        found = TestProtocol(window, stride)
    if options.blend:
        found = dataclasses.replace(found, blend=True)
    return found.multi_scale() if options.tta else found


if __name__ == "__main__":
    sys.exit(main())
