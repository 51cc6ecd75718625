#!/usr/bin/env bash
# TensorFlow.js on WebAssembly adds long rows less exactly than on its other backends.
#
# Versions: @tensorflow/tfjs-core, -backend-cpu, -backend-wasm 4.22.0; Node.js 20.
# Expected: sum, logSumExp and softmax over 9,000 values as exact as a float32 result allows, some 1e-7, on each backend.
# Seen: cpu: sum off by 1e-8, logSumExp by 4e-8. wasm: sum off by 1.1e-5 (relative), logSumExp by 9.5e-6; the softmax
#   adds up to 1 + 2e-6. A tolerance for probabilities of thousands of classes that other backends keep fails there.
# Usage: bash findings/tfjs_wasm_reductions.sh     (npm; exit 1 if the behaviour has changed)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @tensorflow/tfjs-{core,backend-cpu,backend-wasm}@4.22.0
cat > probe.cjs <<'JS'
const tf = require("@tensorflow/tfjs-core");
require("@tensorflow/tfjs-backend-cpu");
require("@tensorflow/tfjs-backend-wasm");
const n = 9000;
let state = 1;
const random = () => (state = (state * 16807) % 2147483647) / 2147483647;
const logits = Float32Array.from({ length: n }, () => (random() + random() + random() - 1.5) * 12);
const exact = logits.reduce((sum, value) => sum + Math.exp(value), 0); // in float64
(async () => {
  const off = {};
  for (const backend of ["cpu", "wasm"]) {
    await tf.setBackend(backend);
    const row = tf.tensor2d(logits, [1, n]);
    const sum = (await tf.sum(tf.exp(row)).data())[0] / exact - 1;
    const logSumExp = (await tf.logSumExp(row, 1).data())[0] - Math.log(exact);
    const total = (await tf.softmax(row).data()).reduce((all, p) => all + p, 0) - 1;
    console.log(`${backend}: sum ${sum.toExponential(1)}, logSumExp ${logSumExp.toExponential(1)}, softmax adds up to 1 + ${total.toExponential(1)}`);
    off[backend] = Math.abs(sum);
  }
  const asSeen = off.cpu < 2e-7 && off.wasm > 5e-6 && off.wasm < 2e-5;
  console.log(asSeen ? "as seen" : "CHANGED");
  process.exit(asSeen ? 0 : 1);
})();
JS
node probe.cjs
