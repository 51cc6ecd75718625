"""The contents of `dataset.json` and the names of the splits. Free of TensorFlow, because `status` reads it too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from keras_pipeline.core.record import RULE
from keras_pipeline.core.region_names import photos_of

SPLITS = ("train", "val", "calibration", "test")
UNKNOWN_REGION = "unknown"
# A metric of fewer photos is too uncertain to fail a run, to rank as the worst, or to be shown separately.
MIN_PHOTOS = 20
SHARD_REMEDY = (
    "remove that shard, then run `phase0 export --force`, which fetches only its photos again, and "
    "`phase0 split --force`"
)


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


def by_older_rules(dataset: dict) -> list[str]:
    """Return a sentence on the photos of dataset.json that an older version stored, if there are any."""
    counts = dataset.get("photos_by_rule", {"1": sum(split["n"] for split in dataset["splits"].values())})
    older = sum(n for rule, n in counts.items() if int(rule) < RULE)
    if not older:
        return []
    return [
        f"{older:,} of {sum(counts.values()):,} photos were stored by an older rule for colours and orientation, and "
        "stay as they are until `phase0 export --refetch-older-records` (docs/your-data.md)"
    ]


def wrong_lengths(folder: Path, splits: dict[str, dict]) -> Iterator[tuple[Path, int | None, int]]:
    """Yield (shard, its bytes or None, bytes expected) of each shard that is missing or of another length."""
    for shard in (shard for split in splits.values() for shard in split["shards"]):
        file = folder / shard["name"]
        length = file.stat().st_size if file.exists() else None
        if length != shard["bytes"]:
            yield file, length, shard["bytes"]


def corrupt_shard(file: Path, length: int | None, expected: int) -> str:
    """Return what is said of a shard of another length."""
    received = "no file" if length is None else f"{length:,} bytes"
    return f"{file}: received {received}, expected {expected:,} bytes: corrupt shard; {SHARD_REMEDY}"
