// Reach: how far and how widely each head looks, as a chart and as a table.

import { Chart } from "./chart.js";
import { row } from "./measures.js";
import { formatOf, mean } from "./numbers.js";

const HEAD_TITLES = {
  distance: "mean distance, px",
  entropy: "entropy, nats",
  inside: "share inside the class",
};

/** Returns the dots of the chart, each {x, y, block, head}. */
export function drawHeads(view, at) {
  const { state } = view;
  const { label } = view.image;
  const difference = state.model === "difference";
  at.headsNote.textContent = difference ? `Numbers of ${view.modelName(0)}.` : "";
  at.over.value = state.over;
  for (const option of at.chart.options) option.hidden = option.value === "inside" && !label;
  at.chart.value = state.chart;
  const all = state.over === "all";
  if (all && !view.means) return []; // they are asked for
  const { rows, plain } = all ? overAll(view) : ofPatch(view);
  const dots = drawHeadChart(view, at, rows, plain);
  drawHeadTable(view, at, rows, plain);
  return dots;
}

function everyHead({ layers, heads }, make) {
  return Array.from({ length: layers * heads }, (_, n) => {
    const [block, head] = [Math.floor(n / heads), n % heads];
    return { block, head, ...make(block, head) };
  });
}

function ofPatch(view) {
  const now = view.now[view.model];
  const rows = everyHead(now.source, (block, head) => view.measure(now, row(now, block, head)));
  return { rows, plain: view.uniform(now) };
}

function overAll(view) {
  const { means } = view;
  const now = view.now[view.model];
  const of = (name, block, head) => means[name]?.[block][head] ?? null;
  const rows = everyHead(now.source, (block, head) => ({
    entropy: of("entropy", block, head),
    distance: of("distance", block, head),
    inside: of("inside", block, head),
  }));
  return { rows, plain: { ...view.uniform(now), distance: means.uniform_distance, inside: null } };
}

function drawHeadChart(view, at, rows, plain) {
  const { chart: name, block, head } = view.state;
  const { layers } = view.facts;
  const known = rows.filter((one) => one[name] !== null);
  const even = plain[name];
  const largest = Math.max(even ?? 0, ...known.map((one) => one[name]), 1e-9) * 1.08;
  const limit = name === "inside" ? 1 : largest;
  const facts = { columns: layers, limit, title: HEAD_TITLES[name], percent: name === "inside" };
  const chart = new Chart(at.headChart, at.card, facts);
  if (even !== null) chart.level(even, "uniform");
  const means = [];
  for (let n = 0; n < layers; n++) {
    const some = known.filter((one) => one.block === n).map((one) => one[name]);
    if (some.length) means.push([n, mean(some)]);
  }
  chart.line(means);
  at.headChart.setAttribute(
    "aria-label",
    `${HEAD_TITLES[name]} of every head against the block, with the value of uniform attention; ` +
      "the same numbers are in the table.",
  );
  return known.map((one) => {
    const chosen = one.block === block && one.head === head;
    return { ...chart.dot(one.block, one[name], chosen), block: one.block, head: one.head };
  });
}

function drawHeadTable(view, at, rows, plain) {
  const { sort, block, head } = view.state;
  const { label } = view.image;
  const names = ["entropy", "distance", "inside"].filter((name) => name !== "inside" || label);
  const cells = (one) => names.map((name) => `<td>${formatOf(name)(one[name])}</td>`).join("");
  const line = (one) => {
    const chosen = one.block === block && one.head === head;
    const mark = chosen ? ' class="chosen" aria-current="true"' : "";
    const data = `data-do="select" data-block="${one.block}" data-head="${one.head}"`;
    const button = `<button ${data}>block ${one.block}, head ${one.head}</button>`;
    return `<tr${mark}><th scope="row">${button}</th>${cells(one)}</tr>`;
  };
  const even = `<tr class="even"><th scope="row">uniform</th>${cells(plain)}</tr>`;
  at.headRows.innerHTML = even + sorted(rows, sort).map(line).join("");
  for (const header of at.headRows.closest("table").querySelectorAll("[data-sort]")) {
    const name = header.dataset.sort;
    header.hidden = name === "inside" && !label;
    const order = sort?.down ? "descending" : "ascending";
    header.setAttribute("aria-sort", sort?.column === name ? order : "none");
  }
}

function sorted(rows, sort) {
  if (!sort) return rows;
  const places = new Map(rows.map((one, n) => [one, n]));
  const key = (one) => (sort.column === "head" ? places.get(one) : (one[sort.column] ?? -1));
  return [...rows].sort((a, b) => (sort.down ? key(b) - key(a) : key(a) - key(b)));
}
