"""The networks of the repository: each scores what its record says, and is small enough to send."""

import pytest

from setr_lib import evaluate, load_checkpoint, load_dataset, load_record, train
from setr_lib.attention import load_probes
from setr_lib.cli.network import SHIPPED
from setr_lib.files import write_json
from setr_lib.model import DECODERS
from setr_lib.training.record import MODELS, ROOT, in_field_words
from tools.ship import ship

NETWORKS = sorted(path.parent for path in MODELS.glob("*/model.safetensors"))


@pytest.mark.parametrize("folder", NETWORKS, ids=lambda folder: folder.name)
def test_a_shipped_network_says_where_it_comes_from(folder):
    model, about = load_checkpoint(folder / "model.safetensors")
    record = load_record(folder)
    assert in_field_words(about["recipe"]) == record["recipe"]
    assert about["step"] == record["best"]["step"]
    assert about["classes"] == record["classes"] == [*record["best"]["iou"]]
    run = load_record(record["run"])  # of the training, committed too
    assert run["recipe_hash"] == record["recipe_hash"] and run["commit"] == record["commit"]
    assert len(load_probes(folder / "probes.safetensors").weight) == model.config.depth
    assert (folder / "model.safetensors").stat().st_size < 12e6


def test_all_networks_together_are_small_enough_to_clone():
    files = [file for folder in NETWORKS for file in folder.iterdir()]
    assert [folder.name for folder in NETWORKS] == [f"camvid_{d}_tiny" for d in sorted(DECODERS)]
    assert sum(file.stat().st_size for file in files) < 40e6


def test_predict_takes_the_best_of_them():
    scores = {folder: load_record(folder)["best"]["miou"] for folder in NETWORKS}
    assert max(scores, key=scores.get) == SHIPPED.parent


def test_a_run_becomes_a_network_that_says_its_own_score(small_recipe, tmp_path):
    train(small_recipe, tmp_path / "run", progress=False)
    record = ship(str(tmp_path / "run"), tmp_path / "net", "last", "data")
    model, about = load_checkpoint(tmp_path / "net" / "model.safetensors")
    found = evaluate(model, load_dataset("shapes", "val"), protocol=model.protocol)
    assert load_record(tmp_path / "net")["best"] == record["best"]
    assert record["best"]["miou"] == found.miou and record["best"]["step"] == about["step"]
    (tmp_path / "run" / "last.safetensors").unlink()
    run = load_record(tmp_path / "run")
    run["last"]["step"] += 1
    write_json(tmp_path / "run" / "record.json", run)
    with pytest.raises(SystemExit, match=f"is of step {about['step']}; last of"):
        ship(str(tmp_path / "run"), tmp_path / "net", "last", "data")


@pytest.mark.slow
@pytest.mark.parametrize("folder", NETWORKS, ids=lambda folder: folder.name)
def test_a_shipped_network_scores_what_its_record_says(folder):
    if not (ROOT / "data/camvid").exists():
        pytest.skip("no data/camvid: python -m setr_lib data camvid")
    model, _ = load_checkpoint(folder / "model.safetensors")
    val = load_dataset("camvid", "val", ROOT / "data")
    found = evaluate(model, val, protocol=model.protocol)
    assert abs(found.miou - load_record(folder)["best"]["miou"]) < 5e-5  # 0.01 points
