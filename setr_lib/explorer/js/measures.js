// Numbers that sum up one row of attention; the same ones as `setr_lib.attention.stats`, in torch.

import { sum } from "./numbers.js";

/** (T) of one head, or of their mean or maximum, with the prefix tokens; not for the rollout. */
export function row({ source, rows }, block, head) {
  const { heads, tokens } = source;
  const one = (h) => rows.subarray((block * heads + h) * tokens, (block * heads + h + 1) * tokens);
  if (typeof head === "number") return head < heads ? one(head) : null;
  const found = Float32Array.from(one(0));
  for (let h = 1; h < heads; h++) {
    const other = one(h);
    for (let i = 0; i < tokens; i++)
      found[i] = head === "max" ? Math.max(found[i], other[i]) : found[i] + other[i];
  }
  return head === "max" ? found : found.map((value) => value / heads);
}

/**
 * Entropy, distance in pixels, share inside `region` (N of 0/1, or null) and on prefix tokens.
 *
 * `row` (T) belongs to `cell`. Of a column ("to") entropy and prefix say nothing: null.
 */
export function measure({ grid, pool, prefix }, cell, row, patch, region, direction) {
  const patches = row.subarray(prefix);
  const total = sum(patches);
  const [y, x] = [Math.floor(cell / grid[1]), cell % grid[1]];
  let [entropy, distance, inside] = [0, 0, 0];
  for (const value of row) if (value > 0) entropy -= value * Math.log(value);
  for (let i = 0; i < patches.length; i++) {
    const away = Math.hypot(Math.floor(i / grid[1]) - y, (i % grid[1]) - x);
    distance += (patches[i] / total) * patch * pool * away;
    if (region?.[i]) inside += patches[i] / total;
  }
  const from = direction === "from";
  return {
    entropy: from ? entropy : null,
    distance,
    inside: region ? inside : null,
    prefix: from ? sum(row.subarray(0, prefix)) : null,
  };
}

/** The same of attention that is spread evenly over all tokens. */
export function uniform(source, cell, patch, region, direction) {
  const { even, prefix } = source;
  // Who looks at a cell: every cell spends the same share on it, whatever its own size.
  const row = direction === "from" ? even : even.map(() => even[prefix + cell]);
  const { entropy } = measure(source, cell, even, patch, null, "from");
  return { ...measure(source, cell, row, patch, region, "from"), entropy };
}
