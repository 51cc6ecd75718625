"""Details of species (`source.details`), such as common names: counted in the ledger, kept in its file's metadata."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet

if TYPE_CHECKING:
    from keras_pipeline.ingest.ledger import Document

TABLE = "CREATE TABLE IF NOT EXISTS details (latin_name, name, value, photos, PRIMARY KEY (latin_name, name, value));"
ADD = "INSERT INTO details VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET photos = photos + 1"


def add(db: sqlite3.Connection, documents: Iterable[Document]) -> None:
    """Count the details of the photos that are to be used."""
    wanted = (document for document in documents if document.state == "waiting")
    db.executemany(ADD, ((each.latin_name, *pair) for each in wanted for pair in each.details.items()))


def metadata(db: sqlite3.Connection) -> dict[str, str]:
    """Return the metadata of the ledger's file: {} if there are no details.

    Of several texts that a species has under one name, that of most photos counts, of equally frequent ones the first.
    """
    found: dict[str, dict[str, str]] = {}
    query = "SELECT latin_name, name, value FROM details ORDER BY latin_name, name, photos DESC, value"
    for latin_name, name, value in db.execute(query):
        found.setdefault(latin_name, {}).setdefault(name, value)
    return {"details": json.dumps(found, ensure_ascii=False)} if found else {}


def read(ledger: Path) -> dict[str, dict[str, str]]:
    """Return {latin_name: {name: text}} of a ledger's parquet file."""
    return json.loads((pyarrow.parquet.read_schema(ledger).metadata or {}).get(b"details", b"{}"))
