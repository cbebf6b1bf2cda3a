// SETR, whole: a picture in, the class of every pixel out, and everything on the way.

import { decode, decoderRoom, loadDecoder } from "./decoders.js";
import { encode, encoderRoom, loadEncoder } from "./encoder.js";
import { placesOf, resizedRow } from "./layers.js";
import { readSafetensors } from "./tensors.js";

export class Network {
  /** `buffer`: a safetensors file of setr_lib. */
  constructor(buffer, machine) {
    const { tensors, about } = readSafetensors(buffer);
    const { config } = about;
    if ((config.backbone ?? "vit") !== "vit")
      throw new Error(`backbone is ${config.backbone}; the page knows "vit"`);
    this.encoder = loadEncoder(machine, tensors, config);
    this.decoder = loadDecoder(machine, tensors, config);
    Object.assign(this, { machine, about, config });
  }

  /** {rgba, height, width} -> what encode() and decode() find, and `labels` (height, width). */
  run(image, options = {}) {
    const { machine, encoder, decoder } = this;
    const { P, D } = encoder;
    const N = Math.ceil(image.height / P) * Math.ceil(image.width / P);
    machine.reserve(encoderRoom(encoder, N) + decoderRoom(decoder, N, D), 200);
    const mark = machine.top;
    const found = encode(machine, encoder, image, options);
    machine.top = mark;
    Object.assign(found, decode(machine, decoder, found.tokens, found.grid));
    machine.top = mark;
    const covers = found.grid.map((side) => side * P);
    return { ...found, covers, labels: labelsOf(found.scores, covers, image) };
  }
}

/** The class with the largest score, for every pixel; the scores cover `covers` pixels. */
export function labelsOf(scores, covers, { height, width }) {
  const { channels } = scores;
  const found = new Uint8Array(height * width);
  const ys = placesOf(covers[0], scores.rows);
  const xs = placesOf(covers[1], scores.cols).slice(0, width);
  const [line, between] = [width, scores.cols].map((cols) => new Float32Array(cols * channels));
  for (let y = 0; y < height; y++) {
    resizedRow(scores, ys[y], xs, line, between);
    for (let x = 0; x < width; x++) {
      let best = 0;
      for (let c = 1; c < channels; c++)
        if (line[x * channels + c] > line[x * channels + best]) best = c;
      found[y * width + x] = best;
    }
  }
  return found;
}
