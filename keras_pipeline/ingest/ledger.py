"""What became of each document's URL: a transactional table while running, a parquet file at the end."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from keras_pipeline.core.artifacts import aside


@dataclasses.dataclass(frozen=True)
class Row:
    sample_id: str
    url: str  # as in the document
    state: str  # ok | failed | skipped
    reason: str = ""
    http_status: int | None = None
    bytes: int = 0
    sha256: str = ""
    attempts: int = 0
    shard: str = ""
    may_succeed: bool = False  # a later run tries again: timeouts, refused connections, 429, 5xx


COLUMNS = [field.name for field in dataclasses.fields(Row)]


class Ledger:
    """SQLite in WAL mode: a commit survives kill -9."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"CREATE TABLE IF NOT EXISTS urls ({', '.join(COLUMNS)}, PRIMARY KEY (sample_id))")
        self._db.commit()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_) -> None:
        self._db.close()

    def settled(self) -> set[str]:
        """Samples that need no further try."""
        return {row[0] for row in self._db.execute("SELECT sample_id FROM urls WHERE NOT may_succeed")}

    def shards(self) -> dict[str, int]:
        """Photos in each finished shard."""
        return dict(self._db.execute("SELECT shard, COUNT(*) FROM urls WHERE state = 'ok' GROUP BY shard"))

    def record(self, rows: Iterable[Row]) -> None:
        """One transaction: all the rows or none."""
        marks = ", ".join("?" * len(COLUMNS))
        values = [dataclasses.astuple(row) for row in rows]
        with self._db:
            self._db.executemany(f"INSERT OR REPLACE INTO urls VALUES ({marks})", values)

    def table(self) -> pd.DataFrame:
        frame = pd.read_sql_query(f"SELECT {', '.join(COLUMNS)} FROM urls ORDER BY sample_id", self._db)
        return frame.astype({"http_status": "Int64", "may_succeed": "bool"})

    def write_parquet(self, path: Path) -> None:
        with aside(path) as temporary:
            self.table().to_parquet(temporary, index=False)
