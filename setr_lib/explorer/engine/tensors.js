// Numbers of a safetensors file as float32: 32 and 16 bits as they are, 8 bits times a step.

/**
 * -> {tensors: {name: {shape, data}}, about}: `about` is what setr_lib wrote beside the numbers.
 * "x" in 8 bits has its steps, one for each row, in "x.step".
 */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const half = halfTable();
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: places }] of Object.entries(header)) {
    if (!["F32", "F16", "I8"].includes(dtype)) continue; // the metadata, counters of batch norms
    const raw = buffer.slice(...places.map((at) => 8 + length + at));
    const kind = { F32: Float32Array, F16: Uint16Array, I8: Int8Array }[dtype];
    const data = new Float32Array(new kind(raw));
    if (dtype === "F16") for (let i = 0; i < data.length; i++) data[i] = half[data[i]];
    tensors[name] = { shape, data, whole: dtype === "I8" };
  }
  for (const [name, { shape, data, whole }] of Object.entries(tensors)) {
    if (!whole) continue;
    const steps = tensors[`${name}.step`].data;
    const wide = data.length / shape[0];
    for (const [row, step] of steps.entries())
      for (let i = row * wide; i < (row + 1) * wide; i++) data[i] *= step;
  }
  return { tensors, about: JSON.parse(header.__metadata__.setr_lib) };
}

/** The number that each of the 65536 patterns of 16 bits stands for. */
function halfTable() {
  return Float32Array.from({ length: 65536 }, (_, bits) => {
    const [sign, power, part] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (power === 31) return part ? NaN : sign * Infinity;
    return sign * (power ? 2 ** (power - 15) * (1 + part / 1024) : (2 ** -14 * part) / 1024);
  });
}
