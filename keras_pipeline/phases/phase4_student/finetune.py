"""`phase4 finetune`: train the distilled student on the hard labels."""

from __future__ import annotations

import keras

from keras_pipeline.core.artifacts import Run
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.models import trained
from keras_pipeline.phases.phase4_student.distill import compile_student, stage_of, write_history
from keras_pipeline.training import distribute, fit


def run(run: Run) -> None:
    devices = distribute.strategy(run.config.distribute)
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    settings = run.config.phase4.finetune
    preprocessing = Preprocessing(run.config.phase4.data.image_size, run.config.dataset.short_side)

    def batches(epochs: range, done: int):
        dataset = pipeline.training_batches(
            info,
            pipeline.training_view(settings.augmentation, preprocessing),
            batch_size=run.config.phase4.training.batch_size,
            seed=run.config.seed + 1,  # not the views of the distillation once more
            epochs=epochs,
            done=done,
        )
        return dataset.map(lambda batch: (batch["image"], batch["label"]))

    validation = pipeline.evaluation_batches(info, "val", preprocessing)
    validation = validation.map(lambda batch: (batch["image"], batch["label"]))
    stage = stage_of(run, info, "finetune")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with devices.scope():
        model = trained.load(run.path("distilled"), info, image_size=run.config.phase4.data.image_size)
        compile_student(run, model, stage, settings.learning_rate, loss)
    write_history(run, "finetune_history", fit.fit(model, batches, validation, stage))
