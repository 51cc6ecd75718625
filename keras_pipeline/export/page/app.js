import { Classifier } from "./classifier.js";
import { messages, prefer, preferred, reason } from "./messages.js";

const $ = (id) => document.getElementById(id);
const BACKENDS = { wasm: "WebAssembly", "wasm-threads": "WebAssembly (threads)", webgl: "WebGL", webgpu: "WebGPU", cpu: "JavaScript" };
const DETAILS_MS = 200; // An answer waits so long for common names.
let language = preferred();
let say = messages[language];
let classifier = null;
let current = 0; // Number of the photo asked about last: an answer to an earlier one is dropped.
let told = () => {}; // Says again what is on the page, in another language.
let photo = null;
let proof = () => ""; // Says what was checked against Python.

/** state: loading | ready | working | answered | failed; the style sheet and the tests read it. */
function show(state, message) {
  document.body.dataset.state = state;
  $("status").textContent = message;
}

/** Texts and {latin: name}s as nodes. */
function words(parts) {
  return parts.map((part) => {
    if (typeof part === "string") return part;
    const name = document.createElement("em");
    name.lang = "la";
    name.textContent = part.latin;
    return name;
  });
}

/** A text that breaks after blanks and underscores alone: the style sheet keeps each of its words on one line. */
function unbroken(text) {
  return text.split(/(?<=[ _])/).flatMap((part) => {
    const word = document.createElement("span");
    word.textContent = part.trimEnd();
    return [word, part.endsWith(" ") ? " " : document.createElement("wbr")];
  });
}

/** A detail of the collection's own, if it is a text; `textContent` alone shows it, so that it can't become markup. */
const commonName = ({ common_name }) => (typeof common_name === "string" ? common_name.trim() : "");

function speciesRow(entry, threshold) {
  const { latin_name, probability } = entry;
  const row = $("row").content.cloneNode(true);
  row.querySelector(".name").textContent = latin_name;
  row.querySelector(".name").lang = "la";
  row.querySelector(".common").textContent = commonName(entry);
  row.querySelector(".percent").textContent = say.percent(probability);
  row.querySelector(".fill").style.width = `${probability * 100}%`;
  row.querySelector(".mark").style.left = `${threshold * 100}%`; // hidden where it is null
  row.querySelector("li").dataset.probability = probability;
  return row;
}

function showAnswer({ species, probability, conclusive, offList, threshold, genus, family, promise, ms }) {
  const [best] = species;
  const rank = genus.conclusive ? "genus" : family?.conclusive ? "family" : null;
  const taxon = { genus, family }[rank];
  const percent = say.percent(probability);
  const verdict = conclusive ? best.latin_name : rank ? say.taxonVerdict(taxon.name) : offList ? say.offList : say.notConclusive;
  $("verdict").replaceChildren(...unbroken(verdict));
  $("verdict").className = conclusive ? "latin" : "";
  $("verdict").lang = conclusive ? "la" : language;
  const common = conclusive ? commonName(best) : "";
  $("common").textContent = common;
  if (conclusive) $("sure").textContent = say.sure(percent).replace(/^./, (letter) => letter.toUpperCase());
  else if (rank)
    $("sure").replaceChildren(...words(say.taxon(rank, taxon.name, say.percent(taxon.probability), best.latin_name)));
  else if (offList) $("sure").textContent = say.offListHint;
  else $("sure").replaceChildren(...words(say[threshold === null ? "candidate" : "doubt"](best.latin_name, percent)));
  $("promise").textContent = promise === null ? "" : say.promise(promise);
  // Bars would claim what the verdict denies.
  $("species").replaceChildren(...(offList ? [] : species).map((entry) => speciesRow(entry, threshold)));
  $("threshold").textContent = offList ? "" : threshold === null
    ? say.noThreshold
    : say.legend(`${(Math.round(threshold * 1000) / 10).toLocaleString(language)}\u00a0%`);
  $("took").textContent = say.took(Math.round(ms), BACKENDS[classifier.backend]);
  $("answer").dataset.conclusive = conclusive ? "species" : rank ?? "none";
  $("answer").dataset.offList = Boolean(offList);
  $("answer").dataset.threshold = offList ? "none" : threshold ?? "none";
  const sure = conclusive ? percent : rank ? say.percent(taxon.probability) : null;
  const announced = sure ? say.answered(common ? `${verdict} (${common})` : verdict, sure) : `${verdict}. ${$("sure").textContent}`;
  show("answered", `${announced} ${$("promise").textContent}`.trim());
}

async function ask(file) {
  const asked = ++current;
  photo = file;
  URL.revokeObjectURL($("photo").src);
  $("photo").src = URL.createObjectURL(file);
  $("photo").alt = say.photoChosen;
  $("choose-label").textContent = say[($("choose-label").dataset.t = "another")];
  told = () => show("working", say.working);
  told();
  try {
    const answer = await classifier.classify(file, { region: $("region").value || null, details: false });
    const detailed = classifier.detailed(answer).catch(() => answer);
    const shown = await Promise.race([detailed, new Promise((resolve) => setTimeout(resolve, DETAILS_MS, answer))]);
    if (asked === current) told = () => showAnswer(shown);
    if (shown === answer) detailed.then((whole) => whole !== answer && asked === current && showLater(whole));
  } catch (error) {
    if (asked === current) told = () => show("failed", say.notRead(file.name ?? "", reason(error, language)));
  }
  if (asked === current) told();
}

/** The same answer, now with common names. */
function showLater(answer) {
  told = () => showAnswer(answer);
  told();
}

/** The page in the visitor's language; what was said already is said again. */
function translate() {
  say = messages[language];
  document.documentElement.lang = language;
  document.title = say.title;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = say[element.dataset.t];
  const other = Object.keys(messages).find((tag) => tag !== language);
  Object.assign($("language"), { textContent: messages[other].language, lang: other });
  $("species").setAttribute("aria-label", say.species);
  const list = (tag, texts) => texts.map((text) => Object.assign(document.createElement(tag), { textContent: text }));
  $("waiting").replaceChildren(...list("p", say.waiting));
  $("tips").replaceChildren(...list("li", say.tips));
  if (classifier) $("count").textContent = say.count(classifier.classes.length);
  $("proof").textContent = proof();
  if ($("offline").textContent) $("offline").textContent = say.offline;
  if (photo) $("photo").alt = say.photoChosen;
  told();
}

function listen() {
  for (const input of [$("choose"), $("camera")]) {
    input.addEventListener("change", () => {
      if (input.files.length) ask(input.files[0]);
      input.value = ""; // The same file again counts as a new choice.
    });
  }
  $("region").addEventListener("change", () => photo && ask(photo));
  $("language").addEventListener("click", () => {
    language = $("language").lang;
    prefer(language);
    translate();
  });
  $("retry").addEventListener("click", start);
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    document.body.classList.remove("dragging");
    if (classifier && event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (!classifier) return;
    const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (file) return ask(file);
    told = () => show("failed", say.noPhotoPasted);
    told();
  });
}

/** The proof is made after the bundle, so a bundle without one is told by silence. */
async function showProof() {
  const response = await fetch("equivalence.json").catch(() => null);
  if (!response?.ok) return;
  const { passed, browser, backends, other_browsers = [], files } = await response.json();
  const tests = [{ browser, backends }, ...other_browsers];
  // A graphics card adds in another order than its emulation.
  const counts = (name, result) => result && !(name.startsWith("webg") && result.software);
  const asked = (name) => tests.filter(({ backends }) => counts(name, backends[name]));
  const used = classifier.backend;
  const backend = asked(used).length ? used : "wasm";
  const tested = asked(backend);
  // Of other files, or where the browser hides the hash (plain http from another machine), nothing is claimed.
  if (!passed || !tested.length || files.list_sha256 !== classifier.files_sha256) return;
  const n = Math.min(...tested.map(({ backends }) => backends[backend].n));
  const names = tested.map(({ browser: { name, version } }) => `${name} ${version.match(/^\d\d+|^\d+\.\d+|^\d+/)}`);
  const verdict = () => {
    if (!tested.some(({ browser }) => browser.name === engine())) return say.otherBrowser(engine());
    return backend === used ? say.sameAnswers : say.otherBackend(BACKENDS[used]);
  };
  proof = () => say.proof(n, new Intl.ListFormat(language).format(names), BACKENDS[backend]) + verdict();
  $("proof").textContent = proof();
}

/** The browser whose engine this is, named as in equivalence.json: Chrome, Edge and Opera run on Chromium's. */
function engine() {
  const known = {
    Firefox: /Firefox\//, Chromium: /Chrome\//, WebKitGTK: /X11;.* Version\/.* Safari\//,
    Safari: /Version\/.* Safari\//, WebKit: /AppleWebKit\//,
  };
  return Object.keys(known).find((name) => known[name].test(navigator.userAgent)) ?? "?";
}

/** After the first visit the page needs no network: sw.js keeps its files. */
async function keepOffline() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    await navigator.serviceWorker.ready;
    $("offline").textContent = say.offline;
  } catch {
    // Private windows and plain http from another machine have none; the page works, online.
  }
}

async function start() {
  $("retry").hidden = true;
  told = () => show("loading", say.loading);
  told();
  const onProgress = (fraction) => {
    $("progress").value = fraction;
    if (document.body.dataset.state === "loading") $("status").textContent = say.loadingOf(Math.floor(fraction * 100));
  };
  try {
    classifier = await Classifier.load({ onProgress });
  } catch (error) {
    $("retry").hidden = false;
    told = () => show("failed", say.notLoaded(reason(error, language)));
    return told();
  }
  $("choose").disabled = $("camera").disabled = false;
  for (const name of classifier.regions) $("region").add(new Option(name, name));
  $("region").closest("p").hidden = !classifier.regions.length;
  document.body.dataset.backend = classifier.backend;
  told = () => show("ready", say.ready);
  translate();
  return Promise.all([showProof(), keepOffline()]);
}

listen();
translate();
start();
