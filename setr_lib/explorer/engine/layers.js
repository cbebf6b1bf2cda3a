// Linear layers and convolutions on rows of channels, norms, bilinear resizes.
//
// A map is {data (rows * cols, channels), rows, cols, channels}; its data lies in the machine.

import { up } from "./machine.js";

const STRIP = 1024; // pixels whose neighbourhoods are laid out at a time

/** Rows (N,K) into the kernel's panels [N / 4][K][4]. */
export function panels(into, rows, N, K, stride = K, offset = 0) {
  for (let j = 0; j < N; j++) {
    const to = (j >> 2) * 4 * K + (j & 3);
    for (let k = 0, from = offset + j * stride; k < K; k++) into[to + 4 * k] = rows[from + k];
  }
}

/**
 * A Linear or a convolution by name, -> maps of N channels from K numbers each. `kernel` 3: 3x3
 * convolutions; a patch embedding is a product, like 1x1. `norm`: of the batch norm to fold in.
 */
export function linear(machine, tensors, name, { norm = null, kernel = 1 } = {}) {
  const { shape, data } = tensors[`${name}.weight`];
  const N = shape[0];
  const K = data.length / N;
  const wide = up(N, 8);
  const weight = kernel === 3 ? channelsLast(data, N, K / 9) : Float32Array.from(data);
  const bias = Float32Array.from(tensors[`${name}.bias`]?.data ?? new Float32Array(N));
  if (norm) {
    const part = (what) => tensors[`${norm}.${what}`].data;
    const [gain, shift] = [part("weight"), part("bias")];
    const [mean, variance] = [part("running_mean"), part("running_var")];
    for (let n = 0; n < N; n++) {
      const scale = gain[n] / Math.sqrt(variance[n] + 1e-5);
      for (let k = 0; k < K; k++) weight[n * K + k] *= scale;
      bias[n] = (bias[n] - mean[n]) * scale + shift[n];
    }
  }
  machine.reserve(wide * K);
  const place = machine.take(wide * K).fill(0);
  panels(place, weight, N, K);
  return { N, K, wide, kernel, at: place.byteOffset, bias };
}

/** (N,C,3,3) -> (N,3,3,C): so a neighbourhood is nine whole pixels. */
function channelsLast(data, N, C) {
  const found = new Float32Array(data.length);
  for (let n = 0; n < N; n++)
    for (let c = 0; c < C; c++)
      for (let place = 0; place < 9; place++)
        found[(n * 9 + place) * C + c] = data[(n * C + c) * 9 + place];
  return found;
}

/**
 * from (rows,K) -> to (rows,N), with the bias, `relu` or not. Both are `rows` up to a multiple of
 * four long; `to` has room for `wide` columns while the kernel runs.
 */
export function apply(machine, layer, from, to, rows, relu = false) {
  const { N, K, wide, at, bias } = layer;
  machine.product(up(rows, 4), wide, K, from.byteOffset, at, to.byteOffset);
  for (let i = 0; i < rows; i++)
    for (let n = 0, a = i * wide, b = i * N; n < N; n++) {
      const value = to[a + n] + bias[n];
      to[b + n] = relu && value < 0 ? 0 : value;
    }
}

/** A convolution that keeps the size, with ReLU unless it is the classifier. */
export function convolve(machine, layer, map, relu = true) {
  const { rows, cols, channels, data } = map;
  const { N, K, wide, kernel } = layer;
  const count = rows * cols;
  if (kernel === 1) {
    const found = machine.take(up(count, 4) * wide);
    apply(machine, layer, data, found, count, relu);
    return { data: found, rows, cols, channels: N };
  }
  const found = machine.take(count * N);
  const { top } = machine;
  const around = machine.take(STRIP * K);
  const strip = machine.take(STRIP * wide);
  for (let first = 0; first < count; first += STRIP) {
    const some = Math.min(STRIP, count - first);
    for (let n = 0; n < some; n++) neighbours(around, n * K, data, first + n, rows, cols, channels);
    apply(machine, layer, around, strip, some, relu);
    found.set(strip.subarray(0, some * N), first * N);
  }
  machine.top = top;
  return { data: found, rows, cols, channels: N };
}

/** The 3x3 pixels around one, 0 beyond the border, one after the other. */
function neighbours(into, at, data, pixel, rows, cols, channels) {
  const [row, col] = [Math.floor(pixel / cols), pixel % cols];
  for (let y = row - 1; y <= row + 1; y++)
    for (let x = col - 1; x <= col + 1; x++, at += channels) {
      if (y < 0 || y >= rows || x < 0 || x >= cols) into.fill(0, at, at + channels);
      else {
        const from = (y * cols + x) * channels;
        for (let c = 0; c < channels; c++) into[at + c] = data[from + c];
      }
    }
}

/** The layer norm of every row of (rows,D). */
export function normalise(from, [gain, shift], to, rows) {
  const D = gain.length;
  for (let i = 0, at = 0; i < rows; i++, at += D) {
    let [mean, square] = [0, 0];
    for (let d = 0; d < D; d++) mean += from[at + d];
    mean /= D;
    for (let d = 0; d < D; d++) square += (from[at + d] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / D + 1e-6);
    for (let d = 0; d < D; d++) to[at + d] = (from[at + d] - mean) * scale * gain[d] + shift[d];
  }
}

/** {low, high, part} for `count` places of a bilinear resize of `cells`, as torch counts them. */
export function placesOf(count, cells, aligned = false) {
  return Array.from({ length: count }, (_, n) => {
    const middle = ((n + 0.5) * cells) / count - 0.5;
    const at = Math.max(0, aligned ? (n * (cells - 1)) / Math.max(1, count - 1) : middle);
    const low = Math.min(cells - 1, Math.floor(at));
    return { low, high: Math.min(cells - 1, low + 1), part: Math.min(1, at - low) };
  });
}

/** Row `y` of a map resized to `places` of columns, -> into (columns, channels). */
export function resizedRow({ data, cols, channels }, y, places, into, between) {
  const [upper, lower] = [y.low * cols * channels, y.high * cols * channels];
  for (let i = 0; i < cols * channels; i++)
    between[i] = data[upper + i] + y.part * (data[lower + i] - data[upper + i]);
  for (let x = 0, at = 0; x < places.length; x++) {
    const { low, high, part } = places[x];
    const [a, b] = [low * channels, high * channels];
    for (let c = 0; c < channels; c++)
      into[at++] = between[a + c] + part * (between[b + c] - between[a + c]);
  }
}

/** A map enlarged by a whole factor. */
export function enlarge(machine, map, factor, aligned = false) {
  const { channels } = map;
  const [rows, cols] = [factor * map.rows, factor * map.cols];
  const found = machine.take(up(rows * cols, 4) * channels);
  const [ys, xs] = [placesOf(rows, map.rows, aligned), placesOf(cols, map.cols, aligned)];
  const between = new Float32Array(map.cols * channels);
  const wide = cols * channels;
  for (let y = 0; y < rows; y++)
    resizedRow(map, ys[y], xs, found.subarray(y * wide, (y + 1) * wide), between);
  return { data: found, rows, cols, channels };
}
