// Run by probe.py inside the page: hands stored samples to the page's own classifier.js and worker.
// Tensors and probabilities travel as raw float32: as JSON a thousand photos would take minutes.
globalThis.probe = {
  /** What the backend would run on here; null: nothing. */
  async renderer(backend) {
    if (backend === "webgl") {
      const context = new OffscreenCanvas(1, 1).getContext("webgl2");
      const named = context?.getExtension("WEBGL_debug_renderer_info");
      return context ? context.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : context.RENDERER) : null;
    }
    if (backend === "webgpu") {
      const adapter = await navigator.gpu?.requestAdapter();
      return adapter ? `${adapter.info.vendor} ${adapter.info.architecture} ${adapter.info.description}`.trim() : null;
    }
    const isShared = globalThis.crossOriginIsolated && typeof SharedArrayBuffer !== "undefined";
    if (backend === "wasm-threads" && !(isShared && navigator.hardwareConcurrency > 1)) return null;
    return "the processor";
  },

  async load({ page, backend }) {
    const { Classifier } = await import(`${page}classifier.js`);
    this.classifier = await Classifier.load({ backends: [backend], software: true });
    const { load_ms, first_ms, classes, threads } = this.classifier;
    return { load_ms, first_ms, classes, threads };
  },

  async tensors() {
    return (await this.classifier.ask("memory")).tensors;
  },

  /**
   * The files lie one after the other at the url: tensors to predict, or encoded photos to classify. What the page refuses
   * has its reason in `refused`, and NaN for its probabilities.
   */
  async answers({ task, url, lengths, classes }) {
    const response = await fetch(url, { cache: "no-store" });
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    const all = await response.arrayBuffer();
    const rows = [], ms = [], conclusive = [], offList = [], names = [], refused = [];
    let end = 0;
    for (const length of lengths) {
      const file = all.slice(end, (end += length));
      let result = { probabilities: new Float32Array(classes).fill(NaN), ms: 0 }, reason = null;
      try {
        result = task === "predict"
          ? await this.classifier.ask("predict", { values: new Float32Array(file) })
          : await this.classifier.classify(new Blob([file]));
      } catch (error) {
        reason = error.message || String(error);
      }
      refused.push(reason);
      rows.push(result.probabilities);
      ms.push(result.ms);
      conclusive.push(result.conclusive ?? null);
      offList.push(result.offList ?? null);
      names.push(result.species?.[0].latin_name ?? null);
    }
    return { probabilities: await this.base64(new Blob(rows)), ms, conclusive, off_list: offList, names, refused };
  },

  base64(blob) {
    return new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.split(",")[1]);
      reader.readAsDataURL(blob);
    });
  },
};
