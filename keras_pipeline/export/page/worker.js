"use strict";
// Decode, resize and classify away from the page's own thread, so that the page stays responsive.
// Messages in: {id, task: "load" | "classify" | "predict" | "memory", ...}; out: {id, answer | error | progress}.

const SCRIPTS = {
  core: ["vendor/tf-core.es2017.min.js", "vendor/tf-converter.es2017.min.js", "preprocess.js", "jpeg.js"],
  wasm: ["vendor/tf-backend-wasm.es2017.min.js"],
  webgl: ["vendor/tf-backend-webgl.es2017.min.js"],
  webgpu: ["vendor/tf-backend-webgpu.es2017.min.js"],
  cpu: ["vendor/tf-backend-cpu.es2017.min.js"],
};
const JPEG_DECODER = "vendor/jpeg-turbo.wasm";
const FAST_MS = 60; // A backend that answers in less is taken without trying the others.
const STRIP = 1 << 22; // pixels of a photo that are read at once: 16 MB
const SAME = 1e-3; // A probability of the self-test may differ by so much; WebAssembly differs by 1e-6.

let base = null; // where these files lie
let decoder = null; // libjpeg-turbo, compiled
let loaded = null; // {model, input, output, labels, calibration, preprocessing, regions, priors}

const here = (path) => new URL(path, base).href;

async function fetched(path) {
  const response = await fetch(here(path)).catch(() => null);
  if (!response) throw new Error("no connection");
  if (!response.ok) throw new Error(`${path}: the server answered ${response.status}`);
  return response;
}

const bytes = async (path) => (await fetched(path)).arrayBuffer();
const parsed = (buffer) => JSON.parse(new TextDecoder().decode(buffer));

async function sha256(buffer) {
  const digest = await self.crypto.subtle.digest("SHA-256", buffer);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The model says which class list it was trained on; another list would put wrong names on right answers. */
function checkLabels({ sha256, classes }, model) {
  const outputs = model.modelSignature.outputs.probabilities.tensorShape.dim.at(-1).size;
  if (Number(outputs) !== classes.length) throw new Error(`${classes.length} names for ${outputs} answers`);
  if (sha256 !== model.metadata.labels_sha256) throw new Error("labels.json belongs to another model");
}

/** Names, calibration and preprocessing of another export would make a right answer wrong. */
async function checkAssets(assets, { assets_sha256: expected }) {
  if (!self.crypto.subtle) return; // Plain http from another machine: browsers hide the hash there.
  for (const [name, buffer] of Object.entries(assets))
    if ((await sha256(buffer)) !== expected[name]) throw new Error(`${name} was altered after export`);
}

/** A weight that a disk or a proxy has changed may change few answers: the self-test alone would not notice. */
async function checkFile(url, buffer, files) {
  if (!self.crypto.subtle) return;
  const name = url.slice(base.length).split("?")[0];
  if ((await sha256(buffer)) !== files[name]?.sha256) throw new Error(`${name} was altered after export`);
}

const SOFTWARE = /swiftshader|llvmpipe|software|basic render/i;

/** Whether the backend starts, and on hardware: emulated, WebGL is ten times slower than WebAssembly. */
async function start(backend, software) {
  if (backend === "webgpu" && !software) {
    const adapter = await self.navigator.gpu?.requestAdapter();
    if (!adapter || adapter.isFallbackAdapter || adapter.info?.isFallbackAdapter) return false;
  }
  if (backend === "webgl" && !software) {
    const context = new OffscreenCanvas(1, 1).getContext("webgl2", { failIfMajorPerformanceCaveat: true });
    const named = context?.getExtension("WEBGL_debug_renderer_info");
    if (!context || SOFTWARE.test(named ? context.getParameter(named.UNMASKED_RENDERER_WEBGL) : "")) return false;
    context.getExtension("WEBGL_lose_context")?.loseContext();
  }
  importScripts(...SCRIPTS[backend].map(here));
  if (backend === "wasm") {
    tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // Threads need headers that a plain server does not send.
    tf.wasm.setWasmPaths(here("vendor/"));
  }
  return tf.setBackend(backend);
}

/**
 * {first_ms, ms} of the stored photo; throws where the answer isn't the stored one.
 *
 * again: asks twice, because the first answer takes longer; where nothing is to be compared, that is the visitor's time.
 */
async function selfTest(backend, again) {
  const { photo, probabilities } = loaded.test;
  const first = await classify({ picture: photo });
  const second = again ? await classify({ picture: photo }) : first;
  const difference = second.probabilities.reduce((most, p, i) => Math.max(most, Math.abs(p - probabilities[i])), 0);
  if (!(difference <= SAME)) throw new Error(`${backend} gave other answers than the model's own, by ${difference}`);
  return { first_ms: first.model_ms, ms: second.model_ms, difference };
}

/**
 * From which probability on an answer is conclusive (null: never), and what that promises (null: the precision that was
 * asked for; a number: less, which phase5.accept_unmet accepts). `part`: calibration.json, or its genus or region_priors.
 */
function promise(part) {
  const threshold = part?.threshold ?? null;
  return { threshold, accepted: threshold !== null && part.target_met === false ? part.precision_lower_bound : null };
}

async function load({ base: from, backends, software = false }, tellProgress) {
  const started = performance.now();
  base = from;
  importScripts(...SCRIPTS.core.map(here));
  const names = ["labels.json", "calibration.json", "preprocessing.json"];
  const [files, about, turbo, test, photo, ...buffers] = await Promise.all(
    ["files.json", "about.json", JPEG_DECODER, "selftest.json", "selftest.png", ...names].map(bytes));
  const assets = Object.fromEntries(names.map((name, i) => [name, buffers[i]]));
  const [labels, calibration, preprocessing] = buffers.map(parsed);
  if (calibration.region_priors?.ship) assets["priors.json"] = await bytes("priors.json");
  const regions = assets["priors.json"] ? parsed(assets["priors.json"]).regions : [];
  // Fetched once, whichever backends are tried.
  const listed = parsed(files);
  const checked = (name, buffer) => checkFile(here(name), buffer, listed).then(() => null, (error) => error);
  const checks = [checked("about.json", about), checked(JPEG_DECODER, turbo)]; // while others come
  const fetchFunc = async (url, options) => {
    const response = await fetch(url, options).catch(() => { throw new Error("no connection"); });
    if (!response.ok) return response;
    const buffer = await response.arrayBuffer();
    checks.push(checkFile(url, buffer, listed).then(() => null, (error) => error));
    return { ok: true, status: 200, headers: response.headers, arrayBuffer: async () => buffer, json: async () => parsed(buffer) };
  };
  const artifacts = await tf.io.http(here("model/model.json"), { onProgress: tellProgress, fetchFunc }).load();
  for (const error of await Promise.all(checks)) if (error) throw error;
  decoder = await WebAssembly.compile(turbo);
  const tried = [];
  let best = null;
  for (const backend of backends) {
    try {
      if (!(await start(backend, software))) {
        tried.push({ backend, why: "not on this device's hardware" });
        continue;
      }
      const model = await tf.loadGraphModel({ load: async () => artifacts });
      checkLabels(labels, model);
      await checkAssets(assets, model.metadata);
      const { inputs, outputs } = model.modelSignature;
      loaded = { backend, model, input: inputs.image.name, output: outputs.probabilities.name, labels, calibration, preprocessing, regions, test: { photo: new Blob([photo]), ...parsed(test) } };
      const found = await selfTest(backend, best !== null || backend.startsWith("webg"));
      tried.push({ backend, ...found });
      if (!best || found.ms < best.ms) {
        best?.loaded.model.dispose();
        best = { loaded, ...found };
      } else model.dispose();
      if (best.ms < FAST_MS || backend === "wasm") break; // Plain JavaScript, the last, is slower than any.
    } catch (error) {
      if (backends.length === 1) throw error;
      tried.push({ backend, why: error.message });
    }
  }
  if (!best) throw new Error(tried.map(({ backend, why }) => `${backend}: ${why}`).join("; "));
  loaded = best.loaded;
  await tf.setBackend(loaded.backend);
  return {
    backend: loaded.backend,
    tried,
    files_sha256: self.crypto.subtle ? await sha256(files) : null,
    about: parsed(about),
    classes: labels.classes,
    genera: labels.genera,
    details: labels.details ?? [],
    regions,
    promises: {
      species: promise(calibration),
      genus: promise(calibration.genus),
      region: promise(calibration.region_priors),
    },
    load_ms: performance.now() - started,
    first_ms: best.first_ms,
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

/** Refuses a photo by its size. */
function check(width, height) {
  const { min_short_side, max_pixels } = loaded.preprocessing;
  if (width * height > max_pixels) throw new Error("too large");
  if (Math.min(width, height) < min_short_side) throw new Error("too small");
}

/**
 * What the model sees of a photo: orientation applied, in sRGB, on white where transparent, no pixel left out.
 *
 * A JPEG in sRGB is read by our own decoder, see jpeg.js; any other picture by the browser's, through a canvas.
 */
async function seen(picture) {
  if (picture instanceof Blob) {
    const bytes = new Uint8Array(await picture.arrayBuffer());
    const header = jpeg.header(bytes);
    if (header && !header.hasProfile) {
      const decoded = jpeg.decode(decoder, bytes, loaded.preprocessing.short_side, check);
      if (decoded) {
        const { pixels, width, height } = decoded;
        const strip = (top, count, left, columns) => rectangle(pixels, width, top, count, left, columns);
        return preprocess.toTensor({ width, height, strip, rows: height, channels: 3 }, loaded.preprocessing, header.orientation);
      }
      if (!header.isComplete) throw new Error("not a photo");
    }
  }
  return seenByTheBrowser(picture);
}

function rectangle(pixels, width, top, rows, left, columns) {
  if (columns === width) return pixels.subarray(top * width * 3, (top + rows) * width * 3);
  const part = new Uint8Array(rows * columns * 3);
  for (let y = 0; y < rows; y++) {
    const from = ((top + y) * width + left) * 3;
    part.set(pixels.subarray(from, from + columns * 3), y * columns * 3);
  }
  return part;
}

/** Read in strips: a phone's browser has no canvas for 60 megapixels, and 240 MB of pixels would end its tab. */
async function seenByTheBrowser(picture) {
  let bitmap = picture;
  if (picture instanceof Blob) {
    try {
      bitmap = await createImageBitmap(picture, { imageOrientation: "from-image" });
    } catch (error) {
      throw new Error("not a photo", { cause: error });
    }
  }
  try {
    const { width, height } = bitmap;
    check(width, height);
    const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
    const context = new OffscreenCanvas(width, rows).getContext("2d", { alpha: false, willReadFrequently: true });
    const strip = (top, count, left, columns) => {
      context.fillStyle = "white";
      context.fillRect(0, 0, columns, count);
      context.drawImage(bitmap, left, top, columns, count, 0, 0, columns, count);
      return context.getImageData(0, 0, columns, count).data;
    };
    return preprocess.toTensor({ width, height, strip, rows, channels: 4 }, loaded.preprocessing);
  } finally {
    bitmap.close();
  }
}

/** Of a float16's 16 bits; not every browser has a Float16Array. */
function half(bits) {
  const fraction = bits & 0x3ff, exponent = (bits >> 10) & 0x1f; // infinity and NaN are never stored
  const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}

/** What a region adds to each log p. Fetched with the first question about a region: few visitors name one. */
async function ratios(region) {
  loaded.priors ??= bytes("priors.bin").then(async (buffer) => {
    await checkAssets({ "priors.bin": buffer }, loaded.model.metadata);
    return new DataView(buffer);
  });
  const view = await loaded.priors.catch((error) => {
    loaded.priors = null; // the next question tries again
    throw error;
  });
  const species = loaded.labels.classes.length;
  const first = loaded.regions.indexOf(region) * species;
  return Float32Array.from({ length: species }, (_, i) => half(view.getUint16(2 * (first + i), true)));
}

/** log p + what the region adds, with its own temperature, normalised; see evaluation/priors.py. */
function withPrior(probabilities, added) {
  const { calibration } = loaded;
  const sharper = calibration.temperature / calibration.region_priors.temperature;
  const logits = Float64Array.from(probabilities, (p, i) => Math.log(Math.max(p, 1e-38)) * sharper + added[i]);
  const most = logits.reduce((a, b) => Math.max(a, b));
  const weights = logits.map((z) => Math.exp(z - most));
  const total = weights.reduce((a, b) => a + b);
  return Float32Array.from(weights, (weight) => weight / total);
}

async function classify({ picture, region = null }) {
  const started = performance.now();
  const { probabilities, ms } = await predict({ values: await seen(picture) });
  return {
    probabilities: region === null ? probabilities : withPrior(probabilities, await ratios(region)),
    model_ms: ms,
    ms: performance.now() - started,
  };
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
