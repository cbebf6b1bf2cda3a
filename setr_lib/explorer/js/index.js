// Two ways in. `render` is for anywidget: a kernel answers every question. Boxes with a
// data-payload carry all numbers themselves: a committed notebook, the book's page, a file from
// save_html.

import { fromAddress } from "./address.js";
import { Explorer } from "./explorer.js";
import { PATIENCE, kernel } from "./live.js";
import { decodeJpeg, fromBase64, openParcel } from "./parcel.js";
import { hideDeadWidgets, replaceTwin, twinOf } from "./twins.js";

export default { render };

function render({ model, el }) {
  const box = document.createElement("div");
  el.append(box);
  box.hidden = true; // until the kernel has answered; a saved notebook has none
  const show = () => {
    box.hidden = false;
    explorer?.draw();
  };
  const raw = model.get("data");
  const bytes = new Uint8Array(raw.buffer ?? raw, raw.byteOffset ?? 0, raw.byteLength);
  let explorer = null;
  const follow = () => explorer?.follow(model.get("view"));
  start(box, bytes, {
    ask: kernel(model, PATIENCE),
    view: model.get("view"),
    answered: () => {
      show();
      replaceTwin(el);
    },
    refused: () => twinOf(el) ?? show(),
    tell: (view) => {
      model.set("view", view);
      model.save_changes();
    },
  }).then((started) => {
    explorer = started;
    model.on("change:view", follow);
  });
  return () => {
    model.off("change:view", follow);
    explorer?.close();
  };
}

async function start(box, bytes, options) {
  const parcel = await openParcel(bytes);
  const pictures = await Promise.all(
    parcel.header.images.map((image) => decodeJpeg(parcel.array(image.picture))),
  );
  const host = document.createElement("div");
  host.className = "setr-explorer-host";
  // A notebook would take digits, letters and arrows for itself; what saves it goes through.
  host.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
  const explorer = new Explorer(host, parcel, pictures, options);
  box.querySelector("img")?.remove();
  box.append(host);
  box.explorer = explorer;
  explorer.begin();
  return explorer;
}

for (const box of document.querySelectorAll(".setr-explorer[data-payload]:not([data-open])")) {
  const starter = box.nextElementSibling?.outerHTML ?? "";
  const waiting = box.outerHTML
    .replace(/ data-(started|open)=""/g, "")
    .replace(/<script[^]*<\/script>/, "");
  const page = `${box.dataset.head}${waiting}${starter}</main></body></html>`;
  box.dataset.open = "";
  hideDeadWidgets(box);
  const address = box.matches("body > main > .setr-explorer"); // a file of its own, from save_html
  const view = address ? { mode: "tour", ...fromAddress(location.hash) } : {};
  start(box, fromBase64(box.dataset.payload), { page, address, view }).catch((error) => {
    console.error("attention explorer:", error); // the still picture stays
  });
}
