// What the stops of the tour draw, and the words that go with it.

import { paint, packed, surface } from "../js/canvas.js";
import { colouring, drawValues } from "../js/maps.js";
import { headName } from "../js/names.js";
import { largestAt, percent, times } from "../js/numbers.js";
import { drawCursor, drawPatchLines, drawReading } from "../js/picture.js";
import { reading } from "../js/words.js";

const ORANGE = "#e8590c";

function onto(tour, canvas, grey = false) {
  const context = surface(canvas, tour.image.size);
  const size = [canvas.clientWidth, canvas.clientHeight];
  const { colour, grey: pale } = tour.view.photos[0];
  context.drawImage(grey ? pale : colour, 0, 0, ...size);
  return { context, width: size[0], height: size[1] };
}

export function drawAsked(tour, canvas) {
  const { context, width, height } = onto(tour, canvas);
  drawPatchLines(context, tour.view, width, height);
  drawCursor(context, tour.view, width, height, tour.view.pixel, true);
  drawReading(context, tour.view, width);
}

/** The patches of the picture with gaps between them; `share` 1: as wide as a third of a patch. */
export function drawApart(tour, canvas, share) {
  const { size, grid, patch } = tour.image;
  const context = surface(canvas, size);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const [gapX, gapY] = [width, height].map((side, n) => (0.35 * share * side) / grid[1 - n]);
  const [wide, tall] = [width / grid[1] - gapX, height / grid[0] - gapY];
  for (let row = 0; row < grid[0]; row++)
    for (let col = 0; col < grid[1]; col++) {
      const from = [col * patch, row * patch, patch, patch];
      const to = [col * (wide + gapX) + gapX / 2, row * (tall + gapY) + gapY / 2, wide, tall];
      context.drawImage(tour.view.photos[0].colour, ...from, ...to);
    }
}

export function numbersOf({ photo, view, image: { patch } }) {
  const [row, col] = view.placeOf(view.pixel);
  const from = 4 * (row * patch * photo.width + col * patch);
  const first = Array.from(photo.rgba.subarray(from, from + 12)).filter((_, n) => n % 4 < 3);
  const numbers = first.join(", ");
  return [`Patch (${row}, ${col}) begins ${numbers}: red, green, blue of its first pixels.`];
}

/** Classes (height * width) over the grey picture; nothing where there are none yet. */
export function drawKinds(tour, canvas, labels, dot = false) {
  const { context, width, height } = onto(tour, canvas, true);
  if (labels) {
    const { classes } = tour.view.header;
    const table = classes.map(({ colour }) => packed(...colour));
    const picture = paint(...tour.image.size, Uint32Array.from(labels, (kind) => table[kind]));
    context.globalAlpha = 0.75;
    context.drawImage(picture, 0, 0, width, height);
    context.globalAlpha = 1;
  }
  if (dot) drawCursor(context, tour.view, width, height, tour.view.pixel, true);
}

/** The best class of every cell of scores, in hard squares. */
export function drawCells(tour, canvas) {
  const { context, width, height } = onto(tour, canvas, true);
  const { scores } = tour.facts;
  const [rows, cols] = scores.size;
  const { classes } = tour.view.header;
  const colours = Uint32Array.from({ length: rows * cols }, (_, n) => {
    let best = 0;
    for (let k = 1; k < scores.classes.length; k++)
      if (scores.values[k * rows * cols + n] > scores.values[best * rows * cols + n]) best = k;
    return packed(...classes[best].colour);
  });
  context.globalAlpha = 0.75;
  context.imageSmoothingEnabled = false;
  const [tall, wide] = tour.image.size.map((side, n) => (scores.size[n] * side) / scores.covers[n]);
  context.drawImage(paint(rows, cols, colours), 0, 0, wide, tall, 0, 0, width, height);
  context.globalAlpha = 1;
  drawCursor(context, tour.view, width, height, tour.view.pixel, true);
}

export function drawPair(tour, canvas) {
  drawAsked(tour, canvas);
  if (!tour.kept.partner) return;
  const { patch, size } = tour.image;
  const context = canvas.getContext("2d");
  const side = (patch / size[1]) * canvas.clientWidth;
  const [row, col] = tour.view.placeOf(tour.kept.partner);
  context.strokeStyle = ORANGE;
  context.lineWidth = 3;
  context.strokeRect(col * side, row * side, side, side);
}

export function wordsOfPair(tour) {
  const products = tour.products();
  if (!products) return ["No second patch yet."];
  const { view } = tour;
  const { block, head } = view.state;
  const sum = products.reduce((all, one) => all + one, 0);
  const share = view.map(0, block, tour.oneHead())[tour.cellAt(tour.kept.partner)];
  const even = 1 / view.now[0].source.tokens;
  const one = head === tour.oneHead() ? "" : " (one head at a time here)";
  return [
    `Block ${block}, head ${tour.oneHead()}${one}: the products add up to ${sum.toFixed(2)}; ` +
      `e to that power, divided by the sum of the same for all tokens, is ${percent(share)}. ` +
      `If all shares were even, it would be ${percent(even)}.`,
  ];
}

export function drawAttention(tour, canvas) {
  const { context, width, height } = onto(tour, canvas, true);
  const { view } = tour;
  const { block, head, opacity } = view.state;
  const map = view.map(0, block, head);
  if (map) {
    const colours = colouring(view, map, 0, head);
    drawValues(context, view, colours, 0, [0, 0, width, height], opacity);
  }
  drawCursor(context, view, width, height, view.pixel);
  drawReading(context, view, width);
}

export function wordsOfMap({ view }) {
  if (view.read) return [reading(view, 0)];
  const { block, head } = view.state;
  const map = view.map(0, block, head);
  if (!map) return [];
  const best = largestAt(map);
  const cols = view.image.grid[1];
  const even = view.even(view.now[0].source, head)(best);
  const verb = view.direction === "from" ? "looks most at" : "is looked at most by";
  return [
    `Block ${block}, ${headName(head)}: the patch ${verb} row ${Math.floor(best / cols)}, column ` +
      `${best % cols} (${percent(map[best])}, ${times(map[best] / even)} an even share).`,
  ];
}

/** How alike the tokens after this block are to that of the asking patch: dark 0, bright 1. */
export function drawLikeness(tour, canvas) {
  const { context, width, height } = onto(tour, canvas, true);
  const { view } = tour;
  const alike = tour.likeness?.[view.state.block];
  if (alike) {
    const colours = { share: (n) => Math.max(0, alike[n]), table: view.tables.viridis };
    drawValues(context, view, colours, 0, [0, 0, width, height], 0.85);
  }
  drawCursor(context, view, width, height, view.pixel);
  drawReading(context, view, width);
}

export function wordsOfLikeness({ likeness, view }) {
  const alike = likeness?.[view.state.block];
  if (!alike) return ["…"];
  const close = alike.filter((one) => one > 0.8).length;
  return [
    `After block ${view.state.block}, ${close} of ${alike.length} tokens are nearly the same as ` +
      "the one that asks (cosine above 0.8). Right: yellow is alike, dark is not.",
  ];
}

export function drawBrushed(tour, canvas) {
  drawAsked(tour, canvas);
  const { grid, patch, size } = tour.image;
  const context = canvas.getContext("2d");
  const side = (patch / size[1]) * canvas.clientWidth;
  context.fillStyle = "rgba(110,110,110,.95)";
  for (const one of tour.kept.hidden) {
    const [row, col] = [Math.floor(one / grid[1]), one % grid[1]];
    context.fillRect(col * side, row * side, side + 0.3, side + 0.3);
  }
  drawCursor(context, tour.view, canvas.clientWidth, canvas.clientHeight, tour.view.pixel, true);
}
