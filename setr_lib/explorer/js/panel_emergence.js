// Block by block: what can already be read off the tokens of the chosen block.

import { surface } from "./canvas.js";
import { Chart } from "./chart.js";
import { percent } from "./numbers.js";
import { drawClasses, drawCursor, legend, photo } from "./picture.js";

const READERS = { probe: "probe", auxiliary: "auxiliary head", main: "main head" };
const FORMS = { probe: "circle", auxiliary: "square", main: "diamond" };

/** Returns the dots of the chart, each {x, y, block, reader}. */
export function drawEmergence(view, at) {
  const { image } = view;
  const { here, entry } = readers(view.facts.emergence, view.state);
  at.reader.replaceChildren(...here.map(({ source }) => new Option(READERS[source], source)));
  at.reader.value = entry.source;
  at.reader.closest("label").hidden = here.length < 2;
  at.emergenceName.textContent = entry.name;
  drawLabels(view, at.emergenceMap, entry.labels, "predicted");
  at.emergenceLegend.replaceChildren(...legend(view, entry.labels, "predicted"));
  at.emergenceTruth.closest("figure").hidden = !image.label;
  if (image.label) drawLabels(view, at.emergenceTruth, image.label, "truth");
  at.emergenceWords.textContent = emergenceText(view, here, entry);
  return drawEmergenceChart(view, at, entry);
}

/** Who reads the chosen block: the chosen reader, another one there, or one of a block before. */
export function readers(entries, { block, reader }) {
  const here = entries.filter((one) => one.layer === block);
  const entry =
    here.find((one) => one.source === reader) ??
    here[0] ??
    entries.findLast((one) => one.layer < block) ??
    entries[0];
  return { here, entry };
}

function drawLabels(view, canvas, place, kind) {
  const context = surface(canvas, view.image.size);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.drawImage(photo(view, false), 0, 0, width, height);
  drawClasses(context, view, place, kind, 0.78, width, height);
  drawCursor(context, view, width, height, view.pixel, true);
}

function emergenceText(view, here, entry) {
  const { size } = view.image;
  const [row, col] = view.pixel;
  const kind = view.parcel.array(entry.labels)[row * size[1] + col];
  const alone = entry.here === null ? "" : `, ${percent(entry.here)} on this image alone`;
  const parts = here.length ? [] : [`Nothing reads block ${view.state.block}.`];
  parts.push(`${entry.name} says “${view.header.classes[kind].name}” here.`);
  if (entry.miou !== null)
    parts.push(`mIoU ${percent(entry.miou)} over the validation images${alone}.`);
  else if (entry.here !== null) parts.push(`mIoU ${percent(entry.here)} on this image.`);
  else parts.push("mIoU is not known: there is no label, and no probes that say it.");
  return parts.join(" ");
}

function drawEmergenceChart(view, at, entry) {
  const entries = view.facts.emergence;
  const measured = entries.some((one) => one.miou !== null);
  const of = (one) => (measured ? one.miou : one.here);
  const known = entries.filter((one) => of(one) !== null);
  at.emergenceChart.closest("figure").hidden = !known.length;
  if (!known.length) return [];
  const title = `mIoU on ${measured ? "validation images" : "this image"}`;
  const limit = Math.min(1, Math.max(...known.map(of)) * 1.12 + 0.02);
  const facts = { columns: view.facts.layers, limit, title, percent: true };
  const chart = new Chart(at.emergenceChart, at.card, facts);
  chart.line(known.filter((one) => one.source === "probe").map((one) => [one.layer, of(one)]));
  const list = known.map((one) => `${one.name} ${percent(of(one))}`).join(", ");
  at.emergenceChart.setAttribute("aria-label", `${title} by block: ${list}`);
  return known.map((one) => ({
    ...chart.dot(one.layer, of(one), one === entry, FORMS[one.source]),
    block: one.layer,
    reader: one.source,
  }));
}
