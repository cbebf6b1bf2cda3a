// What the page consists of, before anything is drawn. `data-at` names what is filled in later;
// `data-skip` marks what is left out of pictures and of print.

import { COLOUR_SCALES, DIRECTIONS, GLOSSARY, MODES, PANELS, PANEL_HINTS } from "./names.js";
import { escape } from "./numbers.js";
import { STOPS } from "./stops.js";

export const STYLE = `/* explorer.css */`;
const INTRO = `<span>A transformer sees a picture as patches. In each of its blocks every head lets
  each patch collect from all others, from some more than from others: that share is attention.
  </span><b>Click a patch in the picture</b> and see what it looks at; then move the block.`;
const KEYS = `With the picture or a map in focus: arrows move the patch that asks, with Shift they
  read another one off the maps. Anywhere here: digits choose the block (two within a second make
  one number), [ and ] the head. Blocks, heads, rows and columns count from 0.`;

export function skeleton(header) {
  const several = header.names.length > 1;
  const tiles = header.names.map((_, n) => tile(n));
  if (several) tiles.push(tile("difference"));
  return `
  <section class="card" data-at="card" aria-label="Attention explorer">
    ${ways()}
    <p class="intro" data-in="explore">${INTRO}</p>
    <header>${choices(header)}</header>
    ${tour()}
    <div class="tiles ${several ? "four" : ""}" data-in="explore">
      ${picture(header)}${tiles.join("")}</div>
    ${controls()}
    ${steps()}
    <p class="words" data-at="words" data-in="explore"></p>
    <p class="trouble" role="alert" data-at="trouble"></p>
    <div class="unseen" aria-live="polite" data-at="spoken"></div>
    <div data-in="explore">
      <div role="tablist" class="strip" aria-label="Panels">
        ${Object.keys(PANELS).map(tab).join("")}</div>
      ${panel("grid", grid())}
      ${panel("heads", heads())}
      ${panel("emergence", emergence())}
      ${panel("forward", forward())}
      ${panel("cause", cause())}
    </div>
    ${footer(header)}
  </section>`;
}

/** The menu of heads, once their number is known. */
export function fillHeads(select, count) {
  if (select.options.length === count + 3) return;
  const texts = [
    ["mean", "mean of the heads"],
    ["max", "maximum of the heads"],
    ["rollout", "rollout up to here"],
  ];
  for (let head = 0; head < count; head++) texts.push([head, `head ${head}`]);
  select.replaceChildren(...texts.map(([value, text]) => new Option(text, value)));
}

// ----------------------------------------------------------------------------------------- top

/** How to look, and the way that a picture takes through the network. */
function ways() {
  const stop = ({ step }, n) =>
    `<li><button type="button" data-do="stop" data-value="${n + 1}"><i>${n + 1}</i>
      <span>${step}</span></button></li>`;
  return `
    <div class="ways" data-skip>
      ${group("mode", "How to look", Object.entries(MODES))}
      <nav aria-label="The tour: the way through the network" data-in="tour">
        <ol class="strip">${STOPS.map(stop).join("")}</ol></nav></div>`;
}

function group(name, label, texts, where = "") {
  const buttons = texts.map(([value, text]) => choice(name, value, text));
  const aria = `role="group" aria-label="${label}"`;
  return `<div class="choice" ${aria} ${where}>${buttons.join("")}</div>`;
}

function choices(header) {
  const found = [group("direction", "Direction", Object.entries(DIRECTIONS), 'data-in="explore"')];
  if (header.names.length > 1) {
    const names = header.names.map((name, n) => [n, escape(name)]);
    const all = [...names, ["difference", "difference"]];
    found.push(group("model", "Network of the panels below", all));
  }
  if (header.images.length > 1) {
    const thumb = '<canvas class="thumb"></canvas>';
    const names = header.images.map(({ name }, n) => [n, `${thumb}${escape(name)}`]);
    found.push(group("image", "Image", names));
  }
  return found.join("");
}

function choice(what, value, text) {
  const data = `data-do="${what}" data-value="${value}"`;
  return `<button type="button" ${data} aria-pressed="false">${text}</button>`;
}

function picture(header) {
  const labelled = header.images.some((image) => image.label);
  const judged = header.images.some((image) => image.judged);
  const under = {
    photo: "the picture",
    predicted: "what the network says",
    ...(labelled ? { truth: "the label" } : {}),
    ...(judged ? { wrong: "where it is wrong" } : {}),
  };
  return `
    <figure class="tile" data-panel>
      <figcaption><b data-at="pictureName"></b></figcaption>
      <div class="screen" tabindex="0" role="application" data-at="picture"><canvas></canvas></div>
      <div class="legend" data-at="legend"></div>
      <label class="row" data-skip>Show ${menu("under", under)}</label>
      <span class="hint" data-at="pictureHint" data-skip></span>
    </figure>`;
}

function tile(model) {
  return `
    <figure class="tile map" data-model="${model}" data-panel>
      <figcaption>
        <b data-part="name"></b>
      </figcaption>
      <div class="screen" tabindex="0" role="application"><canvas></canvas></div>
      <div class="scale">
        <span data-part="low"></span>
        <div class="ramp" data-part="bar"><i data-part="mark"></i></div>
        <span data-part="high"></span>
      </div>
      <div class="even" data-part="even"></div>
    </figure>`;
}

function controls() {
  const opacity = 'max="1" step="0.05" data-at="opacity" aria-label="Opacity of the overlay"';
  return `
    <div class="controls" data-at="controls" data-skip>
      <label title="A network is a row of equal blocks; 0 is the first">Block
        <input type="range" min="0" step="1" data-at="block">
        <output data-at="blockOut" aria-live="off"></output></label>
      <label title="The heads of a block look in different ways, side by side">Head
        <select data-at="head"></select></label></div>
    <div class="controls more" data-in="explore" data-skip>
      <label>Overlay <input type="range" min="0" ${opacity}></label>
      <label>Colours ${menu("scale", COLOUR_SCALES)}</label>
    </div>`;
}

/** One stop at a time: a sentence, a thing to do, two pictures. */
function tour() {
  return `
    <div data-in="tour" class="tour">
      <h2 data-at="title" tabindex="-1"></h2>
      <p data-at="saying"></p>
      <p class="todo"><b>Now you:</b> <span data-at="todo"></span></p>
      <div class="tools" data-at="tools" data-skip></div>
      <div class="tiles">
        <figure class="tile"><figcaption data-at="leftName"></figcaption>
          <canvas tabindex="0" role="application" data-at="left"></canvas></figure>
        <figure class="tile"><figcaption data-at="rightName"></figcaption>
          <canvas tabindex="0" role="application" data-at="right"></canvas>
          <div class="scale" data-at="mapScale"><span>≤ 1/16</span>
            <div class="ramp" data-at="ramp"></div>
            <span>≥ 16 times an even share</span></div></figure>
      </div>
    </div>`;
}

/** Below the slider that all modes share: what the stop found, and on to the next. */
function steps() {
  return `
    <div data-in="tour" class="tour">
      <div class="legend under" data-at="found" aria-live="polite"></div>
      <div class="steps" data-skip><button type="button" data-at="back">Back</button>
        <button type="button" data-at="next"></button></div>
    </div>`;
}

// -------------------------------------------------------------------------------------- panels

function tab(name) {
  const data = `data-do="panel" data-value="${name}" title="${PANEL_HINTS[name]}"`;
  const aria = `role="tab" id="tab-${name}" aria-controls="panel-${name}"`;
  return `<button type="button" ${aria} ${data}>${PANELS[name]}</button>`;
}

function panel(name, body) {
  const aria = `role="tabpanel" id="panel-${name}" aria-labelledby="tab-${name}"`;
  return `<section ${aria} data-panel="${name}" hidden>${body}</section>`;
}

function grid() {
  return `
    <div class="bar">
      <p>Every head of every block, for the same patch. Click one to enlarge it.</p></div>
    <div class="scroll grid" data-at="gridScroll"><span class="corner">block</span>
      <div class="blocks" data-at="gridBlocks" aria-hidden="true"></div>
      <div class="heads" data-at="gridHeads" aria-hidden="true"></div>
      <canvas data-at="grid" role="application" tabindex="0"></canvas></div>`;
}

function heads() {
  const chart = { distance: "mean distance", entropy: "entropy", inside: "share inside the class" };
  const over = { patch: "this patch", all: "all patches, on average" };
  const columns = {
    head: "head",
    entropy: "entropy, nats",
    distance: "distance, px",
    inside: "same class",
  };
  const head = ([name, text]) => {
    const button = `<button type="button" data-do="sort" data-value="${name}">${text}</button>`;
    return `<th scope="col" data-sort="${name}">${button}</th>`;
  };
  return `
    <div class="bar">
      <p>How far and how widely each head looks. <span data-at="headsNote"></span></p>
      <label data-skip>Show ${menu("chart", chart)}</label>
      <label data-skip>of ${menu("over", over)}</label>
    </div>
    <div class="two"><canvas class="chart" data-at="headChart" role="img"></canvas>
      <div class="list" tabindex="0" role="region" aria-label="Table of heads"><table>
        <thead><tr>${Object.entries(columns).map(head).join("")}</tr></thead>
        <tbody data-at="headRows"></tbody></table></div></div>`;
}

function forward() {
  const columns = ["class", "before", "after", "probability"];
  const head = columns.map((name) => `<th scope="col">${name}</th>`).join("");
  return `
    <div class="bar"><p>The decoder's maps in order (colours: their first three principal
      components), and the scores of this pixel.</p></div>
    <div class="stages" data-at="stages" tabindex="0" role="region"
      aria-label="The decoder's maps"></div><p class="verdict" data-at="verdict"></p>
    <table class="scores"><thead><tr>${head}</tr></thead><tbody data-at="scores"></tbody></table>`;
}

function emergence() {
  const play = 'data-do="play" data-skip aria-label="Play: from the first block to the last"';
  const map = 'data-at="emergenceMap" role="img" aria-label="Classes read off this block"';
  return `
    <div class="bar"><button type="button" ${play}>▶</button>
      <b class="grow" data-at="emergenceName"></b>
      <label data-skip>Read by <select data-at="reader"></select></label></div>
    <div class="three">
      <figure><canvas ${map}></canvas><figcaption>what can be read off here</figcaption>
        <div class="legend" data-at="emergenceLegend"></div></figure>
      <figure><canvas data-at="emergenceTruth" role="img" aria-label="The label"></canvas>
        <figcaption>the label</figcaption></figure>
      <figure><canvas class="chart" data-at="emergenceChart" role="img"></canvas>
        <figcaption>● probe ■ auxiliary ◆ main head</figcaption></figure>
    </div>
    <p data-at="emergenceWords"></p>`;
}

function cause() {
  const figure = (choice) => `
      <figure data-choice="${choice}"><canvas></canvas><div class="left"><i></i></div>
        <figcaption><b></b><br><span></span></figcaption></figure>`;
  return `
    <div class="bar"><div data-at="causeBody" class="grow" data-skip>
        <label>Hide <input type="range" min="0" step="1" data-at="cause"></label>
        <b data-at="causeCount"></b>
        <button type="button" data-do="check" data-at="check">Hide them and see</button>
      </div></div>
    <div class="three always" data-at="causeResult">
      ${["attended", "nearest", "random"].map(figure).join("")}</div>
    <p data-at="causeWords"></p>`;
}

// -------------------------------------------------------------------------------------- pieces

function menu(name, entries) {
  const option = ([value, text]) => `<option value="${value}">${text}</option>`;
  return `<select data-at="${name}">${Object.entries(entries).map(option).join("")}</select>`;
}

/** Everything that can be kept, in one menu. */
function saveMenu(header) {
  const tiles = header.names.map((name, n) => [`png .map[data-model="${n}"]`, `map of ${name}`]);
  if (tiles.length > 1) tiles.push(['png .map[data-model="difference"]', "map of the difference"]);
  const entries = [
    ["", "Save …"],
    ["png .tile[data-panel]", "picture, as PNG"],
    ...tiles.map(([value, text]) => [value, `${text}, as PNG`]),
    ["png [role=tabpanel]:not([hidden])", "panel below, as PNG"],
    ["npz", "numbers of this patch, as npz"],
    ["html", "all of this, as one page"],
  ];
  const option = ([value, text]) => `<option value='${value}'>${escape(text)}</option>`;
  const options = entries.map(option).join("");
  return `<select data-at="save" data-in="explore" aria-label="Save">${options}</select>`;
}

function footer(header) {
  const words = Object.entries(GLOSSARY).map(([word, text]) => `<dt>${word}</dt><dd>${text}</dd>`);
  return `
    <footer data-skip>
      <details><summary>Keys</summary><p>${KEYS}</p></details>
      <details><summary>Words</summary><dl>${words.join("")}</dl></details>
      ${saveMenu(header)}
    </footer>`;
}
