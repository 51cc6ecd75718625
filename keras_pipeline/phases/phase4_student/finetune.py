"""`phase4 finetune`: train the distilled student on the true labels."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_pipeline.core.artifacts import Run
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.models import heads, trained
from keras_pipeline.phases.phase4_student.distill import compile_student, stage_of, write_history
from keras_pipeline.training import distribute, fit


def run(run: Run) -> None:
    config = run.config
    settings = config.phase4.finetune
    devices = distribute.strategy(config.distribute)
    keras.utils.set_random_seed(config.seed)
    info = records.load_info(run.path("dataset"))
    preprocessing = Preprocessing.of(config.dataset, config.phase4.data.image_size)

    def batches(epochs: range, done: int) -> tf.data.Dataset:
        dataset = pipeline.training_batches(
            info,
            pipeline.training_view(settings.augmentation, preprocessing),
            batch_size=config.phase4.training.batch_size,
            seed=config.seed + 1,  # other views than in distillation
            epochs=epochs,
            done=done,
        )
        return dataset.map(lambda batch: (batch["image"], batch["label"]))

    validation = pipeline.evaluation_batches(info, "val", preprocessing)
    validation = validation.map(lambda batch: (batch["image"], batch["label"]))
    folder = run.path("finetune_history").parent
    stage = stage_of(config.phase4, info, folder, epochs=settings.epochs, made_from=run.made_from)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with devices.scope():
        model = trained.load(run.path("distilled"), info, image_size=config.phase4.data.image_size)
        heads.freeze(model, backbone=False, batch_norm=config.phase3.model.freezes_batch_norm(stage.photos))
        compile_student(model, config.phase4.training, stage, learning_rate=settings.learning_rate, loss=loss)
    start = fit.as_it_is if config.phase3.model.starts_from_probe else None
    write_history(run, "finetune_history", fit.fit(model, batches, validation, stage, start=start))
