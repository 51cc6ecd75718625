"""`phase4 distill`: train the student on its teachers' soft labels."""

from __future__ import annotations

import functools
from pathlib import Path

import keras

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.student import Phase4, StudentTraining
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.files import write_json
from keras_pipeline.data import pipeline, records
from keras_pipeline.models import heads, trained
from keras_pipeline.phases.phase1_teacher import own_probe
from keras_pipeline.phases.phase3_soft_labels import student
from keras_pipeline.phases.phase4_student import batches
from keras_pipeline.training import distribute, fit
from keras_pipeline.training.distiller import Distiller
from keras_pipeline.training.fit import Stage
from keras_pipeline.training.recall import MacroRecall
from keras_pipeline.training.schedule import build_optimizer, jit_compile
from keras_pipeline.training.soft_labels import Layout
from keras_pipeline.training.store import Store


def run(run: Run) -> None:
    config = run.config
    devices = distribute.strategy(config.distribute)
    keras.utils.set_random_seed(config.seed)
    info = records.load_info(run.path("dataset"))
    folder = run.path("distill_history").parent
    stage = stage_of(config.phase4, info, folder, epochs=config.phase4.distill.epochs, made_from=run.made_from)
    with devices.scope():
        teaching = _teaching(run, info)
        model = Distiller(
            student.build(config, len(info.classes)),
            temperature=config.phase3.distillation.temperature,
            soft=config.phase3.distillation.loss_weights.kl_divergence,
            cross_entropy=config.phase3.distillation.loss_weights.cross_entropy,
            loss=config.phase3.distillation.loss,
            teacher=teaching.teacher,
        )
        heads.freeze(model.student, backbone=False, batch_norm=config.phase3.model.freezes_batch_norm(stage.photos))
        compile_student(model, config.phase4.training, stage, learning_rate=config.phase4.distill.learning_rate)
    start = None
    if config.phase3.model.starts_from_probe:
        start = functools.partial(
            own_probe.initialise_head, model.student, info, student.preprocessing(config),
            region=None, seed=config.seed, folder=folder,
        )  # fmt: skip
    write_history(run, "distill_history", fit.fit(model, teaching.batches, teaching.validation, stage, start=start))
    if not run.assists:
        own_probe.publish(stage, config.phase3.model, run.path("distilled"))


def _teaching(run: Run, info: DatasetInfo) -> batches.Teaching:
    if run.config.phase4.distill.live:
        models = [trained.load(run.folder / member.path, info) for member in run.config.phase3.teachers]
        return batches.live(run.config, info, models)
    store = Store.open(run.path("soft_labels"), Layout.of(run.config.phase3, info))
    return batches.stored(run.config, info, store, run.path("ensemble_val"))


def write_history(run: Run, name: str, rows: list[dict]) -> None:
    """Write the epochs of a stage, if this machine is the one that writes."""
    if not run.assists:
        write_json(run.path(name), {"epochs": rows})


def stage_of(settings: Phase4, info: DatasetInfo, folder: Path, *, epochs: int, made_from: str) -> Stage:
    """Describe a stage of the student's training.

    Args:
        folder, made_from: see `fit.Stage`.

    Raises:
        ValueError: if the train split has fewer photos than a batch.
    """
    return Stage(
        folder,
        epochs,
        pipeline.steps_per_epoch(info, settings.training.batch_size),
        settings.training.batch_size,
        len(info.classes),
        settings.training.warmup_epochs,
        settings.callbacks,
        made_from=made_from,
    )


def compile_student(
    model: keras.Model,
    training: StudentTraining,
    stage: Stage,
    *,
    learning_rate: float,
    loss: keras.losses.Loss | None = None,
) -> None:
    """Compile with the config's optimizer, and with top-1, top-5 and macro recall as metrics.

    Args:
        learning_rate: peak, after the warm-up.
        loss: None: the model computes its own.
    """
    optimizer = build_optimizer(
        training.optimizer,
        learning_rate=learning_rate,
        weight_decay=training.weight_decay,
        steps=stage.epochs * stage.steps_per_epoch,
        warmup=round(stage.warmup_epochs * stage.steps_per_epoch),
    )
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
        MacroRecall(stage.num_classes),
    ]
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit_compile())
