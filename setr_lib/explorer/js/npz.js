// Arrays in numpy's own formats.

/** One array in numpy's own format. */
export function npy({ data, shape }) {
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
export function zip(files) {
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
  const all = [...parts, ...index, end];
  const bytes = new Uint8Array(all.reduce((total, part) => total + part.length, 0));
  let start = 0;
  for (const part of all) {
    bytes.set(part, start);
    start += part.length;
  }
  return bytes;
}
