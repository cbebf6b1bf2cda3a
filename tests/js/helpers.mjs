// What several tests start from: random numbers that are the same every time, parcels, matrices.

import { deflateRawSync } from "node:zlib";

export function draws(seed) {
  let state = seed;
  return () => {
    state = (1103515245 * state + 12345) % 2147483648;
    return state / 2147483648;
  };
}

/** A parcel as Python packs it: length, JSON, arrays that start at multiples of 4. */
export function parcelOf(header, arrays) {
  const text = Buffer.from(JSON.stringify(header));
  const json = Buffer.concat([text, Buffer.alloc((4 - (text.length % 4)) % 4, " ")]);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(json.length);
  const parts = arrays.map((array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength));
  const filled = parts.map((one) => Buffer.concat([one, Buffer.alloc((4 - (one.length % 4)) % 4)]));
  return new Uint8Array(deflateRawSync(Buffer.concat([length, json, ...filled])));
}

/** Whole numbers as queries and keys of L layers and H heads, and the page's form of them. */
export function storedAttention(layers, heads, [rows, cols], prefix, rank, seed) {
  const [next, tokens] = [draws(seed), prefix + rows * cols];
  const columns = [];
  const pairs = Array.from({ length: layers * heads }, () =>
    ["q", "k"].map(() =>
      Array.from({ length: rank }, () => {
        const column = Int8Array.from({ length: tokens }, () => Math.floor(9 * next()) - 4);
        columns.push(column);
        return column;
      }),
    ),
  );
  const arrays = {
    steps: new Float32Array(layers * heads * rank).fill(0.5),
    sizes: new Uint8Array(layers * heads * 2 * rank).fill(1),
    body: Uint8Array.from(columns.flatMap((column) => [...new Uint8Array(column.buffer)])),
  };
  const facts = { layers, heads, prefix };
  facts.attention = { pool: 1, rank, error: 0, steps: "steps", sizes: "sizes", body: "body" };
  const maps = pairs.map(([q, k]) =>
    Array.from({ length: tokens }, (_, i) => {
      const logits = Array.from({ length: tokens }, (_, j) =>
        q.reduce((all, column, r) => all + 0.25 * column[i] * k[r][j], 0),
      );
      const powers = logits.map(Math.exp);
      const total = powers.reduce((a, b) => a + b);
      return powers.map((power) => power / total);
    }),
  );
  return { parcel: { array: (name) => arrays[name] }, image: { grid: [rows, cols] }, facts, maps };
}

export function close(found, expected, within) {
  if (found.length !== expected.length) throw new Error(`${found.length}, not ${expected.length}`);
  for (const [n, value] of [...expected].entries())
    if (!(Math.abs(found[n] - value) <= within)) throw new Error(`${n}: ${found[n]}, not ${value}`);
}
