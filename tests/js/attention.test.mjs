import assert from "node:assert/strict";
import { test } from "node:test";

import { stored } from "../../setr_lib/explorer/js/attention.js";
import { cellOf, commonest, evenOver } from "../../setr_lib/explorer/js/cells.js";
import { close, storedAttention } from "./helpers.mjs";

const [LAYERS, HEADS, GRID, PREFIX] = [3, 2, [2, 3], 2];
const { parcel, image, facts, maps } = storedAttention(LAYERS, HEADS, GRID, PREFIX, 4, 1);
const TOKENS = PREFIX + GRID[0] * GRID[1];

test("a row and a column are those of the softmax of queries and keys", async () => {
  const source = stored(parcel, image, facts);
  const [from, to] = [await source.rows(3, "from"), await source.rows(3, "to")];
  const token = PREFIX + 3;
  close(from, maps.flatMap((map) => map[token]), 1e-6);
  close(to, maps.flatMap((map) => map.map((row) => row[token])), 1e-6);
});

test("the rollout is the product of the mixed maps, prefix tokens taken out at the end", async () => {
  const source = stored(parcel, image, facts);
  const count = TOKENS - PREFIX;
  let product = null;
  const [from, to] = [await source.rollout(4, "from"), await source.rollout(4, "to")];
  for (let layer = 0; layer < LAYERS; layer++) {
    const mixed = maps[layer * HEADS].map((row, i) =>
      row.map((value, j) => 0.25 * (value + maps[layer * HEADS + 1][i][j]) + (i === j ? 0.5 : 0)),
    );
    product = product
      ? mixed.map((row) => row.map((_, j) => row.reduce((a, v, n) => a + v * product[n][j], 0)))
      : mixed;
    const patches = product.slice(PREFIX).map((row) => {
      const kept = row.slice(PREFIX);
      const total = kept.reduce((a, b) => a + b);
      return kept.map((value) => value / total);
    });
    const part = (all) => all.subarray(layer * count, (layer + 1) * count);
    close(part(from), patches[4], 1e-6);
    close(part(to), patches.map((row) => row[4]), 1e-6);
  }
});

test("even attention over cells is their share of the tokens", () => {
  close(evenOver([3, 4], 1, 2), [1, 4, 4, 2, 2].map((count) => count / 13), 1e-7);
});

test("a pixel lies in one cell", () => {
  assert.equal(cellOf([33, 50], { patch: 16 }, { pool: 1, grid: [3, 4] }), 11);
  assert.equal(cellOf([33, 50], { patch: 16 }, { pool: 2, grid: [2, 2] }), 3);
});

test("the commonest class leaves 255 out and takes the smaller of equals", () => {
  const label = Uint8Array.of(1, 2, 255, 255, 2, 1, 255, 7);
  assert.deepEqual([...commonest(label, [2, 4], [1, 2], 2)], [1, 7]);
  assert.deepEqual([...commonest(label.fill(255), [2, 4], [1, 2], 2)], [255, 255]);
});
