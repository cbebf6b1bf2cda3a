"""Make a network of the repository from a training run: its weights, its score, its record.

    python -m tools.ship RUN data/models/NAME [--weights last]
    python -m tools.measure probes data/models/NAME data/records/NAME_probes

RUN is a run folder or the name of a record. Where it has weights, they become `model.safetensors`
in 8 bits a number; a record without weights speaks of a `model.safetensors` that is there already.
What `record.json` says of the score is measured on that file, not taken over.
"""

import argparse
from pathlib import Path
from typing import Any

from setr_lib import evaluate, load_checkpoint, load_dataset, save_checkpoint
from setr_lib.files import write_json
from setr_lib.training.record import load_record, run_folder

KEPT = ("recipe", "recipe_hash", "seed", "classes", "commit", "hardware", "versions", "seconds")
WORDS = {"last": "the end of the schedule", "best": "the best of several looks at val"}


def ship(run: str, folder: Path, weights: str, root: str) -> dict[str, Any]:
    """Write the network and its record; returns the record."""
    facts, source = load_record(run), run_folder(run) / f"{weights}.safetensors"
    file = folder / "model.safetensors"
    if source.is_file():
        model, about = load_checkpoint(source)
        known = {k: about[k] for k in ("classes", "palette", "recipe", "protocol", "step")}
        save_checkpoint(model, file, bits=8, **known)
    model, about = load_checkpoint(file)
    if about["step"] != facts[weights]["step"]:
        raise SystemExit(
            f"{file} is of step {about['step']}; {weights} of {run} is {facts[weights]['step']}"
        )
    val = load_dataset(facts["recipe"]["dataset"], "val", root)
    found = evaluate(model, val, protocol=model.protocol).to_dict(val.classes)
    best = {"step": about["step"], "split": "val", **found}
    record = {"run": run_folder(run).name, "weights": WORDS[weights], "best": best}
    record |= {name: facts[name] for name in KEPT}
    write_json(folder / "record.json", record)
    return record


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("run", help="a run folder, or the name of a record")
    parser.add_argument("folder", type=Path, help="data/models/NAME")
    parser.add_argument("--weights", choices=[*WORDS], default="last")
    parser.add_argument("--root", default="data", help="the folder with the data sets")
    options = parser.parse_args()
    record = ship(options.run, options.folder, options.weights, options.root)
    size = (options.folder / "model.safetensors").stat().st_size / 1e6
    print(f"{options.folder}: {100 * record['best']['miou']:.2f} mIoU on val, {size:.1f} MB")


if __name__ == "__main__":
    main()
