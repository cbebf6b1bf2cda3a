// The tour: seven stops, each one sentence and one thing to do. They draw on two canvases.
//
// A stop has `step` (its place in the strip), `title`, `say(tour)`, `todo`, perhaps `tools` (its
// controls) and `under(tour)` (text or nodes below); `left` and `right` draw; `point` hears hands.

import { legend } from "../js/picture.js";
import { percent, times } from "../js/numbers.js";
import { drawBars, drawProducts } from "./bars.js";
import {
  drawApart,
  drawAsked,
  drawAttention,
  drawBrushed,
  drawCells,
  drawKinds,
  drawLikeness,
  drawPair,
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
    say: ({ image: { grid, patch } }) =>
      `The network sees no picture, only ${grid[0] * grid[1]} squares of ${patch}×${patch} ` +
      `pixels, each a row of ${patch}·${patch}·3 = ${3 * patch * patch} numbers.`,
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
    say: ({ image: { patch }, config }) =>
      `A matrix turns the ${3 * patch * patch} numbers of each patch into ${config.width}, its ` +
      "token; a learnt position is added, since the network itself cannot tell left from right.",
    todo: "Switch the positions off, and see what the network then says.",
    tools: button("positions", "Switch the positions off"),
    captions: ["with positions", "without"],
    left: (tour, at) => drawKinds(tour, at, tour.labels),
    right: (tour, at) => drawKinds(tour, at, tour.kept.lost),
    under: ({ kept, labels, view, facts }) => [
      kept.lost
        ? `${percent(shareOfChanged(labels, kept.lost))} of the pixels change their class.`
        : "The right picture waits for you.",
      ...legend(view, facts.predicted, "predicted"),
    ],
    isDone: ({ kept }) => Boolean(kept.lost),
  },
  {
    step: "Question",
    title: "A token asks, another answers",
    say: ({ config }) =>
      `Every token makes a query and a key of ${config.width / config.heads} numbers; the ` +
      "products of one's query and another's key, added up, decide how much the one looks at " +
      "the other.",
    todo: "Click a second patch: does the first one look at it?",
    captions: ["white: who asks; orange: who answers", "products of query and key, and their sum"],
    controls: true,
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
    title: "Twelve times over, and the tokens grow alike",
    say: ({ config }) =>
      `${config.depth} blocks follow each other, each with ${config.heads} heads that look in ` +
      "their own ways; what a patch collects becomes part of its token.",
    todo: "Play from the first block to the last, and watch the right picture.",
    tools: button("play", "▶ Play the blocks"),
    captions: ["attention in this block", "how alike the tokens are to the one that asks"],
    controls: true,
    left: drawAttention,
    right: drawLikeness,
    scale: "left",
    point: (tour, pixel, kind) => (kind === "click" ? tour.askAt(pixel) : tour.readAt(pixel)),
    under: wordsOfLikeness,
    isDone: ({ kept, config }) => kept.blocks.size >= config.depth / 2,
  },
  {
    step: "Decoder",
    title: "Tokens become scores, scores become labels",
    say: ({ facts: { scores } }) =>
      `The decoder gives every class a score in each of ${scores.size.join("×")} cells; ` +
      "enlarged to the picture, the largest score wins each pixel.",
    todo: "Click a pixel near a border, and compare its scores.",
    captions: ["best class of each cell", "best class of each pixel"],
    left: drawCells,
    right: (tour, at) => drawKinds(tour, at, tour.labels, true),
    point: (tour, pixel, kind) => kind === "click" && tour.askAt(pixel),
    under: (tour) => [...legend(tour.view, tour.facts.predicted, "predicted"), drawBars(tour)],
    isDone: ({ kept }) => kept.asked > 0,
  },
  {
    step: "Labels",
    title: "Does it need what it looks at?",
    say: () =>
      "A hidden patch may be looked at by none: where the label of your pixel stays, the network " +
      "did not need it, however much it looked there.",
    todo: "Brush patches away with the pointer, or let the buttons choose.",
    tools: [
      button("hide", "Hide what it looked at most", "attended"),
      button("hide", "the nearest", "nearest"),
      button("hide", "random ones", "random"),
      button("show", "Show all again"),
    ].join(" "),
    captions: ["brush here", "what the network says now"],
    brush: true,
    left: drawBrushed,
    right: (tour, at) => drawKinds(tour, at, tour.kept.after ?? tour.labels, true),
    point: (tour, pixel, kind) => kind !== "hover" && tour.hideAt(pixel),
    under: ({ kept, labels, view, facts }) => [
      wordsOfHidden(kept, labels, view),
      ...legend(view, facts.predicted, "predicted"),
    ],
    isDone: ({ kept }) => kept.hidden.size > 0,
  },
];

function shareOfChanged(before, after) {
  let changed = 0;
  for (let i = 0; i < before.length; i++) if (before[i] !== after[i]) changed++;
  return changed / before.length;
}

function wordsOfHidden({ hidden, after, left, kind, probability }, labels, view) {
  if (!hidden.size) return "Nothing is hidden yet.";
  if (!after) return "The network runs again …";
  const { name } = view.header.classes[kind];
  return (
    `${hidden.size} of ${view.image.grid[0] * view.image.grid[1]} patches hidden: ` +
    `${percent(shareOfChanged(labels, after))} of the pixels change their class; at your pixel ` +
    `“${name}” goes from ${percent(probability)} to ${percent(left)} ` +
    `(${times(left / probability)} as much).`
  );
}
