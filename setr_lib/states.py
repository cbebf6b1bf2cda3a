"""The state of a run on disk: whole or not at all, and always one more before it."""

# state/last.pt is the newest, state/previous.pt the one before.

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from .files import clear_leftovers, whole_file


def has_state(folder: Path) -> bool:
    """Whether a run was saved here."""
    return any((folder / name).exists() for name in ("last.pt", "previous.pt"))


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
                f"{last} could not be written ({str(error).splitlines()[0]}); what was saved "
                "before is untouched. Make room on the disk, then go on with resume (--resume)"
            ) from error
        if last.exists():
            os.replace(last, folder / "previous.pt")


def load_state(folder: Path) -> tuple[dict[str, Any], str]:
    """The newest state that can be read, and what has to be said about it ("" if nothing).

    A damaged `last.pt` is kept as `damaged.pt`, so that it never takes the place of the good one.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if all there are are damaged.
    """
    last, previous = folder / "last.pt", folder / "previous.pt"
    if not has_state(folder):
        raise FileNotFoundError(f"there is no {last} to resume from; start without resume")
    wrong: list[str] = []
    for file in (last, previous):
        if not file.exists():
            wrong.append(f"{file} is missing")
            continue
        try:
            return read_state(file), "; ".join([*wrong, f"going on from {file}"] if wrong else [])
        except Exception as error:
            wrong.append(f"{file} is damaged ({str(error).splitlines()[0]})")
    raise ValueError(f"{'; '.join(wrong)}; start again in another folder")


def read_state(file: Path) -> dict[str, Any]:
    """A state from a file whose every byte is checked; no code in it is ever run."""
    with zipfile.ZipFile(file) as archive:  # torch.load does not look at the checksums
        broken = archive.testzip()
    if broken:
        raise ValueError(f"the checksum of {broken} is wrong")
    return torch.load(file, map_location="cpu", weights_only=True)


def retire_damaged(folder: Path) -> None:
    """After a fall back: keep the damaged file out of the way of the next saving."""
    last = folder / "last.pt"
    if last.exists():
        os.replace(last, folder / "damaged.pt")


def clear_run(out: Path) -> None:
    """Delete the half-written files of a process that was killed."""
    for name in ("record.json", "log.jsonl", "best.safetensors", "last.safetensors"):
        clear_leftovers(out / name)
    clear_leftovers(out / "state" / "last.pt")
