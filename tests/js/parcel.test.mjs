import assert from "node:assert/strict";
import { test } from "node:test";
import * as zlib from "node:zlib";

import { npy, zip } from "../../setr_lib/explorer/js/npz.js";
import { decodeScores, fromBase64, openParcel } from "../../setr_lib/explorer/js/parcel.js";
import { parcelOf } from "./helpers.mjs";

test("a parcel gives back what was put in", async () => {
  const arrays = [Uint8Array.of(1, 2, 255), Int16Array.of(-3, 400), Float32Array.of(0.5)];
  const places = [
    { at: 0, form: "u1", shape: [3] },
    { at: 4, form: "i2", shape: [1, 2] },
    { at: 8, form: "f4", shape: [] },
  ];
  const { header, array } = await openParcel(parcelOf({ name: "ä", places }, arrays));
  assert.equal(header.name, "ä");
  assert.deepEqual(places.map(array), arrays);
});

test("text of base 64 becomes bytes", () => {
  assert.deepEqual([...fromBase64("AP+A")], [0, 255, 128]);
});

test("scores are running sums of signed differences, row by row", () => {
  const wanted = [-3, 5, 40000, 7, -7, 0];
  const differences = wanted.map((value, n) => (n % 3 ? value - wanted[n - 1] : value));
  const planes = [0, 8, 16].flatMap((shift) => differences.map((one) => (one >> shift) & 255));
  const found = decodeScores(Uint8Array.from(planes), 1, 2, 3, 1);
  assert.deepEqual([...found], wanted);
});

test("numpy's header ends at a multiple of 64 and names type and shape", () => {
  for (const [data, shape, words] of [
    [Float32Array.of(1, 2, 3, 4), [2, 2], "'<f4', 'fortran_order': False, 'shape': (2, 2)"],
    [Int32Array.of(5), [1], "'<i4', 'fortran_order': False, 'shape': (1,)"],
    [Uint8Array.of(5), [], "'|u1', 'fortran_order': False, 'shape': ()"],
  ]) {
    const bytes = npy({ data, shape });
    const length = bytes[8] + 256 * bytes[9];
    const text = Buffer.from(bytes.subarray(10, 10 + length)).toString();
    assert.equal((10 + length) % 64, 0);
    assert.ok(text.includes(words) && text.endsWith("\n"), text);
    assert.deepEqual(bytes.subarray(10 + length), new Uint8Array(data.buffer));
  }
});

test("a zip holds its files with their check sums, found from its end", () => {
  const files = { "a.npy": Uint8Array.of(1, 2, 3), "b.npy": new Uint8Array(0) };
  const bytes = Buffer.from(zip(files));
  const end = bytes.length - 22;
  assert.deepEqual([bytes.readUInt32LE(end), bytes.readUInt16LE(end + 10)], [0x06054b50, 2]);
  let entry = bytes.readUInt32LE(end + 16);
  for (const [name, data] of Object.entries(files)) {
    const local = bytes.readUInt32LE(entry + 42);
    assert.equal(bytes.toString("utf8", entry + 46, entry + 46 + name.length), name);
    const check = bytes.readUInt32LE(entry + 16);
    assert.equal(check, zlib.crc32?.(data) ?? check); // node 20.15 is the first that has it
    const start = local + 30 + name.length;
    assert.deepEqual([...bytes.subarray(start, start + data.length)], [...data]);
    entry += 46 + name.length;
  }
});
