"""Photos of a document: the document itself, or each entry of the lists that `source.photos` names.

A document is the unit of reading, so lists are unwound here and not in the server, where `$unwind` would send the
document's own fields again with each photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest.fields import document_id
from keras_pipeline.ingest.regions import Regions
from keras_pipeline.ingest.signing import unsigned

WITHOUT_PHOTOS = "without_photos"  # marks the row of a document whose lists are missing or empty
MISSING = object()  # what a path that leads nowhere gives; None is a value that is there
Path = tuple[str, ...]


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
    """Turns documents into photos: {field of ours: value} with a `sample_id`, whatever the values' types.

    With `source.regions` the region is the one named there, and with `source.details` a photo has `details`, {name:
    text}.
    """

    def __init__(self, source: Source) -> None:
        self.documents = 0  # read so far
        self.references = 0  # entries of their lists; a document that is a photo is one reference
        self.repeated = 0  # references whose URL the same document gave before
        self.without_photos = 0  # documents whose lists are missing or empty
        self.detailed: set[str] = set()  # names in `source.details` that a photo had a text for
        self.regions = Regions(source.regions) if source.regions else None
        self._lists = [path_of(dotted) for dotted in source.photos or ()]
        self._paths = {ours: path_of(theirs) for ours, theirs in source.fields.model_dump().items()}
        self._plain = [(ours, path[0]) for ours, path in self._paths.items() if len(path) == 1]
        self._nested = [(ours, path) for ours, path in self._paths.items() if len(path) > 1]
        self._details = {name: path_of(theirs) for name, theirs in source.details.items()}

    @property
    def projection(self) -> dict[str, int]:
        """The top-level fields to ask the server for: nx-27017 finds nothing under a dotted projection."""
        return {path[0]: 1 for path in (*self._paths.values(), *self._lists, *self._details.values())}

    def photos(self, document: dict) -> Iterator[dict]:
        """Yield the photos of a document; a document without any yields one row without `image_url`."""
        self.documents += 1
        for fields, entry in self._entries(document) if self._lists else self._whole(document):
            if self.regions:
                fields["region"] = self.regions.of(fields["region"])
            if self._details:
                fields["details"] = self._details_of(document, entry)
            yield fields

    def _whole(self, document: dict) -> Iterator[tuple[dict, Any]]:
        self.references += 1
        yield self._fields(document) | {"sample_id": document_id(document["_id"])}, None

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

    def _details_of(self, document: dict, entry: Any) -> dict[str, str]:
        """Return the texts of `source.details`, from the document first: they describe its species, not its photo."""
        found = {}
        for name, path in self._details.items():
            value = value_at(document, path)
            if value is MISSING and isinstance(entry, dict):
                value = value_at(entry, path)
            if value is not MISSING and not isinstance(value, list | dict) and not _is_empty(value):
                found[name] = document_id(value).strip()
        self.detailed.update(found)
        return found

    def _entries(self, document: dict) -> Iterator[tuple[dict, Any]]:
        """Yield (photo, entry) of the lists: one for each URL, and one row for each entry that has none.

        What an entry says of its photo stands before what the document says. Two fields differ: `image_url` is never
        the document's own, and `observation_id` is the document's first, because a list of photos often numbers them
        by a field of the same name as the observation's (iNaturalist: `id`).
        """
        _id, base = document_id(document["_id"]), self._fields(document)
        base["image_url"] = None
        by_url: dict[str, dict] = {}
        rows: list[tuple[str, dict, Any]] = []
        before = self.references
        for place, entry in self._references(document):
            self.references += 1
            own = self._values(entry) if isinstance(entry, dict) else {"image_url": entry}
            url = own.get("image_url")
            if not isinstance(url, str) or not url.strip():
                rows.append((f"{_id}/{place}", own, entry))
                continue
            key = unsigned(url.strip())
            if key not in by_url:
                by_url[key] = own
                digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
                rows.append((f"{_id}/{digest[:12]}", own, entry))
                continue
            self.repeated += 1
            first = by_url[key]
            first |= {ours: value for ours, value in own.items() if _is_empty(first.get(ours))}
        if self.references == before:
            self.without_photos += 1
            rows.append((_id, {WITHOUT_PHOTOS: True}, None))
        lasting = {} if base["observation_id"] is None else {"observation_id": base["observation_id"]}
        for sample_id, own, entry in rows:
            yield base | own | lasting | {"sample_id": sample_id}, entry

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
