"""A small trained model, its SavedModel and its bundle, made once for all the tests of export/.

The weights lie beside this file, since training rounds otherwise on each kind of processor, and tests that need a sure
answer and an unsure one would hang on it. `python tests/support/web_example.py` trains and writes them anew.
"""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image, ImageDraw

from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.export import quantize, saved_model, tfjs
from keras_pipeline.export.browser import BrowserMissing, find_chromium

SPECIES = ["Bellis perennis", "Crocus vernus", "Iris germanica", "Viola tricolor"]
COLOURS = ["#f4f0d0", "#8a4fc0", "#3a5fd0", "#e0c020"]
PREPROCESSING = Preprocessing(image_size=48, min_short_side=16)
CALIBRATION = {"temperature": 1.7, "threshold": 0.89}  # 2 of the 40 `samples` stay below it, at 0.85 and 0.87
ABOUT = {"experiment": "example", "date": "2026-11-28T10:20:30Z", "species": 4, "top1": 0.95}
WEIGHTS = Path(__file__).with_suffix(".weights.h5")


def photo(label: int, seed: int, size: tuple[int, int] = (340, 256)) -> Image.Image:
    """A drawn flower: the petals' colour and number tell the species."""
    rng = np.random.default_rng([label, seed])
    ground = rng.integers(20, 110, (12, 16, 3), dtype=np.uint8) // (2, 1, 3)
    image = Image.fromarray(ground.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    reach, (x, y) = min(size) * rng.uniform(0.26, 0.36), np.array(size) / 2 + rng.uniform(-15, 15, 2)
    for angle in np.linspace(0, 2 * np.pi, 4 + 2 * label, endpoint=False) + rng.uniform(0, 6):
        cx, cy, radius = x + reach * 0.6 * np.cos(angle), y + reach * 0.6 * np.sin(angle), reach * 0.35
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=COLOURS[label])
    return image


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "JPEG", "quality": 90, **options})
    return buffer.getvalue()


@functools.cache
def samples(count: int = 10, first_seed: int = 100) -> list[tuple[str, bytes, int]]:
    """`count` records of each species."""
    seeds = range(first_seed, first_seed + count)
    return [(f"{label}-{seed}", encoded(photo(label, seed)), label) for seed in seeds for label in range(len(SPECIES))]


def tensors(records: list[tuple[str, bytes, int]]) -> np.ndarray:
    return np.stack([PREPROCESSING.from_photo(record).numpy() for _, record, _ in records])


@functools.cache
def trained() -> keras.Model:
    """Four of MobileNetV2's blocks, trained: an untrained model's answers would prove nothing."""
    model = network()
    model.load_weights(WEIGHTS)
    return model


def network() -> keras.Model:
    inputs = keras.Input((PREPROCESSING.image_size, PREPROCESSING.image_size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = normalised(keras.layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x))
    for filters, strides in ((16, 1), (24, 2), (24, 1), (32, 2)):
        x = inverted_residual(x, filters, strides)
    x = keras.layers.Dropout(0.1)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(len(SPECIES), name="logits", dtype="float32")(x))


def train() -> None:
    """Writes WEIGHTS."""
    keras.utils.set_random_seed(5)
    model = network()
    model.compile(keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    records = samples(32, first_seed=1000)
    model.fit(tensors(records), np.array([label for _, _, label in records]), batch_size=32, epochs=8, verbose=2)
    model.save_weights(WEIGHTS)


def inverted_residual(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    expanded = normalised(keras.layers.Conv2D(4 * x.shape[-1], 1, use_bias=False)(x))
    deep = keras.layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(expanded)
    narrow = keras.layers.Conv2D(filters, 1, use_bias=False)(normalised(deep))
    projected = keras.layers.BatchNormalization(momentum=0.8)(narrow)
    return keras.layers.Add()([x, projected]) if projected.shape == x.shape else projected


def normalised(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.ReLU(6)(keras.layers.BatchNormalization(momentum=0.8)(x))


@functools.cache
def shipped() -> keras.Model:
    """`trained` as it is exported: folded and quantized."""
    model = quantize.fold_batch_norm(trained())
    quantize.quantize_to_float16(model)
    return model


@functools.cache
def scratch() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="web-example-")
    scratch.keep = folder  # removed when the tests end
    return Path(folder.name)


def export(model: keras.Model, folder: Path) -> Path:
    saved_model.write_saved_model(model, folder, labels=SPECIES, preprocessing=PREPROCESSING, calibration=CALIBRATION)
    return folder


@functools.cache
def saved() -> Path:
    return export(shipped(), scratch() / "saved_model")


@functools.cache
def bundle() -> tuple[Path, dict]:
    """The bundle's folder and write_bundle's report."""
    folder = scratch() / "bundle"
    return folder, tfjs.write_bundle(saved(), folder, about=ABOUT)


def need_browser() -> None:
    """Skips the test, saying so, where there is no Chromium."""
    try:
        find_chromium()
    except BrowserMissing as error:
        pytest.skip(str(error))


if __name__ == "__main__":
    train()
