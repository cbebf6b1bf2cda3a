// Maps of attention over the grey picture: colours, ranges, tiles.

import { gradient, paint, surface } from "./canvas.js";
import { shortName } from "./names.js";
import { largestAt, percent, times } from "./numbers.js";
import { drawCursor, drawReading, photo } from "./picture.js";
import { largest, reading } from "./words.js";

const TIMES = 4; // colours of "times uniform" end at 2 ** TIMES times more and less

/** One large map with its name, its scale and what is read off it. */
export function drawMap(view, tile) {
  const { state } = view;
  const model = tile.dataset.model === "difference" ? "difference" : Number(tile.dataset.model);
  const several = view.image.models.length > 1;
  const part = (what) => tile.querySelector(`[data-part=${what}]`);
  const name = several ? `${view.modelName(model)} · ` : "";
  part("name").textContent = `${name}block ${state.block} · ${shortName(state.head)}`;
  tile.classList.toggle("chosen", several && model === state.model);
  const canvas = tile.querySelector("canvas");
  const context = surface(canvas, view.image.size);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.drawImage(photo(view, false), 0, 0, width, height);
  const map = view.map(model, state.block, state.head);
  const colours = map && colouring(view, map, model, state.head);
  if (map) drawValues(context, view, colours, model, [0, 0, width, height], state.opacity);
  drawCursor(context, view, width, height, view.pixel);
  drawReading(context, view, width);
  drawScale(view, tile, part, model, map, colours);
}

/** The bar below a map, the words below the bar, and both for screen readers. */
function drawScale(view, tile, part, model, map, colours) {
  const { head } = view.state;
  const rollout = head === "rollout";
  tile.dataset.state = map ? "shown" : rollout ? "computing" : "none";
  part("mark").hidden = !(colours?.even <= 1);
  part("low").textContent = part("high").textContent = part("even").textContent = "";
  if (!map) {
    part("high").textContent = rollout
      ? "computing the rollout …"
      : "no such block or head in both";
    return;
  }
  part("low").textContent = colours.low;
  part("high").textContent = colours.high;
  part("bar").style.background = gradient(colours.table);
  part("mark").style.left = `${100 * colours.even}%`;
  part("even").textContent = view.read ? reading(view, model) : ruler(view, model, map, head);
  const text = `${part("name").textContent}: ${largest(view, map, model === "difference")}.`;
  const keys = "Arrow keys move who asks, with Shift they read the map.";
  tile.querySelector(".screen").setAttribute("aria-label", `${text} ${keys}`);
}

/** What the numbers of a map are to be compared with. */
function ruler(view, model, map, head) {
  const { names } = view.header;
  if (model === "difference")
    return `orange: more in “${names[0]}”, purple: more in “${names[1]}”`;
  const best = largestAt(map);
  const even = view.even(view.now[model].source, head)(best);
  return `uniform ${percent(even)}, largest ${percent(map[best])} (${times(map[best] / even)})`;
}

/**
 * How the numbers of a map become colours: `share(i)` 0 to 1 along the table, the two ends in
 * words, and where uniform attention lies on the bar (2: beyond it).
 */
export function colouring(view, map, model, head, scale = view.state.scale) {
  const { source } = view.now[model === "difference" ? 0 : model];
  const even = view.even(source, head);
  if (model !== "difference" && scale === "times") {
    const end = 2 ** TIMES;
    const share = (i) => {
      const log = Math.log2(map[i] / even(i)) / TIMES;
      return 0.5 + 0.5 * Math.max(-1, Math.min(1, log));
    };
    const [low, high] = [`≤ 1/${end} ×`, `≥ ${end} ×`];
    return { share, table: view.tables.times, low, high, even: 0.5 };
  }
  const most = range(view, map, head);
  const squash = scale === "root" ? Math.sqrt : (share) => share;
  const size = (value) => squash(Math.min(1, Math.abs(value) / most));
  if (model === "difference") {
    const share = (i) => 0.5 + 0.5 * Math.sign(map[i]) * size(map[i]);
    const [low, high] = [`−${percent(most)}`, `+${percent(most)}`];
    return { share, table: view.tables.difference, low, high, even: 2 };
  }
  return {
    share: (i) => size(map[i]),
    table: view.tables.viridis,
    low: "0",
    high: percent(most),
    even: even(0) <= most ? squash(even(0) / most) : 2,
  };
}

/**
 * What the largest colour stands for. "One range": the largest value of all heads and blocks of
 * all networks; no mean, maximum or difference of them is larger. Rollouts, another kind of
 * number, have one of their own.
 */
function range(view, map, head) {
  let found = 1e-12;
  if (view.state.scale !== "shared") {
    for (const value of map) found = Math.max(found, Math.abs(value));
    return found;
  }
  const { answered } = view;
  answered.ranges ??= {};
  const kind = head === "rollout" ? `rollouts ${answered.done}` : "maps";
  answered.ranges[kind] ??= Math.max(found, ...answered.now.map((one) => most(one, head)));
  return answered.ranges[kind];
}

function most({ source, rows, rollout }, head) {
  let found = 0;
  if (head === "rollout") for (const value of rollout ?? []) found = Math.max(found, value);
  else
    for (let i = 0; i < rows.length; i++)
      if (i % source.tokens >= source.prefix) found = Math.max(found, rows[i]);
  return found;
}

/** A map over the grey picture, cut where the last patches are padding; `box` left, top, size. */
export function drawValues(context, view, { share, table }, model, box, opacity) {
  const { source } = view.now[model === "difference" ? 0 : model];
  const [rows, cols] = source.grid;
  const colours = new Uint32Array(rows * cols);
  for (let i = 0; i < colours.length; i++) colours[i] = table[Math.round(255 * share(i))];
  const side = view.image.patch * source.pool;
  const [seenRows, seenCols] = view.image.size.map((pixels) => pixels / side);
  context.save();
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = box[2] < cols;
  context.drawImage(paint(rows, cols, colours), 0, 0, seenCols, seenRows, ...box);
  context.restore();
}
