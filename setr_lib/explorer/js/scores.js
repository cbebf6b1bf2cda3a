// The network's last step, done in the page: class scores of cells -> those of a pixel.

/**
 * `values` (K,h,w) cover `covers` pixels; -> {before, after}, K numbers each: of the pixel's cell,
 * and bilinear at the pixel, as torch resizes with align_corners=False.
 */
export function resized(values, count, [h, w], covers, row, col) {
  const value = (k, y, x) => values[(k * h + y) * w + x];
  const y = along(row, covers[0], h);
  const x = along(col, covers[1], w);
  const [before, after] = [[], []];
  for (let k = 0; k < count; k++) {
    before.push(value(k, y.cell, x.cell));
    const upper = value(k, y.low, x.low) * (1 - x.part) + value(k, y.low, x.high) * x.part;
    const lower = value(k, y.high, x.low) * (1 - x.part) + value(k, y.high, x.high) * x.part;
    after.push(upper * (1 - y.part) + lower * y.part);
  }
  return { before, after };
}

function along(index, pixels, cells) {
  const at = Math.max(0, ((index + 0.5) * cells) / pixels - 0.5);
  const low = Math.min(cells - 1, Math.floor(at));
  return {
    low,
    high: Math.min(cells - 1, low + 1),
    part: Math.min(at - low, 1),
    cell: Math.min(cells - 1, Math.floor(((index + 0.5) * cells) / pixels)),
  };
}

/** A map (rows * cols, channels) as (channels, rows, cols). */
export function channelsFirst({ data, rows, cols, channels }) {
  const found = new Float32Array(data.length);
  for (let n = 0; n < rows * cols; n++)
    for (let c = 0; c < channels; c++) found[c * rows * cols + n] = data[n * channels + c];
  return found;
}
