// What is shown, as numbers: the data behind the page, the choices made, the answers that came.
// Explorer changes it; words, maps and panels only read it. It knows nothing of the page.

import { cellOf, commonest } from "./cells.js";
import { measure, row, uniform } from "./measures.js";
import { sum } from "./numbers.js";
import { decodeScores } from "./parcel.js";
import { resized } from "./scores.js";

export class View {
  /**
   * `state`: what is chosen. `answered` {image, pixel, direction, now}: what all numbers are of;
   * `now` has {source, cell, rows (L,H,T), rollout (L,N) or null} per network. `read`: the pixel
   * whose cell is read off the maps. `checked`, `means`: answers that only some panels ask for.
   */
  constructor(parcel, state, live) {
    Object.assign(this, { parcel, header: parcel.header, state, live });
    Object.assign(this, { answered: null, read: null, checked: null, means: null });
    this.kept = new Map();
  }

  get image() {
    return this.header.images[(this.answered ?? this.state).image];
  }

  /** The network that panels are about: of a difference the first. */
  get model() {
    return this.state.model === "difference" ? 0 : this.state.model;
  }

  get facts() {
    return this.image.models[this.model];
  }

  get now() {
    return this.answered.now;
  }

  get pixel() {
    return this.answered.pixel;
  }

  get direction() {
    return this.answered.direction;
  }

  /** What takes long is made once: `make()` the first time that `key` is asked for. */
  once(key, make) {
    if (!this.kept.has(key)) this.kept.set(key, make());
    return this.kept.get(key);
  }

  /** (N): one map of one network, or null where there is none (yet). */
  map(model, block, head) {
    if (model === "difference") {
      const [one, two] = [this.map(0, block, head), this.map(1, block, head)];
      return one && two && one.length === two.length ? one.map((value, n) => value - two[n]) : null;
    }
    const now = this.now[model];
    if (!now || block >= now.source.layers) return null;
    const { tokens, prefix } = now.source;
    if (head === "rollout") {
      const count = tokens - prefix;
      return now.rollout && now.rollout.subarray(block * count, (block + 1) * count);
    }
    const found = row(now, block, head);
    return found && found.subarray(prefix);
  }

  measure({ source, cell }, values) {
    const region = this.region(source, cell);
    return measure(source, cell, values, this.image.patch, region, this.direction);
  }

  /** What attention spread evenly over all tokens would have. */
  uniform({ source, cell }) {
    return uniform(source, cell, this.image.patch, this.region(source, cell), this.direction);
  }

  /** cell -> uniform attention on it (or from it); in the rollout the prefix is taken out. */
  even(source, head) {
    const { even, prefix } = source;
    const whole = head === "rollout" ? 1 - sum(even.subarray(0, prefix)) : 1;
    if (this.direction === "from") return (cell) => even[prefix + cell] / whole;
    const share = even[prefix + cellOf(this.pixel, this.image, source)] / whole;
    return () => share;
  }

  /** (N) 0/1: the cells whose commonest true class is that of this cell; null without a label. */
  region(source, cell) {
    const classes = this.cellClasses(source);
    if (!classes || classes[cell] === 255) return null;
    return classes.map((kind) => (kind === classes[cell] ? 1 : 0));
  }

  cellClasses({ grid, pool }) {
    const { label, size, patch } = this.image;
    if (!label) return null;
    return this.once(`cells ${label.at} ${grid}`, () =>
      commonest(this.parcel.array(label), size, grid, patch * pool),
    );
  }

  /** The class of the asking cell, its commonest one: the same in words and numbers. */
  className({ source, cell }) {
    const kind = this.cellClasses(source)?.[cell];
    return this.header.label_classes[kind]?.name ?? null;
  }

  /** The class that the label gives a single pixel. */
  labelAt([row, col]) {
    if (!this.image.label) return null;
    const kind = this.parcel.array(this.image.label)[row * this.image.size[1] + col];
    return this.header.label_classes[kind]?.name ?? null;
  }

  /** Class scores of the pixel's cell before the last resize, and of the pixel after it. */
  scoresAt(row, col) {
    const { classes, size, covers } = this.facts.scores;
    return resized(this.scoreValues(), classes.length, size, covers, row, col);
  }

  /** (K,h,w): class scores of all cells. */
  scoreValues() {
    const { classes, size, step, differences, values } = this.facts.scores;
    const decoded = () =>
      decodeScores(this.parcel.array(differences), classes.length, ...size, step);
    return values ?? this.once(`scores ${differences.at}`, decoded);
  }

  /** Row and column as the maps count them: of the cell, which may hold several patches. */
  placeOf(pixel) {
    const side = this.image.patch * this.now[0].source.pool;
    return pixel.map((at) => Math.floor(at / side));
  }

  /** What a map has one value for. */
  get unit() {
    return this.now[0].source.pool > 1 ? "cell" : "patch";
  }

  modelName(model) {
    return model === "difference" ? "difference" : this.header.names[model];
  }

  /** All numbers behind the present picture: what the npz holds. */
  numbers(model = 0) {
    const now = this.now[model];
    const { source, rows, rollout } = now;
    const { layers, heads, tokens, prefix, grid } = source;
    const per = { entropy: [], distance: [], inside: [] };
    for (let block = 0; block < layers; block++) {
      for (let head = 0; head < heads; head++) {
        const found = this.measure(now, row(now, block, head));
        for (const name of Object.keys(per)) per[name].push(found[name] ?? NaN);
      }
    }
    const found = {
      rows: { data: rows, shape: [layers, heads, tokens] },
      entropy: { data: Float32Array.from(per.entropy), shape: [layers, heads] },
      distance: { data: Float32Array.from(per.distance), shape: [layers, heads] },
      inside: { data: Float32Array.from(per.inside), shape: [layers, heads] },
      pixel: { data: Int32Array.from(this.pixel), shape: [2] },
      grid: { data: Int32Array.from(grid), shape: [2] },
      prefix_tokens: { data: Int32Array.of(prefix), shape: [] },
      patches_per_cell_side: { data: Int32Array.of(source.pool), shape: [] },
      looks_at: { data: Uint8Array.of(this.direction === "from" ? 1 : 0), shape: [] },
    };
    if (rollout) found.rollout = { data: rollout, shape: [layers, tokens - prefix] };
    return found;
  }
}
