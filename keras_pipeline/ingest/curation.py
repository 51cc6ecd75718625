"""Which photos are used, and under which name: `source.synonyms`, `source.exclude` and `source.licenses`."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from keras_pipeline.core.config.source import Source
from keras_pipeline.core.licenses import license_id
from keras_pipeline.core.redaction import without_credentials
from keras_pipeline.core.taxonomy import normalise
from keras_pipeline.ingest.fields import text_of
from keras_pipeline.ingest.signing import unsigned

HEADER = ["synonym", "latin_name"]
LISTED = 10_000  # lines without effect
EXCLUDED = "excluded by source.exclude"
NOT_LICENSED = "is not in source.licenses"
BARE_UUID = re.compile(r"([0-9a-f]{32})((?:/.*)?)")


@dataclasses.dataclass(frozen=True)
class Curation:
    """Changes to documents as they are read; without arguments, none."""

    synonyms: Mapping[str, str] = dataclasses.field(default_factory=dict)  # normalised name -> the one to use
    excluded: frozenset[str] = frozenset()  # _ids, image URLs, latin names
    licenses: frozenset[str] | None = None  # ids of the allowed ones; None: all
    in_lists: bool = False  # a sample_id is the document's _id, a slash and the photo's part
    matched: set[str] = dataclasses.field(default_factory=set)  # entries of `excluded` that occurred in a document
    used: set[str] = dataclasses.field(default_factory=set)  # keys of `synonyms` that occurred in a document

    @classmethod
    def load(cls, source: Source) -> Curation:
        """Read both files, if given. Raises ValueError for any line that is unclear."""
        return cls(
            _read_synonyms(Path(source.synonyms)) if source.synonyms else {},
            _read_excluded(Path(source.exclude)) if source.exclude else frozenset(),
            None if source.licenses is None else frozenset(source.licenses),
            source.photos is not None,
        )

    def latin_name(self, raw: str) -> str:
        """Return the label: normalised, synonyms replaced."""
        name = normalise(raw)
        if name not in self.synonyms:
            return name
        self.used.add(name)
        return self.synonyms[name]

    def idle(self) -> dict[str, list[str]]:
        """Return {exclude_without_effect: lines that no document has, synonyms_without_effect: names no photo has}."""
        return {
            "exclude_without_effect": sorted(self.excluded - self.matched)[:LISTED],
            "synonyms_without_effect": sorted(self.synonyms.keys() - self.used)[:LISTED],
        }

    def refusal(self, document: dict) -> str | None:
        """Return why a photo (as `mongo.documents` yields it) is not exported, or None."""
        reason = missing_field(document)
        if reason is None and self.excluded and self._is_excluded(document):
            return EXCLUDED
        if reason is None and self.licenses is not None:
            name = license_id(text_of(document["license"]))
            if name in self.licenses:
                return None
            mistyped = document["license"] is not None and not isinstance(document["license"], str)
            return f"licence {'that is no text' if mistyped else name[:80]} {NOT_LICENSED}"
        return reason

    def _is_excluded(self, document: dict) -> bool:
        name, url, sample_id = normalise(document["latin_name"]), document["image_url"].strip(), document["sample_id"]
        # The audit's lists show URLs without their passwords, so both forms count; and a signature changes.
        urls = (normalise(unsigned(text)) for text in (url, without_credentials(url)))
        ids = [sample_id, sample_id.rpartition("/")[0]] if self.in_lists else [sample_id]
        # nx-27017 returns a UUID as bytes, whose sample_id has no hyphens; a person writes them.
        ids += [f"{uuid.UUID(bare[1])}{bare[2]}" for each in ids if (bare := BARE_UUID.fullmatch(each))]
        matches = self.excluded.intersection((*map(normalise, ids), *urls, name, self.synonyms.get(name, name)))
        self.matched.update(matches)
        return bool(matches)


def missing_field(document: dict) -> str | None:
    """Return `no latin_name`, `latin_name is no text`, the same for image_url, or None."""
    for field in ("latin_name", "image_url"):
        value = document[field]
        if not isinstance(value, str):
            return f"no {field}" if value is None else f"{field} is no text"
        if not normalise(value):  # invisible characters alone are no name
            return f"no {field}"
    return None


def _read_synonyms(path: Path) -> dict[str, str]:
    """Return {normalised synonym: name}, with chains followed to their end. Raises ValueError."""
    synonyms: dict[str, str] = {}
    for line, cells in _rows(path):
        synonym, name = map(normalise, cells)
        if not synonym or not name:
            raise _unusable(path, line, str(cells), "a synonym and a latin name", "fill both in, or remove the line")
        if synonym == name:
            raise _unusable(path, line, f"{name!r} twice", "two different names", "remove the line")
        if synonyms.setdefault(synonym, name) != name:
            both = f"{synonym!r} for {synonyms[synonym]!r} and for {name!r}"
            raise _unusable(path, line, both, "one name for each synonym", "remove one of the lines")
    return {synonym: _end_of_chain(path, synonyms, synonym) for synonym in synonyms}


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, both cells) below the header, without empty lines."""
    reader = csv.reader(io.StringIO(_read(path, "source.synonyms"), newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if header != HEADER:
            other = next((sign for sign in ";\t|" if len(header) == 1 and sign in header[0]), None)
            remedy = f"save it with commas, not {other!r}, between the cells" if other else "write this as line 1"
            raise _unusable(path, 1, ",".join(header) or "an empty file", ",".join(HEADER), remedy)
        for cells in reader:
            if not any(cell.strip() for cell in cells):  # spreadsheets write such lines
                continue
            if len(cells) != 2:
                remedy = 'put names with commas in "double quotes"'
                raise _unusable(path, reader.line_num, f"{len(cells)} cells", "2", remedy)
            yield reader.line_num, cells
    except csv.Error as error:
        raise _unusable(path, reader.line_num, str(error), "CSV", "save it as CSV, UTF-8") from None


def _end_of_chain(path: Path, synonyms: Mapping[str, str], synonym: str) -> str:
    name, passed = synonyms[synonym], [synonym]
    while name in synonyms:
        passed.append(name)
        if synonyms[name] in passed:
            circle = " -> ".join([*passed, synonyms[name]])
            raise ValueError(
                f"source.synonyms {path}: received a circle, {circle}; expected chains that end at the name to use; "
                "remove one of these lines"
            )
        name = synonyms[name]
    return name


def _read_excluded(path: Path) -> frozenset[str]:
    # A URL may hold a '#': only whole lines are comments.
    lines = (line.strip() for line in _read(path, "source.exclude").split("\n"))
    return frozenset(normalise(unsigned(line)) for line in lines if line and not line.startswith("#"))


def _read(path: Path, key: str) -> str:
    if path.exists() and not path.is_file():  # it is read several times, which a pipe is not
        raise ValueError(f"{key}: received {path}, which is no file; expected a text file; correct it, or set null")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(
            f"{key}: received {path}, which can't be read ({error.strerror}); expected a text file; correct the path "
            f"(relative ones start in {Path.cwd()}) or set {key} to null"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{key} {path}: received bytes that are not UTF-8 ({error}); expected UTF-8; save it as `CSV UTF-8` or text"
        ) from None


def _unusable(path: Path, line: int, received: str, expected: str, remedy: str) -> ValueError:
    return ValueError(f"source.synonyms {path}, line {line}: received {received}, expected {expected}; {remedy}")
