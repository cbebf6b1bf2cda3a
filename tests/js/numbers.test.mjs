import assert from "node:assert/strict";
import { test } from "node:test";

import { measure, row, uniform } from "../../setr_lib/explorer/js/measures.js";
import * as numbers from "../../setr_lib/explorer/js/numbers.js";
import { resized } from "../../setr_lib/explorer/js/scores.js";
import { close } from "./helpers.mjs";

test("percents keep about two digits", () => {
  const found = [0, 0.00333, 0.0096, 0.0333, 0.0996, 0.31, 1].map(numbers.percent);
  assert.deepEqual(found, ["0.00 %", "0.33 %", "0.96 %", "3.3 %", "10 %", "31 %", "100 %"]);
});

test("ratios do too", () => {
  const found = [0.25, 0.999, 3.94, 12.3].map(numbers.times);
  assert.deepEqual(found, ["0.25 times", "1.0 times", "3.9 times", "12 times"]);
});

test("a softmax sums to one and survives large scores", () => {
  close(numbers.softmax([1000, 1000 + Math.log(3)]), [0.25, 0.75], 1e-12);
});

test("a name cannot become markup", () => {
  assert.equal(numbers.escape('<a href="&">'), "&lt;a href=&quot;&amp;&quot;&gt;");
});

test("the spread of one value is no spread", () => {
  assert.equal(numbers.spread([0.1]), "10 ± 0 points");
  assert.equal(numbers.spread([0.1, 0.3]), "20 ± 14 points");
});

const SOURCE = { grid: [1, 4], pool: 1, prefix: 1, heads: 2, tokens: 5, even: undefined };

test("measures of attention on one patch are its distance, and no entropy", () => {
  const one = Float32Array.of(0.5, 0, 0, 0, 0.5);
  const region = Uint8Array.of(1, 0, 0, 1);
  const found = measure(SOURCE, 1, one, 16, region, "from");
  assert.deepEqual(found, { entropy: Math.LN2, distance: 32, inside: 1, prefix: 0.5 });
  assert.equal(measure(SOURCE, 1, one, 16, null, "to").entropy, null);
});

test("uniform columns do not depend on the size of the cells that look", () => {
  const source = { ...SOURCE, even: Float32Array.of(0.1, 0.2, 0.2, 0.2, 0.3) };
  assert.equal(uniform(source, 0, 10, null, "to").distance.toFixed(6), "15.000000");
  const from = (0.2 * (0 + 10 + 20) + 0.3 * 30) / 0.9;
  assert.equal(uniform(source, 0, 10, null, "from").distance.toFixed(5), from.toFixed(5));
});

test("mean and maximum of the heads are taken token by token", () => {
  const rows = Float32Array.of(1, 2, 3, 4, 5, 5, 4, 3, 2, 1);
  const now = { source: SOURCE, rows };
  close(row(now, 0, "mean"), [3, 3, 3, 3, 3], 1e-6);
  close(row(now, 0, "max"), [5, 4, 3, 4, 5], 1e-6);
  close(row(now, 0, 1), [5, 4, 3, 2, 1], 1e-6);
  assert.equal(row(now, 0, 2), null);
});

test("scores between two cells lie between theirs, those at the border are the border's", () => {
  const values = Float32Array.of(0, 8);
  const at = (col) => resized(values, 1, [1, 2], [8, 8], 3, col);
  assert.deepEqual([0, 3, 4, 7].map((col) => at(col).after[0]), [0, 3, 5, 8]);
  assert.deepEqual([0, 3, 4, 7].map((col) => at(col).before[0]), [0, 0, 8, 8]);
});
