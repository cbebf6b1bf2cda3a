// What the stops of the tour draw, and the words that go with it: of one network, `view.model`.

import { paint, packed, surface } from "./canvas.js";
import { colouring, drawValues } from "./maps.js";
import { headName } from "./names.js";
import { largestAt, percent, times } from "./numbers.js";
import {
  cellBox,
  drawClasses,
  drawCursor,
  drawPatchLines,
  drawReading,
  photo,
} from "./picture.js";
import { reading } from "./words.js";

const ORANGE = "#e8590c";

function onto(view, canvas, grey = false) {
  const context = surface(canvas, view.image.size);
  const size = [canvas.clientWidth, canvas.clientHeight];
  context.drawImage(photo(view, !grey), 0, 0, ...size);
  return { context, width: size[0], height: size[1] };
}

export function drawAsked({ view }, canvas) {
  const { context, width, height } = onto(view, canvas);
  drawPatchLines(context, view, width, height);
  drawCursor(context, view, width, height, view.pixel, true);
  drawReading(context, view, width);
}

/** The patches of the picture with gaps between them; `share` 1: as wide as a third of a patch. */
export function drawApart({ view }, canvas, share) {
  const { size, grid, patch } = view.image;
  const context = surface(canvas, size);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const [gapX, gapY] = [width, height].map((side, n) => (0.35 * share * side) / grid[1 - n]);
  const [wide, tall] = [width / grid[1] - gapX, height / grid[0] - gapY];
  for (let row = 0; row < grid[0]; row++)
    for (let col = 0; col < grid[1]; col++) {
      const from = [col * patch, row * patch, patch, patch];
      const to = [col * (wide + gapX) + gapX / 2, row * (tall + gapY) + gapY / 2, wide, tall];
      context.drawImage(photo(view, true), ...from, ...to);
    }
}

export function numbersOf({ view }) {
  const { patch, size } = view.image;
  const [row, col] = view.pixel.map((at) => Math.floor(at / patch));
  const picture = photo(view, true);
  const canvas = document.createElement("canvas");
  const wide = Math.min(3, size[1] - col * patch);
  Object.assign(canvas, { width: wide, height: 1 });
  const context = canvas.getContext("2d");
  context.drawImage(picture, col * patch, row * patch, wide, 1, 0, 0, wide, 1);
  const { data } = context.getImageData(0, 0, wide, 1);
  const numbers = [...data].filter((_, n) => n % 4 < 3).join(", ");
  return [`Patch (${row}, ${col}) begins ${numbers}: red, green, blue of its first pixels.`];
}

/** Classes (height * width) over the grey picture; nothing where there are none yet. */
export function drawKinds({ view }, canvas, labels, dot = false) {
  const { context, width, height } = onto(view, canvas, true);
  if (labels) drawOnce(context, view, labels, width, height);
  if (dot) drawCursor(context, view, width, height, view.pixel, true);
}

/** Of a run that is shown once. */
function drawOnce(context, view, labels, width, height) {
  const table = view.header.classes.map(({ colour }) => packed(...colour));
  const picture = paint(...view.image.size, Uint32Array.from(labels, (kind) => table[kind]));
  context.globalAlpha = 0.75;
  context.drawImage(picture, 0, 0, width, height);
  context.globalAlpha = 1;
}

/** What the network says of the whole picture. */
export function drawPredicted({ view }, canvas, dot = false) {
  const { context, width, height } = onto(view, canvas, true);
  drawClasses(context, view, view.facts.predicted, "predicted", 0.75, width, height);
  if (dot) drawCursor(context, view, width, height, view.pixel, true);
}

/** The best class of every cell of scores, in hard squares. */
export function drawCells({ view }, canvas) {
  const { context, width, height } = onto(view, canvas, true);
  const { scores } = view.facts;
  const [rows, cols] = scores.size;
  const values = view.scoreValues();
  const colours = Uint32Array.from({ length: rows * cols }, (_, n) => {
    let best = 0;
    for (let k = 1; k < scores.classes.length; k++)
      if (values[k * rows * cols + n] > values[best * rows * cols + n]) best = k;
    return packed(...view.header.classes[scores.classes[best]].colour);
  });
  context.globalAlpha = 0.75;
  context.imageSmoothingEnabled = false;
  const [tall, wide] = view.image.size.map((side, n) => (scores.size[n] * side) / scores.covers[n]);
  context.drawImage(paint(rows, cols, colours), 0, 0, wide, tall, 0, 0, width, height);
  context.globalAlpha = 1;
  drawCursor(context, view, width, height, view.pixel, true);
}

export function drawPair(tour, canvas) {
  drawAsked(tour, canvas);
  if (!tour.kept.partner) return;
  const context = canvas.getContext("2d");
  const { left, top, side } = cellBox(tour.view, tour.kept.partner, canvas.clientWidth);
  context.strokeStyle = ORANGE;
  context.lineWidth = 3;
  context.strokeRect(left, top, side, side);
}

export function wordsOfPair(tour) {
  const { view, kept } = tour;
  const { products } = kept;
  if (!products) return [kept.partner ? "…" : "No second patch yet."];
  const { block, head } = view.state;
  const sum = products.reduce((all, one) => all + one, 0);
  const share = view.map(view.model, block, tour.oneHead())[tour.cellAt(kept.partner)];
  const even = 1 / tour.source.tokens;
  const one = head === tour.oneHead() ? "" : " (one head at a time here)";
  return [
    `Block ${block}, head ${tour.oneHead()}${one}: the products add up to ${sum.toFixed(2)}; ` +
      `e to that power, divided by the sum of the same for all tokens, is ${percent(share)}. ` +
      `If all shares were even, it would be ${percent(even)}.`,
  ];
}

export function drawAttention({ view }, canvas) {
  const { context, width, height } = onto(view, canvas, true);
  const { block, head, opacity } = view.state;
  const map = view.map(view.model, block, head);
  if (map) {
    const colours = colouring(view, map, view.model, head, "times");
    drawValues(context, view, colours, view.model, [0, 0, width, height], opacity);
  }
  drawCursor(context, view, width, height, view.pixel);
  drawReading(context, view, width);
}

export function wordsOfMap({ view }) {
  const { model } = view;
  if (view.read) return [reading(view, model)];
  const { block, head } = view.state;
  const map = view.map(model, block, head);
  if (!map) return [];
  const best = largestAt(map);
  const { source } = view.now[model];
  const [, cols] = source.grid;
  const even = view.even(source, head)(best);
  const verb = view.direction === "from" ? "looks most at" : "is looked at most by";
  const [row, col] = [Math.floor(best / cols), best % cols];
  const [own, other] = [view.placeOf(view.pixel), [row, col]].map((at) => kindOf(view, at));
  return [
    `Block ${block}, ${headName(head)}: this patch (${own}) ${verb} row ${row}, column ${col} ` +
      `(${other}): ${percent(map[best])}, ${times(map[best] / even)} an even share.`,
  ];
}

/** The class that the network gives the middle of a cell. */
function kindOf(view, place) {
  const { patch, size } = view.image;
  const side = patch * view.now[0].source.pool;
  const [row, col] = place.map((at, n) => Math.min(size[n] - 1, at * side + (side >> 1)));
  const kind = view.parcel.array(view.facts.predicted)[row * size[1] + col];
  return view.header.classes[kind].name;
}

/** How alike the tokens after this block are to that of the asking patch: dark 0, bright 1. */
export function drawLikeness({ kept, view }, canvas) {
  const { context, width, height } = onto(view, canvas, true);
  const alike = kept.likeness?.[view.state.block];
  if (alike) {
    const share = (n) => Math.max(0, Math.min(1, alike[n]));
    const colours = { share, table: view.tables.viridis };
    drawValues(context, view, colours, view.model, [0, 0, width, height], 0.85);
  }
  drawCursor(context, view, width, height, view.pixel);
  drawReading(context, view, width);
}

export function wordsOfLikeness({ kept, view }) {
  const alike = kept.likeness?.[view.state.block];
  if (!alike) return ["…"];
  const close = alike.filter((one) => one > 0.8).length;
  return [
    `After block ${view.state.block}, ${close} of ${alike.length} tokens are nearly the same as ` +
      "the one that asks (cosine above 0.8). Right: yellow is alike, dark is not.",
  ];
}

/** `hidden`: numbers of patches, grey; `pixel`: the one that they are hidden from. */
export function drawHidden(tour, canvas, hidden, pixel) {
  const { view } = tour;
  const { context, width, height } = onto(view, canvas);
  const { grid, patch, size } = view.image;
  drawPatchLines(context, view, width, height);
  const side = (patch / size[1]) * width;
  context.fillStyle = "rgba(110,110,110,.95)";
  for (const one of hidden) {
    const [row, col] = [Math.floor(one / grid[1]), one % grid[1]];
    context.fillRect(col * side, row * side, side + 0.3, side + 0.3);
  }
  drawCursor(context, view, width, height, pixel, true);
}
