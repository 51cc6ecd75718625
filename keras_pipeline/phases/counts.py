"""Counts of photos, known or expected, and which regions have enough of them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.phase0 import Split
from keras_pipeline.core.dataset import UNKNOWN_REGION
from keras_pipeline.core.region_names import names_of, photos_of

AUDIT = "the audit"
DRAWN = "source.demo.photos"  # the demo's, to be drawn
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
    calibration_species: int | None = None  # once the split is made, or expected
    expected: dict[str, dict[str, int]] | None = None  # as splits, where observations make them other than the shares
    ties: str = ""  # how many groups observations make of the photos, in words; "" if each photo is its own
    largest_group: int = 1  # photos of the largest observation, as far as the source tells
    licenses: dict[str, int] | None = None  # photos by licence, before source.licenses; None: not known

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
        if self.splits or self.expected:
            found = (self.splits or self.expected or {})[split]
            return sum(found.values()) if region is None else photos_of(found, region)
        n = self.total if region is None else photos_of(self.regions or {}, region)
        return int(n * getattr(self.shares, split) + 1e-9)


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
