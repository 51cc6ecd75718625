"""Shards become batches. Training streams are functions of (seed, epoch); evaluation sees each example once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_pipeline.core.schema import FEATURE_NAMES
from keras_pipeline.data import augment
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.data.records import INTEGERS, DatasetInfo

# Serialized photos held for shuffling. Shards are already in random order, so that this is enough for any collection.
EVALUATION_BATCH = 64  # photos; whatever is zipped with `evaluation_batches` comes in as many
SHUFFLE_BUFFER = 4096

# Everything is required: a missing feature is a broken record, never a silent default.
FEATURES = {
    name: tf.io.FixedLenFeature([], tf.int64 if field in INTEGERS else tf.string)
    for field, name in FEATURE_NAMES.items()
}

# (JPEG bytes: scalar string, seed: int64 [2], number of the epoch or stored view: int64) -> float32 [S, S, 3], 0..255,
# or {"image": one, other names: the same view at other sizes}
View = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor | dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Companion:
    """Fixed-size records that lie beside the train shards, one for each photo, in the same order."""

    folder: Path  # of a TFRecord file for each train shard, of the same name; its records hold many of ours
    record_bytes: int
    select: Callable[[tf.Tensor, dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]
    # (record: uint8 [record_bytes], photo, epoch) -> {"number": int64 and "seed": int64 [2] of the view, other tensors}


def parse(example: tf.Tensor) -> dict[str, tf.Tensor]:
    """Serialized Example (scalar string) -> {field: scalar}; fields as in `schema.Photo`."""
    parsed = tf.io.parse_single_example(example, FEATURES)
    return {field: parsed[name] for field, name in FEATURE_NAMES.items()}


def evaluation_batches(
    info: DatasetInfo,
    split: str,
    preprocessing: Preprocessing,
    *,
    region: str | None = None,
    max_shards: int | None = None,
    batch_size: int = EVALUATION_BATCH,
) -> tf.data.Dataset:
    """Every photo of the split's first `max_shards` shards once, in their order, the last batch as short as it comes.

    Args:
        region: only photos of this region, of all shards.

    Yields:
        {"image": float32 [N, S, S, 3], "label": int64 [N], "sample_id", "region", "group_id": string [N]}
    """

    def prepare(example):
        photo = parse(example)
        kept = {name: photo[name] for name in ("label", "sample_id", "region", "group_id")}
        return {"image": preprocessing.from_jpeg(photo["image"]), **kept}

    shards = info.splits[split]["shards"][:max_shards]
    dataset = tf.data.TFRecordDataset([str(info.folder / shard["name"]) for shard in shards])
    # More or fewer photos than dataset.json says raise here.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(sum(shard["n"] for shard in shards)))
    if region is not None:
        dataset = dataset.filter(lambda example: parse(example)["region"] == region)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(info.count(split, region)))
    return dataset.map(prepare, tf.data.AUTOTUNE, deterministic=True).batch(batch_size).prefetch(2)


def steps_per_epoch(info: DatasetInfo, batch_size: int, region: str | None = None) -> int:
    """Full batches in one pass over the train split. Raises ValueError when there isn't one."""
    n = info.count("train", region)
    where = f" of region {region}" if region else ""
    if not n:
        raise ValueError(f"the train split{where} has no photo; there are {info.splits['train']['per_region']}")
    if n < batch_size:
        raise ValueError(f"the train split{where} has {n} photos, batch_size is {batch_size}: lower batch_size to {n}")
    return n // batch_size


def training_batches(
    info: DatasetInfo,
    view: View,
    *,
    batch_size: int,
    seed: int,
    epochs: range,
    done: int = 0,
    region: str | None = None,
    repeats: np.ndarray | None = None,
    companion: Companion | None = None,
) -> tf.data.Dataset:
    """Batches of the given epochs, one after the other; each is another seeded order of the train split.

    Args:
        view: see `View`.
        epochs: what is left to do; a run restarted at epoch 7 passes range(7, 20) and sees what it would have seen.
        done: batches of the first of these epochs to leave out; their photos are read, not decoded.
        region: only photos of this region.
        repeats: of `class_repeats`; None shows each photo once an epoch.
        companion: records zipped with the photos, which say the view's number and seed.

    Yields:
        {"image": float32 [N, S, S, 3], "label": int64 [N], "region": string [N], "seed": int64 [2], the view's other
        sizes, companion's tensors}. Within an epoch the photos left over after the last full batch are dropped, other
        ones each epoch.
    """
    per_epoch = steps_per_epoch(info, batch_size, region) * batch_size
    files = [str(path) for path in info.shards("train")]

    def one_epoch(epoch):
        # Of this function's graph alone. Otherwise the order would hang on the global seed too, and a global seed of 0
        # makes TensorFlow ask whether ours, a tensor, is 0 as well, which raises.
        tf.random.set_seed(1)
        shuffle_seed = epoch * 1_000_003 + seed
        shards = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), shuffle_seed)
        records = shards.interleave(lambda file: _open(file, companion), cycle_length=4)
        if region is not None:
            records = records.filter(lambda example, *_: parse(example)["region"] == region)
        if repeats is None:
            records = records.map(lambda *record: (tf.constant(0, tf.int64), *record))
        else:
            records = records.batch(256).map(lambda *block: _repeated(epoch, block, repeats, seed)).unbatch()
        records = records.shuffle(min(SHUFFLE_BUFFER, info.count("train", region)), shuffle_seed)
        if repeats is not None:
            records = records.repeat()  # the rounding of `repeats` may leave an epoch a few photos short
        already = tf.where(epoch == epochs.start, tf.constant(done * batch_size, tf.int64), 0)
        return records.take(per_epoch).skip(already).map(lambda *record: (epoch, *record))

    prepare = functools.partial(_prepare, view, companion, seed)
    epoch_numbers = tf.data.Dataset.range(epochs.start, epochs.stop)
    dataset = epoch_numbers.flat_map(one_epoch).map(prepare, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return dataset.map(lambda batch: {**batch, "seed": batch["seed"][0]}).prefetch(4)


def _prepare(view: View, companion: Companion | None, seed: int, epoch, copy, example, *record) -> dict:
    """A record's view, label, region and what the companion knows of it."""
    photo = parse(example)
    if companion:
        extra = companion.select(record[0], photo, epoch)
    else:
        sample = augment.sample_hash(photo["sample_id"])
        extra = {"number": epoch, "seed": augment.view_seed(sample, epoch, seed + copy * 7919)}
    seen = view(photo["image"], extra["seed"], extra.pop("number"))
    seen = seen if isinstance(seen, dict) else {"image": seen}
    return {**seen, "label": photo["label"], "region": photo["region"], **extra}


def class_repeats(counts: np.ndarray, sampling: str) -> np.ndarray | None:
    """How often each photo of a class is to come in an epoch of as many photos as there are: float32 [C].

    A class of n photos then comes with a frequency proportional to n (`natural`: None), sqrt(n) or 1 (`balanced`).

    Args:
        counts: int [C], train photos of each class; classes without any have no part in it.
    """
    if sampling == "natural":
        return None
    power = {"sqrt": 0.5, "balanced": 0.0}[sampling]
    wanted = np.where(counts > 0, counts.astype(float) ** power, 0.0)
    return (wanted / wanted.sum() * counts.sum() / np.maximum(counts, 1)).astype(np.float32)


def _repeated(epoch: tf.Tensor, block: tuple[tf.Tensor, ...], repeats: np.ndarray, seed: int) -> tuple[tf.Tensor, ...]:
    """(number of the copy, *record) of each record as often as its class asks for; a fraction by a hash of the photo.

    Args:
        block: Examples [N] and what comes with them.
    """
    features = {name: FEATURES[FEATURE_NAMES[name]] for name in ("label", "sample_id")}
    parsed = tf.io.parse_example(block[0], {FEATURE_NAMES[name]: spec for name, spec in features.items()})
    ids = tf.strings.join([parsed[FEATURE_NAMES["sample_id"]], tf.strings.as_string(epoch), str(seed)], ":")
    draw = tf.cast(tf.strings.to_hash_bucket_fast(ids, 2**24), tf.float32) / 2**24
    times = tf.cast(tf.gather(tf.constant(repeats), parsed[FEATURE_NAMES["label"]]) + draw, tf.int32)
    rows = tf.repeat(tf.range(tf.size(times)), times)
    copies = tf.ragged.range(times).values
    return (tf.cast(copies, tf.int64), *(tf.gather(part, rows) for part in block))


def _open(file: tf.Tensor, companion: Companion | None) -> tf.data.Dataset:
    photos = tf.data.TFRecordDataset(file)
    if companion is None:
        return photos.map(lambda example: (example,))
    name = tf.strings.regex_replace(file, ".*/", "")
    blocks = tf.data.TFRecordDataset(tf.strings.join([str(companion.folder), "/", name]))
    rows = blocks.map(lambda block: tf.reshape(tf.io.decode_raw(block, tf.uint8), [-1, companion.record_bytes]))
    return tf.data.Dataset.zip(photos, rows.unbatch())


def training_view(augmentation: str, preprocessing: Preprocessing) -> View:
    """The views of a policy name: none | moderate | aggressive."""
    if augmentation == "none":
        return lambda image_bytes, seed, number: preprocessing.from_jpeg(image_bytes)
    policy = augment.POLICIES[augmentation]
    return lambda image_bytes, seed, number: augment.random_view(image_bytes, policy, preprocessing.image_size, seed)


def stored_view(preprocessing: Preprocessing) -> View:
    """The views soft labels are stored for: number 0 is the clean one, the others are `moderate` ones."""
    policy = augment.POLICIES["moderate"]
    size = preprocessing.image_size

    def view(image_bytes, seed, number):
        return tf.cond(
            number == 0,
            lambda: preprocessing.from_jpeg(image_bytes),
            lambda: augment.random_view(image_bytes, policy, size, seed),
        )

    return view


def stored_view_batches(
    shard: Path, preprocessing: Preprocessing, *, number: int, seed: int, batch_size: int = 64
) -> tf.data.Dataset:
    """One train shard in its own order as the student will see it at view `number`.

    Yields {"image": float32 [N, S, S, 3], "seed": int64 [N, 2] (hash of the sample id, the view's seed)}.
    """
    view = stored_view(preprocessing)

    def prepare(example):
        photo = parse(example)
        sample = augment.sample_hash(photo["sample_id"])
        number_ = tf.constant(number, tf.int64)
        sample_seed = augment.view_seed(sample, number_, seed)
        return {"image": view(photo["image"], sample_seed, number_), "seed": sample_seed}

    dataset = tf.data.TFRecordDataset(str(shard)).map(prepare, tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2)
