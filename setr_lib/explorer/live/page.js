// What the live page consists of, before anything is drawn.

import { escape } from "../js/numbers.js";
import { STOPS } from "./stops.js";

export const MODES = { tour: "Tour", explore: "Explore", numbers: "Numbers" };
export const LIVE_STYLE = `/* live.css */`;

export function livePage({ networks, oneFile }) {
  const stop = ({ step }, n) =>
    `<li><button type="button" data-stop="${n + 1}"><i>${n + 1}</i> ${step}</button></li>`;
  const mode = ([name, text]) =>
    `<button type="button" data-mode="${name}" aria-pressed="false">${text}</button>`;
  const network = ({ name, title }) => `<option value="${escape(name)}">${escape(title)}</option>`;
  return `
  <section class="card live" data-at="card" aria-label="SETR, live on your picture" tabindex="-1">
    <header>
      <p class="lead"><b>Try it on your own picture.</b> It stays on your machine: the network comes
        to the picture.</p>
      <label class="button">Choose a photograph
        <input type="file" accept="image/*" data-at="file"></label>
      <label class="button phone">Take one
        <input type="file" accept="image/*" capture="environment" data-at="camera"></label>
      <span class="hint">or drop or paste one here</span>
      <label ${networks.length > 1 ? "" : "hidden"}>Network
        <select data-at="network">${networks.map(network).join("")}</select></label>
    </header>
    <p class="knows" data-at="knows"></p>
    <div class="begin" data-at="begin">
      <button type="button" class="strong" data-at="load"></button>
    </div>
    <div class="busy" data-at="busy" hidden>
      <progress max="1" value="0" data-at="progress" aria-label="How far it is"></progress>
      <span data-at="doing" role="status"></span></div>
    <p class="trouble" role="alert" data-at="trouble"></p>
    <div data-at="body" hidden>
      <div class="ways"><div class="choice" role="group" aria-label="How to look">
        ${Object.entries(MODES).map(mode).join("")}</div>
        <span class="hint" data-at="said" role="status"></span></div>
      <nav aria-label="The way through the network">
        <ol class="strip">${STOPS.map(stop).join("")}</ol></nav>
      <div data-at="tour">
        <h2 data-at="title" tabindex="-1"></h2>
        <p data-at="saying"></p>
        <p class="todo"><b>Now you:</b> <span data-at="todo"></span></p>
        <div class="tools" data-at="tools"></div>
        <div class="tiles">
          <figure class="tile"><figcaption data-at="leftName"></figcaption>
            <canvas tabindex="0" role="application" data-at="left"></canvas></figure>
          <figure class="tile"><figcaption data-at="rightName"></figcaption>
            <canvas tabindex="0" role="application" data-at="right"></canvas>
            <div class="scale" data-at="scale"><span>≤ 1/16</span>
              <div class="ramp" data-at="ramp"></div>
              <span>≥ 16 times an even share</span></div></figure>
        </div>
        <div class="controls" data-at="controls">
          <label>Block <input type="range" min="0" step="1" data-at="block">
            <output data-at="blockOut"></output></label>
          <label>Head <select data-at="head"></select></label>
        </div>
        <div class="legend under" data-at="under" aria-live="polite"></div>
        <div class="steps"><button type="button" data-at="back">Back</button>
          <button type="button" data-at="next"></button></div>
      </div>
      <div data-at="explore" hidden></div>
    </div>
    ${oneFile ? offer(oneFile) : ""}
  </section>`;
}

function offer({ url, size }) {
  return `
    <p class="hint"><a href="${escape(url)}" data-at="oneFile">This page as one file</a>
      (${escape(size)}): it works from disk, with the network off.</p>`;
}
