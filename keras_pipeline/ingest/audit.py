"""An audit of the collection in one pass: counts, and findings that `curation` can cure.

Memory: the species, 15 bytes per document (hash tables of image URLs and observations), and tallies and lists of at
most 10,000 entries. What is no longer listed is still counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from keras_pipeline.core.redaction import redact, without_credentials
from keras_pipeline.core.schema import UNKNOWN_REGION
from keras_pipeline.core.taxonomy import canonical, genus, normalise
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.fields import day_of, degrees_of, id_of, text_of
from keras_pipeline.ingest.hash_table import HashTable
from keras_pipeline.ingest.tally import CLIP, DISTINCT, Tally

LISTED = 10_000  # rows in each list of documents
UNKNOWN, RELATIVE = "unknown", "(relative URL)"
SAMPLES = 5  # mistyped values shown per field
LABEL_BITS, COUNT_BITS = 24, 8  # of a URL's 64 bits, and of an observation's 32
LARGEST_OBSERVATION = (1 << COUNT_BITS) - 1  # photos; larger observations count as this size


def audit(
    documents: Iterable[dict], *, curation: Curation, min_per_species: int, collection_count: int | None = None
) -> dict:
    """Audit the documents (as `mongo.documents` yields them) in one pass.

    Args:
        min_per_species: photos; species with fewer are `rare_species`.
        collection_count: documents as counted by the server; sizes the hash tables.

    Returns:
        {collection_count, documents, usable, unusable: {reason: n}, unusable_samples: [{sample_id, reason}],
        exclude_without_effect: [line of source.exclude that no document has], species,
        per_class: {name: n} (largest first), per_genus: {genus: {species, photos}}, per_region, per_host, per_license,
        per_year: {value: n}, imbalance: largest / smallest, class_size: {min, median, max}, min_per_species,
        rare_species, underscores, one_word: {name: n}, fields: {name: {missing, mistyped, samples: [{sample_id,
        value}]}}, spellings: [{latin_name, photos, spellings: {name: n}}], synonyms: {synonym: latin_name} (those in
        force and, for all spellings, the most frequent one, with blanks for underscores), conflicts and repeated_urls:
        {photos, rows: [{image_url, latin_name, sample_id, first_latin_name}]}, observations: {sizes: {photos in an
        observation, "255" for more: n}, photos}}
    """
    fields, photos = _Fields(), _Photos(collection_count or 65_536)
    samples: list[dict] = []
    unusable, total = Tally(), 0
    for total, document in enumerate(documents, start=1):  # noqa: B007
        fields.check(document)
        reason = curation.refusal(document)
        if reason is None:
            photos.add(document, curation.latin_name(document["latin_name"]))
            continue
        unusable.add(reason)
        if len(samples) < LISTED:
            samples.append({"sample_id": document["sample_id"][:CLIP], "reason": reason})
    return {
        "collection_count": collection_count,
        "documents": total,
        "unusable": dict(unusable),
        "unusable_samples": samples,
        "exclude_without_effect": sorted(curation.excluded - curation.matched)[:LISTED],
        "fields": fields.found,
        **_species(photos.species, min_per_species),
        **photos.found(),
        **_spellings(photos.species, curation),
    }


class _Photos:
    """Counts over the usable documents."""

    def __init__(self, documents: int) -> None:
        self.species: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self._regions, self._hosts, self._licenses, self._years = Tally(), Tally(), Tally(), Tally()
        self._urls = HashTable(documents, "Q", LABEL_BITS)
        self._conflicts: dict[str, Any] = {"photos": 0, "rows": []}
        self._repeats: dict[str, Any] = {"photos": 0, "rows": []}
        self._observations = HashTable(documents, "I", COUNT_BITS)
        self._sizes = [0] * (LARGEST_OBSERVATION + 1)  # observations of 0, 1, … photos
        self._observed = 0

    def add(self, document: dict, name: str) -> None:
        self.species[name] = self.species.get(name, 0) + 1
        url = document["image_url"].strip()
        self._regions.add(text_of(document["region"]) or UNKNOWN_REGION)
        end = url.find("/", 8)  # of https://host
        self._hosts.add(host_of(url[: min(end, CLIP) if end > 0 else CLIP]))
        self._licenses.add(text_of(document["license"]) or UNKNOWN)
        self._years.add(day_of(document["observed_on"])[:4] or UNKNOWN)
        self._add_url(url, name, document["sample_id"])
        if observation := id_of(document["observation_id"]):
            self._add_observation(observation)

    def _add_url(self, url: str, name: str, sample_id: str) -> None:
        # Labels start at 1; after 16 million names, all others share the last one.
        label = self._labels.setdefault(name, min(len(self._labels) + 1, (1 << LABEL_BITS) - 1))
        first = self._urls.get(url, label)
        if not first:
            return
        found = self._repeats if first == label else self._conflicts
        found["photos"] += 1
        if len(found["rows"]) < LISTED:
            row = {
                "image_url": without_credentials(url)[:CLIP],
                "latin_name": name[:CLIP],
                "sample_id": sample_id[:CLIP],
            }
            found["rows"].append(row | {"first_latin_name": first})

    def _add_observation(self, observation: str) -> None:
        before = self._observations.count(observation)
        self._observed += 1
        if before < LARGEST_OBSERVATION:
            self._sizes[before] -= 1
            self._sizes[before + 1] += 1

    def found(self) -> dict:
        names = list(self._labels)
        for row in [*self._conflicts["rows"], *self._repeats["rows"]]:
            row["first_latin_name"] = names[row["first_latin_name"] - 1][:CLIP]
        return {
            "per_region": dict(sorted(self._regions.items())),
            "per_host": self._hosts.ranked(),
            "per_license": self._licenses.ranked(),
            "per_year": dict(sorted(self._years.items())),
            "conflicts": self._conflicts,
            "repeated_urls": self._repeats,
            "observations": {
                "photos": self._observed,
                "sizes": {str(size): n for size, n in enumerate(self._sizes) if size and n},
            },
        }


class _Fields:
    """Missing and mistyped values, field by field, over all documents."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {name: {"missing": 0, "mistyped": 0, "samples": []} for name in FIELDS}

    def check(self, document: dict) -> None:
        for name in TEXTS:  # nearly always text, so seven calls are saved
            value = document[name]
            if value.__class__ is not str or not value or value.isspace():
                self._record(name, value, document["sample_id"])
        for name in OTHERS:
            value = document[name]
            if not FIELDS[name](value):
                self._record(name, value, document["sample_id"])

    def _record(self, name: str, value: Any, sample_id: str) -> None:
        found = self.found[name]
        if value is None or (isinstance(value, str) and not value.strip()):
            found["missing"] += 1
        elif not FIELDS[name](value):
            found["mistyped"] += 1
            if len(found["samples"]) < SAMPLES:
                shown = f"{type(value).__name__} {redact(repr(value)[:CLIP])}"[:100]
                found["samples"].append({"sample_id": sample_id[:CLIP], "value": shown})


FIELDS: dict[str, Callable[[Any], Any]] = {  # a false result means: not understood
    "latin_name": text_of,
    "image_url": text_of,
    "region": text_of,
    "observation_id": id_of,
    "user_id": id_of,
    "observed_on": day_of,
    "latitude": lambda value: degrees_of(value, 90) is not None,
    "longitude": lambda value: degrees_of(value, 180) is not None,
    "license": text_of,
    "attribution": text_of,
}
TEXTS = tuple(name for name, meaning in FIELDS.items() if meaning in (text_of, id_of))  # any text is valid
OTHERS = tuple(name for name in FIELDS if name not in TEXTS)


@functools.lru_cache(DISTINCT)
def host_of(url: str) -> str:
    """Return `name` or `name:port` in lower case, without user and password. Unlike urlsplit, it never raises."""
    scheme, found, rest = url.partition("://")
    if not found or "/" in scheme:
        return RELATIVE
    host = rest.replace("?", "/").replace("#", "/").partition("/")[0].rpartition("@")[2].lower()
    return host.removesuffix({"http": ":80", "https": ":443"}.get(scheme.lower(), " "))


def _species(photos: dict[str, int], min_per_species: int) -> dict:
    counts = pd.Series(photos, dtype="int64").sort_index().sort_values(ascending=False, kind="stable")
    per_class = {name: int(n) for name, n in counts.items()}
    genera: dict[str, dict] = {}
    for name, n in per_class.items():
        entry = genera.setdefault(genus(name), {"species": 0, "photos": 0})
        entry["species"] += 1
        entry["photos"] += n
    return {
        "usable": int(counts.sum()),
        "species": len(counts),
        "per_class": per_class,
        "per_genus": dict(sorted(genera.items(), key=lambda item: (-item[1]["photos"], item[0]))),
        "imbalance": float(counts.max() / counts.min()) if len(counts) else None,
        "class_size": {k: float(getattr(counts, k)()) for k in ("min", "median", "max")} if len(counts) else {},
        "min_per_species": min_per_species,
        "rare_species": {name: n for name, n in reversed(per_class.items()) if n < min_per_species},
        "underscores": {name: n for name, n in per_class.items() if "_" in name},
        "one_word": {name: n for name, n in per_class.items() if " " not in canonical(_with_blanks(name))},
    }


def _with_blanks(name: str) -> str:
    """Return the name with blanks for underscores."""
    return normalise(name.replace("_", " ")) or name


def _spellings(photos: dict[str, int], curation: Curation) -> dict:
    """Return names that mean the same plant, and the synonyms that would join them."""
    groups: dict[str, list[str]] = {}
    for name in photos:
        groups.setdefault(canonical(_with_blanks(name)), []).append(name)
    found: list[dict[str, Any]] = []
    chosen: dict[str, str] = {}
    for names in groups.values():
        names.sort(key=lambda name: (-photos[name], _oddity(name), name))
        best = _with_blanks(names[0])
        chosen |= {name: best for name in names if name != best}
        if len(names) > 1:
            total = sum(photos[name] for name in names)
            found.append({"latin_name": names[0], "photos": total, "spellings": {name: photos[name] for name in names}})
    found.sort(key=lambda entry: (-entry["photos"], entry["latin_name"]))
    # Synonyms in force are repeated, so that the new file can replace the old one.
    in_force = {synonym: chosen.get(name, name) for synonym, name in curation.synonyms.items()}
    return {"spellings": found, "synonyms": dict(sorted({**in_force, **chosen}.items()))}


def _oddity(name: str) -> tuple[bool, bool, int]:
    """Return a sort key that prefers `Genus species` among equally frequent spellings."""
    return "_" in name, not name[:1].isupper(), sum(map(str.isupper, name[1:]))
