// The tour: seven stops, each one sentence and one thing to do. They draw on two canvases.
//
// A stop has `step` (its place in the strip), `title`, `say(tour)`, `todo`, perhaps `tools` (its
// controls), `ask(tour)` (for what takes a question of its own) and `under(tour)` (text or nodes
// below); `left` and `right` draw; `point` hears hands.

import { drawBars, drawProducts } from "./bars.js";
import { percent, times } from "./numbers.js";
import { causeCounts, nearestCheck } from "./panel_cause.js";
import { legend } from "./picture.js";
import {
  drawApart,
  drawAsked,
  drawAttention,
  drawCells,
  drawHidden,
  drawKinds,
  drawLikeness,
  drawPair,
  drawPredicted,
  numbersOf,
  wordsOfLikeness,
  wordsOfMap,
  wordsOfPair,
} from "./pictures.js";

const button = (name, text, value = "") =>
  `<button type="button" data-tool="${name}" data-value="${value}">${text}</button>`;

export const STOPS = [
  {
    step: "Patches",
    title: "A picture becomes patches",
    say({ view }) {
      const { grid, patch } = view.image;
      return (
        `The network sees no picture, only ${grid[0] * grid[1]} squares of ${patch}×${patch} ` +
        `pixels, each a row of ${patch}·${patch}·3 = ${3 * patch * patch} numbers.`
      );
    },
    todo: "Pull the squares apart.",
    tools:
      '<label>Together <input type="range" min="0" max="100" value="0" data-tool="apart"> ' +
      "apart</label>",
    captions: ["the picture: click a patch", "its patches"],
    left: drawAsked,
    right: (tour, at) => drawApart(tour, at, tour.kept.apart / 100),
    point: (tour, pixel, kind) => kind === "click" && tour.askAt(pixel),
    under: numbersOf,
    isDone: ({ kept }) => kept.apart > 30,
  },
  {
    step: "Tokens",
    title: "A patch becomes a token, and is told where it is",
    say: ({ view: { image, facts } }) =>
      `A matrix turns the ${3 * image.patch ** 2} numbers of each patch into ${facts.width}, its ` +
      "token; a learnt position is added, since the network itself cannot tell left from right.",
    todo: "Switch the positions off, and see what the network then says.",
    tools: button("unplaced", "Switch the positions off"),
    captions: ["with positions", "without"],
    left: (tour, at) => drawPredicted(tour, at),
    right: (tour, at) => drawKinds(tour, at, tour.kept.unplaced),
    under: (tour) => [wordsOfPlaces(tour), ...legendOf(tour)],
    isDone: ({ kept }) => kept.keys.unplaced,
  },
  {
    step: "Question",
    title: "A token asks, another answers",
    say: ({ view: { facts } }) =>
      `Every token makes a query and a key of ${facts.width / facts.heads} numbers; the ` +
      "products of one's query and another's key, added up, decide how much the one looks at " +
      "the other.",
    todo: "Click a second patch: does the first one look at it?",
    captions: ["white: who asks; orange: who answers", "products of query and key, and their sum"],
    controls: true,
    ask: (tour) => tour.askProducts(),
    left: drawPair,
    right: drawProducts,
    point: (tour, pixel, kind) => kind === "click" && tour.pairWith(pixel),
    under: wordsOfPair,
    isDone: ({ kept }) => Boolean(kept.partner),
  },
  {
    step: "Attention",
    title: "All shares of one token are its attention",
    say: () =>
      "The shares of all tokens add up to 100 %; red is looked at more than if the shares were " +
      "even, blue less.",
    todo: "Click sky, road, a house: what does each look at?",
    tools: button("direction", "Who looks at it instead?"),
    captions: ["click: who asks", "point: read its share"],
    controls: true,
    left: drawAsked,
    right: drawAttention,
    scale: "right",
    point: (tour, pixel, kind) => (kind === "click" ? tour.askAt(pixel) : tour.readAt(pixel)),
    under: wordsOfMap,
    isDone: ({ kept }) => kept.asked > 1,
  },
  {
    step: "Blocks",
    title: "Block after block, and the tokens grow alike",
    say: ({ view: { facts } }) =>
      `${facts.layers} blocks follow each other, each with ${facts.heads} heads that look in ` +
      "their own ways; what a patch collects becomes part of its token.",
    todo: "Play from the first block to the last, and watch the right picture.",
    tools: button("play", "▶ Play the blocks"),
    captions: ["attention in this block", "how alike the tokens are to the one that asks"],
    controls: true,
    ask: (tour) => tour.askLikeness(),
    left: drawAttention,
    right: drawLikeness,
    scale: "left",
    point: (tour, pixel, kind) => (kind === "click" ? tour.askAt(pixel) : tour.readAt(pixel)),
    under: wordsOfLikeness,
    isDone: ({ kept, view }) => kept.blocks.size >= view.facts.layers / 2,
  },
  {
    step: "Decoder",
    title: "Tokens become scores, scores become labels",
    say: ({ view: { facts } }) =>
      `The decoder gives every class a score in each of ${facts.scores.size.join("×")} cells; ` +
      "enlarged to the picture, the largest score wins each pixel.",
    todo: "Click a pixel near a border, and compare its scores.",
    captions: ["best class of each cell", "best class of each pixel"],
    left: drawCells,
    right: (tour, at) => drawPredicted(tour, at, true),
    point: (tour, pixel, kind) => kind === "click" && tour.askAt(pixel),
    under: (tour) => [...legendOf(tour), drawBars(tour)],
    isDone: ({ kept }) => kept.asked > 0,
  },
  {
    step: "Labels",
    title: "Does it need what it looks at?",
    say: () =>
      "A hidden patch may be looked at by none: where the label of your pixel stays, the network " +
      "did not need it, however much it looked there.",
    todo: ({ source }) =>
      source.without
        ? "Brush patches away with the pointer, or let the buttons choose."
        : "Let the buttons choose patches (brushing needs a page where the network runs).",
    tools: [
      button("hide", "Hide what it looked at most", "attended"),
      button("hide", "the nearest", "nearest"),
      button("hide", "random ones", "random"),
      button("show", "Show all again"),
    ].join(" "),
    captions: ["brush here", "what the network says now"],
    brush: true,
    left: (tour, at) => {
      const found = measuredBefore(tour);
      const hidden = found?.hidden[tour.kept.choice] ?? tour.kept.hidden;
      drawHidden(tour, at, hidden, found?.pixel ?? tour.view.pixel);
    },
    right: (tour, at) =>
      tour.kept.after
        ? drawKinds(tour, at, tour.kept.after.labels, true)
        : drawPredicted(tour, at, true),
    point: (tour, pixel, kind) => {
      if (tour.source.without) return kind !== "hover" && tour.hideAt(pixel);
      if (kind === "click") tour.askAt(pixel);
    },
    under: (tour) => [
      tour.source.without ? wordsOfHidden(tour) : wordsOfMeasured(tour),
      ...legendOf(tour),
    ],
    isDone: ({ kept }) => kept.hidden.size > 0 || kept.choice,
  },
];

const legendOf = ({ view }) => legend(view, view.facts.predicted, "predicted");

function shareOfChanged(before, after) {
  let changed = 0;
  for (let i = 0; i < before.length; i++) if (before[i] !== after[i]) changed++;
  return changed / before.length;
}

function wordsOfPlaces({ kept, labels }) {
  if (kept.unplaced)
    return `${percent(shareOfChanged(labels, kept.unplaced))} of the pixels change their class.`;
  if (!kept.keys.unplaced) return "The right picture waits for you.";
  return kept.unplaced === undefined ? "This network adds no table of positions." : "…";
}

/** On a page without a network: the check that was computed for a pixel near the chosen one. */
function measuredBefore({ source, view }) {
  const counts = source.without ? [] : causeCounts(view);
  return counts.length ? nearestCheck(view, counts[counts.length >> 1]) : null;
}

function wordsOfMeasured(tour) {
  const { view, kept } = tour;
  const found = measuredBefore(tour);
  if (!found) return "This page was made without the check.";
  const { name } = view.header.classes[found.kind];
  const where = `the pixel (${found.pixel}), the nearest to yours that was measured`;
  if (!kept.choice) return `Nothing is hidden yet. It will be hidden from ${where}.`;
  const left = found.before - found.falls[kept.choice][0];
  return (
    `${found.k} patches hidden: at ${where}, “${name}” goes from ${percent(found.before)} to ` +
    `${percent(left)}.`
  );
}

function wordsOfHidden({ kept, labels, view }) {
  const { hidden, after } = kept;
  if (!hidden.size) return "Nothing is hidden yet.";
  if (!after) return "The network runs again …";
  const { left, before } = after;
  const { name } = view.header.classes[after.kind];
  const changed = percent(shareOfChanged(labels, after.labels));
  return (
    `${hidden.size} of ${view.image.grid[0] * view.image.grid[1]} patches hidden: ` +
    `${changed} of the pixels change their class; at your pixel “${name}” goes from ` +
    `${percent(before)} to ${percent(left)} (${times(left / before)} as much).`
  );
}
