"""Training and validation batches for distillation, with stored soft labels or live teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.student import EnsembleMember
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.hashing import UNREADABLE
from keras_pipeline.core.region_names import names_of
from keras_pipeline.data import augment, pipeline
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.training import soft_labels
from keras_pipeline.training.fit import Batches
from keras_pipeline.training.live import image_key, live_teachers
from keras_pipeline.training.store import Store

# (batch, pair) -> the teachers' part of x; pair: [N, …] -> [N, M, …] over the M photos mixed into one
TeacherPart = Callable[[dict[str, tf.Tensor], Callable[[tf.Tensor], tf.Tensor]], dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Data that a Distiller learns from, and the teacher if it is a live one."""

    batches: Batches  # of (x, label), see Distiller
    validation: tf.data.Dataset
    teacher: Callable | None = None


def stored(config: Config, info: DatasetInfo, store: Store, ensemble_val: Path) -> Teaching:
    """Teach with stored soft labels, on the views that they were stored for.

    Args:
        store: the combined soft labels. A damaged shard raises BrokenArtefact now, not on the third day of training.
        ensemble_val: the ensemble's answers on the val split, from `phase3 check`.
    """
    store.check_contents()
    companion = pipeline.Companion(store.folder, store.layout.dtype.itemsize, soft_labels.selector(store.layout))

    def teacher_part(batch: dict, pair: Callable) -> dict:
        return {name: pair(value) for name, value in soft_labels.targets(batch["teacher"], store.layout).items()}

    try:
        with np.load(ensemble_val, allow_pickle=False) as table:
            answers = tf.data.Dataset.from_tensor_slices((table["sample_id"], table["answer"]))
    except UNREADABLE as error:
        raise BrokenArtefact(f"{ensemble_val}: can't be read ({error}); run `phase3 check --force`") from error
    answers = answers.batch(pipeline.EVALUATION_BATCH)

    def with_answer(batch: dict, row: tuple) -> tuple:
        ids, answer = row
        check = tf.debugging.assert_equal(batch["sample_id"], ids, "other val photos; run `phase3 check` again")
        with tf.control_dependencies([check]):
            return {"image": batch["image"], "teacher_answer": tf.identity(answer)}, batch["label"]

    preprocessing = Preprocessing.of(config.dataset, config.phase4.data.image_size)
    view = pipeline.stored_view(preprocessing)
    photos = pipeline.evaluation_batches(info, "val", preprocessing)
    validation = tf.data.Dataset.zip(photos, answers).map(with_answer)
    return Teaching(_batches(config, info, view, teacher_part, companion), validation)


def live(config: Config, info: DatasetInfo, models: Sequence[keras.Model]) -> Teaching:
    """Teach with live teachers, which see the student's own views, each at its own size.

    Args:
        models: the teachers, in the order of phase3.teachers.
    """
    members = config.phase3.teachers
    student_size = config.phase4.data.image_size
    sizes = {image_key(size, student_size): size for size in (student_size, *(m.input_shape[1] for m in models))}
    preprocessings = {key: Preprocessing.of(config.dataset, size) for key, size in sizes.items()}
    augmentation = config.phase4.distill.augmentation
    views = {key: pipeline.training_view(augmentation, each) for key, each in preprocessings.items()}

    def teacher_part(batch: dict, pair: Callable) -> dict:
        return {"teacher_weights": _weights(members, batch["region"])}

    def with_weights(*batches: dict) -> tuple:
        images = {key: batch["image"] for key, batch in zip(sizes, batches, strict=True)}
        return {**images, "teacher_weights": _weights(members, batches[0]["region"])}, batches[0]["label"]

    photos = [pipeline.evaluation_batches(info, "val", each) for each in preprocessings.values()]
    return Teaching(
        _batches(config, info, lambda *photo: {key: view(*photo) for key, view in views.items()}, teacher_part),
        tf.data.Dataset.zip(tuple(photos)).map(with_weights),
        live_teachers(
            models,
            student_size=student_size,
            temperature=config.phase3.distillation.temperature,
            space=config.phase3.ensemble,
        ),
    )


def _weights(members: Sequence[EnsembleMember], regions: tf.Tensor) -> tf.Tensor:
    """Return the weight of each teacher for each photo: float32 [N, teachers], rows sum to 1."""
    applies = [
        tf.reduce_any(regions[:, None] == names_of(m.region_filter), axis=1)
        if m.region_filter
        else tf.ones_like(regions, tf.bool)
        for m in members
    ]
    weights = tf.stack([tf.where(each, m.weight, 0.0) for each, m in zip(applies, members, strict=True)], axis=1)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def _batches(
    config: Config,
    info: DatasetInfo,
    view: pipeline.View,
    teacher_part: TeacherPart,
    companion: pipeline.Companion | None = None,
) -> Batches:
    """Make a Distiller's training batches, with MixUp and CutMix applied."""
    settings = config.phase4.distill
    alphas = {"mixup_alpha": settings.mixup_alpha, "cutmix_alpha": settings.cutmix_alpha}
    mixes = any(alphas.values())

    def teach(batch: dict) -> tuple:
        mixed = {key: augment.mix(batch[key], **alphas, seed=batch["seed"]) for key in batch if key.startswith("image")}
        images = {key: image for key, (image, _, _) in mixed.items()}
        _, partner, keep = mixed["image"]  # CutMix counts pixels for λ: take the student's image

        def pair(values: tf.Tensor) -> tf.Tensor:
            return tf.stack([values, tf.gather(values, partner)], axis=1) if mixes else values[:, None]

        share = tf.stack([keep, 1 - keep], axis=1) if mixes else keep[:, None]
        labels = pair(batch["label"])
        largest = tf.gather(labels, tf.argmax(share, axis=1), axis=1, batch_dims=1)
        return {**images, "labels": labels, "share": share, **teacher_part(batch, pair)}, largest

    def make(epochs: range, done: int) -> tf.data.Dataset:
        dataset = pipeline.training_batches(
            info,
            view,
            batch_size=config.phase4.training.batch_size,
            seed=config.seed,
            epochs=epochs,
            done=done,
            companion=companion,
        )
        return dataset.map(teach, tf.data.AUTOTUNE)

    return make
