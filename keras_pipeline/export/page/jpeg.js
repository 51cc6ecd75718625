"use strict";
// The header rules of keras_pipeline/data/jpeg_header.py and the decoding of keras_pipeline/data/photo.py: JPEG by
// libjpeg-turbo, the decoder of Python's side, so that every browser sees the same pixels, whatever its own decoder and
// canvas do.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

const jpeg = (() => {
  const START_OF_SCAN = 0xda, APP1 = 0xe1, APP2 = 0xe2;
  const EXIF = "Exif\0\0", PROFILE = "ICC_PROFILE\0";
  const EIGHTHS = [4, 3, 2, 1]; // the sizes that the decoder may choose from, beside the whole
  const UNDECODABLE = "undecodable";
  const READABLE_SPACES = 3; // of TurboJPEG's colour spaces the first: RGB, YCbCr, grey; CMYK follows

  const starts = (bytes, at, text) => [...text].every((sign, i) => bytes[at + i] === sign.charCodeAt(0));

  /** {orientation, hasProfile, isComplete} of a JPEG's bytes; null of any other file. */
  function header(bytes) {
    if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return null;
    let orientation = null, hasProfile = false, at = 2;
    while (at + 4 <= bytes.length && bytes[at] === 0xff) {
      const marker = bytes[at + 1], length = (bytes[at + 2] << 8) | bytes[at + 3];
      if (marker === 0xff) {
        at++;
        continue;
      }
      if (marker === START_OF_SCAN) return { orientation: orientation ?? 1, hasProfile, isComplete: hasEnd(bytes, at) };
      const segment = bytes.subarray(at + 4, at + 2 + length);
      if (marker === APP1 && orientation === null && starts(segment, 0, EXIF)) orientation = exifOrientation(segment.subarray(EXIF.length));
      hasProfile ||= marker === APP2 && starts(segment, 0, PROFILE);
      at += 2 + length;
    }
    return { orientation: orientation ?? 1, hasProfile, isComplete: false };
  }

  function hasEnd(bytes, from) {
    for (let at = bytes.indexOf(0xff, from); at >= 0; at = bytes.indexOf(0xff, at + 1)) if (bytes[at + 1] === 0xd9) return true;
    return false;
  }

  /** The tag 0x0112 of EXIF's first directory, where it is one SHORT from 1 to 8. */
  function exifOrientation(tiff) {
    const little = starts(tiff, 0, "II*\0");
    if (tiff.length < 8 || (!little && !starts(tiff, 0, "MM\0*"))) return 1;
    const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.length);
    const start = view.getUint32(4, little);
    if (start + 2 > tiff.length) return 1;
    const end = Math.min(start + 2 + 12 * view.getUint16(start, little), tiff.length - 11);
    for (let at = start + 2; at < end; at += 12) {
      if (view.getUint16(at, little) !== 0x0112) continue;
      const value = view.getUint16(at + 8, little);
      const isShort = view.getUint16(at + 2, little) === 3 && view.getUint32(at + 4, little) === 1;
      return isShort && value >= 1 && value <= 8 ? value : 1;
    }
    return 1;
  }

  /** An instance of its own for each photo: an error leaves one unusable. */
  function instance(module) {
    const fail = () => {
      throw new Error(UNDECODABLE); // what libjpeg does by longjmp, or would print
    };
    const none = () => 0;
    return new WebAssembly.Instance(module, {
      env: { setjmp: none, longjmp: fail },
      wasi_snapshot_preview1: {
        environ_sizes_get: none, environ_get: none, proc_exit: fail, fd_close: none, fd_seek: none, fd_write: fail,
      },
    }).exports;
  }

  /** Memory of the decoder; without any left, the photo is none that it can decode. */
  function allocated(turbo, size) {
    const address = turbo.malloc(size);
    if (!address) throw new Error(UNDECODABLE);
    return address >>> 0; // above 2 GB it comes as a negative number
  }

  /**
   * RGB {pixels: Uint8Array, width, height} of a JPEG, not turned, at the smallest of its sizes with a shorter side >=
   * shortSide; null where it can't be decoded without a warning.
   *
   * check: (width, height) of the whole picture; may throw, before it is decoded.
   */
  function decode(module, bytes, shortSide, check = () => {}) {
    const turbo = instance(module);
    try {
      const input = allocated(turbo, bytes.length + 2), found = allocated(turbo, 16), handle = turbo.tjInitDecompress();
      new Uint8Array(turbo.memory.buffer, input, bytes.length).set(bytes);
      new Uint8Array(turbo.memory.buffer, input + bytes.length, 2).set([0xff, 0xd9]); // only read where the file lacks it
      const size = bytes.length + 2;
      if (turbo.tjDecompressHeader3(handle, input, size, found, found + 4, found + 8, found + 12) !== 0) return null;
      const [fullWidth, fullHeight, , space] = new Int32Array(turbo.memory.buffer, found, 4);
      check(fullWidth, fullHeight);
      if (space >= READABLE_SPACES) return null;
      const scaled = (side, eighths) => Math.ceil((side * eighths) / 8);
      const enough = EIGHTHS.filter((eighths) => scaled(Math.min(fullWidth, fullHeight), eighths) >= shortSide);
      const eighths = enough.at(-1) ?? 8;
      const width = scaled(fullWidth, eighths), height = scaled(fullHeight, eighths);
      const output = allocated(turbo, width * height * 3);
      if (turbo.tjDecompress2(handle, input, size, output, width, width * 3, height, 0, 0) !== 0) return null;
      return { pixels: new Uint8Array(turbo.memory.buffer, output, width * height * 3), width, height };
    } catch (error) {
      if (error.message === UNDECODABLE || error instanceof WebAssembly.RuntimeError) return null;
      throw error;
    }
  }

  return { header, decode };
})();
