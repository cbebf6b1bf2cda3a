import assert from "node:assert/strict";
import { test } from "node:test";

import { firstOf, ranksOf } from "../../setr_lib/explorer/js/hiding.js";
import { fitted } from "../../setr_lib/explorer/live/take.js";

test("the asking patch is never hidden, and equals keep their order", () => {
  assert.deepEqual(firstOf([1, 9, 5, 5, 0], 3, 1), [2, 3, 0]);
});

test("nearest are those around the asking patch", () => {
  const { nearest } = ranksOf([0, 0, 0, 0, 0, 0], 4, [2, 3]);
  assert.deepEqual(firstOf(nearest, 3, 4), [1, 3, 5]);
});

test("a picture is fitted into long and short sides, whichever lies", () => {
  assert.deepEqual(fitted([360, 480], [240, 180]), [180, 240]);
  assert.deepEqual(fitted([480, 360], [240, 180]), [240, 180]);
  assert.deepEqual(fitted([1, 4000], [240, 180]), [1, 240]);
});
