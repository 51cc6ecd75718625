// The classifier, for this page and for any other:
//
//   import { classify } from "/plants/classifier.js"; // wherever the exported folder lies
//   const { species, probability, conclusive } = await classify(image);
//
// `image` is a File or Blob of a photo, or anything that createImageBitmap takes (an <img>, a <canvas>, a video).
// `species` is [{latin_name, probability}], the five likeliest first; probabilities are calibrated. What the export knows
// besides of a species (`source.details`: its common_name, an id of yours) stands there too. `conclusive` says
// whether the first reaches `threshold`, under which the model had better not be believed; `threshold` is null, and no
// answer conclusive, where the model could not be shown to be right often enough. Where the species is not conclusive,
// `genus`, {name, probability, conclusive}, may be; where that isn't either, `family`, if the collection has families.
// `offList` says that the photo looks like none of the plants: then nothing is conclusive. It is null where the model can't tell.
// `promise` is null, or, where the model was shipped although it promises less than was asked for, the least share of
// cases in which such a conclusive answer is right.
//
// Errors reject with a sentence. For a page of another host the server that has these files must allow it
// (Access-Control-Allow-Origin).
//
// Classifier.load() says more: which backend, with how many threads, how long, `classify(image, {region})`, and `about`:
// {experiment, date, code, species, class_hash, test_photos, top1, ece, threshold, coverage} of the model.

const TOP = 5;
const BASE = new URL("./", import.meta.url).href;

/** Compared in float32, as in the SavedModel; null >= null is true. */
const reaches = (probability, threshold) => threshold !== null && Math.fround(probability) >= Math.fround(threshold);

let shared = null; // of `classify`, loaded once

/** See above; loads the model with the first photo. */
export async function classify(image) {
  shared ??= Classifier.load().catch((error) => {
    shared = null; // the next photo tries again
    throw error;
  });
  return (await shared).classify(image);
}

export class Classifier {
  #worker = startWorker();
  #waiting = new Map();
  #nextId = 0;
  #details = null; // of each class, a promise

  /**
   * backends: tried in this order, the first that is fast here and gives the stored answers is taken;
   * software: also where a backend is only emulated; onProgress: called with 0..1 while the model loads.
   */
  static async load({ backends = ["webgpu", "webgl", "wasm-threads", "wasm", "cpu"], software = false, onProgress } = {}) {
    const classifier = new Classifier();
    try {
      Object.assign(classifier, await classifier.ask("load", { base: BASE, backends, software }, [], onProgress));
      classifier.detailed({ species: [] }).catch(() => {}); // on their way, until the first photo is there
      return classifier;
    } catch (error) {
      classifier.close();
      throw error;
    }
  }

  constructor() {
    this.#worker.onmessage = ({ data: { id, answer, error, progress } }) => {
      const { resolve, reject, onProgress } = this.#waiting.get(id);
      if (progress !== undefined) return onProgress?.(progress);
      this.#waiting.delete(id);
      return error === undefined ? resolve(answer) : reject(new Error(error));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message || "a script did not load"));
      this.#waiting.clear();
    };
  }

  /**
   * A photo -> {species, probability, conclusive, offList, threshold, genus, [family, ]promise, probabilities, ms}.
   *
   * region: one of `regions` (empty where no priors are shipped): where the plant grew wild; null: a garden plant;
   * details: false: not to wait for them; `detailed(answer)` adds them.
   */
  async classify(image, { region = null, details = true } = {}) {
    if (region !== null && !this.regions.includes(region)) throw new Error(`${region}: not one of ${this.regions}`);
    const picture = image instanceof Blob ? image : await createImageBitmap(image, { imageOrientation: "from-image" });
    const { probabilities, offListScore, ms } = await this.ask("classify", { picture, region }, image instanceof Blob ? [] : [picture]);
    const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
    const species = order.slice(0, TOP).map((i) => ({ latin_name: this.classes[i], probability: probabilities[i] }));
    const [{ probability }] = species;
    const { threshold, accepted } = this.promises[region === null ? "species" : "region"];
    const offList = this.offList === null ? null : Math.fround(offListScore) > Math.fround(this.offList);
    const conclusive = !offList && reaches(probability, threshold);
    const above = {}; // genus, and family where the model knows it
    let answered = conclusive || offList, promise = conclusive ? accepted : null;
    for (const [rank, taxa] of Object.entries(this.ranks)) {
      const kept = this.promises[rank];
      above[rank] = likeliestTaxon(taxa, probabilities, answered || region !== null ? null : kept.threshold);
      if (above[rank].conclusive) [answered, promise] = [true, kept.accepted];
    }
    const answer = { species, probability, conclusive, offList, threshold, ...above, promise, probabilities, ms };
    return details ? this.detailed(answer) : answer;
  }

  /** An answer, and what the export knows besides of its species. */
  async detailed(answer) {
    if (!this.hasDetails) return answer;
    this.#details ??= this.ask("details").catch((error) => {
      this.#details = null; // the next answer tries again
      throw error;
    });
    const details = await this.#details;
    const species = answer.species.map((own) => {
      return { ...own, ...details[this.classes.indexOf(own.latin_name)], ...own }; // no detail takes the place of an answer
    });
    return { ...answer, species };
  }

  /** One message to the worker; see worker.js. */
  ask(task, details = {}, transfer = [], onProgress = undefined) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve, reject, onProgress });
      this.#worker.postMessage({ id, task, ...details }, transfer);
    });
  }

  close() {
    this.#worker.terminate();
  }
}

/** The taxon whose species have the largest sum of probabilities; threshold: null where it is not to be named. */
function likeliestTaxon(taxa, probabilities, threshold) {
  const sums = new Map();
  taxa.forEach((taxon, i) => sums.set(taxon, (sums.get(taxon) ?? 0) + probabilities[i]));
  const [name, probability] = [...sums].reduce((best, entry) => (entry[1] > best[1] ? entry : best));
  return { name, probability, conclusive: name !== "" && reaches(probability, threshold) };
}

/** A worker may only come from the page's own host; another's is fetched by one of our own. */
function startWorker() {
  const url = new URL("worker.js", BASE).href;
  if (new URL(url).origin === location.origin) return new Worker(url);
  return new Worker(URL.createObjectURL(new Blob([`importScripts(${JSON.stringify(url)});`], { type: "text/javascript" })));
}
