"""Settings that do nothing with the photos that are there: they are mistakes, and silent ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from keras_pipeline.core.config.phase0 import Export
from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest.ledger import Ledger

NAMED = 5  # hosts in a sentence


def of_downloads(ledger: Ledger, source: Source, export: Export) -> Iterator[str]:
    """Yield a sentence for each part of `base_url`, `url_replace`, `details` and `phase0.export.hosts` without effect.

    Args:
        ledger: with the photos planned.
    """
    used = ledger.in_use(source.url_replace)
    for text, n in used.urls_with.items():
        if used.photos and not n:
            yield (
                f"source.url_replace: {text!r} is in none of the {used.photos:,} photos' URLs, which stay as they are; "
                "correct the text"
            )
    if source.base_url and "?" in source.base_url:
        yield (
            "source.base_url: what follows its ? is not sent, since relative URLs don't take over a query (RFC 3986); "
            "put it on each URL by source.url_replace, such as .jpg: .jpg?key=value"
        )
    yield from without_text(source, used.details)
    if not source.serves_photos:  # our own server has another port in each run, and no limits
        yield from _unused_hosts(used.hosts, export)


def without_text(source: Source, detailed: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each of `source.details` that no photo has.

    Args:
        detailed: names that a photo has a text for.
    """
    for name, path in source.details.items():
        if name not in detailed:
            yield (
                f"source.details.{name}: no photo that is used has a text under {path}; correct the path, or name one "
                "entry of a list by its number, such as names.0"
            )


def without_value(source: Source, missing: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each of `source.fields` that the config renames and no photo has.

    Args:
        missing: names of fields that are missing in every photo.
    """
    for name, path in source.fields.model_dump().items():
        if path != name and name in missing:
            yield f"source.fields.{name}: no photo has anything under {path}; correct the path, or remove the key"


def _unused_hosts(photos: dict[str, int], export: Export) -> Iterator[str]:
    there = ", ".join(f"{host} ({n:,} photos)" for host, n in list(photos.items())[:NAMED])
    more = f" and {len(photos) - NAMED:,} more" if len(photos) > NAMED else ""
    for name in export.hosts:
        if photos and name.lower() not in photos:
            yield (
                f"phase0.export.hosts: {name} is no photo's host, so its limits hold for redirects alone; the hosts "
                f"are {there}{more}, written with the port where the URL has one"
            )
