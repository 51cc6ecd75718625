"""Writes the rows of a ledger as a parquet file, `url_ledger.parquet`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from keras_pipeline.core.files import aside
from keras_pipeline.core.redaction import without_credentials
from keras_pipeline.ingest import details

# The rule of a record that was fetched again. A ledger without such a record has no such column, as its file never had.
REFETCHED = {"refetched_rule": "int32"}


def write(db: sqlite3.Connection, path: Path, columns: Mapping[str, str], *, batch: int) -> None:
    """Write all rows by sample_id, without passwords in URLs; in row groups, so that memory stays constant.

    The species' details, if there are any, stand in the file's metadata.

    Args:
        columns: {name: Arrow type}, in order.
        batch: rows of a row group.
    """
    (refetched,) = db.execute("SELECT EXISTS (SELECT 1 FROM photos WHERE refetched_rule IS NOT NULL)").fetchone()
    names = {**columns, **(REFETCHED if refetched else {})}
    fields = [(name, pa.type_for_alias(kind)) for name, kind in names.items()]
    schema = pa.schema(fields, metadata=details.metadata(db) or None)
    rows = db.execute(f"SELECT {', '.join(names)} FROM photos ORDER BY sample_id")
    with aside(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        while found := rows.fetchmany(batch):
            values: dict[str, Iterable] = dict(zip(names, zip(*found, strict=True), strict=True))
            values["url"] = map(without_credentials, values["url"])
            values["may_succeed"] = map(bool, values["may_succeed"])
            writer.write_batch(pa.record_batch([pa.array(values[f.name], f.type) for f in schema], schema=schema))
