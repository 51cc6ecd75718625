"""Batches from shards. A training stream is a function of (seed, epoch); evaluation sees each photo once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_pipeline.core.record import FEATURE_NAMES
from keras_pipeline.core.region_names import names_of, title_of
from keras_pipeline.data import augment
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.data.records import INTEGERS, DatasetInfo

EVALUATION_BATCH = 64  # photos; a dataset zipped with `evaluation_batches` needs batches of the same size
SHUFFLE_BUFFER = 4096  # serialized photos; enough for any collection, because shards are in random order already

# No defaults: a missing feature means a broken record.
FEATURES = {
    name: tf.io.FixedLenFeature([], tf.int64 if field in INTEGERS else tf.string)
    for field, name in FEATURE_NAMES.items()
    if field != "rule"  # older records have none
}

# (JPEG bytes: scalar string, seed: int64 [2], number of the epoch or of the stored view: int64)
# -> float32 [S, S, 3], 0..255, or {"image": that, other names: the same view at other sizes}
View = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor | dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Companion:
    """Fixed-size records stored beside the train shards, one for each photo, in the same order."""

    folder: Path  # holds a TFRecord file named like each train shard; each TFRecord is a block of these records
    record_bytes: int
    # (record: uint8 [record_bytes], photo, epoch) -> {"number": int64 and "seed": int64 [2] of the view, other tensors}
    select: Callable[[tf.Tensor, dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]


def parse(example: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parse a serialized Example (scalar string) to {field of `record.Photo` but `rule`: scalar}."""
    parsed = tf.io.parse_single_example(example, FEATURES)
    return {field: parsed[name] for field, name in FEATURE_NAMES.items() if name in FEATURES}


def evaluation_batches(
    info: DatasetInfo,
    split: str,
    preprocessing: Preprocessing,
    *,
    region: str | list[str] | None = None,
    max_shards: int | None = None,
    batch_size: int = EVALUATION_BATCH,
) -> tf.data.Dataset:
    """Make batches of every photo of a split once, in the shards' order; the last batch may be smaller.

    Args:
        region: only photos of this region; not together with `max_shards`.
        max_shards: only the split's first shards.

    Returns:
        Batches {"image": float32 [N, S, S, 3], "label": int64 [N], "sample_id", "region", "group_id": string [N]}.
        Reading them raises InvalidArgumentError unless there are as many photos as dataset.json says.
    """

    def prepare(example: tf.Tensor) -> dict[str, tf.Tensor]:
        photo = parse(example)
        kept = {name: photo[name] for name in ("label", "sample_id", "region", "group_id")}
        return {"image": preprocessing.from_jpeg(photo["image"]), **kept}

    shards = info.splits[split]["shards"][:max_shards]
    dataset = tf.data.TFRecordDataset([str(info.folder / shard["name"]) for shard in shards])
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(sum(shard["n"] for shard in shards)))
    if region is not None:
        dataset = dataset.filter(lambda example: _is_of(example, region))
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(info.count(split, region)))
    return dataset.map(prepare, tf.data.AUTOTUNE, deterministic=True).batch(batch_size).prefetch(2)


def _is_of(example: tf.Tensor, region: str | list[str]) -> tf.Tensor:
    return tf.reduce_any(parse(example)["region"] == names_of(region))


def steps_per_epoch(info: DatasetInfo, batch_size: int, region: str | list[str] | None = None) -> int:
    """Count the full batches in one pass over the train split.

    Raises:
        ValueError: if there is none.
    """
    n = info.count("train", region)
    where = f" of region {title_of(region)}" if region else ""
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
    region: str | list[str] | None = None,
    repeats: np.ndarray | None = None,
    companion: Companion | None = None,
) -> tf.data.Dataset:
    """Make batches of the given epochs, each a different seeded order of the train split.

    Args:
        view: see `View`.
        epochs: those still to do; a run restarted at epoch 7 passes range(7, 20) and sees the same batches as before.
        done: batches of the first of these epochs to skip; their photos are read but not decoded.
        region: only photos of this region.
        repeats: see `class_repeats`; None shows each photo once an epoch.
        companion: records zipped with the photos; they give the view's number and seed.

    Returns:
        Batches {"image": float32 [N, S, S, 3], "label": int64 [N], "region": string [N], "seed": int64 [2], the view's
        other sizes, the companion's tensors}. All are full: an epoch drops its last photos, different ones each time.

    Raises:
        ValueError: see `steps_per_epoch`.
    """
    per_epoch = steps_per_epoch(info, batch_size, region) * batch_size
    files = [str(path) for path in info.shards("train")]

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        # For this function's graph only. Otherwise the order would depend on the global seed too, and with a global
        # seed of 0 TensorFlow compares ours, a tensor, with 0, which raises.
        tf.random.set_seed(1)
        shuffle_seed = epoch * 1_000_003 + seed
        shards = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), shuffle_seed)
        records = shards.interleave(lambda file: _open(file, companion), cycle_length=4)
        if region is not None:
            records = records.filter(lambda example, *_: _is_of(example, region))
        if repeats is None:
            records = records.map(lambda *record: (tf.constant(0, tf.int64), *record))
        else:
            records = records.batch(256).map(lambda *block: _repeated(epoch, block, repeats, seed)).unbatch()
        records = records.shuffle(min(SHUFFLE_BUFFER, info.count("train", region)), shuffle_seed)
        if repeats is not None:
            records = records.repeat()  # after rounding, `repeats` may leave an epoch a few photos short
        already = tf.where(epoch == epochs.start, tf.constant(done * batch_size, tf.int64), 0)
        return records.take(per_epoch).skip(already).map(lambda *record: (epoch, *record))

    prepare = functools.partial(_prepare, view, companion, seed)
    epoch_numbers = tf.data.Dataset.range(epochs.start, epochs.stop)
    dataset = epoch_numbers.flat_map(one_epoch).map(prepare, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return dataset.map(lambda batch: {**batch, "seed": batch["seed"][0]}).prefetch(4)


def _prepare(
    view: View,
    companion: Companion | None,
    seed: int,
    epoch: tf.Tensor,
    copy: tf.Tensor,
    example: tf.Tensor,
    *record: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Return a record's view, label, region and companion's tensors."""
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
    """Return how often an epoch shows each photo of a class: float32 [C], or None for `natural`, once each.

    A class of n photos is then shown in proportion to n (`natural`), sqrt(n) (`sqrt`) or 1 (`balanced`); an epoch stays
    as long as it was.

    Args:
        counts: int [C], train photos of each class; empty classes are left out.

    Example:
        Two classes of 9 photos and 1 photo, which then show 5 each:

        >>> [round(float(repeats), 3) for repeats in class_repeats(np.array([9, 1]), "balanced")]
        [0.556, 5.0]
    """
    if sampling == "natural":
        return None
    power = {"sqrt": 0.5, "balanced": 0.0}[sampling]
    wanted = np.where(counts > 0, counts.astype(float) ** power, 0.0)
    return (wanted / wanted.sum() * counts.sum() / np.maximum(counts, 1)).astype(np.float32)


def _repeated(epoch: tf.Tensor, block: tuple[tf.Tensor, ...], repeats: np.ndarray, seed: int) -> tuple[tf.Tensor, ...]:
    """Repeat each record as its class asks; a hash of the photo decides on the fractional copy.

    Args:
        block: Examples [N], and companion records [N, bytes] if there are any.

    Returns:
        (number of the copy int64 [M], *block with M rows)
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
    """Return the training view of a policy: none | moderate | aggressive."""
    if augmentation == "none":
        return lambda image_bytes, seed, number: preprocessing.from_jpeg(image_bytes)
    policy = augment.POLICIES[augmentation]
    return lambda image_bytes, seed, number: augment.random_view(image_bytes, policy, preprocessing.image_size, seed)


def stored_view(preprocessing: Preprocessing) -> View:
    """Return the view that soft labels are stored for: number 0 is clean, the others are `moderate`."""
    policy = augment.POLICIES["moderate"]
    size = preprocessing.image_size

    def view(image_bytes: tf.Tensor, seed: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            number == 0,
            lambda: preprocessing.from_jpeg(image_bytes),
            lambda: augment.random_view(image_bytes, policy, size, seed),
        )

    return view


def stored_view_batches(
    shard: Path, preprocessing: Preprocessing, *, number: int, seed: int, batch_size: int = EVALUATION_BATCH
) -> tf.data.Dataset:
    """Make batches of one train shard, in its order, as the student will see it at view `number`.

    Returns:
        Batches {"image": float32 [N, S, S, 3], "seed": int64 [N, 2] (hash of the sample id, the view's seed)}.
    """
    view = stored_view(preprocessing)

    def prepare(example: tf.Tensor) -> dict[str, tf.Tensor]:
        photo = parse(example)
        sample = augment.sample_hash(photo["sample_id"])
        view_number = tf.constant(number, tf.int64)
        sample_seed = augment.view_seed(sample, view_number, seed)
        return {"image": view(photo["image"], sample_seed, view_number), "seed": sample_seed}

    dataset = tf.data.TFRecordDataset(str(shard)).map(prepare, tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2)
