"""The web bundle: a TF.js graph model with exactly the SavedModel's weights, and the page around it.

    index.html app.js messages.js classifier.js worker.js sw.js style.css icon.svg   the page (page/)
    preprocess.js jpeg.js chunks.js png.js webp.js colour.js profile.js emscripten.js srgb.icc     its reading of photos
    vendor/                       TensorFlow.js (one file mended, see threads.py), decoders, and their licences
    model/model.json + shards     serving_default; float16 where that loses nothing, float32 elsewhere
    labels.json preprocessing.json calibration.json attribution.txt [priors.json priors.bin]   the SavedModel's assets
    names.txt                     the class list, small: what the page reads before its first answer
    about.json                    the experiment, its code and its metrics
    selftest.jpg selftest.json    a picture and the SavedModel's answer, on which the page tests each backend
    files.json                    length and sha256 of every file above

Two exports of the same weights give byte-identical files, but for the date in about.json and its hash in files.json.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import io
import json
import os
import shutil
import subprocess
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from keras_pipeline.core.files import aside, read_json, write_json
from keras_pipeline.core.hashing import ABOUT, file_hash
from keras_pipeline.core.quiet import stderr_held_back
from keras_pipeline.data.colour import srgb_profile
from keras_pipeline.export.names import NAMES, names_text
from keras_pipeline.export.saved_model import LABELS, load_classifier
from keras_pipeline.export.threads import MENDED_FILES, write_mended

PAGE = Path(__file__).parent / "page"
PAGE_FILES = (
    "index.html",
    "style.css",
    "icon.svg",
    "app.js",
    "messages.js",
    "classifier.js",
    "worker.js",
    "preprocess.js",
    "jpeg.js",
    "chunks.js",
    "png.js",
    "emscripten.js",
    "webp.js",
    "colour.js",
    "profile.js",
    "sw.js",
    "NOTICES.txt",
)
VENDOR_FILES = (
    "@tensorflow/tfjs-core/dist/tf-core.es2017.min.js",
    "@tensorflow/tfjs-converter/dist/tf-converter.es2017.min.js",
    "@tensorflow/tfjs-backend-cpu/dist/tf-backend-cpu.es2017.min.js",
    "@tensorflow/tfjs-backend-webgl/dist/tf-backend-webgl.es2017.min.js",
    "@tensorflow/tfjs-backend-webgpu/dist/tf-backend-webgpu.es2017.min.js",
    "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm",
    "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm",
    "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-threaded-simd.wasm",
    "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-threaded-simd.js",
    "@cwasm/jpeg-turbo/jpeg-turbo.wasm",
    "@jsquash/png/codec/pkg/squoosh_png_bg.wasm",
    "@jsquash/webp/codec/dec/webp_dec.wasm",
    "lcms-wasm/dist/lcms.wasm",
)
APACHE_LICENSE = "long/LICENSE"  # TensorFlow.js publishes its packages without the text of the licence
FILE_LIST = "files.json"
# Constants that the converter derives from the graph (1/127.5, 1/T, axes) are small. A larger tensor that is no weight
# of the SavedModel means that the converter changed one.
CONSTANT_ELEMENTS = 16
TOLD = 5e-4  # Smaller probabilities of the self-test count together, as in worker.js: 80 kB at 9,000 species.


def write_bundle(saved_model_folder: Path, bundle_folder: Path, *, about: dict) -> dict:
    """Convert `serving_default` and write the bundle described above, to a temporary folder that is then renamed.

    Args:
        saved_model_folder: of `write_saved_model`.
        bundle_folder: replaced if it exists.
        about: content of about.json, which everyone can read.

    Returns:
        {bytes (of model.json and shards), total_bytes, files, shards, uint8 and float16 (numbers of tensors), float32
        (names)}.

    Raises:
        ValueError: naming an operation that TF.js lacks, or a weight that the conversion changed.
        OSError: when the JavaScript libraries are missing and can't be installed.
    """
    vendor = _node_modules()
    with aside(bundle_folder) as temporary:
        (temporary / "vendor").mkdir(parents=True)
        report = write_graph_model(saved_model_folder, temporary / "model")
        for asset in (saved_model_folder / "assets").iterdir():
            shutil.copyfile(asset, temporary / asset.name)
        (temporary / "srgb.icc").write_bytes(srgb_profile())
        (temporary / NAMES).write_text(names_text(read_json(temporary / LABELS)), encoding="utf-8")
        _write_self_test(saved_model_folder, temporary)
        write_json(temporary / ABOUT, about)
        for name in PAGE_FILES:
            shutil.copyfile(PAGE / name, temporary / name)
        for name in VENDOR_FILES:
            shutil.copyfile(vendor / name, temporary / "vendor" / Path(name).name)
        write_mended(vendor, temporary / "vendor")
        shutil.copyfile(vendor / APACHE_LICENSE, temporary / "vendor" / "LICENSE-Apache-2.0.txt")
        files = write_file_list(temporary)
    return {**report, "total_bytes": sum(file["bytes"] for file in files.values()), "files": len(files)}


def _write_self_test(saved_model_folder: Path, folder: Path) -> None:
    """Write a smooth picture of many colours, and Python's answer; a drawn one needs no attribution."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    picture = io.BytesIO()
    Image.fromarray(colours).resize((400, 300), Image.Resampling.BICUBIC).save(picture, "JPEG", quality=95)
    (folder / "selftest.jpg").write_bytes(picture.getvalue())
    classifier = load_classifier(saved_model_folder)
    _, probabilities, score = classifier.answers(classifier.preprocessing.from_photo(picture.getvalue())[None].numpy())
    told = {i: round(float(p), 7) for i, p in enumerate(probabilities[0]) if p >= TOLD}
    others = round(1 - sum(told.values()), 7)
    off_list = {} if classifier.off_list is None else {"off_list_score": round(float(score[0]), 7)}
    write_json(folder / "selftest.json", {"probabilities": told, "others": others, **off_list})


def write_file_list(bundle_folder: Path) -> dict[str, dict]:
    """Write files.json, which lists all files of the folder; return {path: {bytes, sha256}}."""
    paths = sorted(path for path in bundle_folder.rglob("*") if path.is_file() and path.name != FILE_LIST)
    files = {
        path.relative_to(bundle_folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in paths
    }
    write_json(bundle_folder / FILE_LIST, files)
    return files


def write_graph_model(saved_model_folder: Path, folder: Path) -> dict:
    """Write model.json and shards of `serving_default`.

    Returns:
        {bytes, shards, uint8, float16, float32} as `write_bundle`.

    Raises:
        ValueError: as `write_bundle`.
    """
    topology, groups = _convert(saved_model_folder)
    _check_weights(saved_model_folder, groups)
    entries = [entry for group in groups for entry in group]
    # Each tensor in the smallest type that restores its exact values.
    stored: dict[str, list[str]] = {"uint8": [], "float16": []}
    for entry in entries:
        if dtype := _smallest_type(entry["data"]):
            stored[dtype].append(entry["name"])
    folder.mkdir(parents=True, exist_ok=True)
    # The converter matches names as patterns; escaped, each matches only itself.
    patterns = {dtype: [glob.escape(name) for name in names] for dtype, names in stored.items() if names}
    topology["weightsManifest"] = _tensorflowjs().write.write_weights(
        groups, str(folder), write_manifest=False, quantization_dtype_map=patterns
    )
    (folder / "model.json").write_text(json.dumps(topology, sort_keys=True, separators=(",", ":")), encoding="utf-8")
    _check_shards(folder, groups)
    floats = [entry["name"] for entry in entries if entry["data"].dtype == np.float32]
    return {
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "shards": sum(len(group["paths"]) for group in topology["weightsManifest"]),
        **{dtype: len(names) for dtype, names in stored.items()},
        "float32": [name for name in floats if not any(name in names for names in stored.values())],
    }


def read_shards(folder: Path) -> dict[str, np.ndarray]:
    """Read the weights of a graph model as a browser decodes them, by name."""
    manifest = read_json(folder / "model.json")["weightsManifest"]
    entries = _tensorflowjs().read.read_weights(manifest, str(folder), flatten=True)
    return {entry["name"]: entry["data"] for entry in entries}


def _convert(saved_model_folder: Path) -> tuple[dict, list[list[dict]]]:
    """Return the converter's topology (model.json) and its weights in float32."""
    labels = read_json(saved_model_folder / "assets" / LABELS)
    hashes = {file.name: file_hash(file) for file in sorted((saved_model_folder / "assets").iterdir())}
    modules = _tensorflowjs()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with contextlib.redirect_stdout(io.StringIO()), stderr_held_back():
                modules.converter.convert_tf_saved_model(
                    str(saved_model_folder),
                    scratch,
                    metadata={"labels_sha256": labels["sha256"], "assets_sha256": hashes},
                )
        except ValueError as error:
            if not str(error).startswith("Unsupported Ops"):
                raise
            operations = {line.strip() for line in str(error).splitlines()[1:]}
            raise ValueError(
                f"TensorFlow.js has no {', '.join(sorted(operations))}, received in "
                f"{', '.join(_nodes(saved_model_folder, operations))}; use another layer there"
            ) from error
        topology = read_json(Path(scratch) / "model.json")
        # The converter names them Identity:0 and Identity_1:0; TensorFlow flattens outputs in alphabetical order.
        found = topology["signature"]["outputs"].values()  # of three outputs in another order
        outputs = sorted(found, key=lambda output: output["name"].removesuffix(":0"))
        names = ["logits", "probabilities"] if len(outputs) == 2 else ["logits", "off_list_score", "probabilities"]
        topology["signature"]["outputs"] = dict(zip(names, outputs, strict=True))
        return topology, modules.read.read_weights(topology["weightsManifest"], scratch)


def _nodes(saved_model_folder: Path, operations: set[str]) -> list[str]:
    """Return where a graph uses these operations, by Keras's names: model/layer/operation."""
    message = saved_model_pb2.SavedModel.FromString((saved_model_folder / "saved_model.pb").read_bytes())
    functions = message.meta_graphs[0].graph_def.library.function
    return sorted({node.name for function in functions for node in function.node_def if node.op in operations})


def _check_weights(saved_model_folder: Path, groups: list[list[dict]]) -> None:
    """Check that every weight of the SavedModel is there bit for bit, and no other tensor of such size.

    Shapes may differ (depthwise kernels).
    """
    converted = Counter(e["data"].tobytes() for group in groups for e in group if e["data"].dtype == np.float32)
    reader = tf.train.load_checkpoint(str(saved_model_folder / "variables" / "variables"))
    for name, dtype in reader.get_variable_to_dtype_map().items():
        if dtype != tf.float32:
            continue
        data = reader.get_tensor(name).tobytes()
        if not converted[data]:
            raise ValueError(
                f"{name}: the converter changed this weight {reader.get_variable_to_shape_map()[name]}, expected it "
                "bit for bit; fold BatchNorm before export (export.quantize.fold_batch_norm)"
            )
        converted[data] -= 1
    strangers = [data for data, count in converted.items() if count and len(data) > 4 * CONSTANT_ELEMENTS]
    if strangers:
        raise ValueError(
            f"received {len(strangers)} converted tensors that are no weight of {saved_model_folder}, expected none: "
            "the converter merged weights, so that page and Python would differ; fold BatchNorm before export"
        )


def _smallest_type(data: np.ndarray) -> str | None:
    """Return the smallest type that restores the exact values of a float32 tensor; None if only float32 does."""
    if _survives_uint8(data):
        return "uint8"
    return "float16" if _survives_float16(data) else None


def _survives_float16(data: np.ndarray) -> bool:
    if data.dtype != np.float32:
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(data.astype(np.float16).astype(np.float32), data))


def _survives_uint8(data: np.ndarray) -> bool:
    if data.dtype != np.float32 or data.size <= CONSTANT_ELEMENTS:
        return False
    library = _tensorflowjs().quantization
    return bool(np.array_equal(library.dequantize_weights(*library.quantize_weights(data, np.uint8)), data))


def _check_shards(folder: Path, groups: list[list[dict]]) -> None:
    decoded = read_shards(folder)
    for group in groups:
        for entry in group:
            if not np.array_equal(decoded[entry["name"]], entry["data"]):
                raise ValueError(
                    f"{folder}: {entry['name']} does not decode to the SavedModel's values; install the versions "
                    "of requirements.lock"
                )


@functools.cache
def _tensorflowjs() -> SimpleNamespace:
    """Return the converter's modules, imported on first use: it takes seconds and prints warnings of its own."""
    # Otherwise its import of decision forests prints a welcome message, through IPython where stdout is captured.
    os.environ.setdefault("TFDF_DISABLE_WELCOME_MESSAGE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorflowjs import quantization, read_weights, write_weights
        from tensorflowjs.converters import tf_saved_model_conversion_v2
    return SimpleNamespace(
        read=read_weights, write=write_weights, quantization=quantization, converter=tf_saved_model_conversion_v2
    )


def _node_modules() -> Path:
    """Return export/page/node_modules, installed from package-lock.json on first use."""
    folder = PAGE / "node_modules"
    if all((folder / name).is_file() for name in (*VENDOR_FILES, *MENDED_FILES, APACHE_LICENSE)):
        return folder
    try:
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=PAGE,
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        raise OSError(f"{PAGE}: TensorFlow.js is missing and `npm ci` failed there: {detail}") from error
    return folder
