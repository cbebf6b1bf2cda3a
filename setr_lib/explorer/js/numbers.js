// Sums, and numbers as text. Nothing here knows the page.

export function unit(length, at) {
  const vector = new Float64Array(length);
  vector[at] = 1;
  return vector;
}

export function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

export function mean(values) {
  return sum(values) / values.length;
}

export function largestAt(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

export function softmax(scores) {
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const total = sum(powers);
  return powers.map((power) => power / total);
}

export function percent(value) {
  const size = Math.abs(100 * value);
  return `${(100 * value).toFixed(size >= 9.95 ? 0 : size >= 0.995 ? 1 : 2)} %`;
}

/** 0.25, 3.9, 12: how many times as much. */
export function times(ratio) {
  return `${ratio.toFixed(ratio >= 9.95 ? 0 : ratio >= 0.995 ? 1 : 2)} times`;
}

export function spread(values) {
  const middle = mean(values);
  const deviation = Math.sqrt(
    sum(values.map((value) => (value - middle) ** 2)) / Math.max(1, values.length - 1),
  );
  return `${(100 * middle).toFixed(0).replace("-0", "0")} ± ${(100 * deviation).toFixed(0)} points`;
}

export function formatOf(name) {
  const known = { entropy: (v) => v.toFixed(2), distance: (v) => v.toFixed(1), inside: percent };
  return (value) => (value === null || value === undefined ? "–" : known[name](value));
}

export function escape(text) {
  return text.replace(
    /[&<>"]/g,
    (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[letter],
  );
}
