// Attention from queries and keys that are in the page; no question leaves it.
//
// L layers (blocks), H heads, T tokens = S prefix tokens, then N cells

import { evenOver } from "./cells.js";
import { sum, unit } from "./numbers.js";

/** Attention from {q, k, rank} of every head, `rank` numbers for each token, q scaled. */
export class Attention {
  constructor(facts, image, vectors) {
    const { layers, heads, prefix, means, pool = 1, error = 0 } = facts;
    Object.assign(this, { layers, heads, prefix, pool, error, vectors });
    this.grid = image.grid.map((side) => Math.ceil(side / pool));
    this.tokens = prefix + this.grid[0] * this.grid[1];
    this.even = evenOver(image.grid, prefix, pool);
    this.means = async () => means;
    this.done = null;
    this.stopped = false;
  }

  /** (L,H,T): a row of every map ("from") or a column ("to"). */
  async rows(cell, direction) {
    const { layers, heads, tokens } = this;
    const found = new Float32Array(layers * heads * tokens);
    const asking = this.prefix + cell;
    if (direction === "to") await this.prepare();
    for (let at = 0; at < layers * heads; at++) {
      const row = found.subarray(at * tokens, (at + 1) * tokens);
      if (direction === "from") this.softmaxRow(at, asking, row);
      else this.column(at, asking, row);
    }
    return found;
  }

  /** As `attention_rollout`, `(L,N)`: up to every layer, prefix tokens taken out at the end. */
  async rollout(cell, direction) {
    await this.prepare();
    const { layers, tokens, prefix } = this;
    const count = tokens - prefix;
    const found = new Float32Array(layers * count);
    if (direction === "to") {
      const columns = [prefix + cell, ...Array(prefix).keys()].map((token) => unit(tokens, token));
      for (let layer = 0; layer < layers; layer++) {
        for (const [n, column] of columns.entries()) columns[n] = this.mixColumn(layer, column);
        for (let i = 0; i < count; i++) {
          let others = 0;
          for (let s = 1; s <= prefix; s++) others += columns[s][prefix + i];
          found[layer * count + i] = columns[0][prefix + i] / (1 - others);
        }
      }
      return found;
    }
    for (let last = 0; last < layers; last++) {
      let row = unit(tokens, prefix + cell);
      for (let layer = last; layer >= 0; layer--) row = this.mixRow(layer, row);
      const patches = row.subarray(prefix);
      const total = sum(patches);
      for (let j = 0; j < count; j++) found[last * count + j] = patches[j] / total;
    }
    return found;
  }

  /** What query and key of two cells give number by number; a page's are turned, few, as one. */
  async products(block, head, from, to) {
    const { q, k, rank } = this.vectors[block * this.heads + head];
    const row = (all, cell) =>
      all.subarray((this.prefix + cell) * rank, (this.prefix + cell + 1) * rank);
    const [asks, answers] = [row(q, from), row(k, to)];
    return asks.map((value, n) => value * answers[n]);
  }

  /** Every row's normaliser and every layer's mean over the heads, a little at a time. */
  prepare() {
    this.done ??= this.readAll();
    return this.done;
  }

  async readAll() {
    const { layers, heads, tokens } = this;
    this.norms = new Float64Array(layers * heads * tokens);
    this.meanMaps = Array.from({ length: layers }, () => new Float32Array(tokens * tokens));
    const row = new Float32Array(tokens);
    let since = performance.now();
    for (let at = 0; at < layers * heads; at++) {
      const mean = this.meanMaps[Math.floor(at / heads)];
      for (let i = 0; i < tokens; i++) {
        this.norms[at * tokens + i] = this.softmaxRow(at, i, row);
        for (let j = 0; j < tokens; j++) mean[i * tokens + j] += row[j] / heads;
        if (performance.now() - since > 12) {
          await new Promise((go) => setTimeout(go));
          if (this.stopped) return;
          since = performance.now();
        }
      }
    }
  }

  softmaxRow(at, i, row) {
    const { q, k, rank } = this.vectors[at];
    const tokens = this.tokens;
    let largest = -Infinity;
    for (let j = 0; j < tokens; j++) {
      let dot = 0;
      for (let r = 0, a = i * rank, b = j * rank; r < rank; r++) dot += q[a + r] * k[b + r];
      row[j] = dot;
      if (dot > largest) largest = dot;
    }
    let total = 0;
    for (let j = 0; j < tokens; j++) total += row[j] = Math.exp(row[j] - largest);
    for (let j = 0; j < tokens; j++) row[j] /= total;
    return largest + Math.log(total);
  }

  column(at, j, column) {
    const { q, k, rank } = this.vectors[at];
    for (let i = 0; i < this.tokens; i++) {
      let dot = 0;
      for (let r = 0, a = i * rank, b = j * rank; r < rank; r++) dot += q[a + r] * k[b + r];
      column[i] = Math.exp(dot - this.norms[at * this.tokens + i]);
    }
  }

  mixRow(layer, row) {
    const { tokens } = this;
    const map = this.meanMaps[layer];
    const mixed = new Float64Array(tokens);
    for (let i = 0; i < tokens; i++) {
      const weight = 0.5 * row[i];
      if (weight === 0) continue;
      for (let j = 0, at = i * tokens; j < tokens; j++) mixed[j] += weight * map[at + j];
    }
    for (let j = 0; j < tokens; j++) mixed[j] += 0.5 * row[j];
    return mixed;
  }

  mixColumn(layer, column) {
    const { tokens } = this;
    const map = this.meanMaps[layer];
    const mixed = new Float64Array(tokens);
    for (let i = 0; i < tokens; i++) {
      let total = 0;
      for (let j = 0, at = i * tokens; j < tokens; j++) total += map[at + j] * column[j];
      mixed[i] = 0.5 * total + 0.5 * column[i];
    }
    return mixed;
  }

  stop() {
    this.stopped = true;
  }
}

/** Attention as a page stores it. */
export function stored(parcel, image, facts) {
  const { pool, rank, error } = facts.attention;
  const tokens = facts.prefix + evenOver(image.grid, 0, pool).length;
  const count = facts.layers * facts.heads;
  const vectors = unpackVectors(parcel, facts.attention, count, tokens, rank);
  const source = new Attention({ ...facts, pool, error }, image, vectors);
  const { unplaced, likeness } = facts.tour ?? {};
  source.unplaced = async () => unplaced && parcel.array(unplaced);
  source.likeness = async (cell) => likeness && cosines(parcel, likeness, cell);
  return source;
}

/** (N) per block: the cosine between a cell's token and every other; numbers (L,N,R) in steps. */
function cosines(parcel, { numbers, steps }, cell) {
  const [layers, count, rank] = numbers.shape;
  const [whole, each] = [parcel.array(numbers), parcel.array(steps)];
  return Array.from({ length: layers }, (_, layer) =>
    Float32Array.from({ length: count }, (_, n) => {
      const [a, b] = [cell, n].map((one) => (layer * count + one) * rank);
      let dot = 0;
      for (let r = 0; r < rank; r++) dot += whole[a + r] * whole[b + r];
      return dot * each[layer] ** 2;
    }),
  );
}

/** One {q, k, rank} per head, rows of `rank` numbers; q carries both sides' steps. */
function unpackVectors(parcel, packed, count, tokens, rank) {
  const steps = parcel.array(packed.steps);
  const sizes = parcel.array(packed.sizes);
  const body = parcel.array(packed.body);
  const columns = [0, 0, 0, 0, 0];
  for (const size of sizes) columns[size]++;
  const first = [0, 0, 0, 0, 0];
  for (let size = 2; size <= 4; size++)
    first[size] = first[size - 1] + (size - 1) * columns[size - 1] * tokens;
  const seen = [0, 0, 0, 0, 0];
  const found = [];
  for (let at = 0; at < count; at++) {
    let used = 0;
    while (used < rank && steps[at * rank + used] > 0) used++;
    const sides = [new Float32Array(tokens * used), new Float32Array(tokens * used)];
    for (let side = 0; side < 2; side++) {
      for (let r = 0; r < rank; r++) {
        const size = sizes[(at * 2 + side) * rank + r];
        if (size === 0) continue;
        const factor = side === 0 ? steps[at * rank + r] ** 2 : 1;
        for (let i = 0; i < tokens; i++) {
          let whole = 0;
          for (let byte = 0; byte < size; byte++) {
            whole |=
              body[first[size] + (byte * columns[size] + seen[size]) * tokens + i] << (8 * byte);
          }
          const shift = 32 - 8 * size;
          sides[side][i * used + r] = factor * ((whole << shift) >> shift); // the sign
        }
        seen[size]++;
      }
    }
    found.push({ q: sides[0], k: sides[1], rank: used });
  }
  return found;
}
