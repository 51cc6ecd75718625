"use strict";
// The header rules of keras_pipeline/data/jpeg_header.py and the decoding of keras_pipeline/data/photo.py: JPEG by
// libjpeg-turbo, the decoder of Python's side, so that every browser sees the same pixels, whatever its own decoder and
// canvas do.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

const jpeg = (() => {
  const START_OF_SCAN = 0xda, APP1 = 0xe1, APP2 = 0xe2;
  const EXIF = "Exif\0\0", PROFILE = "ICC_PROFILE\0";
  const UNUSUAL = { 0xc3: "lossless", 0xc7: "lossless", 0xcb: "lossless", 0xcf: "lossless" }; // frames, and how coded
  const PROGRESSIVE = 0xc2, ORDINARY = [0xc0, 0xc1, PROGRESSIVE]; // baseline and extended besides
  const SAMPLING = [0x11, 0x21, 0x12, 0x22, 0x41, 0x14]; // of the first component
  const SMOOTHED = 10; // coefficients of a block: where one lacks bits, libjpeg smooths the picture, each version otherwise
  const EIGHTHS = [4, 3, 2, 1], HALVES = [4, 2, 1]; // the sizes that the decoder may choose from, beside the whole
  const UNDECODABLE = "undecodable";
  const RGB = 0, CMYK = 11; // TurboJPEG's formats of pixels

  const starts = (bytes, at, text) => [...text].every((sign, i) => bytes[at + i] === sign.charCodeAt(0));
  const isBare = (marker) => marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8); // without a length
  const isFrame = (marker) => marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);

  /**
   * {width, height, components, unusual, hasCommonSampling, orientation, profile, isComplete, lacksScans} of a JPEG's
   * bytes; null of any other file. width is 0 where no frame says it; unusual: how it is coded, where no browser reads
   * that; profile: ICC, or empty; lacksScans: progressive, and what there is shows the picture coarsely only.
   */
  function header(bytes) {
    if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return null;
    const found = { width: 0, height: 0, components: 0, unusual: "", hasCommonSampling: true, orientation: null, isComplete: false, lacksScans: false };
    const profile = [];
    let at = 2;
    while ((at = bytes.indexOf(0xff, at)) >= 0 && at + 4 <= bytes.length) {
      const marker = bytes[at + 1], length = (bytes[at + 2] << 8) | bytes[at + 3];
      if (marker === 0xff || marker === 0 || isBare(marker)) {
        at += marker === 0xff ? 1 : 2;
        continue;
      }
      if (marker === START_OF_SCAN) {
        found.isComplete = hasEnd(bytes, at);
        found.lacksScans = Boolean(found.isProgressive) && lacksScans(bytes, at, found.components);
        break;
      }
      const segment = bytes.subarray(at + 4, Math.max(at + 4, at + 2 + length));
      if (isFrame(marker) && !found.components && segment.length >= 6) Object.assign(found, frame(marker, segment));
      else if (marker === APP1 && starts(segment, 0, EXIF)) found.orientation ??= exifOrientation(segment);
      else if (marker === APP2 && starts(segment, 0, PROFILE) && segment.length > PROFILE.length + 2)
        profile[segment[PROFILE.length]] ??= segment.subarray(PROFILE.length + 2);
      at += 2 + Math.max(length, 2);
    }
    return { ...found, orientation: found.orientation ?? 1, profile: joined(profile.filter(Boolean)) };
  }

  function frame(marker, segment) {
    const unusual = UNUSUAL[marker] ?? (ORDINARY.includes(marker) ? "" : "arithmetic coding");
    const [first, ...others] = Array.from({ length: segment[5] }, (_, i) => segment[7 + 3 * i]);
    const usual = { 2: [0x11, 0x11], 3: [0x11, 0x11, first] }[others.length]; // of black as of the first
    return {
      height: (segment[1] << 8) | segment[2],
      width: (segment[3] << 8) | segment[4],
      components: segment[5],
      unusual: unusual || (segment[0] === 8 ? "" : "12 bits"),
      hasCommonSampling: !others.length || (SAMPLING.includes(first) && String(others) === String(usual)),
      isProgressive: marker === PROGRESSIVE,
    };
  }

  /** Whether the scans from `at` on leave a component's first coefficients without their last bits. */
  function lacksScans(bytes, at, components) {
    const missing = {}; // how many bits
    while (at >= 0 && at + 4 <= bytes.length && bytes[at + 1] !== 0xd9) {
      const length = (bytes[at + 2] << 8) | bytes[at + 3], end = at + 2 + length, count = bytes[at + 4];
      if (bytes[at + 1] === START_OF_SCAN && end <= bytes.length && length === 6 + 2 * count) {
        const [first, last, bits] = bytes.subarray(end - 3, end);
        for (let each = at + 5; each < end - 3; each += 2)
          for (let i = first; i <= Math.min(last, SMOOTHED - 1); i++) missing[`${bytes[each]} ${i}`] = bits & 0x0f;
      }
      at = bytes.indexOf(0xff, at + 2 + Math.max(length, 2));
      while (at >= 0 && (bytes[at + 1] === 0 || bytes[at + 1] === 0xff || (bytes[at + 1] & 0xf8) === 0xd0)) at = bytes.indexOf(0xff, at + 1);
    }
    const left = Object.values(missing);
    return left.length < components * SMOOTHED || left.some(Boolean);
  }

  function joined(parts) {
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) all.set(part, at), (at += part.length);
    return all;
  }

  function hasEnd(bytes, from) {
    for (let at = bytes.indexOf(0xff, from); at >= 0; at = bytes.indexOf(0xff, at + 1)) if (bytes[at + 1] === 0xd9) return true;
    return false;
  }

  /** The tag 0x0112 of EXIF's first directory, where it is one SHORT from 1 to 8; see keras_pipeline/data/exif.py. */
  function exifOrientation(exif) {
    const tiff = starts(exif, 0, EXIF) ? exif.subarray(EXIF.length) : exif;
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
   * {pixels: Uint8Array, width, height, channels} of a JPEG, not turned, at the smallest of its sizes with a shorter side
   * >= shortSide; null where it can't be decoded. RGB, grey too; of CMYK four channels, inverted as Adobe stores them.
   *
   * head: its `header`. A warning of the decoder counts where the end is missing: then it is the sign of a cut.
   */
  function decode(module, bytes, head, shortSide) {
    const turbo = instance(module);
    try {
      const size = bytes.length + 2;
      const input = allocated(turbo, size), found = allocated(turbo, 16), handle = turbo.tjInitDecompress();
      new Uint8Array(turbo.memory.buffer, input, bytes.length).set(bytes);
      new Uint8Array(turbo.memory.buffer, input + bytes.length, 2).set([0xff, 0xd9]); // only read where the file lacks it
      new Uint8Array(turbo.memory.buffer, found, 16).fill(0);
      const isSound = (status) => status === 0 || head.isComplete; // an error would have come as UNDECODABLE
      const status = turbo.tjDecompressHeader3(handle, input, size, found, found + 4, found + 8, found + 12);
      const [fullWidth, fullHeight] = new Int32Array(turbo.memory.buffer, found, 2);
      if (!isSound(status) || fullWidth !== head.width || fullHeight !== head.height) return null;
      const scaled = (side, eighths) => Math.ceil((side * eighths) / 8);
      const enough = (head.hasCommonSampling ? EIGHTHS : HALVES).filter((eighths) => scaled(Math.min(fullWidth, fullHeight), eighths) >= shortSide);
      const eighths = enough.at(-1) ?? 8;
      const width = scaled(fullWidth, eighths), height = scaled(fullHeight, eighths);
      const [format, channels] = head.components === 4 ? [CMYK, 4] : [RGB, 3];
      const length = width * height * channels, output = allocated(turbo, length);
      if (!isSound(turbo.tjDecompress2(handle, input, size, output, width, width * channels, height, format, 0))) return null;
      return { pixels: new Uint8Array(turbo.memory.buffer, output, length), width, height, channels };
    } catch (error) {
      if (error.message === UNDECODABLE || error instanceof WebAssembly.RuntimeError) return null;
      throw error;
    }
  }

  return { header, decode, exifOrientation, starts, joined };
})();
