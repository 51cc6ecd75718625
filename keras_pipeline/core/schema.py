"""The fields of a record, and the names of the splits. Free of TensorFlow, because `status` reads it too."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from keras_pipeline.core.region_names import photos_of

SPLITS = ("train", "val", "calibration", "test")
UNKNOWN_REGION = "unknown"
# A metric of fewer photos is too uncertain to fail a run, to rank as the worst, or to be shown separately.
MIN_PHOTOS = 20


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


# TFRecord feature name of each field; image/* as in TensorFlow's own image datasets.
FEATURE_NAMES = {field.name: field.name for field in dataclasses.fields(Photo)} | {
    "image": "image/encoded",
    "height": "image/height",
    "width": "image/width",
}


def shuffle_key(sample_id: str, seed: int) -> bytes:
    """Return the seeded, stable key by which final shards are sorted, so that a shuffle buffer suffices."""
    return hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=16).digest()


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The contents of `dataset.json`: the one class list, and for each split the shards, counts and regions."""

    folder: Path
    classes: list[str]
    class_hash: str
    splits: dict[str, dict]  # {split: {n, shards: [{name, n, bytes, sha256}], per_region, per_class}}

    def count(self, split: str, region: str | list[str] | None = None) -> int:
        """Return the number of photos in a split, or of a region in it."""
        entry = self.splits[split]
        return entry["n"] if region is None else photos_of(entry["per_region"], region)

    def shards(self, split: str) -> list[Path]:
        """Return the paths of a split's shards."""
        return [self.folder / shard["name"] for shard in self.splits[split]["shards"]]
