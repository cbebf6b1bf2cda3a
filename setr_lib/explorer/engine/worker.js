// The network in a worker, so that the page never stops. One message, one answer of the same `id`.

import { likeness, principal, probed } from "./answers.js";
import { makeMachine } from "./machine.js";
import { Network } from "./network.js";
import { readSafetensors } from "./tensors.js";

let network = null;
let probes = null;
let last = null; // the run that questions are about

const answers = {
  /** `weights`, `probes`: safetensors files. */
  async load({ weights, probes: some, simd = true }) {
    network = new Network(weights, await makeMachine(simd));
    probes = some && readSafetensors(some).tensors;
    const { about, config, machine } = network;
    return { about, config, fast: machine.fast };
  },

  /** A picture; progress is told after each block. What is large goes to the page for good. */
  run({ image, hidden, positions, keep = true }, tell) {
    const start = performance.now();
    const progress = (block) => tell({ progress: (block + 1) / (network.config.depth + 1) });
    const found = network.run(image, { hidden, positions, progress });
    const { labels, scores, covers, grid, prefix, pairs, means, norms } = found;
    if (keep) last = { ...found, image };
    const milliseconds = performance.now() - start;
    const answer = { labels, scores, covers, grid, prefix, milliseconds };
    if (keep) Object.assign(answer, { pairs, means, norms: Float32Array.from(norms) });
    return answer;
  },

  likeness: ({ patch }) => likeness(last.tokens, network.config.width, patch),
  stages: () =>
    last.stages.map((map) => {
      const { name, channels, rows, cols } = map;
      return { name, channels, size: [rows, cols], ...principal(map) };
    }),
  probed: () => probes && probed(last, probes, last.image),
};

/** Buffers that the worker no longer needs are handed over, not copied. */
function handedOver(answer) {
  const parts = [...(answer?.pairs ?? []).flatMap(({ q, k }) => [q, k]), ...(answer?.means ?? [])];
  return parts.map((array) => array.buffer);
}

globalThis.onmessage = async ({ data: { id, ask, ...facts } }) => {
  try {
    const answer = await answers[ask](facts, (part) => postMessage({ id, ...part }));
    postMessage({ id, answer }, handedOver(answer));
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
