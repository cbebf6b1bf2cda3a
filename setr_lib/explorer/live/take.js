// A photograph from wherever the reader has it -> the pixels that the network reads.

/** Rows and columns of a picture fitted into [long, short] sides, as setr_lib's fit_inside. */
export function fitted([rows, cols], [long, short]) {
  const share = Math.min(long / Math.max(rows, cols), short / Math.min(rows, cols));
  return [rows, cols].map((side) => Math.max(1, Math.round(side * share)));
}

/** A Blob or a canvas -> {rgba, height, width, picture}: upright, fitted, on white. */
export async function takePicture(blob, base) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" }).catch(() => {
    throw new Error("this browser cannot read that picture; try a JPEG or a PNG");
  });
  const [height, width] = fitted([bitmap.height, bitmap.width], base);
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const picture = new Image();
  picture.src = canvas.toDataURL("image/png");
  await picture.decode();
  return { rgba: data, height, width, picture };
}

/** `call(file)` for every way in: the two buttons, a drop anywhere on the card, a paste. */
export function listenForPictures(card, inputs, call) {
  for (const input of inputs)
    input.addEventListener("change", () => {
      if (input.files[0]) call(input.files[0]);
      input.value = ""; // the same file may be chosen again
    });
  const over = (on) => (event) => {
    event.preventDefault();
    card.classList.toggle("over", on);
  };
  card.addEventListener("dragover", over(true));
  card.addEventListener("dragleave", over(false));
  card.addEventListener("drop", (event) => {
    over(false)(event);
    const file = [...event.dataTransfer.files].find(({ type }) => type.startsWith("image/"));
    if (file) call(file);
  });
  card.addEventListener("paste", (event) => {
    if (event.clipboardData.files[0]) call(event.clipboardData.files[0]);
  });
}
