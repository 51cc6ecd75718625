"""Photo records and their shards: write to a temporary file, read back, rename; name a corrupt shard."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_pipeline.core.dataset import SHARD_REMEDY, DatasetInfo, corrupt_shard, wrong_lengths
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import read_json, temporary_for
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.core.progress import progress
from keras_pipeline.core.record import FEATURE_NAMES, Photo
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.data import tfrecord

INTEGERS = ("height", "width", "label", "rule")
# Fields that the split sets from the ledger; the others stay as stored.
DECIDED = ("latin_name", "region", "group_id", "source_url", "license", "attribution", "label")


def encode(photo: Photo) -> bytes:
    """Serialize a photo as a tf.train.Example with the features of `record.FEATURE_NAMES`."""
    example = tfrecord.Example()
    features = example.features.feature
    for field, name in FEATURE_NAMES.items():
        value = getattr(photo, field)
        if (field, value) == ("rule", 1):
            continue  # the records of rule 1 keep their bytes
        if field in INTEGERS:
            features[name].int64_list.value.append(value)
        else:
            features[name].bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
    # Sorted map keys, so that equal photos give equal bytes and equal shard checksums.
    return example.SerializeToString(deterministic=True)


def _parsed(example: bytes) -> Any:
    message: Any = tfrecord.Example()
    message.ParseFromString(example)
    return message


def decode(example: bytes) -> Photo:
    """Parse a photo, the inverse of `encode`.

    Raises:
        BrokenArtefact: if the bytes are not such an Example.
    """
    try:
        features = _parsed(example).features.feature
        values: dict[str, Any] = {}
        for field, name in FEATURE_NAMES.items():
            if field == "rule" and name not in features:
                values[field] = 1
            elif field in INTEGERS:
                values[field] = features[name].int64_list.value[0]
            else:
                data = features[name].bytes_list.value[0]
                values[field] = data if field == "image" else data.decode()
    except Exception as error:  # protobuf's DecodeError is not a ValueError
        raise BrokenArtefact(
            f"received bytes that are not a photo record ({error!r}), expected a tf.train.Example; run `phase0 export` "
            "again"
        ) from error
    return Photo(**values)


def load_details(dataset: Path, classes: list[str]) -> list[dict[str, Any]]:
    """Read details.json beside dataset.json: {name: value} of each class; [] if the file is not there."""
    file = dataset.with_name("details.json")
    known = read_json(file) if file.exists() else {}
    return [known.get(name, {}) for name in classes] if known else []


class ShardWriter:
    """A shard written under a temporary name, which `finish` renames and `abandon` removes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._temporary = temporary_for(path)
        self._writer = tfrecord.Writer(self._temporary)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._writer.size

    def add(self, example: bytes) -> None:
        """Append one record."""
        self._writer.add(example)

    def finish(self) -> dict:
        """Read the shard back, checking CRCs, and rename it; return its entry {name, n, bytes, sha256}.

        Raises:
            BrokenArtefact: if it does not read back as written.
        """
        self._writer.close()
        n = sum(1 for _ in tfrecord.read_records(self._temporary))
        if n != self._writer.n:
            raise BrokenArtefact(f"{self.path}: wrote {self._writer.n} photos, read back {n}; check the disk")
        entry = {"name": self.path.name, "n": n, "bytes": self.size, "sha256": file_hash(self._temporary)}
        self._temporary.replace(self.path)
        return entry

    def abandon(self) -> None:
        """Remove what was written; harmless after `finish`."""
        self._writer.abandon()
        self._temporary.unlink(missing_ok=True)


def write_shard(path: Path, examples: Iterable[bytes]) -> dict:
    """Write a whole shard, see ShardWriter; return its entry {name, n, bytes, sha256}."""
    shard = ShardWriter(path)
    try:
        for example in examples:
            shard.add(example)
        return shard.finish()
    finally:
        shard.abandon()


def read_shard(path: Path) -> Iterator[bytes]:
    """Yield a shard's serialized Examples in order, checking CRCs.

    Raises:
        BrokenArtefact: naming the shard, if it is corrupt or missing.
    """
    for _, example in _records(path):
        yield example


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        yield from tfrecord.read_records(path)
    except FileNotFoundError:
        raise BrokenArtefact(f"{path}: missing shard; {SHARD_REMEDY}") from None
    except BrokenArtefact as error:
        raise BrokenArtefact(f"{error}; {SHARD_REMEDY}") from None


def at(info: DatasetInfo, split: str, rows: Iterable[int]) -> dict[int, Photo]:
    """Return {row: photo} of these rows of a split, counted over its shards in order; only their shards are read."""
    wanted, start = set(rows), 0
    photos: dict[int, Photo] = {}
    for entry, shard in zip(info.splits[split]["shards"], info.shards(split), strict=True):
        inside = [row - start for row in wanted if start <= row < start + entry["n"]]
        if inside:
            examples = enumerate(itertools.islice(read_shard(shard), max(inside) + 1), start)
            photos |= {row: decode(example) for row, example in examples if row in wanted}
        start += entry["n"]
    return photos


def index_shard(path: Path, describe: Callable[[Photo], dict]) -> pd.DataFrame:
    """Locate each record of a shard.

    Args:
        describe: returns further columns of a photo.

    Returns:
        A row for each record: file, offset and length of its data in bytes, sample_id, group_id, sha256, rule, and
        the columns of `describe`.

    Raises:
        BrokenArtefact: if the shard is corrupt or empty.
    """
    rows = []
    for offset, example in _records(path):
        photo = decode(example)
        place = {"file": str(path), "offset": offset, "length": len(example)}
        identity = {key: getattr(photo, key) for key in ("sample_id", "group_id", "sha256", "rule")}
        rows.append(place | identity | describe(photo))
    if not rows:
        raise BrokenArtefact(f"{path}: received no photo, expected at least one; {SHARD_REMEDY}")
    return pd.DataFrame(rows)


def write_split(folder: Path, split: str, table: pd.DataFrame, *, shard_bytes: float) -> dict:
    """Copy stored photos into shards `{split}-00000-of-000NN.tfrecord`; keep those that a killed run has finished.

    Args:
        table: a row for each photo, in the shards' order, with file, offset, length and the columns DECIDED.
        shard_bytes: size of a shard, approximately.

    Returns:
        The split's entry in dataset.json: {n, shards: [{name, n, bytes, sha256}], per_region, per_class}.

    Raises:
        BrokenArtefact: if another photo is stored where `table` says.
    """
    count = min(math.ceil(table["length"].sum() / shard_bytes), len(table))
    bounds = np.linspace(0, len(table), count + 1).astype(int)
    shards = []
    for i in progress(range(count), description=split, unit="shards"):
        rows = table.iloc[bounds[i] : bounds[i + 1]]
        path = folder / f"{split}-{i:05d}-of-{count:05d}.tfrecord"
        if path.exists():
            shards.append({"name": path.name, "n": len(rows), "bytes": path.stat().st_size, "sha256": file_hash(path)})
        else:
            shards.append(write_shard(path, map(_labelled, rows.itertuples())))
    return {
        "n": len(table),
        "shards": shards,
        "per_region": _counts(table.region),
        "per_class": _counts(table.latin_name),
    }


def read(file: Path, offset: int, length: int) -> Photo:
    """Read one record where `index_shard` has located it.

    Raises:
        BrokenArtefact: if no photo record is there.
    """
    with file.open("rb") as shard:
        shard.seek(offset)
        return decode(shard.read(length))


def _labelled(row: Any) -> bytes:
    """Return a stored photo with the split's label, group and names."""
    photo = read(Path(row.file), row.offset, row.length)
    if photo.sample_id != row.sample_id:
        raise BrokenArtefact(f"{row.file}: received sample {photo.sample_id}, expected {row.sample_id}; {SHARD_REMEDY}")
    return encode(dataclasses.replace(photo, **{field: getattr(row, field) for field in DECIDED}))


def _counts(column: pd.Series) -> dict[str, int]:
    return {name: int(n) for name, n in column.value_counts().sort_index().items()}


def publish(folder: Path, made: Path) -> None:
    """Replace the old split by a complete new one, made in the folder `made`.

    After a kill, call `finish_publishing` before reading the dataset.
    """
    made.rename(folder / READY)
    finish_publishing(folder)


def finish_publishing(folder: Path) -> None:
    """Move what `publish` has announced: remove the old dataset.json first, move the new one last."""
    ready = folder / READY
    if not ready.is_dir():
        return
    if (ready / "dataset.json").exists():
        (folder / "dataset.json").unlink(missing_ok=True)
        info = read_json(ready / "dataset.json")
        new = {shard["name"] for entry in (*info["splits"].values(), info["left_out"]) for shard in entry["shards"]}
        for old in folder.glob("*.tfrecord"):
            if old.name not in new:
                old.unlink()
        for file in sorted(ready.iterdir(), key=lambda file: file.name == "dataset.json"):
            if file.is_dir():
                shutil.rmtree(folder / file.name, ignore_errors=True)
            file.replace(folder / file.name)
    ready.rmdir()


READY = "ready"
INFO_REMEDY = "remove it and run `phase0 split --force`, which makes it again with the same splits"


def read_info(path: Path) -> DatasetInfo:
    """Read dataset.json.

    Raises:
        BrokenArtefact: if it does not hold what `phase0 split` writes.
    """
    value = read_json(path)
    try:
        info = DatasetInfo(path.parent, value["classes"], value["class_hash"], value["splits"])
        for split in info.splits.values():
            _check_counts(split)
            for shard in split["shards"]:
                shard_entry(shard)
        expected = class_hash(info.classes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenArtefact(f"{path}: not what `phase0 split` writes ({error!r}); {INFO_REMEDY}") from error
    if expected != info.class_hash:
        raise BrokenArtefact(f"{path}: the class list does not match its hash: it was changed by hand; {INFO_REMEDY}")
    return info


def load_info(path: Path) -> DatasetInfo:
    """Read dataset.json, and check that each shard is present with its length.

    Raises:
        BrokenArtefact: naming the first shard that is missing or of another length; see `read_info` too.
    """
    info = read_info(path)
    for wrong in wrong_lengths(info.folder, info.splits):
        raise BrokenArtefact(corrupt_shard(*wrong))
    return info


def _check_counts(split: dict) -> None:
    """Raise ValueError or KeyError if a split lacks its number of photos, or a table is not a dict."""
    tables = [split[name] for name in ("per_region", "per_class") if name in split]
    if not isinstance(split["n"], int) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"received {str(split)[:200]}, expected n and tables of counts")


def shard_entry(entry: dict) -> dict:
    """Check and return a shard's entry in an index.

    Raises:
        ValueError, KeyError, TypeError: if it lacks a key, has a wrong type, or names a file in another folder.
    """
    types = {"name": str, "n": int, "bytes": int, "sha256": str}
    wrong = [key for key, kind in types.items() if not isinstance(entry[key], kind)]
    if wrong or Path(entry["name"]).name != entry["name"] or len(entry["name"]) > 250:
        raise ValueError(f"shard {str(entry)[:200]}: unexpected {', '.join(wrong) or 'folder or length of the name'}")
    return entry


def check_labels(info: DatasetInfo) -> None:
    """Check the first photo of each shard against the class list.

    Raises:
        BrokenArtefact: naming the first shard whose photo has another label than the class list gives its species.
    """
    for shard in (shard for split in info.splits for shard in info.shards(split)):
        photo = decode(next(iter(read_shard(shard))))
        listed = info.classes[photo.label] if 0 <= photo.label < len(info.classes) else "no such label"
        if listed != photo.latin_name:
            raise BrokenArtefact(
                f"{shard}: shard of another class list: {photo.latin_name} has label {photo.label} there, which in "
                f"dataset.json is {listed}; {INFO_REMEDY}"
            )


def corrupt_shards(info: DatasetInfo) -> list[Path]:
    """Return the shards whose sha256 differs from dataset.json. Reads everything, so call it only after an error."""
    entries = [shard for split in info.splits.values() for shard in split["shards"]]
    return [info.folder / s["name"] for s in entries if file_hash(info.folder / s["name"]) != s["sha256"]]
