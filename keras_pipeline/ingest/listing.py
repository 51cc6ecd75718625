"""Rows in a temporary file: a list of a million findings costs no memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence

IN_MEMORY = 1 << 20  # bytes; more are written to the disk


class Listing:
    """Rows of texts, appended once and read as often as needed, as {column: text}."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, "w+", encoding="ascii")  # noqa: SIM115 (removed with it)
        self._rows = 0

    def add(self, *row: str) -> None:
        """Append a row, a text for each column."""
        self._file.write(json.dumps(row) + "\n")
        self._rows += 1

    def __del__(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[dict[str, str]]:
        self._file.seek(0)
        for _ in range(self._rows):
            yield dict(zip(self.columns, json.loads(self._file.readline()), strict=True))
        self._file.seek(0, 2)
