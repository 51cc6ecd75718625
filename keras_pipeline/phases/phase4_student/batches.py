"""Batches for distillation, with stored soft labels or live teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_pipeline.core.artifacts import Run
from keras_pipeline.data import augment, pipeline
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.models import trained
from keras_pipeline.training import soft_labels
from keras_pipeline.training.fit import Batches
from keras_pipeline.training.live import image_key, live_teachers
from keras_pipeline.training.soft_labels import Layout, Store


@dataclasses.dataclass(frozen=True)
class Teaching:
    """What the student is shown, and the teacher where it is a live one."""

    batches: Batches  # of (x, label), see Distiller
    validation: tf.data.Dataset
    teacher: Callable | None = None


def stored(run: Run, info) -> Teaching:
    """The views that soft labels are stored of, and these."""
    store = Store.open(run.path("soft_labels"), Layout.of(run.config.phase3, info))
    store.check_contents()  # A shard that is damaged is named before training, not in its third day.
    companion = pipeline.Companion(store.folder, store.layout.dtype.itemsize, soft_labels.selector(store.layout))

    def said(batch: dict, pair: Callable) -> dict:
        return {name: pair(value) for name, value in soft_labels.targets(batch["teacher"], store.layout).items()}

    with np.load(run.path("ensemble_val"), allow_pickle=False) as table:
        answers = tf.data.Dataset.from_tensor_slices((table["sample_id"], table["answer"])).batch(
            pipeline.EVALUATION_BATCH
        )

    def validated(batch: dict, answer: tuple) -> tuple:
        ids, answer = answer
        check = tf.debugging.assert_equal(batch["sample_id"], ids, "other val photos; run `phase3 check` again")
        with tf.control_dependencies([check]):
            return {"image": batch["image"], "teacher_answer": tf.identity(answer)}, batch["label"]

    preprocessing = _preprocessing(run, run.config.phase4.data.image_size)
    view = pipeline.stored_view(preprocessing)
    photos = pipeline.evaluation_batches(info, "val", preprocessing)
    return Teaching(
        _batches(run, info, view, said, companion),
        tf.data.Dataset.zip(photos, answers).map(lambda batch, answer: validated(batch, answer)),
    )


def live(run: Run, info) -> Teaching:
    """The student's own views, at each teacher's size too, and the teachers themselves."""
    members, size = run.config.phase3.teachers, run.config.phase4.data.image_size
    models = [trained.load(run.folder / member.path, info) for member in members]
    keys = {image_key(each, size): each for each in (size, *(model.input_shape[1] for model in models))}
    augmentation = run.config.phase4.distill.augmentation
    views = {key: pipeline.training_view(augmentation, _preprocessing(run, each)) for key, each in keys.items()}

    def said(batch: dict, pair: Callable) -> dict:
        return {"teacher_weights": weights(batch["region"])}

    def weights(regions: tf.Tensor) -> tf.Tensor:
        speaks = [regions == m.region_filter if m.region_filter else tf.ones_like(regions, tf.bool) for m in members]
        shares = tf.stack([tf.where(each, m.weight, 0.0) for each, m in zip(speaks, members, strict=True)], axis=1)
        return shares / tf.reduce_sum(shares, axis=1, keepdims=True)

    def validated(*batches: dict) -> tuple:
        images = {key: batch["image"] for key, batch in zip(keys, batches, strict=True)}
        return {**images, "teacher_weights": weights(batches[0]["region"])}, batches[0]["label"]

    photos = [pipeline.evaluation_batches(info, "val", _preprocessing(run, each)) for each in keys.values()]
    return Teaching(
        _batches(run, info, lambda *photo: {key: view(*photo) for key, view in views.items()}, said),
        tf.data.Dataset.zip(tuple(photos)).map(validated),
        live_teachers(
            models,
            student_size=size,
            temperature=run.config.phase3.distillation.temperature,
            space=run.config.phase3.ensemble,
        ),
    )


def _batches(run: Run, info, view, said: Callable, companion=None) -> Batches:
    """Training batches of a Distiller, MixUp and CutMix done.

    Args:
        said: (batch, pairing) -> what the teachers' part of x is; pairing [N, …] -> [N, M, …] of the M mixed photos.
    """
    settings = run.config.phase4.distill
    alphas = {"mixup_alpha": settings.mixup_alpha, "cutmix_alpha": settings.cutmix_alpha}
    mixes = any(alphas.values())

    def taught(batch: dict) -> tuple:
        mixed = {key: augment.mix(batch[key], **alphas, seed=batch["seed"]) for key in batch if key.startswith("image")}
        images = {key: image for key, (image, _, _) in mixed.items()}
        _, partner, keep = mixed["image"]  # λ of CutMix is a count of pixels: of those that the student sees

        def pair(values: tf.Tensor) -> tf.Tensor:
            return tf.stack([values, tf.gather(values, partner)], axis=1) if mixes else values[:, None]

        share = tf.stack([keep, 1 - keep], axis=1) if mixes else keep[:, None]
        labels = pair(batch["label"])
        largest = tf.gather(labels, tf.argmax(share, axis=1), axis=1, batch_dims=1)
        return {**images, "labels": labels, "share": share, **said(batch, pair)}, largest

    def make(epochs: range, done: int) -> tf.data.Dataset:
        dataset = pipeline.training_batches(
            info,
            view,
            batch_size=run.config.phase4.training.batch_size,
            seed=run.config.seed,
            epochs=epochs,
            done=done,
            companion=companion,
        )
        return dataset.map(taught, tf.data.AUTOTUNE)

    return make


def _preprocessing(run: Run, image_size: int):
    return Preprocessing(image_size, run.config.dataset.short_side)
