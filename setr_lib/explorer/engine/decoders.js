// The three decoders of setr_lib/decoders.py, in the authors' graph: tokens -> maps of scores.
//
// D width of the tokens, C channels, Y X patch rows and columns

import { convolve, enlarge, linear, normalise } from "./layers.js";
import { up } from "./machine.js";

const PUP = [2, 2, 2, 1]; // by how much each convolution's map is enlarged; the rest is the image's

/** How each decoder is read from a file. Norms and convolutions as setr_lib names them. */
export function loadDecoder(machine, tensors, config) {
  if (config.graph !== "authors")
    throw new Error(`graph is ${config.graph}; the page knows the authors'`);
  const norm = (name) => [tensors[`${name}.weight`].data, tensors[`${name}.bias`].data];
  const conv = (name, kernel) =>
    linear(machine, tensors, `${name}.conv`, { norm: `${name}.bn`, kernel });
  if (config.decoder === "mla") {
    const four = [0, 1, 2, 3];
    return {
      layers: config.layers,
      norms: four.map((n) => norm(`neck.norms.${n}`)),
      projections: four.map((n) => conv(`neck.projections.${n}`, 1)),
      fusions: four.map((n) => conv(`neck.fusions.${n}`, 3)),
      streams: four.map((n) => [0, 1].map((part) => conv(`head.streams.${n}.${part}`, 3))),
      classifier: linear(machine, tensors, "head.classifier", { kernel: 3 }),
    };
  }
  const factors = config.decoder === "pup" ? PUP : [1];
  const kernel = config.decoder === "pup" ? 3 : 1;
  return {
    layers: config.layers.slice(-1),
    factors,
    norm: norm("head.norm"),
    convs: factors.map((_, n) => conv(`head.convs.${n}`, kernel)),
    classifier: linear(machine, tensors, "head.classifier"),
  };
}

/** How many numbers decode() takes of the machine for N patches. */
export function decoderRoom(decoder, N, D) {
  const sizes = decoder.norms
    ? [4 * up(N, 4) * (D + 3 * decoder.fusions[0].wide), 16 * N * 12 * decoder.fusions[0].wide]
    : decoder.convs.map((conv, n) => 4 ** (n + 1) * up(N, 4) * 2 * Math.max(D, conv.wide));
  const strip = 1024 * 2 * Math.max(9 * D, decoder.classifier.K, decoder.classifier.wide);
  return sizes.reduce((all, one) => all + one, strip) + 64 * up(N, 4) * decoder.classifier.wide;
}

/** -> {scores, stages}: a map of scores, and every map that a reader may look at, by name. */
export function decode(machine, decoder, tokens, grid) {
  const stages = [];
  const kept = ({ data, rows, cols, channels }) =>
    ({ data: data.slice(0, rows * cols * channels), rows, cols, channels });
  const seen = (name, map) => {
    stages.push({ name, ...kept(map) });
    return map;
  };
  const read = (layer, norm) => {
    const data = machine.take(up(grid[0] * grid[1], 4) * norm[0].length).fill(0);
    normalise(tokens[layer], norm, data, grid[0] * grid[1]);
    return { data, rows: grid[0], cols: grid[1], channels: norm[0].length };
  };
  const way = decoder.norms ? multiLevel : inSteps;
  return { scores: kept(way(machine, decoder, read, seen)), stages };
}

/** Naive and PUP. */
function inSteps(machine, { layers, norm, convs, factors, classifier }, read, seen) {
  let map = read(layers[0], norm);
  for (const [n, conv] of convs.entries()) {
    map = seen(`convolution ${n}`, convolve(machine, conv, map));
    if (factors[n] > 1) map = enlarge(machine, map, factors[n]);
  }
  return convolve(machine, classifier, map, false);
}

/** MLA: every stream receives all deeper ones; then x4 with aligned corners, side by side. */
function multiLevel(machine, decoder, read, seen) {
  const { layers, norms, projections, fusions, streams, classifier } = decoder;
  const maps = layers.map((layer, n) => convolve(machine, projections[n], read(layer, norms[n])));
  for (const n of [2, 1, 0])
    for (let i = 0; i < maps[n].data.length; i++) maps[n].data[i] += maps[n + 1].data[i];
  const fused = maps.map((map, n) => convolve(machine, fusions[n], map));
  for (const [n, map] of fused.entries()) seen(`block ${layers[n]}, fused`, map);
  const small = fused.map((map, n) =>
    streams[n].reduce((one, conv) => convolve(machine, conv, one), map),
  );
  for (const [n, map] of small.entries()) seen(`block ${layers[n]}, stream`, map);
  return convolve(machine, classifier, sideBySide(machine, small), false);
}

function sideBySide(machine, small) {
  const large = small.map((map) => enlarge(machine, map, 4, true));
  const { rows, cols, channels } = large[0];
  const data = machine.take(rows * cols * 4 * channels);
  for (let pixel = 0; pixel < rows * cols; pixel++)
    for (const [n, map] of large.entries())
      for (let c = 0, to = (4 * pixel + n) * channels; c < channels; c++)
        data[to + c] = map.data[pixel * channels + c];
  return { data, rows, cols, channels: 4 * channels };
}
