"use strict";
// Colours by an ICC profile: LittleCMS, which is Pillow's too. Taken in by the worker with the first such photo.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

/**
 * A function that converts pixels, Uint8Array of 4 bytes each (grey: 1), to RGBA in sRGB; null where the profile is
 * broken. What it returns holds until it is called again.
 *
 * colours: 1 (grey), 3 (RGB) or 4 (CMYK), of the profile and of the pixels; target: an sRGB profile.
 */
function profileConverter(module, profile, colours, target) {
  const PERCEPTUAL = 0;
  const RGBA = 0x00040099, FORMATS = { 1: 0x00030009, 3: RGBA, 4: 0x00060021 }; // lcms2.h: TYPE_GRAY_8, RGBA_8, CMYK_8
  const width = colours === 1 ? 1 : 4; // bytes of a pixel
  const imports = { env: {}, wasi_snapshot_preview1: {} };
  let lcms;
  const fail = () => {
    throw new Error("broken profile");
  };
  const { grow, copy } = emscriptenMemory(() => lcms.memory);
  const own = {
    emscripten_resize_heap: grow, emscripten_date_now: () => 0, _gmtime_js: () => {}, _tzset_js: () => {},
    emscripten_memcpy_js: copy,
  };
  for (const { module: of, name } of WebAssembly.Module.imports(module)) {
    const call = name.startsWith("invoke_") ? (index, ...values) => lcms.__indirect_function_table.get(index)(...values) : fail;
    imports[of][name] = own[name] ?? call;
  }
  try {
    lcms = new WebAssembly.Instance(module, imports).exports;
    lcms.emscripten_stack_init();
    lcms.__wasm_call_ctors();
    const opened = (bytes) => {
      const address = lcms.malloc(bytes.length) >>> 0;
      new Uint8Array(lcms.memory.buffer, address, bytes.length).set(bytes);
      return lcms.cmsOpenProfileFromMem(address, bytes.length);
    };
    const [from, to] = [opened(profile), opened(target)];
    if (!from || !to) return null;
    const transform = lcms.cmsCreateTransform(from, FORMATS[colours], to, RGBA, PERCEPTUAL, 0);
    if (!transform) return null;
    let room = 0, input = 0, output = 0;
    return (pixels) => {
      const count = pixels.length / width;
      if (count > room) {
        if (input) lcms.free(input), lcms.free(output);
        room = count;
        input = lcms.malloc(count * width) >>> 0;
        output = lcms.malloc(count * 4) >>> 0;
        if (!input || !output) throw new Error("too large");
      }
      new Uint8Array(lcms.memory.buffer, input, pixels.length).set(pixels);
      lcms.cmsDoTransform(transform, input, output, count);
      return new Uint8Array(lcms.memory.buffer, output, count * 4);
    };
  } catch (error) {
    if (error.message === "broken profile" || error instanceof WebAssembly.RuntimeError) return null;
    throw error;
  }
}
