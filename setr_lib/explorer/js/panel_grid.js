// All heads: every block, every head, for the same patch.

import { surface } from "./canvas.js";
import { colouring, drawValues } from "./maps.js";
import { PANELS, SUMMARIES, shortName } from "./names.js";
import { drawCursor, photo } from "./picture.js";

const GAP = 3;

/** Returns (x, y) on the canvas -> {block, head}, or null. */
export function drawGrid(view, at) {
  const { state } = view;
  const { layers, heads } = view.facts;
  const names = [...SUMMARIES, ...Array(heads).keys()];
  const place = placeOfThumbs(at.grid.parentElement.clientWidth, layers, heads, view.image.size);
  const { left, top, stepX, stepY } = place;
  at.grid.style.width = `${left + layers * stepX}px`;
  const context = surface(at.grid, [top + names.length * stepY, left + layers * stepX]);
  drawTitles(context, getComputedStyle(at.card), state, names, layers, place);
  for (const [line, head] of names.entries()) {
    for (let block = 0; block < layers; block++) {
      const corner = [left + block * stepX, top + line * stepY];
      drawThumb(context, view, block, head, ...corner, stepX - GAP, stepY - GAP);
    }
  }
  const [line, block] = [names.indexOf(state.head), state.block];
  context.strokeStyle = getComputedStyle(at.card).getPropertyValue("--accent");
  context.lineWidth = 2.5;
  const [x, y] = [left + block * stepX - 1.25, top + line * stepY - 1.25];
  context.strokeRect(x, y, stepX - GAP + 2.5, stepY - GAP + 2.5);
  at.grid.setAttribute(
    "aria-label",
    `${layers} blocks by ${heads} heads, mean, maximum and rollout; block ${state.block}, ` +
      `${shortName(state.head)} is chosen. Arrow keys choose another; the numbers are in the ` +
      `panel “${PANELS.heads}”.`,
  );
  return hit.bind(null, place, layers, names);
}

function placeOfThumbs(room, layers, heads, size) {
  const [left, top] = [58, 18];
  const wide = Math.max(heads > 8 ? 24 : 36, (room - left) / layers - GAP);
  const width = Math.min(wide, 110);
  const height = Math.max(14, (width * size[0]) / size[1]);
  return { left, top, stepX: width + GAP, stepY: height + GAP };
}

function drawTitles(context, style, state, names, layers, { left, top, stepX, stepY }) {
  const [ink, pale] = [style.getPropertyValue("--ink"), style.getPropertyValue("--pale")];
  context.font = `11px ${style.fontFamily}`;
  context.textBaseline = "middle";
  context.textAlign = "center";
  for (let block = 0; block < layers; block++) {
    context.fillStyle = block === state.block ? ink : pale;
    context.fillText(String(block), left + block * stepX + (stepX - GAP) / 2, top / 2);
  }
  context.textAlign = "left";
  context.fillStyle = pale;
  context.fillText("block", 0, top / 2);
  for (const [line, head] of names.entries()) {
    context.fillStyle = head === state.head ? ink : pale;
    context.fillText(shortName(head), 0, top + line * stepY + (stepY - GAP) / 2);
  }
}

function drawThumb(context, view, block, head, x, y, width, height) {
  const { model, opacity } = view.state;
  const map = view.map(model, block, head);
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.drawImage(photo(view, false), x, y, width, height);
  if (map) {
    const colours = colouring(view, map, model, head);
    drawValues(context, view, colours, model, [x, y, width, height], Math.max(0.85, opacity));
  }
  context.translate(x, y);
  drawCursor(context, view, width, height, view.pixel);
  context.restore();
}

function hit({ left, top, stepX, stepY }, layers, names, x, y) {
  const block = Math.floor((x - left) / stepX);
  const head = names[Math.floor((y - top) / stepY)];
  return block >= 0 && block < layers && head !== undefined ? { block, head } : null;
}
