// The state of one explorer: what is chosen, what is asked, when what is drawn. Hands change it.

import { existing, showAddress } from "./address.js";
import { askMeans } from "./asks.js";
import { stored } from "./attention.js";
import { greyOf, tableOf } from "./canvas.js";
import { cellOf } from "./cells.js";
import { listen } from "./hands.js";
import { STYLE, fillHeads, skeleton } from "./layout.js";
import { Live } from "./live.js";
import { drawMap } from "./maps.js";
import { PANELS } from "./names.js";
import { drawCause } from "./panel_cause.js";
import { drawEmergence } from "./panel_emergence.js";
import { drawForward } from "./panel_forward.js";
import { drawGrid } from "./panel_grid.js";
import { drawHeads } from "./panel_heads.js";
import { drawPicture } from "./picture.js";
import { STOPS } from "./stops.js";
import { followTheme } from "./theme.js";
import { Tour } from "./tour.js";
import { View } from "./view.js";
import { sentence } from "./words.js";

const DRAW = {
  grid: drawGrid,
  heads: drawHeads,
  forward: drawForward,
  emergence: drawEmergence,
  cause: drawCause,
};
const FIRST = {
  ...{ image: 0, model: 0, pixel: [0, 0], direction: "from", block: 0, head: "mean" },
  ...{ scale: "times", opacity: 0.75, under: "photo", panel: "grid" },
  ...{ reader: null, cause: 0, chart: "distance", over: "patch", sort: null },
  ...{ mode: "explore", stop: 1 },
};

/** Of what a view or an address asks for, what this parcel has. */
function possible(found, { images, names }) {
  const [{ models }] = images;
  const facts = { images: images.length, models: names.length, stops: STOPS.length };
  const least = (name) => Math.min(...models.map((one) => one[name]));
  Object.assign(facts, { layers: least("layers"), heads: least("heads") });
  const kept = existing(found, facts);
  return kept.mode === "numbers" ? { ...kept, mode: "explore", panel: "heads" } : kept;
}

export class Explorer {
  /**
   * `options`: `ask(question)` of a live network and `source(image, model)` of its attention;
   * `view`, what is shown first, and `tell(view)` of changes; `page`, the HTML that a page is kept
   * as; `address`: whether the page's address follows; `changed(state)`: told of all of it;
   * `inside`: whether the page around has a frame, and no page to save; `trouble(error)`: words.
   */
  constructor(host, parcel, pictures, options) {
    const { header } = parcel;
    Object.assign(this, { options, shadow: host.attachShadow({ mode: "open" }), host });
    this.shadow.innerHTML = `<style>${STYLE}</style>${skeleton(header)}`;
    const named = [...this.shadow.querySelectorAll("[data-at]")];
    this.at = Object.fromEntries(named.map((node) => [node.dataset.at, node]));
    this.state = { ...FIRST, ...header.view, ...possible(options.view ?? {}, header) };
    this.view = new View(parcel, this.state, Boolean(options.ask));
    this.view.photos = pictures.map((picture) => ({ colour: picture, grey: greyOf(picture) }));
    const tables = ["viridis", "difference", "times"];
    this.view.tables = Object.fromEntries(
      tables.map((name) => [name, tableOf(parcel.array(header[name]))]),
    );
    this.sources = new Map();
    this.hits = {}; // panel -> what can be hit in it, as its drawing returned it
    this.ticket = this.due = this.frame = 0;
    this.tour = new Tour(this);
  }

  begin() {
    listen(this);
    if (this.options.inside) {
      this.at.save.querySelector("[value=html]").remove();
      this.at.card.classList.add("plain");
    }
    this.theme = followTheme(this.host, () => this.draw());
    let width = 0;
    this.sizes = new ResizeObserver(([entry]) => {
      if (entry.contentRect.width === width) return; // drawing changes the height
      width = entry.contentRect.width;
      this.draw();
    });
    this.sizes.observe(this.at.card);
    for (const [n, canvas] of [...this.shadow.querySelectorAll("canvas.thumb")].entries()) {
      const picture = this.view.photos[n].colour;
      canvas.height = 44;
      canvas.width = Math.round((44 * picture.naturalWidth) / picture.naturalHeight);
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    }
    this.change({}, false);
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.theme();
    this.sizes.disconnect();
    for (const source of this.sources.values()) source.stop();
  }

  // ------------------------------------------------------------------------------- questions

  /** What Python keeps of the state. */
  kept() {
    const { image, pixel, direction, block, head } = this.state;
    return { image, model: this.view.model, pixel, direction, block, head };
  }

  /** The view that Python chose. */
  follow(kept) {
    if (JSON.stringify(kept) !== JSON.stringify(this.kept())) this.change({ ...kept }, false);
  }

  change(values, tell = true) {
    const { state, view } = this;
    Object.assign(state, values);
    const [rows, cols] = view.header.images[state.image].size;
    state.pixel = [Math.min(state.pixel[0], rows - 1), Math.min(state.pixel[1], cols - 1)];
    if (tell) this.tell();
    if (this.options.address) showAddress(state);
    this.options.changed?.(state);
    // What the numbers depend on; everything else only changes how they are drawn.
    const question = JSON.stringify([state.image, state.pixel, state.direction]);
    if (question !== this.asked) {
      this.asked = question;
      this.refresh();
      return;
    }
    this.draw();
    if (view.answered?.done) this.announce();
  }

  tell() {
    try {
      this.options.tell?.(this.kept());
    } catch (error) {
      this.trouble(error);
    }
  }

  source(image, model) {
    const name = `${image} ${model}`;
    if (!this.sources.has(name)) {
      const about = this.view.header.images[image];
      const facts = about.models[model];
      const { ask } = this.options;
      const source =
        this.options.source?.(image, model) ??
        (ask
          ? new Live(ask, about, facts, { image, model })
          : stored(this.view.parcel, about, facts));
      this.sources.set(name, Object.assign(source, { image }));
    }
    return this.sources.get(name);
  }

  /** Another image: let go of the numbers of the one before. */
  leaveAllBut(image) {
    for (const [name, source] of this.sources) {
      if (source.image === image) continue;
      source.stop();
      this.sources.delete(name);
    }
  }

  /** Ask for the numbers of the chosen patch, then draw; newer questions overtake older ones. */
  async refresh() {
    const ticket = ++this.ticket;
    const { image, pixel, direction } = this.state;
    const about = this.view.header.images[image];
    this.at.card.ariaBusy = "true";
    try {
      const now = [];
      for (const model of about.models.keys()) {
        const source = this.source(image, model);
        const cell = cellOf(pixel, about, source);
        const rows = await source.rows(cell, direction);
        if (ticket !== this.ticket) return;
        now.push({ source, cell, rows, rollout: null });
      }
      this.leaveAllBut(image);
      const answered = { image, pixel, direction, now, done: false };
      if (!this.view.answered) this.options.answered?.();
      this.view.answered = answered;
      this.at.trouble.textContent = "";
      this.draw();
      for (const one of now) {
        one.rollout = await one.source.rollout(one.cell, direction);
        if (ticket !== this.ticket) return;
      }
      answered.done = true;
      this.draw();
      this.announce();
    } catch (error) {
      if (ticket === this.ticket) this.goBack(error);
    }
  }

  /** A question without an answer: what is chosen is again what is shown. */
  goBack(error) {
    const { answered } = this.view;
    this.asked = null; // so that it may be asked again
    this.at.card.ariaBusy = "false";
    this.trouble(error);
    if (!answered) return this.options.refused?.();
    const { image, pixel, direction } = answered;
    Object.assign(this.state, { image, pixel, direction });
    this.draw();
  }

  trouble(error) {
    console.warn("attention explorer:", error.message);
    const words = this.options.trouble?.(error);
    if (words) return void (this.at.trouble.textContent = words);
    const why = `Python does not answer (${error.message}). It may be busy; if it was restarted`;
    this.at.trouble.textContent = error.answer
      ? `Python answered: ${error.message}`
      : `${why}, or this page was saved, run the cell again. What is shown was answered before.`;
  }

  // --------------------------------------------------------------------------------- drawing

  /** At once, but once a frame at most; `all` false: the picture and the maps alone. */
  draw(all = true) {
    this.due = Math.max(this.due, all ? 2 : 1);
    if (this.frame || !this.view.answered || !this.at.card.clientWidth) return;
    const everything = this.due === 2;
    this.due = 0;
    if (everything) this.drawControls();
    if (this.state.mode === "tour") this.tour.draw();
    else this.drawMaps(everything);
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (this.due) this.draw(this.due === 2);
    });
  }

  /** What all modes share: buttons, the slider of the blocks, the menu of the heads. */
  drawControls() {
    const { at, state, shadow, view } = this;
    const tour = state.mode === "tour";
    const numbers = !tour && state.panel === "heads";
    for (const button of shadow.querySelectorAll("[data-do][aria-pressed]")) {
      const { do: what, value } = button.dataset;
      const now = what === "mode" && numbers ? "numbers" : String(state[what]);
      button.setAttribute("aria-pressed", String(now === value));
    }
    for (const button of shadow.querySelectorAll("[data-do=stop]")) {
      const here = tour && Number(button.dataset.value) === state.stop;
      if (here) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    }
    for (const part of shadow.querySelectorAll("[data-in]"))
      part.hidden = part.dataset.in !== (tour ? "tour" : "explore");
    at.controls.hidden = tour && !STOPS[state.stop - 1].controls;
    at.block.max = view.facts.layers - 1;
    at.block.value = state.block;
    at.blockOut.textContent = `${state.block} of 0–${view.facts.layers - 1}`;
    fillHeads(at.head, view.facts.heads);
    at.head.value = String(state.head);
    at.opacity.value = state.opacity;
    at.scale.value = state.scale;
    const answered = JSON.stringify([view.answered.image, view.pixel, view.direction]);
    if (view.answered.done && answered === this.asked) at.card.ariaBusy = "false";
  }

  /** The picture and the maps; with `everything` the words and the panel too. */
  drawMaps(everything) {
    const { at, state, shadow, view } = this;
    drawPicture(view, at);
    for (const tile of shadow.querySelectorAll(".map")) drawMap(view, tile);
    if (!everything) return;
    at.words.textContent = sentence(view);
    for (const name of Object.keys(PANELS)) {
      const tab = shadow.querySelector(`[role=tab][data-value=${name}]`);
      tab.setAttribute("aria-selected", String(state.panel === name));
      tab.tabIndex = state.panel === name ? 0 : -1;
      shadow.querySelector(`[data-panel=${name}]`).hidden = state.panel !== name;
    }
    if (state.panel === "heads" && state.over === "all") askMeans(this);
    this.hits[state.panel] = DRAW[state.panel](view, at);
  }

  /** Read the sentence out, once the reader stays. */
  announce(text = sentence(this.view)) {
    clearTimeout(this.speech);
    this.speech = setTimeout(() => {
      this.at.spoken.textContent = text;
    }, 400);
  }

  /** Where the reader is: a stop of the tour, or a panel. */
  get place() {
    const { mode, stop, panel } = this.state;
    return mode === "tour" ? stop : panel;
  }

  /** Step through the blocks; one step only for who wants no motion. */
  async play() {
    const { state } = this;
    const { layers } = this.view.facts;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.change({ block: (state.block + 1) % layers });
      return;
    }
    const where = this.place;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    for (let block = 0; block < layers; block++) {
      this.change({ block });
      await new Promise((go) => setTimeout(go, 500));
      if (turn !== this.turn || where !== this.place || state.block !== block) return;
    }
  }
}
