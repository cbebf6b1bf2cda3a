// Attention from the kernel: questions to Python, and what happens when nobody answers.

import { evenOver } from "./cells.js";

// Seconds until an answer; a causal check runs the network, a page packs all of its attention.
export const PATIENCE = { rows: 20, rollout: 20, means: 60, cause: 300, html: 1800 };
Object.assign(PATIENCE, { likeness: 60, products: 20, unplaced: 60, without: 60 });

/** Attention from the kernel: one row of every map for every question, nothing kept here. */
export class Live {
  constructor(ask, image, facts, place) {
    Object.assign(this, {
      ask,
      place,
      layers: facts.layers,
      heads: facts.heads,
      prefix: facts.prefix,
    });
    Object.assign(this, { pool: 1, error: 0, grid: image.grid, patch: image.patch });
    this.tokens = this.prefix + this.grid[0] * this.grid[1];
    this.even = evenOver(image.grid, this.prefix, 1);
  }

  /** A pixel of the cell. */
  pixelOf(cell) {
    return [Math.floor(cell / this.grid[1]) * this.patch, (cell % this.grid[1]) * this.patch];
  }

  async numbers(ask, cell, facts) {
    const pixel = this.pixelOf(cell);
    const { buffers } = await this.ask({ ask, pixel, ...facts, ...this.place });
    return new Float32Array(bytesOf(buffers[0]).buffer);
  }

  rows(cell, direction) {
    return this.numbers("rows", cell, { direction });
  }

  rollout(cell, direction) {
    return this.numbers("rollout", cell, { direction });
  }

  products(block, head, from, to) {
    return this.numbers("products", from, { block, head, other: this.pixelOf(to) });
  }

  async likeness(cell) {
    const all = await this.numbers("likeness", cell);
    const count = all.length / this.layers;
    return Array.from({ length: this.layers }, (_, n) => all.subarray(n * count, (n + 1) * count));
  }

  /** Classes where no token is told its place, or null. */
  async unplaced() {
    const { buffers } = await this.ask({ ask: "unplaced", ...this.place });
    return buffers[0] ? bytesOf(buffers[0]) : null;
  }

  /** Run with patches hidden -> {labels, kind, before, left}. */
  async without(patches, pixel) {
    const question = { ask: "without", patches, pixel, ...this.place };
    const { content, buffers } = await this.ask(question);
    return { ...content, labels: bytesOf(buffers[0]) };
  }

  async means() {
    this.found ??= (await this.ask({ ask: "means", ...this.place })).content.means;
    return this.found;
  }

  prepare() {}
  stop() {}
}

/** A copy of the bytes that a front end hands over, aligned for any kind of number. */
function bytesOf(view) {
  const from = view.byteOffset ?? 0;
  return new Uint8Array((view.buffer ?? view).slice(from, from + view.byteLength));
}

/**
 * Questions to Python and their answers, matched by number. Who gets none within `seconds[ask]` is
 * refused: after a restart of the kernel, and in a page made of a notebook, nobody answers.
 */
export function kernel(model, seconds) {
  const open = new Map();
  let last = 0;
  const settle = (id) => {
    const waiting = open.get(id);
    open.delete(id);
    clearTimeout(waiting?.clock);
    return waiting;
  };
  model.on("msg:custom", (content, buffers) => {
    const waiting = settle(content.id);
    if (content.error) waiting?.refuse(Object.assign(new Error(content.error), { answer: true }));
    else waiting?.accept({ content, buffers });
  });
  return (question) =>
    new Promise((accept, refuse) => {
      const id = ++last;
      const limit = seconds[question.ask];
      const late = () => settle(id)?.refuse(new Error(`no answer in ${limit} seconds`));
      open.set(id, { accept, refuse, clock: setTimeout(late, 1000 * limit) });
      const send = async () => model.send({ ...question, id });
      send().catch((error) => settle(id)?.refuse(error));
    });
}
