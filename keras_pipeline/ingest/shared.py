"""Photos that two names share, by URL, and the synonyms that this suggests. Nothing is joined automatically."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAIRS = 100_000  # pairs of names that are counted; more are not listed
SYNONYM_SHARE, SYNONYM_PHOTOS = 0.8, 3  # of the smaller species' photos; shared photos


def shared_photos(pairs: Mapping[tuple[str, str], int], photos: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the pairs, most shared photos first.

    Args:
        pairs: {(name, other name): photos that they share}.
        photos: {name: its photos}, by distinct URL.

    Returns:
        [{latin_name (that with fewer photos), other, shared, photos (of the first), other_photos, share}]
    """
    rows = []
    for pair, shared in pairs.items():
        small, large = sorted(pair, key=lambda name: (photos[name], name))
        share = shared / max(photos[small], 1)
        rows.append(
            {"latin_name": small, "other": large, "shared": shared, "photos": photos[small],
             "other_photos": photos[large], "share": round(share, 3)}
        )  # fmt: skip
    return sorted(rows, key=lambda row: (-row["shared"], row["latin_name"], row["other"]))


def with_synonyms(synonyms: Mapping[str, str], rows: list[dict[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """Add the pairs that share most of the smaller one's photos to suggested synonyms.

    Returns:
        all synonyms, and the names added, each for the other one of its pair.
    """
    joined, added = dict(synonyms), []
    for row in rows:
        small, large = (joined.get(row[key], row[key]) for key in ("latin_name", "other"))
        if row["share"] < SYNONYM_SHARE or row["shared"] < SYNONYM_PHOTOS or small in joined:
            continue
        end = large
        while end in joined:
            end = joined[end]
        if end != small:
            joined[small] = end
            added.append(small)
    return joined, added
