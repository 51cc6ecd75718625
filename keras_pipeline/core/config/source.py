"""Sections `source` and `dataset`: where photos come from and how they are stored."""

from __future__ import annotations

import datetime
import itertools
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from keras_pipeline.core.config.base import FILE, Section
from keras_pipeline.core.licenses import KNOWN, license_id, misspelt
from keras_pipeline.core.redaction import MONGODB_URI, is_mongodb_uri

# Names in the answers of `classify`; a detail of a species needs another.
ANSWER = frozenset(
    ("photo", "latin_name", "probability", "conclusive", "genus", "genus_probability", "genus_conclusive",
     "family_probability", "family_conclusive", "promise", "top5", "error")
)  # fmt: skip


class Demo(Section):
    """The contents of the embedded server."""

    images: str | None = Field(None, description="folder of photos; null: photos of invented plants are drawn")
    labels: Annotated[str | None, FILE] = Field(
        None,
        description="CSV with image (a path below `images`, with its suffix), latin_name[, region, observation_id]",
    )
    shape: Literal["photos", "species"] = Field(
        "photos", description="a document is a photo, or a species with lists of photos"
    )
    species: int = Field(14, ge=2, le=400, description="invented species; 14 include look-alikes")
    photos: int = Field(1100, ge=20, le=1_000_000, description="drawn photos; 1100 train in minutes")
    regional_shift: bool = Field(False, description="plants in EU_SW look like other species elsewhere")

    @model_validator(mode="after")
    def _both_or_none(self) -> Demo:
        if (self.images is None) != (self.labels is None):
            one, other = ("labels", "images") if self.images is None else ("images", "labels")
            raise ValueError(f"{one}: received it without {other}, expected a folder and its CSV; give both or neither")
        return self

    @model_validator(mode="after")
    def _only_photos(self) -> Demo:
        if self.shape == "species" and (self.images is not None or self.regional_shift):
            other = "regional_shift" if self.images is None else "images"
            raise ValueError(
                f"{other}: received it with shape: species, expected it with shape: photos alone; leave it out, or set "
                "shape: photos"
            )
        return self


DRAWN_REGIONS = ("EU_SW", "EU", "NA", "MED_E")  # of the drawn demo
Name = Annotated[str, Field(min_length=1)]  # of a field that every photo has


class Fields(Section):
    """Names of the fields in the source documents.

    Dots reach into sub-documents, numbers into lists (`geojson.coordinates.1`). With `source.photos` a field is looked
    for in the entry of the list, and where the entry lacks it, in the document.
    """

    latin_name: Name = "latin_name"
    image_url: Name = "image_url"
    region: str = "region"
    observation_id: str = "observation_id"
    user_id: str = "user_id"
    observed_on: str = "observed_on"
    latitude: str = "latitude"
    longitude: str = "longitude"
    license: str = "license"
    attribution: str = "attribution"


def _with_datetimes(value: Any) -> Any:
    """Convert dates, as YAML reads 2020-01-31, to the datetimes that MongoDB stores."""
    if isinstance(value, dict):
        return {key: _with_datetimes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_datetimes(inner) for inner in value]
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
    return value


class Source(Section):
    """The collection."""

    uri: str = Field("embedded", description="mongodb://… or `embedded`, which starts its own server")
    database: str = Field("plants", min_length=1, description="MongoDB database")
    collection: str = Field("photos", min_length=1, description="MongoDB collection")
    query: dict[str, Any] = Field({}, description="MongoDB filter; {} takes all documents")
    base_url: str | None = Field(None, description="relative image URLs are resolved against this")
    photos: list[str] | None = Field(
        None,
        min_length=1,
        description="dotted paths of a document's lists of photos, entries with fields or texts (URLs); null: a "
        "document is a photo",
    )
    fields: Fields = Fields()
    regions: dict[str, list[str]] | None = Field(
        None,
        min_length=1,
        description="region: its values of source.fields.region, in order: the first region that shares a value with "
        "the field, a text or a list, is the photo's; null: the field's text is the region",
    )
    licenses: list[str] | None = Field(
        None,
        min_length=1,
        description="licences whose photos are used (cc0, public-domain, cc-by, cc-by-sa, cc-by-nc, …; unknown: photos "
        "without one); null: all",
    )
    url_replace: dict[str, str] = Field(
        {},
        description="text: text to replace in a photo's URL before it is requested, such as /original.: /medium.; the "
        "photo stays the same photo",
    )
    synonyms: Annotated[str | None, FILE] = Field(
        None, description="CSV with synonym, latin_name: names to replace on reading"
    )
    exclude: Annotated[str | None, FILE] = Field(
        None, description="file with one _id, image URL or latin name per line to leave out"
    )
    min_per_species: int = Field(
        1, ge=1, description="photos by distinct URL; species with fewer, after licences and exclusions, are left out"
    )
    max_per_species: int | None = Field(None, ge=1, description="photos, a seeded sample; null keeps all")
    max_per_observation: int | None = Field(None, ge=1, description="photos, a seeded sample; null keeps all")
    details: dict[str, str] = Field(
        {},
        description="name: field, such as common_name: commonName; a text for each species (the commonest), which "
        "labels.json and answers carry",
    )
    demo: Demo = Demo()

    @property
    def serves_photos(self) -> bool:
        """Whether relative URLs lead to our own server of drawn or given photos."""
        return self.uri == "embedded" and self.base_url is None

    @field_validator("base_url")
    @classmethod
    def _url(cls, base_url: str | None) -> str | None:
        if base_url and not re.match(r"https?://[^/?#]", base_url, re.IGNORECASE):
            raise ValueError(f"received {base_url!r}, expected a URL such as https://example.org/photos/; correct it")
        return base_url

    @field_validator("photos")
    @classmethod
    def _paths(cls, photos: list[str] | None) -> list[str] | None:
        for path in photos or ():
            if not all(path.split(".")):
                raise ValueError(
                    f"received the path {path!r}, expected names with dots between them (media.photos); correct it"
                )
        return photos

    @field_validator("photos")
    @classmethod
    def _each_once(cls, photos: list[str] | None) -> list[str] | None:
        for path, other in itertools.permutations(photos or (), 2):
            rest = other.removeprefix(f"{path}.")
            if path == other or (rest != other and rest.split(".")[0].isdecimal()):
                raise ValueError(
                    f"received {path!r} and {other!r}, which name the same photos, expected each list once; remove one"
                )
        return photos

    @field_validator("regions")
    @classmethod
    def _with_values(cls, regions: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
        for name, values in (regions or {}).items():
            if not values:
                raise ValueError(
                    f"received {name}: [], a region that no photo can have, expected one value or more ({name}: [ES]); "
                    "add some, or remove it"
                )
        return regions

    @field_validator("regions", mode="before")
    @classmethod
    def _countries(cls, regions: Any) -> Any:
        values = regions.values() if isinstance(regions, dict) else ()
        if any(value is False for listed in values if isinstance(listed, list) for value in listed):
            raise ValueError("received false among the values, as YAML reads NO, expected texts; write 'NO' in quotes")
        return regions

    @field_validator("licenses")
    @classmethod
    def _known(cls, licenses: list[str] | None) -> list[str] | None:
        for name in licenses or ():
            if meant := misspelt(name):
                raise ValueError(
                    f"received {name!r}, expected a licence such as {', '.join(KNOWN)}, or one as the documents name "
                    f"it; did you mean {meant!r}?"
                )
        return None if licenses is None else list(dict.fromkeys(map(license_id, licenses)))

    @field_validator("details")
    @classmethod
    def _fields(cls, details: dict[str, str]) -> dict[str, str]:
        for name, path in details.items():
            if not name.strip() or not all(path.split(".")):
                raise ValueError(
                    f"received {name!r}: {path!r}, expected a name and a field (family: taxonomy.family); correct it"
                )
            if name in ANSWER:
                raise ValueError(f"received the name {name!r}, which answers have already, expected another; rename it")
        return details

    @field_validator("url_replace")
    @classmethod
    def _texts(cls, url_replace: dict[str, str]) -> dict[str, str]:
        if "" in url_replace:
            raise ValueError(
                "received an empty text to replace, expected a part of the URLs, such as /original.; remove it"
            )
        return url_replace

    @field_validator("query")
    @classmethod
    def _dates(cls, query: dict) -> dict:
        return _with_datetimes(query)

    @model_validator(mode="after")
    def _scheme(self) -> Source:
        if self.uri != "embedded" and not self.uri.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError(
                "uri: received another text (not shown, since it may hold a password), expected `embedded`, "
                "mongodb://… or mongodb+srv://…; correct it"
            )
        if self.uri != "embedded" and not is_mongodb_uri(self.uri):
            # Not shown: any part of it may be a password.
            raise ValueError(
                f"uri: received no valid MongoDB URI (not shown, since it may hold a password), {MONGODB_URI}"
            )
        return self


class Dataset(Section):
    """The stored photos."""

    name: str | None = Field(None, description="folder below tfrecords/; null: the experiment's name")
    short_side: int = Field(256, ge=32, le=1024, description="pixels; stored photos are shrunk to it, never enlarged")
    min_short_side: int = Field(100, ge=1, description="pixels; smaller photos are left out and counted")
    jpeg_quality: int = Field(95, ge=50, le=100, description="0-100; 95 is visually lossless")
    shard_megabytes: float = Field(100.0, gt=0, le=2000, description="MB; approximate size of raw and final shards")
