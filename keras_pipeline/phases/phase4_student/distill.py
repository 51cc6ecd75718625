"""`phase4 distill`: train the student on its teachers' soft labels."""

from __future__ import annotations

import keras

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import write_json
from keras_pipeline.data import pipeline, records
from keras_pipeline.phases.phase3_soft_labels import student
from keras_pipeline.phases.phase4_student import batches
from keras_pipeline.training import distribute, fit
from keras_pipeline.training.distiller import Distiller
from keras_pipeline.training.fit import Stage
from keras_pipeline.training.recall import MacroRecall
from keras_pipeline.training.schedule import build_optimizer, jit_compile


def run(run: Run) -> None:
    devices = distribute.strategy(run.config.distribute)
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    settings = run.config.phase3.distillation
    stage = stage_of(run, info, "distill")
    with devices.scope():
        taught = batches.live(run, info) if run.config.phase4.distill.live else batches.stored(run, info)
        model = Distiller(
            student.build(run.config, len(info.classes)),
            temperature=settings.temperature,
            soft=settings.loss_weights.kl_divergence,
            cross_entropy=settings.loss_weights.cross_entropy,
            loss=settings.loss,
            teacher=taught.teacher,
        )
        compile_student(run, model, stage, run.config.phase4.distill.learning_rate)
    write_history(run, "distill_history", fit.fit(model, taught.batches, taught.validation, stage))


def write_history(run: Run, name: str, rows: list[dict]) -> None:
    """Write the epochs of a stage, where this machine writes."""
    if not run.assists:
        write_json(run.path(name), {"epochs": rows})


def stage_of(run: Run, info, name: str):
    """A stage of the student's training, `distill` or `finetune`."""
    settings = run.config.phase4
    steps = pipeline.steps_per_epoch(info, settings.training.batch_size)
    return Stage(
        run.path(f"{name}_history").parent,
        getattr(settings, name).epochs,
        steps,
        settings.training.batch_size,
        len(info.classes),
        settings.training.warmup_epochs,
        settings.callbacks,
        made_from=run.made_from,
    )


def compile_student(run: Run, model, stage, learning_rate: float, loss=None) -> None:
    """Compile with the config's optimizer, top-1, top-5 and macro recall."""
    training = run.config.phase4.training
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
