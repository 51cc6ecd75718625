"use strict";
// PNG and WebP taken apart by the rules of keras_pipeline/data/chunks.py, and what other files are, by those of
// first_bytes.py. Taken in by the worker with the first photo that is no JPEG.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

const chunks = (() => {
  const PNG = "\x89PNG\r\n\x1a\n";
  const PALETTE = 3, GREYS = [0, 4];
  const MOST_PROFILE = 1 << 24;
  const SRGB_PRIMARIES = [1, 2], SRGB_TRANSFERS = [1, 2, 6, 13, 14, 15]; // of cICP and nclx, that are sRGB to browsers
  const META = 10_000; // bytes at the start of an AVIF that hold what is said of its picture
  const ALPHA = "urn:mpeg:mpegB:cicp:systems:auxiliary:alpha";
  const HEIF = ["heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"];

  const { starts, joined, exifOrientation } = jpeg;
  const latin = (bytes) => String.fromCharCode(...bytes);
  const raw = (text) => Uint8Array.from(text, (sign) => sign.charCodeAt(0));
  const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const none = new Uint8Array(0);
  let crcTable = null;
  const otherColours = (primaries, transfer) => !SRGB_PRIMARIES.includes(primaries) || !SRGB_TRANSFERS.includes(transfer);

  /**
   * {kind: "PNG" | "WebP", picture, width, height, isGrey, isOpaque, orientation, profile, hasOtherColours,
   * isComplete}; null of any other file. picture: a file of the pixels alone; null where its chunks are missing.
   */
  async function read(bytes) {
    if (starts(bytes, 0, PNG)) return readPng(bytes);
    return starts(bytes, 0, "RIFF") && starts(bytes, 8, "WEBP") ? readWebp(bytes) : null;
  }

  async function readPng(bytes) {
    const whole = view(bytes), kept = [], found = {};
    let at = PNG.length, isComplete = false;
    while (at + 8 <= bytes.length) {
      const length = whole.getUint32(at), name = latin(bytes.subarray(at + 4, at + 8));
      const data = bytes.subarray(at + 8, at + 8 + length), chunk = bytes.subarray(at, at + 12 + length);
      at += 12 + length;
      if (name === "IEND" || at > bytes.length) {
        isComplete = name === "IEND";
        break;
      }
      if (!found.IDAT) found[name] ??= data;
      if (["IHDR", "PLTE", "tRNS", "IDAT"].includes(name)) kept.push({ name, chunk });
    }
    const { IHDR: header, PLTE: palette = none, cICP: cicp = none, IDAT: pixels } = found;
    const nothing = { kind: "PNG", picture: null, width: 0, height: 0, isComplete };
    if (header?.length !== 13 || kept[0].name !== "IHDR" || !pixels) return nothing;
    const [bits, colours] = [header[8], header[9]];
    if (colours === PALETTE && !palette.length) return nothing;
    const transparent = found.tRNS?.length ?? 0;
    const counts = colours === PALETTE ? transparent <= Math.floor(palette.length / 3) : bits === 8 && colours < 4;
    const end = Uint8Array.of(0, 0, 0, 0, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82);
    const picture = kept.filter(({ name }) => name !== "tRNS" || counts).map(({ chunk }) => chunk);
    const profile = await inflated(found.iCCP ?? none);
    const isSound = kept.every(({ chunk }) => crc32(chunk.subarray(4, -4)) === view(chunk).getUint32(chunk.length - 4));
    return {
      kind: "PNG",
      picture: isSound ? joined([raw(PNG), ...picture, end]) : null, // the decoder does not look at the last checksum
      width: view(header).getUint32(0),
      height: view(header).getUint32(4),
      isGrey: GREYS.includes(colours),
      isOpaque: colours < 4 && !(counts && found.tRNS),
      orientation: exifOrientation(found.eXIf ?? none),
      profile,
      hasOtherColours: !profile.length && cicp.length === 4 && otherColours(cicp[0], cicp[1]),
      isComplete,
    };
  }

  function crc32(data) {
    crcTable ??= Int32Array.from({ length: 256 }, (_, i) => {
      for (let bit = 0; bit < 8; bit++) i = i & 1 ? (i >>> 1) ^ 0xedb88320 : i >>> 1;
      return i;
    });
    let crc = -1;
    for (let i = 0; i < data.length; i++) crc = (crc >>> 8) ^ crcTable[(crc ^ data[i]) & 0xff];
    return ~crc >>> 0;
  }

  /** The profile of an iCCP chunk: a name, a zero, the method 0, then deflated; empty of a broken one. */
  async function inflated(chunk) {
    const zero = chunk.indexOf(0);
    if (zero < 0 || chunk[zero + 1] !== 0) return none;
    const reader = new Blob([chunk.subarray(zero + 2)]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    const parts = [];
    let length = 0;
    try {
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        if ((length += part.value.length) > MOST_PROFILE) return none;
        parts.push(part.value);
      }
    } catch {
      return none;
    }
    return joined(parts);
  }

  function readWebp(bytes) {
    const found = {};
    let isComplete = true;
    for (const { name, data, isWhole } of riff(bytes.subarray(12))) {
      found[name] ??= data;
      isComplete &&= isWhole || !["VP8 ", "VP8L", "ALPH", "ANMF"].includes(name);
    }
    const frame = found.ANMF ? {} : found;
    if (found.ANMF) for (const { name, data } of riff(found.ANMF.subarray(16))) frame[name] = data;
    return {
      kind: "WebP",
      ...webpPicture(frame),
      isGrey: false,
      orientation: exifOrientation(found.EXIF ?? none),
      profile: found.ICCP ?? none,
      hasOtherColours: false,
      isComplete: isComplete && Object.keys(found).length > 0,
    };
  }

  function webpPicture({ VP8L: lossless = none, "VP8 ": lossy = none, ALPH: alpha }) {
    if (lossless.length >= 5) {
      const bits = view(lossless).getUint32(1, true);
      const [width, height] = [(bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1];
      return { picture: webp([["VP8L", lossless]]), width, height, isOpaque: !((bits >> 28) & 1) };
    }
    if (lossy.length < 10) return { picture: null, width: 0, height: 0 };
    const width = view(lossy).getUint16(6, true) & 0x3fff, height = view(lossy).getUint16(8, true) & 0x3fff;
    const parts = [["VP8 ", lossy]];
    if (alpha && width && height) {
      const size = new Uint8Array(10); // flags, of which one is set: alpha
      size[0] = 0x10;
      view(size).setUint16(4, width - 1, true);
      view(size).setUint16(7, height - 1, true);
      parts.unshift(["VP8X", size], ["ALPH", alpha]);
    }
    return { picture: webp(parts), width, height, isOpaque: !alpha };
  }

  function* riff(data) {
    for (let at = 0; at + 8 <= data.length; ) {
      const length = view(data).getUint32(at + 4, true);
      yield { name: latin(data.subarray(at, at + 4)), data: data.subarray(at + 8, at + 8 + length), isWhole: at + 8 + length <= data.length };
      at += 8 + length + (length % 2);
    }
  }

  const littleEndian = (number) => Uint8Array.of(number, number >> 8, number >> 16, number >> 24);

  function webp(parts) {
    const body = joined(parts.flatMap(([name, data]) => [raw(name), littleEndian(data.length), data, new Uint8Array(data.length % 2)]));
    return joined([raw("RIFF"), littleEndian(4 + body.length), raw("WEBP"), body]);
  }

  /** Why a file that is neither JPEG, PNG nor WebP is refused, or ""; GIF, BMP and AVIF are left to the browser. */
  function refusal(bytes) {
    if (["GIF87a", "GIF89a", "BM"].some((start) => starts(bytes, 0, start))) return "";
    if (bytes.length < 16 || !starts(bytes, 4, "ftyp")) return "not a photo";
    const [brand, , ...others] = latin(bytes.subarray(8, Math.max(16, Math.min(view(bytes).getUint32(0), META)))).match(/.{4}/gs);
    const isAvif = [brand, ...others].some((each) => each === "avif" || each === "avis");
    if (brand !== "avif" && brand !== "avis" && !(HEIF.includes(brand) && isAvif)) return HEIF.includes(brand) ? "HEIC" : "not a photo";
    if (brand === "avis") return "animated AVIF";
    const first = bytes.subarray(0, META), at = latin(first).indexOf("colrnclx");
    if (latin(first).includes(ALPHA)) return "transparent AVIF";
    if (at < 0 || first.length < at + 12) return "";
    return otherColours(view(first).getUint16(at + 8), view(first).getUint16(at + 10)) ? "other colours" : "";
  }

  return { read, refusal };
})();
