"""Photo records and their shards: written aside, counted, read back, renamed; a corrupt one is named."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import read_json, temporary_for
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.core.progress import progress
from keras_pipeline.core.schema import FEATURE_NAMES, DatasetInfo, Photo
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.data import tfrecord

INTEGERS = ("height", "width", "label")
# What the split decides of a photo, from the ledger; the rest stays as it was stored.
DECIDED = ("latin_name", "region", "group_id", "source_url", "license", "attribution", "label")


def encode(photo: Photo) -> bytes:
    """A serialized tf.train.Example, features as in `schema.FEATURE_NAMES`."""
    example = tfrecord.Example()
    features = example.features.feature
    for field, name in FEATURE_NAMES.items():
        value = getattr(photo, field)
        if field in INTEGERS:
            features[name].int64_list.value.append(value)
        else:
            features[name].bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
    # Sorted keys inside the map, so that equal photos give equal bytes and equal shard checksums.
    return example.SerializeToString(deterministic=True)


def _parsed(example: bytes) -> Any:
    message: Any = tfrecord.Example()
    message.ParseFromString(example)
    return message


def decode(example: bytes) -> Photo:
    """The inverse of `encode`. Raises BrokenArtefact for bytes that are no such Example."""
    try:
        features = _parsed(example).features.feature
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


class ShardWriter:
    """One shard that grows beside its final name; nothing of it stays until `finish` has renamed it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._temporary = path, temporary_for(path)
        self._writer = tfrecord.Writer(self._temporary)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._writer.size

    def add(self, example: bytes) -> None:
        """Append one record."""
        self._writer.add(example)

    def finish(self) -> dict:
        """Reads the shard back, CRCs checked, and renames it. Returns {name, n, bytes, sha256}."""
        self._writer.close()
        found = sum(1 for _ in tfrecord.read_records(self._temporary))
        if found != self._writer.n:
            raise BrokenArtefact(f"{self.path}: wrote {self._writer.n} photos, read back {found}; check the disk")
        entry = {"name": self.path.name, "n": found, "bytes": self.size, "sha256": file_hash(self._temporary)}
        self._temporary.replace(self.path)
        return entry

    def abandon(self) -> None:
        """Removes what was written; harmless after `finish`."""
        self._writer.abandon()
        self._temporary.unlink(missing_ok=True)


def write_shard(path: Path, examples: Iterable[bytes]) -> dict:
    """One whole shard, see ShardWriter. Returns {name, n, bytes, sha256}."""
    shard = ShardWriter(path)
    try:
        for example in examples:
            shard.add(example)
        return shard.finish()
    finally:
        shard.abandon()


def read_shard(path: Path) -> Iterator[bytes]:
    """Serialized Examples in order, CRCs checked. Raises BrokenArtefact naming a corrupt or missing shard."""
    for _, example in _records(path):
        yield example


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        yield from tfrecord.read_records(path)
    except FileNotFoundError:
        raise BrokenArtefact(f"{path}: missing shard; {REMEDY}") from None
    except BrokenArtefact as error:
        raise BrokenArtefact(f"{error}; {REMEDY}") from None


def find(info: DatasetInfo, split: str, sample_ids: Iterable[str]) -> dict[str, Photo]:
    """{sample_id: photo} of a split's photos, as far as they are there. Reads its shards up to the last one found."""
    wanted, found = set(sample_ids), {}
    for shard in info.shards(split):
        if not wanted:
            break
        for photo in map(decode, read_shard(shard)):
            if photo.sample_id in wanted:
                found[photo.sample_id] = photo
                wanted.remove(photo.sample_id)
    return found


def index_shard(path: Path, describe: Callable[[Photo], dict]) -> pd.DataFrame:
    """What lies where: a row a record with file, offset and length of its data in bytes, sample_id, group_id, sha256,
    and the columns of `describe`. Raises BrokenArtefact on a corrupt shard.
    """
    rows = []
    for offset, example in _records(path):
        photo = decode(example)
        place = {"file": str(path), "offset": offset, "length": len(example)}
        known = {"sample_id": photo.sample_id, "group_id": photo.group_id, "sha256": photo.sha256}
        rows.append(place | known | describe(photo))
    if not rows:
        raise BrokenArtefact(f"{path}: holds no photo; {REMEDY}")
    return pd.DataFrame(rows)


def write_split(folder: Path, split: str, table: pd.DataFrame, *, shard_bytes: float) -> dict:
    """Copies stored photos into `{split}-00000-of-000NN.tfrecord`, each near `shard_bytes`; a shard that is there
    already, from a killed run, is kept.

    Args:
        table: a row a photo in the order of the shards, with file, offset, length and the columns DECIDED.

    Returns:
        dataset.json's entry {n, shards: [{name, n, bytes, sha256}], per_region, per_class}.
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
            shards.append(write_shard(path, map(_decided, rows.itertuples())))
    return {
        "n": len(table),
        "shards": shards,
        "per_region": _counts(table.region),
        "per_class": _counts(table.latin_name),
    }


def _decided(row) -> bytes:
    """A stored photo with the split's label, group and names."""
    with Path(row.file).open("rb") as file:
        file.seek(row.offset)
        photo = decode(file.read(row.length))
    if photo.sample_id != row.sample_id:
        raise BrokenArtefact(f"{row.file}: sample {photo.sample_id} where {row.sample_id} was; {REMEDY}")
    return encode(dataclasses.replace(photo, **{field: getattr(row, field) for field in DECIDED}))


def _counts(column: pd.Series) -> dict[str, int]:
    return {name: int(n) for name, n in column.value_counts().sort_index().items()}


def publish(folder: Path, made: Path) -> None:
    """A complete new split, made in a folder of its own, takes the old one's place. Killed on the way, call
    `finish_publishing` before anything reads the dataset.
    """
    made.rename(folder / READY)
    finish_publishing(folder)


def finish_publishing(folder: Path) -> None:
    """Moves what `publish` had announced; the old dataset.json goes first and the new one comes last."""
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
REMEDY = (
    "remove that shard, then run `phase0 export --force`, which fetches its photos alone again, and "
    "`phase0 split --force`"
)
INFO_REMEDY = "remove it and run `phase0 split --force`, which makes it again: all groups keep their places"


def read_info(path: Path) -> DatasetInfo:
    """Read dataset.json. Raises BrokenArtefact for one that does not hold what the split writes."""
    value = read_json(path)
    try:
        info = DatasetInfo(path.parent, value["classes"], value["class_hash"], value["splits"])
        for split in info.splits.values():
            _check_counts(split)
            for shard in split["shards"]:
                shard_entry(shard)
        known = class_hash(info.classes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenArtefact(f"{path}: {error!r} where the split wrote its figures; {INFO_REMEDY}") from error
    if known != info.class_hash:
        raise BrokenArtefact(f"{path}: the class list does not match its hash: it was changed by hand; {INFO_REMEDY}")
    return info


def load_info(path: Path) -> DatasetInfo:
    """`read_info`, and check that each shard is there with its length.

    Raises:
        BrokenArtefact: naming the first shard that is missing or of another length.
    """
    info = read_info(path)
    for shard in (shard for split in info.splits.values() for shard in split["shards"]):
        file = info.folder / shard["name"]
        length = file.stat().st_size if file.exists() else None
        if length != shard["bytes"]:
            raise BrokenArtefact(f"{file}: received {length} bytes, expected {shard['bytes']}: corrupt shard; {REMEDY}")
    return info


def _check_counts(split: dict) -> None:
    """Raises ValueError or KeyError for a split without its number of photos, or whose tables are none."""
    tables = [split[name] for name in ("per_region", "per_class") if name in split]
    if not isinstance(split["n"], int) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"received {str(split)[:200]}, expected n and tables of counts")


def shard_entry(entry: dict) -> dict:
    """What an index says of one file. Raises ValueError, KeyError or TypeError for what can't be that."""
    types = {"name": str, "n": int, "bytes": int, "sha256": str}
    wrong = [key for key, kind in types.items() if not isinstance(entry[key], kind)]
    if wrong or Path(entry["name"]).name != entry["name"] or len(entry["name"]) > 250:
        raise ValueError(f"shard {str(entry)[:200]} has another {', '.join(wrong) or 'folder or length of its name'}")
    return entry


def check_labels(info: DatasetInfo) -> None:
    """Raises BrokenArtefact naming the first shard whose first photo has another label than the class list gives it."""
    for shard in (shard for split in info.splits for shard in info.shards(split)):
        photo = decode(next(iter(read_shard(shard))))
        listed = info.classes[photo.label] if 0 <= photo.label < len(info.classes) else "no such label"
        if listed != photo.latin_name:
            raise BrokenArtefact(
                f"{shard}: shard of another class list: {photo.latin_name} has label {photo.label} there, which in "
                f"dataset.json is {listed}; {INFO_REMEDY}"
            )


def corrupt_shards(info: DatasetInfo) -> list[Path]:
    """Shards whose sha256 differs from dataset.json. Reads everything: called when something already went wrong."""
    entries = [shard for split in info.splits.values() for shard in split["shards"]]
    return [info.folder / s["name"] for s in entries if file_hash(info.folder / s["name"]) != s["sha256"]]
