"""TensorFlow.js's threads as files of the bundle.

As published, its WebAssembly backend makes the script of a thread while it runs, from a text inside it: a `blob:`,
which the policy `worker-src 'self'` forbids. Here the same text is written to a file, and the backend names the files.
It starts as many threads as it was asked for: as published it starts eight, and uses half as many as there are
processors.
"""

from __future__ import annotations

from pathlib import Path

BACKEND = "@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.es2017.min.js"
THREAD = "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-threaded-simd.worker.js"
MENDED_FILES = (BACKEND, THREAD)

# `fr` is the folder of setWasmPaths, `yr` the number of setThreadsCount.
MENDS = {
    r'const e=ar.replace(/\n/g,"\\n"),t=new Blob([e],{type:"application/javascript"});'
    "return URL.createObjectURL(t)": "return fr+t",
    'new Blob(["var WasmBackendModuleThreadedSimd = "+sr.toString()],{type:"text/javascript"})': (
        'fr+"tfjs-backend-wasm-threaded-simd.js"'
    ),
    # It takes half as many threads as there are processors, at most.
    ":navigator.hardwareConcurrency}": ":2*yr}",
    "for(var e=8;e--;)me.allocateUnusedWorker()": "for(var e=yr-1;e--;)me.allocateUnusedWorker()",
}
NOTICE = "/* Changed by keras_pipeline: threads come from files, as many as asked for. See NOTICES.txt. */\n"
BEFORE, AFTER = "module.exports.wasmWorkerContents = `", "`;"


def write_mended(vendor: Path, folder: Path) -> None:
    """Write the WebAssembly backend and the script of its threads.

    Args:
        vendor: node_modules, with `MENDED_FILES`.
        folder: where the files go, under their own names.

    Raises:
        ValueError: where a file is of another version than this mend.
    """
    backend = (vendor / BACKEND).read_text(encoding="utf-8")
    for old, new in MENDS.items():
        if backend.count(old) != 1:
            raise ValueError(f"{vendor / BACKEND}: received {backend.count(old)} times {old!r}, {_expected()}")
        backend = backend.replace(old, new)
    thread = (vendor / THREAD).read_text(encoding="utf-8").strip()
    if not (thread.startswith(BEFORE) and thread.endswith(AFTER)):
        raise ValueError(f"{vendor / THREAD}: received {thread[:40]!r}…, {_expected()}")
    (folder / Path(BACKEND).name).write_text(NOTICE + backend, encoding="utf-8")
    (folder / Path(THREAD).name).write_text(NOTICE + thread[len(BEFORE) : -len(AFTER)], encoding="utf-8")


def _expected() -> str:
    return "expected tfjs-backend-wasm 4.22.0; run `npm ci` there, or adapt export/threads.py"
