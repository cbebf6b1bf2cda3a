"""The state of a run on disk: whole or not at all, and always one more before it."""

# state/last.pt is the newest, state/previous.pt the one before, state/lock is held by who writes.

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..files import clear_leftovers, in_field_words, reason, whole_file

WAIT = 2.0  # seconds for the lock: workers of a process that was killed may hold it for an instant
CONTENT: dict[str, Any] = {  # of a state; older ones have no classes and no images
    "recipe": (dict, str), "step": int, "seconds": (int, float), "started": str, "sessions": list,
    "evaluations": list, "log": list, "model": dict, "optimizer": dict,
    "scaler": (dict, type(None)), "rng": list,
}  # fmt: skip


def has_state(folder: Path) -> bool:
    """Whether a run was saved here."""
    return any((folder / name).exists() for name in ("last.pt", "previous.pt"))


def claim(folder: Path) -> FileLock:
    """Keep other runs out of a run folder's `state/` until the lock is released.

    The operating system holds the lock: it ends with this process, however that ends. Where the
    file system has no locks, the one that is returned is not locked.

    Raises:
        FileExistsError: if another run holds it.
        OSError: if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        cure = f"{error.strerror}: choose another place for the run (out_dir=..., --out)"
        raise OSError(error.errno, cure, str(folder.parent)) from error
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=WAIT)
    except Timeout as error:
        raise FileExistsError(
            f"another run is writing into {folder.parent}; choose another folder (out_dir=..., "
            "--out), or wait for that run's end"
        ) from error
    except OSError:
        pass
    return lock


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `last.pt`; what was `last.pt` becomes `previous.pt`.

    At any instant one of the two is whole. If the disk is full, both stay what they were.

    Raises:
        OSError: if it cannot be written.
    """
    last = folder / "last.pt"
    with whole_file(last) as temporary:
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
            raise OSError(
                f"{last} could not be written ({reason(error)}); what was saved "
                "before is untouched. Make room on the disk, then go on with resume (--resume)"
            ) from error
        if last.exists():
            os.replace(last, folder / "previous.pt")


def load_state(folder: Path) -> tuple[dict[str, Any], str]:
    """The newest state that can be read, and what has to be said about it ("" if nothing).

    A damaged `last.pt` is kept as `damaged.pt`, so that it never takes the place of the good one.

    Raises:
        ValueError: if there is none, or all there are are damaged.
    """
    last, previous = folder / "last.pt", folder / "previous.pt"
    wrong: list[str] = []
    for file in (last, previous):
        if not file.exists():
            wrong.append(f"{file} is missing")
            continue
        try:
            return read_state(file), "; ".join([*wrong, f"going on from {file}"] if wrong else [])
        except Exception as error:
            wrong.append(f"{file} is damaged ({reason(error)})")
    raise ValueError(f"{'; '.join(wrong)}; start again in another folder")


def read_state(file: Path) -> dict[str, Any]:
    """A state from a file whose every byte is checked; no code in it is ever run.

    Raises:
        ValueError: if a byte is wrong, or something is missing without which a resumed run would be
            another one.
    """
    with zipfile.ZipFile(file) as archive:  # torch.load does not look at the checksums
        broken = archive.testzip()
    if broken:
        raise ValueError(f"the checksum of {broken} is wrong")
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}, not the state of a run")
    state = in_field_words(state)
    wrong = [name for name, kind in CONTENT.items() if not isinstance(state.get(name), kind)]
    if wrong:
        raise ValueError(f"as the state of a run it lacks {', '.join(wrong)}")
    lines = [*state["sessions"], *state["evaluations"], *state["log"]]
    if not all(isinstance(line, dict) for line in lines):
        raise ValueError("its sessions, evaluations and log are not all facts")
    if not all({"step", "miou"} <= found.keys() for found in state["evaluations"]):
        raise ValueError("its evaluations lack steps or scores")
    chances = [chance.get("cpu") if isinstance(chance, dict) else None for chance in state["rng"]]
    if not chances or not all(isinstance(chance, Tensor) for chance in chances):
        raise ValueError("it lacks the random numbers of a process")
    return state


def retire_damaged(folder: Path) -> None:
    """After a fall back: keep the damaged file out of the way of the next saving."""
    last = folder / "last.pt"
    if last.exists():
        os.replace(last, folder / "damaged.pt")


def clear_run(out: Path) -> None:
    """Delete the half-written files of a process that was killed; only for who holds the lock."""
    for name in ("record.json", "log.jsonl", "best.safetensors", "last.safetensors"):
        clear_leftovers(out / name)
    clear_leftovers(out / "state" / "last.pt")
