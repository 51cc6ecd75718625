// The classifier for any page of the same site:
//
//   import { Classifier } from "./classifier.js";
//   const classifier = await Classifier.load();
//   const { species, probability, conclusive } = await classifier.classify(fileOrBlob);
//
// `species` is [{latin_name, probability}], likeliest first; probabilities are calibrated; `conclusive` says whether
// the first reaches the threshold under which the model had better not be believed. Errors reject with a sentence.

const TOP = 5;

export class Classifier {
  #worker = new Worker(new URL("worker.js", import.meta.url));
  #waiting = new Map();
  #nextId = 0;

  /** backend: "wasm"; onProgress: called with 0..1 while the model loads. */
  static async load({ backend = "wasm", onProgress } = {}) {
    const classifier = new Classifier();
    try {
      Object.assign(classifier, await classifier.ask("load", { backend }, onProgress));
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

  /** A photo (File or Blob) -> {species, probability, conclusive, probabilities, ms}. */
  async classify(blob) {
    const { probabilities, ms } = await this.ask("classify", { blob });
    const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
    const species = order.slice(0, TOP).map((i) => ({ latin_name: this.classes[i], probability: probabilities[i] }));
    // Probabilities are float32, so the threshold is compared as one, as in the SavedModel.
    const conclusive = species[0].probability >= Math.fround(this.threshold);
    return { species, probability: species[0].probability, conclusive, probabilities, ms };
  }

  /** One message to the worker; see worker.js. */
  ask(task, details = {}, onProgress = undefined) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve, reject, onProgress });
      this.#worker.postMessage({ id, task, ...details });
    });
  }

  close() {
    this.#worker.terminate();
  }
}
