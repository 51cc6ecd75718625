"""What is in the collection: counts by species and region, and the documents that can't be used."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from keras_pipeline.core.schema import UNKNOWN_REGION
from keras_pipeline.core.taxonomy import normalise
from keras_pipeline.ingest.mongo import missing_field

LISTED = 100  # unusable documents named in the report; all of them are counted


def audit(documents: Iterable[dict]) -> dict:
    """One pass over the documents (as `mongo.documents` gives them).

    Returns:
        {documents, usable, unusable: {reason: n}, unusable_samples: [{sample_id, reason}], species,
        per_class: {name: n} (largest first), per_region: {region: n}, imbalance: largest / smallest,
        class_size: {min, median, max}}
    """
    classes: dict[str, int] = {}
    regions: dict[str, int] = {}
    unusable: dict[str, int] = {}
    samples = []
    total = 0
    for document in documents:
        total += 1
        reason = missing_field(document)
        if reason:
            unusable[reason] = unusable.get(reason, 0) + 1
            if len(samples) < LISTED:
                samples.append({"sample_id": document["sample_id"], "reason": reason})
            continue
        name = normalise(document["latin_name"])
        classes[name] = classes.get(name, 0) + 1
        region = region_of(document)
        regions[region] = regions.get(region, 0) + 1
    counts = pd.Series(classes, dtype="int64").sort_index().sort_values(ascending=False, kind="stable")
    return {
        "documents": total,
        "usable": int(counts.sum()),
        "unusable": unusable,
        "unusable_samples": samples,
        "species": len(counts),
        "per_class": {name: int(n) for name, n in counts.items()},
        "per_region": dict(sorted(regions.items())),
        "imbalance": float(counts.max() / counts.min()) if len(counts) else None,
        "class_size": {k: float(getattr(counts, k)()) for k in ("min", "median", "max")} if len(counts) else {},
    }


def region_of(document: dict) -> str:
    region = document["region"]
    return region.strip() if isinstance(region, str) and region.strip() else UNKNOWN_REGION
