"""What our training loop costs beside the arithmetic: `fit` with all callbacks on stored photos, against a bare step.

    .venv/bin/python -m benchmarks.training.train_step      (CPU only, 2 cores, six minutes)

ViT-tiny at 224 px, batches of 16. Ours is phase 1's: `moderate` views of the 17-flower records through `fit.fit` with
the callbacks it always has, top-1, top-5 and macro recall, the gradient's norm, decay masked by variable. The bare loop
is a `tf.function` of forward pass, gradient and Keras's own AdamW on batches that lie in memory. Both take turns; the
median of each counts. Ours from the first to the last step of an epoch: validation and checkpoints come after it.
Prints images/s, and as the last line ours over the bare loop's; exit 1 below 0.90.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.support.stored_photos import store
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_dict
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.phases.phase1_teacher import train
from keras_pipeline.training import fit

SIZE, BATCH, STEPS, ROUNDS, GOAL = 224, 16, 16, 3, 0.90


def config(root: str):
    return from_dict(
        {
            "experiment": "step",
            "root": root,
            "phase1": {
                "model": {"name": "vit_tiny_patch16", "pretrained": False},
                "data": {"image_size": SIZE, "augmentation": "moderate"},
                "training": {"batch_size": BATCH, "head_epochs": 0, "epochs": 1, "warmup_epochs": 0},
                "regularization": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0},
                "callbacks": {"early_stopping": False},
            },
        }
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as root:
        info = store(Path(root))
        run = Run(config(root), None)
        job = train.TeacherSpec("teacher", run.config.phase1)
        ((stage, _),) = train.stages(job, info, run.path("teacher").parent, run.made_from)
        repeats, shown = train.sampling(job, info, run.path("regional_subset"))
        preprocessing = Preprocessing.of(run.config.dataset, job.settings.data.image_size)
        batches = train.batches(job, info, preprocessing, seed=run.config.seed, repeats=repeats)
        validation = train.validation(info, preprocessing, None)
        model = train.classifier(job.settings, info, global_teacher=run.path("teacher"))
        train.prepare(model, job.settings, stage, frozen=False, shown=shown)
        bare = Bare(keras.models.clone_model(model), batches(range(1), 0))
        rates: dict[str, list[float]] = {"ours": [], "bare": []}
        for turn in range(ROUNDS + 1):
            own = fit.Stage(
                Path(root) / f"turn{turn}", 1, STEPS, BATCH, len(info.classes), 0, run.config.phase1.callbacks
            )
            (row,) = fit.fit(model, batches, validation, own)
            found = {"ours": row["images_per_second"], "bare": bare.rate()}
            if turn:  # the first holds the tracing
                for name, value in found.items():
                    rates[name].append(value)
    for name, values in rates.items():
        print(f"{name}: {', '.join(f'{value:.1f}' for value in values)} images/s")
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["bare"])
    print(f"{ratio:.2f}")
    return int(ratio < GOAL)


class Bare:
    """Forward pass, gradient and AdamW, nothing else."""

    def __init__(self, model: keras.Model, batches: tf.data.Dataset) -> None:
        self._batches = list(batches.take(4))
        optimizer, loss = keras.optimizers.AdamW(1e-4), keras.losses.CategoricalCrossentropy(from_logits=True)
        optimizer.build(model.trainable_variables)

        @tf.function
        def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                value = loss(labels, model(images, training=True))
            optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
            return value

        self._step = step
        self._run(1)

    def rate(self) -> float:
        """Images/s."""
        started = time.perf_counter()
        self._run(STEPS)
        return STEPS * BATCH / (time.perf_counter() - started)

    def _run(self, steps: int) -> None:
        for number in range(steps):
            loss = self._step(*self._batches[number % len(self._batches)])
        assert np.isfinite(loss.numpy())


if __name__ == "__main__":
    sys.exit(main())
