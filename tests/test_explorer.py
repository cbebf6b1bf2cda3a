"""The explorer without a browser: packed numbers, answers to questions, and what it refuses."""

import hashlib
import io
import json
import pathlib
import re
import struct
import sys
import types
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_labels, small_config
from PIL import Image
from sklearn.datasets import load_sample_image

import setr_lib
from setr_lib import SETR, AttentionExplorer, attention_maps, attention_rollout
from setr_lib.attention import Probes, attention_rows, hide, queries_keys
from setr_lib.data.load import load_dataset
from setr_lib.explorer import packing
from setr_lib.explorer import widget as widget_module
from setr_lib.explorer.contents import principal_colours
from setr_lib.explorer.packing import ACCURACY, pack_attention, pooled_pairs, unpack_head
from setr_lib.images import normalise, resize_image
from setr_lib.model import SETRConfig

SHIPPED = "data/models/camvid_naive_tiny/model.safetensors"


def sharp_model(decoder: str = "naive", **facts) -> SETR:
    """A small network whose attention is far from uniform."""
    model = SETR(small_config(decoder, **facts)).eval()
    for block in model.encoder.blocks:
        block.attn.qkv.weight.data *= 8
    return model


def unpack_parcel(data: bytes) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """What `Parcel` packed: the JSON, and the arrays by their place `at`."""
    data = zlib.decompress(data, wbits=-15)
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    arrays: dict[int, np.ndarray] = {}

    def visit(value: Any) -> None:
        if isinstance(value, dict) and set(value) == {"at", "form", "shape"}:
            count = int(np.prod(value["shape"]))
            found = np.frombuffer(data, "<" + value["form"], count, 4 + length + value["at"])
            arrays[value["at"]] = found.reshape(value["shape"])
        elif isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                visit(part)

    visit(header)
    return header, arrays


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def explorer(model=None, image=None, label=None, **facts) -> AttentionExplorer:
    image = picture() if image is None else image
    return AttentionExplorer(model or sharp_model(), image, label, **{"cause_pixels": 2, **facts})


def random_pairs(layers: int, heads: int, tokens: int, width: int, size: float):
    draw = torch.Generator().manual_seed(tokens)
    return [
        (
            torch.randn(1, heads, tokens, width, generator=draw) * size,
            torch.randn(1, heads, tokens, width, generator=draw) + 3,
        )
        for _ in range(layers)
    ]


def exact(pair, head: int) -> np.ndarray:
    q, k = pair[0][0, head].double(), pair[1][0, head].double()
    return (q @ k.T).softmax(-1).numpy()


# ------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 6.0])
@pytest.mark.parametrize(("tokens", "width"), [(1, 4), (5, 16), (40, 8), (77, 64)])
def test_packed_attention_is_within_one_colour_step_in_both_directions(size, tokens, width):
    """From nearly uniform to nearly one-hot, with more and fewer tokens than dimensions."""
    pairs = random_pairs(2, 3, tokens, width, size)
    packed = pack_attention(pairs)
    for layer, pair in enumerate(pairs):
        for head in range(3):
            rows = exact(pair, head)
            error = abs(unpack_head(packed, layer, head) - rows)
            assert (error <= ACCURACY * rows.max(1, keepdims=True)).all()
            assert (error <= ACCURACY * rows.max(0, keepdims=True)).all()


def test_rows_of_packed_attention_sum_to_one():
    packed = pack_attention(random_pairs(1, 2, 30, 8, 1.0))
    # 1e-6: the sums of 30 float64 numbers
    assert np.allclose(unpack_head(packed, 0, 1).sum(1), 1, atol=1e-6)


def test_infinite_queries_are_refused_by_name():
    pairs = random_pairs(1, 1, 6, 4, 1.0)
    pairs[0][0][0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        pack_attention(pairs)


@pytest.mark.parametrize("pool", [2, 3])
@pytest.mark.parametrize("prefix", [0, 2])
def test_pooled_attention_is_the_mean_over_queries_of_the_sum_over_keys(pool, prefix):
    """Against loops over cells, on a grid that the pool does not divide."""
    rows, cols = 5, 7
    pairs = random_pairs(1, 2, prefix + rows * cols, 8, 1.0)
    members = [[s] for s in range(prefix)]
    for y in range(0, rows, pool):
        for x in range(0, cols, pool):
            cell = [
                (a, b) for a in range(y, min(y + pool, rows)) for b in range(x, min(x + pool, cols))
            ]
            members.append([prefix + a * cols + b for a, b in cell])
    whole = exact(pairs[0], 1)
    expected = [[whole[np.ix_(a, b)].sum(1).mean() for b in members] for a in members]
    found = exact(pooled_pairs(pairs, (rows, cols), prefix, pool)[0], 1)
    # 1e-9: float64 sums in another order
    assert np.allclose(found, expected, atol=1e-9)


def test_the_shipped_network_at_224_pixels_fits_into_a_notebook():
    """Its patches of 12 pixels make 362 tokens, more than the 197 of a T/16."""
    model, _ = setr_lib.load_checkpoint(SHIPPED)
    widget = explorer(model, resize_image(load_sample_image("china.jpg"), (224, 224)))
    assert len(widget._html()) < 1.25e6  # with the answers to the tour's questions


def test_the_shipped_network_at_360x480_fits_into_three_megabytes():
    """1201 tokens; every third block stands for three."""
    model, _ = setr_lib.load_checkpoint(SHIPPED)
    image = resize_image(load_sample_image("china.jpg"), (360, 480))
    packed = pack_attention(queries_keys(model, normalise(image)[None], range(1, 12, 3)))
    everything_else = 150_000  # module, pictures, scores, label maps
    assert 3 * len(packing.text64(packing.deflate(packed.body))) + everything_else < 3e6


def test_a_parcel_gives_back_what_was_put_in():
    parcel = packing.Parcel()
    arrays = [np.arange(5, dtype=np.uint8), np.eye(3, dtype=np.float32), np.array([-3, 400], "<i2")]
    places = [parcel.add(array) for array in arrays]
    header, found = unpack_parcel(parcel.pack({"all": places, "name": "ä"}))
    assert header["name"] == "ä"
    assert all(np.array_equal(found[p["at"]], a) for p, a in zip(places, arrays))


# ------------------------------------------------------------------------------- live answers


@pytest.mark.parametrize("direction", ["from", "to"])
def test_the_kernels_row_is_that_of_attention_rows(direction):
    model = sharp_model()
    widget = explorer(model)
    images = widget._scenes[0].images
    question = {"ask": "rows", "pixel": [20, 37], "direction": direction}
    answer, (rows,) = widget.answer(question)
    expected = attention_rows(model, images, (1, 2), direction)
    assert answer["shape"] == [4, 3, 13]
    # 1e-6: float32 softmax, the same numbers in another batch
    assert np.allclose(rows[..., 1:], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("direction", ["from", "to"])
@pytest.mark.parametrize("decoder", ["naive", "mla"])
def test_the_kernels_rollout_is_attention_rollout_up_to_every_layer(direction, decoder):
    model = sharp_model(decoder)
    widget = explorer(model)
    _, (found,) = widget.answer({"ask": "rollout", "pixel": [40, 5], "direction": direction})
    maps = attention_maps(model, widget._scenes[0].images)
    for layer in range(4):
        whole = attention_rollout(maps[: layer + 1])[0].numpy()
        patch = 2 * 4 + 0
        expected = whole[patch] if direction == "from" else whole[:, patch]
        # 1e-6: products of at most four float32 matrices with rows that sum to 1
        assert np.allclose(found[layer], expected, atol=1e-6)


def test_a_message_from_the_browser_gets_its_answer_with_its_number():
    widget = explorer()
    sent = []
    widget.send = lambda content, buffers=None: sent.append((content, buffers))
    widget._handle_custom_msg({"ask": "rows", "id": 7, "pixel": [0, 0], "direction": "from"}, [])
    ((content, buffers),) = sent
    assert content["id"] == 7
    assert len(buffers[0]) == 4 * np.prod(content["shape"])


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"ask": "rows", "pixel": [48, 0]}, "outside the image of 48x64"),
        ({"ask": "cause", "pixel": [-1, 0], "k": 1}, "outside the image"),
        ({"ask": "rows", "pixel": [0, 0], "direction": "at"}, "unknown direction"),
        ({"ask": "weather"}, "unknown question"),
        ({"ask": "rows", "pixel": [0, 0], "image": 4}, "no image 4"),
    ],
)
def test_a_wrong_question_is_answered_with_its_mistake(question, words):
    widget = explorer()
    sent = []
    widget.send = lambda content, buffers=None: sent.append(content)
    widget._handle_custom_msg({**question, "id": 1}, [])
    assert words in sent[0]["error"]


@pytest.mark.parametrize(
    "question",
    [
        {},
        None,
        [],
        {"ask": "rows"},
        {"ask": ["rows"]},
        {"ask": "rows", "pixel": None},
        {"ask": "rows", "pixel": ["a", 0]},
        {"ask": "rows", "pixel": [0]},
        {"ask": "rows", "pixel": [float("inf"), 0]},
        {"ask": "rows", "pixel": [0, 0], "image": "0"},
        {"ask": "rows", "pixel": [0, 0], "image": 0.5},
        {"ask": "rows", "pixel": [0, 0], "model": None},
        {"ask": "cause", "pixel": [0, 0]},
        {"ask": "cause", "pixel": [0, 0], "k": 1e400},
    ],
)
def test_a_question_that_nobody_can_read_gets_an_answer_too(question):
    """The page waits for one."""
    widget, sent = explorer(), []
    widget.send = lambda content, buffers=None: sent.append(content)
    widget._receive(widget, question | {"id": 3} if isinstance(question, dict) else question, [])
    assert sent[0]["error"] and sent[0]["id"] == (3 if isinstance(question, dict) else None)


def test_questions_leave_the_network_alone_that_another_cell_trains():
    """They come in a thread of their own: no switch of its mode, no call of its parts."""
    model, seen = sharp_model().train(), []
    for module in (model, model.encoder, model.head):
        module.register_forward_pre_hook(lambda one, _: seen.append((one, model.training)))
    model.head.eval()
    widget = explorer(model)
    for ask in ("rows", "rollout", "means", "cause", "html"):
        widget.answer({"ask": ask, "pixel": [20, 30], "k": 2})
    assert seen and all(training for _, training in seen)
    assert not {id(one) for one, _ in seen} & {id(one) for one in model.modules()}
    assert model.training and model.encoder.training and not model.head.training


def test_training_on_does_not_change_what_an_explorer_shows():
    """Its pictures are of the network that it was made of; new rows are too."""
    model = sharp_model()
    widget = explorer(model)
    question = {"ask": "rows", "pixel": [20, 30], "direction": "from"}
    _, (before,) = widget.answer(question)
    for parameter in model.parameters():
        parameter.data.zero_()
    widget._views[0][0].forget()
    _, (after,) = widget.answer(question)
    assert np.array_equal(before, after)


def test_the_stored_row_is_the_kernels_row():
    widget = explorer()
    view = widget._views[0][0]
    packed = view.packed(1)
    _, (rows,) = widget.answer({"ask": "rows", "pixel": [33, 50], "direction": "from"})
    token = 1 + 2 * 4 + 3
    for layer in range(4):
        for head in range(3):
            error = abs(unpack_head(packed, layer, head)[token] - rows[layer, head]).max()
            assert error <= ACCURACY * rows[layer, head].max()


def test_a_large_network_is_asked_for_one_row_without_its_maps():
    """L/16 at 512 pixels has 0.4 billion attention values: no map of T x T is kept."""
    widget = explorer()
    view = widget._views[0][0]
    widget.answer({"ask": "rows", "pixel": [0, 0], "direction": "to"})
    tokens = view.shape[2]
    kept = [value for pair in view.pairs for value in pair]
    kept += [value for value in vars(view).values() if isinstance(value, torch.Tensor)]
    assert all(value.shape[-2:] != (tokens, tokens) for value in kept)


def test_queries_and_keys_are_kept_for_one_image_only():
    widget = explorer(image=[picture(), picture(32, 32)], label=[None, None])
    for number in (0, 1):
        widget.answer({"ask": "rows", "image": number, "pixel": [0, 0], "direction": "from"})
        kept = ["pairs" in vars(views[0]) for views in widget._views]
        assert kept == [number == 0, number == 1]


def test_the_causal_check_of_the_kernel_is_hide_with_four_random_draws():
    model = sharp_model()
    widget = explorer(model)
    answer, _ = widget.answer({"ask": "cause", "pixel": [20, 30], "k": 3})
    expected = hide(model, widget._scenes[0].images, [(20, 30)] * 4, 3)
    fall = expected.probability_fall["attended"][0].item()
    # 1e-5: the answer is rounded to six digits
    assert answer["probability_fall"]["attended"][0] == pytest.approx(fall, abs=1e-5)
    assert len({tuple(one[2]) for one in answer["patches"]}) > 1


def test_fewer_hidden_patches_are_the_first_of_more():
    """The page keeps one list per pixel, for the largest number."""
    model = sharp_model()
    images = torch.randn(1, 3, 48, 64)
    few, many = (hide(model, images, [(20, 30), (3, 3)], k) for k in (2, 5))
    for choice in ("attended", "nearest", "random"):
        assert torch.equal(few.patches[choice], many.patches[choice][:, :2])


# ------------------------------------------------------------------------------ what it shows


def test_the_widget_goes_out_before_the_html_that_stays(monkeypatch):
    """In one output the front ends would show the widget alone, even where no kernel knows it."""
    sent = []
    monkeypatch.setattr(widget_module, "display", lambda data, **facts: sent.append((data, facts)))
    monkeypatch.setattr(widget_module.InteractiveShell, "initialized", lambda: True)
    shown = explorer()._repr_mimebundle_()
    ((widget, facts),) = sent
    assert set(widget) == {"application/vnd.jupyter.widget-view+json"} and facts["raw"]
    assert set(shown) == {"text/html", "text/plain"} and "data-payload=" in shown["text/html"]


def test_colab_gets_html_alone(monkeypatch):
    """No widget manager, no content from elsewhere."""
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr("anywidget.widget.in_colab", lambda: False)
    widget = explorer()
    assert set(widget._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_ipywidgets_7_does_not_display_the_widget_alone():
    """Its `_ipython_display_` would win over the HTML."""
    assert AttentionExplorer._ipython_display_ is None


def test_the_output_is_the_same_every_time():
    """nbval compares it; an address or a random number in it would fail."""
    torch.manual_seed(3)
    model = sharp_model()
    first, second = (explorer(model) for _ in range(2))
    assert repr(first) == repr(second) and first._html() == second._html()


def test_no_address_of_another_machine_is_in_the_page():
    assert re.findall(r"https?://|//cdn|@import", _words(explorer()._html())) == []


def test_text_is_utf_8_wherever_it_is_read_or_written(tmp_path, monkeypatch):
    """Not what the machine happens to prefer: cp1252, gbk."""
    used = []
    for name in ("read_text", "write_text"):
        own = getattr(pathlib.Path, name)

        def watched(path, *args, own=own, **facts):
            used.append(facts.get("encoding"))
            return own(path, *args, **facts)

        monkeypatch.setattr(f"pathlib.Path.{name}", watched)
    explorer(names=["天空"]).save_html(tmp_path / "page.html")
    assert used and set(used) == {"utf-8"}
    assert "天空" in (tmp_path / "page.html").read_bytes().decode()


def test_a_page_runs_no_script_but_its_own_two():
    """Both are known to its policy by their hashes; nothing may be fetched."""
    page = explorer()._page()
    policy = re.search(r'Security-Policy" content="([^"]+)"', page)[1]
    code = packing.zlib.decompress(_base64(re.search(r'data-module="([^"]+)"', page)[1]), -15)
    starter = re.findall(r"<script>(.+?)</script>", page)
    hashes = [hashlib.sha256(one).digest() for one in (starter[0].encode(), code)]
    scripts = " ".join(f"'sha256-{packing.text64(one)}'" for one in hashes)
    assert len(starter) == 1
    assert f"default-src 'none'; script-src {scripts};" in policy


def test_the_still_picture_has_words_and_is_a_jpeg():
    html = explorer()._html()
    alt = re.search(r'alt="([^"]+)"', html)[1]
    file = io.BytesIO(_base64(re.search(r'base64,([^"]+)"', html)[1]))
    assert "looks at" in alt and Image.open(file).format == "JPEG"


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_bytes(b"before")
    monkeypatch.setattr("pathlib.Path.write_text", _full_disk)
    with pytest.raises(OSError):
        explorer().save_html(path)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == b"before"


def test_a_network_too_large_for_a_page_gets_larger_cells(tmp_path, monkeypatch):
    """In the file, and a picture alone in the notebook."""
    monkeypatch.setattr("setr_lib.explorer.widget.PAGE_NUMBERS", 1000)
    widget = explorer()
    assert widget._pool() == 2
    assert "data-payload" not in widget._html()
    widget.save_html(tmp_path / "page.html")
    header = _header((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert header["images"][0]["models"][0]["attention"]["pool"] == 2


def test_only_classes_that_occur_are_sent_of_many():
    model = sharp_model(num_classes=60)
    header = _header(explorer(model)._html())
    facts = header["images"][0]["models"][0]
    predicted = model(explorer(model)._scenes[0].images).argmax(1).unique().tolist()
    assert facts["scores"]["classes"] == predicted


def test_principal_colours_follow_the_first_component():
    """A map with one direction: its red rises with it."""
    ramp = torch.linspace(0, 1, 20).view(1, 4, 5)
    colours = principal_colours(torch.cat([ramp, 2 * ramp, 0 * ramp]))
    red = colours[..., 0].astype(int).flatten()
    assert colours.shape == (4, 5, 3)
    assert (np.diff(red) >= 0).all() and red[-1] == 255


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 53), (50, 200)])
def test_images_of_any_size_are_shown(decoder, size):
    model = sharp_model(decoder)
    header = _header(explorer(model, picture(*size))._html())
    assert header["images"][0]["size"] == list(size)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_images_of_any_mode_are_shown(mode):
    image = Image.fromarray(picture()).convert("L" if mode == "I;16" else mode)
    header = _header(explorer(image=image)._html())
    assert header["images"][0]["size"] == [48, 64]


def test_one_layer_and_one_head_are_enough():
    model = sharp_model(depth=1, heads=1, layers=(0,))
    answer, _ = explorer(model).answer({"ask": "rows", "pixel": [0, 0], "direction": "to"})
    assert answer["shape"] == [1, 1, 13]


def test_a_timm_backbone_is_explored_too():
    config = SETRConfig(
        "naive", 8, (48, 64), 192, 12, 3, backbone="vit_tiny_patch16_224", layers=(2, 5, 8, 11)
    )
    model = SETR(config).eval()
    answer, (rows,) = explorer(model).answer({"ask": "rows", "pixel": [0, 0], "direction": "from"})
    # 1e-5: a sum of 13 float32 numbers
    assert answer["shape"] == [12, 3, 13] and np.allclose(rows.sum(-1), 1, atol=1e-5)


def test_a_shapes_scene_keeps_its_own_classes_for_another_network():
    """Then right and wrong are not judged."""
    image, label = load_dataset("shapes", "val")[0]
    shapes = setr_lib.data.load.Shapes("val")
    model = sharp_model(num_classes=11)
    widget = explorer(
        model,
        image,
        label,
        base=(64, 48),
        label_classes=shapes.classes,
        label_palette=shapes.palette,
    )
    header = _header(widget._html())
    assert [entry["name"] for entry in header["label_classes"]] == list(shapes.classes)
    assert header["images"][0]["judged"] is False


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"pixel": (48, 0)}, r"pixel \(48, 0\) is outside the image of 48x64"),
        ({"pixel": (0, -1)}, "columns 0 to 63"),
        ({"block": 4}, "blocks 0 to 3"),
        ({"head": 3}, "heads 0 to 2"),
        ({"head": "meen"}, "did you mean mean"),
        ({"pool": 4}, "pool is 4"),
        ({"label": np.zeros((48, 63), np.uint8)}, r"48x64, its label \(48, 63\)"),
        ({"label": np.full((48, 64), 8, np.uint8)}, "the label 8"),
        ({"image": [], "label": []}, "0 images"),
        ({"image": [picture(), picture()], "label": [None]}, "2 images and 1 labels"),
        ({"classes": ["a", "b"]}, "2 names"),
        ({"classes": [*"abcdefg", 7]}, "called 7"),
        ({"classes": [*"abcdefg", None]}, "called None"),
        ({"label": np.zeros((48, 64), np.uint8), "label_classes": [0]}, "called 0"),
        ({"names": (3,)}, "called 3"),
        ({"image_names": ["a", "b"]}, "2 names for 1 images"),
        ({"image_names": [None]}, "called None"),
        ({"palette": [(0, 0, 0)] * 7}, "7 colours for 8"),
        ({"palette": [(0, 0, 0)] * 7 + [(0, 0)]}, r"class 7 is \(0, 0\)"),
        ({"palette": [(0, 0, 0, 0)] * 8}, "class 0"),
        ({"palette": [(0, 0, 256)] * 8}, "class 0"),
        ({"palette": [(0.2, 0.5, 1)] * 8}, "class 0"),
        ({"palette": [(0, 0, np.nan)] * 8}, "class 0"),
        ({"palette": [3] * 8}, "class 0"),
        ({"pixel": (np.nan, 0)}, "pixel is"),
        ({"pixel": (1,)}, "pixel is"),
        ({"pixel": 5}, "pixel is"),
        ({"block": 0.5}, "block is 0.5"),
        ({"head": 1.5}, "head is 1.5"),
        ({"pool": 1.5}, "pool is 1.5"),
        ({"label": np.full((48, 64), -1)}, "no whole numbers"),
        ({"label": np.full((48, 64), np.nan)}, "no whole numbers"),
        ({"label": np.full((48, 64), 1.5)}, "no whole numbers"),
        ({"names": ("one",), "other": sharp_model()}, "1 names for 2 networks"),
        ({"other": sharp_model(patch_size=8)}, "16 and 8"),
        ({"other": sharp_model(num_classes=5)}, "8 and 5"),
        ({"model": torch.nn.Linear(1, 1)}, "Linear has no attention"),
    ],
)
def test_what_does_not_fit_is_named(facts, words):
    with pytest.raises(ValueError, match=words):
        explorer(**facts)


@pytest.mark.parametrize("part", ["encoder.patch_embed.proj.bias", "head.classifier.bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_without_finite_numbers_is_named_when_the_explorer_is_made(part, value):
    model = sharp_model()
    dict(model.named_parameters())[part].data.fill_(value)
    with pytest.raises(ValueError, match="finite"):
        explorer(model)


def test_probes_that_do_not_know_their_miou_are_shown():
    """NaN is no JSON."""
    probes = Probes(torch.zeros(4, 8, 24), torch.zeros(4, 8), {"miou": {"probe": {"0": np.nan}}})
    header = _header(explorer(probes=probes)._html())
    assert header["images"][0]["models"][0]["emergence"][0]["miou"] is None


def test_numbers_of_numpy_are_numbers():
    widget = explorer(block=np.int64(2), head=np.int64(1), palette=np.zeros((8, 3), np.uint8))
    assert (widget.view["block"], widget.view["head"]) == (2, 1)
    assert json.dumps(widget.view)


def test_images_have_the_names_that_they_are_given():
    images = [picture(), picture(32, 32)]
    header = _header(explorer(image=images, image_names=["street", "field"])._html())
    assert [image["name"] for image in header["images"]] == ["street", "field"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel": [0, 64]}, "outside the image"),
        ({"image": "a"}, "no image a"),
        ({"image": 1}, "no image 1"),
        ({"block": 9}, "blocks 0 to 3"),
        ({"direction": "in"}, "unknown direction"),
    ],
)
def test_a_view_that_cannot_be_shown_is_refused(change, words):
    widget = explorer()
    with pytest.raises(ValueError, match=words):
        widget.view = {**widget.view, **change}


def test_a_label_is_brought_to_the_size_that_the_network_reads():
    label = random_labels(np.random.default_rng(1), (96, 128), 8)
    widget = explorer(image=picture(96, 128), label=label, base=(64, 48))
    assert widget._scenes[0].label.shape == (48, 64)


# ------------------------------------------------------------------------------------- helpers


def _words(html: str) -> str:
    """The page with its module unpacked and without the packed numbers."""
    code = packing.zlib.decompress(_base64(re.search(r'data-module="([^"]+)"', html)[1]), -15)
    return re.sub(r'(data-\w+|src)="[^"]*"', "", html) + code.decode()


def _header(html: str) -> dict:
    return unpack_parcel(_base64(re.search(r'data-payload="([^"]+)"', html)[1]))[0]


def _base64(text: str) -> bytes:
    return packing.base64.b64decode(text)


def _full_disk(path, text, encoding):
    path.write_bytes(text.encode()[:100])
    raise OSError("no space left on device")
