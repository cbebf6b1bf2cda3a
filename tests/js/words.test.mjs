import assert from "node:assert/strict";
import { test } from "node:test";

import { evenOver } from "../../setr_lib/explorer/js/cells.js";
import { colouring } from "../../setr_lib/explorer/js/maps.js";
import { readers } from "../../setr_lib/explorer/js/panel_emergence.js";
import { View } from "../../setr_lib/explorer/js/view.js";
import { reading, sentence } from "../../setr_lib/explorer/js/words.js";

/** Two networks of one block and one head on 1x4 patches; the second one looks evenly. */
function shown(changes = {}, answer = {}) {
  const label = { at: 0 };
  const image = { size: [10, 40], patch: 10, grid: [1, 4], label, models: [{}, {}] };
  const header = {
    images: [image],
    names: ["one", "two"],
    label_classes: [{ name: "sky" }, { name: "road" }],
  };
  // one pixel in ten of the first patch is road: it still is sky
  const classes = Uint8Array.from({ length: 400 }, (_, n) => (n % 40 < 1 || n % 40 > 19 ? 1 : 0));
  const state = { model: 0, block: 0, head: "mean", scale: "times", ...changes };
  const view = new View({ header, array: () => classes }, state, false);
  const facts = { layers: 1, heads: 1, prefix: 1, tokens: 5, pool: 1, grid: [1, 4] };
  const source = { ...facts, even: evenOver([1, 4], 1, 1) };
  const rows = [Float32Array.of(0.2, 0, 0.6, 0.1, 0.1), new Float32Array(5).fill(0.2)];
  const now = rows.map((one) => ({ source, cell: 0, rows: one, rollout: one.subarray(1) }));
  view.answered = { image: 0, pixel: [5, 0], direction: "from", now, done: true, ...answer };
  view.tables = {};
  return view;
}

test("the sentence says who asks, where the largest is, and how it compares", () => {
  const text = sentence(shown());
  assert.ok(text.startsWith("Block 0, mean of the heads, one: the patch in row 0, column 0 (sky) "));
  assert.ok(text.includes("looks most at row 0, column 1 (60 %, 3.0 times uniform)"), text);
  assert.ok(text.includes("75 % of it on patches of the same class (which cover 50 %)"), text);
  assert.ok(text.endsWith("20 % on the class token."), text);
});

test("its direction is that of the numbers, not of the button", () => {
  const text = sentence(shown({ direction: "from" }, { direction: "to" }));
  assert.ok(text.includes("is looked at most by row 0, column 1 (which spends 60 %"), text);
});

test("a difference names the network that has more", () => {
  const text = sentence(shown({ model: "difference" }));
  assert.ok(text.includes("with 40 % more in “one” than in “two”"), text);
});

test("a rollout that is not there yet is being computed", () => {
  const view = shown({ head: "rollout" });
  assert.ok(sentence(view).startsWith("Rollout of blocks 0 to 0, one:"));
  view.now[0].rollout = null;
  assert.ok(sentence(view).endsWith("computing the rollout."));
});

test("a reading is value and times uniform; of a difference it has a sign", () => {
  const view = shown();
  assert.equal(reading(view, 0), "");
  view.read = [0, 30];
  assert.equal(reading(view, 0), "row 0, column 3: 10 %, 0.50 times uniform");
  assert.equal(reading(view, "difference"), "row 0, column 3: −10 %");
});

test("uniform attention has the middle colour, 4 times and a quarter are equally far", () => {
  const view = shown();
  const map = [0, 1 / 4, 1, 4, 99].map((times) => times * 0.2).slice(0, 4);
  const { share } = colouring(view, Float32Array.from(map), 0, "mean");
  const found = map.map((_, n) => Number(share(n).toFixed(6)));
  assert.deepEqual(found, [0, 0.25, 0.5, 0.75]);
});

test("one range is the largest of all networks, whichever is chosen", () => {
  for (const model of [0, 1]) {
    const view = shown({ scale: "shared", model });
    assert.equal(colouring(view, view.map(model, 0, "mean"), model, "mean").high, "60 %");
  }
});

test("a block without a reader shows the nearest one before it", () => {
  const entries = [
    { layer: 1, source: "auxiliary" },
    { layer: 3, source: "probe" },
    { layer: 3, source: "main" },
  ];
  const of = (block, reader = null) => readers(entries, { block, reader }).entry;
  assert.equal(of(0), entries[0]);
  assert.equal(of(2), entries[0]);
  assert.equal(of(3), entries[1]);
  assert.equal(of(3, "main"), entries[2]);
});
