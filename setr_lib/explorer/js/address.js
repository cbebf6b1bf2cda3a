// The state of a page in its address, so that a view can be linked: #b=3&h=mean&px=30,174.

import { COLOUR_SCALES, DIRECTIONS, MODES, PANELS, SUMMARIES } from "./names.js";

const SHORT = { block: "b", head: "h", direction: "dir", image: "img", model: "net" };
Object.assign(SHORT, { panel: "p", mode: "mode", stop: "stop", network: "of" });
Object.assign(SHORT, { second: "and", scale: "c" });

/** What is in `state` of what an address can hold, as the part after #. */
export function toAddress(state) {
  const parts = Object.entries(SHORT)
    .filter(([name]) => state[name] !== undefined)
    .map(([name, short]) => `${short}=${encodeURIComponent(state[name])}`);
  if (state.pixel) parts.unshift(`px=${state.pixel.join(",")}`);
  return parts.join("&");
}

/** The way back; what is no number where one is due, or unknown, is left out. */
export function fromAddress(text) {
  const given = new Map(new URLSearchParams(text.replace(/^#/, "")));
  const found = {};
  for (const [name, short] of Object.entries(SHORT)) {
    const value = given.get(short);
    if (value === undefined) continue;
    const whole = /^\d{1,4}$/.test(value);
    if (["block", "image", "stop"].includes(name) && !whole) continue;
    found[name] = whole ? Number(value) : value;
  }
  const pixel = /^(\d{1,5}),(\d{1,5})$/.exec(given.get("px") ?? "");
  if (pixel) found.pixel = [Number(pixel[1]), Number(pixel[2])];
  if (!(found.mode in MODES)) delete found.mode; // a page begins as it does without an address
  return found;
}

/** Of what an address asks for, what exists: there are so many `images`, `layers` and `heads`. */
export function existing(found, facts) {
  const { images = 1, models = 1, layers = Infinity, heads = Infinity, stops = 7 } = facts;
  const good = {
    image: (value) => value < images,
    model: (value) => value < models || (value === "difference" && models > 1),
    block: (value) => value < layers,
    head: (value) => SUMMARIES.includes(value) || (typeof value === "number" && value < heads),
    direction: (value) => value in DIRECTIONS,
    panel: (value) => value in PANELS,
    mode: (value) => value in MODES,
    stop: (value) => value >= 1 && value <= stops,
    scale: (value) => value in COLOUR_SCALES,
  };
  const kept = Object.entries(found).filter(([name, value]) => good[name]?.(value) ?? true);
  return Object.fromEntries(kept);
}

/** Replaces the address without a step in the history; never throws where that is forbidden. */
export function showAddress(state) {
  try {
    history.replaceState(null, "", `#${toAddress(state)}`);
  } catch {
    // a page inside a sandbox has no address of its own
  }
}
