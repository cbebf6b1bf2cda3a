// The attention explorer: one module, no library, no request.
//
// Two ways in. `render` is for anywidget: a kernel answers every question. Boxes with a data-payload
// carry all numbers themselves: a committed notebook, the book's page, a file from save_html.
//
// L layers (blocks), H heads, T tokens = S prefix tokens, then N cells (patches, or pools of them)

const STYLE = `/* explorer.css */`;
const SUMMARIES = ["mean", "max", "rollout"];
const DIRECTIONS = { from: "What it looks at", to: "Who looks at it" };
const COLOUR_SCALES = {
  times: "times uniform",
  own: "each map to its maximum",
  root: "square root, shows the weak",
  shared: "one range for all maps",
};
const TIMES = 4; // colours of "times uniform" end at 2 ** TIMES times more and less
// How long an answer of the kernel may take; a causal check runs the network, a page packs all of it.
const PATIENCE = { rows: 20, rollout: 20, means: 60, cause: 300, html: 1800 };
const PANELS = {
  grid: "All heads",
  heads: "Reach",
  forward: "From patch to class",
  emergence: "Block by block",
  cause: "Does it matter?",
};
const PANEL_HINTS = {
  grid: "Every head of every block at once",
  heads: "How far and how widely each head looks, in numbers",
  forward: "What the decoder makes of the last tokens, up to the class of this pixel",
  emergence: "Which classes can already be read off each block",
  cause: "Hide the patches that were looked at: does the class change?",
};
const GLOSSARY = {
  patch: "a square of the picture; the network sees nothing smaller",
  block: "one of the equal steps of the network, one after the other; 0 is the first",
  head: "one of the ways of looking that a block has, side by side; mean and maximum are over them",
  rollout: "all blocks up to this one in a single map: an estimate of what a patch is made of",
  uniform: "the same share for every patch, as if nothing were preferred",
  "class token": "a token that stands for no patch",
  nats: "the unit of entropy: 0 is one patch alone, the largest value all of them alike",
  probe: "a simple classifier on the tokens of one block: what it can say, the block knows",
  "before, after": "the scores before and after they are enlarged to the picture's size",
};

export default { render };

function render({ model, el }) {
  const box = document.createElement("div");
  el.append(box);
  const raw = model.get("data");
  const bytes = new Uint8Array(raw.buffer ?? raw, raw.byteOffset ?? 0, raw.byteLength);
  let explorer = null;
  const follow = () => explorer?.follow(model.get("view"));
  start(box, bytes, {
    ask: kernel(model, PATIENCE),
    view: model.get("view"),
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

for (const box of document.querySelectorAll(".setr-explorer[data-payload]:not([data-open])")) {
  const starter = box.nextElementSibling?.outerHTML ?? "";
  const page =
    box.dataset.head +
    box.outerHTML.replace(/ data-(started|open)=""/g, "").replace(/<script[^]*<\/script>/, "") +
    `${starter}</main></body></html>`;
  box.dataset.open = "";
  const bytes = fromBase64(box.dataset.payload);
  start(box, bytes, { page }).catch((error) => {
    console.error("attention explorer:", error); // the still picture stays
  });
}

async function start(box, bytes, options) {
  const parcel = await openParcel(bytes);
  const picture = await Promise.all(
    parcel.header.images.map((image) => decodeJpeg(parcel.array(image.picture))),
  );
  const host = document.createElement("div");
  host.className = "setr-explorer-host";
  // A notebook would take digits, letters and arrows for itself; what saves it goes through.
  host.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
  const explorer = new Explorer(host, parcel, picture, options);
  box.querySelector("img")?.remove();
  box.append(host);
  box.explorer = explorer;
  explorer.begin();
  return explorer;
}

// ---------------------------------------------------------------------------------------- data

function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

async function openParcel(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const forms = {
    u1: Uint8Array,
    i1: Int8Array,
    u2: Uint16Array,
    i2: Int16Array,
    f4: Float32Array,
  };
  const array = (place) => {
    const count = place.shape.reduce((all, side) => all * side, 1);
    return new forms[place.form](buffer, 4 + length + place.at, count);
  };
  return { header, array };
}

async function decodeJpeg(bytes) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
  const image = new Image();
  image.src = url;
  await image.decode();
  URL.revokeObjectURL(url);
  return image;
}

/** Attention from the queries and keys that the page carries. */
class Stored {
  constructor(parcel, image, facts) {
    const { pool, rank, error } = facts.attention;
    Object.assign(this, {
      layers: facts.layers,
      heads: facts.heads,
      prefix: facts.prefix,
      pool,
      error,
    });
    this.grid = image.grid.map((side) => Math.ceil(side / pool));
    this.tokens = this.prefix + this.grid[0] * this.grid[1];
    this.even = evenOver(image.grid, this.prefix, pool);
    this.means = async () => facts.means;
    this.vectors = unpackVectors(
      parcel,
      facts.attention,
      this.layers * this.heads,
      this.tokens,
      rank,
    );
    this.done = null;
    this.stopped = false;
  }

  /** (L,H,T): a row of every map ("from") or a column ("to"). */
  async rows(cell, direction) {
    const { layers, heads, tokens } = this;
    const found = new Float32Array(layers * heads * tokens);
    const asking = this.prefix + cell;
    if (direction === "to") await this.prepare();
    for (let at = 0; at < layers * heads; at++) {
      const row = found.subarray(at * tokens, (at + 1) * tokens);
      if (direction === "from") this.softmaxRow(at, asking, row);
      else this.column(at, asking, row);
    }
    return found;
  }

  /** (L,N): the rollout up to every layer, prefix tokens taken out at the end. */
  async rollout(cell, direction) {
    await this.prepare();
    const { layers, tokens, prefix } = this;
    const count = tokens - prefix;
    const found = new Float32Array(layers * count);
    if (direction === "to") {
      const columns = [prefix + cell, ...Array(prefix).keys()].map((token) => unit(tokens, token));
      for (let layer = 0; layer < layers; layer++) {
        for (const [n, column] of columns.entries()) columns[n] = this.mixColumn(layer, column);
        for (let i = 0; i < count; i++) {
          let others = 0;
          for (let s = 1; s <= prefix; s++) others += columns[s][prefix + i];
          found[layer * count + i] = columns[0][prefix + i] / (1 - others);
        }
      }
      return found;
    }
    for (let last = 0; last < layers; last++) {
      let row = unit(tokens, prefix + cell);
      for (let layer = last; layer >= 0; layer--) row = this.mixRow(layer, row);
      const patches = row.subarray(prefix);
      const total = sum(patches);
      for (let j = 0; j < count; j++) found[last * count + j] = patches[j] / total;
    }
    return found;
  }

  /** Every row's normaliser and every layer's mean over the heads, a little at a time. */
  prepare() {
    this.done ??= this.readAll();
    return this.done;
  }

  async readAll() {
    const { layers, heads, tokens } = this;
    this.norms = new Float64Array(layers * heads * tokens);
    this.meanMaps = Array.from({ length: layers }, () => new Float32Array(tokens * tokens));
    const row = new Float32Array(tokens);
    let since = performance.now();
    for (let at = 0; at < layers * heads; at++) {
      const mean = this.meanMaps[Math.floor(at / heads)];
      for (let i = 0; i < tokens; i++) {
        this.norms[at * tokens + i] = this.softmaxRow(at, i, row);
        for (let j = 0; j < tokens; j++) mean[i * tokens + j] += row[j] / heads;
        if (performance.now() - since > 12) {
          await new Promise((go) => setTimeout(go));
          if (this.stopped) return;
          since = performance.now();
        }
      }
    }
  }

  softmaxRow(at, i, row) {
    const { q, k, rank } = this.vectors[at];
    const tokens = this.tokens;
    let largest = -Infinity;
    for (let j = 0; j < tokens; j++) {
      let dot = 0;
      for (let r = 0, a = i * rank, b = j * rank; r < rank; r++) dot += q[a + r] * k[b + r];
      row[j] = dot;
      if (dot > largest) largest = dot;
    }
    let total = 0;
    for (let j = 0; j < tokens; j++) total += row[j] = Math.exp(row[j] - largest);
    for (let j = 0; j < tokens; j++) row[j] /= total;
    return largest + Math.log(total);
  }

  column(at, j, column) {
    const { q, k, rank } = this.vectors[at];
    for (let i = 0; i < this.tokens; i++) {
      let dot = 0;
      for (let r = 0, a = i * rank, b = j * rank; r < rank; r++) dot += q[a + r] * k[b + r];
      column[i] = Math.exp(dot - this.norms[at * this.tokens + i]);
    }
  }

  mixRow(layer, row) {
    const { tokens } = this;
    const map = this.meanMaps[layer];
    const mixed = new Float64Array(tokens);
    for (let i = 0; i < tokens; i++) {
      const weight = 0.5 * row[i];
      if (weight === 0) continue;
      for (let j = 0, at = i * tokens; j < tokens; j++) mixed[j] += weight * map[at + j];
    }
    for (let j = 0; j < tokens; j++) mixed[j] += 0.5 * row[j];
    return mixed;
  }

  mixColumn(layer, column) {
    const { tokens } = this;
    const map = this.meanMaps[layer];
    const mixed = new Float64Array(tokens);
    for (let i = 0; i < tokens; i++) {
      let total = 0;
      for (let j = 0, at = i * tokens; j < tokens; j++) total += map[at + j] * column[j];
      mixed[i] = 0.5 * total + 0.5 * column[i];
    }
    return mixed;
  }

  stop() {
    this.stopped = true;
  }
}

/** One {q, k, rank} per head, rows of `rank` numbers; q carries both sides' steps. */
function unpackVectors(parcel, packed, count, tokens, rank) {
  const steps = parcel.array(packed.steps);
  const sizes = parcel.array(packed.sizes);
  const body = parcel.array(packed.body);
  const columns = [0, 0, 0, 0, 0];
  for (const size of sizes) columns[size]++;
  const first = [0, 0, 0, 0, 0];
  for (let size = 2; size <= 4; size++)
    first[size] = first[size - 1] + (size - 1) * columns[size - 1] * tokens;
  const seen = [0, 0, 0, 0, 0];
  const found = [];
  for (let at = 0; at < count; at++) {
    let used = 0;
    while (used < rank && steps[at * rank + used] > 0) used++;
    const sides = [new Float32Array(tokens * used), new Float32Array(tokens * used)];
    for (let side = 0; side < 2; side++) {
      for (let r = 0; r < rank; r++) {
        const size = sizes[(at * 2 + side) * rank + r];
        if (size === 0) continue;
        const factor = side === 0 ? steps[at * rank + r] ** 2 : 1;
        for (let i = 0; i < tokens; i++) {
          let whole = 0;
          for (let byte = 0; byte < size; byte++) {
            whole |=
              body[first[size] + (byte * columns[size] + seen[size]) * tokens + i] << (8 * byte);
          }
          const shift = 32 - 8 * size;
          sides[side][i * used + r] = factor * ((whole << shift) >> shift); // the sign
        }
        seen[size]++;
      }
    }
    found.push({ q: sides[0], k: sides[1], rank: used });
  }
  return found;
}

/** Attention from the kernel: one row of every map for every question, nothing kept here. */
class Live {
  constructor(ask, image, facts, place) {
    Object.assign(this, {
      ask,
      place,
      layers: facts.layers,
      heads: facts.heads,
      prefix: facts.prefix,
    });
    Object.assign(this, { pool: 1, error: 0, grid: image.grid, patch: image.patch });
    this.tokens = this.prefix + this.grid[0] * this.grid[1];
    this.even = evenOver(image.grid, this.prefix, 1);
  }

  async numbers(ask, cell, direction) {
    const pixel = [
      Math.floor(cell / this.grid[1]) * this.patch,
      (cell % this.grid[1]) * this.patch,
    ];
    const { buffers } = await this.ask({ ask, pixel, direction, ...this.place });
    const view = buffers[0];
    return new Float32Array(
      (view.buffer ?? view).slice(view.byteOffset ?? 0, (view.byteOffset ?? 0) + view.byteLength),
    );
  }

  rows(cell, direction) {
    return this.numbers("rows", cell, direction);
  }

  rollout(cell, direction) {
    return this.numbers("rollout", cell, direction);
  }

  async means() {
    this.found ??= (await this.ask({ ask: "means", ...this.place })).content.means;
    return this.found;
  }

  prepare() {}
  stop() {}
}

/**
 * Questions to Python and their answers, matched by number. Who gets none within `seconds[ask]` is
 * refused: after a restart of the kernel, and in a page made of a notebook, nobody answers.
 */
function kernel(model, seconds) {
  const open = new Map();
  let last = 0;
  const settle = (id) => {
    const waiting = open.get(id);
    open.delete(id);
    clearTimeout(waiting?.clock);
    return waiting;
  };
  model.on("msg:custom", (content, buffers) => {
    const waiting = settle(content.id);
    if (content.error) waiting?.refuse(Object.assign(new Error(content.error), { answer: true }));
    else waiting?.accept({ content, buffers });
  });
  return (question) =>
    new Promise((accept, refuse) => {
      const id = ++last;
      const limit = seconds[question.ask];
      const late = () => settle(id)?.refuse(new Error(`no answer in ${limit} seconds`));
      open.set(id, { accept, refuse, clock: setTimeout(late, 1000 * limit) });
      const send = async () => model.send({ ...question, id });
      send().catch((error) => settle(id)?.refuse(error));
    });
}

/** (T): attention that is the same for every token, as the cells share it. */
function evenOver([rows, cols], prefix, pool) {
  const wide = Math.ceil(cols / pool);
  const shares = new Float32Array(prefix + Math.ceil(rows / pool) * wide);
  const one = 1 / (prefix + rows * cols);
  shares.fill(one, 0, prefix);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < cols; x++) {
      shares[prefix + Math.floor(y / pool) * wide + Math.floor(x / pool)] += one;
    }
  }
  return shares;
}

function unit(length, at) {
  const vector = new Float64Array(length);
  vector[at] = 1;
  return vector;
}

function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

function largestAt(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

// -------------------------------------------------------------------------------------- explorer

class Explorer {
  constructor(host, parcel, pictures, options) {
    Object.assign(this, { host, parcel, options, header: parcel.header });
    this.shadow = host.attachShadow({ mode: "open" });
    this.shadow.innerHTML = `<style>${STYLE}</style>${skeleton(this.header, options)}`;
    this.at = Object.fromEntries(
      [...this.shadow.querySelectorAll("[data-at]")].map((node) => [node.dataset.at, node]),
    );
    this.photos = pictures.map((picture) => ({ colour: picture, grey: greyOf(picture) }));
    this.palettes = {
      viridis: parcel.array(this.header.viridis),
      difference: parcel.array(this.header.difference),
      times: parcel.array(this.header.times),
    };
    this.state = {
      image: 0,
      model: 0,
      pixel: [0, 0],
      block: 0,
      head: "mean",
      direction: "from",
      scale: "times",
      opacity: 0.75,
      under: "photo",
      panel: "grid",
      reader: null,
      cause: 0,
      chart: "distance",
      over: "patch",
      sort: null,
      ...this.header.view,
      ...options.view,
    };
    this.answered = null; // {image, pixel, direction, now}: what all numbers on the screen are of
    this.read = null; // the pixel whose cell is read off the maps
    this.sources = new Map();
    this.ticket = 0;
  }

  begin() {
    this.listen();
    this.theme = followTheme(this.host, () => this.draw());
    let width = 0;
    this.sizes = new ResizeObserver(([entry]) => {
      if (entry.contentRect.width === width) return; // drawing changes the height
      width = entry.contentRect.width;
      this.draw();
    });
    this.sizes.observe(this.at.card);
    for (const [n, canvas] of [...this.shadow.querySelectorAll("canvas.thumb")].entries()) {
      const picture = this.photos[n].colour;
      Object.assign(canvas, {
        height: 44,
        width: Math.round((44 * picture.naturalWidth) / picture.naturalHeight),
      });
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    }
    this.change({}, false);
  }

  close() {
    this.theme();
    this.sizes.disconnect();
    for (const source of this.sources.values()) source.stop();
  }

  /** The view that Python chose. */
  follow(view) {
    if (JSON.stringify(view) === JSON.stringify(this.view())) return;
    this.change({ ...view }, false);
  }

  view() {
    const { image, model, pixel, direction, block, head } = this.state;
    return { image, model: model === "difference" ? 0 : model, pixel, direction, block, head };
  }

  get image() {
    return this.header.images[(this.answered ?? this.state).image];
  }

  get facts() {
    return this.image.models[this.state.model === "difference" ? 0 : this.state.model];
  }

  /** The numbers on the screen, per network; they belong to `pixel` and `direction`. */
  get now() {
    return this.answered.now;
  }

  get pixel() {
    return this.answered.pixel;
  }

  get direction() {
    return this.answered.direction;
  }

  source(image, model) {
    const name = `${image} ${model}`;
    if (!this.sources.has(name)) {
      const about = this.header.images[image];
      const live = this.options.ask;
      const source = live
        ? new Live(live, about, about.models[model], { image, model })
        : new Stored(this.parcel, about, about.models[model]);
      this.sources.set(name, Object.assign(source, { image }));
    }
    return this.sources.get(name);
  }

  /** Another image: let go of the numbers of the one before. */
  leaveAllBut(image) {
    for (const [name, source] of this.sources) {
      if (source.image === image) continue;
      source.stop();
      this.sources.delete(name);
    }
  }

  change(values, tell = true) {
    const { state } = this;
    Object.assign(state, values);
    const [rows, cols] = this.header.images[state.image].size;
    state.pixel = [Math.min(state.pixel[0], rows - 1), Math.min(state.pixel[1], cols - 1)];
    if (tell) this.tell();
    const question = this.question();
    if (question === this.asked) {
      this.draw();
      if (this.answered?.done) this.announce();
      return;
    }
    this.asked = question;
    this.refresh();
  }

  /** What the numbers depend on: everything else only changes how they are drawn. */
  question() {
    const { image, pixel, direction } = this.state;
    return JSON.stringify({ image, pixel, direction });
  }

  tell() {
    try {
      this.options.tell?.(this.view());
    } catch (error) {
      this.trouble(error);
    }
  }

  /** Ask for the numbers of the chosen patch, then draw; newer questions overtake older ones. */
  async refresh() {
    const ticket = ++this.ticket;
    const { image, pixel, direction } = this.state;
    const about = this.header.images[image];
    this.at.card.ariaBusy = "true";
    try {
      const now = [];
      for (const model of about.models.keys()) {
        const source = this.source(image, model);
        const cell = cellOf(pixel, about, source);
        const rows = await source.rows(cell, direction);
        if (ticket !== this.ticket) return;
        now.push({ source, cell, rows, rollout: null });
      }
      this.leaveAllBut(image);
      this.answered = { image, pixel, direction, now, done: false };
      this.at.trouble.textContent = "";
      this.draw();
      for (const one of now) {
        one.rollout = await one.source.rollout(one.cell, direction);
        if (ticket !== this.ticket) return;
      }
      this.answered.done = true;
      this.draw();
      this.at.card.ariaBusy = "false";
      this.announce();
    } catch (error) {
      if (ticket !== this.ticket) return;
      this.at.card.ariaBusy = "false";
      this.goBack();
      this.trouble(error);
    }
  }

  /** A question without an answer: what is chosen is again what is shown. */
  goBack() {
    this.asked = null; // so that it may be asked again
    if (!this.answered) return;
    const { image, pixel, direction } = this.answered;
    Object.assign(this.state, { image, pixel, direction });
    this.draw();
  }

  trouble(error) {
    console.warn("attention explorer:", error.message);
    this.at.trouble.textContent = error.answer
      ? `Python answered: ${error.message}`
      : `Python does not answer (${error.message}). It may be busy; if it was restarted, or this page was saved, run the cell again. What is shown is what was answered before.`;
  }

  /** (N): one map of one network, or null where there is none (yet). */
  map(model, block, head) {
    if (model === "difference") {
      const [one, two] = [this.map(0, block, head), this.map(1, block, head)];
      return one && two && one.length === two.length ? one.map((value, n) => value - two[n]) : null;
    }
    const now = this.now[model];
    if (!now || block >= now.source.layers) return null;
    const { source, rows, rollout } = now;
    const { heads, tokens, prefix } = source;
    if (head === "rollout") {
      const count = tokens - prefix;
      return rollout && rollout.subarray(block * count, (block + 1) * count);
    }
    const row = this.row(now, block, head);
    return row && row.subarray(prefix);
  }

  /** (T): the same with the prefix tokens; not for the rollout. */
  row({ source, rows }, block, head) {
    const { heads, tokens } = source;
    const one = (h) =>
      rows.subarray((block * heads + h) * tokens, (block * heads + h + 1) * tokens);
    if (typeof head === "number") return head < heads ? one(head) : null;
    const found = Float32Array.from(one(0));
    for (let h = 1; h < heads; h++) {
      const other = one(h);
      for (let i = 0; i < tokens; i++)
        found[i] = head === "max" ? Math.max(found[i], other[i]) : found[i] + other[i];
    }
    return head === "max" ? found : found.map((value) => value / heads);
  }

  /** Entropy, distance, share inside the object and on prefix tokens, of one row (T). */
  measure(source, cell, row, direction) {
    const patches = row.subarray(source.prefix);
    const total = sum(patches);
    let entropy = 0;
    for (const value of row) if (value > 0) entropy -= value * Math.log(value);
    const [rows, cols] = source.grid;
    const side = this.image.patch * source.pool;
    const [y, x] = [Math.floor(cell / cols), cell % cols];
    let distance = 0;
    for (let i = 0; i < patches.length; i++) {
      distance +=
        (patches[i] / total) * side * Math.hypot(Math.floor(i / cols) - y, (i % cols) - x);
    }
    let inside = null;
    const region = this.region(source, cell);
    if (region) {
      inside = 0;
      for (let i = 0; i < patches.length; i++) if (region[i]) inside += patches[i] / total;
    }
    const prefix = sum(row.subarray(0, source.prefix));
    return direction === "from"
      ? { entropy, distance, inside, prefix }
      : { entropy: null, distance, inside, prefix: null };
  }

  /** The class of the asking cell, its commonest one: the same in words and numbers. */
  className({ source, cell }) {
    const kind = this.cellClasses(source)?.[cell];
    return this.header.label_classes[kind]?.name ?? null;
  }

  /** (N) 0/1: the cells whose commonest true class is that of this cell; null without a label. */
  region(source, cell) {
    const classes = this.cellClasses(source);
    if (!classes || classes[cell] === 255) return null;
    return classes.map((kind) => (kind === classes[cell] ? 1 : 0));
  }

  cellClasses(source) {
    if (!this.image.label) return null;
    const key = `${source.grid}`;
    this.image.cells ??= {};
    this.image.cells[key] ??= commonest(
      this.parcel.array(this.image.label),
      this.image.size,
      source.grid,
      this.image.patch * source.pool,
    );
    return this.image.cells[key];
  }

  /** What attention spread evenly over all tokens would have. */
  uniform(source, cell) {
    const { even, prefix } = source;
    const { entropy } = this.measure(source, cell, even, "from");
    // Who looks at a cell: every cell spends the same share on it, whatever its own size.
    const row = this.direction === "from" ? even : even.map(() => even[prefix + cell]);
    return { ...this.measure(source, cell, row, "from"), entropy };
  }

  /** All numbers behind the present picture: what the npz holds. */
  numbers(model = 0) {
    const { source, cell, rows, rollout } = this.now[model];
    const { layers, heads, tokens, prefix, grid } = source;
    const per = { entropy: [], distance: [], inside: [] };
    for (let block = 0; block < layers; block++) {
      for (let head = 0; head < heads; head++) {
        const row = this.row(this.now[model], block, head);
        const found = this.measure(source, cell, row, this.direction);
        for (const name of Object.keys(per)) per[name].push(found[name] ?? NaN);
      }
    }
    const found = {
      rows: { data: rows, shape: [layers, heads, tokens] },
      entropy: { data: Float32Array.from(per.entropy), shape: [layers, heads] },
      distance: { data: Float32Array.from(per.distance), shape: [layers, heads] },
      inside: { data: Float32Array.from(per.inside), shape: [layers, heads] },
      pixel: { data: Int32Array.from(this.pixel), shape: [2] },
      grid: { data: Int32Array.from(grid), shape: [2] },
      prefix_tokens: { data: Int32Array.of(prefix), shape: [] },
      patches_per_cell_side: { data: Int32Array.of(source.pool), shape: [] },
      looks_at: { data: Uint8Array.of(this.direction === "from" ? 1 : 0), shape: [] },
    };
    if (rollout) found.rollout = { data: rollout, shape: [layers, tokens - prefix] };
    return found;
  }

  // ------------------------------------------------------------------------------------ hands

  listen() {
    const { at, shadow } = this;
    for (const screen of [at.picture, ...shadow.querySelectorAll(".map .screen")]) {
      screen.addEventListener("pointerdown", (event) => {
        const pixel = this.pixelAt(screen, event);
        screen.focus({ preventScroll: true });
        if (pixel && screen === at.picture) this.change({ pixel });
        else this.readAt(pixel);
      });
      screen.addEventListener("pointermove", (event) => {
        if (event.pointerType === "mouse") this.readAt(this.pixelAt(screen, event));
      });
      screen.addEventListener("pointerleave", (event) => {
        if (event.pointerType === "mouse") this.readAt(null);
      });
    }
    shadow.addEventListener("keydown", (event) => this.key(event));
    shadow.addEventListener("click", (event) => {
      const button = event.target.closest?.("[data-do]");
      if (!button) return;
      const { do: what, value } = button.dataset;
      this.press(what, value, button);
    });
    for (const name of [
      "block",
      "head",
      "opacity",
      "scale",
      "under",
      "reader",
      "cause",
      "chart",
      "over",
    ]) {
      at[name]?.addEventListener("input", () => this.set(name, at[name].value));
    }
    at.grid.addEventListener("click", (event) => {
      const found = this.gridCell(event);
      if (found) this.change(found);
    });
    at.grid.addEventListener("pointermove", (event) => {
      const found = this.gridCell(event);
      at.grid.title = found ? `block ${found.block}, ${headName(found.head)}` : "";
      at.grid.style.cursor = found ? "pointer" : "default";
    });
    at.headChart.addEventListener("click", (event) => {
      const found = this.dots && nearest(this.dots, event, at.headChart);
      if (found) this.change({ block: found.block, head: found.head });
    });
    at.emergenceChart?.addEventListener("click", (event) => {
      const found = nearest(this.steps ?? [], event, at.emergenceChart);
      if (found) this.change({ block: found.block, reader: found.reader });
    });
    shadow.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
      const names = [...shadow.querySelectorAll("[role=tab]")].map((tab) => tab.dataset.value);
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.stopPropagation();
      const next = names[(names.indexOf(this.state.panel) + step + names.length) % names.length];
      this.press("panel", next);
      shadow.querySelector(`[role=tab][data-value=${next}]`).focus();
    });
  }

  set(name, value) {
    const numbers = ["block", "opacity", "cause"];
    if (name === "head" && !SUMMARIES.includes(value)) value = Number(value);
    this.change({ [name]: numbers.includes(name) ? Number(value) : value });
  }

  press(what, value, button) {
    if (what === "direction") this.change({ direction: value });
    else if (what === "model")
      this.change({ model: value === "difference" ? value : Number(value) });
    else if (what === "image") this.change({ image: Number(value) });
    else if (what === "select")
      this.change({ block: Number(button.dataset.block), head: Number(button.dataset.head) });
    else if (what === "sort") this.sortBy(value);
    else if (what === "png") this.savePng(button.closest("[data-panel]") ?? this.at.card, value);
    else if (what === "npz") this.saveNumbers();
    else if (what === "html") this.savePage();
    else if (what === "check") this.checkCause();
    else if (what === "play") this.play();
    else if (what === "panel") {
      this.state.panel = value;
      this.draw();
    }
  }

  sortBy(column) {
    const down = this.state.sort?.column === column ? !this.state.sort.down : false;
    this.state.sort = { column, down };
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const tag = event.target.tagName;
    const typing = tag === "SELECT" || (tag === "INPUT" && event.target.type !== "range");
    const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const onMap = event.target.classList?.contains("screen");
    if (typing || (event.key in arrows && !onMap)) return;
    if (event.key in arrows && event.shiftKey) this.moveReading(...arrows[event.key]);
    else if (event.key in arrows) this.move(...arrows[event.key]);
    else if (event.key >= "0" && event.key <= "9" && event.key.length === 1)
      this.typeBlock(event.key);
    else if (event.key === "[" || event.key === "]") this.nextHead(event.key === "]" ? 1 : -1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  move(down, right) {
    const image = this.header.images[this.state.image];
    this.change({ pixel: this.beside(this.state.pixel, image, down, right) });
  }

  /** Shift and an arrow: walk over the maps and read them, as the mouse does. */
  moveReading(down, right) {
    if (!this.answered) return;
    this.readAt(this.beside(this.read ?? this.pixel, this.image, down, right));
    this.announce(this.reading(this.state.model));
  }

  /** The middle of the next patch or cell, within the image. */
  beside([row, col], { patch, grid, size }, down, right) {
    const step = this.answered?.now[0].source.pool ?? 1;
    const middle = (index, count, side) => {
      const kept = Math.max(0, Math.min(count - 1, index));
      return Math.min(side - 1, kept * patch + (patch >> 1));
    };
    const y = Math.floor(row / patch) + down * step;
    const x = Math.floor(col / patch) + right * step;
    return [middle(y, grid[0], size[0]), middle(x, grid[1], size[1])];
  }

  /** Read the cell of a pixel off every map; who asks stays who asks. */
  readAt(pixel) {
    if (!this.answered) return;
    const cell = (one) => one && cellOf(one, this.image, this.now[0].source);
    const before = cell(this.read);
    this.read = pixel;
    if (cell(pixel) !== before) this.drawTiles();
  }

  /** Digits choose a block; two within a second make one number. */
  typeBlock(digit) {
    const now = performance.now();
    const typed = now - (this.typedAt ?? -1e9) < 1000 ? this.typed + digit : digit;
    const { layers } = this.facts;
    this.typed = Number(typed) < layers ? typed : digit;
    this.typedAt = now;
    if (Number(this.typed) < layers) this.change({ block: Number(this.typed) });
  }

  nextHead(step) {
    const all = [...SUMMARIES, ...Array(this.facts.heads).keys()];
    const now = all.indexOf(this.state.head);
    this.change({ head: all[(now + step + all.length) % all.length] });
  }

  pixelAt(screen, event) {
    const box = screen.getBoundingClientRect();
    const [rows, cols] = this.image.size;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const col = Math.floor(((event.clientX - box.left) / box.width) * cols);
    return row >= 0 && row < rows && col >= 0 && col < cols ? [row, col] : null;
  }

  gridCell(event) {
    const place = this.gridPlace;
    if (!place) return null;
    const box = this.at.grid.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - place.left) / place.stepX);
    const line = Math.floor((event.clientY - box.top - place.top) / place.stepY);
    const head = [...SUMMARIES, ...Array(place.heads).keys()][line];
    return column >= 0 && column < place.layers && head !== undefined
      ? { block: column, head }
      : null;
  }

  // ----------------------------------------------------------------------------------- picture

  draw() {
    if (!this.answered || !this.at.card.clientWidth) return;
    const { at, state, shadow } = this;
    this.ranges = this.sharedRanges();
    for (const button of shadow.querySelectorAll("[data-do][aria-pressed]")) {
      const { do: what, value } = button.dataset;
      button.setAttribute("aria-pressed", String(String(state[what]) === value));
    }
    at.block.max = this.facts.layers - 1;
    at.block.value = state.block;
    at.blockOut.textContent = `${state.block} of 0–${this.facts.layers - 1}`;
    fillHeads(at.head, this.facts.heads);
    at.head.value = String(state.head);
    at.opacity.value = state.opacity;
    at.scale.value = state.scale;
    this.drawTiles();
    at.words.textContent = this.words();
    for (const name of Object.keys(PANELS)) {
      const tab = shadow.querySelector(`[role=tab][data-value=${name}]`);
      tab.setAttribute("aria-selected", String(state.panel === name));
      tab.tabIndex = state.panel === name ? 0 : -1;
      shadow.querySelector(`[data-panel=${name}]`).hidden = state.panel !== name;
    }
    const panels = {
      grid: () => this.drawGrid(),
      heads: () => this.drawHeads(),
      forward: () => this.drawForward(),
      emergence: () => this.drawEmergence(),
      cause: () => this.drawCause(),
    };
    panels[state.panel]();
  }

  drawTiles() {
    this.drawPicture();
    for (const tile of this.shadow.querySelectorAll(".map")) this.drawMap(tile);
  }

  /**
   * "One range": the largest value of all heads and blocks of all networks. No mean, maximum or
   * difference of them is larger. Rollouts, another kind of number, have one of their own.
   */
  sharedRanges() {
    if (this.state.scale !== "shared") return null;
    const found = { maps: 1e-12, rollouts: 1e-12 };
    for (const { source, rows, rollout } of this.now) {
      for (let i = 0; i < rows.length; i++)
        if (i % source.tokens >= source.prefix) found.maps = Math.max(found.maps, rows[i]);
      for (const value of rollout ?? []) found.rollouts = Math.max(found.rollouts, value);
    }
    return found;
  }

  drawPicture() {
    const { at, state } = this;
    const canvas = at.picture.querySelector("canvas");
    const context = surface(canvas, this.image.size);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    context.drawImage(this.photo(state.under === "photo"), 0, 0, width, height);
    const classes = {
      predicted: this.facts.predicted,
      truth: this.image.label,
      wrong: this.facts.predicted,
    }[state.under];
    if (classes) {
      context.globalAlpha = state.under === "wrong" ? 1 : 0.7;
      context.imageSmoothingEnabled = false;
      context.drawImage(this.classPicture(classes, state.under), 0, 0, width, height);
      context.globalAlpha = 1;
    }
    this.drawPatchLines(context, width, height);
    this.drawCursor(context, width, height, this.pixel, true);
    this.drawReading(context, width, height);
    const [row, col] = this.placeOf(this.pixel);
    const unit = this.unit();
    at.picture.setAttribute(
      "aria-label",
      `Picture. The ${unit} in row ${row}, column ${col} asks. Arrow keys move it, with Shift they read the maps.`,
    );
    const truth = this.className(this.now[0]);
    at.pictureName.textContent = `${unit === "cell" ? "Cell" : "Patch"} (${row}, ${col})${truth ? ` · ${truth}` : ""}`;
    at.pictureHint.textContent = "A click asks, pointing reads; arrow keys work too.";
    for (const option of at.under.options) {
      option.hidden = option.disabled =
        { truth: !this.image.label, wrong: !this.image.judged }[option.value] ?? false;
    }
    at.under.value = state.under;
    at.legend.replaceChildren(...(classes ? this.legend(classes, state.under) : []));
  }

  /** The commonest classes of a map with their colours. */
  legend(place, kind) {
    if (kind === "wrong") return [swatch([200, 30, 30], "wrongly classified pixels")];
    const table = kind === "truth" ? this.header.label_classes : this.header.classes;
    const map = this.parcel.array(place);
    const counts = new Map();
    for (const kind of map) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    const kinds = [...counts.keys()]
      .filter((kind) => kind < table.length)
      .sort((a, b) => counts.get(b) - counts.get(a));
    return kinds.slice(0, 12).map((kind) => swatch(table[kind].colour, table[kind].name));
  }

  photo(colour) {
    const { colour: picture, grey } = this.photos[this.state.image];
    return colour ? picture : grey;
  }

  /** A class map (H,W) as a small canvas; "wrong": only pixels that differ from the truth, in red. */
  classPicture(place, kind) {
    const [rows, cols] = this.image.size;
    const classes = this.parcel.array(place);
    const table = kind === "truth" ? this.header.label_classes : this.header.classes;
    const truth = kind === "wrong" ? this.parcel.array(this.image.label) : null;
    return paint(rows, cols, (i) => {
      if (truth)
        return truth[i] !== 255 && truth[i] !== classes[i] ? [200, 30, 30, 255] : [0, 0, 0, 0];
      const entry = table[classes[i]];
      return entry ? [...entry.colour, 255] : [255, 255, 255, 255];
    });
  }

  drawPatchLines(context, width, height) {
    const { size, grid, patch } = this.image;
    const side = (patch / size[1]) * width;
    if (side < 5) return;
    context.strokeStyle = "rgba(255,255,255,.22)";
    context.lineWidth = 0.5;
    context.beginPath();
    for (let x = 1; x < grid[1]; x++) line(context, x * side, 0, x * side, height);
    for (let y = 1; y < grid[0]; y++) line(context, 0, y * side, width, y * side);
    context.stroke();
  }

  /** The frame of the cell that asks; `dot`: the pixel itself too. */
  drawCursor(context, width, height, asking, dot = false) {
    const { size, patch } = this.image;
    const pool = this.now[0].source.pool;
    const scale = width / size[1];
    const frame = (pixel, colours) => {
      const [row, col] = this.patchOf(pixel).map((index) => Math.floor(index / pool) * pool);
      const box = [
        col * patch * scale,
        row * patch * scale,
        patch * pool * scale,
        patch * pool * scale,
      ];
      for (const [colour, line, grow] of colours) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.strokeRect(box[0] - grow, box[1] - grow, box[2] + 2 * grow, box[3] + 2 * grow);
      }
    };
    const strong = width > 120;
    frame(
      asking,
      strong
        ? [
            ["rgba(0,0,0,.75)", 4, 1],
            ["#fff", 2, 1],
          ]
        : [
            ["rgba(0,0,0,.6)", 2.4, 0.5],
            ["#fff", 1.2, 0.5],
          ],
    );
    if (dot) {
      const [y, x] = [(asking[0] + 0.5) * (height / size[0]), (asking[1] + 0.5) * scale];
      context.fillStyle = "#fff";
      context.strokeStyle = "#000";
      context.lineWidth = 1;
      context.beginPath();
      context.arc(x, y, 2.5, 0, 7);
      context.fill();
      context.stroke();
    }
  }

  /** A line from the cell that asks to the one that is read. */
  drawReading(context, width, height) {
    if (!this.read) return;
    const { patch, size } = this.image;
    const side = patch * this.now[0].source.pool;
    const [down, right] = [height / size[0], width / size[1]];
    const corner = (pixel) => pixel.map((at) => Math.floor(at / side) * side);
    const [from, to] = [corner(this.pixel), corner(this.read)];
    const middle = ([y, x]) => [(x + side / 2) * right, (y + side / 2) * down];
    for (const [colour, thick] of [
      ["rgba(0,0,0,.7)", 3.5],
      ["#fff", 1.5],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = thick;
      context.beginPath();
      line(context, ...middle(from), ...middle(to));
      context.rect(to[1] * right, to[0] * down, side * right, side * down);
      context.stroke();
    }
  }

  /** The value of the cell that is read, in words; empty where none is. */
  reading(model) {
    const map = this.read && this.map(model, this.state.block, this.state.head);
    if (!map) return "";
    const { source } = this.now[model === "difference" ? 0 : model];
    const cell = cellOf(this.read, this.image, source);
    const [row, col] = this.placeOf(this.read);
    const value = map[cell];
    const where = `row ${row}, column ${col}: `;
    if (model === "difference") return `${where}${value < 0 ? "−" : "+"}${percent(Math.abs(value))}`;
    const even = this.evenAt(source, this.state.head, cell);
    return `${where}${percent(value)}, ${times(value / even)} uniform`;
  }

  drawMap(tile) {
    const model = tile.dataset.model === "difference" ? "difference" : Number(tile.dataset.model);
    const { state } = this;
    const several = this.image.models.length > 1;
    const map = this.map(model, state.block, state.head);
    const name = several ? `${this.modelName(model)} · ` : "";
    const part = (what) => tile.querySelector(`[data-part=${what}]`);
    part("name").textContent = `${name}block ${state.block} · ${shortName(state.head)}`;
    tile.classList.toggle("chosen", several && model === state.model);
    const canvas = tile.querySelector("canvas");
    const context = surface(canvas, this.image.size);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    context.drawImage(this.photo(false), 0, 0, width, height);
    part("low").textContent = part("high").textContent = part("even").textContent = "";
    part("mark").hidden = true;
    if (!map) {
      tile.dataset.state = state.head === "rollout" ? "computing" : "none";
      part("high").textContent =
        state.head === "rollout" ? "computing the rollout …" : "no such block or head in both";
      this.drawCursor(context, width, height, this.pixel);
      return;
    }
    tile.dataset.state = "shown";
    const colours = this.colouring(map, model, state.head);
    this.drawValues(context, colours, model, 0, 0, width, height, state.opacity);
    this.drawCursor(context, width, height, this.pixel);
    this.drawReading(context, width, height);
    const difference = model === "difference";
    const best = largestAt(difference ? map.map(Math.abs) : map);
    part("low").textContent = colours.low;
    part("high").textContent = colours.high;
    part("bar").style.background = gradient(colours.palette);
    if (colours.even <= 1) {
      part("mark").hidden = false;
      part("mark").style.left = `${100 * colours.even}%`;
    }
    if (this.read) part("even").textContent = this.reading(model);
    else if (difference)
      part("even").textContent =
        `orange: more in “${this.header.names[0]}”, purple: more in “${this.header.names[1]}”`;
    else {
      const even = this.evenAt(this.now[model].source, state.head, best);
      part("even").textContent =
        `uniform ${percent(even)}, largest ${percent(map[best])} (${times(map[best] / even)})`;
    }
    const cols = this.now[0].source.grid[1];
    const text = `${difference ? "largest difference" : "largest"} ${percent(map[best])} in row ${Math.floor(best / cols)}, column ${best % cols}`;
    tile
      .querySelector(".screen")
      .setAttribute(
        "aria-label",
        `${part("name").textContent}: ${text}. Arrow keys move who asks, with Shift they read the map.`,
      );
  }

  /**
   * Uniform attention on one cell, or of one cell on the asking one; in the rollout the prefix
   * tokens have been taken out.
   */
  evenAt(source, head, cell) {
    const { even, prefix } = source;
    const whole = head === "rollout" ? 1 - sum(even.subarray(0, prefix)) : 1;
    const key = this.direction === "from" ? cell : cellOf(this.pixel, this.image, source);
    return even[prefix + key] / whole;
  }

  /** How the numbers of a map become colours: `share(i)` 0 to 1 along the palette, and its ends. */
  colouring(map, model, head) {
    const { scale } = this.state;
    const { source } = this.now[model === "difference" ? 0 : model];
    if (model !== "difference" && scale === "times") {
      const share = (i) => {
        const log = Math.log2(map[i] / this.evenAt(source, head, i));
        return 0.5 + 0.5 * Math.max(-1, Math.min(1, log / TIMES));
      };
      const end = 2 ** TIMES;
      const [low, high] = [`1⁄${end} × or less`, `${end} × or more`];
      return { share, palette: this.palettes.times, low, high, even: 0.5 };
    }
    const range = this.range(map, head);
    const squash = scale === "root" ? Math.sqrt : (share) => share;
    const size = (value) => squash(Math.min(1, Math.abs(value) / range));
    if (model === "difference") {
      const share = (i) => 0.5 + 0.5 * Math.sign(map[i]) * size(map[i]);
      const [low, high] = [`−${percent(range)}`, `+${percent(range)}`];
      return { share, palette: this.palettes.difference, low, high, even: 2 };
    }
    const even = this.evenAt(source, head, 0) / range;
    return {
      share: (i) => size(map[i]),
      palette: this.palettes.viridis,
      low: "0",
      high: percent(range),
      even: even <= 1 ? squash(even) : 2, // 2: beyond the bar
    };
  }

  range(map, head) {
    if (this.ranges) return head === "rollout" ? this.ranges.rollouts : this.ranges.maps;
    let largest = 1e-12;
    for (const value of map) largest = Math.max(largest, Math.abs(value));
    return largest;
  }

  /** A map over the grey picture, cut where the last patches are padding. */
  drawValues(context, { share, palette }, model, left, top, width, height, opacity) {
    const { source } = this.now[model === "difference" ? 0 : model];
    const [rows, cols] = source.grid;
    const small = paint(rows, cols, (i) => {
      const at = 3 * Math.round(255 * share(i));
      return [palette[at], palette[at + 1], palette[at + 2], 255];
    });
    const side = this.image.patch * source.pool;
    const [seenRows, seenCols] = this.image.size.map((pixels) => pixels / side);
    context.save();
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = width < cols;
    context.drawImage(small, 0, 0, seenCols, seenRows, left, top, width, height);
    context.restore();
  }

  modelName(model) {
    const names = this.header.names;
    return model === "difference" ? "difference" : names[model];
  }

  patchOf([row, col]) {
    return [Math.floor(row / this.image.patch), Math.floor(col / this.image.patch)];
  }

  /** Row and column as the maps count them: of the cell, which may hold several patches. */
  placeOf(pixel) {
    return this.patchOf(pixel).map((index) => Math.floor(index / this.now[0].source.pool));
  }

  unit() {
    return this.now[0].source.pool > 1 ? "cell" : "patch";
  }

  // ------------------------------------------------------------------------------------- words

  /** What is shown, as a sentence: for readers who cannot see the map, and for all others. */
  words() {
    const { state, image } = this;
    const [row, col] = this.placeOf(this.pixel);
    const { model } = state;
    const map = this.map(model, state.block, state.head);
    const where = `Block ${state.block}, ${headName(state.head)}${image.models.length > 1 ? `, ${this.modelName(model)}` : ""}`;
    const truth = this.className(this.now[0]);
    const patch = `the ${this.unit()} in row ${row}, column ${col}${truth ? ` (${truth})` : ""}`;
    if (!map)
      return `${where}: ${state.head === "rollout" ? "computing the rollout" : "not in both networks"}.`;
    const { source, cell } = this.now[model === "difference" ? 0 : model];
    const place = (n) => `row ${Math.floor(n / source.grid[1])}, column ${n % source.grid[1]}`;
    const pooled =
      source.pool > 1
        ? ` Each cell stands for ${source.pool}×${source.pool} patches; rows and columns are those of cells, and the rollout multiplies the maps of cells.`
        : "";
    if (model === "difference") {
      const best = largestAt(map.map(Math.abs));
      const [more, less] = map[best] > 0 ? [0, 1] : [1, 0];
      const verb = this.direction === "from" ? "looks at" : "is looked at by";
      return `${where}: ${patch} ${verb} ${place(best)} with ${percent(Math.abs(map[best]))} more in “${this.header.names[more]}” than in “${this.header.names[less]}”: the largest difference.${pooled}`;
    }
    const best = largestAt(map);
    if (state.head === "rollout") {
      const verb = this.direction === "from" ? "is made most of" : "goes most into";
      return `Rollout of blocks 0 to ${state.block}${image.models.length > 1 ? `, ${this.modelName(model)}` : ""}: ${patch} ${verb} ${place(best)} (${percent(map[best])}).${pooled}`;
    }
    const even = this.evenAt(source, state.head, best);
    const found = this.measure(
      source,
      cell,
      this.row(this.now[model], state.block, state.head),
      this.direction,
    );
    const plain = this.uniform(source, cell);
    const most = `${percent(map[best])}, ${times(map[best] / even)} uniform`;
    const parts = [];
    if (this.direction === "from") parts.push(`looks most at ${place(best)} (${most})`);
    else parts.push(`is looked at most by ${place(best)} (which spends ${most})`);
    if (state.head !== "max")
      parts.push(
        `${found.distance.toFixed(0)} px away on average (uniform: ${plain.distance.toFixed(0)} px)`,
      );
    if (found.inside !== null && state.head !== "max") {
      parts.push(
        `${percent(found.inside)} ${this.direction === "from" ? "of it on" : "of it from"} patches of the same class (which cover ${percent(plain.inside)})`,
      );
    }
    if (found.prefix && state.head !== "max")
      parts.push(
        `${percent(found.prefix)} on the ${source.prefix > 1 ? `${source.prefix} prefix tokens` : "class token"}`,
      );
    return `${where}: ${patch} ${parts.join("; ")}.${pooled}`;
  }

  /** Read the sentence out, once the reader stays. */
  announce(text = this.words()) {
    clearTimeout(this.speech);
    this.speech = setTimeout(() => {
      this.at.spoken.textContent = text;
    }, 400);
  }

  labelAt([row, col]) {
    if (!this.image.label) return null;
    const kind = this.parcel.array(this.image.label)[row * this.image.size[1] + col];
    return this.header.label_classes[kind]?.name ?? null;
  }

  // -------------------------------------------------------------------------------------- grid

  drawGrid() {
    const { at, state } = this;
    const { layers, heads } = this.facts;
    const names = [...SUMMARIES, ...Array(heads).keys()];
    const [left, top, gap] = [58, 18, 3];
    const room = at.grid.parentElement.clientWidth;
    const wide = Math.max(heads > 8 ? 24 : 36, (room - left) / layers - gap);
    const width = Math.min(wide, 110);
    const height = Math.max(14, (width * this.image.size[0]) / this.image.size[1]);
    const [stepX, stepY] = [width + gap, height + gap];
    at.grid.style.width = `${left + layers * stepX}px`;
    const context = surface(at.grid, [top + names.length * stepY, left + layers * stepX]);
    const style = getComputedStyle(this.at.card);
    context.font = `11px ${style.fontFamily}`;
    context.textBaseline = "middle";
    const [ink, pale] = [style.getPropertyValue("--ink"), style.getPropertyValue("--pale")];
    context.textAlign = "center";
    for (let block = 0; block < layers; block++) {
      context.fillStyle = block === state.block ? ink : pale;
      context.fillText(String(block), left + block * stepX + width / 2, top / 2);
    }
    context.textAlign = "left";
    context.fillStyle = pale;
    context.fillText("block", 0, top / 2);
    for (const [n, head] of names.entries()) {
      const y = top + n * stepY;
      context.fillStyle = head === state.head ? ink : pale;
      context.textAlign = "left";
      context.fillText(shortName(head), 0, y + height / 2);
      for (let block = 0; block < layers; block++) {
        const x = left + block * stepX;
        const map = this.map(state.model, block, head);
        context.save();
        context.beginPath();
        context.rect(x, y, width, height);
        context.clip();
        context.drawImage(this.photo(false), x, y, width, height);
        if (map)
          this.drawValues(
            context,
            this.colouring(map, state.model, head),
            state.model,
            x,
            y,
            width,
            height,
            Math.max(0.85, state.opacity),
          );
        context.translate(x, y);
        this.drawCursor(context, width, height, this.pixel);
        context.restore();
        if (block === state.block && head === state.head) {
          context.strokeStyle = style.getPropertyValue("--accent");
          context.lineWidth = 2.5;
          context.strokeRect(x - 1.25, y - 1.25, width + 2.5, height + 2.5);
        }
      }
    }
    this.gridPlace = { left, top, stepX, stepY, layers, heads };
    at.grid.setAttribute(
      "aria-label",
      `${layers} blocks by ${heads} heads, mean, maximum and rollout: choose with the controls above, digits and brackets; the numbers are in the panel “${PANELS.heads}”.`,
    );
  }

  // ------------------------------------------------------------------------------------- heads

  async drawHeads() {
    const { at, state } = this;
    const model = state.model === "difference" ? 0 : state.model;
    const now = this.now[model];
    const { source, cell } = now;
    const { layers, heads } = source;
    const ticket = this.ticket;
    at.headsNote.textContent =
      state.model === "difference" ? `Numbers of ${this.modelName(0)}.` : "";
    at.over.value = state.over;
    for (const option of at.chart.options)
      option.hidden = option.value === "inside" && !this.image.label;
    at.chart.value = state.chart;
    const plain = this.uniform(source, cell);
    let rows = [];
    if (state.over === "all") {
      const means = await source.means();
      if (ticket !== this.ticket) return;
      plain.distance = means.uniform_distance;
      plain.inside = null;
      for (let block = 0; block < layers; block++) {
        for (let head = 0; head < heads; head++) {
          const of = (name) => means[name]?.[block][head] ?? null;
          rows.push({
            block,
            head,
            entropy: of("entropy"),
            distance: of("distance"),
            inside: of("inside"),
          });
        }
      }
    } else {
      for (let block = 0; block < layers; block++) {
        for (let head = 0; head < heads; head++) {
          rows.push({
            block,
            head,
            ...this.measure(source, cell, this.row(now, block, head), this.direction),
          });
        }
      }
    }
    this.headRows = rows;
    this.drawHeadChart(rows, plain);
    if (state.sort) {
      const { column, down } = state.sort;
      const key = (row) => (column === "head" ? row.block * heads + row.head : (row[column] ?? -1));
      rows = [...rows].sort((a, b) => (down ? key(b) - key(a) : key(a) - key(b)));
    }
    const cells = (row) =>
      ["entropy", "distance", "inside"]
        .filter((name) => name !== "inside" || this.image.label)
        .map((name) => `<td>${formatOf(name)(row[name])}</td>`)
        .join("");
    const chosen = (row) => row.block === state.block && row.head === state.head;
    at.headRows.innerHTML =
      `<tr class="even"><th scope="row">uniform</th>${cells(plain)}</tr>` +
      rows
        .map(
          (row) =>
            `<tr${chosen(row) ? ' class="chosen" aria-current="true"' : ""}><th scope="row"><button data-do="select" data-block="${row.block}" data-head="${row.head}">block ${row.block}, head ${row.head}</button></th>${cells(row)}</tr>`,
        )
        .join("");
    for (const header of this.shadow.querySelectorAll("[data-sort]")) {
      const name = header.dataset.sort;
      header.hidden = name === "inside" && !this.image.label;
      header.setAttribute(
        "aria-sort",
        state.sort?.column === name ? (state.sort.down ? "descending" : "ascending") : "none",
      );
    }
  }

  drawHeadChart(rows, plain) {
    const name = this.state.chart;
    const values = rows.map((row) => row[name]).filter((value) => value !== null);
    const even = plain[name];
    const shown = {
      distance: "mean distance, px",
      entropy: "entropy, nats",
      inside: "share inside the class",
    }[name];
    const limit = name === "inside" ? 1 : Math.max(even ?? 0, ...values, 1e-9) * 1.08;
    const chart = new Chart(this.at.headChart, this.at.card, {
      columns: this.facts.layers,
      limit,
      title: shown,
      percent: name === "inside",
    });
    if (even !== null && even !== undefined) chart.level(even, "uniform");
    const means = [];
    for (let block = 0; block < this.facts.layers; block++) {
      const some = rows
        .filter((row) => row.block === block && row[name] !== null)
        .map((row) => row[name]);
      if (some.length) means.push([block, sum(some) / some.length]);
    }
    chart.line(means);
    this.dots = rows
      .filter((row) => row[name] !== null)
      .map((row) => ({
        ...chart.dot(
          row.block,
          row[name],
          row.block === this.state.block && row.head === this.state.head,
        ),
        block: row.block,
        head: row.head,
      }));
    this.at.headChart.setAttribute(
      "aria-label",
      `${shown} of every head against the block, with the value of uniform attention; the same numbers are in the table.`,
    );
  }

  // ----------------------------------------------------------------------------------- forward

  drawForward() {
    const { at, facts, image } = this;
    const [row, col] = this.pixel;
    const stages = facts.stages.map((stage) => ({
      ...stage,
      colours: this.parcel.array(stage.colours),
      shape: stage.colours.shape,
    }));
    const of = `${this.answered.image} ${this.state.model}`;
    if (at.stages.dataset.of !== of) {
      at.stages.dataset.of = of;
      at.stages.innerHTML =
        stages
          .map(
            (stage) =>
              `<figure><canvas></canvas><figcaption><b></b><br><span></span></figcaption></figure>`,
          )
          .join("") +
        `<figure><canvas></canvas><figcaption><b>classes</b><br><span>${image.size[0]}×${image.size[1]}</span></figcaption></figure>`;
    }
    const figures = [...at.stages.children];
    const draw = (figure, small) => {
      const canvas = figure.querySelector("canvas");
      const context = surface(canvas, image.size);
      context.imageSmoothingEnabled = false;
      context.drawImage(
        small.picture,
        0,
        0,
        small.seen[1],
        small.seen[0],
        0,
        0,
        canvas.clientWidth,
        canvas.clientHeight,
      );
      const x = ((col + 0.5) / image.size[1]) * canvas.clientWidth;
      const y = ((row + 0.5) / image.size[0]) * canvas.clientHeight;
      context.lineWidth = 3;
      for (const [colour, thick] of [
        ["#000", 3.5],
        ["#fff", 1.5],
      ]) {
        context.strokeStyle = colour;
        context.lineWidth = thick;
        context.beginPath();
        context.arc(x, y, 5, 0, 7);
        context.stroke();
      }
    };
    const covers = facts.scores.covers;
    for (const [n, stage] of stages.entries()) {
      const [rows, cols] = stage.shape;
      const picture = paint(rows, cols, (i) => [
        stage.colours[3 * i],
        stage.colours[3 * i + 1],
        stage.colours[3 * i + 2],
        255,
      ]);
      draw(figures[n], {
        picture,
        seen: [(rows * image.size[0]) / covers[0], (cols * image.size[1]) / covers[1]],
      });
      figures[n].querySelector("b").textContent = stage.name;
      figures[n].querySelector("span").textContent =
        `${stage.channels} channels, ${stage.size[0]}×${stage.size[1]}`;
    }
    draw(figures[stages.length], {
      picture: this.classPicture(facts.predicted, "predicted"),
      seen: image.size,
    });
    const { before, after } = this.scoresAt(row, col);
    const order = [...after.keys()].sort((a, b) => after[b] - after[a]);
    const winner = order[0];
    const truth = image.label ? this.parcel.array(image.label)[row * image.size[1] + col] : 255;
    const names = facts.scores.classes.map((kind) => this.header.classes[kind]);
    const shown = order.slice(0, 6);
    const right = facts.scores.classes.indexOf(truth);
    if (image.judged && right >= 0 && !shown.includes(right)) shown.push(right);
    const probabilities = softmax(after);
    at.scores.innerHTML = shown
      .map((k) => {
        const { name, colour } = names[k];
        const marks = [
          k === winner ? "predicted" : "",
          image.judged && facts.scores.classes[k] === truth ? "true" : "",
        ].filter(Boolean);
        return `<tr><th scope="row"><i style="background:rgb(${colour})"></i>${escape(name)}${marks.length ? ` <em>${marks.join(", ")}</em>` : ""}</th><td>${before[k].toFixed(2)}</td><td>${after[k].toFixed(2)}</td><td class="barcell"><span style="width:${(100 * probabilities[k]).toFixed(1)}%"></span><b>${percent(probabilities[k])}</b></td></tr>`;
      })
      .join("");
    const [h, w] = facts.scores.size;
    const verdict = !image.label
      ? ""
      : !image.judged
        ? ` The label says “${this.labelAt(this.pixel) ?? "nothing"}”, in classes of its own.`
        : truth === 255
          ? " This pixel has no label."
          : facts.scores.classes[winner] === truth
            ? ` It is ${this.header.classes[truth].name}: right.`
            : ` It is ${this.header.classes[truth].name}: wrong.`;
    const first = [...before.keys()].sort((a, b) => before[b] - before[a])[0];
    const moved =
      first === winner ? "" : ` Before the last upsampling its cell said ${names[first].name}.`;
    at.verdict.textContent = `Pixel (${row}, ${col}): predicted ${names[winner].name} with ${percent(probabilities[winner])}.${verdict}${moved} Scores have ${h}×${w} cells before the last upsampling, ${image.size[0]}×${image.size[1]} after it.`;
    at.verdict.dataset.right =
      image.judged && truth !== 255 ? String(facts.scores.classes[winner] === truth) : "";
  }

  /** Class scores of the pixel's cell before the last resize, and of the pixel after it. */
  scoresAt(row, col) {
    const { scores } = this.facts;
    const [h, w] = scores.size;
    const count = scores.classes.length;
    scores.values ??= decodeScores(this.parcel.array(scores.differences), count, h, w, scores.step);
    const value = (k, y, x) => scores.values[(k * h + y) * w + x];
    const along = (index, pixels, cells) => {
      const at = Math.max(0, ((index + 0.5) * cells) / pixels - 0.5);
      const low = Math.min(cells - 1, Math.floor(at));
      return {
        low,
        high: Math.min(cells - 1, low + 1),
        part: Math.min(at - low, 1),
        cell: Math.min(cells - 1, Math.floor(((index + 0.5) * cells) / pixels)),
      };
    };
    const y = along(row, scores.covers[0], h);
    const x = along(col, scores.covers[1], w);
    const [before, after] = [[], []];
    for (let k = 0; k < count; k++) {
      before.push(value(k, y.cell, x.cell));
      const upper = value(k, y.low, x.low) * (1 - x.part) + value(k, y.low, x.high) * x.part;
      const lower = value(k, y.high, x.low) * (1 - x.part) + value(k, y.high, x.high) * x.part;
      after.push(upper * (1 - y.part) + lower * y.part);
    }
    return { before, after };
  }

  // --------------------------------------------------------------------------------- emergence

  /** Who reads the chosen block: the chosen reader, another one there, or one of a block before. */
  readers() {
    const { block, reader } = this.state;
    const entries = this.facts.emergence;
    const here = entries.filter((one) => one.layer === block);
    const entry =
      here.find((one) => one.source === reader) ??
      here[0] ??
      entries.findLast((one) => one.layer < block) ??
      entries[0];
    return { here, entry };
  }

  drawEmergence() {
    const { at, facts, state, image } = this;
    const entries = facts.emergence;
    const { here, entry } = this.readers();
    const names = { probe: "probe", auxiliary: "auxiliary head", main: "main head" };
    at.reader.replaceChildren(...here.map(({ source }) => new Option(names[source], source)));
    at.reader.value = entry.source;
    at.reader.closest("label").hidden = here.length < 2;
    at.emergenceName.textContent = entry.name;
    const draw = (canvas, place, kind) => {
      const context = surface(canvas, image.size);
      context.drawImage(this.photo(false), 0, 0, canvas.clientWidth, canvas.clientHeight);
      context.globalAlpha = 0.78;
      context.imageSmoothingEnabled = false;
      context.drawImage(
        this.classPicture(place, kind),
        0,
        0,
        canvas.clientWidth,
        canvas.clientHeight,
      );
      context.globalAlpha = 1;
      this.drawCursor(context, canvas.clientWidth, canvas.clientHeight, this.pixel, true);
    };
    draw(at.emergenceMap, entry.labels, "predicted");
    at.emergenceLegend.replaceChildren(...this.legend(entry.labels, "predicted"));
    at.emergenceTruth.closest("figure").hidden = !image.label;
    if (image.label) draw(at.emergenceTruth, image.label, "truth");
    const [row, col] = this.pixel;
    const kind = this.parcel.array(entry.labels)[row * image.size[1] + col];
    const value = (one) => one.miou ?? null;
    const measured = entries.some((one) => one.miou !== null) ? "validation images" : "this image";
    const of = measured === "this image" ? (one) => one.here : value;
    const known = entries.filter((one) => of(one) !== null);
    at.emergenceChart.closest("figure").hidden = !known.length;
    const parts = here.length ? [] : [`Nothing reads block ${state.block}.`];
    parts.push(`${entry.name} says “${this.header.classes[kind].name}” here.`);
    if (entry.miou !== null)
      parts.push(
        `mIoU ${percent(entry.miou)} over the validation images${entry.here !== null ? `, ${percent(entry.here)} on this image alone` : ""}.`,
      );
    else if (entry.here !== null) parts.push(`mIoU ${percent(entry.here)} on this image.`);
    else parts.push("mIoU is not known: there is no label, and no probes that say it.");
    at.emergenceWords.textContent = parts.join(" ");
    if (!known.length) return;
    const limit = Math.min(1, Math.max(...known.map(of)) * 1.12 + 0.02);
    const chart = new Chart(at.emergenceChart, at.card, {
      columns: facts.layers,
      limit,
      title: `mIoU on ${measured}`,
      percent: true,
    });
    chart.line(known.filter((one) => one.source === "probe").map((one) => [one.layer, of(one)]));
    this.steps = known.map((one) => ({
      ...chart.dot(
        one.layer,
        of(one),
        one === entry,
        { probe: "circle", auxiliary: "square", main: "diamond" }[one.source],
      ),
      block: one.layer,
      reader: one.source,
    }));
    at.emergenceChart.setAttribute(
      "aria-label",
      `mIoU on ${measured} by block: ${known.map((one) => `${one.name} ${percent(of(one))}`).join(", ")}`,
    );
  }

  /** Step through the blocks; one step only for who wants no motion. */
  async play() {
    const { layers } = this.facts;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.change({ block: (this.state.block + 1) % layers });
      return;
    }
    const turn = (this.turn = (this.turn ?? 0) + 1);
    for (let block = 0; block < layers; block++) {
      this.change({ block });
      await new Promise((go) => setTimeout(go, 500));
      const { state } = this;
      if (turn !== this.turn || state.panel !== "emergence" || state.block !== block) return;
    }
  }

  // ------------------------------------------------------------------------------------- cause

  causeCounts() {
    const count = this.image.grid[0] * this.image.grid[1];
    const all = [0.05, 0.1, 0.2].map((share) => Math.max(1, Math.round(share * count)));
    return this.options.ask
      ? [...new Set(all)].filter((k) => k < count)
      : (this.facts.causes?.checks.map((check) => check.k) ?? []);
  }

  /** The check that is nearest to the chosen pixel (page), or the last answer (kernel). */
  causeResult(k) {
    const choices = ["attended", "nearest", "random"];
    if (this.options.ask) {
      const found = this.checked;
      return found &&
        found.k === k &&
        found.image === this.answered.image &&
        found.model === this.state.model
        ? found
        : null;
    }
    const { causes } = this.facts;
    const check = causes.checks.find((one) => one.k === k);
    let best = 0;
    const away = ([row, col]) => Math.hypot(row - this.pixel[0], col - this.pixel[1]);
    for (const [n, pixel] of causes.pixels.entries())
      if (away(pixel) < away(causes.pixels[best])) best = n;
    const patches = this.parcel.array(causes.patches);
    const most = causes.patches.shape[2];
    return {
      k,
      pixel: causes.pixels[best],
      away: away(causes.pixels[best]),
      kind: check.class[best],
      before: check.probability[best],
      falls: Object.fromEntries(
        choices.map((choice) => [choice, [check.probability_fall[choice][best]]]),
      ),
      hidden: Object.fromEntries(
        choices.map((choice, n) => [
          choice,
          patches.subarray((best * 3 + n) * most, (best * 3 + n) * most + k),
        ]),
      ),
      over: Object.fromEntries(choices.map((choice) => [choice, check.probability_fall[choice]])),
    };
  }

  async checkCause() {
    const { image, pixel } = this.answered;
    const chosen = this.state.model;
    const model = chosen === "difference" ? 0 : chosen;
    const k = this.causeCounts()[this.state.cause];
    this.at.causeWords.textContent = "The kernel runs the network with patches hidden …";
    try {
      const { content } = await this.options.ask({ ask: "cause", image, model, pixel, k });
      const falls = content.probability_fall;
      this.checked = {
        k,
        image,
        model: chosen,
        pixel,
        away: 0,
        kind: content.class[0],
        before: content.probability[0],
        falls: {
          attended: falls.attended.slice(0, 1),
          nearest: falls.nearest.slice(0, 1),
          random: falls.random,
        },
        hidden: {
          attended: content.patches[0][0],
          nearest: content.patches[0][1],
          random: content.patches[0][2],
        },
        over: null,
      };
      this.draw();
    } catch (error) {
      this.draw();
      this.trouble(error);
    }
  }

  drawCause() {
    const { at, state, image } = this;
    const counts = this.causeCounts();
    at.causeBody.hidden = !counts.length;
    if (!counts.length) {
      at.causeWords.textContent = "This page was made without the check.";
      return;
    }
    state.cause = Math.min(state.cause, counts.length - 1);
    const k = counts[state.cause];
    at.cause.max = counts.length - 1;
    at.cause.value = state.cause;
    at.cause.setAttribute("aria-valuetext", `${k} patches`);
    at.causeCount.textContent = `${k} of ${image.grid[0] * image.grid[1]} patches`;
    at.check.hidden = !this.options.ask;
    const found = this.causeResult(k);
    at.causeResult.hidden = !found;
    if (!found) {
      at.causeWords.textContent =
        "Press the button: the kernel hides the patches and runs the network again.";
      return;
    }
    const words = { attended: "most attended to, by rollout", nearest: "nearest", random: "random" };
    for (const [choice, word] of Object.entries(words)) {
      const figure = at.causeResult.querySelector(`[data-choice=${choice}]`);
      const canvas = figure.querySelector("canvas");
      const context = surface(canvas, image.size);
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      context.drawImage(this.photo(true), 0, 0, width, height);
      context.fillStyle = "rgba(120,120,120,.93)";
      const side = (image.patch / image.size[1]) * width;
      for (const patch of found.hidden[choice]) {
        context.fillRect(
          (patch % image.grid[1]) * side,
          Math.floor(patch / image.grid[1]) * side,
          side + 0.3,
          side + 0.3,
        );
      }
      this.drawCursor(context, width, height, found.pixel);
      const fall = mean(found.falls[choice]);
      figure.querySelector("b").textContent = `${found.k} ${word}`;
      figure.querySelector("span").textContent =
        `${percent(found.before)} → ${percent(found.before - fall)}${found.falls[choice].length > 1 ? ` (mean of ${found.falls[choice].length} draws)` : ""}`;
      const bar = figure.querySelector("i");
      bar.style.width = `${100 * Math.max(0, Math.min(1, found.before - fall))}%`;
    }
    const name = this.header.classes[found.kind].name;
    const [row, col] = found.pixel;
    const place =
      found.away >= 1
        ? `Measured beforehand for ${this.facts.causes.pixels.length} pixels; the nearest one, (${row}, ${col}), is ${found.away.toFixed(0)} px from yours (a live kernel measures any pixel). `
        : `Pixel (${row}, ${col}). `;
    const over = found.over
      ? ` Over all ${found.over.attended.length} pixels the probability falls by ${spread(found.over.attended)} (attended), ${spread(found.over.nearest)} (nearest), ${spread(found.over.random)} (random): mean ± standard deviation.`
      : "";
    at.causeWords.textContent = `${place}Bars: the probability of “${name}” that is left when no token may look at ${found.k} patches.${over}`;
  }

  // ----------------------------------------------------------------------------------- keeping

  savePng(panel, name) {
    const url = snapshot(panel, this.at.card).toDataURL("image/png"); // toBlob waits for leisure
    keep(new Blob([fromBase64(url.split(",")[1])], { type: "image/png" }), `${name}.png`);
  }

  saveNumbers() {
    const files = {};
    for (const model of this.image.models.keys()) {
      const prefix = this.image.models.length > 1 ? `model${model}_` : "";
      for (const [name, array] of Object.entries(this.numbers(model)))
        files[`${prefix}${name}.npy`] = npy(array);
    }
    keep(zip(files), "attention.npz");
  }

  async savePage() {
    if (this.options.page) {
      keep(new Blob([this.options.page], { type: "text/html" }), "attention.html");
      return;
    }
    this.at.words.textContent = "Python writes the page …";
    try {
      const { buffers } = await this.options.ask({ ask: "html" });
      keep(new Blob([buffers[0]], { type: "text/html" }), "attention.html");
    } catch (error) {
      this.trouble(error);
    }
    this.draw();
  }
}

// ----------------------------------------------------------------------------------------- parts

function skeleton(header, { ask, page }) {
  const several = header.names.length > 1;
  const judged = header.images.some((image) => image.judged);
  const button = (what, value, text, more = "") =>
    `<button type="button" data-do="${what}" data-value="${value}" aria-pressed="false"${more}>${text}</button>`;
  const png = (name, what) =>
    `<button type="button" class="small" data-do="png" data-value="${name}" data-skip aria-label="PNG of ${escape(what)}" title="Save this as a picture">PNG</button>`;
  const panelPng = (name) => png(name, `the panel ${PANELS[name]}`);
  const tile = (model) => `
    <figure class="tile map" data-model="${model}" data-panel>
      <figcaption><b data-part="name"></b>${png(`map-${model}`, `the map of ${header.names[model] ?? model}`)}</figcaption>
      <div class="screen" tabindex="0" role="application"><canvas></canvas></div>
      <div class="scale"><span data-part="low"></span><div class="ramp" data-part="bar"><i data-part="mark"></i></div><span data-part="high"></span></div>
      <div class="even" data-part="even"></div>
    </figure>`;
  const tiles = header.names.map((_, n) => tile(n));
  if (several) tiles.push(tile("difference"));
  const tabs = Object.entries(PANELS).map(
    ([name, title]) =>
      `<button type="button" role="tab" id="tab-${name}" aria-controls="panel-${name}" data-do="panel" data-value="${name}" title="${PANEL_HINTS[name]}">${title}</button>`,
  );
  const panel = (name, body) =>
    `<section role="tabpanel" id="panel-${name}" aria-labelledby="tab-${name}" data-panel="${name}" hidden>${body}</section>`;
  const options = (entries) =>
    Object.entries(entries)
      .map(([value, text]) => `<option value="${value}">${text}</option>`)
      .join("");
  return `
  <section class="card" data-at="card" aria-label="Attention explorer">
    <p class="intro">A transformer sees a picture as patches. In each of its blocks every head lets each patch collect from all others, from some more than from others: that share is attention. <b>Click a patch in the picture</b> and see what it looks at; then move the block.</p>
    <header>
      <div class="choice" role="group" aria-label="Direction">${Object.entries(DIRECTIONS)
        .map(([value, text]) => button("direction", value, text))
        .join("")}</div>
      ${several ? `<div class="choice" role="group" aria-label="Network of the panels below">${header.names.map((name, n) => button("model", n, escape(name))).join("")}${button("model", "difference", "difference")}</div>` : ""}
      ${header.images.length > 1 ? `<div class="choice" role="group" aria-label="Image">${header.images.map((image, n) => button("image", n, `<canvas class="thumb"></canvas>${escape(image.name)}`)).join("")}</div>` : ""}
    </header>
    <div class="tiles ${several ? "four" : ""}">
      <figure class="tile" data-panel>
        <figcaption><b data-at="pictureName"></b>${png("picture", "the picture")}</figcaption>
        <div class="screen" tabindex="0" role="application" data-at="picture"><canvas></canvas></div>
        <div class="legend" data-at="legend"></div>
        <label class="row" data-skip>Show <select data-at="under">${options({ photo: "the picture", predicted: "what the network says", ...(header.images.some((image) => image.label) ? { truth: "the label" } : {}), ...(judged ? { wrong: "where it is wrong" } : {}) })}</select></label>
        <span class="hint" data-at="pictureHint" data-skip></span>
      </figure>
      ${tiles.join("")}
    </div>
    <div class="controls" data-skip>
      <label title="A network is a row of equal blocks; 0 is the first">Block <input type="range" min="0" step="1" data-at="block"><output data-at="blockOut" aria-live="off"></output></label>
      <label title="The heads of a block look in different ways, side by side">Head <select data-at="head"></select></label>
      <label>Overlay <input type="range" min="0" max="1" step="0.05" data-at="opacity" aria-label="Opacity of the overlay"></label>
      <label>Colours <select data-at="scale">${options(COLOUR_SCALES)}</select></label>
    </div>
    <p class="words" data-at="words"></p>
    <p class="trouble" role="alert" data-at="trouble"></p>
    <div class="unseen" aria-live="polite" data-at="spoken"></div>
    <div role="tablist" aria-label="Panels">${tabs.join("")}</div>
    ${panel("grid", `<div class="bar"><p>Every head of every block, for the same patch. Click one to enlarge it.</p>${panelPng("grid")}</div><div class="scroll"><canvas data-at="grid" role="img"></canvas></div>`)}
    ${panel(
      "heads",
      `<div class="bar"><p>How far and how widely each head looks. <span data-at="headsNote"></span></p>
        <label data-skip>Show <select data-at="chart">${options({ distance: "mean distance", entropy: "entropy", inside: "share inside the class" })}</select></label>
        <label data-skip>of <select data-at="over">${options({ patch: "this patch", all: "all patches, on average" })}</select></label>${panelPng("heads")}</div>
      <div class="two"><canvas class="chart" data-at="headChart" role="img"></canvas>
      <div class="list" tabindex="0" role="region" aria-label="Table of heads"><table><thead><tr>
        ${[
          ["head", "head"],
          ["entropy", "entropy, nats"],
          ["distance", "distance, px"],
          ["inside", "same class"],
        ]
          .map(
            ([name, text]) =>
              `<th scope="col" data-sort="${name}"><button type="button" data-do="sort" data-value="${name}">${text}</button></th>`,
          )
          .join("")}
      </tr></thead><tbody data-at="headRows"></tbody></table></div></div>`,
    )}
    ${panel(
      "forward",
      `<div class="bar"><p>The decoder's maps in order (colours: their first three principal components), and the scores of this pixel.</p>${panelPng("forward")}</div>
      <div class="stages" data-at="stages"></div><p class="verdict" data-at="verdict"></p>
      <table class="scores"><thead><tr><th scope="col">class</th><th scope="col">before</th><th scope="col">after</th><th scope="col">probability</th></tr></thead><tbody data-at="scores"></tbody></table>`,
    )}
    ${panel(
      "emergence",
      `<div class="bar"><button type="button" data-do="play" data-skip aria-label="Play: from the first block to the last">▶</button><b class="grow" data-at="emergenceName"></b><label data-skip>Read by <select data-at="reader"></select></label>${panelPng("emergence")}</div>
      <div class="three"><figure><canvas data-at="emergenceMap" role="img" aria-label="Classes read off this block"></canvas><figcaption>what can be read off here</figcaption><div class="legend" data-at="emergenceLegend"></div></figure>
      <figure><canvas data-at="emergenceTruth" role="img" aria-label="The label"></canvas><figcaption>the label</figcaption></figure>
      <figure><canvas class="chart" data-at="emergenceChart" role="img"></canvas><figcaption>● probe ■ auxiliary ◆ main head</figcaption></figure></div>
      <p data-at="emergenceWords"></p>`,
    )}
    ${panel(
      "cause",
      `<div class="bar"><div data-at="causeBody" class="grow" data-skip><label>Hide <input type="range" min="0" step="1" data-at="cause"></label> <b data-at="causeCount"></b>
        <button type="button" data-do="check" data-at="check">Hide them and see</button></div>${panelPng("cause")}</div>
      <div class="three always" data-at="causeResult">${["attended", "nearest", "random"].map((choice) => `<figure data-choice="${choice}"><canvas></canvas><div class="left"><i></i></div><figcaption><b></b><br><span></span></figcaption></figure>`).join("")}</div>
      <p data-at="causeWords"></p>`,
    )}
    <footer data-skip>
      <details><summary>Keys</summary><p>With the picture or a map in focus: arrows move the patch that asks, with Shift they read another one off the maps. Anywhere here: digits choose the block (two within a second make one number), [ and ] the head. Blocks, heads, rows and columns count from 0.</p></details>
      <details><summary>Words</summary><dl>${Object.entries(GLOSSARY)
        .map(([word, text]) => `<dt>${word}</dt><dd>${text}</dd>`)
        .join("")}</dl></details>
      <span><button type="button" class="small" data-do="npz" title="All numbers of this patch, for numpy">numbers, npz</button>
      <button type="button" class="small" data-do="html" title="This explorer as one file">page, html</button></span>
    </footer>
  </section>`;
}

function fillHeads(select, heads) {
  if (select.options.length === heads + 3) return;
  const texts = [
    ["mean", "mean of the heads"],
    ["max", "maximum of the heads"],
    ["rollout", "rollout up to here"],
  ];
  for (let head = 0; head < heads; head++) texts.push([head, `head ${head}`]);
  select.replaceChildren(...texts.map(([value, text]) => new Option(text, value)));
}

function headName(head) {
  return (
    { mean: "mean of the heads", max: "maximum of the heads", rollout: "rollout" }[head] ??
    `head ${head}`
  );
}

function shortName(head) {
  return typeof head === "number" ? `head ${head}` : head;
}

function formatOf(name) {
  const known = { entropy: (v) => v.toFixed(2), distance: (v) => v.toFixed(1), inside: percent };
  return (value) => (value === null || value === undefined ? "–" : known[name](value));
}

function percent(value) {
  const size = Math.abs(100 * value);
  return `${(100 * value).toFixed(size >= 9.95 ? 0 : size >= 0.995 ? 1 : 2)} %`;
}

/** 0.25, 3.9, 12: how many times as much. */
function times(ratio) {
  return `${ratio.toFixed(ratio >= 9.95 ? 0 : ratio >= 0.995 ? 1 : 2)} times`;
}

function mean(values) {
  return sum(values) / values.length;
}

function spread(values) {
  const middle = mean(values);
  const deviation = Math.sqrt(
    sum(values.map((value) => (value - middle) ** 2)) / Math.max(1, values.length - 1),
  );
  return `${(100 * middle).toFixed(0).replace("-0", "0")} ± ${(100 * deviation).toFixed(0)} points`;
}

function softmax(scores) {
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const total = sum(powers);
  return powers.map((power) => power / total);
}

function escape(text) {
  return text.replace(
    /[&<>"]/g,
    (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[letter],
  );
}

function cellOf([row, col], image, source) {
  const side = image.patch * source.pool;
  return Math.floor(row / side) * source.grid[1] + Math.floor(col / side);
}

/** The commonest class of every cell, 255 where nothing is labelled; the smaller of equals. */
function commonest(label, [rows, cols], [cellRows, cellCols], side) {
  const counts = new Uint32Array(cellRows * cellCols * 255);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < cols; x++) {
      const kind = label[y * cols + x];
      if (kind < 255)
        counts[(Math.floor(y / side) * cellCols + Math.floor(x / side)) * 255 + kind]++;
    }
  }
  return Uint8Array.from({ length: cellRows * cellCols }, (_, cell) => {
    const some = counts.subarray(cell * 255, (cell + 1) * 255);
    const best = largestAt(some);
    return some[best] ? best : 255;
  });
}

/** Three byte planes of differences along the rows -> scores (K,h,w). */
function decodeScores(bytes, classes, h, w, step) {
  const count = classes * h * w;
  const values = new Float32Array(count);
  let whole = 0;
  for (let i = 0; i < count; i++) {
    const difference =
      ((bytes[i] | (bytes[count + i] << 8) | (bytes[2 * count + i] << 16)) << 8) >> 8;
    whole = i % w === 0 ? difference : whole + difference;
    values[i] = whole * step;
  }
  return values;
}

/** Give a canvas the resolution of the screen; its context then counts in CSS pixels. */
function surface(canvas, [rows, cols]) {
  canvas.style.aspectRatio = `${cols} / ${rows}`;
  const scale = globalThis.devicePixelRatio || 1;
  const width = canvas.clientWidth || cols;
  const height = canvas.clientHeight || rows;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  return context;
}

/** A canvas of one pixel per value; `colour(i)` gives red, green, blue, opacity. */
function paint(rows, cols, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = cols;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(cols, rows);
  for (let i = 0; i < rows * cols; i++) pixels.data.set(colour(i), 4 * i);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function greyOf(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d");
  context.filter = "grayscale(1)";
  context.drawImage(picture, 0, 0);
  return canvas;
}

function line(context, x0, y0, x1, y1) {
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
}

function gradient(palette) {
  const stops = [];
  for (let n = 0; n <= 16; n++) {
    const at = 3 * Math.min(255, n * 16);
    stops.push(`rgb(${palette[at]},${palette[at + 1]},${palette[at + 2]})`);
  }
  return `linear-gradient(to right, ${stops.join(",")})`;
}

function swatch(colour, name) {
  const span = document.createElement("span");
  const box = document.createElement("i");
  box.style.background = `rgb(${colour})`;
  span.append(box, name);
  return span;
}

/** Points over the blocks, with an axis that starts at 0. */
class Chart {
  constructor(canvas, card, { columns, limit, title, percent: share }) {
    const room = canvas.clientWidth || 340;
    this.context = surface(canvas, [Math.min(0.65 * room, 260), room]);
    Object.assign(this, { columns, limit, width: canvas.clientWidth, height: canvas.clientHeight });
    const style = getComputedStyle(card);
    this.ink = Object.fromEntries(
      ["ink", "pale", "line", "accent", "dot"].map((name) => [
        name,
        style.getPropertyValue(`--${name}`),
      ]),
    );
    const { context } = this;
    context.font = `11px ${style.fontFamily}`;
    this.box = { left: 40, right: this.width - 10, top: 22, bottom: this.height - 30 };
    context.fillStyle = this.ink.ink;
    context.fillText(title, 4, 12);
    context.textBaseline = "middle";
    context.strokeStyle = this.ink.line;
    context.lineWidth = 1;
    for (const tick of ticks(limit)) {
      context.beginPath();
      line(context, this.box.left, this.y(tick), this.box.right, this.y(tick));
      context.stroke();
      context.fillStyle = this.ink.pale;
      context.textAlign = "right";
      context.fillText(
        share ? `${Math.round(100 * tick)} %` : String(Number(tick.toPrecision(3))),
        this.box.left - 6,
        this.y(tick),
      );
    }
    context.textAlign = "center";
    const every = Math.ceil((columns * 22) / (this.box.right - this.box.left));
    for (let n = 0; n < columns; n += every)
      context.fillText(String(n), this.x(n), this.box.bottom + 12);
    context.fillText("block", (this.box.left + this.box.right) / 2, this.height - 6);
  }

  x(column) {
    const inner = this.box.right - this.box.left - 20;
    return (
      this.box.left + 10 + (this.columns > 1 ? (column / (this.columns - 1)) * inner : inner / 2)
    );
  }

  y(value) {
    return this.box.bottom - (value / this.limit) * (this.box.bottom - this.box.top);
  }

  level(value, name) {
    const { context } = this;
    context.strokeStyle = this.ink.pale;
    context.setLineDash([4, 4]);
    context.beginPath();
    line(context, this.box.left, this.y(value), this.box.right, this.y(value));
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = this.ink.pale;
    context.textAlign = "right";
    context.fillText(name, this.box.right, this.y(value) - 8);
  }

  line(points) {
    const { context } = this;
    context.strokeStyle = this.ink.dot;
    context.lineWidth = 1.5;
    context.globalAlpha = 0.55;
    context.beginPath();
    for (const [n, [column, value]] of points.entries())
      context[n ? "lineTo" : "moveTo"](this.x(column), this.y(value));
    context.stroke();
    context.globalAlpha = 1;
  }

  dot(column, value, chosen, form = "circle") {
    const { context } = this;
    const [x, y, size] = [this.x(column), this.y(value), chosen ? 6.5 : 4];
    context.fillStyle = chosen ? this.ink.accent : this.ink.dot;
    context.beginPath();
    if (form === "circle") context.arc(x, y, size, 0, 7);
    else if (form === "square") context.rect(x - size, y - size, 2 * size, 2 * size);
    else
      for (const [n, [dx, dy]] of [
        [0, -1],
        [1, 0],
        [0, 1],
        [-1, 0],
      ].entries())
        context[n ? "lineTo" : "moveTo"](x + 1.4 * size * dx, y + 1.4 * size * dy);
    context.closePath();
    context.fill();
    return { x, y };
  }
}

function ticks(limit) {
  const rough = limit / 4;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = ten * [1, 2, 2.5, 5, 10].find((factor) => factor * ten >= rough * 0.999);
  const found = [];
  for (let n = 0; n * step <= limit * 1.0001; n++) found.push(n * step);
  return found;
}

function nearest(dots, event, canvas) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = null;
  for (const dot of dots) {
    const away = Math.hypot(dot.x - x, dot.y - y);
    if (away < 24 && (!best || away < best.away)) best = { ...dot, away };
  }
  return best;
}

/** Dark where the page around is dark: the book, JupyterLab, VS Code, Colab, else the system. */
function followTheme(host, changed) {
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

// ---------------------------------------------------------------------------------------- files

function keep(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** A panel as it stands on the screen, twice as large: backgrounds, canvases and words. */
function snapshot(panel, card) {
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
  return canvas;
}

/** One array in numpy's own format. */
function npy({ data, shape }) {
  const form = { Float32Array: "<f4", Int32Array: "<i4", Uint8Array: "|u1" }[data.constructor.name];
  const sides = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  let text = `{'descr': '${form}', 'fortran_order': False, 'shape': (${sides}), }`;
  text += " ".repeat(63 - ((10 + text.length) % 64)) + "\n";
  const bytes = new Uint8Array(10 + text.length + data.byteLength);
  bytes.set([0x93, 78, 85, 77, 80, 89, 1, 0, text.length & 255, text.length >> 8]);
  bytes.set(new TextEncoder().encode(text), 10);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 10 + text.length);
  return bytes;
}

/** A zip of stored files, which is what an npz is. */
function zip(files) {
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  const check = (bytes) => {
    let value = 0xffffffff;
    for (const byte of bytes) value = table[(value ^ byte) & 255] ^ (value >>> 8);
    return (value ^ 0xffffffff) >>> 0;
  };
  const record = (fields) => {
    const bytes = new DataView(new ArrayBuffer(fields.reduce((all, [size]) => all + size, 0)));
    let at = 0;
    for (const [size, value] of fields) {
      if (size === 2) bytes.setUint16(at, value, true);
      else bytes.setUint32(at, value, true);
      at += size;
    }
    return new Uint8Array(bytes.buffer);
  };
  const [parts, index] = [[], []];
  let at = 0;
  for (const [name, bytes] of Object.entries(files)) {
    const text = new TextEncoder().encode(name);
    const common = [
      [2, 0],
      [2, 0],
      [2, 0],
      [2, 33],
      [4, check(bytes)],
      [4, bytes.length],
      [4, bytes.length],
      [2, text.length],
      [2, 0],
    ];
    const local = record([[4, 0x04034b50], [2, 20], ...common]);
    index.push(
      record([
        [4, 0x02014b50],
        [2, 20],
        [2, 20],
        ...common,
        [2, 0],
        [2, 0],
        [2, 0],
        [4, 0],
        [4, at],
      ]),
      text,
    );
    parts.push(local, text, bytes);
    at += local.length + text.length + bytes.length;
  }
  const length = index.reduce((all, part) => all + part.length, 0);
  const count = index.length / 2;
  const end = record([
    [4, 0x06054b50],
    [2, 0],
    [2, 0],
    [2, count],
    [2, count],
    [4, length],
    [4, at],
    [2, 0],
  ]);
  return new Blob([...parts, ...index, end], { type: "application/zip" });
}
