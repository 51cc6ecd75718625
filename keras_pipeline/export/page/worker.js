"use strict";
// Decode, resize and classify away from the page's own thread, so that the page stays responsive.
// Messages in: {id, task: "load" | "classify" | "predict" | "memory", ...}; out: {id, answer | error | progress}.

const SCRIPTS = {
  core: ["vendor/tf-core.es2017.min.js", "vendor/tf-converter.es2017.min.js", "preprocess.js", "jpeg.js"],
  webgl: ["vendor/tf-backend-webgl.es2017.min.js"],
  webgpu: ["vendor/tf-backend-webgpu.es2017.min.js"],
  cpu: ["vendor/tf-backend-cpu.es2017.min.js"],
};
const MODEL = "model/model.json";
const NAMES = "names.txt";
const JPEG_DECODER = "vendor/jpeg-turbo.wasm";
const TAKEN_IN_LATER = { // with the first photo that needs it: the library, and scripts
  PNG: ["vendor/squoosh_png_bg.wasm", "png.js"],
  WebP: ["vendor/webp_dec.wasm", "emscripten.js", "webp.js"],
  profile: ["vendor/lcms.wasm", "emscripten.js", "profile.js"],
};
const SRGB = "srgb.icc";
const MOST_THREADS = 4;
const THREADS_START_MS = 10_000; // A thread that has not started by then never will.
const FAST_MS = 60; // A backend that answers in less is taken without trying the others.
const STRIP = 1 << 22; // pixels of a photo that are read at once: 16 MB
const UNTOLD = 5e-4; // Smaller probabilities of the self-test are told by their sum.
const SAME = 1e-3; // A probability of the self-test may differ by so much; WebAssembly differs by 1e-6.

let base = null; // where these files lie
let decoder = null; // libjpeg-turbo, compiled
let listed = {}; // files.json
const taken = {}; // what was taken in later, by name
let loaded = null; // {backend, model, input, outputs, names, calibration, preprocessing, regions, about, files_sha256, test}

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

/**
 * names.txt -> {sha256, hasDetails, classes, ranks: {genus, [family]}}, the taxon of each class; see export/names.py.
 *
 * A line is `name[\tgenus[\tfamily]]`. A name that begins with a blank has the first word of the name above it. A genus that
 * isn't told is the first word of the name; a family that isn't told is that of the line above.
 */
function readNames(text) {
  const [header, ...lines] = text.split("\n").slice(0, -1);
  const [sha256, ...told] = header.split(" ");
  const names = { sha256, hasDetails: told.includes("details"), classes: [], ranks: { genus: [] } };
  if (told.includes("families")) names.ranks.family = [];
  let first = "", family = "";
  for (const line of lines) {
    const [written, genus = "", own = family] = line.split("\t");
    const name = written.startsWith(" ") ? first + written : written;
    [first] = name.split(" ", 1);
    family = own;
    names.classes.push(name);
    names.ranks.genus.push(genus || first);
    names.ranks.family?.push(family);
  }
  return names;
}

/** The model says which class list it was trained on; another list would put wrong names on right answers. */
async function checkNames({ sha256: told, classes }, model) {
  const outputs = model.modelSignature.outputs.probabilities.tensorShape.dim.at(-1).size;
  if (Number(outputs) !== classes.length) throw new Error(`${classes.length} names for ${outputs} answers`);
  const list = new TextEncoder().encode(`[${classes.map((name) => JSON.stringify(name)).join(", ")}]`); // as Python writes it
  const expected = model.metadata.labels_sha256;
  const isOther = told !== expected || (self.crypto.subtle && (await sha256(list)) !== expected);
  if (isOther) throw new Error(`${NAMES} belongs to another model`);
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
  if (!SCRIPTS[backend]) return startWasm(backend === "wasm-threads");
  importScripts(...SCRIPTS[backend].map(here));
  return tf.setBackend(backend);
}

/**
 * Threads need memory that they share, which browsers give to pages that their server isolates from other sites. A worker
 * may only come from the page's own host.
 */
async function startWasm(isThreaded) {
  const cores = typeof SharedArrayBuffer === "undefined" ? 1 : self.navigator.hardwareConcurrency; // WebKitGTK has none
  if (isThreaded && !(self.crossOriginIsolated && cores > 1 && new URL(base).origin === self.origin)) return false;
  const known = tf.findBackendFactory("wasm");
  if (known) { // with threads it did not start, or gave other answers
    tf.removeBackend("wasm");
    tf.registerBackend("wasm", known);
  } else {
    importScripts(here("vendor/tf-backend-wasm.es2017.min.js"));
    tf.wasm.setWasmPaths(here("vendor/"));
  }
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", isThreaded);
  if (!isThreaded) return tf.setBackend("wasm");
  tf.wasm.setThreadsCount(Math.min(MOST_THREADS, Math.max(2, cores >> 1)));
  return (await startThreads()) && tf.wasm.getThreadsCount() > 1;
}

/** Whether the threads run; the error of one that does not is kept from ending the page. */
async function startThreads() {
  let fail, timer;
  const failed = new Promise((resolve) => { fail = resolve; });
  const listener = (event) => {
    event.preventDefault();
    fail(false);
  };
  self.addEventListener("error", listener);
  timer = setTimeout(fail, THREADS_START_MS, false);
  const started = await Promise.race([tf.setBackend("wasm"), failed]);
  clearTimeout(timer);
  if (started) self.removeEventListener("error", listener); // the others may fail later
  return started;
}

/**
 * {first_ms, ms} of the stored photo; throws where the answer isn't the stored one.
 *
 * again: asks twice, because the first answer takes longer; where nothing is to be compared, that is the visitor's time.
 */
async function selfTest(backend, again) {
  const { photo, probabilities, others, off_list_score: score = null } = loaded.test;
  const first = await classify({ picture: photo });
  const second = again ? await classify({ picture: photo }) : first;
  const told = Float32Array.from(second.probabilities, (p, i) => probabilities[i] ?? Math.min(p, UNTOLD));
  const rest = second.probabilities.reduce((sum, p, i) => (i in probabilities ? sum : sum + p), 0);
  const difference = second.probabilities.reduce((most, p, i) => Math.max(most, Math.abs(p - told[i])), Math.max(Math.abs(rest - others), Math.abs(score - second.offListScore)));
  if (!(difference <= SAME)) throw new Error(`${backend} gave other answers than the model's own, by ${difference}`);
  return { first_ms: first.model_ms, ms: second.model_ms, difference };
}

/**
 * From which probability on an answer is conclusive (null: never), and what that promises (null: the precision that was
 * asked for; a number: less, which phase5.accept_unmet accepts). `part`: calibration.json, or its genus, family or region_priors.
 */
function promise(part) {
  const threshold = part?.threshold ?? null;
  return { threshold, accepted: threshold !== null && part.target_met === false ? part.precision_lower_bound : null };
}

/** What every backend needs, fetched together; `coming`: {name: promise of its bytes} of what was asked for before. */
async function fetchAll(coming, tellProgress) {
  const part = (name) => (coming[name] ??= bytes(name));
  const names = ["calibration.json", "preprocessing.json"];
  const [files, about, turbo, test, photo, ...buffers] = await Promise.all(
    ["files.json", "about.json", JPEG_DECODER, "selftest.json", "selftest.jpg", ...names].map(part));
  const assets = Object.fromEntries(names.map((name, i) => [name, buffers[i]]));
  const [calibration, preprocessing] = buffers.map(parsed);
  if (calibration.region_priors?.ship) assets["priors.json"] = await bytes("priors.json");
  const regions = assets["priors.json"] ? parsed(assets["priors.json"]).regions : [];
  listed = parsed(files);
  const checks = [];
  const checked = async (name) => { // while others come
    const buffer = await part(name);
    checks.push(checkFile(here(name), buffer, listed).then(() => null, (error) => error));
    return buffer;
  };
  const fetchFunc = async (url) => {
    const buffer = await checked(url.slice(base.length));
    return { ok: true, status: 200, headers: new Headers(), arrayBuffer: async () => buffer, json: async () => parsed(buffer) };
  };
  const [artifacts, list] = await Promise.all([
    tf.io.http(here(MODEL), { onProgress: tellProgress, fetchFunc }).load(), checked(NAMES), checked("about.json"), checked(JPEG_DECODER)]);
  for (const error of await Promise.all(checks)) if (error) throw error;
  decoder = await WebAssembly.compile(turbo);
  return {
    artifacts, assets, names: readNames(new TextDecoder().decode(list)), calibration, preprocessing, regions, about: parsed(about),
    files_sha256: self.crypto.subtle ? await sha256(files) : null,
    test: { photo: new Blob([photo]), ...parsed(test) },
  };
}

async function load({ base: from, backends, software = false }, tellProgress) {
  const started = performance.now();
  base = from;
  // Asked for at once: scripts block this worker, but not what is on its way.
  const coming = Object.fromEntries(["files.json", MODEL, JPEG_DECODER, "calibration.json"].map((name) => [name, bytes(name)]));
  for (const each of Object.values(coming)) each.catch(() => {}); // told where it is waited for
  importScripts(...SCRIPTS.core.map(here));
  const fetching = fetchAll(coming, tellProgress);
  fetching.catch(() => {}); // the same
  const tried = [];
  let best = null;
  for (const backend of backends) {
    try {
      if (!(await start(backend, software))) {
        tried.push({ backend, why: "not on this device" });
        continue;
      }
      const { artifacts, assets, ...parts } = await fetching;
      const model = await tf.loadGraphModel({ load: async () => artifacts });
      await checkNames(parts.names, model);
      await checkAssets(assets, model.metadata);
      const { inputs, outputs } = model.modelSignature;
      const asked = [outputs.probabilities, outputs.off_list_score].flatMap((output) => output?.name ?? []);
      loaded = { backend, model, input: inputs.image.name, outputs: asked, ...parts };
      const found = await selfTest(backend, best !== null || backend.startsWith("webg"));
      tried.push({ backend, ...found });
      if (!best || found.ms < best.ms) {
        best?.loaded.model.dispose();
        best = { loaded, ...found };
      } else model.dispose();
      if (best.ms < FAST_MS || backend.startsWith("wasm")) break; // Plain JavaScript, the last, is slower than any.
    } catch (error) {
      await fetching; // its error is the reason, whatever else went wrong
      if (backends.length === 1) throw error;
      tried.push({ backend, why: error.message });
    }
  }
  if (!best) throw new Error(tried.map(({ backend, why }) => `${backend}: ${why}`).join("; "));
  loaded = best.loaded;
  await tf.setBackend(loaded.backend.split("-")[0]);
  return {
    backend: loaded.backend,
    threads: loaded.backend === "wasm-threads" ? tf.wasm.getThreadsCount() : 1,
    tried,
    files_sha256: loaded.files_sha256,
    about: loaded.about,
    classes: loaded.names.classes,
    ranks: loaded.names.ranks, // the taxon of each class
    hasDetails: loaded.names.hasDetails,
    regions: loaded.regions,
    promises: {
      species: promise(loaded.calibration),
      genus: promise(loaded.calibration.genus),
      family: promise(loaded.calibration.family),
      region: promise(loaded.calibration.region_priors),
    },
    offList: loaded.calibration.off_list?.threshold ?? null, // a photo with a higher score looks like none of the plants
    load_ms: performance.now() - started,
    first_ms: best.first_ms,
  };
}

/** Float32Array [S, S, 3], RGB 0..255 -> {probabilities: Float32Array [C], offListScore: null where the model has none, ms}. */
async function predict({ values }) {
  const size = loaded.preprocessing.image_size;
  if (values.length !== size * size * 3) throw new Error(`${values.length} values for a ${size} x ${size} picture`);
  const started = performance.now();
  const inputs = { [loaded.input]: tf.tensor(values, [1, size, size, 3]) };
  const results = [loaded.model.execute(inputs, loaded.outputs)].flat(); // of one output it returns the tensor itself
  tf.dispose(inputs);
  try {
    const [probabilities, score = [null]] = await Promise.all(results.map((result) => result.data()));
    return { probabilities, offListScore: score[0], ms: performance.now() - started };
  } finally {
    tf.dispose(results);
  }
}

/** Refuses a photo by its size. */
function check(width, height) {
  const { min_short_side, max_pixels } = loaded.preprocessing;
  if (width * height > max_pixels) throw new Error("too large");
  if (Math.min(width, height) < min_short_side) throw new Error("too small");
}

/** A script of the page, or a file of it by `read`, once; a failure is forgotten, so that the next photo tries again. */
function takenIn(name, read) {
  taken[name] ??= (async () => read(name))().catch((error) => {
    delete taken[name];
    throw error;
  });
  return taken[name];
}

function script(name) {
  return takenIn(name, () => {
    try {
      importScripts(here(name));
    } catch (error) {
      throw error.name === "NetworkError" ? new Error("no connection") : error;
    }
  });
}

function file(name) {
  return takenIn(name, async () => {
    const buffer = await bytes(name);
    await checkFile(here(name), buffer, listed);
    return buffer;
  });
}

/** The library's module, after its scripts. */
async function library(name) {
  const [path, ...scripts] = TAKEN_IN_LATER[name];
  for (const each of scripts) await script(each);
  return takenIn(name, async () => WebAssembly.compile(await file(path)));
}

/**
 * A photo as `preprocess.shrink` takes it, with its EXIF orientation: in sRGB, on white where transparent.
 *
 * JPEG, PNG and WebP are read by our own decoders, see keras_pipeline/data/photo.py; all else by the browser's, through a
 * canvas. Throws one of the `reasons` in messages.js.
 */
async function opened(picture) {
  if (!(picture instanceof Blob)) return openedByTheBrowser(picture);
  const photo = new Uint8Array(await picture.arrayBuffer());
  const header = jpeg.header(photo);
  if (header) return openedJpeg(photo, header);
  await script("chunks.js");
  const found = await chunks.read(photo);
  if (found) return openedChunks(found);
  const refusal = chunks.refusal(photo);
  if (refusal) throw new Error(refusal);
  return openedByTheBrowser(picture);
}

async function openedJpeg(photo, header) {
  if (header.unusual) throw new Error(header.unusual);
  const broken = header.isComplete ? "damaged" : "cut off";
  if (!header.width) throw new Error(broken);
  check(header.width, header.height);
  if (header.lacksScans || !(header.isComplete || header.hasCommonSampling)) throw new Error("cut off");
  const decoded = jpeg.decode(decoder, photo, header, loaded.preprocessing.short_side);
  if (!decoded) throw new Error(broken);
  return inSrgb({ ...decoded, isGrey: header.components === 1, isCmyk: header.components === 4 }, header);
}

async function openedChunks(found) {
  if (found.hasOtherColours) throw new Error("other colours");
  if (found.width) check(found.width, found.height);
  const module = await library(found.kind);
  const decoded = found.picture && (found.kind === "PNG" ? decodePng : decodeWebp)(module, found.picture);
  if (!decoded) throw new Error(found.isComplete ? "damaged" : "cut off");
  return inSrgb({ ...decoded, channels: 4, isGrey: found.isGrey, isOpaque: found.isOpaque }, found);
}

/** Decoded pixels, whose colours are converted strip by strip. */
async function inSrgb(decoded, { profile, orientation }) {
  const { pixels, width, height, channels } = decoded;
  const rectangle = (top, count, left, columns) => cut(pixels, width, channels, top, count, left, columns);
  if ((channels === 3 || decoded.isOpaque) && !profile.length)
    return { width, height, strip: rectangle, rows: height, channels, orientation };
  await script("colour.js");
  const colours = decoded.isGrey ? 1 : decoded.isCmyk ? 4 : 3;
  let toSrgb = null; // and where the profile is broken
  if (colour.counts(profile, colours)) {
    const [module, target] = [await library("profile"), new Uint8Array(await file(SRGB))];
    toSrgb = profileConverter(module, profile, colours, target);
  }
  const convert = colour.converter(decoded, toSrgb);
  const strip = (top, count, left, columns) => convert(rectangle(top, count, left, columns));
  return { width, height, strip, rows: Math.max(1, Math.floor(STRIP / width)), channels: 4, orientation };
}

function cut(pixels, width, channels, top, rows, left, columns) {
  if (columns === width) return pixels.subarray(top * width * channels, (top + rows) * width * channels);
  const part = new Uint8Array(rows * columns * channels);
  for (let y = 0; y < rows; y++) {
    const from = ((top + y) * width + left) * channels;
    part.set(pixels.subarray(from, from + columns * channels), y * columns * channels);
  }
  return part;
}

/** Read in strips: a phone's browser has no canvas for 60 megapixels, and 240 MB of pixels would end its tab. */
async function openedByTheBrowser(picture) {
  let bitmap = picture;
  if (picture instanceof Blob) {
    try {
      bitmap = await createImageBitmap(picture, { imageOrientation: "from-image" });
    } catch (error) {
      throw new Error("damaged", { cause: error });
    }
  }
  const { width, height } = bitmap;
  const close = () => bitmap.close();
  try {
    check(width, height);
    const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
    const context = new OffscreenCanvas(width, rows).getContext("2d", { alpha: false, willReadFrequently: true });
    await checkCanvas(context);
    const strip = (top, count, left, columns) => {
      context.fillStyle = "white";
      context.fillRect(0, 0, columns, count);
      context.drawImage(bitmap, left, top, columns, count, 0, 0, columns, count);
      return context.getImageData(0, 0, columns, count).data;
    };
    return { width, height, strip, rows, channels: 4, orientation: 1, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** Some browsers change what a page reads back from its canvas, so that visitors can't be told apart by it. */
async function checkCanvas(context) {
  const { width, height } = context.canvas;
  const pattern = new ImageData(Math.min(width, 16), Math.min(height, 16));
  for (let i = 0; i < pattern.data.length; i++) pattern.data[i] = i % 4 === 3 ? 255 : (i * 89 + (i >> 5) * 31) % 256;
  const bitmap = await createImageBitmap(pattern);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const found = context.getImageData(0, 0, pattern.width, pattern.height).data;
  if (found.some((value, i) => value !== pattern.data[i])) throw new Error("protected canvas");
}

/** What the model sees of a photo: Float32Array [S, S, 3]. */
async function tensorOf(picture) {
  const photo = await opened(picture);
  try {
    return preprocess.toTensor(photo, loaded.preprocessing, photo.orientation);
  } finally {
    photo.close?.();
  }
}

/** What Python calls `seen` of a photo: RGB {pixels, width, height}, upright, not cropped. */
async function seen({ picture }) {
  const photo = await opened(picture);
  try {
    return preprocess.upright(preprocess.shrink(photo, loaded.preprocessing.short_side), photo.orientation);
  } finally {
    photo.close?.();
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
  const view = new DataView(await file("priors.bin"));
  const species = loaded.names.classes.length;
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
  const { probabilities, offListScore, ms } = await predict({ values: await tensorOf(picture) });
  return {
    offListScore,
    probabilities: region === null ? probabilities : withPrior(probabilities, await ratios(region)),
    model_ms: ms,
    ms: performance.now() - started,
  };
}

/** What the collection knows besides of each class. No answer needs it, and it may be larger than the names. */
async function details() {
  const assets = { "labels.json": await bytes("labels.json") };
  await checkAssets(assets, loaded.model.metadata);
  return parsed(assets["labels.json"]).details;
}

const tasks = { load, classify, predict, seen, details, memory: () => ({ tensors: tf.memory().numTensors }) };

self.onmessage = async ({ data: { id, task, ...details } }) => {
  try {
    const answer = await tasks[task](details, (progress) => self.postMessage({ id, progress }));
    self.postMessage({ id, answer });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};
