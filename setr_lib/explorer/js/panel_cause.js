// Does it matter? Patches are hidden, and the probability of the class falls, or it does not.

import { surface } from "./canvas.js";
import { mean, percent, spread } from "./numbers.js";
import { drawCursor, photo } from "./picture.js";

const CHOICES = {
  attended: "most attended to, by rollout",
  nearest: "nearest",
  random: "random",
};
const SHARES = [0.05, 0.1, 0.2]; // of the patches; a page has those that Python computed

/** How many patches may be hidden. */
export function causeCounts(view) {
  if (!view.live) return view.facts.causes?.checks.map((check) => check.k) ?? [];
  const count = view.image.grid[0] * view.image.grid[1];
  const all = SHARES.map((share) => Math.max(1, Math.round(share * count)));
  return [...new Set(all)].filter((k) => k < count);
}

export function drawCause(view, at) {
  const { image } = view;
  const counts = causeCounts(view);
  at.causeBody.hidden = !counts.length;
  at.causeResult.hidden = true;
  if (!counts.length) {
    at.causeWords.textContent = "This page was made without the check.";
    return;
  }
  const chosen = Math.min(view.state.cause, counts.length - 1);
  const k = counts[chosen];
  at.cause.max = counts.length - 1;
  at.cause.value = chosen;
  at.cause.setAttribute("aria-valuetext", `${k} patches`);
  at.causeCount.textContent = `${k} of ${image.grid[0] * image.grid[1]} patches`;
  at.check.hidden = !view.live;
  const found = view.live ? answer(view, k) : nearestCheck(view, k);
  at.causeResult.hidden = !found;
  at.causeWords.textContent = found
    ? causeText(view, found)
    : "Press the button: the network runs again with the patches hidden.";
  for (const choice of found ? Object.keys(CHOICES) : []) drawChoice(view, at, found, choice);
}

/** The kernel's last answer, if it is one to what is chosen. */
function answer({ checked, answered, state }, k) {
  const same = checked?.k === k && checked.image === answered.image;
  return same && checked.model === state.model ? checked : null;
}

/** The page's check of the pixel that is nearest to the chosen one. */
export function nearestCheck(view, k) {
  const { causes } = view.facts;
  const check = causes.checks.find((one) => one.k === k);
  const away = ([row, col]) => Math.hypot(row - view.pixel[0], col - view.pixel[1]);
  let best = 0;
  for (const [n, pixel] of causes.pixels.entries())
    if (away(pixel) < away(causes.pixels[best])) best = n;
  const patches = view.parcel.array(causes.patches);
  const most = causes.patches.shape[2];
  const found = { k, pixel: causes.pixels[best], away: away(causes.pixels[best]) };
  Object.assign(found, { kind: check.class[best], before: check.probability[best] });
  Object.assign(found, { falls: {}, hidden: {}, over: {} });
  for (const [n, choice] of Object.keys(CHOICES).entries()) {
    const first = (best * 3 + n) * most;
    found.falls[choice] = [check.probability_fall[choice][best]];
    found.hidden[choice] = patches.subarray(first, first + k);
    found.over[choice] = check.probability_fall[choice];
  }
  return found;
}

function drawChoice(view, at, found, choice) {
  const { size, grid, patch } = view.image;
  const figure = at.causeResult.querySelector(`[data-choice=${choice}]`);
  const canvas = figure.querySelector("canvas");
  const context = surface(canvas, size);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.drawImage(photo(view, true), 0, 0, width, height);
  context.fillStyle = "rgba(120,120,120,.93)";
  const side = (patch / size[1]) * width;
  for (const one of found.hidden[choice]) {
    const [row, col] = [Math.floor(one / grid[1]), one % grid[1]];
    context.fillRect(col * side, row * side, side + 0.3, side + 0.3);
  }
  drawCursor(context, view, width, height, found.pixel);
  const draws = found.falls[choice];
  const left = found.before - mean(draws);
  const many = draws.length > 1 ? ` (mean of ${draws.length} draws)` : "";
  figure.querySelector("b").textContent = `${found.k} ${CHOICES[choice]}`;
  figure.querySelector("span").textContent = `${percent(found.before)} → ${percent(left)}${many}`;
  figure.querySelector("i").style.width = `${100 * Math.max(0, Math.min(1, left))}%`;
}

function causeText(view, { kind, pixel, away, k, over }) {
  const { name } = view.header.classes[kind];
  const where = `(${pixel[0]}, ${pixel[1]})`;
  const place =
    away >= 1
      ? `Measured beforehand for ${view.facts.causes.pixels.length} pixels; the nearest one, ` +
        `${where}, is ${away.toFixed(0)} px from yours (a live kernel measures any pixel).`
      : `Pixel ${where}.`;
  const falls = over && Object.keys(CHOICES).map((choice) => `${spread(over[choice])} (${choice})`);
  const all = over
    ? ` Over all ${over.attended.length} pixels the probability falls by ${falls.join(", ")}: ` +
      "mean ± standard deviation."
    : "";
  const bars = `Bars: the probability of “${name}” that is left when no token may look at`;
  return `${place} ${bars} ${k} patches.${all}`;
}
