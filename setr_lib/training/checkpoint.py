"""A run on disk: its state, whole or not at all and always one more before it, and its weights."""

# state/last.pt is the newest, state/previous.pt the one before, state/lock is held by who writes.

import os
import time
import zipfile
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from ..files import clear_leftovers, in_field_words, read_json, reason, whole_file
from ..weights.load import load_pretrained, save_checkpoint
from .devices import Processes
from .optim import load_optimizer
from .recipes import Recipe
from .record import diverged, write_files

if TYPE_CHECKING:
    from .loop import Run

SAVE_SECONDS = 60.0  # between savings of state/: what a killed run loses at most. Longer where
SAVE_SHARE = 0.05  # a saving would take more than this share of the time
WAIT = 2.0  # seconds for the lock: workers of a process that was killed may hold it for an instant
CONTENT: dict[str, Any] = {  # of a state; older ones have no classes and no images
    "recipe": (dict, str), "step": int, "seconds": (int, float), "started": str, "sessions": list,
    "evaluations": list, "log": list, "model": dict, "optimizer": dict,
    "scaler": (dict, type(None)), "rng": list,
}  # fmt: skip
KEPT = ("step", "seconds", "started", "sessions", "evaluations", "log")  # of a run, as they are


def open_run(run: "Run", resume: bool, steps: int) -> None:
    """Begin a new run in its folder, or find the place where an old one stopped.

    Raises:
        ValueError: if there are fewer steps in the schedule, or more behind the run.
        FileExistsError: if the folder holds a run, or another is writing there.
        FileNotFoundError: if there is nothing to resume from.
    """
    if not 1 <= steps <= run.recipe.total_steps:
        raise ValueError(
            f"steps is {steps}; {run.recipe.name} has {run.recipe.total_steps} in all "
            "(another number: total_steps=N, on the command line --total-steps N)"
        )
    state, team = run.out / "state", run.team
    if resume and not has_state(state):
        raise FileNotFoundError(f"there is no {state}/last.pt to resume from; start without resume")
    run.lock = claim_together(state, team)
    if resume:
        restore(run)
        if run.step > steps:
            raise ValueError(
                f"steps is {steps}; {run.out} has {run.step} behind it already: choose more"
            )
    elif (run.out / "record.json").exists() or has_state(state):
        raise FileExistsError(
            f"{run.out} holds a run already; go on with resume=True (--resume), or choose "
            "another folder"
        )
    elif run.recipe.start != "random":
        from .starts import begin  # only these runs need it

        run.start = begin(run)
    elif run.recipe.pretrained:
        for turn in (True, False):  # the main process fetches, the others find
            if team.is_main == turn:
                team.say(str(load_pretrained(run.model, run.recipe.pretrained)))
            team.wait()
    if team.is_main:
        clear_run(run.out)


def save(run: "Run") -> None:
    """Write the state, then what is made from it; each file whole or not at all.

    Raises:
        FloatingPointError: if a step whose own loss was a number has left weights that are none:
            nobody could load them.
        OSError: if a file cannot be written.
    """
    began = time.monotonic()
    run.tick()
    if any(run.team.total(not is_finite(run.model))):
        raise diverged(run, "weights are no numbers any more", run.step - 1)
    state = state_of(run)
    if run.team.is_main:
        save_state(run.out / "state", state)
        write_files(run)
    run.team.wait()
    run.saved = time.monotonic()
    run.saving_seconds = run.saved - began


def is_due(run: "Run") -> bool:
    """Whether the main process wants to save; the others follow it."""
    wait = max(SAVE_SECONDS, run.saving_seconds / SAVE_SHARE)
    return run.team.is_main and time.monotonic() - run.saved > wait


def save_weights(run: "Run", name: str) -> None:
    """`best.safetensors` or `last.safetensors`: weights that know what they were made by."""
    with run.average.shown():
        save_checkpoint(
            run.model, run.out / f"{name}.safetensors", classes=run.data.classes,
            palette=run.data.palette, recipe=run.recipe.to_dict(),
            protocol=asdict(run.recipe.protocol), step=run.step,
        )  # fmt: skip


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


def claim_together(folder: Path, team: Processes) -> FileLock | None:
    """`claim` by the main process; all hear if it is not possible. None in the others."""
    lock, refusal = None, None
    if team.is_main:
        try:
            lock = claim(folder)
        except OSError as error:
            refusal = error
    for refused in team.gather(refusal):
        if refused:
            raise refused
    if lock and not lock.is_locked:
        team.say(f"{folder.parent} cannot be locked there; take care that no other run uses it")
    return lock


def state_of(run: "Run") -> dict[str, Any]:
    """All that the rest of a run depends on; every process has to call this."""
    return {
        "recipe": run.recipe.to_dict(),
        "classes": list(run.data.classes),
        "images": run.images,
        **{name: getattr(run, name) for name in KEPT},
        "model": run.model.state_dict(),
        "average": run.average.values,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "rng": run.team.gather(rng_state(run.device)),
    }


def restore(run: "Run") -> None:
    """Bring a run to where its newest whole state is.

    Raises:
        ValueError: if no state is whole, or it is one of another recipe, network or data set.
    """
    folder = run.out / "state"
    state, notice = load_state(folder)
    if isinstance(state["recipe"], str):  # an older state: a hash, its facts in the record
        record = read_json(run.out / "record.json")
        state |= {name: record.get(name) for name in ("recipe", "classes", "images")}
    compare(run, state)
    run.team.wait()
    run.team.say(notice)
    if notice and run.team.is_main:
        retire_damaged(folder)
    try:
        for name in KEPT:
            setattr(run, name, state[name])
        run.model.load_state_dict(state["model"])
        run.average.load(state.get("average", []))
        load_optimizer(run.optimizer, state["optimizer"])
        if state["scaler"]:
            run.scaler.load_state_dict(state["scaler"])
        if run.team.rank < len(state["rng"]):
            set_rng_state(state["rng"][run.team.rank], run.device)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} does not hold the state of this network ({reason(error)}); "
            "start again in another folder"
        ) from error


def compare(run: "Run", state: dict[str, Any]) -> None:
    """Refuse to go on by other facts or with other classes; say it if the images changed."""
    wrong = Recipe.from_dict(state["recipe"]).differences(run.recipe)
    pairs = zip_longest(state.get("classes") or (), run.data.classes)
    changed = [(k, *pair) for k, pair in enumerate(pairs) if pair[0] != pair[1]]
    wrong += [f"class {k} is {old!r} there and {new!r} here" for k, old, new in changed]
    if wrong:
        raise ValueError(
            f"{run.out} was trained by other facts: {'; '.join(wrong)}. Resume with those of "
            "before, or start in another folder"
        )
    if (images := state.get("images")) != run.images:
        run.team.say(
            f"{run.recipe.dataset} has changed: {images} images there, {run.images} here; "
            "from here on the run sees other crops than it would have seen"
        )


def is_finite(model: nn.Module) -> bool:
    """Whether all weights are numbers; infinite ones and NaN make a file that nobody can load."""
    floats = [t for t in model.state_dict().values() if t.is_floating_point()]
    return bool(torch.stack([t.isfinite().all() for t in floats]).all())


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's random numbers in this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(*_index(device))
    return states


def set_rng_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """The way back; a state from another kind of device is passed over."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type != "cpu" and device.type in states:
        module = torch.get_device_module(device)
        module.set_rng_state(states[device.type].cpu(), *_index(device))


def _index(device: torch.device) -> list[torch.device]:
    """Which device's random numbers are meant: Apple has one, and its functions take none."""
    return [] if device.type == "mps" else [device]


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
