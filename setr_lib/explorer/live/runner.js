// One network in a worker of its own: its weights, its runs, and what is asked of a run.

import { RANKS, firstOf, ranksOf } from "../js/hiding.js";
import { softmax } from "../js/numbers.js";
import { fromBase64, inflate } from "../js/parcel.js";
import { channelsFirst, resized } from "../js/scores.js";
import { Client, fetchBytes } from "./client.js";

export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

export class Runner {
  /** `network`: as the page offers it. `site`: tells the reader to wait, keeps a log. */
  constructor(network, { settings, engine, log }, busy) {
    const { folder, simd } = settings;
    Object.assign(this, { network, folder, simd, engine, log, busy });
  }

  /** Fetch or unpack the weights, start the worker. */
  async load() {
    const { simd } = this;
    const start = performance.now();
    const [weights, probes] = await this.weights();
    this.log.push(["fetch", performance.now() - start]);
    this.client = new Client(this.engine);
    this.busy("unpacking", 1);
    const transfer = [weights, probes].filter(Boolean);
    const loaded = await this.client.ask("load", { weights, probes, simd }, null, transfer);
    const { title, miou, probed } = this.network;
    this.loaded = { ...loaded, about: { ...loaded.about, title, miou, probed } };
    this.log.push(["load", performance.now() - start]);
    return this;
  }

  /** The files of weights and probes: out of the page, or from the site. */
  async weights() {
    const { file, bytes, text, probes } = this.network;
    const unpacked = (one) => (one ? inflate(fromBase64(one)) : null);
    if (text) return [await unpacked(text), await unpacked(probes)];
    if (location.protocol === "file:")
      throw new Error("a page from disk may fetch nothing; open the one file that is named below");
    const progress = (share) => this.busy(`fetching ${megabytes(bytes)}`, share);
    const found = await fetchBytes(new URL(file, this.folder), bytes, progress);
    return [found, await unpacked(probes)];
  }

  run({ rgba, height, width }, options = {}, progress = null) {
    return this.client.ask("run", { image: { rgba, height, width }, ...options }, progress);
  }

  /** The same picture in another way; what is shown of it stays what questions are about. */
  async rerun(photo, options) {
    const start = performance.now();
    const run = await this.run(photo, { ...options, keep: false });
    this.log.push(["rerun", performance.now() - start]);
    return run;
  }

  /** What the explorer may ask a source for, of `run` on `photo`. */
  answers(run, photo) {
    return {
      likeness: (patch) => this.client.ask("likeness", { patch }),
      unplaced: async () => (await this.rerun(photo, { positions: false })).labels,
      without: async (hidden, pixel) => {
        const after = await this.rerun(photo, { hidden });
        const [before, left] = [run, after].map((one) => probabilitiesAt(one, pixel));
        const kind = before.indexOf(Math.max(...before));
        return { labels: after.labels, kind, before: before[kind], left: left[kind] };
      },
    };
  }

  /** The causal check, as the kernel answers it; four random draws. */
  async cause(source, run, photo, own, pixel, k) {
    const rollout = await source.rollout(own, "from");
    const last = rollout.subarray(-rollout.length / source.layers);
    const before = probabilitiesAt(run, pixel);
    const kind = before.indexOf(Math.max(...before));
    const found = { class: [kind], probability: [before[kind]], patches: [[]] };
    found.probability_fall = {};
    for (const choice of RANKS) {
      found.probability_fall[choice] = [];
      for (let draw = 0; draw < (choice === "random" ? 4 : 1); draw++) {
        const hidden = firstOf(ranksOf(last, own, run.grid)[choice], k, own);
        if (draw === 0) found.patches[0].push(hidden);
        const after = await this.rerun(photo, { hidden });
        found.probability_fall[choice].push(before[kind] - probabilitiesAt(after, pixel)[kind]);
      }
    }
    return found;
  }

  stop() {
    this.client?.worker.terminate();
  }
}

/** Probabilities of the classes at a pixel, of a run of the worker. */
function probabilitiesAt({ scores, covers }, [row, col]) {
  const { rows, cols, channels } = scores;
  return softmax(resized(channelsFirst(scores), channels, [rows, cols], covers, row, col).after);
}
