"""Which layers of keras-cv 0.9.0 keep the pace inside tf.data? None that a policy needs: ours are written by hand.

    .venv/bin/python -m benchmarks.training.keras_cv_layers      (CPU only, 2 cores, two minutes)

Each layer alone on batches of 64 decoded photos of 224 px from memory, then crop, flip and colour jitter in a row, as
`moderate` asks; against it our `moderate` batches, which the records' JPEGs still have to be decoded for. Prints
images/s of each and its mean |change| (0..255); as the last line ours over keras-cv's three in a row; exit 1 below 4.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from keras_cv import layers

from benchmarks.support.stored_photos import CLASSES, store
from benchmarks.training.input_pipeline import BATCH, SIZE, examples, ours, rate
from keras_pipeline.data import pipeline

SECONDS, GOAL = 4.0, 4.0
CROP = layers.RandomCropAndResize((SIZE, SIZE), (0.3, 1.0), (0.75, 1.33))
JITTER = layers.RandomColorJitter((0, 255), 0.2, 0.2, 0.2, 0.05)
ALONE = [
    CROP, JITTER, layers.RandomFlip(), layers.RandomBrightness(0.2), layers.RandomContrast((0, 255), 0.2),
    layers.RandomSaturation((0.4, 0.6)), layers.RandomHue(0.05, (0, 255)), layers.RandomRotation(0.05),
    layers.RandomShear(0.1, 0.1), layers.RandomZoom(0.1), layers.RandAugment((0, 255), augmentations_per_image=2),
    layers.MixUp(alpha=0.2), layers.CutMix(alpha=1.0),
]  # fmt: skip


def batches_of(decoded: tf.data.Dataset, row: list) -> tf.data.Dataset:
    def augmented(images, labels):
        batch = {"images": images, "labels": labels}
        for layer in row:
            batch = layer(batch, training=True)
        return batch["images"]

    return decoded.map(augmented, tf.data.AUTOTUNE).prefetch(4)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        info = store(Path(name))

        def decode(example):
            parsed = pipeline.parse(example)
            image = tf.image.resize(tf.io.decode_jpeg(parsed["image"], channels=3), (SIZE, SIZE))
            return image, tf.one_hot(parsed["label"], len(CLASSES))

        in_memory = list(examples(info).map(decode).batch(BATCH).take(4))
        images, labels = (np.concatenate(part) for part in zip(*in_memory, strict=True))
        decoded = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH).repeat()
        for layer in ALONE:
            iterator = iter(batches_of(decoded, [layer]))
            changed = np.abs(next(iterator).numpy() - images[:BATCH]).mean()
            rate(iterator, 1.0)
            print(
                f"{type(layer).__name__:<22}{rate(iterator, SECONDS):6.0f} images/s, change {changed:.1f}", flush=True
            )
        rates = {}
        for title, dataset in (
            ("ours", ours(info, "moderate")), ("keras-cv", batches_of(decoded, [CROP, layers.RandomFlip(), JITTER])),
        ):  # fmt: skip
            iterator = iter(dataset)
            rate(iterator, 2.0)
            rates[title] = rate(iterator, 2 * SECONDS)
            del iterator
    print(", ".join(f"{title} {value:.0f} images/s" for title, value in rates.items()))
    ratio = rates["ours"] / rates["keras-cv"]
    print(f"{ratio:.1f}")
    return int(ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main())
