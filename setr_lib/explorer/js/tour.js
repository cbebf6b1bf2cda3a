// The tour: which stop is shown, what was done there, what is asked for it.

import { gradient } from "./canvas.js";
import { cellOf } from "./cells.js";
import { beside, pixelUnder } from "./hands.js";
import { firstOf, ranksOf } from "./hiding.js";
import { STOPS } from "./stops.js";

const HIDDEN_SHARE = 0.1; // of the patches, when a button chooses them
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export class Tour {
  /** `explorer`: owns the state, the numbers of the chosen patch, and who is asked for more. */
  constructor(explorer) {
    const { at, view } = explorer;
    Object.assign(this, { explorer, at, view, of: null, shown: null });
    this.listen(at.left, "left");
    this.listen(at.right, "right");
    at.tools.addEventListener("click", ({ target }) => {
      const tool = target.closest("button[data-tool]");
      if (tool) this.use(tool.dataset.tool, tool.dataset.value);
    });
    at.tools.addEventListener("input", ({ target }) => {
      if (target.dataset.tool) this.use(target.dataset.tool, Number(target.value));
    });
    at.back.addEventListener("click", () => this.go(Math.max(1, this.state.stop - 1)));
    at.next.addEventListener("click", () => this.goOn());
  }

  get state() {
    return this.explorer.state;
  }

  get stop() {
    return STOPS[this.state.stop - 1];
  }

  get now() {
    return this.view.now[this.view.model];
  }

  get source() {
    return this.now.source;
  }

  /** Classes of all pixels, as the network gives them. */
  get labels() {
    return this.view.parcel.array(this.view.facts.predicted);
  }

  go(stop) {
    this.explorer.change({ stop });
    this.at.title.focus({ preventScroll: true });
  }

  goOn() {
    if (this.state.stop < STOPS.length) return this.go(this.state.stop + 1);
    this.explorer.change({ mode: "explore" });
    this.explorer.shadow.querySelector('[data-do="mode"][data-value="explore"]').focus();
  }

  // ------------------------------------------------------------------------------- questions

  cellAt(pixel) {
    return cellOf(pixel, this.view.image, this.source);
  }

  /** What takes a question of its own: `kept[name]`, asked once for every `key`. */
  async fetch(name, key, question) {
    const { kept, explorer } = this;
    if (kept.keys[name] === key) return;
    kept.keys[name] = key;
    try {
      const found = await question();
      if (kept.keys[name] !== key) return; // a newer question overtook it
      kept[name] = found ?? undefined; // null: not there yet
      if (kept === this.kept) this.explorer.draw();
    } catch (error) {
      kept.keys[name] = null;
      explorer.trouble(error);
    }
  }

  askAt(pixel) {
    this.kept.asked++;
    this.explorer.change({ pixel });
  }

  readAt(pixel) {
    this.view.read = pixel;
    this.explorer.draw(false);
  }

  pairWith(pixel) {
    this.kept.partner = pixel;
    this.explorer.draw();
  }

  /** The head of a single product: of a summary the first. */
  oneHead() {
    const { head } = this.state;
    return typeof head === "number" ? head : 0;
  }

  askLikeness() {
    const { source, cell } = this.now;
    return this.fetch("likeness", cell, () => source.likeness(cell));
  }

  askProducts() {
    const { partner } = this.kept;
    if (!partner) return;
    const { source, cell } = this.now;
    const question = [this.state.block, this.oneHead(), cell, this.cellAt(partner)];
    this.fetch("products", question.join(), () => source.products(...question));
  }

  hideAt(pixel) {
    const patch = this.cellAt(pixel);
    if (this.kept.hidden.has(patch) || !this.source.without) return;
    this.kept.hidden.add(patch);
    this.hide();
  }

  /** Run without the hidden patches; while it runs, more may be hidden, and it runs once more. */
  async hide() {
    const { kept, source, explorer } = this;
    const { pixel } = this.view;
    explorer.draw();
    if (kept.running) return void (kept.again = true);
    kept.running = true;
    try {
      do {
        kept.again = false;
        const hidden = [...kept.hidden];
        const found = hidden.length ? await source.without(hidden, pixel) : null;
        if (kept !== this.kept) return;
        kept.after = found;
        explorer.draw();
      } while (kept.again);
    } catch (error) {
      kept.hidden = new Set(); // what is drawn is what was answered
      explorer.trouble(error);
      explorer.draw();
    }
    kept.running = false;
  }

  // ------------------------------------------------------------------------------------ hands

  listen(canvas, name) {
    const point = (event, kind) => {
      if (!this.kept) return;
      const pixel = pixelUnder(event, canvas, this.view.image);
      const map = this.stop.scale && (name === this.stop.scale || name === "right");
      if (kind === "hover" && !map) return;
      if (pixel || kind === "hover")
        this.stop.point?.(this, pixel, name === "right" && this.stop.scale ? "hover" : kind);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (this.stop.brush && name === "left") canvas.setPointerCapture(event.pointerId);
      point(event, "click");
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.stop.brush) {
        if (event.buttons && name === "left") point(event, "drag");
      } else if (event.pointerType === "mouse") point(event, "hover");
    });
    canvas.addEventListener("pointerleave", () => {
      if (this.view.read) this.readAt(null);
    });
    canvas.addEventListener("keydown", (event) => this.key(event, name));
  }

  /** Arrows move who asks, or on stop 3 who answers; Enter or space brushes. */
  key(event, name) {
    const { brush, point } = this.stop;
    if (brush && (event.key === "Enter" || event.key === " ")) this.hideAt(this.view.pixel);
    else if (STEPS[event.key]) {
      const reads = name === "right" && this.stop.scale;
      const start = (reads && this.view.read) || (!brush && this.kept.partner) || this.view.pixel;
      const moved = beside(this.view, start, this.view.image, STEPS[event.key]);
      if (brush) this.askAt(moved);
      else point?.(this, moved, reads ? "hover" : "click");
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  use(tool, value) {
    const { kept, explorer, source } = this;
    const tools = {
      apart: () => (kept.apart = value),
      unplaced: () => this.fetch("unplaced", "asked", () => source.unplaced()),
      direction: () =>
        explorer.change({ direction: this.state.direction === "from" ? "to" : "from" }),
      play: () => explorer.play(),
      hide: () => this.hideBy(value),
      show: () => {
        Object.assign(kept, { hidden: new Set(), choice: null });
        if (source.without) this.hide();
      },
    };
    tools[tool]();
    explorer.draw();
  }

  /** Patches that a rank puts first; a page without a network has some choices computed. */
  hideBy(choice) {
    const { kept, source, view } = this;
    if (!source.without) return void (kept.choice = choice);
    const { rollout } = this.now;
    if (!rollout) return; // it is on its way
    const count = rollout.length / view.facts.layers;
    const own = this.cellAt(view.pixel);
    const ranks = ranksOf(rollout.subarray(-count), own, view.image.grid);
    kept.hidden = new Set(firstOf(ranks[choice], Math.round(HIDDEN_SHARE * count), own));
    this.hide();
  }

  // ----------------------------------------------------------------------------------- drawing

  /** Nothing is done yet where another image or network is shown. */
  begin() {
    const { view } = this;
    const of = `${view.answered.image} ${view.model}`;
    if (this.of === of) return;
    this.of = of;
    this.kept = { apart: 0, asked: 0, blocks: new Set(), hidden: new Set(), keys: {} };
    for (const name of ["partner", "after", "unplaced", "likeness", "products", "choice"])
      this.kept[name] = null;
  }

  /** Another stop: its words and controls. */
  show() {
    const { at, stop } = this;
    if (this.shown === stop) return;
    this.shown = stop;
    this.kept.asked = 0;
    at.title.textContent = stop.title;
    at.tools.innerHTML = stop.tools ?? "";
    [at.leftName.textContent, at.rightName.textContent] = stop.captions;
    at.left.classList.toggle("brush", Boolean(stop.brush && this.source.without));
    at.mapScale.hidden = !stop.scale;
    if (stop.scale) at[stop.scale].after(at.mapScale);
    const range = at.tools.querySelector("[data-tool=apart]");
    if (range) range.value = this.kept.apart;
  }

  draw() {
    const { at, state, view } = this;
    this.begin();
    this.show();
    const { stop, kept } = this;
    kept.blocks.add(state.block);
    stop.ask?.(this);
    at.saying.textContent = stop.say(this);
    at.todo.textContent = typeof stop.todo === "function" ? stop.todo(this) : stop.todo;
    stop.left(this, at.left);
    stop.right(this, at.right);
    at.found.replaceChildren(...[stop.under(this)].flat());
    if (stop.scale) at.ramp.style.background = gradient(view.tables.times);
    const way = at.tools.querySelector("[data-tool=direction]");
    const from = view.direction === "from";
    if (way) way.textContent = from ? "Who looks at it instead?" : "What does it look at?";
    const [row, col] = view.placeOf(view.pixel);
    const keys = `Arrow keys move it${stop.brush ? ", Enter hides it" : ""}.`;
    const place = `Patch in row ${row}, column ${col}. ${keys}`;
    at.left.setAttribute("aria-label", `${stop.captions[0]}. ${place}`);
    at.right.setAttribute("aria-label", stop.captions[1]);
    this.showSteps();
  }

  /** The stop's task is done, or not yet: then the button says that it skips. */
  showSteps() {
    const { at, state } = this;
    const done = Boolean(this.stop.isDone(this));
    const last = state.stop === STOPS.length;
    at.back.disabled = state.stop === 1;
    at.next.textContent = last ? "Explore on your own" : done ? "Next" : "Skip";
    at.next.classList.toggle("strong", done);
  }
}
