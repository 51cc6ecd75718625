"""GBIF's Darwin Core archives: occurrences as documents, each with its rows of multimedia as a list `media`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path

from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.progress import progress
from keras_pipeline.ingest.load.members import Member, text_of_member
from keras_pipeline.ingest.load.meta_xml import META, Table, tables_of
from keras_pipeline.ingest.load.rows import Bad, Lines, Row, cells

META_BYTES = 1_000_000
OCCURRENCES = ("Occurrence", "SimpleDarwinRecord", "DarwinCore")
MEDIA = ("Multimedia", "Image", "SimpleMultimedia")
PIECE = 1 << 16  # characters that tell how lines end


@dataclasses.dataclass(frozen=True)
class Archive:
    """An open Darwin Core archive."""

    path: Path
    file: zipfile.ZipFile
    core: Table
    media: tuple[Table, ...]
    ignored: tuple[str, ...]  # members of other extensions


def find_meta(archive: zipfile.ZipFile) -> str | None:
    """Return the name of meta.xml, at the top or in a folder; None if there is none."""
    found = [name for name in archive.namelist() if name == META or name.endswith(f"/{META}")]
    return min(found, key=lambda name: (name.count("/"), name), default=None)


def open_archive(path: Path, archive: zipfile.ZipFile, meta: str) -> Archive:
    """Read meta.xml. Raises SourceError if that is unsafe or damaged, ValueError for an archive of something else."""
    with Member(archive, path, meta) as member:
        data = member.read(META_BYTES + 1)
    where = f"{path}, {meta}"
    if len(data) > META_BYTES:
        raise SourceError(f"{where}: received more than {META_BYTES:,} bytes, expected a short description")
    tables = tables_of(data, meta, archive, where)
    cores = [table for kind, table in tables if kind == "core"]
    extensions = [table for kind, table in tables if kind == "extension"]
    if len(cores) != 1 or cores[0].kind not in OCCURRENCES:
        kinds = ", ".join(table.kind for table in cores) or "none"
        raise ValueError(
            f"{where}: received a core of {kinds}, expected one of Occurrence; on gbif.org, search occurrences and "
            "download them as `Darwin Core Archive`"
        )
    ignored = tuple(name for table in extensions if table.kind not in MEDIA for name in table.members)
    return Archive(path, archive, cores[0], tuple(table for table in extensions if table.kind in MEDIA), ignored)


def rows(archive: Archive, scratch: Path) -> Iterator[Row | Bad]:
    """Yield the occurrences, each with its media; at the end, media of no occurrence.

    The two tables are in no common order, so that media are first put into a SQLite file in the folder `scratch`.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / "media.sqlite"
    file.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(file)) as database:
            yield from _rows(archive, database)
    except sqlite3.OperationalError as error:
        raise SourceError(f"{file}: {error}; free space on that disk, then run the same command") from None
    finally:
        file.unlink(missing_ok=True)


def _rows(archive: Archive, database: sqlite3.Connection) -> Iterator[Row | Bad]:
    database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE media (core, place, fields);")
    for table in archive.media:
        for row in progress(_read(archive, table), description="media", unit="rows"):
            if isinstance(row, Bad):
                yield row
            else:
                values = (row.document["_id"], row.place, json.dumps(_without_id(row.document)))
                database.execute("INSERT INTO media VALUES (?, ?, ?)", values)
    database.execute("CREATE INDEX by_core ON media (core)")
    for row in _read(archive, archive.core):
        if isinstance(row, Row):
            key = (row.document["_id"],)
            found = database.execute("SELECT fields FROM media WHERE core = ? ORDER BY rowid", key).fetchall()
            if found:
                row.document["media"] = [json.loads(fields) for (fields,) in found]
                database.execute("DELETE FROM media WHERE core = ?", key)
        yield row
    for place, core in database.execute("SELECT place, core FROM media ORDER BY rowid"):
        yield Bad(place, f"media of {core[:100]!r}, which is no occurrence here")


def _without_id(document: dict) -> dict:
    return {name: value for name, value in document.items() if name != "_id"}


def _read(archive: Archive, table: Table) -> Iterator[Row | Bad]:
    """Yield the rows of a table: {"_id": the core's id, term: text that is not empty}."""
    for name in table.members:
        newline = _newline(archive, table, name)
        with text_of_member(archive.file, archive.path, name, table.encoding, newline) as stream:
            lines, width = Lines(stream, name), 0
            for _ in range(table.headers):
                header = next(iter(lines), "")
                width = _width_of(table, _cells_of(header, table.delimiter, table.quote), archive, name)
            for found in cells(lines, table.delimiter, table.quote):
                if isinstance(found, Bad):
                    yield found
                    continue
                place, texts = found
                if not width:
                    width = _width_of(table, texts, archive, name)
                yield _row(table, place, texts, width)


def _newline(archive: Archive, table: Table, name: str) -> str:
    """Return how the lines of a table end; its meta.xml may say `\\n` of a file in which each ends with `\\r` alone."""
    with text_of_member(archive.file, archive.path, name, table.encoding) as stream:
        piece = stream.read(PIECE)
    return "\r" if "\r" in piece and "\n" not in piece else table.newline


def _width_of(table: Table, texts: list[str], archive: Archive, name: str) -> int:
    """Return how many columns all rows must have, given the header's or, without one, the first row's; 0: can't tell.

    meta.xml tells too few: it leaves out columns that have no term. Raises SourceError for a file with another
    delimiter than meta.xml says.
    """
    if len(texts) >= table.width:
        return len(texts)
    signs = "\t;,|" if len(texts) == 1 else ""
    if other := next((sign for sign in signs if len(_cells_of(texts[0], sign, table.quote)) >= table.width), None):
        raise SourceError(
            f"{archive.path}, {name}: received {other!r} between the columns, expected {table.delimiter!r}, as "
            "fieldsTerminatedBy of meta.xml says; correct that, or download the archive again"
        )
    return 0


def _cells_of(line: str, delimiter: str, quote: str) -> list[str]:
    found = next(cells(Lines(io.StringIO(line)), delimiter, quote), None)
    return found[1] if isinstance(found, tuple) else []


def _row(table: Table, place: str, texts: list[str], width: int) -> Row | Bad:
    if len(texts) < table.width:
        return Bad(place, f"{len(texts)} columns, expected {table.width} or more")
    if width and len(texts) != width:
        return Bad(place, f"{len(texts)} columns, expected {width} as in the table's first line")
    if not texts[table.key]:
        return Bad(place, "no id")
    fields = {term: texts[column] for column, term in table.columns if texts[column]}
    return Row(place, {"_id": texts[table.key], **table.defaults, **fields})
