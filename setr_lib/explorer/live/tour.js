// The tour's state: what is shown at the present stop, what was done, what is asked of the worker.

import { gradient, greyOf, tableOf } from "../js/canvas.js";
import { cellOf } from "../js/cells.js";
import { View } from "../js/view.js";
import { firstOf, probabilitiesAt, ranksOf } from "./hiding.js";
import { STOPS } from "./stops.js";

const HIDDEN_SHARE = 0.1; // of the patches, when a button chooses them

export class Tour {
  /** `site`: owns the card, the state that all modes share, and the worker. */
  constructor(site) {
    Object.assign(this, { site, card: site.at.card, ticket: 0 });
    const { at } = site;
    for (const [name, canvas] of Object.entries({ left: at.left, right: at.right }))
      this.listen(canvas, name);
    at.tools.addEventListener("click", ({ target }) => {
      const tool = target.closest("[data-tool]");
      if (tool && tool.tagName === "BUTTON") this.use(tool.dataset.tool, tool.dataset.value);
    });
    at.tools.addEventListener("input", ({ target }) => {
      if (target.dataset.tool) this.use(target.dataset.tool, Number(target.value));
    });
  }

  /** Another picture or network: nothing is done yet. */
  open(scene, photo) {
    const { state } = this.site;
    const view = new View(scene, state, false);
    view.photos = [{ colour: scene.picture, grey: greyOf(scene.picture) }];
    view.tables = {};
    for (const name of ["viridis", "difference", "times"])
      view.tables[name] = tableOf(scene.array(scene.header[name]));
    const { image, facts, config, source } = scene;
    Object.assign(this, { scene, photo, view, image, facts, config, source, likeness: null });
    this.labels = scene.run.labels;
    this.kept = { apart: 0, asked: 0, blocks: new Set(), hidden: new Set(), lost: null };
    Object.assign(this.kept, { partner: null, after: null });
    return this.ask();
  }

  get stop() {
    return STOPS[this.site.state.stop - 1];
  }

  // ------------------------------------------------------------------------------- questions

  cellAt(pixel) {
    return cellOf(pixel, this.image, this.source);
  }

  async ask() {
    const ticket = ++this.ticket;
    const { pixel, direction } = this.site.state;
    const { scene, source } = this;
    const cell = this.cellAt(pixel);
    const rows = await source.rows(cell, direction);
    const rollout = await source.rollout(cell, direction);
    if (ticket !== this.ticket) return;
    const now = [{ source, cell, rows, rollout }];
    this.view.answered = { image: 0, pixel, direction, now, done: true };
    this.draw();
    const likeness = await this.site.client.ask("likeness", { patch: cell });
    if (ticket !== this.ticket || scene !== this.scene) return;
    this.likeness = likeness;
    this.draw();
  }

  askAt(pixel) {
    this.site.state.pixel = pixel;
    this.kept.asked++;
    this.site.changed();
    return this.ask();
  }

  readAt(pixel) {
    this.view.read = pixel;
    this.draw();
  }

  pairWith(pixel) {
    this.kept.partner = pixel;
    this.draw();
  }

  /** The head of a single product: of a summary the first. */
  oneHead() {
    const { head } = this.site.state;
    return typeof head === "number" ? head : 0;
  }

  products() {
    const { partner } = this.kept;
    if (!partner || !this.view.answered) return null;
    const places = [this.view.pixel, partner].map((pixel) => this.cellAt(pixel));
    return this.scene.pair(this.site.state.block, this.oneHead(), ...places);
  }

  hideAt(pixel) {
    const patch = this.cellAt(pixel);
    if (this.kept.hidden.has(patch)) return;
    this.kept.hidden.add(patch);
    this.hide();
  }

  /** Run without the hidden patches; while it runs, more may be hidden, and it runs once more. */
  async hide() {
    const { kept, scene, view } = this;
    this.draw();
    if (kept.running) return void (kept.again = true);
    kept.running = true;
    do {
      kept.again = false;
      const hidden = [...kept.hidden];
      const run = await this.site.rerun({ hidden });
      if (scene !== this.scene) return;
      const before = probabilitiesAt(scene.run, view.pixel);
      kept.kind = before.indexOf(Math.max(...before));
      kept.probability = before[kept.kind];
      kept.left = probabilitiesAt(run, view.pixel)[kept.kind];
      kept.after = hidden.length ? run.labels : null;
      this.draw();
    } while (kept.again);
    kept.running = false;
  }

  // ------------------------------------------------------------------------------------ hands

  listen(canvas, name) {
    const pixelAt = (event) => {
      const box = canvas.getBoundingClientRect();
      const [rows, cols] = this.image.size;
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      const col = Math.floor(((event.clientX - box.left) / box.width) * cols);
      return row >= 0 && row < rows && col >= 0 && col < cols ? [row, col] : null;
    };
    const point = (event, kind) => {
      if (!this.scene) return;
      const pixel = pixelAt(event);
      const isMap = this.stop.scale && (name === this.stop.scale || name === "right");
      if (kind === "hover" && !isMap) return;
      if (pixel || kind === "hover")
        this.stop.point?.(this, pixel, name === "right" && this.stop.scale ? "hover" : kind);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (this.stop?.brush && name === "left") canvas.setPointerCapture(event.pointerId);
      point(event, "click");
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.stop?.brush) {
        if (event.buttons && name === "left") point(event, "drag");
      } else if (event.pointerType === "mouse") point(event, "hover");
    });
    canvas.addEventListener("pointerleave", () => {
      if (this.view?.read) this.readAt(null);
    });
    canvas.addEventListener("keydown", (event) => this.key(event, name));
  }

  /** Arrows move who asks, or on stop 3 who answers; Enter or space brushes. */
  key(event, name) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const { brush, point } = this.stop;
    if (brush && (event.key === "Enter" || event.key === " ")) this.hideAt(this.view.pixel);
    else if (step[event.key]) {
      const { patch, size } = this.image;
      const start = (point && !brush && this.kept.partner) || this.view.pixel;
      const moved = start.map((at, n) => {
        const next = (Math.floor(at / patch) + step[event.key][n]) * patch + (patch >> 1);
        return Math.max(0, Math.min(size[n] - 1, next));
      });
      if (brush) this.askAt(moved);
      else point?.(this, moved, name === "right" && this.stop.scale ? "hover" : "click");
    } else return;
    event.preventDefault();
  }

  use(tool, value) {
    const { kept, site } = this;
    const tools = {
      apart: () => (kept.apart = value),
      positions: async () => {
        site.say("The network runs without positions …");
        kept.lost = (await site.rerun({ positions: false })).labels;
        site.say("");
        this.draw();
      },
      direction: () => {
        const { state } = site;
        state.direction = state.direction === "from" ? "to" : "from";
        site.changed();
        this.ask();
      },
      play: () => this.play(),
      hide: () => {
        const { rollout } = this.view.now[0];
        const count = rollout.length / this.config.depth;
        const own = this.cellAt(this.view.pixel);
        const ranks = ranksOf(rollout.subarray(-count), own, this.image.grid);
        kept.hidden = new Set(firstOf(ranks[value], Math.round(HIDDEN_SHARE * count), own));
        this.hide();
      },
      show: () => {
        kept.hidden = new Set();
        this.hide();
      },
    };
    tools[tool]();
    this.draw();
  }

  async play() {
    const { state } = this.site;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.site.change({ block: (state.block + 1) % this.config.depth });
      return;
    }
    const turn = (this.turn = (this.turn ?? 0) + 1);
    for (let block = 0; block < this.config.depth; block++) {
      this.site.change({ block });
      await new Promise((go) => setTimeout(go, 500));
      if (turn !== this.turn || this.stop.step !== "Blocks" || state.block !== block) return;
    }
  }

  // ----------------------------------------------------------------------------------- drawing

  /** Another stop: its words and controls. */
  show() {
    const { at } = this.site;
    const { stop } = this;
    at.title.textContent = stop.title;
    at.todo.textContent = stop.todo;
    at.tools.innerHTML = stop.tools ?? "";
    [at.leftName.textContent, at.rightName.textContent] = stop.captions;
    at.left.classList.toggle("brush", Boolean(stop.brush));
    at.controls.hidden = !stop.controls;
    at.scale.hidden = !stop.scale;
    if (stop.scale) at[stop.scale].after(at.scale);
    const range = at.tools.querySelector("[data-tool=apart]");
    if (range && this.kept) range.value = this.kept.apart;
    this.draw();
  }

  draw() {
    const { at, state } = this.site;
    if (!this.view?.answered || state.mode !== "tour" || !at.left.clientWidth) return;
    const { stop, view } = this;
    this.kept.blocks.add(state.block);
    at.saying.textContent = stop.say(this);
    stop.left(this, at.left);
    stop.right(this, at.right);
    at.under.replaceChildren(...[stop.under(this)].flat());
    if (stop.scale) at.ramp.style.background = gradient(view.tables.times);
    const way = at.tools.querySelector("[data-tool=direction]");
    const from = state.direction === "from";
    if (way) way.textContent = from ? "Who looks at it instead?" : "What does it look at?";
    const [row, col] = view.placeOf(view.pixel);
    const keys = `Arrow keys move it${stop.brush ? ", Enter hides it" : ""}.`;
    const place = `Patch in row ${row}, column ${col}. ${keys}`;
    at.left.setAttribute("aria-label", `${stop.captions[0]}. ${place}`);
    at.right.setAttribute("aria-label", stop.captions[1]);
    this.site.doneWith(stop.isDone(this));
  }
}
