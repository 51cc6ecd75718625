"""What `load` reads of a file: rows that become documents, rows that can't, and how much a row may hold."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from typing import TextIO

LINE = 16 * 1024 * 1024  # characters; MongoDB's documents hold as many bytes
FIELD = 1024 * 1024  # characters


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
