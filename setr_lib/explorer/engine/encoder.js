// The encoder of setr_lib/encoder.py: pixels -> patches -> tokens -> blocks of attention.
//
// T tokens = S class tokens (0 or 1), then N patches rows first; R: T up to a multiple of 8.
// D width, H heads, K head width, P side of a patch, Y X patch rows and columns

import { apply, linear, normalise, panels, placesOf } from "./layers.js";
import { up } from "./machine.js";

const MEAN = [123.675, 116.28, 103.53]; // of ImageNet, as in setr_lib/images.py
const STD = [58.395, 57.12, 57.375];

export function loadEncoder(machine, tensors, config) {
  const data = (name) => tensors[`encoder.${name}`].data;
  const norm = (name) => [data(`${name}.weight`), data(`${name}.bias`)];
  const layer = (name) => linear(machine, tensors, `encoder.${name}`);
  return {
    ...{ D: config.width, H: config.heads, K: config.width / config.heads, P: config.patch_size },
    prefix: config.decoder === "mla" ? 0 : 1, // MLA drops the class token before block 0
    embed: layer("patch_embed.proj"),
    first: data("cls_token"),
    positions: data("pos_embed"),
    tableGrid: config.image_size.map((side) => Math.ceil(side / config.patch_size)),
    blocks: Array.from({ length: config.depth }, (_, n) => ({
      norm1: norm(`blocks.${n}.norm1`),
      qkv: layer(`blocks.${n}.attn.qkv`),
      proj: layer(`blocks.${n}.attn.proj`),
      norm2: norm(`blocks.${n}.norm2`),
      fc1: layer(`blocks.${n}.mlp.fc1`),
      fc2: layer(`blocks.${n}.mlp.fc2`),
    })),
  };
}

/** How many numbers encode() takes of the machine for N patches. */
export function encoderRoom({ D, K, P, blocks, prefix }, N) {
  const R = up(N + prefix, 8);
  return R * (11 * D + 4 * K + R + 3 * P * P + 3) + 8 * blocks.length;
}

/**
 * {rgba, height, width} -> {grid, tokens: one (N,D) per block, pairs: {q, k} (T,K) per block and
 * head, q scaled, means: (T,T) per block, over its heads, norms: log of every softmax's sum}.
 *
 * `hidden`: numbers of patches that no token may look at. `positions` false: none are added.
 * `progress(block)` is called after each block; what it returns must not touch the machine.
 */
export function encode(machine, encoder, image, { hidden, positions, progress }) {
  const { D, H, K, P, prefix, blocks } = encoder;
  const [Y, X] = [Math.ceil(image.height / P), Math.ceil(image.width / P)];
  const T = prefix + Y * X;
  const R = up(T, 8);
  const x = embed(machine, encoder, image, [Y, X], positions);
  const [a, mixed] = [machine.take(R * D), machine.take(R * D)];
  const [qkv, wide] = [machine.take(R * 3 * D), machine.take(R * 4 * D)];
  const room = { q: R * K, k: R * K, v: R * K, out: R * K, map: R * R, bias: R, stats: 2 * R };
  for (const [name, count] of Object.entries(room)) room[name] = machine.take(count).fill(0);
  room.bias.fill(-Infinity, T); // the rows that fill up to R are no tokens
  for (const patch of hidden ?? []) room.bias[prefix + patch] = -Infinity;
  const found = { grid: [Y, X], prefix, tokens: [], pairs: [], means: [], norms: [] };
  for (const [n, block] of blocks.entries()) {
    normalise(x, block.norm1, a, T);
    apply(machine, block.qkv, a, qkv, T);
    const mean = new Float32Array(T * T);
    const sizes = { T, R, D, K, H };
    for (let h = 0; h < H; h++) attend(machine, room, qkv, mixed, mean, found, sizes, h);
    found.means.push(mean);
    apply(machine, block.proj, mixed, a, T);
    for (let at = 0; at < T * D; at++) x[at] += a[at];
    normalise(x, block.norm2, a, T);
    apply(machine, block.fc1, a, wide, T);
    machine.gelu(T * 4 * D, wide.byteOffset);
    apply(machine, block.fc2, wide, a, T);
    for (let at = 0; at < T * D; at++) x[at] += a[at];
    found.tokens.push(x.slice(prefix * D, T * D));
    progress?.(n);
  }
  return found;
}

/** Patches to tokens, with their positions: what enters block 0. */
function embed(machine, encoder, { rgba, height, width }, [Y, X], positions) {
  const { D, P, prefix } = encoder;
  const T = prefix + Y * X;
  const x = machine.take(up(T, 8) * D);
  const { top } = machine;
  const cut = machine.take(up(T, 8) * 3 * P * P).fill(0); // 0, the mean colour, is the padding
  for (let y = 0; y < height; y++)
    for (let col = 0; col < width; col++) {
      const token = prefix + Math.floor(y / P) * X + Math.floor(col / P);
      const at = token * 3 * P * P + (y % P) * P + (col % P);
      for (let c = 0; c < 3; c++)
        cut[at + c * P * P] = (rgba[4 * (y * width + col) + c] - MEAN[c]) / STD[c];
    }
  apply(machine, encoder.embed, cut, x, T);
  machine.top = top;
  if (prefix) x.set(encoder.first);
  if (positions === false) return x;
  const table = positionsFor(encoder, [Y, X]);
  const skip = (1 - prefix) * D; // the table has a row for the class token
  for (let at = 0; at < T * D; at++) x[at] += table[skip + at];
  return x;
}

/** One head: softmax(q k^T) v into its columns of `mixed`; its q, k and norms are kept. */
function attend(machine, room, qkv, mixed, mean, found, { T, R, D, K, H }, h) {
  const { q, k, v, out, map, bias, stats } = room;
  const keys = new Float32Array(T * K);
  for (let i = 0; i < T; i++)
    for (let c = 0, at = i * 3 * D + h * K; c < K; c++) {
      q[i * K + c] = qkv[at + c] * K ** -0.5;
      keys[i * K + c] = qkv[at + D + c];
      v[(c >> 2) * 4 * R + i * 4 + (c & 3)] = qkv[at + 2 * D + c];
    }
  panels(k, keys, T, K);
  machine.product(up(T, 4), R, K, q.byteOffset, k.byteOffset, map.byteOffset);
  machine.softmax(T, R, map.byteOffset, bias.byteOffset, stats.byteOffset);
  machine.product(up(T, 4), up(K, 8), R, map.byteOffset, v.byteOffset, out.byteOffset);
  for (let i = 0; i < T; i++)
    for (let c = 0; c < K; c++) mixed[i * D + h * K + c] = out[i * up(K, 8) + c];
  for (let i = 0; i < T; i++)
    for (let j = 0; j < T; j++) mean[i * T + j] += map[i * R + j] / H;
  found.pairs.push({ q: q.slice(0, T * K), k: keys });
  for (let i = 0; i < T; i++) found.norms.push(stats[2 * i] + Math.log(stats[2 * i + 1]));
}

/** The table (1 + Y * X, D) of positions, resized where the grid is another one. */
function positionsFor({ D, positions: table, tableGrid: [h, w] }, [Y, X]) {
  if (h === Y && w === X) return table;
  const found = new Float32Array((1 + Y * X) * D);
  found.set(table.subarray(0, D));
  const xs = placesOf(X, w);
  for (const [y, row] of placesOf(Y, h).entries())
    for (const [x, col] of xs.entries())
      for (let d = 0; d < D; d++) {
        const at = (r, c) => table[(1 + r * w + c) * D + d];
        const [upper, lower] = [row.low, row.high].map(
          (r) => at(r, col.low) * (1 - col.part) + at(r, col.high) * col.part,
        );
        found[(1 + y * X + x) * D + d] = upper * (1 - row.part) + lower * row.part;
      }
  return found;
}
