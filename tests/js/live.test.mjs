import assert from "node:assert/strict";
import { test } from "node:test";

import { kernel } from "../../setr_lib/explorer/js/live.js";

function model(answer) {
  const one = { sent: [], on: (_, call) => (one.hear = call) };
  one.send = (question) => {
    one.sent.push(question);
    answer?.(one, question);
  };
  return one;
}

test("answers find their questions in any order", async () => {
  const one = model();
  const ask = kernel(one, { rows: 9, means: 9 });
  const asked = [ask({ ask: "rows" }), ask({ ask: "means" })];
  for (const { id, ask: what } of one.sent.toReversed()) one.hear({ id, what }, []);
  const found = await Promise.all(asked);
  assert.deepEqual(found.map(({ content }) => content.what), ["rows", "means"]);
});

test("what Python refuses is told from silence", async () => {
  const one = model((self, { id }) => queueMicrotask(() => self.hear({ id, error: "no" }, [])));
  await assert.rejects(kernel(one, { rows: 9 })({ ask: "rows" }), { message: "no", answer: true });
});

test("who gets no answer in time is refused, and a late answer is let go", async () => {
  const one = model();
  const silent = kernel(one, { rows: 0.01 })({ ask: "rows" });
  await assert.rejects(silent, (error) => /no answer/.test(error.message) && !error.answer);
  one.hear({ id: 1 }, []);
});

test("a channel that is closed refuses at once, whether it throws or promises", async () => {
  for (const closed of [
    () => {
      throw new Error("Cannot send");
    },
    async () => {
      throw new Error("Cannot send");
    },
  ]) {
    const one = { on: () => {}, send: closed };
    await assert.rejects(kernel(one, { rows: 9 })({ ask: "rows" }), { message: "Cannot send" });
  }
});
