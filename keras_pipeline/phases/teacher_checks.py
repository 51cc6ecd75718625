"""Whether the counted photos have the regions that the config names, and whether the ensemble's teachers are there."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.source import DRAWN_REGIONS
from keras_pipeline.core.config.student import REGIONAL_TEACHER, TRAINED_HERE
from keras_pipeline.core.dataset import UNKNOWN_REGION
from keras_pipeline.core.region_names import names_of, photos_of, title_of
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.phases.counts import DRAWN, Counts, commonest, photos_for_region, regions_with_enough


def check_region(run: Run, counts: Counts | None) -> None:
    """Whether there is something for a regional teacher to learn from, and to tell it from."""
    region = run.config.regional.region
    if UNKNOWN_REGION in names_of(region):
        known = counts and counts.regions
        others = _other_regions(run, known) if known else "set one that photos have, or phase2: null for none"
        raise ValueError(
            f"phase2.region: received {title_of(region)}, expected a region: {UNKNOWN_REGION} is what photos without "
            f"one have; {others}"
        )
    absent = [name for name in names_of(region) if name not in DRAWN_REGIONS]
    # What `load` brought into the embedded server has other regions.
    is_drawn = run.config.source.regions is None and not (run.folder / "source/mongo").exists()
    if absent and is_drawn and counts and counts.origin == DRAWN:
        raise ValueError(
            f"phase2.region: received {', '.join(absent)}, expected regions of the drawn photos "
            f"({', '.join(DRAWN_REGIONS)}); correct it, or set phase2: null for none"
        )
    if counts is None or counts.regions is None:
        return
    n = photos_of(counts.regions, region)
    if n and n == sum(counts.regions.values()):
        raise ValueError(
            f"phase2.region: received {title_of(region)}, which all {n:,} photos are of by {counts.origin}: a regional "
            "teacher would be the global one once more; set phase2: null for none"
        )
    train, val = (counts.photos(split, region) for split in ("train", "val"))
    if n < 2 or (counts.splits and not (train and val)):
        split = f" ({train} train, {val} val)" if counts.splits else ""
        raise ValueError(
            f"phase2.region: received {region!r}, photos of it by {counts.origin}: {n}{split}, expected some to train "
            f"on and some to validate with; {meant(region, counts.regions)}{_other_regions(run, counts.regions)}"
        )
    absent = [name for name in names_of(region) if not counts.regions.get(name)]
    if absent and not counts.splits:  # a photo that could not be had is no fault of the config
        raise ValueError(
            f"phase2.region: received {title_of(region)}, and no photo is of {', '.join(absent)} by {counts.origin}, "
            f"expected regions of the photos ({commonest(counts.regions)}); correct it, or take it out of the list"
        )


def meant(region: str | list[str], photos: dict[str, int]) -> str:
    """Return which regions may be meant, in front of a remedy; "" if unknown.

    Args:
        region: as it was given: in other capitals than the photos have, or several without brackets.
        photos: {region: photos of it}
    """
    if set(names_of(region)) <= {*photos}:
        return ""
    names = [part.strip().casefold() for name in names_of(region) for part in name.split(",")]
    known = {each.casefold(): each for each in photos}
    if not all(name in known for name in names):
        return ""
    found = ", ".join(known[name] for name in names)
    return f"did you mean {found if len(names) == 1 else f'[{found}]'}? "


def _other_regions(run: Run, photos: dict[str, int]) -> str:
    if set(photos) <= {UNKNOWN_REGION}:
        return f"{run.why_no_regions()}; set phase2: null for none"
    enough = regions_with_enough(run.config, photos)
    if enough:
        return f"enough have {commonest(enough)}; set phase2.region to one of these, or phase2: null for none"
    return (
        f"none of {commonest(photos)} has the {photos_for_region(run.config):,} photos that it takes, with as many of "
        "others; set phase2: null for none"
    )


def check_ensemble(run: Run, counts: Counts | None) -> None:
    """The teachers of phase 3: those made elsewhere are there and of this dataset, regions are those of photos."""
    for i, member in enumerate(run.config.phase3.teachers):
        key, region = f"phase3.teachers.{i}", member.region_filter
        if member.path not in TRAINED_HERE:
            # A dry run has made no folder yet for `..` to lead out of.
            path = Path(os.path.normpath(run.folder / member.path))
            _check_foreign(run, counts, f"{key}.path: received {member.path}, and {path}", path)
        its = run.config.regional.region if member.path == REGIONAL_TEACHER else None
        of_nobody = its and counts and counts.regions and not photos_of(counts.regions, its)  # see `check_region`
        if its and region and set(names_of(region)) != set(names_of(its)) and not of_nobody:
            raise ValueError(
                f"{key}.region_filter: received {region!r}, and {member.path} learns from phase2.region {its!r}; set "
                f"both, add --set '{key}.region_filter={json.dumps(its)}', or set it to null to have it speak for "
                "every photo"
            )
        known = counts.with_train_photos if counts else None
        if counts and known and region and not its and not photos_of(known, region):  # `check_region` asks for its
            raise ValueError(
                f"{key}.region_filter: received {region!r}, which no train photo has by {counts.origin}; there are "
                f"{commonest(known)}; set it to one of these"
            )


def _check_foreign(run: Run, counts: Counts | None, received: str, path: Path) -> None:
    if not path.is_file() or path.suffix != ".keras" or not zipfile.is_zipfile(path):
        is_what = "is a folder" if path.is_dir() else "is no .keras file" if path.exists() else "does not exist"
        raise ValueError(
            f"{received} {is_what}; expected the path of a .keras file from {run.folder}, as "
            f"{' or '.join(TRAINED_HERE)}, which phases 1 and 2 make"
        )
    labels = path.parent / "soft_labels"
    if not (run.config.phase4.distill.live or labels.is_dir()):
        raise ValueError(
            f"{received} has no soft labels beside it ({labels}); run that teacher's `logits` first, or set "
            "phase4.distill.live: true"
        )
    learnt = (sidecar(path) or {}).get("inputs", {}).get("dataset")
    present = (sidecar(run.path("dataset")) or {}).get("content_hash")
    if counts and counts.splits and learnt and present and learnt != present:
        raise ValueError(
            f"{received} was trained on another dataset (content hash {learnt[:12]}) than {run.path('dataset')} "
            f"({present[:12]}), whose classes may be others; expected a teacher of this dataset: set dataset.name to "
            "the one it was trained on, or take phase1/best.keras"
        )
