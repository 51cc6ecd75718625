"use strict";
// The sums of keras_pipeline/data/preprocess.py. A canvas never scales: browsers differ in how they do it, and plain
// bilinear from a phone photo changes one answer in six.
// Plain script: the worker takes it in with importScripts, the tests with a script tag.

const preprocess = (() => {
  // Pillow's Resample.c: weights in fixed point with 22 fractional bits, so that 255 * 2^22 still fits 31 bits.
  const PRECISION_BITS = 22;
  const HALF = 1 << (PRECISION_BITS - 1);

  /** Pillow's triangle-filter weights for one axis: output x sums `counts[x]` inputs from `starts[x]` on. */
  function pillowWeights(inputSize, outputSize) {
    const scale = inputSize / outputSize;
    const filterScale = Math.max(scale, 1);
    const taps = Math.ceil(filterScale) * 2 + 1;
    const starts = new Int32Array(outputSize);
    const counts = new Int32Array(outputSize);
    const weights = new Int32Array(outputSize * taps);
    const row = new Float64Array(taps);
    for (let x = 0; x < outputSize; x++) {
      const center = (x + 0.5) * scale;
      const start = Math.max(Math.trunc(center - filterScale + 0.5), 0);
      const count = Math.min(Math.trunc(center + filterScale + 0.5), inputSize) - start;
      let sum = 0;
      for (let i = 0; i < count; i++) {
        row[i] = Math.max(1 - Math.abs((i + start - center + 0.5) * (1 / filterScale)), 0);
        sum += row[i];
      }
      for (let i = 0; i < count; i++) weights[x * taps + i] = Math.trunc(0.5 + (row[i] / sum) * 2 ** PRECISION_BITS);
      starts[x] = start;
      counts[x] = count;
    }
    return { starts, counts, weights, taps };
  }

  const toByte = (sum) => (sum < 0 ? 0 : Math.min(sum >> PRECISION_BITS, 255));

  /** Which inputs the outputs from `first` on, `count` of them, are made of: [from, to). */
  const inputsOf = ({ starts, counts }, first, count) => [starts[first], starts[first + count - 1] + counts[first + count - 1]];

  /** RGBA rows, of columns from `offset` on, to RGB rows of the outputs from `left` on, rounded as Pillow does between its passes. */
  function resizeRows(pixels, { width, offset, rows }, { starts, counts, weights, taps }, left, outputWidth, output, firstRow) {
    for (let y = 0, to = firstRow * outputWidth * 3; y < rows; y++) {
      for (let x = left; x < left + outputWidth; x++, to += 3) {
        let from = (y * width + starts[x] - offset) * 4;
        const end = x * taps + counts[x];
        let red = HALF, green = HALF, blue = HALF;
        for (let i = x * taps; i < end; i++, from += 4) {
          const weight = weights[i];
          red += pixels[from] * weight;
          green += pixels[from + 1] * weight;
          blue += pixels[from + 2] * weight;
        }
        output[to] = toByte(red);
        output[to + 1] = toByte(green);
        output[to + 2] = toByte(blue);
      }
    }
  }

  /** RGB rows, from `offset` on, to those of the outputs from `top` on. */
  function resizeColumns(pixels, width, offset, { starts, counts, weights, taps }, top, outputHeight) {
    const stride = width * 3;
    const output = new Uint8Array(stride * outputHeight);
    const sums = new Int32Array(stride);
    for (let y = 0; y < outputHeight; y++) {
      sums.fill(HALF);
      for (let i = 0; i < counts[top + y]; i++) {
        const weight = weights[(top + y) * taps + i];
        const from = (starts[top + y] - offset + i) * stride;
        for (let x = 0; x < stride; x++) sums[x] += pixels[from + x] * weight;
      }
      for (let x = 0; x < stride; x++) output[y * stride + x] = toByte(sums[x]);
    }
    return output;
  }

  /**
   * RGBA pixels -> RGB {pixels: Uint8Array, width, height} with shorter side `shortSide`; never enlarges.
   *
   * strip: (top, rows, left, columns) -> RGBA of that rectangle; asked for `rows` of them at a time, from the top down.
   * crop: (width, height) of the result -> {left, top, width, height} that is wanted of it. What lies outside is neither
   * asked for nor added up: four tenths of a photo.
   */
  function shrink(strip, rows, width, height, shortSide, crop = (width, height) => ({ left: 0, top: 0, width, height })) {
    const short = Math.min(width, height);
    const fits = short <= shortSide;
    const outputWidth = fits ? width : Math.trunc((width * shortSide) / short + 0.5);
    const outputHeight = fits ? height : Math.trunc((height * shortSide) / short + 0.5);
    const wanted = crop(outputWidth, outputHeight);
    // A pass that keeps its size has weights 0 and 1 only, so nothing needs a special case.
    const across = pillowWeights(width, outputWidth), down = pillowWeights(height, outputHeight);
    const [left, right] = inputsOf(across, wanted.left, wanted.width);
    const [above, below] = inputsOf(down, wanted.top, wanted.height);
    const narrow = new Uint8Array(wanted.width * (below - above) * 3);
    for (let top = above; top < below; top += rows) {
      const part = { width: right - left, offset: left, rows: Math.min(rows, below - top) };
      resizeRows(strip(top, part.rows, left, part.width), part, across, wanted.left, wanted.width, narrow, top - above);
    }
    const pixels = resizeColumns(narrow, wanted.width, above, down, wanted.top, wanted.height);
    return { pixels, width: wanted.width, height: wanted.height };
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
    spans.forEach(({ first, weights }, y) => {
      weights.forEach((weight, i) => {
        const from = (first + i) * stride;
        for (let x = 0; x < stride; x++) rows[y * stride + x] += pixels[from + x] * weight;
      });
    });
    const output = new Float32Array(size * size * 3);
    for (let y = 0, to = 0; y < size; y++) {
      for (let x = 0; x < size; x++, to += 3) {
        const { first, weights } = spans[x];
        for (let i = 0, from = y * stride + first * 3; i < weights.length; i++, from += 3) {
          for (let channel = 0; channel < 3; channel++) output[to + channel] += rows[from + channel] * weights[i];
        }
      }
    }
    return output;
  }

  /** Upright RGBA pixels, in strips as `shrink` asks for them -> what the model sees: Float32Array [S, S, 3], 0..255. */
  function toTensor(strip, rows, width, height, { short_side, crop_fraction, image_size }) {
    const square = (width, height) => {
      const side = Math.floor(crop_fraction * Math.min(width, height) + 0.5);
      return { left: (width - side) >> 1, top: (height - side) >> 1, width: side, height: side };
    };
    const { pixels, width: side } = shrink(strip, rows, width, height, short_side, square);
    return resizeSquare(pixels, side, image_size);
  }

  return { shrink, toTensor };
})();
