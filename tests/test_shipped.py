"""The networks of the repository: each scores what its record says, and is small enough to send."""

import pytest

from setr_lib import evaluate, load_checkpoint, load_dataset, load_record
from setr_lib.attention import load_probes
from setr_lib.training.record import MODELS, ROOT, in_field_words

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
    assert len(NETWORKS) >= 1 and sum(file.stat().st_size for file in files) < 40e6


@pytest.mark.slow
@pytest.mark.parametrize("folder", NETWORKS, ids=lambda folder: folder.name)
def test_a_shipped_network_scores_what_its_record_says(folder):
    if not (ROOT / "data/camvid").exists():
        pytest.skip("no data/camvid: python -m setr_lib data camvid")
    model, _ = load_checkpoint(folder / "model.safetensors")
    val = load_dataset("camvid", "val", ROOT / "data")
    found = evaluate(model, val, protocol=model.protocol)
    assert abs(found.miou - load_record(folder)["best"]["miou"]) < 5e-5  # 0.01 points
