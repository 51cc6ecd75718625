"""assignment.parquet: the split of each photo, and the attribution it needs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from keras_pipeline.core.errors import BrokenArtefact

COLUMNS = [
    "sample_id", "group_id", "observation_id", "split", "place", "latin_name", "region", "license", "attribution",
    "reason",
]  # fmt: skip


def read(path: Path, remedy: str, **wanted: str) -> pd.DataFrame:
    """Read a table of phase 0, or the rows where columns have these values.

    Raises:
        BrokenArtefact: naming the file, and the command that makes it again.
    """
    try:
        return pd.read_parquet(path, filters=[(column, "==", value) for column, value in wanted.items()] or None)
    except pa.ArrowException as error:
        raise BrokenArtefact(f"{path}: {error}; remove it and run {remedy}") from None


def places(path: Path) -> pd.DataFrame:
    """Where each photo went: sample_id (index), split, latin_name, region, observation_id, license, attribution."""
    columns = ["sample_id", "split", "latin_name", "region", "observation_id", "license", "attribution"]
    try:
        return pd.read_parquet(path, columns=columns).set_index("sample_id")
    except (OSError, pa.ArrowException) as error:
        said = str(error).partition("\n")[0]
        raise BrokenArtefact(f"{path}: {said}; run `phase0 split --force`") from None
