"""`train --profile-input`: measure each stage of the input, and whether the input or the device is the bottleneck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing, decode_jpeg
from keras_pipeline.phases.phase1_teacher import train

SECONDS = 6.0  # per measurement
WARM_UP = 6  # batches, as many as prefetching holds
ENDLESS = range(10**6)  # epochs: a measurement may need more than the config's


def profile(run: Run, spec: train.TeacherSpec) -> dict:
    """Measure images/s of each stage of the training input, of the device alone, and of both together.

    A stage includes all stages before it. Trains a model of its own for some steps and leaves nothing behind.

    Returns:
        {"images_per_second": {stage: float}, "bound": "input" or "device"}, also printed.
    """
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    records.check_labels(info)
    repeats, shown = train.sampling(spec, info, run.path("regional_subset"))
    *_, (stage, frozen) = train.stages(spec, info, run.path(spec.prefix).parent, run.made_from)
    preprocessing = Preprocessing.of(run.config.dataset, spec.settings.data.image_size)
    training_input = train.batches(spec, info, preprocessing, seed=run.config.seed, repeats=repeats)
    size = stage.batch_size
    rates = {}
    inputs = _inputs(spec, info, preprocessing, seed=run.config.seed, repeats=repeats)
    inputs["+ MixUp, CutMix, labels"] = training_input(ENDLESS, 0).prefetch(2)
    for name, dataset in inputs.items():
        batches = iter(dataset)
        rates[name] = _rate(lambda batches=batches: next(batches), size)
        print(f"{name:<34}{rates[name]:>8.0f} images/s", flush=True)
    with train.precision(spec.settings.training.precision):
        model = train.classifier(spec.settings, info, global_teacher=run.path("teacher"))
        train.prepare(model, spec.settings, stage, frozen=frozen, shown=shown)
        whole = iter(training_input(ENDLESS, 0))
        images, labels = next(whole)
        rates["device alone"] = _rate(lambda: model.train_on_batch(images, labels), size)
        rates["training: input and device"] = _rate(lambda: model.train_on_batch(*next(whole)), size)
    for name in ("device alone", "training: input and device"):
        print(f"{name:<34}{rates[name]:>8.0f} images/s")
    fed = rates[list(rates)[-3]]
    bound = "input" if fed < rates["device alone"] else "device"
    print(
        f"{bound}-bound: the input makes {fed / rates['device alone']:.1f} times the images that the device can process"
        + ("; more CPU cores, a weaker augmentation or smaller stored photos would help" if bound == "input" else "")
    )
    return {"images_per_second": rates, "bound": bound}


def _inputs(
    spec: train.TeacherSpec, info: DatasetInfo, preprocessing: Preprocessing, *, seed: int, repeats: np.ndarray | None
) -> dict[str, tf.data.Dataset]:
    """Return {stage: dataset}, each with one stage more than the one before."""
    data = spec.settings.data
    views: dict[str, Callable] = {
        "read, parse, shuffle": lambda jpeg, seed, number: tf.strings.length(jpeg),
        "+ decode": lambda jpeg, seed, number: tf.shape(decode_jpeg(jpeg)),
        "+ crop, resize": pipeline.training_view("none", preprocessing),
    }
    if data.augmentation != "none":
        views[f"+ augmentation: {data.augmentation}"] = pipeline.training_view(data.augmentation, preprocessing)
    batch_size = spec.settings.training.batch_size
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "epochs": ENDLESS}
    return {
        name: pipeline.training_batches(info, view, region=spec.region, repeats=repeats, **options)
        for name, view in views.items()
    }


def _rate(step: Callable, batch_size: int) -> float:
    """Measure images/s of `step`, which handles one batch per call."""
    for _ in range(WARM_UP):
        step()
    steps = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        step()
        steps += 1
    return steps * batch_size / elapsed
