"""The record of a stored photo: the fields of a TFRecord Example. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib

# Version of the rule by which a download becomes a record, `data.photo.seen`: raise it with a change that gives some
# photos other pixels. 2 since November 2026: own reading of PNG and WebP, profiles by their colour space.
RULE = 2


@dataclasses.dataclass(frozen=True)
class Photo:
    """One TFRecord Example. A raw photo (before the split) has label -1."""

    sample_id: str  # str(_id) of the source document
    image: bytes  # JPEG, upright, sRGB, short side <= dataset.short_side
    height: int  # pixels
    width: int  # pixels
    latin_name: str
    region: str
    group_id: str  # photos of one group are never in two splits
    source_url: str  # as in the document
    sha256: str  # of the downloaded bytes
    license: str = ""
    attribution: str = ""
    label: int = -1  # index into the class list
    rule: int = RULE  # by which it was stored; records without it are of rule 1


# TFRecord feature name of each field; image/* as in TensorFlow's own image datasets.
FEATURE_NAMES = {field.name: field.name for field in dataclasses.fields(Photo)} | {
    "image": "image/encoded",
    "height": "image/height",
    "width": "image/width",
    "rule": "image/rule",
}


def shuffle_key(sample_id: str, seed: int) -> bytes:
    """Return the seeded, stable key by which final shards are sorted, so that a shuffle buffer suffices."""
    return hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=16).digest()
