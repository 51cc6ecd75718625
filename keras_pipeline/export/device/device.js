// Asks the page in page/ about made photos on each backend that this device has, and compares with Python's answers.
// The verdict is judged again by `phase6 validate --verdict`, with the schema of keras_pipeline/export/device_verdict.py.
import { Classifier } from "./page/classifier.js";
import { HASHED_BY, sha256 } from "./sha256.js";

const $ = (id) => document.getElementById(id);
const TOP = 5;
const TIMEOUT_MS = 180_000; // of one answer; a phone's plain JavaScript takes seconds

/** Printable ASCII without what begins markup: all that a verdict may hold. */
const plain = (value) => String(value ?? "").replace(/[^ -~]|[&<>`]/g, "?").slice(0, 300);

async function fetched(path) {
  const response = await fetch(path, { cache: "no-store" });
  if (!response.ok) throw new Error(`${path}: the server answered ${response.status}`);
  return response.arrayBuffer();
}

const parsed = (buffer) => JSON.parse(new TextDecoder().decode(buffer));

function within(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)), TIMEOUT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function tell(words, fraction) {
  $("status").textContent = words;
  $("progress").value = fraction;
}

/** Every file of files.json, hashed here: {files_sha256, files}. */
async function checkFiles() {
  const list = await fetched("page/files.json"), wrong = [];
  const entries = Object.entries(parsed(list));
  for (const [number, [name, { sha256: expected }]] of entries.entries()) {
    tell("Checking the files of the page…", 0.3 * number / entries.length);
    const found = await fetched(`page/${name}`).then(sha256, () => null);
    if (found !== expected && wrong.length < 100) wrong.push(plain(name));
  }
  return { files_sha256: await sha256(list), files: { n: entries.length, wrong, hashed_by: HASHED_BY } };
}

/** What the page sees of each photo: [{name, pixels, refused}]. */
async function look(classifier, photos) {
  const seen = [];
  for (const { name, blob } of photos) {
    try {
      const { pixels } = await within(classifier.ask("seen", { picture: blob }));
      seen.push({ name, pixels: await sha256(pixels), refused: null });
    } catch (error) {
      seen.push({ name, pixels: null, refused: plain(error.message) });
    }
  }
  return seen;
}

function compare(name, { probabilities, ms }, expected) {
  const largest = probabilities.reduce((most, p, i) => Math.max(most, Math.abs(p - expected[i])), 0);
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  return { name, top: order.slice(0, TOP).map((i) => [i, probabilities[i]]), max_abs_diff: largest, ms };
}

/**
 * {backend: its answers, seen} or {missing: why there are none}.
 *
 * seen: of an earlier backend, which all have in common, or null.
 */
async function ask({ name, photos: count }, photos, expected, seen) {
  const renderer = await within(globalThis.probe.renderer(name)).catch(() => null);
  if (renderer === null) return { missing: { name, why: "not in this browser, or not without HTTPS" } };
  const found = { name, renderer: plain(renderer), load_ms: null, first_ms: null, answers: [], error: null };
  let classifier = null;
  try {
    classifier = await within(Classifier.load({ backends: [name], software: true }));
    found.load_ms = classifier.load_ms;
    found.first_ms = classifier.first_ms;
    seen ??= await look(classifier, photos);
    for (const photo of photos.filter(({ row }) => row !== null).slice(0, count)) {
      const refusal = seen.find((each) => each.name === photo.name).refused;
      if (refusal) continue; // a difference by itself, unless the browser decodes the photo
      found.answers.push(compare(photo.name, await within(classifier.classify(photo.blob)), expected(photo.row)));
    }
  } catch (error) {
    found.error = plain(error.message);
  }
  classifier?.close();
  return { backend: found, seen };
}

function untested() {
  const list = ["the service worker, which keeps the page for use without a network"];
  if (!globalThis.isSecureContext) list.push("WebGPU and the browser's own hashes: both need HTTPS");
  if (!globalThis.crossOriginIsolated) list.push("threads: they need a server that isolates the page, and HTTPS");
  return list.map(plain);
}

async function check() {
  const probe = parsed(await fetched("probe.json"));
  const answers = new Float32Array(await fetched("expected.bin"));
  const expected = (row) => answers.subarray(row * probe.classes, (row + 1) * probe.classes);
  const { files_sha256, files } = await checkFiles();
  const photos = [];
  let hashes = "";
  for (const [number, photo] of probe.photos.entries()) {
    const file = await fetched(`photos/${number}`);
    hashes += await sha256(file);
    photos.push({ ...photo, blob: new Blob([file]) });
  }
  const verdict = {
    format: probe.format,
    date: `${new Date().toISOString().slice(0, 19)}Z`,
    bundle: { files_sha256, photos_sha256: await sha256(new TextEncoder().encode(hashes)) },
    device: {
      user_agent: plain(navigator.userAgent), cores: navigator.hardwareConcurrency ?? null,
      secure_context: globalThis.isSecureContext ?? false, isolated: globalThis.crossOriginIsolated ?? false,
    },
    files,
    photos: photos.map(({ name }) => ({ name, pixels: null, refused: "no backend started" })),
    backends: [],
    missing: [],
    untested: untested(),
  };
  let seen = null;
  for (const [number, backend] of probe.backends.entries()) {
    tell(`Asking ${backend.name}…`, 0.3 + 0.7 * number / probe.backends.length);
    const found = await ask(backend, photos, expected, seen);
    if (found.missing) verdict.missing.push(found.missing);
    else verdict.backends.push(found.backend);
    seen ??= found.seen ?? null;
  }
  verdict.photos = seen ?? verdict.photos;
  return { probe, verdict };
}

/** What was found, as sentences, and whether it is what Python says. */
function summary({ probe, verdict }) {
  const same = new Set(probe.photos.filter(({ name, pixels, refused }, i) =>
    verdict.photos[i].pixels === pixels && verdict.photos[i].refused === refused).map(({ name }) => name));
  const lines = [], ours = probe.photos.filter(({ by_browser }) => !by_browser), theirs = probe.photos.length - ours.length;
  const equal = ours.filter(({ name }) => same.has(name)).length;
  lines.push(`Files: ${verdict.files.n - verdict.files.wrong.length} of ${verdict.files.n} unchanged.`);
  lines.push(`Photos seen as in Python: ${equal} of ${ours.length}; of those that the browser decodes, ${same.size - equal} of ${theirs}.`);
  let agrees = !verdict.files.wrong.length && equal === ours.length && verdict.backends.length > 0;
  for (const { name, renderer, answers, error } of verdict.backends) {
    const { limit } = probe.backends.find((backend) => backend.name === name);
    const largest = Math.max(0, ...answers.filter((answer) => same.has(answer.name)).map((answer) => answer.max_abs_diff));
    lines.push(`${name} (${renderer}): ${error ?? `${answers.length} photos, probabilities differ by up to ${largest.toExponential(1)}`}.`);
    agrees &&= !error && largest <= limit;
  }
  for (const { name, why } of verdict.missing) lines.push(`${name}: ${why}.`);
  return { lines, agrees };
}

function list(id, lines) {
  $(id).replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
}

function show(found) {
  const { lines, agrees } = summary(found), text = JSON.stringify(found.verdict, null, 1);
  document.body.dataset.agrees = agrees;
  $("summary").textContent = agrees ? "The same answers as in Python." : "Other answers than in Python, or none.";
  list("compared", lines);
  list("untested", found.verdict.untested);
  $("text").value = text;
  $("save").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  $("save").download = `verdict-${found.verdict.date.replaceAll(":", "")}.json`;
  $("result").hidden = false;
  document.body.dataset.state = "done";
  tell("Done.", 1);
}

$("start").addEventListener("click", async () => {
  $("start").disabled = true;
  document.body.dataset.state = "working";
  try {
    show(await check());
  } catch (error) {
    document.body.dataset.state = "failed";
    $("status").textContent = `The check could not be made: ${error.message}.`;
  }
  $("start").disabled = false;
});
