"""assignment.parquet: each photo's split, and the attribution that its licence requires."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from keras_pipeline.core.dataset import UNKNOWN_REGION
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.hashing import UNREADABLE
from keras_pipeline.core.record import shuffle_key
from keras_pipeline.core.region_names import are_of_species

COLUMNS = [
    "sample_id", "group_id", "observation_id", "split", "place", "latin_name", "region", "license", "attribution",
    "reason",
]  # fmt: skip


def read(path: Path, remedy: str, **wanted: str) -> pd.DataFrame:
    """Read a table of phase 0, or its rows in which the given columns have the given values.

    Args:
        remedy: the command that makes the file again, for the message.

    Raises:
        BrokenArtefact: naming the file and the remedy, if it can't be parsed.
    """
    try:
        return pd.read_parquet(path, filters=[(column, "==", value) for column, value in wanted.items()] or None)
    except (*UNREADABLE, pa.ArrowException) as error:
        raise BrokenArtefact(f"{path}: {error}; remove it and run {remedy}") from None


def region_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the train photos of each species (columns) in each known region (rows); both are sorted.

    Args:
        table: of `places`.
    """
    train = table[(table.split == "train") & (table.region != UNKNOWN_REGION)]
    return pd.crosstab(train.region, train.latin_name)


def why_no_priors(table: pd.DataFrame) -> str:
    """Return why the regions of the train photos say nothing about a photo's species; "" if they may."""
    counts = region_counts(table)
    if len(counts) < 2:
        return "the train photos are of fewer than two known regions"
    # A prior would then tell in which countries a species is listed, as if its photos had been taken there.
    return "the region is the species'" if are_of_species(zip(counts.max(), counts.sum(), strict=True)) else ""


def places(path: Path) -> pd.DataFrame:
    """Read split, latin_name, region, observation_id, license and attribution of each photo, by sample_id (the index).

    Raises:
        BrokenArtefact: if the file is missing or can't be parsed.
    """
    columns = ["sample_id", "split", "latin_name", "region", "observation_id", "license", "attribution"]
    return read_columns(path, columns).set_index("sample_id")


def first_train_rows(path: Path, species: Collection[str]) -> dict[str, int]:
    """Return each species' first train photo as its row, counted over the train shards in order; see `records.at`.

    The shards are sorted by the key that is computed here anew, so that none of them is read.

    Raises:
        BrokenArtefact: if the file is missing or can't be parsed.
    """
    table = read_columns(path, ["sample_id", "split", "latin_name"])
    train = table[table.split == "train"]
    keys = [shuffle_key(sample_id, table.attrs["made_with"]["seed"]) for sample_id in train.sample_id]
    names = train.latin_name.to_numpy()[sorted(range(len(keys)), key=keys.__getitem__)]
    rows = np.flatnonzero(np.isin(names, list(species)))[::-1]
    return {str(names[row]): int(row) for row in rows}  # of several photos the first one, which comes last here


def read_columns(path: Path, columns: list[str], remedy: str = "`phase0 split --force`") -> pd.DataFrame:
    """Read some columns of a table of phase 0.

    Raises:
        BrokenArtefact: naming the file and the remedy, if it is missing or can't be parsed.
    """
    try:
        return pd.read_parquet(path, columns=columns)
    except (*UNREADABLE, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise BrokenArtefact(f"{path}: {reason}; run {remedy}") from None
