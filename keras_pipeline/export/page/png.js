"use strict";
// The decoder of PNG: the `png` library of Rust, whose bytes are Pillow's. Taken in by the worker with the first PNG.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

/**
 * RGBA {pixels: Uint8Array, width, height} of a PNG's bytes, 8 bits a channel (of 16 the upper); null where it can't be
 * decoded.
 */
function decodePng(module, bytes) {
  let png, memory, found = null; // an instance of its own for each photo: an error leaves one unusable
  const picture = (address, length, width, height) => {
    found = { pixels: memory().slice(address >>> 0, (address >>> 0) + length), width, height };
    png.__wbindgen_free(address, length, 1);
    return 1;
  };
  const fail = () => {
    throw new Error("undecodable");
  };
  const wbg = new Proxy({}, { get: (_, name) => name.startsWith("__wbg_newwithownedu8clampedarray") ? picture : fail });
  try {
    const imports = Object.fromEntries(WebAssembly.Module.imports(module).map(({ name }) => [name, wbg[name]]));
    png = new WebAssembly.Instance(module, { wbg: imports }).exports;
    memory = () => new Uint8Array(png.memory.buffer);
    const address = png.__wbindgen_malloc(bytes.length, 1);
    memory().set(bytes, address >>> 0);
    png.decode(address, bytes.length);
    return found;
  } catch (error) {
    if (error.message === "undecodable" || error instanceof WebAssembly.RuntimeError || error instanceof RangeError) return null;
    throw error;
  }
}
