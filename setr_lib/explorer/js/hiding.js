// Which patches to hide, as setr_lib's `hide` chooses them.

export const RANKS = ["attended", "nearest", "random"];

/** Numbers of the `k` patches that `rank` (N) puts first; the asking one is never hidden. */
export function firstOf(rank, k, own) {
  const order = [...rank.keys()].filter((n) => n !== own);
  return order.sort((a, b) => rank[b] - rank[a]).slice(0, k);
}

/** (N) for each way of choosing; `rollout` (N) is the asking patch's row. */
export function ranksOf(rollout, own, [rows, cols], random = Math.random) {
  const away = (n) =>
    Math.hypot(Math.floor(n / cols) - Math.floor(own / cols), (n % cols) - (own % cols));
  return {
    attended: rollout,
    nearest: Float32Array.from({ length: rows * cols }, (_, n) => -away(n)),
    random: Float32Array.from({ length: rows * cols }, random),
  };
}
