"""TFRecord shards: written aside, counted, read back, renamed; a corrupt one is named."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow as tf

from keras_pipeline.core.artifacts import aside, file_hash, read_json
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.progress import progress
from keras_pipeline.core.schema import FEATURE_NAMES, Photo
from keras_pipeline.core.taxonomy import class_hash

INTEGERS = ("height", "width", "label")
# Everything is required: a missing feature is a broken record, never a silent default.
FEATURES = {
    name: tf.io.FixedLenFeature([], tf.int64 if field in INTEGERS else tf.string)
    for field, name in FEATURE_NAMES.items()
}


def encode(photo: Photo) -> bytes:
    """A serialized tf.train.Example, features as in `schema.FEATURE_NAMES`."""
    features = {}
    for field, name in FEATURE_NAMES.items():
        value = getattr(photo, field)
        if field in INTEGERS:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        else:
            data = value if isinstance(value, bytes) else value.encode()
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    # Sorted keys inside the map, so that equal photos give equal bytes and equal shard checksums.
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def decode(example: bytes) -> Photo:
    """The inverse of `encode`. Raises BrokenArtefact for bytes that are no such Example."""
    try:
        features = tf.train.Example.FromString(example).features.feature
        values = {}
        for field, name in FEATURE_NAMES.items():
            if field in INTEGERS:
                values[field] = features[name].int64_list.value[0]
            else:
                data = features[name].bytes_list.value[0]
                values[field] = data if field == "image" else data.decode()
    except Exception as error:  # protobuf's DecodeError is no ValueError
        raise BrokenArtefact(f"bytes that are no photo record ({error!r}); run `phase0 export` again") from error
    return Photo(**values)


def write_shard(path: Path, examples: Iterable[bytes], expected: int) -> dict:
    """Writes one shard aside, checks it by reading it back, renames it. Returns {name, n, bytes, sha256}.

    Raises ValueError when the number of records read back isn't `expected`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for example in examples:
                writer.write(example)
        found = sum(1 for _ in read_shard(temporary))
        if found != expected:
            raise ValueError(f"{path.name}: announced {expected} photos, wrote {found}; the shard was not kept")
        return {"name": path.name, "n": found, "bytes": temporary.stat().st_size, "sha256": file_hash(temporary)}


def read_shard(path: Path) -> Iterator[bytes]:
    """Serialized Examples in order, CRCs checked. Raises BrokenArtefact naming a corrupt or missing shard."""
    try:
        for example in tf.data.TFRecordDataset(str(path)):
            yield example.numpy()
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        raise BrokenArtefact(f"{path}: corrupt or missing shard ({error.message}); {REMEDY}") from error


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one raw photo lies, and what the split needs to know of it."""

    shard: Path
    offset: int  # bytes, of the record's data
    length: int  # bytes
    sample_id: str
    group_id: str
    sha256: str
    latin_name: str


def index_shards(shards: list[Path]) -> list[Place]:
    """One CRC-checked pass over raw shards. Raises BrokenArtefact on a corrupt shard or a sample id seen twice."""
    places: dict[str, Place] = {}
    for shard in progress(shards, total=len(shards), description="index", unit="shards"):
        offset = 0
        for example in read_shard(shard):
            photo = decode(example)
            if photo.sample_id in places:
                raise BrokenArtefact(f"{shard}: sample {photo.sample_id} is in two raw records; {REMEDY}")
            # A TFRecord is length (8 bytes), its CRC (4), the data, its CRC (4).
            places[photo.sample_id] = Place(
                shard, offset + 12, len(example), photo.sample_id, photo.group_id, photo.sha256, photo.latin_name
            )
            offset += len(example) + 16
    return list(places.values())


def write_split(
    folder: Path, split: str, places: list[Place], *, groups: dict[str, str], label_of: dict[str, int], per_shard: int
) -> dict:
    """Copies raw photos, with label and group, into `{split}-00000-of-000NN.tfrecord`. Returns dataset.json's entry."""
    chunks = [places[i : i + per_shard] for i in range(0, len(places), per_shard)]
    regions: Counter[str] = Counter()
    names: Counter[str] = Counter()

    def labelled(place: Place) -> bytes:
        with place.shard.open("rb") as file:
            file.seek(place.offset)
            photo = decode(file.read(place.length))
        regions[photo.region] += 1
        names[photo.latin_name] += 1
        return encode(dataclasses.replace(photo, label=label_of[photo.latin_name], group_id=groups[photo.sample_id]))

    shards = [
        write_shard(folder / f"{split}-{i:05d}-of-{len(chunks):05d}.tfrecord", map(labelled, chunk), len(chunk))
        for i, chunk in enumerate(progress(chunks, description=split, unit="shards"))
    ]
    return {
        "n": len(places),
        "shards": shards,
        "per_region": dict(sorted(regions.items())),
        "per_class": dict(sorted(names.items())),
    }


def identities(folder: Path, splits: dict[str, dict]) -> Iterator[tuple[str, str, str, str]]:
    """(split, sample_id, group_id, sha256) of every record in the finished shards, read from scratch."""
    for split, entry in splits.items():
        for shard in entry["shards"]:
            for example in read_shard(folder / shard["name"]):
                photo = decode(example)
                yield split, photo.sample_id, photo.group_id, photo.sha256


REMEDY = "remove the dataset's folder below tfrecords/ and run `phase0 export` and `phase0 split` again"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says: the one class list, and per split the shards, counts and regions."""

    folder: Path
    classes: list[str]
    class_hash: str
    splits: dict[str, dict]  # {split: {n, shards: [{name, n, bytes, sha256}], per_region, per_class}}

    def count(self, split: str, region: str | None = None) -> int:
        entry = self.splits[split]
        return entry["n"] if region is None else entry["per_region"].get(region, 0)

    def shards(self, split: str) -> list[Path]:
        return [self.folder / shard["name"] for shard in self.splits[split]["shards"]]


def load_info(path: Path) -> DatasetInfo:
    """Reads dataset.json and checks that each shard is there with its length.

    Raises BrokenArtefact naming the first shard that is missing or of another length, or a class list that doesn't
    match its hash.
    """
    value = read_json(path)
    try:
        info = DatasetInfo(path.parent, value["classes"], value["class_hash"], value["splits"])
        shards = [shard for split in info.splits.values() for shard in split["shards"]]
    except (KeyError, TypeError) as error:
        raise BrokenArtefact(f"{path}: {error} is missing; {REMEDY}") from error
    if class_hash(info.classes) != info.class_hash:
        raise BrokenArtefact(f"{path}: the class list does not match its hash: it was changed by hand; {REMEDY}")
    for shard in shards:
        file = info.folder / shard["name"]
        length = file.stat().st_size if file.exists() else None
        if length != shard["bytes"]:
            raise BrokenArtefact(f"{file}: received {length} bytes, expected {shard['bytes']}: corrupt shard; {REMEDY}")
    return info


def corrupt_shards(info: DatasetInfo) -> list[Path]:
    """Shards whose sha256 differs from dataset.json. Reads everything: called when something already went wrong."""
    entries = [shard for split in info.splits.values() for shard in split["shards"]]
    return [info.folder / s["name"] for s in entries if file_hash(info.folder / s["name"]) != s["sha256"]]


def parse(example: tf.Tensor) -> dict[str, tf.Tensor]:
    """Serialized Example (scalar string) -> {field: scalar}; fields as in `schema.Photo`."""
    parsed = tf.io.parse_single_example(example, FEATURES)
    return {field: parsed[name] for field, name in FEATURE_NAMES.items()}
