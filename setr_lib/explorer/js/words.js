// What is shown, as sentences: for readers who cannot see the maps, and for all others.

import { cellOf } from "./cells.js";
import { row } from "./measures.js";
import { headName } from "./names.js";
import { largestAt, percent, times } from "./numbers.js";

/** The sentence below the picture. */
export function sentence(view) {
  const { state, image } = view;
  const { model, block, head } = state;
  const several = image.models.length > 1 ? `, ${view.modelName(model)}` : "";
  const where = `Block ${block}, ${headName(head)}${several}`;
  const map = view.map(model, block, head);
  if (!map)
    return `${where}: ${head === "rollout" ? "computing the rollout" : "not in both networks"}.`;
  const { source } = view.now[model === "difference" ? 0 : model];
  const place = (n) => `row ${Math.floor(n / source.grid[1])}, column ${n % source.grid[1]}`;
  const parts = { place, asker: asker(view), from: view.direction === "from" };
  const pooled =
    source.pool > 1
      ? ` Each cell stands for ${source.pool}×${source.pool} patches; rows and columns are those ` +
        "of cells, and the rollout multiplies the maps of cells."
      : "";
  if (model === "difference") return `${where}: ${ofDifference(view, map, parts)}${pooled}`;
  if (head === "rollout")
    return `Rollout of blocks 0 to ${block}${several}: ${ofRollout(map, parts)}${pooled}`;
  return `${where}: ${ofMap(view, map, parts)}.${pooled}`;
}

function asker(view) {
  const [row, col] = view.placeOf(view.pixel);
  const truth = view.className(view.now[0]);
  return `the ${view.unit} in row ${row}, column ${col}${truth ? ` (${truth})` : ""}`;
}

function ofDifference(view, map, { place, asker, from }) {
  const best = largestAt(map.map(Math.abs));
  const { names } = view.header;
  const [more, less] = map[best] > 0 ? names : [names[1], names[0]];
  const most = `${place(best)} with ${percent(Math.abs(map[best]))} more in “${more}”`;
  const verb = from ? "looks at" : "is looked at by";
  return `${asker} ${verb} ${most} than in “${less}”: the largest difference.`;
}

function ofRollout(map, { place, asker, from }) {
  const best = largestAt(map);
  const verb = from ? "is made most of" : "goes most into";
  return `${asker} ${verb} ${place(best)} (${percent(map[best])}).`;
}

function ofMap(view, map, { place, asker, from }) {
  const { model, block, head } = view.state;
  const now = view.now[model];
  const { source } = now;
  const best = largestAt(map);
  const most = `${percent(map[best])}, ${times(map[best] / view.even(source, head)(best))} uniform`;
  const first = from
    ? `looks most at ${place(best)} (${most})`
    : `is looked at most by ${place(best)} (which spends ${most})`;
  if (head === "max") return `${asker} ${first}`;
  const found = view.measure(now, row(now, block, head));
  const plain = view.uniform(now);
  const [far, even] = [found, plain].map(({ distance }) => `${distance.toFixed(0)} px`);
  const parts = [first, `${far} away on average (uniform: ${even})`];
  if (found.inside !== null) {
    const inside = `${percent(found.inside)} of it ${from ? "on" : "from"} patches`;
    parts.push(`${inside} of the same class (which cover ${percent(plain.inside)})`);
  }
  if (found.prefix) {
    const tokens = source.prefix > 1 ? `${source.prefix} prefix tokens` : "class token";
    parts.push(`${percent(found.prefix)} on the ${tokens}`);
  }
  return `${asker} ${parts.join("; ")}`;
}

/** The value of the cell that is read; empty where none is. */
export function reading(view, model) {
  const { block, head } = view.state;
  const map = view.read && view.map(model, block, head);
  if (!map) return "";
  const { source } = view.now[model === "difference" ? 0 : model];
  const cell = cellOf(view.read, view.image, source);
  const [row, col] = view.placeOf(view.read);
  const where = `row ${row}, column ${col}: `;
  const value = map[cell];
  if (model === "difference") return `${where}${value < 0 ? "−" : "+"}${percent(Math.abs(value))}`;
  const ratio = times(value / view.even(source, head)(cell));
  return `${where}${percent(value)}, ${ratio} uniform`;
}

/** What one map has most of, for screen readers. */
export function largest(view, map, difference) {
  const best = largestAt(difference ? map.map(Math.abs) : map);
  const [, cols] = view.now[0].source.grid;
  const place = `row ${Math.floor(best / cols)}, column ${best % cols}`;
  return `${difference ? "largest difference" : "largest"} ${percent(map[best])} in ${place}`;
}
