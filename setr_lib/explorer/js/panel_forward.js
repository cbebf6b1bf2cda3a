// From patch to class: the decoder's maps, and the scores of one pixel.

import { packed, paint, surface } from "./canvas.js";
import { escape, percent, softmax } from "./numbers.js";
import { classPicture } from "./picture.js";

export function drawForward(view, at) {
  const { facts, image } = view;
  const { stages } = facts;
  const of = `${view.answered.image} ${view.model}`;
  if (at.stages.dataset.of !== of) {
    at.stages.dataset.of = of;
    const figure =
      "<figure><canvas></canvas><figcaption><b></b><br><span></span></figcaption></figure>";
    at.stages.innerHTML = figure.repeat(stages.length + 1);
  }
  const figures = [...at.stages.children];
  for (const [n, stage] of stages.entries()) {
    const text = `${stage.channels} channels, ${stage.size[0]}×${stage.size[1]}`;
    drawStage(view, figures[n], stagePicture(view, stage), facts.scores.covers, stage.name, text);
  }
  const classes = classPicture(view, facts.predicted, "predicted");
  const size = `${image.size[0]}×${image.size[1]}`;
  drawStage(view, figures.at(-1), classes, image.size, "classes", size);
  drawScores(view, at);
}

function stagePicture(view, { colours: place }) {
  return view.once(`stage ${place.at}`, () => {
    const bytes = view.parcel.array(place);
    const [rows, cols] = place.shape;
    const colours = Uint32Array.from({ length: rows * cols }, (_, i) =>
      packed(bytes[3 * i], bytes[3 * i + 1], bytes[3 * i + 2]),
    );
    return paint(rows, cols, colours);
  });
}

/** One map with the pixel marked; it stretches over `covers` pixels, padding included. */
function drawStage(view, figure, picture, covers, name, text) {
  const { size } = view.image;
  const canvas = figure.querySelector("canvas");
  const context = surface(canvas, size);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.imageSmoothingEnabled = false;
  const seen = [(picture.width * size[1]) / covers[1], (picture.height * size[0]) / covers[0]];
  context.drawImage(picture, 0, 0, ...seen, 0, 0, width, height);
  const x = ((view.pixel[1] + 0.5) / size[1]) * width;
  const y = ((view.pixel[0] + 0.5) / size[0]) * height;
  for (const [colour, thick] of Object.entries({ "#000": 3.5, "#fff": 1.5 })) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.beginPath();
    context.arc(x, y, 5, 0, 7);
    context.stroke();
  }
  figure.querySelector("b").textContent = name;
  figure.querySelector("span").textContent = text;
}

function drawScores(view, at) {
  const { image } = view;
  const { classes } = view.facts.scores;
  const [row, col] = view.pixel;
  const { before, after } = view.scoresAt(row, col);
  const order = [...after.keys()].sort((a, b) => after[b] - after[a]);
  const truth = image.label ? view.parcel.array(image.label)[row * image.size[1] + col] : 255;
  const right = image.judged ? classes.indexOf(truth) : -1;
  const shown = order.slice(0, 6);
  if (right >= 0 && !shown.includes(right)) shown.push(right);
  const share = softmax(after);
  const line = (k) => {
    const { name, colour } = view.header.classes[classes[k]];
    const marks = [k === order[0] && "predicted", k === right && "true"].filter(Boolean);
    const mark = marks.length ? ` <em>${marks.join(", ")}</em>` : "";
    const box = `<i style="background:rgb(${colour})"></i>`;
    const bar = `<span style="width:${(100 * share[k]).toFixed(1)}%"></span>`;
    return `<tr><th scope="row">${box}${escape(name)}${mark}</th>
      <td>${before[k].toFixed(2)}</td><td>${after[k].toFixed(2)}</td>
      <td class="barcell">${bar}<b>${percent(share[k])}</b></td></tr>`;
  };
  at.scores.innerHTML = shown.map(line).join("");
  at.verdict.textContent = verdict(view, before, order[0], share[order[0]], truth);
  const judged = image.judged && truth !== 255;
  at.verdict.dataset.right = judged ? String(right === order[0]) : "";
}

function verdict(view, before, winner, share, truth) {
  const { image, header, pixel } = view;
  const { classes, size } = view.facts.scores;
  const name = (k) => header.classes[classes[k]].name;
  const first = before.indexOf(Math.max(...before));
  const parts = [
    `Pixel (${pixel[0]}, ${pixel[1]}): predicted ${name(winner)} with ${percent(share)}.`,
  ];
  if (image.label && !image.judged)
    parts.push(`The label says “${view.labelAt(pixel) ?? "nothing"}”, in classes of its own.`);
  else if (image.label && truth === 255) parts.push("This pixel has no label.");
  else if (image.label) {
    const right = classes[winner] === truth ? "right" : "wrong";
    parts.push(`It is ${header.classes[truth].name}: ${right}.`);
  }
  if (first !== winner) parts.push(`Before the last upsampling its cell said ${name(first)}.`);
  const [few, many] = [size.join("×"), image.size.join("×")];
  parts.push(`Scores have ${few} cells before the last upsampling, ${many} after it.`);
  return parts.join(" ");
}
