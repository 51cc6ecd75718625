"""meta.xml of a Darwin Core archive: which tables it holds, and how they are written."""

from __future__ import annotations

import codecs
import dataclasses
import re
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.parsers import expat

from keras_pipeline.core.errors import SourceError

META = "meta.xml"
ESCAPES = {r"\t": "\t", r"\n": "\n", r"\r": "\r", r"\r\n": "\r\n", r"\f": "\f", r"\\": "\\"}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of an archive, as its meta.xml describes it."""

    kind: str  # last part of the row type: Occurrence, Multimedia
    members: tuple[str, ...]
    key: int  # column of the core's id
    columns: tuple[tuple[int, str], ...]  # column, term
    defaults: dict[str, str]  # of terms without a column, and of empty cells
    delimiter: str
    quote: str
    newline: str
    encoding: str
    headers: int  # lines

    @property
    def width(self) -> int:
        """The fewest columns that a row has."""
        return 1 + max([self.key, *(column for column, _ in self.columns)])


def tables_of(data: bytes, name: str, archive: zipfile.ZipFile, where: str) -> list[tuple[str, Table]]:
    """Return (core or extension, table) of each table that the file `name` of the archive describes.

    Raises SourceError if it is unsafe or damaged, or names a table that the archive does not hold.
    """
    found = ((_local(node.tag), node) for node in _parse(data, where))
    folder = name.removesuffix(META)
    return [(kind, _table(node, folder, archive, where)) for kind, node in found if kind in ("core", "extension")]


def _parse(data: bytes, where: str) -> ElementTree.Element:
    """Parse XML without document type: no entities, so nothing that expands and nothing from outside."""

    def refuse(*_: object) -> None:
        raise SourceError(f"{where}: received a document type (DOCTYPE), expected plain XML without entities")

    try:
        checker = expat.ParserCreate()
        checker.StartDoctypeDeclHandler = refuse
        checker.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise SourceError(f"{where}: no valid XML ({error}); download the archive again") from None


def _local(name: str) -> str:
    return re.split(r"[/#}]", name.strip())[-1]


def _table(node: ElementTree.Element, folder: str, archive: zipfile.ZipFile, where: str) -> Table:
    under = [(_local(child.tag), child) for child in node.iter()]
    keys = [child.get("index") for kind, child in under if kind in ("id", "coreid")]
    fields = [child for kind, child in under if kind == "field"]
    members = [folder + (child.text or "").strip() for kind, child in under if kind == "location"]
    present = set(archive.namelist())
    for name in members:
        if name not in present or ".." in name.split("/") or name.startswith("/"):
            raise SourceError(f"{where}: names the table {name!r}, which the archive does not hold; download it again")
    try:
        columns = [(int(field.get("index", "")), _term(field)) for field in fields if field.get("index")]
        defaults = {_term(field): value for field in fields if (value := field.get("default"))}
        key, headers = int(keys[0] or ""), int(node.get("ignoreHeaderLines") or 0)
        encoding = codecs.lookup(node.get("encoding") or "utf-8").name
        if not members or min([key, headers, *(column for column, _ in columns)]) < 0:
            raise ValueError
    except (ValueError, IndexError, LookupError):
        raise SourceError(
            f"{where}: describes a table without a file, without an id, or with an unknown encoding or index; "
            "download the archive again"
        ) from None
    delimiter, quote, newline = (
        ESCAPES.get(text, text)
        for text in (node.get("fieldsTerminatedBy") or ",", node.get("fieldsEnclosedBy", '"'),
                     node.get("linesTerminatedBy") or r"\n")
    )  # fmt: skip
    if len(delimiter) != 1 or len(quote) > 1:
        raise SourceError(f"{where}: received the delimiter {delimiter!r} and the quote {quote!r}, expected one sign")
    return Table(
        kind=_local(node.get("rowType", "")),
        members=tuple(members),
        key=key,
        columns=tuple(_distinct(columns)),
        defaults=defaults,
        delimiter=delimiter,
        quote=quote,
        # A carriage return inside an unquoted cell ends no line.
        newline="\r" if newline == "\r" else "" if quote else "\n",
        encoding="utf-8-sig" if encoding == "utf-8" else encoding,
        headers=headers,
    )


def _term(field: ElementTree.Element) -> str:
    """Return the last part of a term's URI: http://purl.org/dc/terms/identifier -> identifier."""
    name = _local(field.get("term", ""))
    if not name:
        raise ValueError
    return name.replace(".", "_")


def _distinct(columns: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Two terms may end alike (dc:source, dcterms:source): the second is called source_2."""
    seen: dict[str, int] = {}
    for column, term in columns:
        seen[term] = seen.get(term, 0) + 1
        yield column, term if seen[term] == 1 else f"{term}_{seen[term]}"
