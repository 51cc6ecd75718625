"""The contents of `dataset.json` and the names of the splits. Free of TensorFlow, because `status` reads it too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from keras_pipeline.core.region_names import photos_of

SPLITS = ("train", "val", "calibration", "test")
UNKNOWN_REGION = "unknown"
# A metric of fewer photos is too uncertain to fail a run, to rank as the worst, or to be shown separately.
MIN_PHOTOS = 20


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

    def species(self, split: str) -> int:
        """Return the number of species with a photo in a split; `classes` has all of them."""
        return len(self.splits[split]["per_class"])

    def shards(self, split: str) -> list[Path]:
        """Return the paths of a split's shards."""
        return [self.folder / shard["name"] for shard in self.splits[split]["shards"]]
