// node engine.mjs FOLDER [plain]: run the network of FOLDER on its pictures, and write what was found
// beside what torch found. tests/test_engine.py makes the folder and compares.

import fs from "node:fs";

import { makeMachine } from "../../setr_lib/explorer/engine/machine.js";
import { Network } from "../../setr_lib/explorer/engine/network.js";

const [folder, plain] = process.argv.slice(2);
const bytes = (name) => {
  const { buffer, byteOffset, byteLength } = fs.readFileSync(`${folder}/${name}`);
  return buffer.slice(byteOffset, byteOffset + byteLength);
};
const machine = await makeMachine(plain !== "plain");
const network = new Network(bytes("model.safetensors"), machine);
const times = [];
for (const [n, question] of JSON.parse(fs.readFileSync(`${folder}/questions.json`)).entries()) {
  const { height, width, hidden, positions, repeat = 1 } = question;
  const image = { rgba: new Uint8Array(bytes(`${n}.rgba`)), height, width };
  let found;
  for (let turn = 0; turn < repeat; turn++) {
    const start = performance.now();
    found = network.run(image, { hidden, positions });
    times.push(performance.now() - start);
  }
  const write = (name, data) => fs.writeFileSync(`${folder}/${n}.${name}`, new Uint8Array(data.buffer));
  write("labels", found.labels);
  write("scores", found.scores.data);
  write("tokens", found.tokens.at(-1));
  const { K } = network.encoder;
  const T = found.tokens[0].length / network.encoder.D + found.prefix;
  const maps = new Float32Array(found.pairs.length * T * T);
  for (const [at, { q, k }] of found.pairs.entries())
    for (let i = 0; i < T; i++)
      for (let j = 0; j < T; j++) {
        let dot = 0;
        for (let c = 0; c < K; c++) dot += q[i * K + c] * k[j * K + c];
        maps[(at * T + i) * T + j] = Math.exp(dot - found.norms[at * T + i]);
      }
  if (!question.noMaps) write("maps", maps);
}
console.log(JSON.stringify({ fast: machine.fast, times, bytes: machine.buffer.byteLength }));
