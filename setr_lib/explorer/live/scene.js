// What the workers found, in the form that the explorer reads: a parcel, and sources of attention.

import { Attention } from "../js/attention.js";
import { measure, uniform } from "../js/measures.js";
import { channelsFirst } from "../js/scores.js";

export class Scene {
  /** `parts`: one {run, loaded} per network. `photo`: as taken. `tables`: bytes of the colours. */
  constructor(parts, { height, width, picture }, name, tables) {
    Object.assign(this, { parts, picture, places: 0 });
    const [{ run, loaded }] = parts;
    const { classes, palette } = loaded.about;
    const table = classes.map((kind, n) => ({ name: kind, colour: palette[n] }));
    const image = { name, size: [height, width], patch: loaded.config.patch_size, grid: run.grid };
    Object.assign(image, { label: null, judged: false });
    image.models = parts.map((part) => this.factsOf(part, image));
    this.image = image;
    const names = parts.map((part) => part.loaded.about.title);
    this.header = { names, classes: table, label_classes: table, view: {}, images: [image] };
    for (const [kind, bytes] of Object.entries(tables))
      this.header[kind] = this.place(bytes, [256, 3]);
    this.sources = parts.map((part, n) => sourceOf(part, image.models[n], image));
  }

  factsOf({ run, loaded: { config, about } }, { size }) {
    const { prefix, scores, covers } = run;
    const { depth: layers, heads, width } = config;
    const predicted = this.place(run.labels, size);
    const main = { name: "main head", source: "main", layer: layers - 1, labels: predicted };
    return {
      ...{ layers, heads, prefix, width, predicted, stages: [] },
      emergence: [{ ...main, miou: about.miou ?? null, here: null }],
      scores: {
        ...{ size: [scores.rows, scores.cols], covers },
        classes: [...about.classes.keys()],
        values: channelsFirst(scores),
      },
    };
  }

  /** An array as the parcel of a file would name it. */
  place(array, shape) {
    return { at: this.places++, shape, values: array };
  }

  array(place) {
    return place.values;
  }

  /** What a worker finds after the labels: colours of the decoder's maps, what probes read. */
  add(model, stages, probed) {
    const facts = this.image.models[model];
    const known = this.parts[model].loaded.about.probed;
    facts.stages = stages.map(({ name, channels, size, rows, cols, colours }) => ({
      ...{ name, channels, size },
      colours: this.place(colours, [rows, cols, 3]),
    }));
    const probes = (probed ?? []).map((labels, layer) => ({
      ...{ name: `probe of block ${layer}`, source: "probe", layer, here: null },
      miou: known?.[layer] ?? null,
      labels: this.place(labels, this.image.size),
    }));
    facts.emergence = [...probes, facts.emergence.at(-1)];
  }
}

/** Attention of a run: the worker has read all of it. */
function sourceOf({ run, loaded: { config } }, facts, image) {
  const rank = config.width / config.heads;
  const vectors = run.pairs.map(({ q, k }) => ({ q, k, rank }));
  const source = new Attention(facts, image, vectors);
  Object.assign(source, { norms: run.norms, meanMaps: run.means, done: Promise.resolve() });
  let means = null;
  source.means = () => (means ??= meansOf(source, image));
  return source;
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
