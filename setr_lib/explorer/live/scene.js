// What the worker found, in the form that the explorer reads: a parcel, and a source of attention.

import { Attention } from "../js/attention.js";
import { measure, uniform } from "../js/measures.js";

const FORWARD_STEP = 0.01; // of scores in files; here they are what they are

/** `run`: the worker's answer. `facts`: {about, config} of the network. `picture`: as taken. */
export class Scene {
  constructor(run, { about, config }, { height, width, picture }, name, tables) {
    Object.assign(this, { run, config, picture, probed: about.probed });
    this.places = 0;
    const classes = about.classes.map((kind, n) => ({ name: kind, colour: about.palette[n] }));
    const { grid, prefix, scores, covers } = run;
    const [layers, heads] = [config.depth, config.heads];
    const predicted = this.place(run.labels, [height, width]);
    const main = { name: "main head", source: "main", layer: layers - 1, labels: predicted };
    this.facts = {
      ...{ layers, heads, prefix, predicted, stages: [] },
      emergence: [{ ...main, miou: about.miou ?? null, here: null }],
      scores: {
        ...{ size: [scores.rows, scores.cols], covers, step: FORWARD_STEP },
        classes: [...classes.keys()],
        values: channelsFirst(scores),
      },
    };
    const image = { name, size: [height, width], patch: config.patch_size, grid };
    Object.assign(image, { label: null, judged: false, models: [this.facts] });
    this.image = image;
    this.header = { names: [about.title], classes, label_classes: classes, view: {} };
    Object.assign(this.header, { images: [image] });
    for (const [table, bytes] of Object.entries(tables))
      this.header[table] = this.place(bytes, [256, 3]);
    this.source = new Attention(this.facts, image, run.pairs.map(withRank(config)));
    Object.assign(this.source, { norms: run.norms, meanMaps: run.means });
    this.source.done = Promise.resolve(); // the worker has read all of it
    this.source.means = () => (this.means ??= meansOf(this.source, image));
  }

  /** An array as the parcel of a file would name it. */
  place(array, shape) {
    return { at: this.places++, shape, values: array };
  }

  array(place) {
    return place.values;
  }

  /** What the worker finds after the labels: colours of the decoder's maps, what probes read. */
  add(stages, probed) {
    const { facts, image } = this;
    facts.stages = stages.map(({ name, channels, size, rows, cols, colours }) => ({
      ...{ name, channels, size },
      colours: this.place(colours, [rows, cols, 3]),
    }));
    const probes = (probed ?? []).map((labels, layer) => ({
      ...{ name: `probe of block ${layer}`, source: "probe", layer, here: null },
      miou: this.probed?.[layer] ?? null,
      labels: this.place(labels, image.size),
    }));
    facts.emergence = [...probes, facts.emergence.at(-1)];
  }

  /** The pieces of one product q k: for patches `from` and `to` of a block and a head. */
  pair(block, head, from, to) {
    const { heads, prefix } = this.source;
    const { q, k, rank } = this.source.vectors[block * heads + head];
    const row = (all, patch) => all.subarray((prefix + patch) * rank, (prefix + patch + 1) * rank);
    const [asks, answers] = [row(q, from), row(k, to)];
    return asks.map((value, n) => value * answers[n]);
  }
}

function withRank({ width, heads }) {
  return ({ q, k }) => ({ q, k, rank: width / heads });
}

/** A map (rows * cols, channels) as (channels, rows, cols). */
export function channelsFirst({ data, rows, cols, channels }) {
  const found = new Float32Array(data.length);
  for (let n = 0; n < rows * cols; n++)
    for (let c = 0; c < channels; c++) found[c * rows * cols + n] = data[n * channels + c];
  return found;
}

/** Entropy and distance of every head, over all patches; a little at a time. */
async function meansOf(source, { patch, grid }) {
  const { layers, heads, tokens, prefix } = source;
  const row = new Float32Array(tokens);
  const count = tokens - prefix;
  const found = { entropy: [], distance: [] };
  for (let layer = 0; layer < layers; layer++) {
    const sums = { entropy: new Array(heads).fill(0), distance: new Array(heads).fill(0) };
    for (let head = 0; head < heads; head++) {
      for (let cell = 0; cell < count; cell++) {
        source.softmaxRow(layer * heads + head, prefix + cell, row);
        const one = measure(source, cell, row, patch, null, "from");
        for (const name of Object.keys(sums)) sums[name][head] += one[name] / count;
      }
      await new Promise((go) => setTimeout(go));
    }
    for (const name of Object.keys(sums)) found[name].push(sums[name]);
  }
  let even = 0;
  for (let cell = 0; cell < grid[0] * grid[1]; cell++)
    even += uniform(source, cell, patch, null, "from").distance / count;
  return { ...found, uniform_distance: even };
}
