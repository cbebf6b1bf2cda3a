// What a reader may ask of a run besides its labels: likeness, probes, colours of maps.

import { labelsOf } from "./network.js";

const STAGE_SIDE = 160; // maps are shown at most this large

/** (N) per block: the cosine between each patch's token, of D numbers, and that of `patch`. */
export function likeness(tokens, D, patch) {
  return tokens.map((all) => {
    const own = all.subarray(patch * D, (patch + 1) * D);
    return Float32Array.from({ length: all.length / D }, (_, n) => {
      let [dot, size, ours] = [0, 0, 0];
      for (let d = 0; d < D; d++) {
        const value = all[n * D + d];
        dot += value * own[d];
        size += value * value;
        ours += own[d] * own[d];
      }
      return dot / Math.sqrt(size * ours);
    });
  });
}

/** Labels that the linear probe of every block reads off its tokens. */
export function probed({ tokens, grid, covers }, { weight, bias }, image) {
  const [, K, D] = weight.shape;
  return tokens.map((all, layer) => {
    const data = new Float32Array((all.length / D) * K);
    for (let n = 0; n < all.length / D; n++)
      for (let k = 0; k < K; k++) {
        let score = bias.data[layer * K + k];
        const row = (layer * K + k) * D;
        for (let d = 0; d < D; d++) score += weight.data[row + d] * all[n * D + d];
        data[n * K + k] = score;
      }
    const scores = { data, rows: grid[0], cols: grid[1], channels: K };
    return labelsOf(scores, covers, image);
  });
}

/** A map's first three principal components as red, green and blue: {rows, cols, colours}. */
export function principal({ data, rows, cols, channels: C }) {
  const step = Math.max(1, Math.ceil(Math.max(rows, cols) / STAGE_SIDE));
  const points = [];
  for (let y = 0; y < rows; y += step)
    for (let x = 0; x < cols; x += step) {
      const at = (y * cols + x) * C;
      points.push(Float64Array.from(data.subarray(at, at + C)));
    }
  const middle = new Float64Array(C);
  for (const point of points) for (let c = 0; c < C; c++) middle[c] += point[c] / points.length;
  for (const point of points) for (let c = 0; c < C; c++) point[c] -= middle[c];
  const colours = new Uint8Array(3 * points.length);
  for (let part = 0; part < Math.min(3, C); part++) {
    const axis = mainAxis(points, C);
    const along = points.map((point) => point.reduce((all, value, c) => all + value * axis[c], 0));
    for (const [n, point] of points.entries())
      for (let c = 0; c < C; c++) point[c] -= along[n] * axis[c];
    const order = along.toSorted((a, b) => a - b);
    const [low, high] = [0.01, 0.99].map((share) => order[Math.round(share * (order.length - 1))]);
    for (const [n, value] of along.entries())
      colours[3 * n + part] = 255 * Math.max(0, Math.min(1, (value - low) / (high - low || 1)));
  }
  return { rows: Math.ceil(rows / step), cols: Math.ceil(cols / step), colours };
}

/** By power iteration; with its sum positive, since the sign of an axis is free. */
function mainAxis(points, C) {
  let axis = Float64Array.from({ length: C }, (_, c) => Math.cos(c * c + 1));
  for (let turn = 0; turn < 12; turn++) {
    const next = new Float64Array(C);
    for (const point of points) {
      let dot = 0;
      for (let c = 0; c < C; c++) dot += point[c] * axis[c];
      for (let c = 0; c < C; c++) next[c] += dot * point[c];
    }
    const size = Math.hypot(...next) || 1;
    axis = next.map((value) => value / size);
  }
  const sum = axis.reduce((all, value) => all + value, 0);
  return sum < 0 ? axis.map((value) => -value) : axis;
}
