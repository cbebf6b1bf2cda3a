// Cells: patches, or squares of several on a page. T tokens = S prefix tokens, then cells.

import { largestAt } from "./numbers.js";

export function cellOf([row, col], image, source) {
  const side = image.patch * source.pool;
  return Math.floor(row / side) * source.grid[1] + Math.floor(col / side);
}

/** (T): attention that is the same for every token, as the cells share it. */
export function evenOver([rows, cols], prefix, pool) {
  const wide = Math.ceil(cols / pool);
  const shares = new Float32Array(prefix + Math.ceil(rows / pool) * wide);
  const one = 1 / (prefix + rows * cols);
  shares.fill(one, 0, prefix);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < cols; x++) {
      shares[prefix + Math.floor(y / pool) * wide + Math.floor(x / pool)] += one;
    }
  }
  return shares;
}

/**
 * As `label_grid`: the commonest class of every cell, 255 where nothing is labelled; the smaller
 * of equals.
 */
export function commonest(label, [rows, cols], [cellRows, cellCols], side) {
  const counts = new Uint32Array(cellRows * cellCols * 255);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < cols; x++) {
      const kind = label[y * cols + x];
      if (kind < 255)
        counts[(Math.floor(y / side) * cellCols + Math.floor(x / side)) * 255 + kind]++;
    }
  }
  return Uint8Array.from({ length: cellRows * cellCols }, (_, cell) => {
    const some = counts.subarray(cell * 255, (cell + 1) * 255);
    const best = largestAt(some);
    return some[best] ? best : 255;
  });
}
