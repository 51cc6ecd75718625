"""Documents of iNaturalist's CSV and API answers, Pl@ntNet-300K's metadata, JSON lists and JSON lines."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import bson
from bson import json_util
from bson.errors import BSONError

from keras_pipeline.ingest.load.json_text import JsonText
from keras_pipeline.ingest.load.rows import Bad, Lines, Row, cells


def open_text(path: Path) -> TextIO:
    """Open a file as text. Bytes that are not UTF-8 become surrogates, which no document takes."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def from_csv(stream: TextIO) -> Iterator[Row | Bad]:
    """Yield the rows of an iNaturalist export: {column: text that is not empty}, named by the column `id`."""
    with stream:
        found = cells(Lines(stream), ",", '"')
        header = next(found, None)
        columns = header[1] if isinstance(header, tuple) else []
        for row in found:
            if isinstance(row, Bad):
                yield row
                continue
            place, texts = row
            document = {name: text for name, text in zip(columns, texts, strict=False) if text}
            if len(texts) != len(columns):
                yield Bad(place, f"{len(texts)} columns, expected {len(columns)}")
            elif "id" not in document:
                yield Bad(place, "no id")
            else:
                yield Row(place, {"_id": document["id"], **document})


def from_api(path: Path) -> Iterator[Row | Bad]:
    """Yield the observations of one or several answers, one after another in the file."""
    with open_text(path) as stream:
        text = JsonText(stream, str(path))
        while text.next_sign():
            for _, key in text.entries():
                if key == "results":
                    yield from itertools.starmap(_observation, text.elements())
                else:
                    text.value()


def _observation(place: str, value: Any, _: str) -> Row | Bad:
    number = value.get("id") if isinstance(value, dict) else None
    if not isinstance(number, int | str) or isinstance(number, bool):
        return Bad(place, "no observation with an id")
    return Row(place, {"_id": str(number), **value})


def from_plantnet(path: Path, names: dict[str, str]) -> Iterator[Row | Bad]:
    """Yield the photos of Pl@ntNet-300K's metadata, with `species_name` where `names` has one for the species_id."""
    with open_text(path) as stream:
        text = JsonText(stream, str(path))
        for place, key in text.entries():
            value, _ = text.value()
            if not isinstance(value, dict) or not key:
                yield Bad(place, "no description of a photo")
                continue
            name = names.get(str(value.get("species_id")))
            yield Row(place, {"_id": key, **value, **({"species_name": name} if name else {})})
        text.end()


def from_list(path: Path) -> Iterator[Row | Bad]:
    """Yield the documents of a JSON list."""
    with open_text(path) as stream:
        text = JsonText(stream, str(path))
        yield from itertools.starmap(_document, text.elements())
        text.end()


def from_lines(path: Path) -> Iterator[Row | Bad]:
    """Yield the documents of JSON lines; a line that is none is a bad row."""
    with open_text(path) as stream:
        lines = Lines(stream)
        for line in lines:
            yield from lines.take_bad()
            if not line.strip():
                continue
            try:
                yield _document(lines.place(), json.loads(line), line)
            except (ValueError, RecursionError) as error:
                yield Bad(lines.place(), f"no JSON ({error})")
        yield from lines.take_bad()


def _document(place: str, value: Any, text: str) -> Row | Bad:
    """Return a document as it is; one without _id is named by its `id`, else by a hash of what it holds."""
    if not isinstance(value, dict):
        return Bad(place, "no JSON object")
    try:
        document = json_util.loads(text) if '"$' in text else value
        if not isinstance(document, dict):  # {"$oid": …} alone
            return Bad(place, "no document")
        if "_id" in document:
            return Row(place, document)
        name = document.get("id")
        if not isinstance(name, int | str) or isinstance(name, bool) or name == "":
            name = hashlib.sha256(bson.encode(document)).hexdigest()[:24]
    except (BSONError, ValueError, TypeError, OverflowError, RecursionError) as error:
        return Bad(place, f"no document that MongoDB takes ({error})")
    return Row(place, {"_id": str(name), **document})
