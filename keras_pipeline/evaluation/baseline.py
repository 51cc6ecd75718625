"""Classifiers on frozen features, before a backbone is trained: the metrics that every trained model has to beat.

Features and scores are stored in files and read in blocks of rows: at full size the train split has [680,000, 1280]
features and the test split [85,000, 9,000] scores, 3 GB each in float32.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import DTypeLike

from keras_pipeline.core.progress import progress
from keras_pipeline.evaluation import metrics
from keras_pipeline.evaluation.predict import decoded, inference
from keras_pipeline.evaluation.predictions import Predictions

BLOCK_ROWS = 1024  # 10 MB of 1280 features as float64
# Standard deviations: a feature that is set in one train photo of thousands would otherwise decide a prediction alone.
CLIP = 10.0

# float [m, D] features -> float [m, C], higher is likelier
Score = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Features:
    """Aligned arrays over the n photos of a split."""

    values: np.ndarray  # float16 [n, D], a memory map
    labels: np.ndarray  # int64 [n]
    sample_ids: np.ndarray  # str [n]
    regions: np.ndarray  # str [n]
    group_ids: np.ndarray  # str [n]


def extract_features(
    extract: Callable[[np.ndarray], np.ndarray], batches: Iterable[dict[str, np.ndarray]], path: Path, *, n: int
) -> Features:
    """Run `extract` once over a split and store the features in `path`.

    Args:
        extract: float32 [N, S, S, 3], 0..255 -> float [N, D].
        batches: `pipeline.evaluation_batches` as NumPy; they raise unless there are exactly `n` photos.
        path: file to write.
        n: photos of the split.

    Raises:
        ValueError: NaN, infinity, or more than float16's 65,504 in a feature.
        OSError: the disk is full.
    """
    labels, sample_ids, regions, group_ids = [], [], [], []

    def blocks() -> Iterator[np.ndarray]:
        with progress(total=n, description=f"features of {path.stem}") as bar:
            for batch in batches:
                labels.append(batch["label"])
                sample_ids.append(decoded(batch["sample_id"]))
                regions.append(decoded(batch["region"]))
                group_ids.append(decoded(batch["group_id"]))
                yield _in_range(extract(batch["image"]))
                bar.update(len(labels[-1]))

    # Half precision changes a feature by 1/2048 at most and halves what every epoch of the probe reads.
    values = store(blocks(), path, np.float16)
    return Features(values, *map(np.concatenate, (labels, sample_ids, regions, group_ids)))


def store(blocks: Iterable[np.ndarray], path: Path, dtype: DTypeLike) -> np.ndarray:
    """Write blocks [*, D] below one another to a file; return it as a memory map [n, D].

    It is written as a file, not through the map: on a full disk a file raises OSError, a map kills the process.
    """
    width = 0
    with path.open("wb") as file:
        for block in blocks:
            width = block.shape[1]
            file.write(np.ascontiguousarray(block, dtype).data)
    return np.memmap(path, dtype, "r").reshape(-1, width)


def compare(
    train: Features, test: Features, classes: Sequence[str], *, epochs: int, seed: int, folder: Path
) -> tuple[dict[str, dict], Predictions]:
    """Compute `classification_metrics` of three classifiers on the frozen features, on the test split.

    Args:
        classes: C latin names.
        epochs, seed: of the linear probe.
        folder: for a file of float32 [test photos, C], in which the probe's logits stay.

    Returns:
        {"majority", "nearest_class_mean", "linear_probe": {n, top1_accuracy, …}}, and the probe's predictions for the
        test photos. Only the probe has a `loss`. Classes with the same score rank by their index.
    """
    path = folder / "scores"

    def judge(scores: np.ndarray) -> dict:
        return metrics.classification_metrics(scores, test.labels, test.regions, classes, test.group_ids)

    def scores_of(score: Score) -> np.ndarray:
        path.unlink(missing_ok=True)  # the earlier classifier's, whose metrics are computed
        return store(map(score, _blocks(test.values)), path, np.float32)

    counts = np.bincount(train.labels, minlength=len(classes))
    result = {
        "majority": judge(np.broadcast_to(counts, (len(test.labels), len(classes)))),
        "nearest_class_mean": judge(scores_of(nearest_class_mean(train, len(classes)))),
    }
    for table in result.values():
        table.pop("loss")  # their scores are no log-probabilities
    logits = scores_of(inference(linear_probe(train, len(classes), epochs=epochs, seed=seed)))
    result["linear_probe"] = judge(logits)
    return result, Predictions(logits, test.labels, test.sample_ids, test.regions, test.group_ids)


def nearest_class_mean(train: Features, num_classes: int) -> Score:
    """Fit a classifier by cosine similarity to each class's mean direction from the mean of all train features.

    Returns:
        A function float [m, D] -> float64 [m, C] in -1..1; a class without train photos gets -1, the least similar.
    """
    centre = _mean(train.values)
    sums = np.zeros((num_classes, train.values.shape[1]))
    for block, labels in zip(_blocks(train.values), _blocks(train.labels), strict=True):
        np.add.at(sums, labels, _unit(block - centre))
    directions = _unit(sums)
    absent = np.bincount(train.labels, minlength=num_classes) == 0

    def score(queries: np.ndarray) -> np.ndarray:
        cosines = _unit(queries - centre) @ directions.T
        cosines[:, absent] = -1
        return cosines

    return score


def linear_probe(train: Features, num_classes: int, *, epochs: int, seed: int) -> keras.Model:
    """Train a logistic regression on standardised, clipped features: features [m, D] -> logits [m, C].

    Adam's learning rate falls from 0.1 / sqrt(D) to zero by a cosine: a step moves each of D weights by about the rate,
    and so a logit by about rate * sqrt(D). On ImageNet features of flowers17 (D = 1280) and on colour histograms
    (D = 64) it comes within about a point of scikit-learn's LogisticRegression. The seed determines the order of the
    photos; weights start at zero. Where training diverged, computing the metrics of its logits raises ValueError.
    """
    n, width = train.values.shape
    batch_size = min(n, max(32, min(256, n // 32)))  # a few hundred photos need many steps, a million need throughput
    steps = n // batch_size
    mean, variance = moments(train.values)
    inputs = keras.Input((width,), name="features")
    # float32 under any precision policy, as in `heads`.
    x = keras.layers.Normalization(mean=mean, variance=variance, dtype="float32")(inputs)
    x = keras.ops.clip(x, -CLIP, CLIP)
    logits = keras.layers.Dense(num_classes, kernel_initializer="zeros", dtype="float32", name="logits")(x)
    model = keras.Model(inputs, logits, name="linear_probe")
    rate = keras.optimizers.schedules.CosineDecay(0.1 / math.sqrt(width), epochs * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # A single matrix product: XLA has nothing to fuse.
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False)
    batches = _minibatches(train, batch_size, epochs=epochs, seed=seed)
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=1 if sys.stdout.isatty() else 2)
    return model


def _minibatches(train: Features, batch_size: int, *, epochs: int, seed: int) -> tf.data.Dataset:
    """Return (float16 [batch_size, D], int64 [batch_size]), shuffled anew each epoch, dropping the remainder."""
    n, width = train.values.shape

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for epoch in range(epochs):
            order = np.random.default_rng((seed, epoch)).permutation(n)
            for start in range(0, n - batch_size + 1, batch_size):
                rows = np.sort(order[start : start + batch_size])  # so that the file is read forwards
                yield train.values[rows], train.labels[rows]

    signature = tf.TensorSpec((batch_size, width), tf.float16), tf.TensorSpec((batch_size,), tf.int64)
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4)


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and variance of each feature over the n rows, float64 [D] each."""
    mean = _mean(values)
    variance = sum(np.square(block - mean).sum(axis=0) for block in _blocks(values)) / len(values)
    return mean, variance


def _in_range(features: np.ndarray) -> np.ndarray:
    limit = np.finfo(np.float16).max
    if not (np.abs(features) <= limit).all():  # false for NaN too
        raise ValueError(
            f"features: received NaN, infinity or more than {limit:g}, expected {limit:g} at most: check "
            "the pretrained weights"
        )
    return features


def _mean(values: np.ndarray) -> np.ndarray:
    return sum(block.sum(axis=0, dtype=np.float64) for block in _blocks(values)) / len(values)


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[start : start + BLOCK_ROWS] for start in range(0, len(array), BLOCK_ROWS))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def colour_histogram(images: np.ndarray, levels: int = 4) -> np.ndarray:
    """Return the share of pixels in each cell of the RGB cube: float [N, S, S, 3], 0..255 -> float [N, levels³]."""
    cells = np.clip(images * levels / 256, 0, levels - 1).astype(np.int64)
    index = (cells[..., 0] * levels + cells[..., 1]) * levels + cells[..., 2]
    counts = [np.bincount(row.ravel(), minlength=levels**3) for row in index]
    return np.stack(counts) / index[0].size
