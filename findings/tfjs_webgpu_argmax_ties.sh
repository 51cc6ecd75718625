#!/usr/bin/env bash
# TensorFlow.js on WebGPU: argMax and argMin of a tie are not the first index, as on the other backends.
#
# Versions: @tensorflow/tfjs-core, -backend-cpu, -backend-webgl, -backend-webgpu 4.22.0; Chromium 156 with SwiftShader.
# Expected: the first of equal values, as in NumPy, TensorFlow and on the backends cpu, webgl and wasm.
# Seen: webgpu takes index 7000 of the tie 3, 7000, index 2 of 1, 2 and 256 of 255, 256; but 0 of 0, 1 and 100 of
#   100, 356. topk takes the first everywhere. A species list whose first two are equally likely is named differently.
# Usage: bash findings/tfjs_webgpu_argmax_ties.sh     (npm and a Chromium; exit 1 if the behaviour has changed)
set -euo pipefail
chromium=${CHROMIUM_PATH:-$(command -v chromium || command -v chromium-browser || command -v google-chrome)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @tensorflow/tfjs-{core,backend-cpu,backend-webgl,backend-webgpu}@4.22.0 \
  playwright-core@1.56.1
cat > probe.cjs <<'JS'
const http = require("http");
const { chromium } = require("playwright-core");
const ties = [[3, 7000], [1, 2], [255, 256], [0, 1], [100, 356]];
const seen = { cpu: [3, 1, 255, 0, 100], webgl: [3, 1, 255, 0, 100], webgpu: [7000, 2, 256, 0, 100] };
const first = async ([backend, ties]) => {
  await tf.setBackend(backend);
  const found = { argMax: [], argMin: [], topk: [] };
  for (const tie of ties) {
    const row = new Float32Array(9000);
    for (const index of tie) row[index] = 1;
    const tensor = tf.tensor2d(row, [1, 9000]);
    found.argMax.push((await tf.argMax(tensor, 1).data())[0]);
    found.argMin.push((await tf.argMin(tf.neg(tensor), 1).data())[0]);
    found.topk.push((await tf.topk(tensor, 1).indices.data())[0]);
  }
  return found;
};
(async () => {
  const server = http.createServer((_, answer) => answer.end("<!doctype html>")).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--enable-unsafe-webgpu"];
  const browser = await chromium.launch({ executablePath: process.argv[2], args: flags });
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`); // WebGPU needs a secure context
  for (const name of ["core", "backend-cpu", "backend-webgl", "backend-webgpu"]) {
    await page.addScriptTag({ path: `node_modules/@tensorflow/tfjs-${name}/dist/tf-${name}.es2017.min.js` });
  }
  let asSeen = true;
  console.log(`Chromium ${browser.version()}; of the ties ${JSON.stringify(ties)}`);
  for (const [backend, expected] of Object.entries(seen)) {
    const found = await page.evaluate(first, [backend, ties]);
    console.log(`${backend}: argMax ${found.argMax}; argMin ${found.argMin}; topk ${found.topk}`);
    const same = (values, wanted) => JSON.stringify(values) === JSON.stringify(wanted);
    asSeen &&= same(found.argMax, expected) && same(found.argMin, expected) && same(found.topk, seen.cpu);
  }
  await browser.close();
  server.close();
  console.log(asSeen ? "as seen" : "CHANGED");
  process.exit(asSeen ? 0 : 1);
})();
JS
node probe.cjs "$chromium"
