"""The linear probe of a network's own frozen features, from which its head starts (arXiv 2202.10054)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.data import pipeline
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation import baseline
from keras_pipeline.evaluation.predict import inference
from keras_pipeline.models import heads
from keras_pipeline.training import distribute, fit
from keras_pipeline.training.fit import Stage

FILE = "own_probe.keras"  # beside a trained model: its network as pretrained, with the probe as head
EPOCHS = 10  # passes over the features, as phase 0's default


def initialise_head(
    model: keras.Model,
    info: DatasetInfo,
    preprocessing: Preprocessing,
    *,
    region: str | list[str] | None,
    seed: int,
    folder: Path,
) -> None:
    """Set the head of a classifier to the linear probe of its backbone's features of the train photos.

    The features are computed without augmentation at the model's image size. They lie in a file while this runs.

    Args:
        model: of `heads.build_classifier`, with its initial weights.
        preprocessing: of the model's image size.
        region: see `TeacherSpec`.
        seed: of the order in which the probe sees the photos.
        folder: where a temporary file has room for 2 bytes per photo and feature.

    Raises:
        ValueError: if a feature is NaN, infinite or above 65,504, or the probe diverges.
    """
    n = info.count("train", region)
    print(f"head: starts from a linear probe of the network's own features of {n:,} train photos", flush=True)
    extract = inference(heads.backbone_of(model))
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as place:
        photos = pipeline.evaluation_batches(info, "train", preprocessing, region=region)
        features = baseline.extract_features(extract, photos.as_numpy_iterator(), Path(place) / "train", n=n)
        probe = baseline.linear_probe(features, len(info.classes), epochs=EPOCHS, seed=seed)
        mean, variance = baseline.moments(features.values)
    kernel, bias = probe.get_layer("logits").get_weights()
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise ValueError(
            "model.head_init: the linear probe diverged, expected finite weights; check the pretrained weights, or set "
            "head_init: random"
        )
    scale = np.where(variance > 0, np.sqrt(variance), 1.0)  # the kernel is 0 where a feature does not vary
    # Each machine has its own rounding errors, but all must start from the same head.
    kernel, bias = (distribute.chiefs(model.distribute_strategy, each) for each in (kernel, bias))
    heads.set_head(model, mean=mean, scale=scale, kernel=kernel, bias=bias)


def publish(stage: Stage, settings: Model, model: Path) -> None:
    """Copy the model that the first stage started from beside the trained one, where `evaluate` looks for it.

    Args:
        stage: the first.
        model: path of the trained one.
    """
    target = model.with_name(FILE)
    # Training that an older program began has no such checkpoint.
    if settings.starts_from_probe and stage.start.exists():
        fit.publish(stage.start, target)
    else:
        target.unlink(missing_ok=True)
