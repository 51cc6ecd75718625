import { Classifier } from "./classifier.js";

const $ = (id) => document.getElementById(id);
let classifier = null;
let current = 0; // Number of the photo asked about last: an answer to an earlier one is dropped.

/** state: loading | ready | working | answered | failed; the style sheet and the tests read it. */
function show(state, message) {
  document.body.dataset.state = state;
  $("status").textContent = message;
}

/** Rounded down, so that an answer just below the threshold is not shown as one that reaches it. */
function percent(probability) {
  if (probability > 0.99) return "over 99 %";
  if (probability < 0.01) return "under 1 %";
  return `${Math.floor(probability * 100 + 1e-4)} %`;
}

function speciesRow({ latin_name, probability }, threshold) {
  const row = $("row").content.cloneNode(true);
  row.querySelector(".name").textContent = latin_name;
  row.querySelector(".percent").textContent = percent(probability);
  row.querySelector(".fill").style.width = `${probability * 100}%`;
  row.querySelector(".mark").style.left = `${threshold * 100}%`;
  row.querySelector("li").dataset.probability = probability;
  return row;
}

function doubt({ latin_name, probability }) {
  const name = document.createElement("em");
  name.textContent = latin_name;
  const advice = "Try a sharper photo of one flower, close up, in daylight.";
  return ["It might be ", name, `, but ${percent(probability)} is too little to go by. ${advice}`];
}

function showAnswer({ species, probability, conclusive, ms }) {
  const [best] = species;
  $("verdict").textContent = conclusive ? best.latin_name : "Not conclusive";
  $("verdict").className = conclusive ? "latin" : "";
  if (conclusive) $("sure").textContent = `${percent(probability)} sure`.replace("over", "Over");
  else $("sure").replaceChildren(...doubt(best));
  $("species").replaceChildren(...species.map((entry) => speciesRow(entry, classifier.threshold)));
  $("took").textContent = `Answered in ${Math.round(ms)} ms, on this device.`;
  $("answer").dataset.conclusive = conclusive;
  show("answered", conclusive ? `${best.latin_name}, ${percent(probability)} sure.` : "Not conclusive.");
}

async function ask(file) {
  const asked = ++current;
  URL.revokeObjectURL($("photo").src);
  $("photo").src = URL.createObjectURL(file);
  show("working", "Looking at the photo…");
  try {
    const answer = await classifier.classify(file);
    if (asked === current) showAnswer(answer);
  } catch (error) {
    if (asked === current) show("failed", `“${file.name}”: ${error.message}. Please choose a JPEG, PNG or WebP photo.`);
  }
}

function listen() {
  const input = $("choose");
  input.addEventListener("change", () => {
    if (input.files.length) ask(input.files[0]);
    input.value = ""; // The same file again counts as a new choice.
  });
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
}

/** The proof is made after the bundle, so a bundle without one is told by silence. */
async function showProof() {
  const response = await fetch("equivalence.json").catch(() => null);
  if (!response?.ok) return;
  const { passed, backends } = await response.json();
  if (passed) $("proof").textContent = `Checked against the Python model on ${backends.wasm.n} photos: same answers. `;
}

async function start() {
  listen();
  const onProgress = (fraction) => ($("progress").value = fraction);
  try {
    classifier = await Classifier.load({ onProgress });
  } catch (error) {
    return show("failed", `The model could not be loaded: ${error.message}. Please reload the page.`);
  }
  $("choose").disabled = false;
  $("count").textContent = `${classifier.classes.length} species. `;
  $("threshold").textContent = `${Math.round(classifier.threshold * 100)} %`;
  show("ready", "Ready.");
  return showProof();
}

start();
