"""What a run leaves behind and what is seen of it: its record, its log, its bar, its words."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from tqdm.auto import tqdm

from ..costs import peak_tflops, step_gflops
from ..data.augment import most_left_out, too_many
from ..data.check import label_histogram, suspicions
from ..data.files import PairDataset
from ..files import in_field_words, parse_json, read_json, say, whole_file, write_json
from ..weights.config import make_network
from .optim import describe_groups, lr_at
from .recipes import Recipe
from .tracker import Tracker

if TYPE_CHECKING:
    from .loop import Run

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
SHIPPED = PACKAGE / "shipped"  # an installed package brings its data along (pyproject.toml)
DATA = SHIPPED if SHIPPED.is_dir() else ROOT / "data"  # those of a checkout
RECORDS, MODELS = DATA / "records", DATA / "models"  # the committed ones


def load_record(name: str | os.PathLike[str]) -> dict[str, Any]:
    """A record by the name of its folder in `data/records`, or by the path of a run folder.

    Raises:
        FileNotFoundError: if there is none; the message lists the committed ones.
        ValueError: if the file is damaged.
    """
    file = run_folder(name) / "record.json"
    record = read_json(file)
    if not isinstance(record, dict):
        raise ValueError(f"{file} holds no record, but a {type(record).__name__}")
    if not isinstance(record.get("evaluations", []), list):
        raise ValueError(
            f"{file} is damaged: its evaluations are {record['evaluations']!r}, no list"
        )
    if isinstance(record.get("recipe"), dict):
        record["recipe"] = in_field_words(record["recipe"])
    return record


def run_folder(name: str | os.PathLike[str]) -> Path:
    """Where a run lies that is named as in `load_record`."""
    for folder in (RECORDS / name, Path(name)):
        if (folder / "record.json").is_file():
            return folder
    raise FileNotFoundError(
        f"no record {name}; data/records holds {', '.join(list_records()) or 'none'}"
    )


def load_log(name: str | os.PathLike[str], needs: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`; `name` as in `load_record`. Empty if it has none.

    Args:
        needs: numbers that every line must have; a training run's have `step`, `loss` and `lr`.

    Raises:
        ValueError: if one is damaged or lacks such a number; file and line are named.
    """
    file = run_folder(name) / "log.jsonl"
    lines = file.read_bytes().splitlines() if file.is_file() else []
    log = [parse_json(line, f"{file}, line {n},") for n, line in enumerate(lines, 1)]
    for number, line in enumerate(log, 1):
        if not isinstance(line, dict):
            raise ValueError(f"{file}, line {number}, holds a {type(line).__name__}, not facts")
        if missing := set(needs) - {
            k for k, v in in_field_words(line).items() if isinstance(v, int | float)
        }:
            raise ValueError(f"{file}, line {number}, lacks {', '.join(sorted(missing))}")
    return list(map(in_field_words, log))


def list_records() -> list[str]:
    """The names of the committed records."""
    return sorted(path.parent.name for path in RECORDS.glob("*/record.json"))


def write_files(run: "Run") -> None:
    """`log.jsonl` and `record.json`, as far as the run has come."""
    with whole_file(run.out / "log.jsonl") as temporary:
        lines = "".join(json.dumps(line) + "\n" for line in run.log)
        temporary.write_text(lines, encoding="utf-8")
    write_json(run.out / "record.json", run_record(run))


def run_record(run: "Run") -> dict[str, Any]:
    """What was run, on what, and what came out; one confusion matrix, the last."""
    recipe, evaluations = run.recipe, run.evaluations
    plain = [{k: v for k, v in e.items() if k != "counts"} for e in evaluations]
    scored = [e for e in plain if e["miou"] is not None]  # None: no labelled pixel
    facts = {
        "recipe": recipe.to_dict(),
        "recipe_hash": recipe.hash(),
        "seed": recipe.seed,
        "classes": list(run.data.classes),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "trained_parameters": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        "step": run.step,
        "finished": run.step == recipe.total_steps or out_of_patience(run),
        "stopped_early": out_of_patience(run),
        "started": run.started,
        "seconds": round(run.seconds, 1),
        **run.surroundings,
        "sessions": run.sessions,
        "images": run.images,
        "evaluations": plain,
        "best": max(scored, key=lambda e: e["miou"], default=None),
        "last": evaluations[-1] if evaluations else None,
    }
    return json.loads(json.dumps(facts))  # as it will be read: lists, no tuples


def out_of_patience(run: "Run") -> bool:
    """Whether so many evaluations as the recipe waits for have passed without a better mIoU."""
    if not run.recipe.patience:
        return False
    found = [-1.0 if e["miou"] is None else e["miou"] for e in run.evaluations]
    return bool(found) and len(found) - 1 - found.index(max(found)) >= run.recipe.patience


def surroundings(device: torch.device) -> dict[str, Any]:
    """Commit, hardware and versions: what a number has to carry to be believed."""
    return {"commit": git_commit(), "hardware": hardware(device), "versions": versions()}


def git_commit(root: Path = ROOT) -> str:
    """The commit of this library's own checkout, with `+changes` if it is not what is on disk.

    "unknown" where the library lies elsewhere, be it inside another repository: that one's commit
    says nothing about this code.
    """
    if not (root / ".git").exists():
        return "unknown"  # without asking git, whose settings in a folder above could run programs
    try:
        _git(root, "ls-files", "--error-unmatch", f"{PACKAGE.name}/training/record.py")
        # Submodules would bring their own settings along.
        lines = _git(
            root, "status", "--porcelain=v2", "--branch", "--untracked-files=no",
            "--ignore-submodules=all",
        ).splitlines()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    commit = next(line.split()[-1] for line in lines if line.startswith("# branch.oid"))
    return commit + ("+changes" if any(not line.startswith("#") for line in lines) else "")


def _git(root: Path, *words: str) -> str:
    """What git says about this folder alone: not about one above, nor one that a hook works on."""
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    surroundings["GIT_CEILING_DIRECTORIES"] = str(root.parent)
    done = subprocess.run(
        ["git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", *words],
        cwd=root, env=surroundings, capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    return done.stdout


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, threads, and the GPU if one is used."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    found: dict[str, Any] = {
        "device": device.type,
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "numpy", "pillow", "setr-lib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "from the checkout"
    return found


class Progress:
    """Counts images and seconds, and shows them.

    Args:
        done, steps: steps that are behind, and at which the run ends.
        show: whether there is a bar.
        tracker: where the curves are shown; None: nowhere.
        peak: arithmetic that all devices together could do, in 1e9 a second; None: unknown.
    """

    def __init__(
        self, recipe: Recipe, done: int, steps: int, device: torch.device,
        show: bool, tracker: Tracker | None = None, peak: float | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.device, self.peak = recipe, device, peak
        self.gflops = peak and step_gflops(lambda: make_network(recipe.config), recipe.crop)
        self.bar = tqdm(total=steps, initial=done, desc=recipe.name, disable=not show)
        self.tracker = tracker
        self.logged, self.training_seconds = done, 0.0  # since the last line of the log
        self.counted = self.doubted = False  # whether a pixel counted since; if not, whether said
        self.beginning = time.monotonic()

    def step_begins(self) -> None:
        """Only from here to `step_ends` counts for the images per second."""
        self.beginning = time.monotonic()

    def step_ends(self) -> None:
        """The bar moves on by one."""
        self.training_seconds += time.monotonic() - self.beginning
        self.bar.update()

    def doubt(self, step: int) -> str:
        """A sentence if the loss was exactly 0 in every step since the last call, once; or ""."""
        counted, self.counted = self.counted, False
        if counted or self.doubted:
            return ""
        self.doubted = True
        return (
            f"step {step}: the loss is exactly 0, so no pixel counted in the last steps. "
            "Are all labels 255, which is ignored, or is there one class only?"
        )

    def line(self, step: int, loss: float, lr: float, seconds: float) -> dict[str, Any]:
        """The next line of the log, also shown."""
        images = (step - self.logged) * self.recipe.batch
        speed = images / max(self.training_seconds, 1e-9)
        memory = memory_gib(self.device)
        line: dict[str, Any] = {"step": step, "loss": round(loss, 5), "lr": lr}
        line |= {"seconds": round(seconds, 1), "images_per_second": round(speed, 2)}
        line["memory_gib"] = round(memory, 3)
        if self.peak and self.gflops:
            line["peak_share"] = round(speed * self.gflops / self.peak, 4)
        self.logged, self.training_seconds = step, 0.0
        shown = {"loss": f"{loss:.3f}", "lr": f"{lr:.2g}", "img/s": f"{speed:.3g}"}
        shown["GiB"] = f"{memory:.2f}"
        if "peak_share" in line:
            shown["of peak"] = f"{100 * line['peak_share']:.0f}%"
        self.bar.set_postfix(shown, refresh=False)
        self.curves(step, {k: v for k, v in line.items() if k not in ("step", "seconds")})
        return line

    def curves(self, step: int, values: dict[str, float]) -> None:
        """Points for the tracker."""
        if self.tracker:
            self.tracker.log(values, step)

    def close(self) -> None:
        """Leave the bar as it is and the tracker's files complete."""
        self.bar.close()
        if self.tracker:
            self.tracker.close()


@contextmanager
def watched(run: "Run", steps: int) -> Iterator[Progress]:
    """The progress of a run up to `steps`; who stops it is told how to go on."""
    peak = peak_gflops(run.device, run.options.precision, run.team.size)
    seen = Progress(run.recipe, run.step, steps, run.device, run.show, Tracker(run), peak)
    try:
        yield seen
        if out_of_patience(run):
            run.team.say(
                f"stopped at step {run.step} of {steps}: no better mIoU in {run.recipe.patience} "
                "evaluations; best.safetensors holds the best weights"
            )
    except KeyboardInterrupt:
        run.team.say(
            f"Stopped after step {run.step} of {steps}; nothing is lost. The run is in "
            f"{run.out}; go on with {way_on()}"
        )
        raise
    finally:
        seen.close()


def peak_gflops(device: torch.device, precision: str, processes: int) -> float | None:
    """What the GPUs of a run could do, in 1e9 operations a second; None if that is not known."""
    if device.type != "cuda":
        return None
    peak = peak_tflops(torch.cuda.get_device_name(device), precision)
    return peak and peak * 1000 * processes


def memory_gib(device: torch.device) -> float:
    """GPU: the most that tensors held at one time. CPU: what the process holds now. 2**30 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


# ---- what a run says


def check_data(recipe: Recipe, *splits: PairDataset) -> None:
    """There is something to learn from, and to score: labelled pairs, of the network's classes."""
    for data in splits:
        if not len(data):
            raise ValueError(f"{data.name} {data.split} holds no pair of an image and a label")
        if not data.labelled:
            raise ValueError(
                f"{data.name} {data.split} has no labels, so nothing can be learnt or scored "
                "there; choose another split (evaluate_split=..., --evaluate-split)"
            )
    if (channels := recipe.config.in_chans) != 3:
        raise ValueError(
            f"the recipe's network reads {channels} channels; pictures are read as red, green and "
            "blue: set in_chans=3 in its config (a network of more channels takes tensors, "
            "model.loss(images, labels), and no recipe)"
        )
    classes = len(splits[0].classes)
    if recipe.config.num_classes != classes:
        raise ValueError(
            f"the recipe's network has {recipe.config.num_classes} classes, {recipe.dataset} "
            f"{classes}; set num_classes={classes} in its config"
        )


def begin_session(run: "Run", resume: bool) -> None:
    """Note how the run is executed from here on; say what moves how fast, and what is odd."""
    session = {"step": run.step, "processes": run.team.size, **dataclasses.asdict(run.options)}
    session |= {"start": run.start} if run.start else {}
    run.sessions.append({**session, "images": run.images})
    if run.show:
        say(describe_groups(run.optimizer.param_groups, run.recipe))
    if run.team.is_main and resume:
        write_files(run)  # a killed run may have left older ones
    elif run.team.is_main:
        seen = suspicions(*label_histogram(run.data), run.data.classes)
        for sentence in (*run.data.suspicions, *seen):
            say(sentence)


def note_left_out(run: "Run", left_out: dict[str, str]) -> None:
    """Say once for each pair that it is left out of training, and keep that in the record.

    Raises:
        ValueError: if too many are.
    """
    if not left_out:
        return
    known = run.sessions[-1].setdefault("left_out", {})
    for file in left_out.keys() - known.keys():
        say(f"left out of training: {left_out[file]}", sys.stderr)
    known |= left_out
    if len(known) > most_left_out(len(run.data)):
        raise ValueError(too_many(known, len(run.data)))


def diverged(run: "Run", what: str, step: int) -> FloatingPointError:
    """What to look at when loss or weights are no numbers any more, `step` being 0-based."""
    batch = range(step * run.recipe.batch, (step + 1) * run.recipe.batch)
    files = [run.data.file(run.stream.place(number)[1]) for number in batch]
    return FloatingPointError(
        f"{what} in step {step + 1} at the learning rate "
        f"{lr_at(step, run.recipe, run.recipe.lr):.3g}; the batch was {', '.join(files)}. Nothing "
        f"was written since the last saving in {run.out}/state. Check these files, or lower the "
        "learning rate (lr=..., --lr)"
    )


def way_on() -> str:
    """How a stopped run is resumed, in the words of whoever started it."""
    program = Path(sys.argv[0])
    if "experiments" in sys.argv[1:2]:
        return "the same command"
    if program.parent.name == "setr_lib" or program.stem == "setr":
        return "the same command and --resume"
    return "the same call and resume=True"
