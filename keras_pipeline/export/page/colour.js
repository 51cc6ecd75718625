"use strict";
// Colours to sRGB by the rules of keras_pipeline/data/colour.py. Taken in by the worker with the first photo that has a
// profile, transparency or ink.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

const colour = (() => {
  const SPACES = { 1: "GRAY", 3: "RGB ", 4: "CMYK" }; // of profiles, by the number of colours
  // Red, green and blue of sRGB in XYZ, adapted to D50, and how near to it a profile's count.
  const PRIMARIES = { rXYZ: [0.43607, 0.22249, 0.01392], gXYZ: [0.38515, 0.71687, 0.09708], bXYZ: [0.14307, 0.06061, 0.7141] };
  const NEAR_PRIMARY = 0.002, NEAR_CURVE = 0.001;

  const latin = (bytes) => String.fromCharCode(...bytes);
  const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const fixed = (bytes, at) => view(bytes).getInt32(at) / 65536;

  /** Whether a profile is to be applied to pixels of so many colours (1, 3, 4). */
  function counts(profile, colours) {
    return latin(profile.subarray(36, 40)) === "acsp" && latin(profile.subarray(16, 20)) === SPACES[colours] && !isSrgb(profile);
  }

  /** Whether a profile says sRGB in other words, as most do. */
  function isSrgb(profile) {
    const found = tags(profile);
    if ("A2B0" in found || latin(profile.subarray(16, 24)) !== "RGB XYZ ") return false;
    for (const [name, expected] of Object.entries(PRIMARIES)) {
      const tag = found[name] ?? [];
      if (tag.length < 20 || expected.some((value, i) => Math.abs(fixed(tag, 8 + 4 * i) - value) > NEAR_PRIMARY)) return false;
    }
    const points = Array.from({ length: 17 }, (_, i) => i / 16);
    const srgb = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return ["rTRC", "gTRC", "bTRC"].every((name) => {
      const curve = curveOf(found[name] ?? new Uint8Array(0));
      return curve !== null && points.every((x) => Math.abs(curve(x) - srgb(x)) <= NEAR_CURVE);
    });
  }

  function tags(profile) {
    const found = {};
    const room = Math.floor((profile.length - 132) / 12);
    for (let i = 0; i < Math.min(room < 0 ? 0 : view(profile).getUint32(128), room, 100); i++) {
      const [at, length] = [view(profile).getUint32(136 + 12 * i), view(profile).getUint32(140 + 12 * i)];
      found[latin(profile.subarray(132 + 12 * i, 136 + 12 * i))] = profile.subarray(at, at + length);
    }
    return found;
  }

  /** A tone curve; null where it is of another kind than sRGB's in any profile. */
  function curveOf(tag) {
    const kind = latin(tag.subarray(0, 4));
    if (kind === "curv" && tag.length >= 12) {
      const count = view(tag).getUint32(8);
      if (count < 2 || tag.length < 12 + 2 * count) return null;
      const value = (i) => view(tag).getUint16(12 + 2 * Math.min(i, count - 1)) / 65535;
      return (x) => {
        const place = x * (count - 1), below = Math.floor(place);
        return value(below) + (value(below + 1) - value(below)) * (place - below);
      };
    }
    if (kind === "para" && tag[8] === 0 && tag[9] === 3 && tag.length >= 32) {
      const [gamma, a, b, c, d] = [12, 16, 20, 24, 28].map((at) => fixed(tag, at));
      return (x) => (x >= d ? Math.max(a * x + b, 0) ** gamma : c * x);
    }
    return null;
  }

  /**
   * A function from pixels to sRGB on white, 4 channels of which the last says nothing.
   *
   * channels: 3, RGB; or 4, RGBA, or CMYK stored inverted. isGrey: all colours of a pixel are one. toSrgb: of
   * `profileConverter`, or null; of one colour for grey, else of four.
   */
  function converter({ channels, isGrey, isCmyk }, toSrgb) {
    return (pixels) => {
      const count = pixels.length / channels;
      let rgba = isCmyk ? pixels.map((value) => 255 - value) : toSrgb && isGrey ? first(pixels, channels, count) : pixels;
      if (channels === 3 && !(toSrgb && isGrey)) rgba = widened(pixels, count);
      if (toSrgb) rgba = toSrgb(rgba);
      else if (isCmyk) rgba = inkToRgb(rgba);
      return channels === 4 && !isCmyk ? onWhite(rgba, pixels) : rgba;
    };
  }

  function first(pixels, channels, count) {
    const grey = new Uint8Array(count);
    for (let i = 0; i < count; i++) grey[i] = pixels[i * channels];
    return grey;
  }

  function widened(pixels, count) {
    const rgba = new Uint8Array(count * 4);
    for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
      rgba[to] = pixels[from];
      rgba[to + 1] = pixels[from + 1];
      rgba[to + 2] = pixels[from + 2];
    }
    return rgba;
  }

  /** Each colour reduced by black, as Pillow does. */
  function inkToRgb(cmyk) {
    const rgba = new Uint8Array(cmyk.length);
    for (let at = 0; at < cmyk.length; at += 4) {
      const light = 255 - cmyk[at + 3];
      for (let i = at; i < at + 3; i++) {
        const product = cmyk[i] * light + 128;
        rgba[i] = Math.max(light - (((product >> 8) + product) >> 8), 0);
      }
    }
    return rgba;
  }

  /** In the fixed point of Pillow's alpha_composite; the alpha is the source's. */
  function onWhite(rgba, source) {
    let output = rgba;
    for (let at = 0; at < rgba.length; at += 4) {
      const alpha = source[at + 3];
      if (alpha === 255) continue;
      if (output === rgba) output = rgba.slice();
      for (let i = at; i < at + 3; i++) {
        const sum = rgba[i] * alpha * 128 + 255 * (255 - alpha) * 128 + (0x80 << 7);
        output[i] = ((sum >> 8) + sum) >> 8 >> 7;
      }
    }
    return output;
  }

  return { counts, converter };
})();
