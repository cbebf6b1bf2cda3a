"""The published numbers: whole, sourced, and their standing computed, not typed."""

import copy
import json

import pytest
import torch
from test_weights import in_authors_names, in_mmseg_names

import setr_lib
from setr_lib.training import scoreboard as boards
from setr_lib.training.published import CHECKS, computed, network_of
from setr_lib.training.recipes import RECIPES
from setr_lib.training.record import DATA, ROOT
from setr_lib.training.scoreboard import SOURCES, STATUSES, published, scoreboard_table

ENTRIES = published()
FIELDS = {"id", "source", "place", "dataset", "model", "measure", "value", "conditions"}


@pytest.fixture(scope="module")
def board():
    return setr_lib.scoreboard()


def of(measure):
    return [entry for entry in ENTRIES if entry["measure"] == measure]


def test_every_entry_has_the_fields_of_the_contract():
    """One line each in the file, ids that occur once, sources that are known."""
    text = (DATA / "paper.json").read_text(encoding="utf-8")
    assert len(text.splitlines()) == len(ENTRIES) + 2
    assert all(FIELDS <= entry.keys() <= FIELDS | {"contradicts"} for entry in ENTRIES)
    assert len({entry["id"] for entry in ENTRIES}) == len(ENTRIES)
    assert {entry["source"] for entry in ENTRIES} == set(SOURCES)
    assert all(entry["value"] is not None for entry in ENTRIES)
    assert {entry["dataset"] for entry in ENTRIES} - {None} == {
        "ade20k", "cityscapes", "pascal_context",
    }  # fmt: skip


def test_a_contradiction_has_two_values_and_both_sides_name_it():
    known = {entry["id"]: entry for entry in ENTRIES}
    disputed = [entry for entry in ENTRIES if "contradicts" in entry]
    for entry in disputed:
        for other in map(known.get, entry["contradicts"]):
            assert entry["value"] != other["value"] and entry["id"] in other["contradicts"]
            assert entry["measure"] == other["measure"]
    groups = []
    for entry in disputed:
        ids = {entry["id"], *entry["contradicts"]}
        groups = [g for g in groups if not g & ids] + [ids.union(*(g for g in groups if g & ids))]
    assert len(groups) >= 19


def test_standing_is_computed(board, capsys):
    """A wrong value planted in any exact entry loses its word, whatever the entry."""
    assert all(entry["status"] in STATUSES for entry in board)
    exact = {entry["id"] for entry in board if entry["status"] == "exact"}
    assert all(entry["ours"] == entry["value"] for entry in board if entry["id"] in exact)
    planted = copy.deepcopy([entry for entry in ENTRIES if entry["id"] in exact])
    for entry in planted:
        entry["value"] = [entry["value"], "wrong"]
    found = setr_lib.scoreboard([], planted)
    assert {entry["status"] for entry in found} == {"contradictory"}
    assert all(entry["ours"] == entry["value"][0] and entry["check"] for entry in found)
    counts = boards.counts(board)
    with capsys.disabled():
        print(f"\n{counts}")
    assert sum(counts.values()) == len(ENTRIES) and min(counts.values()) > 0


def test_every_check_is_of_a_published_measure():
    assert CHECKS.keys() == CHECKS.keys() & {entry["measure"] for entry in ENTRIES}


def numbers(decoder, width, depth, slots, classes, aux):
    """Parameters of the authors' training network by arithmetic, unused classifiers included."""
    block = 12 * width * width + 13 * width
    encoder = width * 3 * 256 + width + width + slots * width + depth * block
    conv, bn, dead = (lambda i, o, k: i * o * k * k), 2 * 256, 513 * classes
    classify = 257 * classes
    head = {
        "naive": 2 * width + conv(width, 256, 1) + 256 + bn + classify,
        "pup": 2 * width + conv(width, 256, 3) + 3 * conv(256, 256, 3) + 4 * (256 + bn) + classify,
        "mla": 4 * (2 * width + conv(width, 256, 1) + bn + conv(256, 256, 3) + bn)
        + 4 * (conv(256, 128, 3) + 256 + conv(128, 128, 3) + 256)
        + conv(512, classes, 3) + classes,
    }[decoder]  # fmt: skip
    auxiliary = {
        "naive": head,
        "pup": 2 * width + conv(width, 256, 3) + 256 + bn + classify,
        "mla": 256 * classes,
    }[decoder]
    return encoder + head + aux * auxiliary + (1 + aux) * dead


def test_the_parameters_of_table_2_follow_from_arithmetic(board):
    """All twelve SETR rows, to the printed digit; Hybrid, which no code describes, differs."""
    rows = [entry for entry in board if entry["measure"] == "parameters_millions"]
    setr = [entry for entry in rows if entry["model"].startswith("SETR")]
    assert len(setr) == 10
    for entry in setr:
        decoder = entry["model"].lower().split("-")[1]
        size = (768, 12) if entry["model"].count("-") > 1 else (1024, 24)
        aux = {"naive": 3, "pup": 4, "mla": 4}[decoder]
        count = numbers(decoder, *size, 1025, 150, aux)
        assert round(count / 1e6, 2) == entry["value"] == entry["ours"]
        assert entry["status"] == "exact"
    hybrid = [entry for entry in rows if entry["model"].startswith("Hybrid")]
    assert {entry["status"] for entry in hybrid} == {"contradictory"}
    assert all(entry["ours"] != entry["value"] for entry in hybrid)


@pytest.mark.parametrize(
    "source, names", [("authors", in_authors_names), ("mmseg", in_mmseg_names)]
)
def test_shapes_are_those_under_the_checkpoints_own_keys(source, names):
    """The state dict in their names, written out by the tests of loading, has the key and shape."""
    seen = {}
    for entry in of("shape"):
        if entry["source"] != source:
            continue
        network = network_of(entry)
        theirs = seen.setdefault(id(network), names(network))
        key = entry["place"].removeprefix("state dict: ")
        assert list(theirs[key].shape) == entry["value"], key
    assert len(seen) >= 3


def test_windows_and_short_sides_by_the_authors_formulas():
    (entry,) = of("windows")
    grid = [max(side - 768 + 512 - 1, 0) // 512 + 1 for side in (1025, 2049)]
    assert computed(entry) == grid == entry["value"]
    for entry in of("short_sides"):
        short, window = {"cityscapes": (1025, 768), "ade20k": (512, 512)}[entry["dataset"]]
        rule = [max(window, int(ratio * short)) for ratio in entry["conditions"]["scales"]]
        assert computed(entry) == rule
        assert (entry["source"] == "authors") == (entry["value"] == rule)


def test_the_unused_classifiers_are_counted():
    """512 to 150 channels with a bias in each of the authors' heads; none in mmsegmentation's."""
    found = {
        entry["source"]: (computed(entry), entry["value"]) for entry in of("unused_parameters")
    }
    assert found == {"authors": (76_950, 76_950), "mmseg": (0, 0)}


def test_schedules_by_hand():
    """What a network of the paper starts and ends with."""
    for entry in of("lr"):
        base = computed(entry)
        recipe = RECIPES.get(f"{entry['dataset']}_{entry['model'].lower()[5:]}_large")
        if entry["source"] == "authors":
            assert base == recipe.lr == entry["value"]
        assert base == entry["value"], "both editions are here, each as its source prints it"
    assert {computed(entry) for entry in of("min_lr")} == {1e-4}
    assert {computed(entry) for entry in of("head_lr_mult")} == {10}


def fake_record(root, name, decoder, miou, finished=True, network=None, **facts):
    recipe = setr_lib.get_recipe("camvid_pup_tiny").to_dict() | facts
    recipe["config"] = {"depth": 18} if decoder == "fcn" else {"decoder": decoder}
    recipe["config"] |= network or {}
    record = {"recipe": recipe, "finished": finished, "last": {"miou": miou}, "evaluations": []}
    (root / name).mkdir()
    (root / name / "record.json").write_text(json.dumps(record))
    return str(root / name)


def find(board, **facts):
    return next(
        e for e in board if all((e[k] if k in e else e["conditions"].get(k)) == v
                                for k, v in facts.items())
    )  # fmt: skip


def test_records_are_found_by_their_recipes(tmp_path):
    """By network and start, the longest run first; unfinished and changed ones do not count."""
    make = lambda *words, **facts: fake_record(tmp_path, *words, **facts)  # noqa: E731
    records = [
        make("unfinished", "mla", 0.9, finished=False),
        make("no_aux", "mla", 0.9, network={"aux": False}),
        make("radius", "mla", 0.9, network={"attention_radius": 2}),
        make("sgd", "mla", 0.9, optimizer="sgd"),
        make("shapes", "mla", 0.9, dataset="shapes"),
        make("leaves", "mla", 0.9, start="leaves", start_steps=5),
        make("short", "pup", 0.3, total_steps=300),
        make("pup", "pup", 0.41, total_steps=1200),
        make("fcn", "fcn", 0.5),
        make("deit", "pup", 0.6, pretrained="deit_tiny_patch16_224.fb_in1k", total_steps=5000),
    ]
    board = setr_lib.scoreboard(records, of("miou"))  # which need no network
    row = {"source": "paper", "place": "table 2", "dataset": "cityscapes", "measure": "miou"}
    for model, pretrained, ours in [
        ("SETR-PUP-Base", "21K", 41.0), ("FCN R-101", "1K", 50.0), ("SETR-PUP", "random", 41.0),
        ("SETR-PUP-DeiT", "1K", 60.0), ("SETR-MLA-Base", "21K", None),
        ("SETR-MLA-DeiT", "1K", None),
    ]:  # fmt: skip
        entry = find(board, **row, model=model, pretrained=pretrained)
        assert entry["ours"] == ours, model
        assert entry["status"] == ("not-run" if ours is None else "small-scale")
        assert (entry["record"] is None) == (ours is None)
    nothing = setr_lib.scoreboard([], of("miou"))
    assert not any(entry["record"] for entry in nothing)


def test_records_that_stand_there_are_there(board):
    used = {entry["record"] for entry in board} - {None}
    assert used and all((ROOT / record).is_file() for record in used)
    for entry in board:
        if entry["record"]:
            miou = json.loads((ROOT / entry["record"]).read_text())["last"]["miou"]
            assert entry["ours"] == round(100 * miou, 1)


def test_commands_name_recipes_and_flags_that_exist(board):
    """Every command that a number gives is read by the command line itself."""
    from setr_lib.__main__ import _parser

    commands = {entry["command"] for entry in board} - {None}
    assert len(commands) > 40
    for command in commands:
        for call in command.split(" && "):
            words = call.replace("torchrun --nproc_per_node 8 -m setr_lib", "setr").split()
            if words[0] == "setr":
                options = _parser().parse_args(words[1:])
                assert getattr(options, "recipe", None) in {None, *RECIPES}
    row = {"source": "paper", "dataset": "cityscapes", "measure": "miou", "model": "SETR-PUP"}
    entry = find(board, **row, place="table 6", views="six scales, mirrored", total_steps=40_000)
    assert entry["command"] == (
        "setr train cityscapes_pup_large --total-steps 40000 && "
        "setr evaluate runs/cityscapes_pup_large/last.safetensors --tta"
    )


def test_the_table_has_a_row_for_every_number(board):
    lines = scoreboard_table(board).splitlines()
    assert len(lines) == len(board) + 2 and len({line.count(" | ") for line in lines}) == 1
    assert len(scoreboard_table(board, markdown=False).splitlines()) == len(board) + 1


def test_networks_are_counted_without_memory():
    """On the meta device: a scoreboard of T-Large must run on a laptop."""
    network = network_of(of("counted_classes")[0])
    assert {p.device for p in network.parameters()} == {torch.device("meta")}
