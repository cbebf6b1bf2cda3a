// The live page: networks and pictures. What is made of them, the explorer shows.

import { fromAddress, showAddress } from "../js/address.js";
import { cellOf } from "../js/cells.js";
import { Explorer } from "../js/explorer.js";
import { STYLE } from "../js/layout.js";
import { fromBase64 } from "../js/parcel.js";
import { followTheme } from "../js/theme.js";
import { livePage, LIVE_STYLE } from "./page.js";
import { Runner, megabytes } from "./runner.js";
import { Scene } from "./scene.js";
import { listenForPictures, takePicture } from "./take.js";

const NONE = "";

export class Site {
  /** `settings` as setr_lib/explorer/live.py writes them; `engine`: the text of the worker. */
  constructor(host, settings, engine) {
    Object.assign(this, { host, settings, engine, shadow: host.attachShadow({ mode: "open" }) });
    this.shadow.innerHTML = `<style>${STYLE}${LIVE_STYLE}</style>${livePage(settings)}`;
    const named = [...this.shadow.querySelectorAll("[data-at]")];
    this.at = Object.fromEntries(named.map((node) => [node.dataset.at, node]));
    this.view = { mode: "tour", block: 0, ...fromAddress(location.hash) };
    this.tables = {};
    for (const [name, text] of Object.entries(settings.tables))
      this.tables[name] = fromBase64(text);
    this.runners = []; // of the networks that are shown: one, or two side by side
    this.log = []; // [what, milliseconds], for who measures
  }

  begin() {
    const { at, settings } = this;
    const [first] = settings.networks;
    this.network = this.called(this.view.network) ?? first;
    this.second = this.called(this.view.second) ?? null;
    at.network.value = this.network.name;
    this.describe();
    listenForPictures(at.card, [at.file, at.camera], (file) => this.take(file, file.name));
    at.load.addEventListener("click", () => this.load());
    at.network.addEventListener("input", () => this.choose(at.network.value, this.second?.name));
    at.second.addEventListener("input", () => this.choose(this.network.name, at.second.value));
    this.theme = followTheme(this.host, () => {});
    this.take(settings.sample, "a made-up street").then(() => this.network.text && this.load());
  }

  // ---------------------------------------------------------------------------------- networks

  called(name) {
    return this.settings.networks.find((one) => one.name === name);
  }

  choose(name, second) {
    this.network = this.called(name);
    this.second = this.called(second) ?? null;
    this.describe();
    this.keep({});
    if (this.runners.length) this.load();
  }

  /** What is chosen, in words; and what may stand beside it. */
  describe() {
    const { at, settings, network } = this;
    const fit = settings.networks.filter(
      ({ name, kind }) => name !== network.name && kind === network.kind,
    );
    if (!fit.includes(this.second)) this.second = null;
    const options = fit.map(({ name, title, bytes }) => [name, `${title} (${megabytes(bytes)})`]);
    at.second.replaceChildren(
      ...[[NONE, "no other"], ...options].map(([name, text]) => new Option(text, name)),
    );
    at.second.value = this.second?.name ?? NONE;
    at.second.parentElement.hidden = !fit.length;
    const chosen = [network, this.second].filter(Boolean);
    at.short.textContent = chosen.map(({ short }) => short).join(" ");
    at.knows.textContent = chosen.map(({ says }) => says).join(" ");
    const bytes = chosen.reduce((all, one) => all + one.bytes, 0);
    at.load.textContent = `Run the network here (${megabytes(bytes)})`;
  }

  /** Start what is chosen, keep what runs already. Only ever after a click, or from one file. */
  async load() {
    const { at, settings } = this;
    const wanted = [this.network, this.second].filter(Boolean);
    at.begin.hidden = true;
    at.trouble.textContent = "";
    const before = this.runners;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const found = [];
    const busy = (what, share) => this.busy(what, share);
    try {
      for (const network of wanted) {
        const kept = before.find((one) => one.network === network && one.simd === settings.simd);
        found.push(kept ?? new Runner(network, this, busy));
        if (!kept) await found.at(-1).load();
      }
    } catch (error) {
      for (const one of found) if (!before.includes(one)) one.stop();
      at.begin.hidden = before.length > 0;
      if (before.length) this.goBackTo(before);
      return this.trouble(`The network did not start: ${error.message}.`);
    }
    if (turn !== this.turn) return; // something else was chosen meanwhile
    for (const one of before) if (!found.includes(one)) one.stop();
    this.runners = found;
    await this.take(this.blob, this.name);
  }

  /** A network that did not come: what is chosen is again what runs. */
  goBackTo(runners) {
    [this.network, this.second = null] = runners.map(({ network }) => network);
    this.at.network.value = this.network.name;
    this.describe();
  }

  // ---------------------------------------------------------------------------------- pictures

  /** A photograph: shown at once, computed as soon as there is a network. */
  async take(blob, name) {
    const source = typeof blob === "string" ? await blobOf(blob) : blob;
    let photo;
    try {
      photo = await takePicture(source, this.network.base);
    } catch (error) {
      return this.trouble(error.message);
    }
    Object.assign(this, { blob: source, name, photo });
    this.at.trouble.textContent = "";
    const { runners } = this;
    if (!runners.length) return this.showPhoto();
    const start = performance.now();
    const parts = [];
    try {
      for (const runner of runners) {
        const run = await runner.run(photo, {}, (share) => this.busy("computing", share));
        this.log.push(["run", run.milliseconds]);
        parts.push({ run, loaded: runner.loaded, runner });
        if (photo !== this.photo || runners !== this.runners) return; // a newer one came
      }
    } catch (error) {
      return this.trouble(`The network did not run: ${error.message}.`);
    }
    this.log.push(["labels", performance.now() - start]);
    this.busy(null);
    this.show(new Scene(parts, photo, name, this.tables), photo);
    this.log.push(["shown", performance.now() - start]);
    await this.addRest(this.scene);
  }

  /** What comes after the labels. */
  async addRest(scene) {
    for (const [n, { runner }] of scene.parts.entries()) {
      const rest = ["stages", "probed"].map((question) => runner.client.ask(question));
      const found = await Promise.all(rest);
      if (scene !== this.scene) return;
      scene.add(n, ...found);
    }
    this.explorer.draw();
    this.settled = scene;
  }

  /** Before there is a network, the picture alone. */
  showPhoto() {
    const { at, photo } = this;
    at.begin.querySelector("img")?.remove();
    at.begin.prepend(Object.assign(photo.picture.cloneNode(), { alt: "the picture to run it on" }));
  }

  /** An explorer of the scene; where the reader was in the one before, this one begins. */
  show(scene, photo) {
    this.explorer?.close();
    const host = document.createElement("div");
    this.at.explore.replaceChildren(host);
    for (const [n, { runner, run }] of scene.parts.entries())
      Object.assign(scene.sources[n], runner.answers(run, photo));
    const options = {
      view: { pixel: scene.image.size.map((side) => side >> 1), ...this.view, image: 0 },
      ask: (question) => this.answer(scene, photo, question),
      source: (_, model) => scene.sources[model],
      changed: (state) => this.keep(state),
      trouble: (error) => `The network did not answer: ${error.message}.`,
      inside: true,
    };
    this.at.card.dataset.running = "";
    this.scene = scene;
    this.explorer = new Explorer(host, scene, [scene.picture], options);
    this.explorer.begin();
  }

  /** What a kernel is asked for in a notebook. */
  async answer(scene, photo, { ask, model, pixel, k }) {
    if (ask !== "cause") throw new Error(`nobody here answers ${ask}`);
    const { runner, run } = scene.parts[model];
    const source = scene.sources[model];
    const own = cellOf(pixel, scene.image, source);
    return { content: await runner.cause(source, run, photo, own, pixel, k) };
  }

  keep(state) {
    this.view = { ...this.view, ...state, network: this.network.name };
    this.view.second = this.second?.name;
    if (this.scene) showAddress(this.view);
  }

  // ------------------------------------------------------------------------------------- words

  busy(what, share = 0) {
    this.at.busy.hidden = what === null;
    this.at.progress.value = share;
    this.at.doing.textContent = what ? `${what} …` : "";
  }

  trouble(text) {
    this.busy(null);
    this.at.trouble.textContent = text;
  }
}

/** A data: address as a Blob, without a request. */
async function blobOf(address) {
  const [, kind, text] = /^data:([^;]+);base64,(.*)$/s.exec(address);
  return new Blob([fromBase64(text)], { type: kind });
}
