// Canvases: resolution, colour tables, lines. Nothing here knows what is drawn.

/** Give a canvas the resolution of the screen; its context then counts in CSS pixels. */
export function surface(canvas, [rows, cols]) {
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

/** Red, green, blue, 0 to 255 each -> one number, as a canvas keeps a pixel. */
export function packed(red, green, blue, opacity = 255) {
  return ((opacity << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** (256,3) bytes, or as many as there are -> one packed colour each. */
export function tableOf(bytes) {
  return Uint32Array.from({ length: bytes.length / 3 }, (_, n) =>
    packed(bytes[3 * n], bytes[3 * n + 1], bytes[3 * n + 2]),
  );
}

/** A canvas with one packed colour per pixel. */
export function paint(rows, cols, colours) {
  const canvas = document.createElement("canvas");
  canvas.width = cols;
  canvas.height = rows;
  const bytes = new Uint8ClampedArray(colours.buffer);
  canvas.getContext("2d").putImageData(new ImageData(bytes, cols, rows), 0, 0);
  return canvas;
}

export function greyOf(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d");
  context.filter = "grayscale(1)";
  context.drawImage(picture, 0, 0);
  return canvas;
}

export function line(context, x0, y0, x1, y1) {
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
}

/** A colour table as the background of a bar. */
export function gradient(table) {
  const stops = [];
  for (let n = 0; n <= 16; n++) {
    const colour = table[Math.min(table.length - 1, n * 16)];
    stops.push(`rgb(${colour & 255},${(colour >> 8) & 255},${(colour >> 16) & 255})`);
  }
  return `linear-gradient(to right, ${stops.join(",")})`;
}

export function swatch(colour, name) {
  const span = document.createElement("span");
  const box = document.createElement("i");
  box.style.background = `rgb(${colour})`;
  span.append(box, name);
  return span;
}
