"""What a run leaves behind: enough to know what was run, on what, and what came out."""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .files import read_json

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "data" / "records"  # the committed ones


def load_record(name: str | os.PathLike[str]) -> dict[str, Any]:
    """A record by the name of its folder in `data/records`, or by the path of a run folder.

    Raises:
        FileNotFoundError: if there is none; the message lists the committed ones.
    """
    return read_json(run_folder(name) / "record.json")


def run_folder(name: str | os.PathLike[str]) -> Path:
    """Where a run lies that is named as in `load_record`."""
    for folder in (RECORDS / name, Path(name)):
        if (folder / "record.json").is_file():
            return folder
    raise FileNotFoundError(
        f"no record {name}; data/records holds {', '.join(list_records()) or 'none'}"
    )


def load_log(name: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`; `name` as in `load_record`. Empty if it has none."""
    file = run_folder(name) / "log.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines]


def list_records() -> list[str]:
    """The names of the committed records."""
    return sorted(path.parent.name for path in RECORDS.glob("*/record.json"))


def run_record(run: Any) -> dict[str, Any]:
    """What was run, on what, and what came out; one confusion matrix, the last.

    Args:
        run: a `training.Run`.
    """
    recipe, evaluations = run.recipe, run.evaluations
    plain = [{k: v for k, v in e.items() if k != "counts"} for e in evaluations]
    return {
        "recipe": recipe.to_dict(),
        "recipe_hash": recipe.hash(),
        "seed": recipe.seed,
        "classes": list(run.data.classes),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "step": run.step,
        "finished": run.step == recipe.schedule,
        "started": run.started,
        "seconds": round(run.seconds, 1),
        **run.surroundings,
        "sessions": run.sessions,
        "images": {"train": len(run.data), recipe.evaluate_split: len(run.validation)},
        "evaluations": plain,
        "best": max(plain, key=lambda e: e["miou"], default=None),
        "last": evaluations[-1] if evaluations else None,
    }


def surroundings(device: torch.device) -> dict[str, Any]:
    """Commit, hardware and versions: what a number has to carry to be believed."""
    return {"commit": git_commit(), "hardware": hardware(device), "versions": versions()}


def git_commit() -> str:
    """The commit of this checkout, with `+changes` if it is not what is on disk."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, threads, and the GPU if one is used."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
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
    for package in ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "setr-lib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "from the checkout"
    return found
