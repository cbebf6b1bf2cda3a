// Light or dark.

/** Dark where the page around is dark: the book, JupyterLab, VS Code, Colab, else the system. */
export function followTheme(host, changed) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => {
    const [root, body] = [document.documentElement, document.body];
    for (const name of [root.dataset.theme, root.getAttribute("theme"), body.dataset.theme]) {
      if (name === "dark" || name === "light") return name === "dark";
    }
    if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
    const code = body.dataset.vscodeThemeKind ?? "";
    if (code) return !code.includes("light");
    return system.matches;
  };
  const apply = () => {
    host.dataset.dark = String(dark());
    changed();
  };
  const watcher = new MutationObserver(apply);
  for (const node of [document.documentElement, document.body])
    watcher.observe(node, { attributes: true });
  system.addEventListener("change", apply);
  apply();
  return () => {
    watcher.disconnect();
    system.removeEventListener("change", apply);
  };
}
