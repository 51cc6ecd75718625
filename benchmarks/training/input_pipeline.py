"""What augmentation costs: from 256-px records to batches of 64 at 224 px, against the decoder alone.

    .venv/bin/python -m benchmarks.training.input_pipeline      (CPU only, 2 cores, five minutes)

The limit is decoding and a random resized crop of the same records, and nothing else: TensorFlow's fused
`decode_and_crop_jpeg` and its plain bilinear resize. Ours are `pipeline.training_batches` with each policy, shuffled,
seeded per view, batched. Keras is the same reading with keras.layers.RandAugment, then MixUp and CutMix. All run in
turn, the best of each counts. Prints images/s, then what each operation changes on average (0..255), so that none is
fast by doing nothing, and as the last line the slowest policy's share of what is asked of it: `none` 0.95, `moderate`
0.50, `aggressive` 0.22 of the limit, and 8 times Keras for `aggressive`; exit 1 below 1.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.support.stored_photos import CLASSES, store
from keras_pipeline.data import augment, pipeline, records
from keras_pipeline.data.preprocess import Preprocessing

SIZE, BATCH, SECONDS, ROUNDS = 224, 64, 6.0, 4
ASKED, OVER_KERAS = {"none": 0.95, "moderate": 0.50, "aggressive": 0.22}, 8.0


def examples(info: records.DatasetInfo) -> tf.data.Dataset:
    files = tf.data.Dataset.from_tensor_slices([str(path) for path in info.shards("train")])
    return files.interleave(tf.data.TFRecordDataset, cycle_length=4).repeat().shuffle(1024, seed=1)


def limit(info: records.DatasetInfo) -> tf.data.Dataset:
    policy = augment.POLICIES["moderate"]

    def decode(example):
        image = pipeline.parse(example)["image"]
        box = augment.crop_box(tf.io.extract_jpeg_shape(image), policy, tf.random.uniform([4]))
        return tf.image.resize(tf.image.decode_and_crop_jpeg(image, box, channels=3), (SIZE, SIZE))

    return examples(info).map(decode, tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True).prefetch(4)


def ours(info: records.DatasetInfo, name: str) -> tf.data.Dataset:
    view = pipeline.training_view(name, Preprocessing(SIZE, 256))
    batches = pipeline.training_batches(info, view, batch_size=BATCH, seed=1, epochs=range(1000))
    if name != "aggressive":
        return batches

    def mix(batch):
        images, *mixture = augment.mix(batch["image"], mixup_alpha=0.2, cutmix_alpha=1.0, seed=batch["seed"])
        return images, augment.mix_labels(tf.one_hot(batch["label"], len(CLASSES)), *mixture)

    return batches.map(mix, tf.data.AUTOTUNE).prefetch(4)


def keras_layers(info: records.DatasetInfo) -> tf.data.Dataset:
    augmentation = keras.layers.RandAugment(value_range=(0, 255))
    mixes = [keras.layers.MixUp(0.2), keras.layers.CutMix(1.0)]

    def decode(example):
        parsed = pipeline.parse(example)
        image = tf.image.resize(tf.io.decode_jpeg(parsed["image"], channels=3), (SIZE, SIZE))
        return {"images": image, "labels": tf.one_hot(parsed["label"], len(CLASSES))}

    def augmented(batch):
        batch = {**batch, "images": augmentation(batch["images"], training=True)}
        for layer in mixes:
            batch = layer(batch, training=True)
        return batch

    batches = examples(info).map(decode, tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True)
    return batches.map(augmented, tf.data.AUTOTUNE).prefetch(4)


def changes(info: records.DatasetInfo) -> dict[str, float]:
    """Mean |difference| from the policy that does nothing, operation by operation, over 64 photos."""
    photos = [pipeline.parse(example)["image"] for example in examples(info).take(64)]
    nothing = augment.Policy(area=(1.0, 1.0), aspect=1.0, flip=0.0, colour=0.0, hue=0.0, warp=0.0)

    def views(**change) -> np.ndarray:
        policy = augment.Policy(**{**vars(nothing), **change})
        seeds = [tf.constant([number, 1], tf.int64) for number in range(len(photos))]
        return np.stack([augment.random_view(p, policy, SIZE, s) for p, s in zip(photos, seeds, strict=True)])

    plain, strong = views(), augment.POLICIES["aggressive"]
    one_by_one = {
        "crop": {"area": strong.area, "aspect": strong.aspect},
        "flip": {"flip": 1.0},
        "brightness, contrast, saturation": {"colour": strong.colour},
        "hue": {"hue": strong.hue},
        "warp": {"warp": 1.0},
    }
    return {name: float(np.abs(views(**change) - plain).mean()) for name, change in one_by_one.items()}


def rate(batches, seconds: float) -> float:
    """Images/s."""
    n, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        next(batches)
        n += BATCH
    return n / (time.perf_counter() - started)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        info = store(Path(name))
        makers = {
            "limit": limit,
            **{policy: lambda info, p=policy: ours(info, p) for policy in ASKED},
            "keras": keras_layers,
        }
        best = dict.fromkeys(makers, 0.0)
        for _ in range(ROUNDS):
            for each, make in makers.items():
                batches = iter(make(info))  # one at a time: another's prefetching would take the cores
                rate(batches, 2.0)
                best[each] = max(best[each], rate(batches, SECONDS))
                del batches
        changed = changes(info)
    print(", ".join(f"{each} {value:.0f} images/s" for each, value in best.items()))
    print("mean |change|: " + ", ".join(f"{each} {value:.1f}" for each, value in changed.items()))
    shares = {policy: best[policy] / best["limit"] for policy in ASKED}
    over_keras = best["aggressive"] / best["keras"]
    print(
        ", ".join(f"{policy} {share:.2f}" for policy, share in shares.items())
        + f" of the limit; {over_keras:.1f} x Keras"
    )
    worst = min(*(shares[policy] / asked for policy, asked in ASKED.items()), over_keras / OVER_KERAS)
    print(f"{worst:.2f}")
    return int(worst < 1 or min(changed.values()) < 1)


if __name__ == "__main__":
    sys.exit(main())
