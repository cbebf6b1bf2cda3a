"""What a run leaves behind: enough to know what was run, on what, and what came out."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .files import parse_json, read_json

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
RECORDS = ROOT / "data" / "records"  # the committed ones


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
    return record


def run_folder(name: str | os.PathLike[str]) -> Path:
    """Where a run lies that is named as in `load_record`."""
    for folder in (RECORDS / name, Path(name)):
        if (folder / "record.json").is_file():
            return folder
    raise FileNotFoundError(
        f"no record {name}; data/records holds {', '.join(list_records()) or 'none'}"
    )


def load_log(name: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`; `name` as in `load_record`. Empty if it has none.

    Raises:
        ValueError: if one is damaged; file and line are named.
    """
    file = run_folder(name) / "log.jsonl"
    lines = file.read_bytes().splitlines() if file.is_file() else []
    log = [parse_json(line, f"{file}, line {n},") for n, line in enumerate(lines, 1)]
    for number, line in enumerate(log, 1):
        if not isinstance(line, dict):
            raise ValueError(f"{file}, line {number}, holds a {type(line).__name__}, not facts")
    return log


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
    scored = [e for e in plain if e["miou"] is not None]  # None: no labelled pixel
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
        "images": run.images,
        "evaluations": plain,
        "best": max(scored, key=lambda e: e["miou"], default=None),
        "last": evaluations[-1] if evaluations else None,
    }


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
        _git(root, "ls-files", "--error-unmatch", f"{PACKAGE.name}/records.py")
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
    for package in ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "setr-lib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "from the checkout"
    return found
