import assert from "node:assert/strict";
import { test } from "node:test";

import { existing, fromAddress, toAddress } from "../../setr_lib/explorer/js/address.js";

test("a state comes back from its address", () => {
  const state = { pixel: [30, 174], block: 3, head: "mean", direction: "to", stop: 4, mode: "tour" };
  assert.deepEqual(fromAddress(`#${toAddress({ ...state, opacity: 0.5 })}`), state);
  assert.deepEqual(fromAddress(toAddress({ head: 2, model: "difference", pixel: null })), {
    head: 2,
    model: "difference",
  });
});

test("what is no number where one is due is left out", () => {
  assert.deepEqual(fromAddress("#b=x&px=1,two&img=-1&stop=1e3&evil=1"), {});
});

test("what does not exist is left out", () => {
  const found = { block: 12, head: 3, image: 1, model: "difference", direction: "up", panel: "x" };
  assert.deepEqual(existing(found, { layers: 12, heads: 3 }), {});
  const good = { block: 11, head: "max", image: 0, direction: "to", panel: "heads", scale: "own" };
  assert.deepEqual(existing(good, { layers: 12, heads: 3 }), good);
});
