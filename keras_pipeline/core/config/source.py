"""Sections `source` and `dataset`: where photos come from and how they are stored."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from keras_pipeline.core.config.base import FILE, Section
from keras_pipeline.core.redaction import MONGODB_URI, is_mongodb_uri


class Demo(Section):
    """The contents of the embedded server."""

    images: str | None = Field(None, description="folder of photos; null: photos of invented plants are drawn")
    labels: Annotated[str | None, FILE] = Field(
        None,
        description="CSV with image (a path below `images`, with its suffix), latin_name[, region, observation_id]",
    )
    species: int = Field(14, ge=2, le=200, description="invented species; 14 include look-alikes")
    photos: int = Field(1100, ge=20, le=1_000_000, description="drawn photos; 1100 train in minutes")
    regional_shift: bool = Field(False, description="plants in EU_SW look like other species elsewhere")

    @model_validator(mode="after")
    def _both_or_none(self) -> Demo:
        if (self.images is None) != (self.labels is None):
            raise ValueError("images and labels go together: give both (a folder and its CSV) or neither")
        return self


class Fields(Section):
    """Names of the fields in the source documents."""

    latin_name: str = "latin_name"
    image_url: str = "image_url"
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
    collection: str = Field("photos", min_length=1, description="MongoDB collection, one document per photo")
    query: dict[str, Any] = Field({}, description="MongoDB filter; {} takes all documents")
    base_url: str | None = Field(None, description="relative image URLs are resolved against this")
    fields: Fields = Fields()
    synonyms: Annotated[str | None, FILE] = Field(
        None, description="CSV with synonym, latin_name: names to replace on reading"
    )
    exclude: Annotated[str | None, FILE] = Field(
        None, description="file with one _id, image URL or latin name per line to leave out"
    )
    max_per_species: int | None = Field(None, ge=1, description="photos, a seeded sample; null keeps all")
    max_per_observation: int | None = Field(None, ge=1, description="photos, a seeded sample; null keeps all")
    demo: Demo = Demo()

    @property
    def serves_photos(self) -> bool:
        """Whether relative URLs lead to our own server of drawn or given photos."""
        return self.uri == "embedded" and self.base_url is None

    @field_validator("query")
    @classmethod
    def _dates(cls, query: dict) -> dict:
        return _with_datetimes(query)

    @model_validator(mode="after")
    def _scheme(self) -> Source:
        if self.uri != "embedded" and not self.uri.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("uri must be `embedded` or start with mongodb:// or mongodb+srv://")
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
