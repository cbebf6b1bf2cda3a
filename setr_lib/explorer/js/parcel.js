// One file of JSON and arrays, as `packing.Parcel` writes it.

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

export function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).arrayBuffer();
}

export async function openParcel(bytes) {
  const buffer = await inflate(bytes);
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

export async function decodeJpeg(bytes) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
  const image = new Image();
  image.src = url;
  await image.decode();
  URL.revokeObjectURL(url);
  return image;
}

/** Three byte planes of differences along the rows -> scores (K,h,w). */
export function decodeScores(bytes, classes, h, w, step) {
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
