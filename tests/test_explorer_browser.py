"""The explorer in a headless Chromium with the network off: what it shows against torch.

    pip install -r requirements-browser.txt
    apt-get install chromium      or: playwright install chromium

CHROMIUM=path names another browser. Without one the tests are skipped.
"""
# ruff: noqa: RUF001 (the page prints real minus and times signs)

import functools
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from conftest import noted_page, random_labels
from PIL import Image
from test_explorer import picture, sharp_model

from setr_lib import AttentionExplorer, attention_maps, attention_rollout
from setr_lib.attention.maps import attention_rows
from setr_lib.attention.occlusion import hide
from setr_lib.attention.stats import (
    attention_distance,
    attention_entropy,
    attention_inside,
    label_grid,
)
from setr_lib.explorer.packing import ACCURACY
from setr_lib.explorer.page import module

WIDGET = "application/vnd.jupyter.widget-view+json"
CLASSES = ["sky", "field", "path", "house", "tree", "ball", "fence", "pole"]
# The theme's own, on every page of the book; a page opened from disk may not load its fonts.
NOT_OURS = ("THEBE_JS_URL", "invalid theme mode", "Access to font", "net::ERR_FAILED")


@functools.cache
def widget() -> AttentionExplorer:
    """Two networks, two images, the first with a label; sides that patches do not divide."""
    torch.manual_seed(0)
    pair = sharp_model("naive"), sharp_model("pup")
    label = random_labels(np.random.default_rng(0), (3, 4), 8)
    label = label.astype(np.uint8).repeat(15, 0).repeat(15, 1)
    return AttentionExplorer(
        pair[0], [picture(45, 60), picture(64, 48)], [label, None],
        other=pair[1], names=("one", "two"), classes=CLASSES, pixel=(20, 40),
        block=1, cause_pixels=3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def page_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    widget().save_html(path)
    return path


@pytest.fixture
def open_page(chromium):
    """Open a file with the network off; at the end nothing was fetched and nothing complained."""
    contexts, complaints, requests = [], [], []

    def open_(path: Path, width: int = 900, connect=None, address: str = "mode=explore", **facts):
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, offline=True, accept_downloads=True, **facts
        )
        contexts.append(context)
        page = noted_page(context, complaints, requests)
        page.goto(path.as_uri() + (address and f"#{address}"))
        if connect:
            connect(page)
        if facts.get("java_script_enabled", True):
            settle(page)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [c for c in complaints if not any(word in c for word in NOT_OURS)] == []
    assert [r for r in requests if not r.startswith(("file:", "data:", "blob:"))] == []


STATE = "document.querySelector('.setr-explorer-host')?.parentElement.explorer"


def settle(page) -> None:
    """Until all numbers of the chosen patch are there."""
    for _ in range(1200):
        if page.evaluate(f"{STATE}?.at.card.ariaBusy === 'false'"):
            return
        page.wait_for_timeout(25)
    raise AssertionError("the explorer did not open")


def state(page, name: str):
    return page.evaluate(f"{STATE}.state[{json.dumps(name)}]")


def numbers(page, name: str, model: int = 0) -> np.ndarray:
    """What the page shows, as it gives it away."""
    found = page.evaluate(
        f"(() => {{const f = {STATE}.view.numbers({model})[{json.dumps(name)}];"
        "return {data: Array.from(f.data), shape: f.shape}})()"
    )
    data = [np.nan if value is None else value for value in found["data"]]
    return np.array(data, np.float64).reshape(found["shape"])


def click_pixel(page, row: float, col: float, size=(45, 60)) -> None:
    page.locator("[data-at=picture]").scroll_into_view_if_needed()
    box = page.locator("[data-at=picture]").bounding_box()
    page.mouse.click(
        box["x"] + (col + 0.5) / size[1] * box["width"],
        box["y"] + (row + 0.5) / size[0] * box["height"],
    )
    settle(page)


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    settle(page)


def view(image: int = 0, model: int = 0):
    return widget()._views[image][model]


def percent(text: str) -> float:
    return float(text.replace("−", "-").replace("+", "").replace("%", "")) / 100


# -------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("direction", ["from", "to"])
def test_shown_rows_are_torchs_within_one_colour_step(open_page, page_file, direction, model):
    page = open_page(page_file)
    page.click(f"[data-do=direction][data-value={direction}]")
    click_pixel(page, 33, 50)
    found = numbers(page, "rows", model)[..., 1:]
    expected = attention_rows(view(0, model).model, view().scene.images, (2, 3), direction).numpy()
    assert (abs(found - expected) <= ACCURACY * expected.max(-1, keepdims=True)).all()


@pytest.mark.parametrize("direction", ["from", "to"])
def test_shown_rollout_is_attention_rollout_up_to_every_block(open_page, page_file, direction):
    page = open_page(page_file)
    page.click(f"[data-do=direction][data-value={direction}]")
    settle(page)
    maps = attention_maps(view().model, view().scene.images)
    found = numbers(page, "rollout")
    for layer in range(4):
        whole = attention_rollout(maps[: layer + 1])[0].numpy()
        expected = (
            whole[6] if direction == "from" else whole[:, 6]
        )  # pixel (20, 40): row 1, column 2
        # the rounding of the rows, once per layer
        assert abs(found[layer] - expected).max() <= (layer + 1) * ACCURACY * expected.max()


def test_shown_statistics_are_those_of_the_library(open_page, page_file):
    """Entropy, distance and share inside the class, of rows within one colour step."""
    page = open_page(page_file)
    click_pixel(page, 5, 20)
    rows = torch.from_numpy(numbers(page, "rows"))
    labels = label_grid(view().scene.label, (45, 60), 16)
    share, _ = attention_inside(rows.float(), labels, query=1)
    # 1e-5: float32 against float64
    assert np.allclose(numbers(page, "entropy"), attention_entropy(rows), atol=1e-5)
    distance = attention_distance(rows.float(), (3, 4), 16, query=1)
    assert np.allclose(numbers(page, "distance"), distance, atol=1e-4)
    assert np.allclose(numbers(page, "inside"), share, atol=1e-5, equal_nan=True)


def test_the_printed_range_is_the_largest_attention(open_page, page_file):
    page = open_page(page_file)
    page.select_option("[data-at=scale]", "own")
    expected = attention_rows(view().model, view().scene.images, 6)[1].mean(0).max().item()
    text = page.locator(".map[data-model='0'] [data-part=high]").inner_text()
    # two digits are printed: 0.5 of the last one, and one colour step
    assert percent(text) == pytest.approx(expected, rel=0.06)


def test_the_table_prints_entropy_and_distance_beside_the_uniform_value(open_page, page_file):
    page = open_page(page_file)
    page.click("[role=tab][data-value=heads]")
    table = page.locator("[data-at=headRows] tr")
    assert table.count() == 1 + 4 * 3
    even = table.nth(0).locator("td").all_inner_texts()
    assert float(even[0]) == pytest.approx(np.log(13), abs=0.006)
    rows = attention_rows(view().model, view().scene.images, 6)
    shown = float(table.nth(1).locator("td").nth(1).inner_text())
    expected = attention_distance(rows, (3, 4), 16, query=6)[0, 0].item()
    assert shown == pytest.approx(expected, abs=0.3)  # one digit, and one colour step


def test_heads_sort_by_distance_both_ways(open_page, page_file):
    page = open_page(page_file)
    page.click("[role=tab][data-value=heads]")
    column = page.locator("[data-at=headRows] tr:not(.even) td:nth-of-type(2)")
    for down in (False, True):
        page.click("[data-do=sort][data-value=distance]")
        values = [float(text) for text in column.all_inner_texts()]
        assert values == sorted(values, reverse=down)


def test_means_over_all_patches_are_the_librarys(open_page, page_file):
    page = open_page(page_file)
    page.click("[role=tab][data-value=heads]")
    page.select_option("[data-at=over]", "all")
    maps = attention_maps(view().model, view().scene.images)
    expected = attention_distance(maps, (3, 4), 16)[2, 0, 1].mean().item()
    row = page.locator("[data-at=headRows] tr", has_text="block 2, head 1")
    assert float(row.locator("td").nth(1).inner_text()) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("model", [0, 1])
def test_class_scores_after_the_last_upsampling_are_the_networks(open_page, page_file, model):
    """The page resizes the scores itself; they are stored in steps of 0.01."""
    page = open_page(page_file)
    page.click(f"[data-do=model][data-value='{model}']")
    for row, col in ((0, 0), (44, 59), (20, 41)):
        found = page.evaluate(f"{STATE}.view.scoresAt({row}, {col}).after")
        with torch.no_grad():
            expected = view(0, model).model(view().scene.images)[0, :, row, col]
        assert np.allclose(found, expected, atol=0.006)


def test_the_verdict_names_the_predicted_and_the_true_class(open_page, page_file):
    page = open_page(page_file)
    page.click("[role=tab][data-value=forward]")
    click_pixel(page, 40, 10)
    with torch.no_grad():
        predicted = view().model(view().scene.images)[0, :, 40, 10].argmax().item()
    truth = int(view().scene.label[40, 10])
    text = page.locator("[data-at=verdict]").inner_text()
    assert f"predicted {CLASSES[predicted]} " in text
    assert f"It is {CLASSES[truth]}: {'right' if truth == predicted else 'wrong'}" in text


def test_every_decoder_stage_is_shown_with_its_size(open_page, page_file):
    page = open_page(page_file)
    page.click("[data-do=model][data-value='1']")
    page.click("[role=tab][data-value=forward]")
    found = [text.split(", ")[-1] for text in page.locator(".stages span").all_inner_texts()]
    assert found == ["3×4", "6×8", "12×16", "24×32", "45×60"]


def test_the_slider_through_the_blocks_shows_what_every_head_says(open_page, page_file):
    page = open_page(page_file)
    page.click("[role=tab][data-value=emergence]")
    for entry in view()._emergence():
        page.locator("[data-at=block]").fill(str(entry.layer))
        reader = page.locator("[data-at=reader]")
        if reader.is_visible():
            reader.select_option(entry.source)
        kind = int(entry.labels[0, 20, 40])
        text = page.locator("[data-at=emergenceWords]").inner_text()
        assert text.startswith(f"{entry.name} says “{CLASSES[kind]}” here.")


def test_the_causal_check_is_hide_at_the_nearest_stored_pixel(open_page, page_file):
    page = open_page(page_file)
    page.click("[role=tab][data-value=cause]")
    click_pixel(page, 21, 38)
    found = hide(view().model, view().scene.images, view().cause_pixels, 1)
    before = found.probability[0].item()
    after = before - found.probability_fall["attended"][0].item()
    text = page.locator("[data-choice=attended] span").inner_text()
    shown = [percent(part) for part in text.split("→")]
    assert shown == pytest.approx([before, after], abs=0.006)
    assert "(20, 40), is 2 px from yours" in page.locator("[data-at=causeWords]").inner_text()


# ---------------------------------------------------------------------------------------- hands


def test_a_click_chooses_the_patch_and_says_so_in_words(open_page, page_file):
    page = open_page(page_file)
    click_pixel(page, 33, 50)
    assert state(page, "pixel") == [33, 50]
    assert "the patch in row 2, column 3" in page.locator("[data-at=words]").inner_text()
    page.wait_for_timeout(500)
    assert "row 2, column 3" in page.locator("[data-at=spoken]").inner_text()


@pytest.mark.parametrize("direction", ["from", "to"])
@pytest.mark.parametrize(
    ("over", "click"),
    [
        ("[data-at=picture]", False),
        (".map[data-model='1'] .screen", False),
        (".map[data-model='1'] .screen", True),
    ],
)
def test_pointing_reads_a_cell_off_the_maps_and_leaves_the_asker(live, over, click, direction):
    """A click on a map reads too; the one on the picture has a test of its own."""
    page, asked = live
    page.click(f"[data-do=direction][data-value={direction}]")
    settle(page)
    before = page.locator("[data-at=words]").inner_text()
    asked.clear()
    page.locator(over).scroll_into_view_if_needed()
    box = page.locator(over).bounding_box()
    place = box["x"] + 55.5 / 60 * box["width"], box["y"] + 40.5 / 45 * box["height"]
    page.mouse.move(*place)
    if click:
        page.mouse.click(*place)
    rows = attention_rows(view(0, 1).model, view().scene.images, (1, 2), direction)[1].mean(0)
    text = page.locator(".map[data-model='1'] [data-part=even]").inner_text()
    where, value, ratio = re.match(r"(row 2, column 3): (.+ %), (\S+) times uniform", text).groups()
    assert percent(value) == pytest.approx(rows[11].item(), rel=0.06)
    assert float(ratio) == pytest.approx(rows[11].item() * 13, rel=0.06)
    assert page.locator("[data-at=words]").inner_text() == before
    assert (state(page, "pixel"), asked) == ([20, 40], [])
    page.mouse.move(1, 1)
    assert where not in page.locator(".map[data-model='1'] [data-part=even]").inner_text()


def test_shift_and_arrows_read_the_maps_for_who_has_no_mouse(open_page, page_file):
    page = open_page(page_file)
    page.focus(".map[data-model='0'] .screen")
    press(page, "Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowUp")
    assert "row 0, column 0:" in page.locator(".map[data-model='0'] [data-part=even]").inner_text()
    assert state(page, "pixel") == [20, 40]
    page.wait_for_timeout(500)
    assert "row 0, column 0:" in page.locator("[data-at=spoken]").inner_text()


def test_the_class_in_the_sentence_is_the_one_that_its_numbers_are_of(open_page, page_file):
    """The commonest of the patch, wherever in the patch the pixel lies."""
    page = open_page(page_file)
    grid = label_grid(view().scene.label, (45, 60), 16)
    differ = 0
    for row, col in itertools.product((1, 15, 44), (1, 15, 31, 59)):
        click_pixel(page, row, col)
        kind = int(grid[row // 16, col // 16])
        if kind == 255:
            continue
        differ += int(view().scene.label[row, col]) != kind
        words = page.locator("[data-at=words]").inner_text()
        assert f"({CLASSES[kind]})" in words
        covered = re.search(r"which cover (\S+ %)", words)[1]
        assert percent(covered) == pytest.approx((grid == kind).float().mean().item(), abs=0.006)
        assert page.locator("[data-at=pictureName]").inner_text().endswith(CLASSES[kind])
    assert differ > 2


@pytest.mark.parametrize("chosen", ["0", "1", "difference"])
@pytest.mark.parametrize("head", ["mean", "1", "rollout"])
def test_one_range_covers_every_map_of_every_network(open_page, page_file, chosen, head):
    page = open_page(page_file)
    page.click(f"[data-do=model][data-value={chosen!r}]")
    page.select_option("[data-at=scale]", "shared")
    page.select_option("[data-at=head]", head)
    name = "rollout" if head == "rollout" else "rows"
    largest = max(
        numbers(page, name, model)[..., 0 if head == "rollout" else 1 :].max() for model in (0, 1)
    )
    ends = page.locator(".map [data-part=high]").all_inner_texts()
    assert [percent(end) for end in ends] == pytest.approx([largest] * 3, rel=0.06)


def test_colours_are_times_uniform_unless_another_scale_is_chosen(open_page, page_file):
    page = open_page(page_file)
    assert state(page, "scale") == "times"
    ends = page.locator(".map[data-model='0'] [data-part=high]")
    assert ends.inner_text() == "≥ 16 ×"
    assert "uniform 7.7 %" in page.locator(".map[data-model='0'] [data-part=even]").inner_text()


def test_playing_steps_through_the_blocks(open_page, page_file):
    page = open_page(page_file)
    page.click("[role=tab][data-value=emergence]")
    page.locator("[data-at=block]").fill("2")
    page.click("[data-do=play]")
    assert state(page, "block") == 0
    for _ in range(200):  # 1.5 seconds
        if state(page, "block") == 3:
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"stopped at block {state(page, 'block')}")


def test_playing_moves_one_block_only_for_who_wants_no_motion(open_page, page_file):
    page = open_page(page_file, reduced_motion="reduce")
    page.click("[role=tab][data-value=emergence]")
    page.click("[data-do=play]")
    page.wait_for_timeout(700)
    assert state(page, "block") == 2


def test_arrows_move_the_patch_and_stop_at_the_border(open_page, page_file):
    page = open_page(page_file)
    page.focus("[data-at=picture]")
    press(page, "ArrowRight", "ArrowDown")
    assert [value // 16 for value in state(page, "pixel")] == [2, 3]
    press(page, "ArrowRight", "ArrowDown")
    assert [value // 16 for value in state(page, "pixel")] == [2, 3]
    press(page, *["ArrowUp"] * 4, *["ArrowLeft"] * 5)
    assert [value // 16 for value in state(page, "pixel")] == [0, 0]


def test_digits_choose_the_block_and_brackets_the_head(open_page, page_file):
    page = open_page(page_file)
    page.focus("[data-at=picture]")
    press(page, "3", "[")
    assert (state(page, "block"), state(page, "head")) == (3, 2)  # from the mean back to the last
    press(page, "]", "]")
    assert state(page, "head") == "max"
    assert (
        page.locator(".map[data-model='0'] [data-part=name]").inner_text() == "one · block 3 · max"
    )


def test_sliders_choose_block_opacity_and_head(open_page, page_file):
    page = open_page(page_file)
    page.locator("[data-at=block]").fill("2")
    page.select_option("[data-at=head]", "1")
    settle(page)
    canvas = ".map[data-model='0'] canvas"
    strong = page.locator(canvas).screenshot()
    page.locator("[data-at=opacity]").fill("0")
    assert (state(page, "block"), state(page, "head"), state(page, "opacity")) == (2, 1, 0)
    weak = np.asarray(Image.open(io.BytesIO(page.locator(canvas).screenshot())).convert("RGB"))
    inner = weak[10:-10:9, 10:-10:9].astype(int)
    assert strong != page.locator(canvas).screenshot()
    assert abs(inner[..., 0] - inner[..., 2]).max() <= 2  # the grey picture alone


def test_a_click_in_the_grid_enlarges_that_head(open_page, page_file):
    page = open_page(page_file)
    box = page.locator("[data-at=grid]").bounding_box()
    x, y = 3.4 * box["width"] / 4, 4.4 * box["height"] / 6  # mean, max, rollout and 3 heads
    page.locator("[data-at=grid]").click(position={"x": x, "y": y})
    assert (state(page, "block"), state(page, "head")) == (3, 1)


def test_the_difference_view_subtracts_the_second_network_from_the_first(open_page, page_file):
    page = open_page(page_file)
    page.click("[data-do=model][data-value=difference]")
    found = page.evaluate(f"Array.from({STATE}.view.map('difference', 1, 'mean'))")
    rows = [attention_rows(view(0, m).model, view().scene.images, 6)[1].mean(0) for m in (0, 1)]
    expected = (rows[0] - rows[1]).numpy()
    assert abs(np.array(found) - expected).max() <= ACCURACY * (rows[0].max() + rows[1].max())
    text = page.locator(".map[data-model=difference] [data-part=high]").inner_text()
    assert percent(text) == pytest.approx(abs(expected).max(), rel=0.06)


def test_cells_of_several_patches_show_pooled_attention_and_say_so(open_page, tmp_path):
    """Means over the asking patches of sums over the others; the grid of 3x4 becomes 2x2."""
    model, image = view().model, view().scene.images
    pooled = AttentionExplorer(model, picture(45, 60), pixel=(20, 40), pool=2, cause_pixels=0)
    pooled.save_html(tmp_path / "pooled.html")
    page = open_page(tmp_path / "pooled.html")
    members = [[0], [1, 2, 5, 6], [3, 4, 7, 8], [9, 10], [11, 12]]
    whole = attention_maps(model, image)[2][0, 1].numpy()
    expected = np.array([whole[np.ix_(members[2], keys)].sum(1).mean() for keys in members])
    found = numbers(page, "rows")[2, 1]
    assert (abs(found - expected) <= ACCURACY * expected.max()).all()
    words = page.locator("[data-at=words]").inner_text()
    assert "the cell in row 0, column 1 " in words and "Each cell stands for 2×2 patches" in words
    page.click("[role=tab][data-value=heads]")
    even = page.locator("[data-at=headRows] tr.even td").first.inner_text()
    shares = np.array([1, 4, 4, 2, 2]) / 13  # uniform over the tokens, not over the cells
    assert float(even) == pytest.approx(-(shares * np.log(shares)).sum(), abs=0.006)


def test_another_image_brings_its_own_grid_and_keeps_the_pixel_inside(open_page, page_file):
    page = open_page(page_file)
    click_pixel(page, 40, 55)
    page.click("[data-do=image][data-value='1']")
    settle(page)
    assert state(page, "pixel") == [40, 47]
    found = numbers(page, "rows")[..., 1:]
    expected = attention_rows(view(1).model, view(1).scene.images, (2, 2)).numpy()
    assert (abs(found - expected) <= ACCURACY * expected.max(-1, keepdims=True)).all()


def test_every_control_has_a_name_for_screen_readers(open_page, page_file):
    page = open_page(page_file)
    nameless = page.evaluate(
        "[...document.querySelector('.setr-explorer-host').shadowRoot"
        ".querySelectorAll('button, select, input, [tabindex]:not([role=tab]), canvas[role=img]')]"
        ".filter(n => n.checkVisibility() && !(n.textContent.trim() || n.ariaLabel"
        " || n.closest('label') || n.title)).map(n => n.outerHTML.slice(0, 80))"
    )
    assert nameless == []


def test_no_two_buttons_have_one_name(open_page, page_file):
    page = open_page(page_file)
    page.evaluate(f"{STATE}.shadow.querySelectorAll('[hidden]').forEach((n) => n.hidden = false)")
    names = page.evaluate(
        f"[...{STATE}.shadow.querySelectorAll('button')].map(n => n.ariaLabel ?? n.textContent)"
    )
    assert len(names) > 15 and len(set(names)) == len(names)


def test_the_keys_of_a_notebook_are_neither_taken_nor_given(open_page, page_file):
    """Letters and digits stay here, where a notebook would change cells; Ctrl+S saves it."""
    page = open_page(page_file)
    page.evaluate(
        "window.heard = []; document.addEventListener('keydown', (e) => heard.push(e.key))"
    )
    page.focus("[data-at=picture]")
    press(page, *"bdx5", "Enter", "Shift+Enter", "Escape", "ArrowLeft", "Control+s", "Meta+s")
    assert page.evaluate("window.heard.filter((key) => key.length === 1)") == ["s", "s"]
    assert not set(page.evaluate("window.heard")) & {"Enter", "Escape", "ArrowLeft"}


def test_tabs_are_reached_with_arrow_keys(open_page, page_file):
    page = open_page(page_file)
    page.focus("[role=tab][data-value=grid]")
    press(page, "ArrowRight")
    assert state(page, "panel") == "heads"
    assert (
        page.locator("#panel-heads").is_visible() and not page.locator("#panel-grid").is_visible()
    )


# ----------------------------------------------------------------------------------------- tour

TOUR = f"{STATE}.tour"


def stop(page, number: int) -> None:
    page.click(f"[data-do=stop][data-value='{number}']")


def kept(page, name: str):
    """What the tour asked for, once it is there; arrays as lists."""
    for _ in range(1200):
        found = page.evaluate(
            f"(() => {{ const found = {TOUR}.kept?.[{json.dumps(name)}] ?? null;"
            "return found?.map?.((one) => one.length ? [...one] : one) ?? found })()"
        )
        if found:
            return found if "labels" in found else np.array(list(_listed(found)))
        page.wait_for_timeout(25)
    raise AssertionError(f"no {name}")


def _listed(found):
    """Arrays come as objects with a number for every key."""
    return found.values() if isinstance(found, dict) else found


def test_a_file_of_its_own_begins_with_the_tour(open_page, page_file):
    """Every stop's task is done, and only then its button stops saying Skip."""
    page = open_page(page_file, address="")
    assert state(page, "mode") == "tour" and page.locator("[data-at=left]").is_visible()
    assert not page.locator("[data-at=picture]").is_visible()
    next_, left = page.locator("[data-at=next]"), page.locator("[data-at=left]")

    def done(*tasks):
        assert next_.text_content() in ("Skip", "Explore on your own")
        for task in tasks:
            task()
            settle(page)
        page.locator("[data-at=next].strong").wait_for()
        next_.click()

    def click(x, y):
        box = left.bounding_box()
        left.click(position={"x": x * box["width"], "y": y * box["height"]})

    done(lambda: page.locator("[data-tool=apart]").fill("60"))
    done(lambda: page.click("[data-tool=unplaced]"))
    done(lambda: click(0.9, 0.1))
    done(lambda: click(0.5, 0.1), lambda: click(0.5, 0.9))
    done(lambda: page.locator("[data-at=block]").fill("3"))
    done(lambda: click(0.2, 0.7))
    done(lambda: page.click("[data-tool=hide][data-value=nearest]"))
    assert state(page, "mode") == "explore"
    assert page.locator("[data-at=picture]").is_visible() and not left.is_visible()


@pytest.mark.parametrize("place", ["file", "kernel"])
def test_the_tours_own_questions_are_answered_as_torch_would(request, open_page, page_file, place):
    page = request.getfixturevalue("live")[0] if place == "kernel" else open_page(page_file)
    page.click("[data-do=mode][data-value=tour]")
    seen = view()
    stop(page, 2)
    page.click("[data-tool=unplaced]")
    assert (kept(page, "unplaced") == seen.unplaced.ravel()).all()
    assert (seen.unplaced != seen.stages["logits"][0].argmax(0).numpy()).any()
    stop(page, 3)
    page.evaluate(f"{TOUR}.pairWith([40, 10])")  # of the mean of the heads the first one
    found = np.exp(kept(page, "products").sum())
    page.evaluate(f"{TOUR}.pairWith([3, 55])")
    page.wait_for_function(f"!{TOUR}.kept.keys.products.endsWith(',8')")
    page.wait_for_timeout(300)
    other = np.exp(kept(page, "products").sum())
    rows = attention_rows(seen.model, seen.scene.images, 6)[1, 0].numpy()
    assert found / other == pytest.approx(rows[8] / rows[3], rel=0.05)
    stop(page, 5)
    expected = seen.likeness(6).numpy()
    assert abs(kept(page, "likeness") - expected).max() < (1e-5 if place == "kernel" else 0.03)


def test_a_kernel_hides_the_patches_that_are_brushed_away(live):
    page, _ = live
    page.click("[data-do=mode][data-value=tour]")
    stop(page, 7)
    page.evaluate(f"{TOUR}.hideAt([5, 5])")
    after, expected = kept(page, "after"), view().without([0], (20, 40))
    assert list(_listed(after["labels"])) == expected["labels"].ravel().tolist()
    for name in ("kind", "before", "left"):
        assert after[name] == pytest.approx(expected[name], abs=1e-6)
    assert expected["left"] != expected["before"]


def test_a_page_without_a_network_hides_what_was_hidden_beforehand(open_page, page_file):
    page = open_page(page_file)
    page.click("[data-do=mode][data-value=tour]")
    stop(page, 7)
    assert "brushing needs" in page.locator("[data-at=todo]").inner_text()
    page.click("[data-tool=hide][data-value=attended]")
    check = view().checks[len(view().checks) >> 1]
    before = check["probability"][0]
    found = page.locator("[data-at=found]", has_text="patches hidden")
    found.wait_for()  # drawn once a frame
    text = found.inner_text()
    shown = [percent(one) for one in re.findall(r"[\d.]+ %", text)]
    left = before - check["probability_fall"]["attended"][0]
    assert shown == pytest.approx([before, left], abs=0.006)
    assert f"{check['k']} patches hidden" in text


def test_an_explorer_in_a_notebook_begins_where_its_cell_says(live):
    page, _ = live
    assert state(page, "mode") == "explore"
    page.click("[data-do=mode][data-value=numbers]")
    assert page.locator("#panel-heads").is_visible()
    page.click("[data-do=mode][data-value=explore]")
    assert page.locator("#panel-grid").is_visible()


# ---------------------------------------------------------------------------------------- looks


def test_dark_mode_follows_the_page_and_then_the_system(open_page, page_file):
    page = open_page(page_file, color_scheme="dark")
    paper = f"getComputedStyle({STATE}.at.card).backgroundColor"
    assert page.evaluate(paper) == "rgb(20, 24, 30)"
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_timeout(50)
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("panel", ["grid", "heads", "forward", "emergence", "cause"])
def test_nothing_sticks_out_of_a_phone(open_page, page_file, panel):
    page = open_page(page_file, width=390)
    page.click(f"[role=tab][data-value={panel}]")
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    host = page.locator(".card").bounding_box()
    wide = page.evaluate(
        "[...document.querySelector('.setr-explorer-host').shadowRoot.querySelectorAll('.card *')]"
        ".filter(n => n.checkVisibility() && !n.closest('.scroll, .stages, .list, .unseen, option')"
        f" && n.getBoundingClientRect().right > {host['x'] + host['width'] + 1})"
        ".map(n => n.outerHTML.slice(0, 60))"
    )
    assert wide == []


def test_print_shows_every_block_and_the_colour_bar(open_page, page_file):
    page = open_page(page_file)
    page.locator("[data-at=grid]").evaluate("(one) => { one.style.width = '2000px'; }")
    page.emulate_media(media="print")
    card, grid = (page.locator(name).bounding_box() for name in (".card", "[data-at=grid]"))
    assert grid["x"] + grid["width"] <= card["x"] + card["width"]
    assert grid["height"] < grid["width"] * 2
    ramp = page.locator(".map[data-model='0'] .ramp")
    assert ramp.evaluate("(one) => getComputedStyle(one).printColorAdjust") == "exact"


def test_a_long_name_is_not_cut_off_its_map(open_page, tmp_path):
    long = "a network trained on streets for 40000 steps"
    other = AttentionExplorer(
        view().model, picture(45, 60), other=view(0, 1).model, names=[long, "x"], cause_pixels=0
    )
    other.save_html(tmp_path / "long.html")
    page = open_page(tmp_path / "long.html", width=390)
    for name in page.locator(".map [data-part=name]").all():
        assert name.evaluate("(one) => one.scrollWidth <= one.clientWidth")
        assert "mean" in name.inner_text()


def test_a_page_without_the_check_says_so_where_the_tour_asks_for_it(open_page, tmp_path):
    widget = AttentionExplorer(view().model, picture(45, 60), cause_pixels=0)
    widget.save_html(tmp_path / "bare.html")
    page = open_page(tmp_path / "bare.html", address="mode=tour&stop=7")
    page.click("[data-tool=hide][data-value=attended]")
    page.locator("[data-at=found]", has_text="made without the check").wait_for()


def test_a_touch_chooses_a_patch(open_page, page_file):
    page = open_page(page_file, width=390, has_touch=True, is_mobile=True)
    box = page.locator("[data-at=picture]").bounding_box()
    page.touchscreen.tap(box["x"] + 2, box["y"] + box["height"] - 3)
    settle(page)
    assert [value // 16 for value in state(page, "pixel")] == [2, 0]


def test_without_scripts_the_picture_stays(open_page, page_file):
    page = open_page(page_file, java_script_enabled=False)
    assert page.locator("img[alt*='looks at']").bounding_box()["width"] > 300
    assert "still picture" in page.locator("noscript").inner_text()


# --------------------------------------------------------------------------------------- keeping


def download(page, entry: str) -> bytes:
    """What an entry of the menu "Save ..." keeps."""
    with page.expect_download() as found:
        page.locator("[data-at=save]").select_option(entry)
    return Path(found.value.path()).read_bytes()


def test_numpy_reads_the_npz_of_the_page(open_page, page_file):
    page = open_page(page_file)
    with np.load(io.BytesIO(download(page, "npz"))) as found:
        assert found["model1_rows"].dtype == np.float32
        assert np.allclose(found["model1_rows"], numbers(page, "rows", 1))
        assert found["model0_pixel"].tolist() == [20, 40] and found["model0_prefix_tokens"] == 1


@pytest.mark.parametrize("part", [".tile[data-panel]", '.map[data-model="1"]'])
def test_pictures_and_maps_are_kept_as_png(open_page, page_file, part):
    page = open_page(page_file)
    kept = Image.open(io.BytesIO(download(page, f"png {part}")))
    box = page.locator(f".card {part}").first.bounding_box()
    assert abs(kept.width - 2 * (box["width"] + 20)) <= 2
    assert page.locator("[data-at=save]").input_value() == ""


def test_arrows_in_the_grid_choose_block_and_head(open_page, page_file):
    page = open_page(page_file)
    page.locator("[data-at=grid]").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.evaluate(f"[{STATE}.state.block, {STATE}.state.head]") == [3, "max"]
    assert page.evaluate(f"{STATE}.state.pixel") == [20, 40]
    assert "block 3, max" in page.locator("[data-at=grid]").get_attribute("aria-label")


def test_a_view_of_a_file_is_linked_by_its_address(open_page, page_file):
    page = open_page(page_file)
    click_pixel(page, 33, 50)
    page.locator("[data-at=block]").fill("3")
    page.locator("[data-at=head]").select_option("2")
    address = page.url.split("#")[1]
    assert "px=33,50" in address and "b=3" in address and "h=2" in address
    again = open_page(page_file, address=address)
    assert again.evaluate(f"{STATE}.kept()") == page.evaluate(f"{STATE}.kept()")
    odd = open_page(page_file, address="mode=explore&b=99&h=77&img=5&net=x&p=none&px=9999,1&dir=up")
    assert odd.evaluate(f"{STATE}.kept().block") == 1


@pytest.mark.parametrize("panel", ["grid", "heads", "forward", "emergence", "cause"])
def test_every_panel_is_kept_as_png_as_it_stands_at_twice_its_size(open_page, page_file, panel):
    page = open_page(page_file)
    page.click(f"[role=tab][data-value={panel}]")
    settle(page)
    place = page.locator(f"#panel-{panel}")
    seen = Image.open(io.BytesIO(place.screenshot())).convert("L")
    kept = Image.open(io.BytesIO(download(page, "png [role=tabpanel]:not([hidden])"))).convert("L")
    box = place.bounding_box()
    assert kept.size == pytest.approx((2 * box["width"] + 40, 2 * box["height"] + 40), abs=2)
    inner = kept.crop((20, 20, kept.width - 20, kept.height - 20)).resize(seen.size)
    # buttons and menus are left out of the picture, letters are smoothed in another way
    assert abs(np.asarray(inner, int) - np.asarray(seen, int)).mean() < 9


def test_the_kept_page_opens_as_an_explorer_again(open_page, page_file, tmp_path):
    page = open_page(page_file)
    again = tmp_path / "again.html"
    again.write_bytes(download(page, "html"))
    policy = re.compile(rb'(?s).*?Security-Policy" content="([^"]+)"')
    assert policy.match(again.read_bytes())[1] == policy.match(page_file.read_bytes())[1]
    assert np.array_equal(numbers(open_page(again), "rows"), numbers(page, "rows"))


def test_a_kept_page_runs_no_script_that_somebody_put_into_it(chromium, page_file, tmp_path):
    bad = tmp_path / "bad.html"
    text = page_file.read_text(encoding="utf-8")
    bad.write_text(text.replace("</main>", "<script>window.bad = 1</script></main>"), "utf-8")
    with chromium.new_context(offline=True) as context:
        page = context.new_page()
        page.goto(bad.as_uri())
        settle(page)
        assert page.evaluate("window.bad ?? 0") == 0


# ---------------------------------------------------------------------------------------- places


@pytest.fixture
def live(open_page, tmp_path):
    """The module as anywidget calls it, with the widget's own answers behind it; what it asked."""
    path, asked = tmp_path / "live.html", []
    code = module().replace("export default", "window.explorer =")
    body = f"<!doctype html><meta charset=utf-8><body><script type=module>{code}</script>"
    path.write_text(body, encoding="utf-8")

    def answer(question):
        asked.append(question)
        sent: list = []
        widget().send = lambda content, buffers=None: sent.append((content, buffers))
        try:
            widget()._handle_custom_msg(question, [])
        finally:
            del widget().send
        return {"content": sent[0][0], "buffers": [list(one) for one in sent[0][1]]}

    def connect(page):
        page.expose_function("python", answer)
        page.evaluate(ANYWIDGET, [list(widget().data), widget().view])

    return open_page(path, connect=connect), asked


# What anywidget gives to `render`: traits, messages, and Python at the other end.
ANYWIDGET = """([data, view]) => {
  const values = { data: new DataView(Uint8Array.from(data).buffer), view };
  const heard = {};
  const model = {
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; },
    save_changes: () => { window.saved = values.view; },
    on: (name, call) => { heard[name] = call; },
    off: () => {},
    send: async (question) => {
      if (window.dead) throw new Error("Cannot send");
      await window.wait;
      const { content, buffers } = await window.python(question);
      heard["msg:custom"](content, buffers.map((one) => new DataView(Uint8Array.from(one).buffer)));
    },
  };
  window.follow = (changed) => { values.view = changed; heard["change:view"](); };
  window.explorer.render({ model, el: document.body });
}"""


def test_a_click_reaches_python_and_its_row_is_shown(live):
    page, asked = live
    asked.clear()
    click_pixel(page, 33, 50)
    assert {(q["ask"], q["model"]) for q in asked} == {
        ("rows", 0), ("rows", 1), ("rollout", 0), ("rollout", 1)
    }  # fmt: skip
    assert page.evaluate("window.saved.pixel") == [33, 50]
    expected = attention_rows(view().model, view().scene.images, (2, 3)).numpy()
    # 1e-6: float32 over another batch; nothing is rounded on the way
    assert np.allclose(numbers(page, "rows")[..., 1:], expected, atol=1e-6)


@pytest.mark.parametrize("change", ["[data-do=image][data-value='1']", "[data-value=to]", None])
def test_without_a_kernel_old_numbers_stay_with_the_patch_that_they_are_of(live, change):
    """After a restart nobody answers: the page says what to do, and the next click asks again."""
    page, _ = live
    words = page.locator("[data-at=words]")
    before = words.inner_text(), {one: state(page, one) for one in ("image", "pixel", "direction")}
    page.evaluate("window.dead = true")
    page.click(change) if change else click_pixel(page, 8, 9)
    page.locator("[data-at=trouble]", has_text="run the cell again").wait_for()
    page.click("[role=tab][data-value=heads]")  # draws everything
    assert (words.inner_text(), {one: state(page, one) for one in before[1]}) == before
    page.evaluate("window.dead = false")
    click_pixel(page, 8, 9)
    assert "the patch in row 0, column 0" in words.inner_text()
    assert page.locator("[data-at=trouble]").inner_text() == ""


def test_while_an_answer_is_awaited_old_numbers_stay_with_their_patch(live):
    page, _ = live
    words = page.locator("[data-at=words]")
    before = words.inner_text()
    page.evaluate("void (window.wait = new Promise((go) => { window.go = go; }))")
    box = page.locator("[data-at=picture]").bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + 3)
    page.locator("[data-at=block]").fill("1")
    page.click("[role=tab][data-value=forward]")
    assert words.inner_text() == before
    assert page.locator("[data-at=verdict]").inner_text().startswith("Pixel (20, 40)")
    page.evaluate("window.go()")
    settle(page)
    assert "the patch in row 0, column 0" in words.inner_text()


@pytest.mark.parametrize("question", ["html", "check"])
def test_other_questions_without_an_answer_say_so_too(live, question):
    page, _ = live
    page.click("[role=tab][data-value=cause]")
    page.evaluate("window.dead = true")
    if question == "html":
        page.locator("[data-at=save]").select_option("html")
    else:
        page.click("[data-do=check]")
    page.locator("[data-at=trouble]", has_text="run the cell again").wait_for()
    assert page.locator("[data-at=words]").inner_text().startswith("Block 1")


def test_what_python_refuses_is_shown_in_its_words(live):
    page, _ = live
    page.evaluate("window.follow({pixel: [3, 3], block: 2, direction: 'inwards'})")
    page.locator("[data-at=trouble]", has_text="unknown direction").wait_for()
    assert state(page, "direction") == "from"


def test_a_step_through_blocks_and_heads_asks_for_nothing(live):
    """The rows of all of them came with the patch."""
    page, asked = live
    asked.clear()
    page.focus("[data-at=picture]")
    press(page, "2", "]", "[", "3")
    page.locator("[data-at=block]").fill("0")
    page.select_option("[data-at=scale]", "root")
    assert asked == [] and page.evaluate("window.saved.block") == 0


def test_many_changes_at_once_are_drawn_twice_at_most(open_page, page_file):
    """The first at once, the last in the next frame; nothing between is seen by anybody."""
    page = open_page(page_file)
    drawn = page.evaluate(
        f"""async () => {{
          const one = {STATE}, blocks = [], draw = one.drawControls.bind(one);
          one.drawControls = () => {{ blocks.push(one.state.block); draw(); }};
          await new Promise(requestAnimationFrame);
          for (let n = 0; n < 40; n++) one.change({{ block: n % 4 }});
          for (let n = 0; n < 3; n++) await new Promise(requestAnimationFrame);
          return blocks;
        }}"""
    )
    assert len(drawn) <= 2 and drawn[-1] == 3


def test_python_moves_the_cursor(live):
    page, _ = live
    page.evaluate("window.follow({pixel: [3, 3], block: 2})")
    settle(page)
    assert (state(page, "pixel"), state(page, "block")) == ([3, 3], 2)


def test_the_kernel_checks_the_chosen_pixel(live):
    page, _ = live
    page.click("[role=tab][data-value=cause]")
    click_pixel(page, 8, 9)
    page.click("[data-do=check]")
    page.locator("[data-choice=random] span", has_text="mean of 4 draws").wait_for()
    found = hide(view().model, view().scene.images, [(8, 9)], 1)
    before = found.probability[0].item()
    shown = percent(page.locator("[data-choice=attended] span").inner_text().split("→")[0])
    assert shown == pytest.approx(before, abs=0.006)


def test_the_kernel_writes_the_page(live, open_page, tmp_path):
    page, _ = live
    path = tmp_path / "from_kernel.html"
    path.write_bytes(download(page, "html"))
    found, expected = numbers(open_page(path), "rows"), numbers(page, "rows")
    assert (abs(found - expected) <= ACCURACY * expected.max(-1, keepdims=True)).all()


NOTEBOOK = """
import numpy as np, torch
import sys; sys.path[:0] = ["tests", "."]
from test_explorer_browser import widget
explorer = widget()
explorer
"""
QUESTION = """
_, (rows,) = explorer.answer({"ask": "rows", "pixel": [20, 40], "direction": "from"})
stored = explorer._views[0][0].packed(1)
from setr_lib.explorer.packing import ACCURACY, unpack_head
heads = [(layer, head) for layer in range(4) for head in range(3)]
errors = [abs(unpack_head(stored, *at)[7] - rows[at]).max() / rows[at].max() for at in heads]
print(bool(max(errors) <= ACCURACY))
"""


@pytest.fixture(scope="session")
def executed():
    """A notebook with the explorer, run by a kernel of its own."""
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(source.strip()) for source in (NOTEBOOK, QUESTION)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook


def test_a_notebook_stores_the_page_and_the_kernels_row_equals_the_stored_one(executed):
    shown, printed = (cell.outputs[-1] for cell in executed.cells)
    assert set(executed.cells[0].outputs[-2].data) == {WIDGET}
    assert set(shown.data) == {"text/html", "text/plain"}
    assert printed.text.strip() == "True"


@pytest.mark.slow
def test_the_explorer_works_on_a_page_of_the_book(executed, open_page, tmp_path):
    """A one-page book, built as ours is, from the executed notebook without its widget state."""
    notebook = nbformat.from_dict(executed)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# Heads"))
    notebook.metadata.pop("widgets", None)
    notebook.cells[1].outputs = [one for one in notebook.cells[1].outputs if WIDGET not in one.data]
    nbformat.write(notebook, tmp_path / "heads.ipynb")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: heads\n", encoding="utf-8")
    (tmp_path / "_config.yml").write_text(
        'title: T\nexecute: {execute_notebooks: "off"}\nhtml: {use_repository_button: false}\n',
        encoding="utf-8",
    )
    beside = Path(sys.executable).with_name("jupyter-book")
    builder = str(beside) if beside.exists() else shutil.which("jupyter-book")
    assert builder, "no jupyter-book: pip install -r requirements-book.txt"
    subprocess.run([builder, "build", str(tmp_path), "-W", "-n"], check=True, capture_output=True)
    page = open_page(tmp_path / "_build/html/heads.html")
    click_pixel(page, 33, 50)
    expected = attention_rows(view().model, view().scene.images, (2, 3)).numpy()
    found = numbers(page, "rows")[..., 1:]
    assert (abs(found - expected) <= ACCURACY * expected.max(-1, keepdims=True)).all()
