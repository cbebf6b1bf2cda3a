// Formulae as text, by the copy of KaTeX beside this file: no request leaves the site.
(() => {
  const formulae = document.querySelectorAll(".math");
  if (!formulae.length) return;
  const beside = document.currentScript.src.replace(/[^/]*$/, "katex/");
  const style = document.createElement("link");
  Object.assign(style, { rel: "stylesheet", href: `${beside}katex.min.css` });
  const script = document.createElement("script");
  script.src = `${beside}katex.min.js`;
  script.onload = () => {
    for (const formula of formulae) {
      const text = formula.textContent.trim();
      const displayMode = text.startsWith("\\[");
      const source = text.replace(/^\\[[(]/, "").replace(/\\[\])]$/, "");
      katex.render(source, formula, { displayMode, throwOnError: false });
    }
  };
  document.head.append(style, script);
})();
