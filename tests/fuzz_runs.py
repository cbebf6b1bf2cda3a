"""Malformed run folders, state files and command lines for tests/test_fuzz.py."""

import dataclasses
import functools
import io
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from conftest import small_config
from fuzz_checkpoints import own
from fuzz_inputs import MUTATIONS, Case, Content, chance, command, encoded, mutate, wrong_unless

from setr_lib import get_recipe, load_checkpoint, train
from setr_lib.data.load import Shapes
from setr_lib.training.devices import RunOptions
from setr_lib.training.recipes import Recipe
from setr_lib.training.record import load_log, load_record


def few_scenes() -> None:
    Shapes.lengths = {"train": 12, "val": 3, "test": 3}


@functools.cache
def recipe() -> Recipe:
    """A run of seconds, as in conftest.small_recipe."""
    few_scenes()
    return dataclasses.replace(
        get_recipe("shapes_naive_tiny"), config=small_config(image_size=(32, 32)), crop=(32, 32),
        batch=2, total_steps=8, warmup=2, evaluate_every=8,
    )  # fmt: skip


@functools.cache
def runs() -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a run that stopped after four steps (saved after two), and its last weights."""
    with tempfile.TemporaryDirectory() as top:
        for steps in (2, 4):
            go(top, steps, resume=steps > 2)
        parts = [
            path for path in Path(top).rglob("*") if path.is_file() and "board" not in str(path)
        ]
        files = {f"run/{path.relative_to(top)}": path.read_bytes() for path in parts}
        go(top, 5, resume=True)
        return files, load_checkpoint(Path(top) / "last.safetensors")[0].state_dict()


def go(out: str, steps: int, resume: bool) -> None:
    train(recipe(), out, resume, steps, execution=RunOptions(device="cpu"), progress=False)


def resume() -> None:
    go("run", 5, True)
    found = load_checkpoint("run/last.safetensors")[0].state_dict()
    wrong_unless(
        all(torch.equal(found[k], v) for k, v in runs()[1].items()), "goes on to other weights"
    )


def swaps(value: Any) -> Iterator[tuple[str, Any]]:
    """A dict without each key, and with each value replaced by something else."""
    for key in value:
        yield f"without {key}", {k: v for k, v in value.items() if k != key}
    for n, key in enumerate(value):
        odd = (None, [], {}, "x", -1, [None], 1e400)[n % 7]
        yield f"{key} = {odd!r}", {**value, key: odd}


def run_folders() -> Iterator[Case]:
    files, _ = runs()
    record, log = files["run/record.json"], files["run/log.jsonl"]

    def case(name: str, changed: dict[str, bytes], must: str = "") -> Case:
        read = functools.partial(load_record, "run"), functools.partial(load_log, "run")
        plot = command("plot", "run", "--out", "c.png")
        named = tuple(Path(key).name for key in changed) or ("run",)
        return Case(name, {**files, **changed}, (*read, plot), must, named, ("c.png",))

    yield case("healthy", {}, "work")
    odd = ("", "null", "[]", "3", "{", "{}", "[" * 99_999, "NaN", '{"evaluations": 3}', '"x"')
    for text in odd:
        yield case(f"record {text[:20]}", {"run/record.json": text.encode()})
        yield case(f"log {text[:20]}", {"run/log.jsonl": log + text.encode() + b"\n"})
    for n in range(8):
        how = MUTATIONS[1 + n % 8]
        yield case(f"record {how} {n}", {"run/record.json": mutate(record, how, chance(n))})
        yield case(f"log {how} {n}", {"run/log.jsonl": mutate(log, how, chance(n + 50))})
    for name, value in list(swaps(json.loads(record)))[::4]:
        yield case(f"record {name}", {"run/record.json": json.dumps(value).encode()})


def state_files() -> Iterator[Case]:
    files, _ = runs()
    last, previous = files["run/state/last.pt"], files["run/state/previous.pt"]

    def case(name: str, one: bytes, two: bytes = previous, must: str = "") -> Case:
        changed = {"run/state/last.pt": one, "run/state/previous.pt": two}
        return Case(name, {**files, **changed}, (resume,), must, ("run",), ("run",))

    yield case("healthy", last, must="work")
    for n in range(8):
        how, rng = MUTATIONS[1 + n % 8], chance(n)
        before = mutate(previous, "cut", rng) if n % 2 else previous
        yield case(f"{how} {n}", mutate(last, how, rng), before)
    state = torch.load(io.BytesIO(last), weights_only=True)
    values: list[tuple[str, Any]] = [("a list", [1]), ("a number", 3), *swaps(state)]
    for name, value in values:
        file = io.BytesIO()
        torch.save(value, file)
        yield case(name, file.getvalue())


# ---- command lines

# Each has to be refused, and the message names the flag, or one of the words.
BAD = """
predict | predict "" | predict nothing.png | predict a.png --out a.png | predict a.png --mask a.png
predict a.png --opacity nan | predict a.png --opacity 7 | predict a.png --opacity -1
predict a.png --checkpoint nothing | predict a.png --checkpoint a.png | predict a.png --device tpu9
predict a.png --out b.xyz | predict a.png --protocol nothing | predict a.png --out net/b.png
predict a.png a.png | predict a.png --mask b.jpg | predict empty | predict a.png --device
train nothing | train ../net | train camvid_naive_tiny --root nothing | train RUN --out a.png
train RUN --lr nan | train RUN --lr inf | train RUN --lr 0 | train RUN --lr -1
train RUN --lr x | train RUN --seed -1 | train RUN --seed 1e9 | train RUN --workers -2
train RUN --min-lr -1 | train RUN --weight-decay -1 | train RUN --head-lr-mult -1
train RUN --batch 0 | train RUN --total-steps 0 | train RUN --steps 0 | train RUN --steps 999999
train RUN --optimizer adam | train RUN --pretrained nothing | train RUN --evaluate-split nothing
train RUN --device tpu9 | train RUN --micro-batch 3 | train RUN --precision int4 | evaluate nothing
evaluate a.png | evaluate net --data nothing | evaluate net --data shapes --split nothing
evaluate net --data shapes --protocol nothing | evaluate net --data folder:nothing | summary
summary nothing | summary setr_pup_tiny --all | summary setr_pup_tiny --classes 0
summary setr_pup_tiny --image-size 0 | summary setr_pup_tiny --image-size 99999999999999999999
summary setr_pup_tiny --image-size -5 | summary setr_pup_tiny --image-size 512 512 3
convert nothing b.safetensors | convert a.png b.safetensors | convert net b.safetensors --heads 7
convert net b.safetensors --layers 9 | convert net b.safetensors --layers -1
convert net net/b.safetensors | download nothing | check nothing | check folder:nothing
recipes nothing-like-it | plot nothing | plot net | plot empty | nothing | baselines nothing
baselines camvid --root nothing | baselines shapes --split nothing
"""
RUN = "shapes_naive_tiny --quiet --device cpu --steps 1"


def commands() -> Iterator[Case]:
    few_scenes()
    files: dict[str, Content] = {"a.png": encoded("RGB", "PNG"), "net": own(), "empty": os.mkdir}
    for text in BAD.strip().replace("\n", " | ").split(" | "):
        words = shlex.split(text)
        at = next((n for n, word in enumerate(words) if word.startswith("--")), 1)
        spelt = {word.strip("-").replace("-", by) for word in words[at : at + 1] for by in "-_ "}
        values = {part for word in words[at:] for part in (word, *re.split("[/:]", word))}
        named = tuple((spelt | {part for part in values if len(part) > 2}) - {""}) or (words[0],)
        call = command(*shlex.split(text.replace("RUN", RUN)))
        yield Case(text, files, (call,), "fail", named)


FAMILIES = {"runs": run_folders, "states": state_files, "commands": commands}
