"""`train --profile-input`: whether the input or the device sets the pace, and what each stage of the input can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_pipeline.core.artifacts import Run
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing, decode_jpeg
from keras_pipeline.phases.phase1_teacher import train

SECONDS = 6.0  # of measuring, after as many batches as the prefetching holds
WARM_UP = 6  # batches
ENDLESS = range(10**6)  # epochs: measuring may take more than the config's


def profile(run: Run, spec: train.TeacherSpec) -> dict:
    """Images/s of each stage of the training input, each with all before it, of the device alone, and of both together.

    Trains a model of its own for some steps and leaves nothing behind.
    """
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    records.check_labels(info)
    repeats, shown = train.sampling(run, spec, info)
    *_, (stage, frozen) = train.stages(run, spec, info)
    size = stage.batch_size
    rates = {}
    for name, dataset in _inputs(run, spec, info, repeats).items():
        batches = iter(dataset)
        rates[name] = _rate(lambda batches=batches: next(batches), size)
        print(f"{name:<34}{rates[name]:>8.0f} images/s", flush=True)
    with train.precision(spec.settings.training.precision):
        model = train.classifier(run, spec, info)
        train.ready(model, spec, stage, frozen, shown)
        whole = iter(train.batches(run, spec, info, repeats)(ENDLESS, 0))
        images, labels = next(whole)
        rates["device alone"] = _rate(lambda: model.train_on_batch(images, labels), size)
        rates["training: input and device"] = _rate(lambda: model.train_on_batch(*next(whole)), size)
    for name in ("device alone", "training: input and device"):
        print(f"{name:<34}{rates[name]:>8.0f} images/s")
    fed = rates[list(rates)[-3]]
    bound = "input" if fed < rates["device alone"] else "device"
    print(
        f"{bound}-bound: the input makes {fed / rates['device alone']:.1f} times the images that the device takes"
        + ("; more CPU cores, a weaker augmentation or smaller stored photos would help" if bound == "input" else "")
    )
    return {"images_per_second": rates, "bound": bound}


def _inputs(run: Run, spec: train.TeacherSpec, info, repeats) -> dict:
    """{what it does: dataset}, each doing a stage more than the one before."""
    settings, data = spec.settings, spec.settings.data
    preprocessing = Preprocessing(data.image_size, run.config.dataset.short_side)
    views: dict[str, Callable] = {
        "read, parse, shuffle": lambda jpeg, seed, number: tf.strings.length(jpeg),
        "+ decode": lambda jpeg, seed, number: tf.shape(decode_jpeg(jpeg)),
        "+ crop, resize": pipeline.training_view("none", preprocessing),
    }
    if data.augmentation != "none":
        views[f"+ augmentation: {data.augmentation}"] = pipeline.training_view(data.augmentation, preprocessing)
    options: dict[str, Any] = {"batch_size": settings.training.batch_size, "seed": run.config.seed, "epochs": ENDLESS}
    made = {
        name: pipeline.training_batches(info, view, region=spec.region, repeats=repeats, **options)
        for name, view in views.items()
    }
    made["+ MixUp, CutMix, labels"] = train.batches(run, spec, info, repeats)(ENDLESS, 0).prefetch(2)
    return made


def _rate(step: Callable, batch_size: int) -> float:
    """Images/s of `step`, a batch a call."""
    for _ in range(WARM_UP):
        step()
    steps, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        step()
        steps += 1
    return steps * batch_size / elapsed
