"""The store of soft labels: shards of fixed-size records beside the train shards, and their index.

`soft_labels/index.json` names dataset, class list, K, T, views and shards. Each shard has the name and the order of its
train shard, so that the two can be zipped. It is a TFRecord file, whose records (each with its CRC) are blocks of the
records of `soft_labels.Layout`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside, read_json, write_json
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.data import records, tfrecord
from keras_pipeline.training.soft_labels import Layout

REMEDY = "run again with --force the step that made it (`logits` of phase1 or phase2, or `phase3 combine`)"
NOTE = ".finished.json"  # suffix of a file beside each finished shard, until all are finished


class Store:
    """A finished store on disk; opening an incomplete one raises BrokenArtefact."""

    def __init__(self, folder: Path) -> None:
        index = read_json(folder / "index.json")
        self.folder = folder
        try:
            self.layout = Layout(**index["layout"])
            self.layout.check()
            self.shards: list[dict] = [records.shard_entry(shard) for shard in index["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenArtefact(
                f"{folder / 'index.json'}: not an index of soft labels ({error!r}); {REMEDY}"
            ) from None
        for shard in self.shards:
            file = folder / shard["name"]
            received = file.stat().st_size if file.exists() else None
            if received != shard["bytes"]:
                raise BrokenArtefact(f"{file}: received {received} bytes, expected {shard['bytes']}; {REMEDY}")

    @classmethod
    def open(cls, folder: Path, expected: Layout) -> Store:
        """Open a store; raise BrokenArtefact unless it has the layout expected."""
        store = cls(folder)
        store.check_layout(expected)
        return store

    def check_layout(self, expected: Layout) -> None:
        """Raise BrokenArtefact unless the store was made from this dataset, class list, temperature, K and views."""
        made = dataclasses.asdict(self.layout)
        now = dataclasses.asdict(expected)
        if made != now:
            differences = ", ".join(f"{key} {made[key]}, expected {now[key]}" for key in made if made[key] != now[key])
            raise BrokenArtefact(f"{self.folder}: made with {differences}; {REMEDY}")

    def check_contents(self) -> None:
        """Read every shard; raise BrokenArtefact naming the first whose sha256 is wrong."""
        for shard in self.shards:
            self._check(shard)

    def read(self, shard: dict) -> np.ndarray:
        """Read one shard's records, structured [n]; raise BrokenArtefact naming a damaged shard and the byte."""
        try:
            blocks = [data for _, data in tfrecord.read_records(self.folder / shard["name"])]
        except BrokenArtefact as error:
            raise BrokenArtefact(f"{error}; {REMEDY}") from None
        data = b"".join(blocks)
        dtype = self.layout.dtype
        if len(data) % dtype.itemsize:
            raise BrokenArtefact(
                f"{self.folder / shard['name']}: received {len(data)} bytes, expected a multiple of {dtype.itemsize}; "
                f"{REMEDY}"
            )
        return np.frombuffer(data, dtype)

    def _check(self, shard: dict) -> None:
        file = self.folder / shard["name"]
        if file_hash(file) != shard["sha256"]:
            raise BrokenArtefact(f"{file}: its sha256 differs from the index's: corrupt; {REMEDY}")


def write_store(
    folder: Path, layout: Layout, shards: Iterable[tuple[str, int, Iterator[np.ndarray]]], *, made_from: str = ""
) -> None:
    """Write missing shards, then the index; remove shards of an older store.

    Args:
        shards: (train shard's name, its number of photos, iterator of structured record arrays).
        made_from: identifies the teacher's weights and the seed; a killed run's shards are kept only if it is the same.

    Raises:
        ValueError: if a shard gets another number of records than announced.
    """
    begin_store(folder)
    finish_store(folder, layout, [write_shard(folder, layout, *shard, made_from=made_from) for shard in shards])


def begin_store(folder: Path) -> None:
    """Make the folder, and remove an older store's index, which does not describe the new shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)


def write_shard(
    folder: Path, layout: Layout, name: str, n: int, batches: Iterator[np.ndarray], *, made_from: str = ""
) -> dict:
    """Write one shard of `write_store`, unless a killed run has finished it; return its entry in the index."""
    finished = finished_shard(folder, layout, name, made_from)
    if finished:
        return finished
    entry = _write_shard(folder / name, n, batches)
    write_json(folder / f"{name}{NOTE}", {"head": _head(layout, made_from), "shard": entry})
    return entry


def _head(layout: Layout, made_from: str) -> dict:
    return {"layout": dataclasses.asdict(layout), "made_from": made_from}


def finished_shard(folder: Path, layout: Layout, name: str, made_from: str) -> dict | None:
    """Return the entry of a shard that a killed run has finished."""
    note = folder / f"{name}{NOTE}"
    finished = read_json(note) if note.exists() else {}
    return finished["shard"] if finished.get("head") == _head(layout, made_from) and (folder / name).exists() else None


def finish_store(folder: Path, layout: Layout, entries: list[dict]) -> None:
    """Write the index of all shards, in the order of the train split's."""
    names = {entry["name"] for entry in entries}
    for old in folder.glob("*.tfrecord"):
        if old.name not in names:
            old.unlink()
    write_json(folder / "index.json", {"layout": dataclasses.asdict(layout), "shards": entries})
    for note in folder.glob(f"*{NOTE}"):
        note.unlink()


def _write_shard(path: Path, n: int, batches: Iterator[np.ndarray]) -> dict:
    with aside(path) as temporary:
        writer = tfrecord.Writer(temporary)
        written = 0
        try:
            for block in batches:
                writer.add(block.tobytes())
                written += len(block)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        if written != n:
            raise ValueError(f"{path.name}: received {written} records, expected {n}; the shard was not kept")
        return {"name": path.name, "n": n, "bytes": writer.size, "sha256": file_hash(temporary)}
