// What the live page consists of, before anything is drawn: the explorer stands inside.

import { escape } from "../js/numbers.js";

export const LIVE_STYLE = `/* live.css */`;

export function livePage({ networks, oneFile }) {
  const one = ({ name, title }) => `<option value="${escape(name)}">${escape(title)}</option>`;
  return `
  <section class="card live" data-at="card" aria-label="SETR, live on your picture" tabindex="-1">
    <header>
      <p class="lead"><b>Try it on your own picture.</b> <span>It stays on your machine: the network
        comes to the picture.</span></p>
      <label class="button">Choose a photograph
        <input type="file" accept="image/*" data-at="file"></label>
      <label class="button phone">Take one
        <input type="file" accept="image/*" capture="environment" data-at="camera"></label>
      <span class="hint drop">or drop or paste one here</span>
      <label ${networks.length > 1 ? "" : "hidden"}>Network
        <select data-at="network">${networks.map(one).join("")}</select></label>
      <label hidden>beside it <select data-at="second"></select></label>
    </header>
    <details class="knows"><summary data-at="short"></summary><p data-at="knows"></p></details>
    <div class="begin" data-at="begin">
      <button type="button" class="strong" data-at="load"></button>
    </div>
    <div class="busy" data-at="busy" hidden>
      <progress max="1" value="0" data-at="progress" aria-label="How far it is"></progress>
      <span data-at="doing" role="status"></span></div>
    <p class="trouble" role="alert" data-at="trouble"></p>
    <div data-at="explore"></div>
    ${oneFile ? offer(oneFile) : ""}
  </section>`;
}

function offer({ url, size }) {
  return `
    <p class="hint"><a href="${escape(url)}" data-at="oneFile">This page as one file</a>
      (${escape(size)}): it works from disk, with the network off.</p>`;
}
