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
from keras_pipeline.ingest.idle import without_text, without_value
from keras_pipeline.ingest.urls import resolve

LOOKED_AT = 20  # documents
DEPTH = 3  # of sub-documents that are searched
KEYS = 8  # named of an entry
SHOWN = 80  # characters of a value
PICTURE = re.compile(r"\.(jpe?g|png|webp|avif|gif|tiff?|bmp)(?:[?#]|$)", re.I)
ADDRESS = re.compile(r"(https?:)?//\S", re.I)
BINOMIAL = re.compile(r"[A-Z][a-zë-]+ (?:[×x] ?)?[a-z][a-zë-]+\b")
TEXT_IN_REPR = re.compile(r"'(\w+)': '([^']*)'")  # of a dict
ANY_BASE = "http://base/"  # with which a relative URL is as good as an absolute one
NEEDED = ("latin_name", "image_url")
LIST = "mistyped: list"

Change = dict[str, Any]  # {photos (None: to be removed) | a name in source.fields: new value}


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


def lists_as_text(field: str, shown: str, n: int, total: int, unit: str, source: Source) -> str:
    """Return the sentence about lists where a text is expected.

    Args:
        shown: such a list, as Python writes it; it may be cut.
    """
    path = getattr(source.fields, field)
    remedy = f"name one entry by its number, as in source.fields.{field}: {path}.0"
    if field == "image_url" and source.photos:
        lists = source.photos[0]
        remedy = (
            f"name one entry by its number, as in source.fields.image_url: {path}.0, or where the entries of {lists} "
            f"are lists themselves, name those: source.photos: [{lists}.0, {lists}.1]"
        )
    elif field == "image_url":
        remedy = "name the list in source.photos, if each of its entries is a photo"
    elif texts := TEXT_IN_REPR.findall(shown):
        named = {value for values in (source.regions or {}).values() for value in values}
        key = next((key for key, value in texts if value in named), texts[0][0])
        remedy = f"its entries have fields: name one that is a text, as in source.fields.{field}: {path}.{key}"
        if field == "region" and not source.regions:
            remedy += ", and the regions and their values in source.regions"
    elif field == "region":
        remedy = "name the regions and their values in source.regions"
        if source.regions:
            remedy = "source.regions takes a text or a list of texts: name a field or an entry that is one"
    return f"source.fields.{field}: received lists ({shown}) in {n} of {total} {unit}, expected a text; {remedy}"


def _warnings(documents: list[dict], source: Source) -> Iterator[str]:
    """Yield sentences on lists where a text is expected, by documents, and on keys that do nothing to them."""
    reader = Reader(source.model_copy(update={"regions": None}))
    found: dict[str, list[str]] = {}
    missing = set(source.fields.model_dump())
    urls: list[str] = []
    for document in documents:
        rows = list(reader.photos(document))
        urls += [row["image_url"] for row in rows if isinstance(row["image_url"], str)]
        missing -= {name for row in rows for name in missing if row[name] is not None}
        for name in source.fields.model_dump():
            value = next((row[name] for row in rows if isinstance(row[name], list)), None)
            texts = value and all(isinstance(each, str) for each in value)
            if value and not (texts and name == "region" and source.regions):
                found.setdefault(name, []).append(repr(value)[:SHOWN])
    for name, shown in found.items():
        yield lists_as_text(name, shown[0], len(shown), len(documents), "documents", source)
    yield from without_value(source, missing)
    yield from without_text(source, reader.detailed)
    asked = [url for url in urls if resolve(url, ANY_BASE)]
    if lost := [url for url in asked if not resolve(url, ANY_BASE, source.url_replace)]:
        of = f"{len(lost)} of {len(urls)} URLs looked at"
        yield f"source.url_replace: makes no http(s) URL of {of}; correct the texts"
    for text, replacement in source.url_replace.items():
        if not any(text in url for url in urls):
            yield f"source.url_replace: {text!r} is in none of {len(urls)} URLs looked at"
        urls = [url.replace(text, replacement) for url in urls]


def _why(documents: list[dict], rows: list[dict], reader: Reader, source: Source) -> str:
    """Return what is wrong with the needed fields, what is there instead, and the keys to set."""
    if source.photos and reader.without_photos == len(documents):
        wrong = [f"{' and '.join(source.photos)} {'are' if len(source.photos) > 1 else 'is'} missing or empty"]
        no_url = "missing"
    else:
        wrong, no_url = [], _state(rows, "image_url")
        wrong += [f"{name} is {state}" for name in NEEDED if (state := _state(rows, name))]
    seen: list[str] = []
    changes: Change = {}
    if no_url:
        for there, change in _places(documents, source):
            changed = list(_rows(documents, _with(source, change)))
            if not _state(changed, "image_url"):  # so that no advice leads back here
                seen.append(there)
                changes |= change
                break
    names = _texts(documents, _is_name) if _state(rows, "latin_name") else []
    names += [f"{source.fields.latin_name}.0"] if _state(rows, "latin_name") == LIST else []
    names = [
        path for path in names if not _state([*_rows(documents, _with(source, {"latin_name": path}))], "latin_name")
    ]
    if names:
        seen.append(f"latin names are there: {', '.join(names)}")
        changes["latin_name"] = names[0]
    reasons = " and ".join(wrong) or "no entry has both a latin_name and an image_url"
    if changes:
        return f"{reasons}, but {' and '.join(seen)}; {_orders(changes)}"
    top = ", ".join(list(Counter(key for document in documents for key in document))[:20])
    return f"{reasons}; the documents have {top}; name the fields in source.fields, lists of photos in source.photos"


def _places(documents: list[dict], source: Source) -> Iterator[tuple[str, Change]]:
    """Yield (what is there, how to read it) for each way in which the documents may hold photos."""
    for what, lists in (("lists of photos", _lists(documents)), ("numbered photos", _numbered(documents))):
        if not lists:
            continue
        change: Change = {} if source.photos == list(lists) else {"photos": list(lists)}
        url_keys = [entry for entry in lists.values() if isinstance(entry, dict)]
        if url_keys and (url_key := next(_paths(url_keys[0], _is_photo), None)) and url_key != source.fields.image_url:
            change["image_url"] = url_key
        yield f"{what} are there: {', '.join(_described(path, entry) for path, entry in lists.items())}", change
    first = f"{source.fields.image_url}.0"
    yield f"lists of URLs are there: {source.fields.image_url}", {"image_url": first}
    for path in _texts(documents, _is_photo):
        change = {} if source.photos is None else {"photos": None}
        if path != source.fields.image_url:
            change["image_url"] = path
        yield f"photos' URLs are there: {', '.join(_texts(documents, _is_photo))}", change


def _with(source: Source, change: Change) -> Source:
    fields = source.fields.model_copy(update={name: path for name, path in change.items() if name != "photos"})
    return source.model_copy(update={"photos": change.get("photos", source.photos), "fields": fields, "regions": None})


def _rows(documents: list[dict], source: Source) -> Iterator[dict]:
    reader = Reader(source)
    for document in documents:
        yield from reader.photos(document)


def _orders(change: Change) -> str:
    """Return `remove source.photos and set source.fields.image_url: url`, say."""
    photos = change.get("photos")
    keys = [f"source.photos: [{', '.join(photos)}]"] if photos else []
    keys += [f"source.fields.{name}: {path}" for name, path in change.items() if name != "photos"]
    removed = ["remove source.photos"] if photos is None and "photos" in change else []
    return " and ".join([*removed, *([f"set {' and '.join(keys)}"] if keys else [])])


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


def _numbered(documents: list[dict]) -> dict[str, Any]:
    """Return {path: a typical entry} of photos that stand under numbers: lists in lists, and fields called 0, 1, …"""
    found: dict[str, Any] = {}
    for document in documents:
        for path, value in _walk(document):
            children = dict(enumerate(value)) if isinstance(value, list) else value if isinstance(value, dict) else {}
            for number, child in children.items():
                entry = next(filter(_holds_photo, child), None) if isinstance(child, list) else child
                if str(number).isdecimal() and isinstance(child, list | dict) and _holds_photo(entry):
                    found.setdefault(f"{path}.{number}", entry)
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
