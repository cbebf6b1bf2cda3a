// The page's side of the worker: questions with a number, answers as promises.

export class Client {
  /** `code`: the text of the engine, as one script. */
  constructor(code) {
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    this.worker = new Worker(url);
    this.open = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.onerror = (event) => this.fail(event.message || "the worker cannot start");
  }

  ask(ask, facts = {}, progress = null, transfer = []) {
    return new Promise((accept, refuse) => {
      const id = ++this.count;
      this.open.set(id, { accept, refuse, progress });
      this.worker.postMessage({ id, ask, ...facts }, transfer);
    });
  }

  hear({ id, answer, error, progress }) {
    const waiting = this.open.get(id);
    if (progress !== undefined) return waiting?.progress?.(progress);
    this.open.delete(id);
    if (error) waiting?.refuse(new Error(error));
    else waiting?.accept(answer);
  }

  fail(message) {
    for (const { refuse } of this.open.values()) refuse(new Error(message));
    this.open.clear();
  }
}

/** Bytes of a file of the site, with the share that has arrived. */
export async function fetchBytes(url, size, progress) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  const found = new Uint8Array(size);
  let at = 0;
  for await (const part of partsOf(response.body)) {
    if (at + part.length > size) throw new Error(`${url} is longer than ${size} bytes`);
    found.set(part, at);
    at += part.length;
    progress(at / size);
  }
  if (at !== size) throw new Error(`${url} ended after ${at} of ${size} bytes`);
  return found.buffer;
}

async function* partsOf(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}
