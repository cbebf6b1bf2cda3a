// The live page: networks, pictures, modes, and the state that all modes share.

import { existing, fromAddress, showAddress } from "../js/address.js";
import { Explorer } from "../js/explorer.js";
import { fillHeads, STYLE } from "../js/layout.js";
import { fromBase64, inflate } from "../js/parcel.js";
import { followTheme } from "../js/theme.js";
import { Client, fetchBytes } from "./client.js";
import { firstOf, probabilitiesAt, RANKS, ranksOf } from "./hiding.js";
import { livePage, LIVE_STYLE, MODES } from "./page.js";
import { Scene } from "./scene.js";
import { STOPS } from "./stops.js";
import { listenForPictures, takePicture } from "./take.js";
import { Tour } from "./tour.js";

const FIRST_STATE = { mode: "tour", stop: 1, image: 0, model: 0, block: 0, head: "mean" };
Object.assign(FIRST_STATE, { direction: "from", scale: "times", opacity: 0.75, pixel: null });
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

export class Site {
  /** `settings` as setr_lib/explorer/live.py writes them; `engine`: the text of the worker. */
  constructor(host, settings, engine) {
    Object.assign(this, { host, settings, engine, shadow: host.attachShadow({ mode: "open" }) });
    this.shadow.innerHTML = `<style>${STYLE}${LIVE_STYLE}</style>${livePage(settings)}`;
    const named = [...this.shadow.querySelectorAll("[data-at]")];
    this.at = Object.fromEntries(named.map((node) => [node.dataset.at, node]));
    this.state = { ...FIRST_STATE, ...checked(location.hash) };
    this.tables = {};
    for (const [name, text] of Object.entries(settings.tables))
      this.tables[name] = fromBase64(text);
    this.tour = new Tour(this);
    this.log = []; // [what, milliseconds], for who measures
  }

  begin() {
    const { at, settings } = this;
    const known = settings.networks.find(({ name }) => name === this.state.network);
    this.network = known ?? settings.networks[0];
    at.network.value = this.network.name;
    this.describe();
    listenForPictures(at.card, [at.file, at.camera], (file) => this.take(file, file.name));
    at.load.addEventListener("click", () => this.load());
    at.network.addEventListener("input", () => {
      this.network = settings.networks.find(({ name }) => name === at.network.value);
      this.describe();
      this.change({ network: this.network.name });
      if (this.client) this.load();
    });
    this.shadow.addEventListener("click", ({ target }) => {
      const { mode, stop } = target.closest?.("[data-mode],[data-stop]")?.dataset ?? {};
      if (mode) this.go({ mode });
      if (stop) this.go({ mode: "tour", stop: Number(stop) });
    });
    at.back.addEventListener("click", () => this.go({ stop: Math.max(1, this.state.stop - 1) }));
    at.next.addEventListener("click", () => {
      const last = this.state.stop === STOPS.length;
      this.go(last ? { mode: "explore" } : { stop: this.state.stop + 1 });
      at.title.focus({ preventScroll: true });
    });
    for (const name of ["block", "head"])
      at[name].addEventListener("input", () => {
        const { value } = at[name];
        this.change({ [name]: /^\d+$/.test(value) ? Number(value) : value });
      });
    this.theme = followTheme(this.host, () => this.tour.draw());
    new ResizeObserver(() => this.tour.draw()).observe(at.card);
    this.take(settings.sample, "a made-up street").then(() => this.network.text && this.load());
  }

  // -------------------------------------------------------------------------- network, picture

  describe() {
    const { at, network } = this;
    at.knows.textContent = network.says;
    at.load.textContent = `Run the network here (${megabytes(network.bytes)})`;
  }

  /** Fetch or unpack the weights, start the worker. Only ever after a click, or from one file. */
  async load() {
    const { at, network } = this;
    at.begin.hidden = true;
    at.trouble.textContent = "";
    const start = performance.now();
    try {
      const [weights, probes] = await this.weights(network);
      this.log.push(["fetch", performance.now() - start]);
      const client = new Client(this.engine);
      this.busy("unpacking", 1);
      const given = { weights, probes, simd: this.settings.simd };
      const loaded = await client.ask("load", given, null, [weights, probes].filter(Boolean));
      this.client?.worker.terminate();
      this.client = client;
      const { title, miou, probed } = network;
      this.loaded = { ...loaded, about: { ...loaded.about, title, miou, probed } };
      this.log.push(["load", performance.now() - start]);
      await this.take(this.blob, this.name);
    } catch (error) {
      at.begin.hidden = false;
      this.trouble(`The network did not start: ${error.message}.`);
    }
  }

  /** The files of weights and probes: out of the page, or from the site. */
  async weights({ file, bytes, text, probes }) {
    const unpacked = (one) => (one ? inflate(fromBase64(one)) : null);
    if (text) return [await unpacked(text), await unpacked(probes)];
    if (location.protocol === "file:")
      throw new Error("a page from disk may fetch nothing; open the one file that is named below");
    const progress = (share) => this.busy(`fetching ${megabytes(bytes)}`, share);
    const found = await fetchBytes(new URL(file, this.settings.folder), bytes, progress);
    return [found, await unpacked(probes)];
  }

  /** A photograph: shown at once, computed as soon as there is a network. */
  async take(blob, name) {
    const source = typeof blob === "string" ? await blobOf(blob) : blob;
    try {
      this.photo = await takePicture(source, this.network.base);
    } catch (error) {
      return this.trouble(error.message);
    }
    Object.assign(this, { blob: source, name });
    this.at.trouble.textContent = "";
    if (!this.client) return this.showPhoto();
    const { photo } = this;
    const start = performance.now();
    const run = await this.run({}, (share) => this.busy("computing", share));
    if (photo !== this.photo) return; // a newer picture came
    this.log.push(["run", run.milliseconds], ["labels", performance.now() - start]);
    this.busy(null);
    this.scene = new Scene(run, this.loaded, photo, name, this.tables);
    const { size } = this.scene.image;
    const { depth, heads } = this.loaded.config;
    const { state } = this;
    state.pixel ??= size.map((side) => side >> 1);
    state.pixel = state.pixel.map((at, n) => Math.min(at, size[n] - 1));
    state.block = Math.min(state.block, depth - 1);
    if (typeof state.head === "number") state.head = Math.min(state.head, heads - 1);
    this.at.block.max = depth - 1;
    fillHeads(this.at.head, heads);
    this.at.body.hidden = false;
    await this.tour.open(this.scene, photo);
    this.go({});
    this.log.push(["shown", performance.now() - start]);
    const { scene } = this;
    const parts = await Promise.all([this.client.ask("stages"), this.client.ask("probed")]);
    if (scene !== this.scene) return;
    scene.add(...parts);
    if (this.explorer) this.go({});
    this.settled = scene;
  }

  /** Before there is a network, the picture alone. */
  showPhoto() {
    const { at, photo } = this;
    at.begin.querySelector("img")?.remove();
    at.begin.prepend(Object.assign(photo.picture.cloneNode(), { alt: "the picture to run it on" }));
  }

  run(options, progress = null) {
    const { rgba, height, width } = this.photo;
    return this.client.ask("run", { image: { rgba, height, width }, ...options }, progress);
  }

  /** The same picture in another way; what is shown of it stays what questions are about. */
  async rerun(options) {
    const start = performance.now();
    const run = await this.run({ ...options, keep: false });
    this.log.push(["rerun", performance.now() - start]);
    return run;
  }

  // ------------------------------------------------------------------------------------- modes

  /** Another mode or stop. */
  go(values) {
    const { at, state, shadow } = this;
    Object.assign(state, values);
    const tour = state.mode === "tour";
    for (const button of shadow.querySelectorAll("[data-mode]"))
      button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
    for (const button of shadow.querySelectorAll("[data-stop]")) {
      const here = tour && Number(button.dataset.stop) === state.stop;
      if (here) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    }
    at.tour.hidden = !tour;
    at.explore.hidden = tour;
    at.back.disabled = state.stop === 1;
    if (tour) {
      this.explorer?.close();
      this.explorer = null;
      at.explore.replaceChildren();
      this.change({});
      this.tour.show();
    } else {
      this.explore(state.mode === "numbers" ? "heads" : "grid");
      this.changed();
    }
  }

  /** Today's explorer on the scene; the worker answers what a kernel would. */
  explore(panel) {
    const { at, scene, state } = this;
    this.explorer?.close();
    const host = document.createElement("div");
    at.explore.replaceChildren(host);
    const { block, head, direction, pixel, scale } = state;
    const view = { block, head, direction, pixel, scale, panel };
    const tell = (kept) => {
      for (const name of ["block", "head", "direction", "pixel"]) state[name] = kept[name];
      this.changed();
      this.tour.ask();
    };
    const ask = (question) => this.answer(question);
    const options = { view, tell, ask, source: () => scene.source, pageless: true };
    this.explorer = new Explorer(host, scene, [scene.picture], options);
    this.explorer.begin();
  }

  /** The causal check, as the kernel answers it; four random draws. */
  async answer({ ask, pixel, k }) {
    if (ask !== "cause") throw new Error(`nobody here answers ${ask}`);
    const { scene, photo } = this;
    const own = this.tour.cellAt(pixel);
    const { layers } = scene.source;
    const rollout = await scene.source.rollout(own, "from");
    const before = probabilitiesAt(scene.run, pixel);
    const kind = before.indexOf(Math.max(...before));
    const found = { class: [kind], probability: [before[kind]], patches: [[]] };
    found.probability_fall = {};
    for (const choice of RANKS) {
      found.probability_fall[choice] = [];
      for (let draw = 0; draw < (choice === "random" ? 4 : 1); draw++) {
        const last = rollout.subarray(-rollout.length / layers);
        const ranks = ranksOf(last, own, scene.image.grid);
        const hidden = firstOf(ranks[choice], k, own);
        if (draw === 0) found.patches[0].push(hidden);
        const run = await this.rerun({ hidden });
        if (photo !== this.photo) throw new Error("another picture came");
        found.probability_fall[choice].push(before[kind] - probabilitiesAt(run, pixel)[kind]);
      }
    }
    return { content: found };
  }

  change(values) {
    const { at, state } = this;
    Object.assign(state, values);
    at.block.value = state.block;
    at.blockOut.textContent = `${state.block} of 0–${at.block.max}`;
    at.head.value = String(state.head);
    this.changed();
    this.tour.draw();
  }

  changed() {
    if (this.scene) showAddress(this.state);
  }

  // ------------------------------------------------------------------------------------- words

  busy(what, share = 0) {
    this.at.busy.hidden = what === null;
    this.at.progress.value = share;
    this.at.doing.textContent = what ? `${what} …` : "";
  }

  say(text) {
    this.at.said.textContent = text;
  }

  trouble(text) {
    this.busy(null);
    this.at.trouble.textContent = text;
  }

  /** The stop's task is done, or not yet: then the button says that it skips. */
  doneWith(done) {
    const last = this.state.stop === STOPS.length;
    this.at.next.textContent = last ? "Explore on your own" : done ? "Next" : "Skip";
    this.at.next.classList.toggle("strong", done);
  }
}

/** What an address asks of this page, as far as it exists. */
function checked(address) {
  const kept = existing(fromAddress(address), {});
  if (!(kept.mode in MODES)) delete kept.mode;
  if (!(kept.stop >= 1 && kept.stop <= STOPS.length)) delete kept.stop;
  return kept;
}

/** A data: address as a Blob, without a request. */
async function blobOf(address) {
  const [, kind, text] = /^data:([^;]+);base64,(.*)$/s.exec(address);
  return new Blob([fromBase64(text)], { type: kind });
}
