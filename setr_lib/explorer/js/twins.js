// In a notebook one explorer has two outputs: the widget, which a kernel answers, and the page,
// which stays in the file. The widget is seen once the kernel has answered, else the page.

const AREAS = ".jp-OutputArea, .output, .cell_output, .output_wrapper";
const DEAD = /^\s*(Error displaying widget|Loading widget|A Jupyter widget could not be displayed)/;

/** The page that stands after the widget `el` in the output of the same cell, or null. */
export function twinOf(el) {
  const boxes = el.closest(AREAS)?.querySelectorAll(".setr-explorer") ?? [];
  const after = (box) => el.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING;
  return [...boxes].find((box) => !box.contains(el) && after(box)) ?? null;
}

/** The page goes, now or when it comes: the widget speaks. */
export function replaceTwin(el) {
  const hide = () => {
    const twin = twinOf(el);
    const output = twin?.closest(".jp-OutputArea-child, .output_area") ?? twin;
    if (output) output.style.display = "none";
    return twin;
  };
  const area = el.closest(AREAS);
  if (hide() || !area) return;
  const watcher = new MutationObserver(() => hide() && watcher.disconnect());
  watcher.observe(area, { childList: true, subtree: true });
  setTimeout(() => watcher.disconnect(), 20000);
}

/** Words in place of widgets that no kernel knows any more: the page beside them says it all. */
export function hideDeadWidgets(box) {
  const area = box.closest(AREAS);
  if (!area) return;
  const hide = () => {
    for (const node of area.querySelectorAll(".jupyter-widgets, .widget-subarea, .output_subarea"))
      if (DEAD.test(node.textContent)) node.style.display = "none";
  };
  hide();
  new MutationObserver(hide).observe(area, { childList: true, subtree: true, characterData: true });
}
