"""assignment.parquet: each photo's split, and the attribution that its licence requires."""

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
    """Read a table of phase 0, or its rows in which the given columns have the given values.

    Args:
        remedy: the command that makes the file again, for the message.

    Raises:
        BrokenArtefact: naming the file and the remedy, if it can't be parsed.
    """
    try:
        return pd.read_parquet(path, filters=[(column, "==", value) for column, value in wanted.items()] or None)
    except pa.ArrowException as error:
        raise BrokenArtefact(f"{path}: {error}; remove it and run {remedy}") from None


def places(path: Path) -> pd.DataFrame:
    """Read split, latin_name, region, observation_id, license and attribution of each photo, by sample_id (the index).

    Raises:
        BrokenArtefact: if the file is missing or can't be parsed.
    """
    columns = ["sample_id", "split", "latin_name", "region", "observation_id", "license", "attribution"]
    try:
        return pd.read_parquet(path, columns=columns).set_index("sample_id")
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise BrokenArtefact(f"{path}: {reason}; run `phase0 split --force`") from None
