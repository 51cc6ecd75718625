"""Photos of a document: the document itself, or each entry of the lists that `source.photos` names.

A document is the unit of reading, so lists are unwound here and not in the server, where `$unwind` would send the
document's own fields again with each photo.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest.fields import document_id
from keras_pipeline.ingest.signing import unsigned

MISSING = object()  # what a path that leads nowhere gives; None is a value that is there
Path = tuple[str, ...]


@dataclasses.dataclass
class Reading:
    """What has been read so far."""

    documents: int = 0
    references: int = 0  # entries of the lists; a document that is a photo is one reference
    repeated: int = 0  # references whose URL the same document gave before
    without_photos: int = 0  # documents whose lists are missing or empty


def path_of(dotted: str) -> Path:
    """Return the parts of a dotted path."""
    return tuple(dotted.split("."))


def value_at(value: Any, path: Path) -> Any:
    """Return what stands at a path, as MongoDB understands paths; MISSING if it leads nowhere.

    In a list, a number picks an entry. Any other name gives the list of what its entries have under that name, or the
    list itself if they have nothing: what is met there is a list, and not a missing field.
    """
    for depth, part in enumerate(path):
        if isinstance(value, dict):
            value = value.get(part, MISSING)
        elif isinstance(value, list) and part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else MISSING
        elif isinstance(value, list):
            each = (value_at(entry, path[depth:]) for entry in value if isinstance(entry, dict))
            return [found for found in each if found is not MISSING] or value
        else:
            return None if value is None else MISSING
    return value


class Reader:
    """Turns documents into photos: {field of ours: value} with a `sample_id`, whatever the values' types."""

    def __init__(self, source: Source, reading: Reading | None = None) -> None:
        self.reading = Reading() if reading is None else reading
        self._lists = [path_of(dotted) for dotted in source.photos or ()]
        self._paths = {ours: path_of(theirs) for ours, theirs in source.fields.model_dump().items()}
        self._plain = [(ours, path[0]) for ours, path in self._paths.items() if len(path) == 1]
        self._nested = [(ours, path) for ours, path in self._paths.items() if len(path) > 1]

    @property
    def projection(self) -> dict[str, int]:
        """The top-level fields to ask the server for: nx-27017 finds nothing under a dotted projection."""
        return {path[0]: 1 for path in (*self._paths.values(), *self._lists)}

    def photos(self, document: dict) -> Iterator[dict]:
        """Yield the photos of a document; a document without any yields one row without `image_url`."""
        self.reading.documents += 1
        if self._lists:
            yield from self._entries(document)
        else:
            self.reading.references += 1
            yield self._fields(document) | {"sample_id": document_id(document["_id"])}

    def _fields(self, document: dict) -> dict[str, Any]:
        """Return all fields; None where one is missing."""
        get = document.get
        fields = {ours: get(theirs) for ours, theirs in self._plain}
        for ours, path in self._nested:
            value = value_at(document, path)
            fields[ours] = None if value is MISSING else value
        return fields

    def _values(self, source: dict) -> dict[str, Any]:
        """Return the fields that are there."""
        found = {ours: source[theirs] for ours, theirs in self._plain if theirs in source}
        for ours, path in self._nested:
            value = value_at(source, path)
            if value is not MISSING:
                found[ours] = value
        return found

    def _entries(self, document: dict) -> Iterator[dict]:
        """Yield the photos in the lists: one for each URL, and one row for each entry that has none.

        What an entry says of its photo stands before what the document says. Two fields differ: `image_url` is never
        the document's own, and `observation_id` is the document's first, because a list of photos often numbers them
        by a field of the same name as the observation's (iNaturalist: `id`).
        """
        _id, base = document_id(document["_id"]), self._fields(document)
        base["image_url"] = None
        by_url: dict[str, dict] = {}
        rows: list[tuple[str, dict]] = []
        before = self.reading.references
        for place, entry in self._references(document):
            self.reading.references += 1
            own = self._values(entry) if isinstance(entry, dict) else {"image_url": entry}
            url = own.get("image_url")
            if not isinstance(url, str) or not url.strip():
                rows.append((f"{_id}/{place}", own))
                continue
            key = unsigned(url.strip())
            if key not in by_url:
                by_url[key] = own
                rows.append((f"{_id}/{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:12]}", own))
                continue
            self.reading.repeated += 1
            first = by_url[key]
            first |= {ours: value for ours, value in own.items() if _is_empty(first.get(ours))}
        if self.reading.references == before:
            self.reading.without_photos += 1
            rows.append((_id, {}))
        lasting = {} if base["observation_id"] is None else {"observation_id": base["observation_id"]}
        for sample_id, own in rows:
            yield base | own | lasting | {"sample_id": sample_id}

    def _references(self, document: dict) -> Iterator[tuple[str, Any]]:
        """Yield (place, entry) of all lists in order; what is no list is one entry."""
        for path in self._lists:
            value = value_at(document, path)
            if isinstance(value, list):
                yield from ((f"{'.'.join(path)}.{number}", entry) for number, entry in enumerate(value))
            elif value is not MISSING and value is not None:
                yield ".".join(path), value


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
