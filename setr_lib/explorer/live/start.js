// Every box of the page that waits becomes a live page. SETTINGS and ENGINE stand before this.

import { Site } from "./site.js";

const folder = document.currentScript?.src; // weights lie beside the script

for (const box of document.querySelectorAll(".setr-live:not([data-started])")) {
  box.dataset.started = "";
  const networks = SETTINGS.networks.map((network) => {
    const inside = document.querySelector(`[data-network="${network.name}"]`);
    return { ...network, text: inside?.textContent };
  });
  const host = document.createElement("div");
  host.className = "setr-live-host";
  box.querySelector("img")?.remove();
  box.append(host);
  const oneFile = SETTINGS.oneFile && { ...SETTINGS.oneFile };
  if (oneFile) oneFile.url = new URL(oneFile.url, folder).href;
  box.site = new Site(host, { ...SETTINGS, networks, folder, oneFile }, ENGINE);
  box.site.begin();
}
