// Points over the blocks.

import { line, surface } from "./canvas.js";

/** Points over the blocks, with an axis that starts at 0. */
export class Chart {
  constructor(canvas, card, { columns, limit, title, percent: share }) {
    const room = canvas.clientWidth || 340;
    this.context = surface(canvas, [Math.min(0.65 * room, 260), room]);
    Object.assign(this, { columns, limit, width: canvas.clientWidth, height: canvas.clientHeight });
    const style = getComputedStyle(card);
    this.ink = Object.fromEntries(
      ["ink", "pale", "line", "accent", "dot"].map((name) => [
        name,
        style.getPropertyValue(`--${name}`),
      ]),
    );
    const { context } = this;
    context.font = `11px ${style.fontFamily}`;
    this.box = { left: 40, right: this.width - 10, top: 22, bottom: this.height - 30 };
    context.fillStyle = this.ink.ink;
    context.fillText(title, 4, 12);
    context.textBaseline = "middle";
    context.strokeStyle = this.ink.line;
    context.lineWidth = 1;
    for (const tick of ticks(limit)) {
      context.beginPath();
      line(context, this.box.left, this.y(tick), this.box.right, this.y(tick));
      context.stroke();
      context.fillStyle = this.ink.pale;
      context.textAlign = "right";
      context.fillText(
        share ? `${Math.round(100 * tick)} %` : String(Number(tick.toPrecision(3))),
        this.box.left - 6,
        this.y(tick),
      );
    }
    context.textAlign = "center";
    const every = Math.ceil((columns * 22) / (this.box.right - this.box.left));
    for (let n = 0; n < columns; n += every)
      context.fillText(String(n), this.x(n), this.box.bottom + 12);
    context.fillText("block", (this.box.left + this.box.right) / 2, this.height - 6);
  }

  x(column) {
    const inner = this.box.right - this.box.left - 20;
    return (
      this.box.left + 10 + (this.columns > 1 ? (column / (this.columns - 1)) * inner : inner / 2)
    );
  }

  y(value) {
    return this.box.bottom - (value / this.limit) * (this.box.bottom - this.box.top);
  }

  level(value, name) {
    const { context } = this;
    context.strokeStyle = this.ink.pale;
    context.setLineDash([4, 4]);
    context.beginPath();
    line(context, this.box.left, this.y(value), this.box.right, this.y(value));
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = this.ink.pale;
    context.textAlign = "right";
    context.fillText(name, this.box.right, this.y(value) - 8);
  }

  line(points) {
    const { context } = this;
    context.strokeStyle = this.ink.dot;
    context.lineWidth = 1.5;
    context.globalAlpha = 0.55;
    context.beginPath();
    for (const [n, [column, value]] of points.entries())
      context[n ? "lineTo" : "moveTo"](this.x(column), this.y(value));
    context.stroke();
    context.globalAlpha = 1;
  }

  dot(column, value, chosen, form = "circle") {
    const { context } = this;
    const [x, y, size] = [this.x(column), this.y(value), chosen ? 6.5 : 4];
    context.fillStyle = chosen ? this.ink.accent : this.ink.dot;
    context.beginPath();
    if (form === "circle") context.arc(x, y, size, 0, 7);
    else if (form === "square") context.rect(x - size, y - size, 2 * size, 2 * size);
    else
      for (const [n, [dx, dy]] of [
        [0, -1],
        [1, 0],
        [0, 1],
        [-1, 0],
      ].entries())
        context[n ? "lineTo" : "moveTo"](x + 1.4 * size * dx, y + 1.4 * size * dy);
    context.closePath();
    context.fill();
    return { x, y };
  }
}

function ticks(limit) {
  const rough = limit / 4;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = ten * [1, 2, 2.5, 5, 10].find((factor) => factor * ten >= rough * 0.999);
  const found = [];
  for (let n = 0; n * step <= limit * 1.0001; n++) found.push(n * step);
  return found;
}

export function nearest(dots, event, canvas) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = null;
  for (const dot of dots) {
    const away = Math.hypot(dot.x - x, dot.y - y);
    if (away < 24 && (!best || away < best.away)) best = { ...dot, away };
  }
  return best;
}
