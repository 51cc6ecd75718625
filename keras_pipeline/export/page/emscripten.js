"use strict";
// What libraries that Emscripten built ask of JavaScript about their memory.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

/** {grow, copy} of the memory that `memory` returns, once there is an instance. */
function emscriptenMemory(memory) {
  const grow = (wanted) => {
    try {
      memory().grow(Math.ceil(((wanted >>> 0) - memory().buffer.byteLength) / 65536));
      return 1;
    } catch {
      return 0;
    }
  };
  const copy = (to, from, count) => void new Uint8Array(memory().buffer).copyWithin(to >>> 0, from >>> 0, (from >>> 0) + (count >>> 0));
  return { grow, copy };
}
