"""How a few documents are understood under a config, and which keys would make photos of them."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from keras_pipeline.core.config.source import Source
from keras_pipeline.core.redaction import redact, without_credentials
from keras_pipeline.ingest.curation import missing_field
from keras_pipeline.ingest.entries import Reader

LOOKED_AT = 20  # documents
DEPTH = 3  # of sub-documents that are searched
KEYS = 8  # named of an entry
SHOWN = 80  # characters of a value
PICTURE = re.compile(r"\.(jpe?g|png|webp|avif|gif|tiff?|bmp)(?:[?#]|$)", re.I)
ADDRESS = re.compile(r"(https?:)?//\S", re.I)
BINOMIAL = re.compile(r"[A-Z][a-zë-]+ (?:[×x] ?)?[a-z][a-zë-]+\b")
NEEDED = ("latin_name", "image_url")


@dataclasses.dataclass(frozen=True)
class Understanding:
    """What a look at a few documents gave."""

    documents: int
    photos: int  # with a name and a URL
    summary: str  # continues `402 documents in app.plants; of 20 looked at …`
    warnings: tuple[str, ...] = ()


def understand(documents: list[dict], source: Source) -> Understanding:
    """Read documents, whole as the server has them, as the config says."""
    reader = Reader(source.model_copy(update={"regions": None}))
    rows = [row for document in documents for row in reader.photos(document)]
    usable = [row for row in rows if missing_field(row) is None]
    if not usable:
        return Understanding(len(documents), 0, f"none gives a photo: {_why(documents, rows, reader, source)}")
    with_photos = len({row["sample_id"].rpartition("/")[0] if source.photos else row["sample_id"] for row in usable})
    row = usable[0]
    example = ", ".join(
        f"{name} {redact(repr(without_credentials(row[name]) if name == 'image_url' else row[name]))[:SHOWN]}"
        for name in (*NEEDED, "region", "license")
        if row[name] is not None
    )
    summary = f"{with_photos} give {len(usable)} photos, the first: {example}"
    return Understanding(len(documents), len(usable), summary, tuple(_warnings(documents, source)))


def lists_as_text(field: str, shown: str, n: int, total: int, unit: str) -> str:
    """Return the sentence about lists where a text is expected."""
    remedy = {
        "region": "name the regions and their values in source.regions",
        "image_url": "name the list in source.photos, if each of its entries is a photo",
    }.get(field, f"name one entry by its number, as in source.fields.{field}: names.0")
    received = f"received lists ({shown}) in {n} of {total} {unit}"
    return f"source.fields.{field}: {received}, expected a text; {remedy}"


def _warnings(documents: list[dict], source: Source) -> Iterator[str]:
    """Yield sentences on lists where a text is expected, by documents."""
    reader = Reader(source.model_copy(update={"regions": None}))
    found: dict[str, list[str]] = {}
    for document in documents:
        rows = list(reader.photos(document))
        for name in source.fields.model_dump():
            value = next((row[name] for row in rows if isinstance(row[name], list)), None)
            if value and not (name == "region" and source.regions):
                found.setdefault(name, []).append(repr(value)[:SHOWN])
    for name, shown in found.items():
        yield lists_as_text(name, shown[0], len(shown), len(documents), "documents")


def _why(documents: list[dict], rows: list[dict], reader: Reader, source: Source) -> str:
    """Return what is wrong with the needed fields, what is there instead, and the keys to set."""
    if source.photos and reader.without_photos == len(documents):
        wrong = [f"{' and '.join(source.photos)} {'are' if len(source.photos) > 1 else 'is'} missing or empty"]
        no_url = "missing"
    else:
        wrong, no_url = [], _state(rows, "image_url")
        wrong += [f"{name} is {state}" for name in NEEDED if (state := _state(rows, name))]
    seen, keys = [], []
    if no_url:
        lists = _lists(documents)
        texts = _texts(documents, _is_photo) if not lists else []
        if lists:
            described = ", ".join(_described(path, entry) for path, entry in lists.items())
            seen.append(f"lists of photos are there: {described}")
            keys.append(f"source.photos: [{', '.join(lists)}]")
            url_keys = [entry for entry in lists.values() if isinstance(entry, dict)]
            if url_keys and (url_key := next(_paths(url_keys[0], _is_photo), None)):
                keys.append(f"source.fields.image_url: {url_key}")
        elif texts:
            seen.append(f"photos' URLs are there: {', '.join(texts)}")
            keys.append(f"source.fields.image_url: {texts[0]}")
    if _state(rows, "latin_name") and (names := _texts(documents, _is_name)):
        seen.append(f"latin names are there: {', '.join(names)}")
        keys.append(f"source.fields.latin_name: {names[0]}")
    reasons = " and ".join(wrong) or "no entry has both a latin_name and an image_url"
    if keys:
        return f"{reasons}, but {' and '.join(seen)}; set {' and '.join(keys)}"
    top = ", ".join(list(Counter(key for document in documents for key in document))[:20])
    return f"{reasons}; the documents have {top}; name the fields in source.fields, lists of photos in source.photos"


def _state(rows: list[dict], name: str) -> str:
    """Return `missing` or `a list`, say, if no row has a text in a field, or ""."""
    values = [row[name] for row in rows]
    if any(isinstance(value, str) and value.strip() for value in values):
        return ""
    kinds = Counter(type(value).__name__ for value in values if value is not None and not isinstance(value, str))
    return f"mistyped: {kinds.most_common(1)[0][0]}" if kinds else "missing"


def _lists(documents: list[dict]) -> dict[str, Any]:
    """Return {path: a typical entry} of the lists that hold photos, in order of their fields."""
    found: dict[str, Any] = {}
    for document in documents:
        for path, value in _walk(document):
            entry = next((each for each in value if _holds_photo(each)), None) if isinstance(value, list) else None
            if entry is not None:
                found.setdefault(path, entry)
    return found


def _holds_photo(entry: Any) -> bool:
    return _is_photo(entry) or (isinstance(entry, dict) and any(_paths(entry, _is_photo)))


def _described(path: str, entry: Any) -> str:
    if isinstance(entry, dict):
        keys = [key for key in entry if key != "_id"]
        return f"{path} (entries with {', '.join(keys[:KEYS])}{', …' if len(keys) > KEYS else ''})"
    return f"{path} (texts)"


def _texts(documents: list[dict], wanted: Any) -> list[str]:
    """Return the paths under which such texts stand, the most frequent first."""
    counts = Counter(path for document in documents for path in _paths(document, wanted))
    return [path for path, _ in counts.most_common(3)]


def _paths(document: dict, wanted: Any) -> Iterator[str]:
    """Yield the paths of such texts; those of pictures by their suffix before other addresses."""
    found = [(path, value) for path, value in _walk(document) if wanted(value)]
    yield from (path for path, _ in sorted(found, key=lambda each: not PICTURE.search(each[1])))


def _walk(document: dict, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        yield prefix + key, value
        if isinstance(value, dict) and depth < DEPTH:
            yield from _walk(value, f"{prefix}{key}.", depth + 1)


def _is_photo(value: Any) -> bool:
    return isinstance(value, str) and bool(ADDRESS.match(value) or PICTURE.search(value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(BINOMIAL.match(value))
