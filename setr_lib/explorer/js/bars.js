// Bars: the products of a query and a key, and the classes of a pixel.

import { surface } from "./canvas.js";
import { percent, softmax } from "./numbers.js";

/** One bar for each product, then their sum. */
export function drawProducts(tour, canvas) {
  const context = surface(canvas, tour.view.image.size);
  const style = getComputedStyle(canvas);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const { products } = tour.kept;
  context.fillStyle = style.getPropertyValue("--soft");
  context.fillRect(0, 0, width, height);
  if (!products) return;
  const sum = products.reduce((all, one) => all + one, 0);
  const most = Math.max(Math.abs(sum), ...products.map(Math.abs), 1e-6);
  const wide = width / (products.length + 8);
  const middle = height / 2;
  const bar = (x, value, colour, thick) => {
    context.fillStyle = style.getPropertyValue(colour);
    const tall = (value / most) * (middle - 18);
    context.fillRect(x, Math.min(middle, middle - tall), thick, Math.max(1, Math.abs(tall)));
  };
  for (const [n, value] of products.entries())
    bar(2 + n * wide, value, value < 0 ? "--bad" : "--dot", Math.max(1, wide - 1));
  bar(width - 6 * wide, sum, "--accent", 4 * wide);
  context.fillStyle = style.getPropertyValue("--ink");
  context.font = `12px ${style.fontFamily}`;
  context.textAlign = "right";
  context.fillText(`sum ${sum.toFixed(2)}`, width - 4, 13);
  context.textAlign = "left";
  context.fillText(`${products.length} products`, 4, 13);
}

/** The six best classes of the chosen pixel, as a table of bars. */
export function drawBars({ view }) {
  const { facts } = view;
  const shares = softmax(view.scoresAt(...view.pixel).after);
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 6);
  const table = document.createElement("table");
  table.className = "scores";
  for (const k of order) {
    const { name, colour } = view.header.classes[facts.scores.classes[k]];
    const line = table.insertRow();
    const head = document.createElement("th");
    const box = document.createElement("i");
    box.style.background = `rgb(${colour})`;
    head.scope = "row";
    head.append(box, name);
    const cell = Object.assign(document.createElement("td"), { className: "barcell" });
    const bar = document.createElement("span");
    bar.style.width = `${(100 * shares[k]).toFixed(1)}%`;
    cell.append(bar, percent(shares[k]));
    line.append(head, cell);
  }
  return table;
}
