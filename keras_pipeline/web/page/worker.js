"use strict";
// Decode, resize and classify away from the page's own thread, so that the page stays responsive.
// Messages in: {id, task: "load" | "classify" | "predict" | "memory", ...}; out: {id, answer | error | progress}.

importScripts(
  "vendor/tf-core.es2017.min.js",
  "vendor/tf-converter.es2017.min.js",
  "vendor/tf-backend-wasm.es2017.min.js",
  "preprocess.js",
);

const here = (path) => new URL(path, self.location).href;
let loaded = null; // {model, input, output, labels, calibration, preprocessing}

async function readJson(path) {
  const response = await fetch(here(path));
  if (!response.ok) throw new Error(`${path}: the server answered ${response.status}`);
  return response.json();
}

/** The model says which class list it was trained on; another list would put wrong names on right answers. */
async function checkLabels({ sha256, classes }, model) {
  const outputs = model.modelSignature.outputs.probabilities.tensorShape.dim.at(-1).size;
  if (Number(outputs) !== classes.length) throw new Error(`${classes.length} names for ${outputs} answers`);
  if (sha256 !== model.metadata.labels_sha256) throw new Error("labels.json belongs to another model");
  if (!self.crypto.subtle) return; // Plain http from another machine: browsers hide the hash there.
  const text = `[${classes.map((name) => JSON.stringify(name)).join(", ")}]`;
  const digest = await self.crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  const found = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw new Error("labels.json was altered after export");
}

async function load({ backend }, tellProgress) {
  const started = performance.now();
  const names = ["labels.json", "calibration.json", "preprocessing.json"];
  const [labels, calibration, preprocessing] = await Promise.all(names.map(readJson));
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // Threads need headers that a plain static server does not send.
  tf.wasm.setWasmPaths(here("vendor/"));
  if (!(await tf.setBackend(backend))) throw new Error(`this browser cannot run the ${backend} backend`);
  const model = await tf.loadGraphModel(here("model/model.json"), { onProgress: tellProgress });
  await checkLabels(labels, model);
  const { inputs, outputs } = model.modelSignature;
  loaded = { model, input: inputs.image.name, output: outputs.probabilities.name, labels, calibration, preprocessing };
  const size = preprocessing.image_size;
  const { ms } = await predict({ values: new Float32Array(size * size * 3) }); // Compiles: the visitor does not wait.
  return {
    backend: tf.getBackend(),
    classes: labels.classes,
    threshold: calibration.threshold,
    load_ms: performance.now() - started,
    first_ms: ms,
  };
}

/** Float32Array [S, S, 3], RGB 0..255 -> {probabilities: Float32Array [C], ms}. */
async function predict({ values }) {
  const size = loaded.preprocessing.image_size;
  if (values.length !== size * size * 3) throw new Error(`${values.length} values for a ${size} x ${size} picture`);
  const started = performance.now();
  const result = tf.tidy(() => loaded.model.execute({ [loaded.input]: tf.tensor(values, [1, size, size, 3]) }, loaded.output));
  try {
    const probabilities = await result.data();
    return { probabilities, ms: performance.now() - started };
  } finally {
    result.dispose();
  }
}

/** A photo's pixels at their natural size, orientation applied, in sRGB, on white where transparent. */
async function uprightPixels(blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

async function classify({ blob }) {
  const started = performance.now();
  let image;
  try {
    image = await uprightPixels(blob);
  } catch (error) {
    throw new Error("not a photo this browser can read", { cause: error });
  }
  const values = preprocess.toTensor(image.data, image.width, image.height, loaded.preprocessing);
  const { probabilities } = await predict({ values });
  return { probabilities, ms: performance.now() - started };
}

const tasks = { load, classify, predict, memory: () => ({ tensors: tf.memory().numTensors }) };

self.onmessage = async ({ data: { id, task, ...details } }) => {
  try {
    const answer = await tasks[task](details, (progress) => self.postMessage({ id, progress }));
    self.postMessage({ id, answer });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};
