"""What `load` reads of a file: rows that become documents, rows that can't, and how much a row may hold."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from typing import Any, TextIO

import bson
from bson.errors import InvalidDocument

from keras_pipeline.ingest.mongo import ID_TYPES

LINE = 16 * 1024 * 1024  # characters; MongoDB's documents hold as many bytes
FIELD = 1024 * 1024  # characters
DOCUMENT_BYTES = 16 * 1024 * 1024 - 16 * 1024  # MongoDB's limit, less room for the command


@dataclasses.dataclass(frozen=True)
class Row:
    """A document and where it stands in its file."""

    place: str
    document: dict


@dataclasses.dataclass(frozen=True)
class Bad:
    """A row that can't be stored, and why."""

    place: str
    reason: str


class Lines:
    """Lines of a text, counted. One that is longer than a document can be is left out and kept in `bad`."""

    def __init__(self, stream: TextIO, name: str = "") -> None:
        self._stream, self._name = stream, name
        self.number = 0
        self.bad: list[Bad] = []

    def place(self, number: int | None = None) -> str:
        """Return the place of a line, by default of the one read last."""
        return f"{self._name} line {number or self.number}".strip()

    def __iter__(self) -> Iterator[str]:
        while line := self._stream.readline(LINE + 1):
            self.number += 1
            if len(line) <= LINE:
                yield line
                continue
            while not line.endswith("\n") and (line := self._stream.readline(LINE)):
                pass
            self.bad.append(Bad(self.place(), f"a line of more than {LINE:,} characters"))

    def take_bad(self) -> Iterator[Bad]:
        """Yield what was left out since the last call."""
        taken, self.bad = self.bad, []
        yield from taken


def cells(lines: Lines, delimiter: str, quote: str) -> Iterator[tuple[str, list[str]] | Bad]:
    """Yield (place, cells) of a table's rows, without empty ones; quote "": no cell is quoted."""
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, strict=True) if quote else None
    unquoted = iter(lines)
    while True:
        first = lines.number + 1
        try:
            row = _next(reader) if reader else next(unquoted).rstrip("\r\n").split(delimiter)
        except StopIteration:
            break
        except csv.Error as error:
            yield from lines.take_bad()
            # A quote that is never closed takes all that follows; it ends at the limit on a field.
            several = f" to {lines.number}" if lines.number > first else ""
            yield Bad(f"{lines.place(first)}{several}", f"no row of the table: {error}")
            continue
        yield from lines.take_bad()
        if len(row) > 1 or (row and row[0]):
            yield lines.place(first), row
    yield from lines.take_bad()


def _next(reader: Iterator[list[str]]) -> list[str]:
    before = csv.field_size_limit(FIELD)  # the whole process's: other readers keep theirs
    try:
        return next(reader)
    finally:
        csv.field_size_limit(before)


def check(row: Row) -> tuple[int, Bad | None]:
    """Return a document's size in bytes, and why MongoDB or the pipeline can't take it."""
    kind = type(row.document["_id"])
    if kind not in ID_TYPES or row.document["_id"] is None:
        return 0, Bad(row.place, f"an _id of type {kind.__name__}")
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
