"""How large is the page's model of 9,000 species?

    .venv/bin/python -m benchmarks.export.bundle_size      (CPU only, 2 cores, five minutes)

MobileNetV2 1.0 at 224 px with its ImageNet weights and a head of rank 256. No student of 9,000 species is at hand, so
its head is made of real photos' features: the first half of it is their 256 principal directions, half whitened; a
species is a photo's features, or those and as much of a random direction, all of one length, scaled until the likeliest
of 9,000 has a probability of 0.7 on average. The int8 choice is by the KL on the same photos in the mirror.

Prints model.json and shards in MB (10^6 bytes) for each way of quantizing, and the KL it costs; the last line is the
lesser of 10 MB over fp16 and 6 MB over int8; exit 1 below 1. The plan's limit is 150 MB.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_pipeline.core.config.teachers import Model
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.export import quantize, saved_model, tfjs
from keras_pipeline.models import heads

DATA = Path(os.environ.get("KERAS_PIPELINE_TEST_DATA", "../shared/data"))
CLASSES, RANK, SIZE, SURE = 9000, 256, 224, 0.7
LIMITS = {"fp16": 10.0, "int8": 6.0}


def photos() -> np.ndarray:
    files = sorted((DATA / "flowers17/images").glob("*.jpg"))[::3]
    return np.stack([Preprocessing(SIZE).from_photo(file.read_bytes()).numpy() for file in files])


def student(images: np.ndarray) -> keras.Model:
    settings = Model(
        name="mobilenetv2", alpha=1.0, head_rank=RANK, pretrained=str(DATA / "mobilenet_v2_1.0_224_imagenet.weights.h5")
    )
    model = heads.build_classifier(settings, num_classes=CLASSES, image_size=SIZE, dropout=0.0)
    backbone = keras.Model(model.inputs, model.get_layer("dropout").input)
    features = backbone.predict(images, batch_size=32, verbose=0).astype(np.float64)
    mean = features.mean(0)
    _, spread, directions = np.linalg.svd(features - mean, full_matrices=False)
    # Not wholly: what hardly varies between photos is noise, and no trained head lives on it.
    whiten = directions[:RANK].T / (spread[:RANK] + spread[RANK // 8]) * np.sqrt(len(images))
    rng = np.random.default_rng(0)
    points = (features - mean) @ whiten
    others = points[rng.integers(0, len(points), CLASSES - len(points))]
    others = others / np.linalg.norm(others, axis=1, keepdims=True) + rng.normal(0, RANK**-0.5, others.shape)
    species = np.concatenate([points, others])
    species /= np.linalg.norm(species, axis=1, keepdims=True)
    logits = points @ species.T
    scale = next(s for s in np.geomspace(0.1, 100, 60) if softmax(s * logits).max(1).mean() >= SURE)
    model.get_layer("low_rank").set_weights([whiten.astype(np.float32)])
    kernel = (scale * species.T).astype(np.float32)
    model.get_layer("logits").set_weights([kernel, (-(mean @ whiten) @ kernel).astype(np.float32)])
    return model


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def main() -> int:
    images = photos()
    folded, shown = quantize.fold_batch_norm(student(images)), images[:64, :, ::-1]
    exact = softmax(np.asarray(folded.predict(shown, batch_size=32, verbose=0), np.float64))
    print(f"{folded.count_params():,} weights; probability of the likeliest of {CLASSES:,}: {exact.max(1).mean():.2f}")
    sizes = {}
    for way in LIMITS:
        model = quantize.copy(folded)
        entries = quantize.quantize_to_float16(model) if way == "fp16" else quantize.quantize_to_uint8(model, shown)
        quantized = softmax(np.asarray(model.predict(shown, batch_size=32, verbose=0), np.float64))
        kl = float((exact * np.log(exact / quantized)).sum(1).mean())
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            saved_model.write_saved_model(
                model, folder / "model", labels=[f"Species {i}" for i in range(CLASSES)],
                preprocessing=Preprocessing(SIZE), calibration={"temperature": 1.0, "threshold": 0.5},
            )  # fmt: skip
            report = tfjs.write_graph_model(folder / "model", folder / "web")
        sizes[way] = report["bytes"] / 1e6
        kernels = sum(entry["stored"] == "uint8" for entry in entries)
        print(f"{way}: {sizes[way]:.2f} MB, {kernels} kernels in a byte a value, KL {kl:.5f}", flush=True)
    ratio = min(limit / sizes[way] for way, limit in LIMITS.items())
    print(f"{ratio:.2f}")
    return int(ratio < 1)


if __name__ == "__main__":
    sys.exit(main())
