"""The paper's recipes against the fact sheet, row by row, and what their facts may be."""

import dataclasses
import json
import math

import pytest

from setr_lib import get_recipe, list_recipes, list_records, load_record, train
from setr_lib.__main__ import main
from setr_lib.baselines.fcn import FCNConfig
from setr_lib.model import DECODERS
from setr_lib.training.recipe import Recipe, recipe_hash, replace
from setr_lib.training.recipes import PAPER_LRS, RECIPES, paper_recipe
from setr_lib.training.record import RECORDS

# The rows of the authors' configurations, written down again from them: crop, batch, steps, rate,
# rate of the paper, classes, window's stride.
ROWS = {
    "cityscapes_naive": (768, 8, 80_000, 0.01, 0.01, 19, 512),
    "cityscapes_pup": (768, 8, 80_000, 0.01, 0.01, 19, 512),
    "cityscapes_mla": (768, 8, 80_000, 0.002, 0.01, 19, 512),
    "ade20k_naive": (512, 16, 160_000, 0.01, 0.001, 150, 341),
    "ade20k_pup": (512, 16, 160_000, 0.001, 0.001, 150, 341),
    "ade20k_mla": (512, 16, 160_000, 0.001, 0.001, 150, 341),
    "pascal_context_naive": (480, 16, 80_000, 0.01, 0.001, 60, 320),
    "pascal_context_pup": (480, 16, 80_000, 0.001, 0.001, 60, 320),
    "pascal_context_mla": (480, 16, 80_000, 0.001, 0.001, 60, 320),
}
BLOCKS = {
    ("naive", 24): (9, 14, 19, 23), ("pup", 24): (9, 14, 19, 23), ("mla", 24): (5, 11, 17, 23),
    ("naive", 12): (2, 5, 8, 11), ("pup", 12): (4, 7, 9, 11), ("mla", 12): (2, 5, 8, 11),
}  # fmt: skip


@pytest.mark.parametrize("encoder", ["large", "base", "deit"])
@pytest.mark.parametrize("row", ROWS)
def test_the_papers_recipes_have_the_papers_numbers(row, encoder):
    crop, batch, steps, lr, paper_rate, classes, stride = ROWS[row]
    r = paper_recipe(*row.rsplit("_", 1), encoder)
    assert (r.crop, r.batch, r.total_steps, r.lr) == ((crop, crop), batch, steps, lr)
    assert (r.window, r.stride) == ((crop, crop), (stride, stride))
    assert (r.optimizer, r.power, r.min_lr, r.warmup, r.weight_decay) == ("sgd", 0.9, 1e-4, 0, 0)
    assert (r.head_lr_mult, r.head_scope, r.average, r.ratio_range) == (
        10,
        "authors",
        "all",
        (0.5, 2.0),
    )
    assert r.photometric and r.pretrained and r.dataset in row
    c = r.config
    assert (c.num_classes, c.image_size, c.graph, c.aux) == (classes, (crop, crop), "authors", True)
    size = (1024, 24, 16) if encoder == "large" else (768, 12, 12)
    assert (c.width, c.depth, c.heads) == size and c.layers == BLOCKS[c.decoder, c.depth]
    dataset, decoder = row.rsplit("_", 1)
    assert PAPER_LRS.get((dataset, decoder), lr) == paper_rate
    if r.name in RECIPES:
        assert RECIPES[r.name] == r


def test_images_of_the_three_data_sets_are_scaled_as_published():
    scales = {"cityscapes": (2049, 1025), "ade20k": (2048, 512), "pascal_context": (520, 520)}
    for name, scale in scales.items():
        r = get_recipe(f"{name}_pup_large")
        assert r.scale == scale
        # Pascal Context is scored with a short side of 520 and no limit for the long one.
        size = r.protocol.view_size((300, 1500), 1.0)
        assert size == {"cityscapes": (410, 2049), "ade20k": (410, 2048)}.get(name, (520, 2600))


def test_recipes_are_rows_of_a_table():
    """Of the paper: table 2 (Cityscapes), 4 (ADE20K) and 5 (Pascal Context); the rest is ours."""
    city = [f"cityscapes_{d}_{e}" for d in DECODERS for e in ("large", "base", "deit")]
    others = ("naive_large", "pup_large", "mla_large", "pup_deit", "mla_deit")
    rows = {f"{data}_{row}" for data in ("ade20k", "pascal_context") for row in others}
    rows |= {*city, "cityscapes_pup_large_40k_random"}
    assert {n for n in RECIPES if n.startswith(tuple(ROWS))} == rows and len(RECIPES) <= 65
    random = get_recipe("cityscapes_pup_large_40k_random")
    assert random.pretrained is None and random.total_steps == 40_000


@pytest.mark.parametrize(
    "old, now",
    [
        ("ade20k_pup_large_1gpu", "ade20k_pup_large with micro_batch=2 .*--micro-batch 2"),
        ("cityscapes_mla_deit_1gpu", "cityscapes_mla_deit with micro_batch=1 "),
        ("pascal_context_mla_large_b8", "pascal_context_mla_large with batch=8 "),
        ("cityscapes_mla_large_paper_rate", "cityscapes_mla_large with lr=0.01 .*--lr 0.01"),
        (
            "cityscapes_pup_large_40k_1gpu",
            "cityscapes_pup_large with micro_batch=1, total_steps=40000 ",
        ),
        ("ade20k_pup_base", r"paper_recipe\('ade20k', 'pup', 'base'\) makes it"),
    ],
)
def test_names_of_before_say_how_they_are_said_now(tmp_path, old, now):
    with pytest.raises(ValueError, match=now) as raised:
        train(old, tmp_path)
    assert "\n" not in str(raised.value) and old in str(raised.value)


def test_a_record_of_a_recipe_whose_name_is_gone_still_loads():
    """Facts matter, not names."""
    facts = get_recipe("ade20k_pup_large", micro_batch=2).to_dict()
    facts = {**facts, "name": "ade20k_pup_large_1gpu"}
    del facts["class_weights"]  # older than this fact
    recipe = Recipe.from_dict(facts)
    assert recipe.name not in RECIPES and not recipe.differences(
        get_recipe("ade20k_pup_large", micro_batch=2)
    )


def test_overrides_under_their_old_words_are_named_with_todays(tmp_path):
    with pytest.raises(ValueError, match="^rate is called lr now: lr=...$"):
        train("camvid_pup_tiny", tmp_path, rate=1)
    with pytest.raises(ValueError, match="^schedule is called total_steps now"):
        get_recipe("camvid_pup_tiny", schedule=5)


def test_pretrained_weights_have_names_that_timm_knows():
    import timm

    known = timm.list_pretrained()
    assert {r.pretrained for r in RECIPES.values()} - {None} <= set(known)


def test_the_table_lists_every_recipe(capsys):
    assert main(["recipes"]) == 0
    said = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert set(list_recipes()) <= said
    assert main(["recipes", "ade20k_mla_large"]) == 0
    said = capsys.readouterr().out
    assert "160000" in said and "neck" in said and "0.01 " in said
    assert main(["recipes", "nothing"]) == 2


@pytest.mark.parametrize("name", list_records())
def test_records_of_older_versions_stay_readable(name):
    """Facts that recipes have learned since get their defaults; the recorded hash still holds."""
    record = load_record(name)
    if "recipe" in record:
        recipe = Recipe.from_dict(record["recipe"])
        written = json.loads((RECORDS / name / "record.json").read_text(encoding="utf-8"))
        assert recipe_hash(written["recipe"]) == record["recipe_hash"]
        assert recipe.micro_batch is None and recipe.head_scope == "authors"


def test_a_recipe_survives_json():
    for name in ("ade20k_mla_large", "pascal_context_pup_deit"):
        recipe = get_recipe(name)
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    fcn = dataclasses.replace(recipe, config=FCNConfig(50, 60))
    assert Recipe.from_dict(json.loads(json.dumps(fcn.to_dict()))) == fcn


def test_unknown_names_are_explained(tmp_path):
    with pytest.raises(ValueError, match="did you mean camvid_pup_tiny"):
        train("camvid_pup_tny", tmp_path)
    with pytest.raises(ValueError, match="unknown fact of a recipe 'lrate'.*lr"):
        train("camvid_pup_tiny", tmp_path, lrate=1)
    with pytest.raises(ValueError, match="optimizer is 'lion'"):
        get_recipe("camvid_pup_tiny", optimizer="lion")
    with pytest.raises(ValueError, match="head_scope is 'all'; choose 'authors' or 'decoder'"):
        get_recipe("camvid_pup_tiny", head_scope="all")
    with pytest.raises(ValueError, match="average is 'some'"):
        get_recipe("camvid_pup_tiny", average="some")
    for fact in ("batch", "micro_batch"):
        with pytest.raises(ValueError, match=f"{fact} is 0"):
            replace(get_recipe("camvid_pup_tiny"), **{fact: 0})


def test_recipes_of_the_contract_exist():
    sizes = {"camvid": ("tiny", "small"), "shapes": ("tiny",)}
    for data, names in sizes.items():
        for decoder in ("naive", "pup", "mla"):
            for size in names:
                recipe = get_recipe(f"{data}_{decoder}_{size}")
                assert recipe.dataset == data and recipe.config.decoder == decoder
    assert len({get_recipe(name).hash() for name in list_recipes()}) == len(list_recipes())


@pytest.mark.parametrize(
    "facts",
    [
        *({f: v} for f in ("lr", "head_lr_mult") for v in (0, -1, 1e300, math.inf, math.nan)),
        *({f: v} for f in ("min_lr", "weight_decay", "power") for v in (-1, math.nan, "1")),
        *({f: -1} for f in ("seed", "warmup", "batch", "micro_batch", "total_steps")),
        {"seed": 2**64}, {"seed": 0.5}, {"batch": 2.0}, {"batch": True}, {"batch": None},
        {"evaluate_every": 0}, {"lr": None},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_have_bounds_and_the_message_has_fact_value_and_flag(facts):
    """Before anything is made of them: a rate of 0 trains nothing, in silence."""
    ((fact, value),) = facts.items()
    with pytest.raises(ValueError) as raised:
        get_recipe("camvid_pup_tiny", **facts)
    said = str(raised.value)
    assert said.startswith(f"{fact} is {value!r}; it must be ")
    assert f"{fact}=" in said and f"--{fact.replace('_', '-')}" in said


@pytest.mark.parametrize(
    "facts",
    [
        {"crop": 32}, {"crop": (32, 0)}, {"crop": (32.5, 32)}, {"scale": (1, 2, 3)},
        {"window": (-1, 5)}, {"ratio_range": (2.0, 0.5)}, {"ratio_range": (0, 1)},
        {"ratio_range": (1, math.inf)},
        {"dataset": [1, 2]}, {"evaluate_split": None},
    ],
    ids=str,
)  # fmt: skip
def test_facts_of_the_wrong_kind_are_named(facts):
    (fact,) = facts
    with pytest.raises(ValueError, match=f"^{fact} is "):
        get_recipe("camvid_pup_tiny", **facts)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: None,
        lambda facts: [1],
        lambda facts: "x",
        lambda facts: {},
        lambda facts: {**facts, "config": None},
        lambda facts: {**facts, "config": {"decoder": "naive", "with": 3}},
        lambda facts: {**facts, "fact_of_tomorrow": 1},
        lambda facts: {name: value for name, value in facts.items() if name != "crop"},
        lambda facts: {**facts, "optimizer": 5},
        lambda facts: {**facts, "lr": "fast"},
    ],
)
def test_what_is_no_recipe_is_an_error_that_can_be_explained(change):
    """Files are not to be believed: no TypeError, KeyError or AttributeError comes out."""
    with pytest.raises(ValueError):
        Recipe.from_dict(change(get_recipe("camvid_pup_tiny").to_dict()))


def test_two_recipes_differ_in_facts_and_not_in_words():
    """Facts of the network are named as `config.x`; a fact of one network only, too."""
    one = get_recipe("camvid_naive_tiny")
    assert not one.differences(replace(dataclasses.replace(one, name="mine"), source="paper"))
    wider = dataclasses.replace(one.config, width=384)
    assert one.differences(replace(one, lr=0.5, config=wider)) == [
        "lr is 0.001 there and 0.5 here",
        "config.width is 192 there and 384 here",
    ]
    fcn = replace(one, config=FCNConfig(50, 11))
    assert "config.heads is 3 there and None here" in one.differences(fcn)
