"""Rows that can be stored: what MongoDB and the pipeline take, each _id once; the others are named in a CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
from bson.errors import InvalidDocument

from keras_pipeline.core.errors import SourceError
from keras_pipeline.ingest.fields import document_id
from keras_pipeline.ingest.hash_table import HashTable
from keras_pipeline.ingest.load.forms import File
from keras_pipeline.ingest.load.rows import Bad, Row
from keras_pipeline.ingest.load.target import BATCH, BATCH_BYTES
from keras_pipeline.ingest.mongo import ID_TYPES

SHOWN = 5  # bad rows on the console; the CSV has all
HOPELESS = 1000  # bad rows before the first good one
DOCUMENT_BYTES = 16 * 1024 * 1024 - 16 * 1024  # MongoDB's limit, less room for the command
LEVELS = 100  # of nesting, MongoDB's limit ("MongoDB Limits and Thresholds")


class BadRows:
    """Counts bad rows and names each in a CSV, the first ones on the console too."""

    def __init__(self, writer: Any, path: Path) -> None:
        self._writer, self._path = writer, path
        self.count = 0

    def add(self, bad: Bad) -> None:
        """Name one more."""
        self.count += 1
        self._writer.writerow([bad.place, bad.reason])
        if self.count <= SHOWN:
            print(f"{self._path}, {bad.place}: {bad.reason}")


def batches(file: File, scratch: Path, seen: HashTable, bad: BadRows) -> Iterator[list[Row]]:
    """Yield the rows that can be stored, in batches that are the same in every run; add the others to `bad`.

    Args:
        scratch: folder for what a form has to put in order first.
        seen: the _ids of all files so far; changed in place.

    Raises:
        SourceError: if no row can be stored, after `HOPELESS` of them.
    """
    batch: list[Row] = []
    total = 0
    for row, size in _good(file, scratch, seen, bad):
        batch.append(row)
        total += size
        if len(batch) == BATCH or total > BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _good(file: File, scratch: Path, seen: HashTable, bad: BadRows) -> Iterator[tuple[Row, int]]:
    """Yield (row, bytes) of rows that can be stored, each _id once, in an order that is the same in every run."""
    any_good = False
    for row in file.rows(scratch):
        found = _storable(row, seen)
        if not isinstance(found, Bad):
            any_good = True
            yield found
            continue
        bad.add(found)
        if not any_good and bad.count >= HOPELESS:
            break
    if not any_good and bad.count:
        raise SourceError(
            f"{file.path}: received {bad.count:,} rows of which none can be stored, expected a {file.form}; is this "
            "the file that you meant?"
        )


def _storable(row: Row | Bad, seen: HashTable) -> tuple[Row, int] | Bad:
    """Return (row, bytes) if it can be stored."""
    if isinstance(row, Bad):
        return row
    size, wrong = _check(row)
    if wrong:
        return wrong
    name = document_id(row.document["_id"])  # 7 and "7" are one photo to the pipeline, and to nx-27017
    if seen.get(name, 1):
        return Bad(row.place, f"the _id {name[:100]!r} came before; the first row stands")
    return row, size


def _check(row: Row) -> tuple[int, Bad | None]:
    """Return a document's size in bytes, and why MongoDB or the pipeline can't take it."""
    kind = type(row.document["_id"])
    if kind not in ID_TYPES or row.document["_id"] is None:
        return 0, Bad(row.place, f"an _id of type {kind.__name__}")
    if _is_deeper(row.document, LEVELS):
        return 0, Bad(row.place, f"nested more than {LEVELS} levels deep, which MongoDB refuses")
    if name := _odd_name(row.document):
        return 0, Bad(row.place, f"a field name that no query can reach: {name[:100]!r}")
    if len(row.document) < 2:
        return 0, Bad(row.place, "no field but the _id")
    try:
        size = len(bson.encode(row.document))
    except UnicodeEncodeError:
        return 0, Bad(row.place, "bytes that are not in the file's encoding")
    except (InvalidDocument, OverflowError, RecursionError, ValueError) as error:
        return 0, Bad(row.place, f"no document that MongoDB takes ({str(error)[:200]})")
    if size > DOCUMENT_BYTES:
        return 0, Bad(row.place, f"a document of {size:,} bytes, more than MongoDB's 16 MiB")
    return size, None


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether a value has more than `levels` levels of documents and lists."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _odd_name(value: Any) -> str | None:
    """Return the first field name that is empty, has a dot or begins with a dollar sign."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not name or "." in name or name[0] == "$":
                return name or "(empty)"
            if (found := _odd_name(inner)) is not None:
                return found
    elif isinstance(value, list):
        for inner in value:
            if (found := _odd_name(inner)) is not None:
                return found
    return None
