"""An audit of the collection in one pass: counts, and findings that `curation` can cure.

Memory: the species, 15 bytes per photo (hash tables of image URLs and observations; 5 more where URLs repeat), and
tallies of at most 10,000 entries. Lists of findings are on the disk.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from keras_pipeline.core.dataset import UNKNOWN_REGION
from keras_pipeline.core.redaction import redact, without_credentials
from keras_pipeline.core.taxonomy import canonical, genera, no_species, normalise
from keras_pipeline.ingest import urls
from keras_pipeline.ingest.curation import EXCLUDED, NOT_LICENSED, Curation
from keras_pipeline.ingest.entries import WITHOUT_PHOTOS, Reader
from keras_pipeline.ingest.fields import day_of, degrees_of, id_of, text_of
from keras_pipeline.ingest.hash_table import HashTable
from keras_pipeline.ingest.ledger import UNDER_SPECIES
from keras_pipeline.ingest.license_counts import LicenseCounts
from keras_pipeline.ingest.listing import Listing
from keras_pipeline.ingest.shared import PAIRS, shared_photos, with_synonyms
from keras_pipeline.ingest.signing import unsigned
from keras_pipeline.ingest.tally import CLIP, DISTINCT, Tally

UNKNOWN = "unknown"
NO_PHOTO = "a document without a photo"
SAMPLES = 5  # mistyped values shown per field
LABEL_BITS, COUNT_BITS = 24, 8  # of a URL's 64 bits, and of an observation's 32
LARGEST_OBSERVATION = (1 << COUNT_BITS) - 1  # photos; larger observations count as this size
MINIMA = (1, 2, 3, 5, 10, 20)  # of source.min_per_species, to choose from
SEVERAL = "(several)"  # regions
COLUMNS = ("image_url", "latin_name", "sample_id", "first_latin_name")


def audit(
    photos: Iterable[dict],
    *,
    curation: Curation,
    min_per_species: int,
    least: int = 1,
    collection_count: int | None = None,
    expected: int | None = None,
    reader: Reader | None = None,
) -> dict:
    """Audit the photos (as `mongo.documents` yields them) in one pass.

    Args:
        min_per_species: photos; species with fewer are `rare_species`.
        least: photos by distinct URL; species with fewer are not used (`source.min_per_species`).
        collection_count, expected: documents as counted by the server; photos, to size the hash tables.
        reader: what turned the documents into photos; left out, each document is a photo.

    Returns:
        {collection_count, documents, photos, references (entries of lists), repeated_in_documents (of them),
        documents_without_photos, usable, unusable: {reason: n}, unusable_samples: Listing of sample_id, reason,
        exclude_without_effect, synonyms_without_effect: see `Curation.idle`, left_out_by: see there, species,
        per_class: {name: n} (largest first), per_genus: {genus: {species, photos}}, per_region, per_host, per_license,
        per_year: {value: n}, imbalance: largest / smallest, class_size: {min, median, max}, min_per_species,
        rare_species, underscores, one_word: {name: n}, no_species: [{latin_name, photos, why}], fields: {name:
        {missing, mistyped, lists (of the mistyped), samples: [{sample_id, value}]}}, spellings: [{latin_name, photos,
        spellings: {name: n}}], synonyms: {synonym: latin_name} (those in force; for all spellings, the most frequent
        one, with blanks for underscores; for names that share their photos, `shared_synonyms`, the one with more),
        conflicts and repeated_urls: {photos, rows: Listing of COLUMNS}, of conflicts also all_photos, the first ones
        too, shared_photos: see `shared`, observations: {sizes: {photos in an observation, "255" for more: n}, photos},
        minima: [{minimum, species, photos}], licenses: {id: {photos, species, spellings: {text: n}}}, allow_lists:
        [{licenses, photos, species, lost: [name]}], region_of_species: {one, species} (with two photos or more),
        unnamed_regions: {value: photos}, several_regions: {text: photos}}
    """
    fields, found = _Fields(), _Photos(expected or collection_count or 65_536)
    samples, unusable, total = Listing(("sample_id", "reason")), Tally(), 0
    for total, document in enumerate(photos, start=1):  # noqa: B007
        fields.check(document)
        reason = NO_PHOTO if WITHOUT_PHOTOS in document else curation.refusal(document)
        if reason is None:
            found.add(document, curation.latin_name(document["latin_name"]))
            continue
        if reason.endswith(NOT_LICENSED):
            found.licenses.add(document["license"], curation.latin_name(document["latin_name"]))
        unusable.add(reason)
        samples.add(document["sample_id"][:CLIP], reason)
    left_out = found.leave_out_under(least)
    species = {name: each.photos for name, each in found.species.items()}
    return {
        "collection_count": collection_count,
        **_counts(total, reader),
        "unusable": unusable | left_out,
        "unusable_samples": samples,
        "left_out_by": left_out_by(unusable | left_out),
        **curation.idle(),
        "fields": fields.found,
        **_species(species, min_per_species),
        **found.found(),
        **_names(found, species, curation),
    }


def left_out_by(unusable: Mapping[str, int]) -> dict[str, int]:
    """Return {key of `source` that left photos out: photos}, most photos first, given an audit's {reason: photos}."""
    found: Counter[str] = Counter()
    for reason, n in unusable.items():
        if reason == NO_PHOTO:
            continue
        keys = {EXCLUDED: "source.exclude", UNDER_SPECIES: "source.min_per_species"}
        found["source.licenses" if reason.endswith(NOT_LICENSED) else keys.get(reason, "source.fields")] += n
    return dict(found.most_common())


def _names(found: _Photos, species: dict[str, int], curation: Curation) -> dict:
    """Return spellings, names that share photos, and the synonyms that both suggest."""
    shared = shared_photos(found.pairs, found.distinct)
    names = _spellings(species, curation)
    synonyms, added = with_synonyms(names["synonyms"], shared)
    return names | {
        "synonyms": dict(sorted(synonyms.items())), "shared_photos": shared, "shared_synonyms": added
    }  # fmt: skip


def _counts(total: int, reader: Reader | None) -> dict:
    without, regions = (reader.without_photos, reader.regions) if reader else (0, None)
    return {
        "documents": reader.documents if reader else total,
        "photos": total - without,
        "references": reader.references if reader else total,
        "repeated_in_documents": reader.repeated if reader else 0,
        "documents_without_photos": without,
        "unnamed_regions": regions.unnamed.ranked() if regions else {},
        "several_regions": regions.several.ranked() if regions else {},
    }


class _Species:
    """Counts of one species."""

    __slots__ = ("distinct", "label", "photos", "region")

    def __init__(self, label: int, region: str) -> None:
        self.label, self.region = label, region  # SEVERAL: its photos have different ones
        self.photos = self.distinct = 0


class _Photos:
    """Counts over the usable photos."""

    def __init__(self, expected: int) -> None:
        self.species: dict[str, _Species] = {}
        self._names: list[str] = []
        self._regions, self._hosts, self._licenses, self._years = Tally(), Tally(), Tally(), Tally()
        self.licenses = LicenseCounts()  # also of photos that only source.licenses leaves out
        self._urls = HashTable(expected, "Q", LABEL_BITS)
        self._expected = expected
        self._copies: HashTable | None = None  # of the same name, by URL, while it has one name
        self._doubted = HashTable(1000, "Q", 1)  # URLs with two names
        self._in_doubt = 0  # their photos
        self._conflicts, self._repeats = Listing(COLUMNS), Listing(COLUMNS)
        self._pairs: dict[tuple[int, int], int] = {}  # photos by labels
        self._observations = HashTable(expected, "I", COUNT_BITS)
        self._sizes = [0] * (LARGEST_OBSERVATION + 1)  # observations of 0, 1, … photos
        self._observed = 0

    def add(self, document: dict, name: str) -> None:
        region = normalise(text_of(document["region"])) or UNKNOWN_REGION
        species = self.species.get(name)
        if species is None:
            # Labels start at 1; after 16 million names, all others share the last one.
            species = self.species[name] = _Species(min(len(self._names) + 1, (1 << LABEL_BITS) - 1), region[:CLIP])
            self._names.append(name)
        elif species.region != region:
            species.region = SEVERAL
        species.photos += 1
        url = document["image_url"].strip()
        self._regions.add(region)
        end = url.find("/", 8)  # of https://host
        self._hosts.add(host_of(url[: min(end, CLIP) if end > 0 else CLIP]))
        self._licenses.add(self.licenses.add(document["license"], name))
        self._years.add(day_of(document["observed_on"])[:4] or UNKNOWN)
        self._add_url(url, name, species, document["sample_id"])
        if observation := id_of(document["observation_id"]):
            self._add_observation(observation)

    def _add_url(self, url: str, name: str, species: _Species, sample_id: str) -> None:
        key = unsigned(url)
        first = self._urls.get(key, species.label)
        if first != species.label:
            species.distinct += 1
        if not first:
            return
        if first != species.label and not self._doubted.get(key, 1):
            self._in_doubt += 2 + (self._copies.peek(key) if self._copies else 0)
        elif self._in_doubt and self._doubted.peek(key):
            self._in_doubt += 1
        else:
            # Half a collection may be copies; most have none, and need no table.
            self._copies = self._copies or HashTable(self._expected // 2, "Q", LABEL_BITS)
            self._copies.count(key)
        listing = self._repeats if first == species.label else self._conflicts
        listing.add(without_credentials(url)[:CLIP], name[:CLIP], sample_id[:CLIP], self._names[first - 1][:CLIP])
        pair = (first, species.label)
        if listing is self._conflicts and (pair in self._pairs or len(self._pairs) < PAIRS):
            self._pairs[pair] = self._pairs.get(pair, 0) + 1

    def _add_observation(self, observation: str) -> None:
        before = self._observations.count(observation)
        self._observed += 1
        if before < LARGEST_OBSERVATION:
            self._sizes[before] -= 1
            self._sizes[before + 1] += 1

    def leave_out_under(self, least: int) -> dict[str, int]:
        """Take out the species with fewer photos, by distinct URL; return {reason: their photos}, if there are any."""
        few = [name for name, each in self.species.items() if each.distinct < least]
        self._minima = self._left_by_minima()
        photos = sum(self.species.pop(name).photos for name in few)
        return {UNDER_SPECIES: photos} if photos else {}

    @property
    def distinct(self) -> dict[str, int]:
        """Photos of each species by distinct URL."""
        return {name: each.distinct for name, each in self.species.items()}

    @property
    def pairs(self) -> dict[tuple[str, str], int]:
        """Photos that two names share, by URL. Of three names with one photo, the first shares it with both others."""
        named = ((tuple(self._names[label - 1] for label in pair), n) for pair, n in self._pairs.items())
        return {(one, other): n for (one, other), n in named if one in self.species and other in self.species}

    def found(self) -> dict:
        each = [species for species in self.species.values() if species.photos > 1]
        return {
            "per_region": dict(sorted(self._regions.items())),
            "per_host": self._hosts.ranked(),
            "per_license": self._licenses.ranked(),
            "per_year": dict(sorted(self._years.items())),
            "conflicts": {"photos": len(self._conflicts), "all_photos": self._in_doubt, "rows": self._conflicts},
            "repeated_urls": {"photos": len(self._repeats), "rows": self._repeats},
            "observations": {
                "photos": self._observed,
                "sizes": {str(size): n for size, n in enumerate(self._sizes) if size and n},
            },
            "minima": self._minima,
            "licenses": self.licenses.by_license(),
            "allow_lists": self.licenses.allow_lists(),
            "region_of_species": {"one": sum(species.region != SEVERAL for species in each), "species": len(each)},
        }

    def _left_by_minima(self) -> list[dict]:
        counts = pd.Series([each.distinct for each in self.species.values()], dtype="int64")
        left = ((minimum, counts[counts >= minimum]) for minimum in MINIMA)
        return [{"minimum": minimum, "species": len(kept), "photos": int(kept.sum())} for minimum, kept in left]


class _Fields:
    """Missing and mistyped values, field by field, over all documents."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {
            name: {"missing": 0, "mistyped": 0, "lists": 0, "samples": []} for name in FIELDS
        }

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
            found["lists"] += isinstance(value, list)
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
        return urls.RELATIVE
    host = rest.replace("?", "/").replace("#", "/").partition("/")[0].rpartition("@")[2].lower()
    return host.removesuffix({"http": ":80", "https": ":443"}.get(scheme.lower(), " "))


def _species(photos: dict[str, int], min_per_species: int) -> dict:
    counts = pd.Series(photos, dtype="int64").sort_index().sort_values(ascending=False, kind="stable")
    per_class = {name: int(n) for name, n in counts.items()}
    per_genus: dict[str, dict] = {}
    for genus, n in zip(genera(list(per_class)), per_class.values(), strict=True):
        entry = per_genus.setdefault(genus, {"species": 0, "photos": 0})
        entry["species"] += 1
        entry["photos"] += n
    return {
        "usable": int(counts.sum()),
        "species": len(counts),
        "per_class": per_class,
        "per_genus": dict(sorted(per_genus.items(), key=lambda item: (-item[1]["photos"], item[0]))),
        "imbalance": float(counts.max() / counts.min()) if len(counts) else None,
        "class_size": {k: float(getattr(counts, k)()) for k in ("min", "median", "max")} if len(counts) else {},
        "min_per_species": min_per_species,
        "rare_species": {name: n for name, n in reversed(per_class.items()) if n < min_per_species},
        "underscores": {name: n for name, n in per_class.items() if "_" in name},
        "no_species": [
            {"latin_name": name, "photos": per_class[name], "why": why}
            for name, why in no_species(list(per_class)).items()
        ],
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
