// One piece of memory, and the three kernels that work in it: WebAssembly SIMD or plain JavaScript.

import { KERNEL } from "./kernel.js";

export const up = (number, step) => Math.ceil(number / step) * step;
const PAGE = 65536; // bytes, WebAssembly's unit of memory

/** `simd` false: plain JavaScript, as where the browser has no WebAssembly SIMD. */
export async function makeMachine(simd = true) {
  if (!simd) return new Machine(null, null);
  try {
    const memory = new WebAssembly.Memory({ initial: 1 });
    const bytes = Uint8Array.from(atob(KERNEL), (letter) => letter.charCodeAt(0));
    const { instance } = await WebAssembly.instantiate(bytes, { env: { memory } });
    return new Machine(memory, instance.exports);
  } catch {
    return new Machine(null, null); // no WebAssembly, no SIMD, or a page that forbids it
  }
}

/**
 * Memory is taken in a row and given back to a mark. Views of it die when it grows: reserve()
 * first, then take(). The kernels take byte addresses; their promises stand in kernel.wat.
 */
class Machine {
  constructor(memory, kernels) {
    Object.assign(this, { memory, fast: Boolean(kernels), top: 64 });
    if (!memory) this.plain = new ArrayBuffer(PAGE);
    Object.assign(this, kernels ?? plainKernels(() => this.buffer));
  }

  get buffer() {
    return this.memory?.buffer ?? this.plain;
  }

  /** Room for `count` more numbers in `parts` pieces. */
  reserve(count, parts = 1) {
    const missing = this.top + 4 * count + 64 * parts - this.buffer.byteLength;
    if (missing <= 0) return;
    if (this.memory) this.memory.grow(Math.ceil(missing / PAGE));
    else {
      const grown = new ArrayBuffer(this.buffer.byteLength + missing);
      new Uint8Array(grown).set(new Uint8Array(this.plain));
      this.plain = grown;
    }
  }

  /** A view of `count` numbers, whatever they were before. */
  take(count) {
    const found = new Float32Array(this.buffer, this.top, count);
    this.top = up(this.top + 4 * count, 64);
    return found;
  }
}

/** The kernels of kernel.wat, number by number. */
function plainKernels(buffer) {
  const floats = () => new Float32Array(buffer());
  return {
    product(M, N, K, A, B, C) {
      const all = floats();
      for (let j = 0; j < N; j += 4)
        for (let i = 0; i < M; i++) {
          let [c0, c1, c2, c3] = [0, 0, 0, 0];
          let [a, b] = [A / 4 + i * K, B / 4 + j * K];
          for (let k = 0; k < K; k++, b += 4) {
            const value = all[a + k];
            c0 += value * all[b];
            c1 += value * all[b + 1];
            c2 += value * all[b + 2];
            c3 += value * all[b + 3];
          }
          all.set([c0, c1, c2, c3], C / 4 + i * N + j);
        }
    },
    softmax(M, N, X, bias, stats) {
      const all = floats();
      for (let i = 0; i < M; i++) {
        const row = all.subarray(X / 4 + i * N, X / 4 + (i + 1) * N);
        let [largest, total] = [-Infinity, 0];
        for (let j = 0; j < N; j++) largest = Math.max(largest, (row[j] += all[bias / 4 + j]));
        for (let j = 0; j < N; j++) total += row[j] = Math.exp(row[j] - largest);
        for (let j = 0; j < N; j++) row[j] /= total;
        all.set([largest, total], stats / 4 + 2 * i);
      }
    },
    gelu(count, X) {
      const all = floats();
      for (let i = X / 4; i < X / 4 + count; i++) all[i] = geluOf(all[i]);
    },
  };
}

function geluOf(x) {
  const z = Math.abs(x) * Math.SQRT1_2;
  const t = 1 / (1 + 0.3275911 * z);
  const sum = (((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t;
  const tail = (sum + 0.254829592) * t * Math.exp(-z * z);
  return 0.5 * x * (x < 0 ? tail : 2 - tail);
}
