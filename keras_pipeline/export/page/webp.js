"use strict";
// The decoder of WebP: libwebp, which is Pillow's too. Taken in by the worker with the first WebP.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

/**
 * RGBA {pixels: Uint8Array, width, height} of a still WebP's bytes; null where it can't be decoded.
 *
 * The build speaks to JavaScript by Emscripten's embind: at its start it registers a function `decode(string)`, which
 * calls for two constructors in turn, of a byte array (its one argument: the pixels) and of a picture (that, width,
 * height).
 */
function decodeWebp(module, bytes) {
  let webp, decode, pixels = null, size = null; // an instance of its own for each photo: an error leaves one unusable
  const fail = () => {
    throw new Error("undecodable");
  };
  const none = () => {};
  const words = (address, count) => new Uint32Array(webp.s.buffer, address, count);
  const construct = (constructor, count, types, values) => {
    if (count === 1) {
      const [length, address] = words(values, 2);
      pixels = new Uint8Array(webp.s.buffer, address, length).slice();
    } else {
      const [, , width, , height] = words(values, 5); // each takes 8 bytes
      size = { width, height };
    }
    return 5;
  };
  const register = (name, count, types, signature, invoker, target) => {
    const isDecode = String.fromCharCode(...new Uint8Array(webp.s.buffer, name, 7)) === "decode\0"; // the other: version
    if (isDecode) decode = (text) => webp.y.get(invoker)(target, text);
  };
  const { grow, copy } = emscriptenMemory(() => webp.s);
  const a = {
    n: fail, o: none, l: none, r: none, k: none, c: register, b: none, a: none, g: none, f: none, m: none, d: none,
    e: () => 5, i: none, h: construct, j: fail, q: copy, p: grow,
  };
  try {
    webp = new WebAssembly.Instance(module, { a }).exports;
    webp.t();
    webp.x?.();
    const text = webp.u(4 + bytes.length + 1) >>> 0; // a C++ string: its length, then its bytes
    if (!text) return null;
    words(text, 1)[0] = bytes.length;
    new Uint8Array(webp.s.buffer, text + 4, bytes.length).set(bytes);
    decode(text);
    return pixels && size && { pixels, ...size };
  } catch (error) {
    if (error.message === "undecodable" || error instanceof WebAssembly.RuntimeError || error instanceof RangeError) return null;
    throw error;
  }
}
