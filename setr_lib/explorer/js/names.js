// What things are called on the screen.

export const SUMMARIES = ["mean", "max", "rollout"];
export const DIRECTIONS = { from: "What it looks at", to: "Who looks at it" };
export const COLOUR_SCALES = {
  times: "times uniform",
  own: "each map to its maximum",
  root: "square root, shows the weak",
  shared: "one range for all maps",
};
export const MODES = { tour: "Tour", explore: "Explore", numbers: "Numbers" };
// In the order in which a picture goes through the network.
export const PANELS = {
  grid: "All heads",
  heads: "Reach",
  emergence: "Block by block",
  forward: "From patch to class",
  cause: "Does it matter?",
};
export const PANEL_HINTS = {
  grid: "Every head of every block at once",
  heads: "How far and how widely each head looks, in numbers",
  forward: "What the decoder makes of the last tokens, up to the class of this pixel",
  emergence: "Which classes can already be read off each block",
  cause: "Hide the patches that were looked at: does the class change?",
};
export const GLOSSARY = {
  patch: "a square of the picture; the network sees nothing smaller",
  block: "one of the equal steps of the network, one after the other; 0 is the first",
  head: "one of the ways of looking that a block has, side by side; mean and maximum are over them",
  rollout: "all blocks up to this one in a single map: an estimate of what a patch is made of",
  uniform: "the same share for every patch, as if nothing were preferred",
  "class token": "a token that stands for no patch",
  nats: "the unit of entropy: 0 is one patch alone, the largest value all of them alike",
  probe: "a simple classifier on the tokens of one block: what it can say, the block knows",
  "before, after": "the scores before and after they are enlarged to the picture's size",
};

export function headName(head) {
  return (
    { mean: "mean of the heads", max: "maximum of the heads", rollout: "rollout" }[head] ??
    `head ${head}`
  );
}

export function shortName(head) {
  return typeof head === "number" ? `head ${head}` : head;
}
