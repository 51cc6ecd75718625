"use strict";
// The sums of keras_pipeline/data/preprocess.py. A canvas never scales: browsers differ in how they do it, and plain
// bilinear from a phone photo changes one answer in six.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

const preprocess = (() => {
  const WEIGHT_BITS = 15; // of cykooz.resizer's 16-bit weights, without the sign
  const MOST_BITS = 21; // fractional bits, so that 255 * 2^22 still fits 31 bits

  /** Triangle-filter weights of one axis: output x sums `counts[x]` inputs from `starts[x]` on, over 2^precision. */
  function fixedWeights(inputSize, outputSize) {
    const scale = inputSize / outputSize;
    const support = Math.max(scale, 1), taps = Math.ceil(support) * 2 + 1;
    const starts = new Int32Array(outputSize), counts = new Int32Array(outputSize);
    const real = new Float64Array(outputSize * taps);
    for (let x = 0; x < outputSize; x++) {
      const center = (x + 0.5) * scale;
      starts[x] = Math.max(Math.floor(center - support), 0);
      counts[x] = Math.min(Math.ceil(center + support), inputSize) - starts[x];
      const row = real.subarray(x * taps, x * taps + counts[x]);
      let sum = 0;
      for (let i = 0; i < row.length; i++) {
        row[i] = Math.max(1 - Math.abs((starts[x] + i - (center - 0.5)) * (1 / support)), 0);
        sum += row[i];
      }
      for (let i = 0; i < row.length; i++) row[i] /= sum;
    }
    const most = real.reduce((a, b) => Math.max(a, b));
    let precision = 0; // as many bits as leave the largest weight within 16
    while (precision < MOST_BITS && Math.round(most * 2 ** (precision + 1)) < 1 << WEIGHT_BITS) precision++;
    const weights = Int32Array.from(real, (weight) => Math.floor(weight * 2 ** precision + 0.5));
    return { starts, counts, weights, taps, precision };
  }

  const toByte = (sum, precision) => Math.max(0, Math.min(sum >> precision, 255));

  /** Which inputs the outputs from `first` on, `count` of them, are made of: [from, to). */
  const inputsOf = ({ starts, counts }, first, count) => [starts[first], starts[first + count - 1] + counts[first + count - 1]];

  /**
   * Pixels of a rectangle -> RGB {pixels, width, height} of the outputs from `top` on, `height` of them.
   *
   * strip: (top, rows, left, columns) -> that rectangle's pixels; asked for `rows` of them at a time, from the top down.
   */
  function resizeColumns({ strip, rows, channels }, left, right, { starts, counts, weights, taps, precision }, top, height) {
    const width = right - left, stride = width * 3;
    const sums = new Int32Array(height * stride).fill(1 << (precision - 1));
    const [above, below] = [starts[top], starts[top + height - 1] + counts[top + height - 1]];
    let first = top; // the first output that still needs the row
    for (let from = above; from < below; from += rows) {
      const count = Math.min(rows, below - from);
      const pixels = strip(from, count, left, width);
      for (let row = from, at = 0; row < from + count; row++, at += width * channels) {
        while (starts[first] + counts[first] <= row) first++;
        for (let y = first; y < top + height && starts[y] <= row; y++) {
          const weight = weights[y * taps + row - starts[y]];
          let to = (y - top) * stride;
          for (let x = at; x < at + width * channels; x += channels, to += 3) {
            sums[to] += Math.imul(pixels[x], weight); // integers throughout: twice as fast
            sums[to + 1] += Math.imul(pixels[x + 1], weight);
            sums[to + 2] += Math.imul(pixels[x + 2], weight);
          }
        }
      }
    }
    const output = new Uint8Array(sums.length); // a loop: `Uint8Array.from` takes ten times as long as all the sums
    for (let i = 0; i < sums.length; i++) output[i] = toByte(sums[i], precision);
    return output;
  }

  /** RGB rows, of columns from `offset` on, to those of the outputs from `left` on, `outputWidth` of them. */
  function resizeRows(pixels, width, offset, { starts, counts, weights, taps, precision }, left, outputWidth) {
    const rows = pixels.length / (width * 3);
    const output = new Uint8Array(rows * outputWidth * 3);
    for (let y = 0, to = 0; y < rows; y++) {
      for (let x = left; x < left + outputWidth; x++, to += 3) {
        let from = (y * width + starts[x] - offset) * 3;
        const end = x * taps + counts[x];
        let red = 1 << (precision - 1), green = red, blue = red;
        for (let i = x * taps; i < end; i++, from += 3) {
          const weight = weights[i];
          red += pixels[from] * weight;
          green += pixels[from + 1] * weight;
          blue += pixels[from + 2] * weight;
        }
        output[to] = toByte(red, precision);
        output[to + 1] = toByte(green, precision);
        output[to + 2] = toByte(blue, precision);
      }
    }
    return output;
  }

  /**
   * A picture -> RGB {pixels: Uint8Array, width, height} with shorter side `shortSide`; never enlarges.
   *
   * picture: {width, height, strip, rows, channels}, see `resizeColumns`.
   * crop: (width, height) of the result -> {left, top, width, height} that is wanted of it. What lies outside is neither
   * asked for nor added up: four tenths of a photo.
   */
  function shrink(picture, shortSide, crop = (width, height) => ({ left: 0, top: 0, width, height })) {
    const { width, height } = picture;
    const short = Math.min(width, height);
    const fits = short <= shortSide;
    const outputWidth = fits ? width : Math.trunc((width * shortSide) / short + 0.5);
    const outputHeight = fits ? height : Math.trunc((height * shortSide) / short + 0.5);
    const wanted = crop(outputWidth, outputHeight);
    // A pass that keeps its size has weights 0 and 1 only, so nothing needs a special case.
    const across = fixedWeights(width, outputWidth), down = fixedWeights(height, outputHeight);
    const [left, right] = inputsOf(across, wanted.left, wanted.width);
    const low = resizeColumns(picture, left, right, down, wanted.top, wanted.height);
    const pixels = resizeRows(low, right - left, left, across, wanted.left, wanted.width);
    return { pixels, width: wanted.width, height: wanted.height };
  }

  /** RGB {pixels, width, height}, turned upright by an EXIF orientation. */
  function upright({ pixels, width, height }, orientation) {
    if (orientation === 1) return { pixels, width, height };
    const [across, down] = orientation > 4 ? [height, width] : [width, height];
    const output = new Uint8Array(pixels.length);
    for (let y = 0, to = 0; y < down; y++) {
      for (let x = 0; x < across; x++, to += 3) {
        const [column, row] = source(orientation, x, y, width - 1, height - 1);
        const from = (row * width + column) * 3;
        for (let channel = 0; channel < 3; channel++) output[to + channel] = pixels[from + channel];
      }
    }
    return { pixels: output, width: across, height: down };
  }

  /** Where the upright pixel (x, y) lies in the stored picture, whose far corner is (right, bottom). */
  function source(orientation, x, y, right, bottom) {
    const [across, down] = orientation > 4 ? [y, x] : [x, y];
    return [
      [2, 3, 7, 8].includes(orientation) ? right - across : across,
      [3, 4, 6, 7].includes(orientation) ? bottom - down : down,
    ];
  }

  /** TensorFlow's ScaleAndTranslate spans (triangle kernel, antialias), in float32 as there. */
  function tensorflowWeights(inputSize, outputSize) {
    const f = Math.fround;
    const inverseScale = f(1 / f(outputSize / inputSize));
    const kernelScale = Math.max(inverseScale, 1);
    const shrinking = f(1 / kernelScale);
    return Array.from({ length: outputSize }, (_, x) => {
      const sample = f(f(x + 0.5) * inverseScale);
      const first = Math.min(Math.max(Math.ceil(f(f(sample - kernelScale) - 0.5)), 0), inputSize - 1);
      const last = Math.min(Math.max(Math.floor(f(f(sample + kernelScale) - 0.5)), 0), inputSize - 1);
      const weights = new Float32Array(last - first + 1);
      let sum = 0;
      for (let i = 0; i < weights.length; i++) {
        weights[i] = Math.max(f(1 - Math.abs(f(f(f(first + i + 0.5) - sample) * shrinking))), 0);
        sum = f(sum + weights[i]);
      }
      for (let i = 0; i < weights.length; i++) weights[i] *= f(1 / sum);
      return { first, weights };
    });
  }

  /** RGB bytes of a square -> Float32Array [size, size, 3], 0..255, not rounded. */
  function resizeSquare(pixels, side, size) {
    const spans = tensorflowWeights(side, size);
    const stride = side * 3;
    const rows = new Float32Array(size * stride);
    for (let y = 0; y < size; y++) {
      const { first, weights } = spans[y];
      for (let i = 0; i < weights.length; i++) {
        const weight = weights[i];
        for (let x = 0, from = (first + i) * stride, to = y * stride; x < stride; x++, from++, to++) rows[to] += pixels[from] * weight;
      }
    }
    const output = new Float32Array(size * size * 3);
    for (let x = 0; x < size; x++) {
      const { first, weights } = spans[x];
      for (let y = 0; y < size; y++) {
        let red = 0, green = 0, blue = 0; // each sum rounded to float32, as TensorFlow's
        for (let i = 0, from = y * stride + first * 3; i < weights.length; i++, from += 3) {
          const weight = weights[i];
          red = Math.fround(red + rows[from] * weight);
          green = Math.fround(green + rows[from + 1] * weight);
          blue = Math.fround(blue + rows[from + 2] * weight);
        }
        const to = (y * size + x) * 3;
        output[to] = red;
        output[to + 1] = green;
        output[to + 2] = blue;
      }
    }
    return output;
  }

  /**
   * A picture as of `shrink`, and its EXIF orientation -> what the model sees: Float32Array [S, S, 3], 0..255.
   *
   * The square is the upright picture's: where its place is odd by a pixel, a turned picture's is on the other side.
   */
  function toTensor(picture, { short_side, crop_fraction, image_size }, orientation = 1) {
    const square = (width, height) => {
      const side = Math.floor(crop_fraction * Math.min(width, height) + 0.5);
      const [uprightWidth, uprightHeight] = orientation > 4 ? [height, width] : [width, height];
      const near = source(orientation, (uprightWidth - side) >> 1, (uprightHeight - side) >> 1, width - 1, height - 1);
      const far = source(orientation, ((uprightWidth - side) >> 1) + side - 1, ((uprightHeight - side) >> 1) + side - 1, width - 1, height - 1);
      return { left: Math.min(near[0], far[0]), top: Math.min(near[1], far[1]), width: side, height: side };
    };
    const { pixels, width: side } = upright(shrink(picture, short_side, square), orientation);
    return resizeSquare(pixels, side, image_size);
  }

  return { shrink, upright, toTensor };
})();
