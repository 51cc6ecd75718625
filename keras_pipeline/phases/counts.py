"""How many photos there are, by whoever has counted them so far, and which regions have enough of them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.phase0 import Split
from keras_pipeline.core.region_names import names_of, photos_of
from keras_pipeline.core.schema import UNKNOWN_REGION
from keras_pipeline.ingest import photo_folder

AUDIT = "the audit"
LISTED = 10  # regions in a message
EXPECTED_VAL = 5  # photos of a region; with so many expected, fewer than one split in a hundred leaves it none


@dataclasses.dataclass(frozen=True)
class Counts:
    """Photos as the source, the audit or the split has counted them; before the split, its shares are expected."""

    origin: str
    species: int
    total: int
    shares: Split
    regions: dict[str, int] | None = None  # photos; None: not known yet
    splits: dict[str, dict[str, int]] | None = None  # photos of each split by region, once it is made
    calibration_species: int | None = None  # once the split is made

    @property
    def about(self) -> str:
        """What precedes a number of photos in a split."""
        return "" if self.splits else "about "

    @property
    def with_train_photos(self) -> dict[str, int] | None:
        """Train photos by region; before the split all photos, of which each region will have some."""
        return self.splits["train"] if self.splits else self.regions

    def photos(self, split: str, region: str | list[str] | None = None) -> int:
        """Return the photos in a split, of one region or of all: counted or, before the split, expected."""
        if self.splits:
            found = self.splits[split]
            return sum(found.values()) if region is None else photos_of(found, region)
        n = self.total if region is None else photos_of(self.regions or {}, region)
        return int(n * getattr(self.shares, split) + 1e-9)


def counted(run: Run, by: str) -> Counts | None:
    """Count by `dataset`, `audit` or `source`: a folder's CSV, or the number to draw. None: a MongoDB, not read yet."""
    shares = run.config.phase0.split
    if by == "source":
        return _counted_source(run, shares)
    found = run.read(by)
    if by == "audit":
        return Counts(AUDIT, found["species"], found["usable"], shares, found["per_region"])
    splits = {name: split["per_region"] for name, split in found["splits"].items()}
    regions: Counter[str] = Counter()
    for split in splits.values():
        regions.update(split)
    calibration_species = len(found["splits"]["calibration"]["per_class"])
    return Counts(
        "the split", len(found["classes"]), sum(regions.values()), shares, dict(regions), splits, calibration_species
    )


def _counted_source(run: Run, shares: Split) -> Counts | None:
    demo = run.config.source.demo
    if run.config.source.uri != "embedded":
        return None
    if demo.images is None or demo.labels is None:
        return Counts("source.demo.photos", demo.species, demo.photos, shares)
    documents = photo_folder.documents(Path(demo.images), Path(demo.labels))
    species, regions = (Counter(each[name] for each in documents) for name in ("latin_name", "region"))
    return Counts(demo.labels, len(species), len(documents), shares, dict(regions))


def photos_for(n: int, share: float) -> int:
    """Return how many photos there must be in all for `n` in a split of this share."""
    return math.ceil(n / share - 1e-9)


def commonest(regions: dict[str, int]) -> str:
    """Return the names of regions and their photos, most photos first, for a message."""
    named = [f"{name} {n:,}" for name, n in Counter(regions).most_common()]
    return ", ".join(named[:LISTED]) + (f" and {len(named) - LISTED} more" if len(named) > LISTED else "")


def photos_for_region(config: Config) -> int:
    """Return how many photos of its region a regional teacher needs: a batch to train on, some to validate with."""
    split = config.phase0.split
    batch_size = config.regional.training.batch_size
    return max(photos_for(batch_size, split.train), photos_for(EXPECTED_VAL, split.val))


def regions_with_enough(config: Config, photos: dict[str, int]) -> dict[str, int]:
    """Return the regions that a regional teacher can learn and be told from the rest, most photos first."""
    total, ranked = sum(photos.values()), Counter(photos).most_common()
    return {name: n for name, n in ranked if name != UNKNOWN_REGION and _is_enough(config, n, total)}


def choose_region(config: Config, photos: dict[str, int]) -> str | list[str] | None:
    """Choose a region for a regional teacher, of a folder with these photos by region.

    The config's where it has enough, else the commonest that has; None where none can be told from the rest.
    """
    wanted = config.regional.region
    if UNKNOWN_REGION not in names_of(wanted) and _is_enough(config, photos_of(photos, wanted), sum(photos.values())):
        return wanted
    return next(iter(regions_with_enough(config, photos)), None)


def _is_enough(config: Config, n: int, total: int) -> bool:
    needed = photos_for_region(config)
    return needed <= n <= total - needed
