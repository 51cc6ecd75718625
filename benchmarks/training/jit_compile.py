"""Why `training.schedule.jit_compile` leaves XLA off on a CPU: a MobileNetV2 training step with and without it.

    .venv/bin/python -m benchmarks.training.jit_compile      (CPU only; minutes, nearly all of them XLA compiling)

Random pixels do: the time of a step does not depend on them. Prints seconds a step for both, in turn, and as the last
line the ratio with XLA / without; exit 1 below 1.5, when the choice would deserve another look.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.config.teachers import Model
from keras_pipeline.models import heads

BATCH, SIZE, STEPS, ROUNDS, GOAL = 16, 96, 6, 3, 1.5


def compiled(jit: bool) -> keras.Model:
    model = heads.build_classifier(
        Model(name="mobilenetv2", alpha=0.35, pretrained=False), num_classes=17, image_size=SIZE, dropout=0.2
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, jit_compile=jit)
    return model


def main() -> int:
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (BATCH, SIZE, SIZE, 3)).astype("float32")
    batches = tf.data.Dataset.from_tensors((images, random.integers(0, 17, BATCH))).repeat()
    models = {name: compiled(name == "XLA") for name in ("plain", "XLA")}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for name, model in models.items():
        started = time.perf_counter()
        model.fit(batches, steps_per_epoch=1, verbose=0)
        print(f"{name}: first step {time.perf_counter() - started:.1f} s")
    for _ in range(ROUNDS):
        for name, model in models.items():
            started = time.perf_counter()
            model.fit(batches, steps_per_epoch=STEPS, verbose=0)
            seconds[name].append((time.perf_counter() - started) / STEPS)
    best = {name: min(values) for name, values in seconds.items()}
    print(", ".join(f"{name} {value * 1000:.0f} ms a step" for name, value in best.items()))
    ratio = best["XLA"] / best["plain"]
    print(f"{ratio:.2f}")
    return int(ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main())
