// Mouse, finger and keys: what they mean, as changes of an explorer.

import { checkCause, savePage } from "./asks.js";
import { cellOf } from "./cells.js";
import { nearest } from "./chart.js";
import { SUMMARIES, headName } from "./names.js";
import { keep, saveNumbers, snapshot } from "./save.js";
import { reading } from "./words.js";

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const FIELDS = ["block", "head", "opacity", "scale", "under", "reader", "cause", "chart", "over"];
const NUMBERS = ["block", "opacity", "cause"]; // fields that hold one

export function listen(explorer) {
  const { at, shadow } = explorer;
  for (const screen of [at.picture, ...shadow.querySelectorAll(".map .screen")])
    listenToScreen(explorer, screen);
  shadow.addEventListener("keydown", (event) => key(explorer, event));
  shadow.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-do]");
    if (button) press(explorer, button);
  });
  for (const name of FIELDS)
    at[name].addEventListener("input", () => {
      const { value } = at[name];
      const number = NUMBERS.includes(name) || (name === "head" && !SUMMARIES.includes(value));
      explorer.change({ [name]: number ? Number(value) : value });
    });
  listenToGrid(explorer);
  at.save.addEventListener("input", () => save(explorer));
  for (const [panel, canvas] of Object.entries({ heads: "headChart", emergence: "emergenceChart" }))
    at[canvas].addEventListener("click", (event) => {
      const { x, y, away, ...found } = nearest(explorer.hits[panel], event, at[canvas]) ?? {};
      if ("block" in found) explorer.change(found);
    });
  const tabs = [...shadow.querySelectorAll("[role=tab]")];
  shadow.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.stopPropagation();
    const now = tabs.findIndex((tab) => tab.dataset.value === explorer.state.panel);
    const next = tabs[(now + step + tabs.length) % tabs.length];
    explorer.change({ panel: next.dataset.value });
    next.focus();
  });
}

/** A click on the picture asks; pointing at it or at a map reads. */
function listenToScreen(explorer, screen) {
  const { view } = explorer;
  // None while another image is on its way: what is on the screen is the one before.
  const pixelAt = (event) =>
    view.answered?.image === explorer.state.image ? pixelUnder(event, screen, view.image) : null;
  screen.addEventListener("pointerdown", (event) => {
    const pixel = pixelAt(event);
    screen.focus({ preventScroll: true });
    if (pixel && screen === explorer.at.picture) explorer.change({ pixel });
    else readAt(explorer, pixel);
  });
  screen.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") readAt(explorer, pixelAt(event));
  });
  screen.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") readAt(explorer, null);
  });
}

/** [row, column] of the image that fills `element`, or null beside it. */
export function pixelUnder(event, element, { size: [rows, cols] }) {
  const box = element.getBoundingClientRect();
  const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
  const col = Math.floor(((event.clientX - box.left) / box.width) * cols);
  return row >= 0 && row < rows && col >= 0 && col < cols ? [row, col] : null;
}

/** Read the cell of a pixel off every map; who asks stays who asks. */
function readAt(explorer, pixel) {
  const { view } = explorer;
  if (!view.answered) return;
  const cell = (one) => one && cellOf(one, view.image, view.now[0].source);
  const before = cell(view.read);
  view.read = pixel;
  if (cell(pixel) !== before) explorer.draw(false);
}

function listenToGrid(explorer) {
  const { grid } = explorer.at;
  const hit = (event) => {
    const box = grid.getBoundingClientRect();
    return explorer.hits.grid?.(event.clientX - box.left, event.clientY - box.top);
  };
  grid.addEventListener("click", (event) => {
    const found = hit(event);
    if (found) explorer.change(found);
  });
  grid.addEventListener("pointermove", (event) => {
    const found = hit(event);
    grid.title = found ? `block ${found.block}, ${headName(found.head)}` : "";
    grid.style.cursor = found ? "pointer" : "default";
  });
}

function press(explorer, button) {
  const { do: what, value, block, head } = button.dataset;
  const { state } = explorer;
  const actions = {
    direction: () => explorer.change({ direction: value }),
    model: () => explorer.change({ model: value === "difference" ? value : Number(value) }),
    image: () => explorer.change({ image: Number(value) }),
    panel: () => explorer.change({ panel: value }),
    mode: () => explorer.change(enter(value, state)),
    stop: () => explorer.change({ mode: "tour", stop: Number(value) }),
    select: () => explorer.change({ block: Number(block), head: Number(head) }),
    sort: () => {
      const down = state.sort?.column === value && !state.sort.down;
      explorer.change({ sort: { column: value, down } });
    },
    check: () => checkCause(explorer),
    play: () => explorer.play(),
  };
  actions[what]();
}

/** Numbers are a panel of their own; who explores has seen them, or another one. */
function enter(mode, { panel }) {
  if (mode === "numbers") return { mode: "explore", panel: "heads" };
  return mode === "explore" && panel === "heads" ? { mode, panel: "grid" } : { mode };
}

/** The chosen entry of the menu, which then stands at "Save …" again. */
function save(explorer) {
  const { at } = explorer;
  const [what, ...rest] = at.save.value.split(" ");
  at.save.value = "";
  const ways = {
    png: () => {
      const part = explorer.shadow.querySelector(rest.join(" "));
      keep(snapshot(part, at.card), `${part.dataset.panel || "attention"}.png`);
    },
    npz: () => saveNumbers(explorer.view),
    html: () => savePage(explorer),
  };
  ways[what]?.();
}

function key(explorer, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const tag = event.target.tagName;
  const typing = tag === "SELECT" || (tag === "INPUT" && event.target.type !== "range");
  const arrow = ARROWS[event.key];
  const onMap = event.target.classList?.contains("screen");
  const onGrid = event.target === explorer.at.grid;
  if (typing || (arrow && !onMap && !onGrid)) return;
  if (arrow && onGrid) stepInGrid(explorer, arrow);
  else if (arrow && event.shiftKey) moveReading(explorer, arrow);
  else if (arrow) move(explorer, arrow);
  else if (/^[0-9]$/.test(event.key)) typeBlock(explorer, event.key);
  else if (event.key === "[" || event.key === "]") nextHead(explorer, event.key === "]" ? 1 : -1);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function move(explorer, arrow) {
  const { state, view } = explorer;
  const image = view.header.images[state.image];
  explorer.change({ pixel: beside(view, state.pixel, image, arrow) });
}

/** Shift and an arrow: walk over the maps and read them, as the mouse does. */
function moveReading(explorer, arrow) {
  const { state, view } = explorer;
  if (!view.answered) return;
  readAt(explorer, beside(view, view.read ?? view.pixel, view.image, arrow));
  explorer.announce(reading(view, state.model));
}

/** The middle of the next patch or cell, within the image. */
export function beside(view, [row, col], { patch, grid, size }, [down, right]) {
  const step = view.answered?.now[0].source.pool ?? 1;
  const middle = (index, count, side) => {
    const kept = Math.max(0, Math.min(count - 1, index));
    return Math.min(side - 1, kept * patch + (patch >> 1));
  };
  const y = Math.floor(row / patch) + down * step;
  const x = Math.floor(col / patch) + right * step;
  return [middle(y, grid[0], size[0]), middle(x, grid[1], size[1])];
}

/** Digits choose a block; two within a second make one number. */
function typeBlock(explorer, digit) {
  const { layers } = explorer.view.facts;
  const now = performance.now();
  const before = explorer.typed ?? { text: "", at: -Infinity };
  const text = now - before.at < 1000 ? before.text + digit : digit;
  explorer.typed = { text: Number(text) < layers ? text : digit, at: now };
  const block = Number(explorer.typed.text);
  if (block < layers) explorer.change({ block });
}

/** Arrows in the grid of all heads: left and right the block, up and down the head. */
function stepInGrid(explorer, [down, right]) {
  const { layers } = explorer.view.facts;
  const block = Math.max(0, Math.min(layers - 1, explorer.state.block + right));
  if (right) explorer.change({ block });
  else nextHead(explorer, down);
}

function nextHead(explorer, step) {
  const all = [...SUMMARIES, ...Array(explorer.view.facts.heads).keys()];
  const now = all.indexOf(explorer.state.head);
  explorer.change({ head: all[(now + step + all.length) % all.length] });
}
