// The picture: photo, classes over it, who asks, what is read.

import { line, packed, paint, surface, swatch } from "./canvas.js";

const WRONG = [200, 30, 30];

/** `view.photos` has {colour, grey} per image. */
export function drawPicture(view, at) {
  const { state, image } = view;
  const canvas = at.picture.querySelector("canvas");
  const context = surface(canvas, image.size);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.drawImage(photo(view, state.under === "photo"), 0, 0, width, height);
  const { predicted } = view.facts;
  const classes = { predicted, truth: image.label, wrong: predicted }[state.under];
  if (classes) {
    const opacity = state.under === "wrong" ? 1 : 0.7;
    drawClasses(context, view, classes, state.under, opacity, width, height);
  }
  drawPatchLines(context, view, width, height);
  drawCursor(context, view, width, height, view.pixel, true);
  drawReading(context, view, width);
  const [row, col] = view.placeOf(view.pixel);
  const truth = view.className(view.now[0]);
  const unit = view.unit === "cell" ? "Cell" : "Patch";
  at.picture.setAttribute(
    "aria-label",
    `Picture. The ${view.unit} in row ${row}, column ${col} asks. ` +
      "Arrow keys move it, with Shift they read the maps.",
  );
  at.pictureName.textContent = `${unit} (${row}, ${col})${truth ? ` · ${truth}` : ""}`;
  at.pictureHint.textContent = "A click asks, pointing reads; arrow keys work too.";
  for (const option of at.under.options) {
    const without = { truth: !image.label, wrong: !image.judged }[option.value] ?? false;
    option.hidden = option.disabled = without;
  }
  at.under.value = state.under;
  at.legend.replaceChildren(...(classes ? legend(view, classes, state.under) : []));
}

export function photo(view, colour) {
  const { colour: picture, grey } = view.photos[view.answered.image];
  return colour ? picture : grey;
}

/** A class map (H,W) over what is there. */
export function drawClasses(context, view, place, kind, opacity, width, height) {
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = false;
  context.drawImage(classPicture(view, place, kind), 0, 0, width, height);
  context.globalAlpha = 1;
}

/** A class map as a small canvas; "wrong": only pixels that differ from the truth, in red. */
export function classPicture(view, place, kind) {
  return view.once(`classes ${place.at} ${kind}`, () => {
    const classes = view.parcel.array(place);
    const colours = new Uint32Array(classes.length);
    if (kind === "wrong") {
      const truth = view.parcel.array(view.image.label);
      const red = packed(...WRONG);
      for (let i = 0; i < classes.length; i++)
        if (truth[i] !== 255 && truth[i] !== classes[i]) colours[i] = red;
    } else {
      const table = new Uint32Array(256).fill(packed(255, 255, 255));
      for (const [n, { colour }] of classTable(view, kind).entries()) table[n] = packed(...colour);
      for (let i = 0; i < classes.length; i++) colours[i] = table[classes[i]];
    }
    return paint(...view.image.size, colours);
  });
}

function classTable(view, kind) {
  return kind === "truth" ? view.header.label_classes : view.header.classes;
}

/** The commonest classes of a map with their colours. */
export function legend(view, place, kind) {
  if (kind === "wrong") return [swatch(WRONG, "wrongly classified pixels")];
  const table = classTable(view, kind);
  const kinds = view.once(`legend ${place.at} ${kind}`, () => {
    const counts = new Uint32Array(256);
    for (const one of view.parcel.array(place)) counts[one]++;
    const found = [...table.keys()].filter((one) => counts[one]);
    return found.sort((a, b) => counts[b] - counts[a]).slice(0, 12);
  });
  return kinds.map((one) => swatch(table[one].colour, table[one].name));
}

export function drawPatchLines(context, { image }, width, height) {
  const { size, grid, patch } = image;
  const side = (patch / size[1]) * width;
  if (side < 5) return;
  context.strokeStyle = "rgba(255,255,255,.22)";
  context.lineWidth = 0.5;
  context.beginPath();
  for (let x = 1; x < grid[1]; x++) line(context, x * side, 0, x * side, height);
  for (let y = 1; y < grid[0]; y++) line(context, 0, y * side, width, y * side);
  context.stroke();
}

/** The frame of the cell of a pixel; `dot`: the pixel itself too. */
export function drawCursor(context, view, width, height, pixel, dot = false) {
  const { size } = view.image;
  const { left, top, side } = cellBox(view, pixel, width);
  const strong = width > 120;
  const frames = strong
    ? { "rgba(0,0,0,.75)": 4, "#fff": 2 }
    : { "rgba(0,0,0,.6)": 2.4, "#fff": 1.2 };
  const grow = strong ? 1 : 0.5;
  for (const [colour, thick] of Object.entries(frames)) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.strokeRect(left - grow, top - grow, side + 2 * grow, side + 2 * grow);
  }
  if (!dot) return;
  context.fillStyle = "#fff";
  context.strokeStyle = "#000";
  context.lineWidth = 1;
  context.beginPath();
  const [y, x] = [(pixel[0] + 0.5) * (height / size[0]), (pixel[1] + 0.5) * (width / size[1])];
  context.arc(x, y, 2.5, 0, 7);
  context.fill();
  context.stroke();
}

/** A line from the cell that asks to the one that is read. */
export function drawReading(context, view, width) {
  if (!view.read) return;
  const [from, to] = [view.pixel, view.read].map((pixel) => cellBox(view, pixel, width));
  const half = to.side / 2;
  for (const [colour, thick] of Object.entries({ "rgba(0,0,0,.7)": 3.5, "#fff": 1.5 })) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.beginPath();
    line(context, from.left + half, from.top + half, to.left + half, to.top + half);
    context.rect(to.left, to.top, to.side, to.side);
    context.stroke();
  }
}

/** Where the cell of a pixel lies in a picture that is `width` wide. */
export function cellBox(view, pixel, width) {
  const { size, patch } = view.image;
  const side = (patch * view.now[0].source.pool * width) / size[1];
  const [row, col] = view.placeOf(pixel);
  return { left: col * side, top: row * side, side };
}
