"""Who has counted the photos so far: a folder's CSV, the audit or the split; and which limit leaves too few of them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.source import Source
from keras_pipeline.core.dataset import SPLITS, UNKNOWN_REGION
from keras_pipeline.core.licenses import license_id
from keras_pipeline.core.sidecars import is_as_written
from keras_pipeline.core.taxonomy import normalise
from keras_pipeline.ingest import photo_folder
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.entries import Reader
from keras_pipeline.ingest.fields import id_of, text_of
from keras_pipeline.phases.counts import AUDIT, DRAWN, Counts, commonest

if TYPE_CHECKING:
    import pandas as pd

GROUP_BY = "phase0.split.group_by"
# Keys that leave photos out or tie them together, and what to do where they leave too few.
LIMITS = {
    "source.min_per_species": "lower it",
    "source.licenses": "add some that the photos have ({licenses}), or set it to null for all",
    "source.exclude": "remove lines from that file, or set it to null",
    "source.max_per_species": "raise it, or set it to null for all",
    "source.max_per_observation": "raise it, or set it to null for all",
    GROUP_BY: "give each plant an observation_id of its own, or none where it is not known, or take observation out of "
    "the list",
}
Check = Callable[[Run, Counts | None], None]


def counted(run: Run, by: str, without: Collection[str] = ()) -> Counts | None:
    """Count by `dataset`, `audit` or `source`: a folder's CSV, or the number to draw. None: not read yet.

    Args:
        without: keys of LIMITS that are taken to be at their default.

    Raises:
        ValueError: naming key and file, for a CSV or a file of `source` that can't be used.
    """
    if by == "source":
        return _by_source(run, without)
    return _by_audit(run, without) if by == "audit" else _by_split(run)


def check_limits(run: Run, counts: Counts, by: str, checks: Iterable[Check]) -> None:
    """Raise ValueError where a check fails under a key of LIMITS and would not fail without it; it names the key.

    Once the split is made, the audit tells: only it knows what the keys have taken.
    """
    failing = [check for check in checks if not _passes(check, run, counts)]
    if counts.splits and failing and is_as_written(run.path("audit")):
        counts, by = _by_audit(run, ()), "audit"
    source, ties = run.config.source, counts.ties
    given = [key for key in LIMITS if (ties if key == GROUP_BY else _without(source, [key]) != source)]
    for check in failing:
        if counts.splits or _passes(check, run, counts):
            continue
        for keys in [*([key] for key in given), given]:
            without = counted(run, by, keys)
            if without and _passes(check, run, without):
                raise ValueError("; ".join(_said(run, key, counts, without) for key in keys))


def _passes(check: Check, run: Run, counts: Counts) -> bool:
    try:
        check(run, counts)
    except ValueError:
        return False
    return True


def _said(run: Run, key: str, counts: Counts, without: Counts) -> str:
    if key == GROUP_BY:
        rules = ", ".join(counts.shares.group_by)
        return f"{key}: received {rules}, and {counts.ties}; expected enough for every split; {LIMITS[key]}"
    value = getattr(run.config.source, key.removeprefix("source."))
    shown = ", ".join(value) if isinstance(value, list) else value
    remedy = LIMITS[key].format(licenses=commonest(without.licenses or {}))
    return (
        f"{key}: received {shown}, which leaves {counts.total:,} of {without.total:,} photos and {counts.species:,} "
        f"species by {counts.origin}, expected enough for every split, of two species or more; {remedy}"
    )


def _by_source(run: Run, without: Collection[str]) -> Counts | None:
    source, shares = _without(run.config.source, without), run.config.phase0.split
    if source.uri != "embedded" or source.query:
        return None
    demo = source.demo
    if demo.images is None or demo.labels is None:
        most = demo.species * (source.max_per_species or demo.photos)
        return Counts(DRAWN, demo.species, min(demo.photos, most), shares)
    reader, documents = Reader(source), photo_folder.documents(Path(demo.images), Path(demo.labels))
    photos = [photo for document in documents for photo in reader.photos(document)]
    table = _chosen(source, photos)
    counts = Counts(
        demo.labels,
        table.latin_name.nunique(),
        len(table),
        shares,
        dict(Counter(table.region)),
        licenses=dict(Counter(license_id(text_of(photo["license"])) for photo in photos)),
    )
    observed = table.observation_id[table.observation_id != ""].value_counts().sort_index()
    observed = observed.sort_values(ascending=False, kind="stable")
    if GROUP_BY in without or "observation" not in shares.group_by or not (observed > 1).any():
        return counts
    return _tied(run, counts, table, observed)


def _without(source: Source, keys: Collection[str]) -> Source:
    fields = {key.removeprefix("source.") for key in keys if key != GROUP_BY}
    return source.model_copy(update={name: Source.model_fields[name].default for name in fields})


def _chosen(source: Source, photos: list[dict]) -> pd.DataFrame:
    """Return sample_id, latin_name, region and observation_id of the photos that all limits leave."""
    import pandas as pd  # a run of a MongoDB, or one that is up to date, needs none

    curation = Curation.load(source)
    rows = [
        (
            photo["sample_id"],
            curation.latin_name(photo["latin_name"]),
            normalise(text_of(photo["region"])) or UNKNOWN_REGION,
            id_of(photo["observation_id"]),
        )
        for photo in photos
        if curation.refusal(photo) is None
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "latin_name", "region", "observation_id"], dtype=object)
    table = table[table.groupby("latin_name").sample_id.transform("size") >= source.min_per_species]
    if source.max_per_observation:
        number = table.groupby("observation_id").cumcount()
        table = table[(table.observation_id == "") | (number < source.max_per_observation)]
    if source.max_per_species:
        table = table[table.groupby("latin_name").cumcount() < source.max_per_species]
    return table.sort_values("sample_id", ignore_index=True)


def _tied(run: Run, counts: Counts, table: pd.DataFrame, observed: pd.Series) -> Counts:
    """Add the split that these photos would get if no two pictures were alike."""
    from keras_pipeline.ingest import split  # SciPy, which only folders with observations need here

    shares = {name: getattr(counts.shares, name) for name in SPLITS}
    rows = table.assign(sha256=table.sample_id)
    found = split.split_photos(rows, split.ties_of(rows, ["observation"]), shares=shares, seed=run.config.seed).split
    groups = len(observed) + int((table.observation_id == "").sum())
    return dataclasses.replace(
        counts,
        expected={name: dict(Counter(table.region[found == name])) for name in SPLITS},
        calibration_species=table.latin_name[found == "calibration"].nunique(),
        largest_group=int(observed.iloc[0]),
        ties=f"the column observation_id ties the {counts.total:,} photos of {counts.origin} into {groups:,} "
        f"{'group' if groups == 1 else 'groups'} (the largest, {observed.index[0]!r}, has {observed.iloc[0]:,})",
    )


def _by_audit(run: Run, without: Collection[str]) -> Counts:
    found, source, shares = run.read("audit"), _without(run.config.source, without), run.config.phase0.split
    usable, observations = found["usable"], found.get("observations", {"photos": 0, "sizes": {}})
    of_species, sizes = found.get("per_class", {"": usable}), {int(k): n for k, n in observations["sizes"].items()}
    photos, species = _given_back(found, without)
    most = sum(min(n, source.max_per_species or n) for n in of_species.values())
    over = sum(max(size - (source.max_per_observation or size), 0) * n for size, n in sizes.items())
    total, groups = min(most, usable - over), sum(sizes.values()) + usable - observations["photos"]
    counts = Counts(
        AUDIT,
        species,
        total + photos,
        shares,
        {name: math.ceil(n * total / max(usable, 1)) for name, n in found["per_region"].items()},
        licenses={name: entry["photos"] for name, entry in found.get("licenses", {}).items()},
    )
    if GROUP_BY in without or "observation" not in shares.group_by or groups >= len(SPLITS):
        return counts
    return dataclasses.replace(
        counts,
        expected={name: counts.regions or {} if name == "train" else {} for name in SPLITS},
        ties=f"{source.fields.observation_id} (source.fields.observation_id) ties the {usable:,} photos by the audit "
        f"into {groups:,} {'group' if groups == 1 else 'groups'}",
    )


def _given_back(found: dict, without: Collection[str]) -> tuple[int, int]:
    """Return the photos that these keys took in the audit, and the species with them; of source.exclude's at most two.

    The audit counts species before source.min_per_species and without source.licenses, but none of the excluded.
    """
    taken = found.get("left_out_by", {})
    species = [found["species"]]
    if "source.min_per_species" in without:
        species += [row["species"] for row in found["minima"][:1]]
    if "source.licenses" in without:
        species += [row["species"] + row["species_lost"] for row in found["allow_lists"][:1]]
    if "source.exclude" in without and "source.exclude" in taken:
        species.append(2)
    return sum(taken.get(key, 0) for key in without), max(species)


def _by_split(run: Run) -> Counts:
    found = run.read("dataset")
    splits = {name: split["per_region"] for name, split in found["splits"].items()}
    regions: Counter[str] = Counter()
    for split in splits.values():
        regions.update(split)
    calibration_species = len(found["splits"]["calibration"]["per_class"])
    return Counts(
        "the split",
        len(found["classes"]),
        sum(regions.values()),
        run.config.phase0.split,
        dict(regions),
        splits,
        calibration_species,
    )
