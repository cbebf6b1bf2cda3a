// What goes to the reader's disk.

import { npy, zip } from "./npz.js";
import { fromBase64 } from "./parcel.js";

export function keep(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** A panel as it stands on the screen, twice as large: backgrounds, canvases and words. */
export function snapshot(panel, card) {
  const outer = panel.getBoundingClientRect();
  const pad = 10;
  const canvas = document.createElement("canvas");
  canvas.width = 2 * (outer.width + 2 * pad);
  canvas.height = 2 * (outer.height + 2 * pad);
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  context.translate(pad - outer.left, pad - outer.top);
  context.fillStyle = getComputedStyle(card).backgroundColor;
  context.fillRect(
    outer.left - pad,
    outer.top - pad,
    outer.width + 2 * pad,
    outer.height + 2 * pad,
  );
  const visit = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return write(node);
    if (node.nodeType !== Node.ELEMENT_NODE || "skip" in node.dataset || node.hidden) return;
    const box = node.getBoundingClientRect();
    if (!box.width || !box.height) return;
    if (node instanceof HTMLCanvasElement) {
      context.drawImage(node, box.left, box.top, box.width, box.height);
      return;
    }
    const style = getComputedStyle(node);
    context.fillStyle = style.backgroundColor;
    context.fillRect(box.left, box.top, box.width, box.height);
    if (node.classList.contains("ramp")) {
      const colours = style.backgroundImage.match(/rgb\([^)]*\)/g) ?? [];
      const ramp = context.createLinearGradient(box.left, 0, box.right, 0);
      colours.forEach((colour, n) => ramp.addColorStop(n / (colours.length - 1), colour));
      context.fillStyle = ramp;
      context.fillRect(box.left, box.top, box.width, box.height);
    }
    for (const child of node.childNodes) visit(child);
  };
  const write = (node) => {
    const style = getComputedStyle(node.parentElement);
    context.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    context.fillStyle = style.color;
    context.textAlign = "left";
    context.textBaseline = "middle";
    const range = document.createRange();
    for (const word of node.data.matchAll(/\S+/g)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const box = range.getBoundingClientRect();
      context.fillText(word[0], box.left, (box.top + box.bottom) / 2);
    }
  };
  visit(panel);
  const url = canvas.toDataURL("image/png"); // toBlob waits for leisure
  return new Blob([fromBase64(url.split(",")[1])], { type: "image/png" });
}

/** All numbers of the shown patch, of every network, for numpy. */
export function saveNumbers(view) {
  const files = {};
  const several = view.image.models.length > 1;
  for (const model of view.image.models.keys()) {
    for (const [name, array] of Object.entries(view.numbers(model)))
      files[`${several ? `model${model}_` : ""}${name}.npy`] = npy(array);
  }
  keep(new Blob([zip(files)], { type: "application/zip" }), "attention.npz");
}
