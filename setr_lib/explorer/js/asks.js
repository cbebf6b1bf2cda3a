// Questions that a panel or a menu asks, beside those of the chosen patch.

import { causeCounts } from "./panel_cause.js";
import { keep } from "./save.js";

/** Means over all patches, for the panel that shows them. */
export async function askMeans(explorer) {
  const { view } = explorer;
  const source = explorer.source(view.answered.image, view.model);
  if (view.means?.source === source || explorer.meansOf === source) return;
  explorer.meansOf = source;
  view.means = null;
  try {
    view.means = { ...(await source.means()), source };
    explorer.draw();
  } catch (error) {
    explorer.trouble(error);
  }
  explorer.meansOf = null;
}

/** The causal check of the chosen pixel. */
export async function checkCause(explorer) {
  const { view, state } = explorer;
  const { image, pixel } = view.answered;
  const { model } = state;
  const k = causeCounts(view)[state.cause];
  explorer.at.causeWords.textContent = "The network runs with patches hidden …";
  try {
    const question = { ask: "cause", image, model: view.model, pixel, k };
    const { content } = await explorer.options.ask(question);
    const falls = content.probability_fall;
    const [attended, nearby, random] = content.patches[0];
    view.checked = { k, image, model, pixel, away: 0, over: null };
    Object.assign(view.checked, { kind: content.class[0], before: content.probability[0] });
    view.checked.hidden = { attended, nearest: nearby, random };
    view.checked.falls = { ...falls, attended: [falls.attended[0]], nearest: [falls.nearest[0]] };
  } catch (error) {
    explorer.trouble(error);
  }
  explorer.draw();
}

/** All of it as one file: the page that this is, or one that Python writes. */
export async function savePage(explorer) {
  let { page } = explorer.options;
  try {
    if (!page) {
      explorer.at.words.textContent = "Python writes the page …";
      page = (await explorer.options.ask({ ask: "html" })).buffers[0];
    }
    keep(new Blob([page], { type: "text/html" }), "attention.html");
  } catch (error) {
    explorer.trouble(error);
  }
  explorer.draw();
}
