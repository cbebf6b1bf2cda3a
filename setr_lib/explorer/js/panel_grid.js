// All heads: every block, every head, for the same patch.

import { surface } from "./canvas.js";
import { colouring, drawValues } from "./maps.js";
import { PANELS, SUMMARIES, shortName } from "./names.js";
import { drawCursor, photo } from "./picture.js";

const GAP = 3;
const [LEFT, TOP] = [58, 18]; // room for the titles

/** Returns (x, y) on the canvas -> {block, head}, or null. */
export function drawGrid(view, at) {
  const { state } = view;
  const { layers, heads } = view.facts;
  const names = [...SUMMARIES, ...Array(heads).keys()];
  const place = sizeOfThumbs(at.gridScroll.clientWidth - LEFT, layers, heads, view.image.size);
  const { stepX, stepY } = place;
  at.grid.style.width = `${layers * stepX}px`;
  const context = surface(at.grid, [names.length * stepY, layers * stepX]);
  writeTitles(at, state, names, layers, place);
  for (const [line, head] of names.entries()) {
    for (let block = 0; block < layers; block++) {
      const corner = [block * stepX, line * stepY];
      drawThumb(context, view, block, head, ...corner, stepX - GAP, stepY - GAP);
    }
  }
  const [line, block] = [names.indexOf(state.head), state.block];
  context.strokeStyle = getComputedStyle(at.card).getPropertyValue("--accent");
  context.lineWidth = 2.5;
  const [x, y] = [block * stepX + 1.25, line * stepY + 1.25];
  context.strokeRect(x, y, stepX - GAP - 2.5, stepY - GAP - 2.5);
  at.grid.setAttribute(
    "aria-label",
    `${layers} blocks by ${heads} heads, mean, maximum and rollout; block ${state.block}, ` +
      `${shortName(state.head)} is chosen. Arrow keys choose another; the numbers are in the ` +
      `panel “${PANELS.heads}”.`,
  );
  showChosen(at, [x, y], place);
  return hit.bind(null, place, layers, names);
}

function sizeOfThumbs(room, layers, heads, size) {
  const wide = Math.max(heads > 8 ? 24 : 36, room / layers - GAP);
  const width = Math.min(wide, 110);
  const height = Math.max(14, (width * size[0]) / size[1]);
  return { stepX: width + GAP, stepY: height + GAP };
}

/** Numbers of the blocks above, names of the heads on the left; they never scroll. */
function writeTitles(at, state, names, layers, { stepX, stepY }) {
  const title = (text, chosen) => {
    const span = document.createElement("span");
    span.textContent = text;
    span.className = chosen ? "chosen" : "";
    return span;
  };
  const blocks = [...Array(layers).keys()];
  at.gridBlocks.style.gridTemplateColumns = `repeat(${layers}, ${stepX}px)`;
  at.gridBlocks.replaceChildren(...blocks.map((block) => title(block, block === state.block)));
  at.gridHeads.style.gridTemplateRows = `repeat(${names.length}, ${stepY}px)`;
  at.gridHeads.replaceChildren(
    ...names.map((head) => title(shortName(head), head === state.head)),
  );
}

/** Who steps with keys sees where: the chosen map is scrolled to, the page is not. */
function showChosen({ grid, gridScroll: box }, [x, y], { stepX, stepY }) {
  if (grid.getRootNode().activeElement !== grid) return;
  const near = (now, room, at, step) => Math.max(at + step - room, Math.min(now, at));
  box.scrollLeft = near(box.scrollLeft, box.clientWidth - LEFT, x, stepX);
  box.scrollTop = near(box.scrollTop, box.clientHeight - TOP, y, stepY);
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

function hit({ stepX, stepY }, layers, names, x, y) {
  const block = Math.floor(x / stepX);
  const head = names[Math.floor(y / stepY)];
  return block >= 0 && block < layers && head !== undefined ? { block, head } : null;
}
