"""What a step with stored soft labels costs beside a plain one, and Keras's own Distiller with a live teacher.

    .venv/bin/python -m benchmarks.distillation.distill_step      (CPU only, 2 cores, six minutes)

MobileNetV2 alpha 1 at 96 px, batches of 32 from memory, Adam; 17 classes with all of them stored, and 9,000 with 128.
Plain cross-entropy, ours (KL and cross-entropy) and, at 17 classes, keras.distillation.Distiller with a MobileNetV2 as
teacher take turns, and the medians count. Where both can express it (T² KL alone, every class) ours and Keras's loss of
the same batch have to be equal to 1e-5. Prints milliseconds a step; as the last line 1.10 over the larger of ours over
plain; exit 1 below 1.
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_pipeline.core.config.teachers import Model
from keras_pipeline.models import heads
from keras_pipeline.training import soft_labels
from keras_pipeline.training.distiller import Distiller
from keras_pipeline.training.soft_labels import Layout

BATCH, SIZE, ROUNDS, T = 32, 96, 12, 3.0


def network(classes: int, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = Model(name="mobilenetv2", pretrained=False)
    return heads.build_classifier(model, num_classes=classes, image_size=SIZE, dropout=0.0)


def keras_kl():
    # An instance: of the default, the name 'kl_divergence', Keras 3.15 takes the KL of the logits themselves.
    return keras.distillation.LogitsDistillation(temperature=T, loss=keras.losses.KLDivergence())


def stored(classes: int, logits: np.ndarray) -> dict[str, np.ndarray]:
    layout = Layout("benchmark", "benchmark", classes, T, min(128, classes), views=1)
    view = soft_labels.encode_view(logits, layout)
    return {
        "teacher_ids": view["ids"].astype("int32")[:, None],
        "teacher_logits": view["logits"].astype("float32")[:, None],
        "teacher_tail": view["tail"][:, None],
    }


def measure(classes: int) -> tuple[float, float]:
    """(ours over plain, difference of ours and Keras's loss)"""
    random = np.random.default_rng(0)
    images, labels = (
        random.uniform(0, 255, (BATCH, SIZE, SIZE, 3)).astype("float32"),
        random.integers(0, classes, BATCH),
    )
    # Half precision holds these exactly: what is compared is the sum, not the rounding of the store.
    said = 3 * random.normal(size=(BATCH, classes))
    said = (said - said.max(axis=1, keepdims=True)).astype("float16").astype("float32")
    x = {"image": images, "labels": labels[:, None], "share": np.ones((BATCH, 1), "float32"), **stored(classes, said)}
    plain = network(classes, seed=2)
    ours = Distiller(network(classes, seed=2), temperature=T, soft=0.7, cross_entropy=0.3, loss="kl")
    plain.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    ours.compile("adam", jit_compile=False)
    steps = {
        "plain": lambda: plain.train_on_batch(images, labels),
        "stored": lambda: ours.train_on_batch(x, labels),
    }
    difference = 0.0
    if classes == 17:
        theirs = keras.distillation.Distiller(
            network(classes, seed=1), network(classes, seed=2), keras_kl(),
            student_loss_weight=0.3,
        )  # fmt: skip
        theirs.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        steps["keras, live teacher"] = lambda: theirs.train_on_batch(images, labels)
        student = (3 * random.normal(size=(BATCH, classes))).astype("float32")
        kl = Distiller(network(classes, seed=2), temperature=T, soft=1.0, cross_entropy=0.0, loss="kl")
        mine = float(kl.compute_loss(x, labels, student))
        keras_loss = float(keras_kl().compute_loss(said, student))
        difference = abs(mine - keras_loss)
        print(f"T² KL of one batch: ours {mine:.7f}, Keras's {keras_loss:.7f}")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn > 1:  # the first hold the tracing
                times[name].append(time.perf_counter() - started)
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    print(f"{classes} classes: " + ", ".join(f"{name} {value:.0f} ms" for name, value in medians.items()))
    return medians["stored"] / medians["plain"], difference


def main() -> int:
    found = [measure(classes) for classes in (17, 9000)]
    worst = max(ratio for ratio, _ in found)
    print(f"{1.10 / worst:.3f}")
    return int(worst > 1.10 or max(difference for _, difference in found) > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
