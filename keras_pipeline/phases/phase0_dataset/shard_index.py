"""An index of each shard, with the photos' perceptual hashes: made once, on all cores, and stored beside the shard."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside
from keras_pipeline.core.hashing import UNREADABLE
from keras_pipeline.core.progress import progress
from keras_pipeline.core.record import Photo
from keras_pipeline.data import records

HASHES = [f"hash{i}" for i in range(9)]  # uint64, see ingest.duplicates
HASH_VERSION = b"2"  # raised with what `photo_hashes` returns, so that stored hashes are made again, never mixed
SMALL = 50e6  # bytes; below, starting processes takes longer than hashing


def index_shards(shards: list[Path]) -> pd.DataFrame:
    """Return one row per record of these shards.

    Columns: file, offset, length (bytes), sample_id, group_id, sha256, rule (1 in indices made before there was
    another), HASHES. A shard is read only if its index is missing or out of date. Raises BrokenArtefact, naming a
    corrupt shard.
    """
    unread = [shard for shard in shards if not _is_current(shard)]
    workers = min(os.cpu_count() or 1, len(unread)) if sum(shard.stat().st_size for shard in unread) > SMALL else 1
    if workers > 1:
        # Spawned, because a fork is not safe in a process with threads.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            _watch(pool.map(_write_index, unread), len(unread))
    else:
        _watch(map(_write_index, unread), len(unread))
    # Paths are added here, because the shards may have moved since their index was written.
    tables = [_read_index(shard).assign(file=str(shard)) for shard in shards]
    if not tables:
        return pd.DataFrame(columns=["file", "sample_id", "sha256", "rule"])
    found = pd.concat(tables, ignore_index=True)
    return found.assign(rule=found["rule"].fillna(1).astype(int) if "rule" in found else 1)


def hashes_of(table: pd.DataFrame) -> np.ndarray:
    """Return the hashes of a table: uint64 [n, 9]."""
    return table[HASHES].to_numpy(np.uint64)


def stored_photos(shards: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield (sample_id, sha256) of all photos in these shards, without shards that can't be read."""
    for shard in shards:
        with contextlib.suppress(BrokenArtefact):
            table = index_shards([shard])
            yield from zip(table.sample_id, table.sha256, strict=True)


def _watch(done: Iterable, total: int) -> None:
    for _ in progress(done, total=total, description="index", unit="shards"):
        pass


def _index_of(shard: Path) -> Path:
    return shard.parent / "index" / f"{shard.name}.parquet"


def _is_current(shard: Path) -> bool:
    try:
        metadata = pyarrow.parquet.read_schema(_index_of(shard)).metadata or {}
    except (*UNREADABLE, pa.ArrowException):  # none yet, or not a parquet file
        return False
    return (metadata.get(b"shard"), metadata.get(b"hashes")) == (_state(shard), HASH_VERSION)


def _read_index(shard: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(_index_of(shard))
    except (*UNREADABLE, pa.ArrowException):  # the shard has all that it held
        _write_index(shard)
        return pd.read_parquet(_index_of(shard))


def _state(shard: Path) -> bytes:
    stat = shard.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}".encode()


def _write_index(shard: Path) -> None:
    state = _state(shard)
    table = records.index_shard(shard, _describe)
    path = _index_of(shard)
    path.parent.mkdir(exist_ok=True)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    with aside(path) as temporary:
        pyarrow.parquet.write_table(
            arrow.replace_schema_metadata({b"shard": state, b"hashes": HASH_VERSION}), temporary
        )


def _describe(photo: Photo) -> dict:
    from keras_pipeline.ingest.duplicates import photo_hashes  # needs SciPy, 20 MB that an export saves

    return dict(zip(HASHES, photo_hashes(photo.image), strict=True))
