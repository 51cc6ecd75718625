// Run by equivalence.py inside the page: hands stored samples to the page's own classifier.js and worker.
// Tensors and probabilities travel as raw float32: as JSON a thousand photos would take minutes.
globalThis.probe = {
  async load({ page, backend }) {
    const { Classifier } = await import(`${page}classifier.js`);
    this.classifier = await Classifier.load({ backends: [backend], software: true });
    const { load_ms, first_ms, classes } = this.classifier;
    return { backend: this.classifier.backend, load_ms, first_ms, classes };
  },

  tensors() {
    return this.classifier.ask("memory").then(({ tensors }) => tensors);
  },

  /** The same float32 tensors that Python saw: `count` pictures of `length` numbers in one file. */
  async predict({ url, count, length }) {
    const all = new Float32Array(await this.bytes(url));
    return this.collect(count, (i) => this.classifier.ask("predict", { values: all.slice(i * length, (i + 1) * length) }));
  },

  /** Encoded photos, one after the other in one file, through the page's own decode and resize. */
  async classify({ url, lengths }) {
    const all = await this.bytes(url);
    let end = 0;
    return this.collect(lengths.length, (i) => {
      const start = end;
      end += lengths[i];
      return this.classifier.classify(new Blob([all.slice(start, end)]));
    });
  },

  async collect(count, answer) {
    const rows = [], ms = [], conclusive = [], names = [];
    for (let i = 0; i < count; i++) {
      const result = await answer(i);
      rows.push(result.probabilities);
      ms.push(result.ms);
      conclusive.push(result.conclusive);
      names.push(result.species?.[0].latin_name);
    }
    return { probabilities: await this.base64(new Blob(rows)), ms, conclusive, names };
  },

  async bytes(url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    return response.arrayBuffer();
  },

  base64(blob) {
    return new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.split(",")[1]);
      reader.readAsDataURL(blob);
    });
  },
};
