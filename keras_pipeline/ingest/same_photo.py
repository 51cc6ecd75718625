"""Reads `phase0.split.same_photo`, a list of pairs that a person or `phase0 baseline` found to be one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from keras_pipeline.ingest.split import Ties

COLUMNS = ["sample_id_1", "sample_id_2"]


def read_pairs(path: Path) -> pd.DataFrame:
    """Return the listed pairs, with the columns sample_id_1 and sample_id_2 as text, and any others.

    Raises:
        ValueError: no such file, not a CSV, or without these columns.
    """
    key, such_as = "phase0.split.same_photo", "a CSV such as phase0/tables/look_alikes.csv"
    if not path.is_file():
        kind = "is no file" if path.exists() else "does not exist"
        raise ValueError(
            f"{key}: received {path}, which {kind}; expected {such_as}; correct the path, or set it to null"
        )
    try:
        pairs = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
        reason = " ".join(str(error).split())
        raise ValueError(f"{key}: {path} is not a readable CSV ({reason}); expected {such_as}; correct it") from None
    if not set(COLUMNS) <= set(pairs.columns):
        raise ValueError(
            f"{key}: {path}: received the columns {', '.join(pairs.columns)}, expected {' and '.join(COLUMNS)}; rename "
            "the two columns of sample ids"
        )
    return pairs


def same_photo(path: Path, sample_ids: pd.Series) -> Ties:
    """Return the ties of the listed pairs; pairs with a photo that is not stored are passed over.

    Args:
        path: CSV, see `read_pairs`.
        sample_ids: of the rows 0 … n-1, each once.

    Raises:
        ValueError: as `read_pairs`, or the pairs are of other photos.
    """
    pairs = read_pairs(path)
    rows = pd.Series(np.arange(len(sample_ids)), index=sample_ids.to_numpy())
    if len(pairs) and not pairs[COLUMNS].isin(rows.index).any(axis=None):
        raise ValueError(
            f"phase0.split.same_photo: {path}: received {len(pairs)} pairs without a stored photo, expected sample "
            f"ids such as {rows.index[0]}; is it another collection's list?"
        )
    known = pairs[COLUMNS].apply(lambda column: rows.reindex(column.str.strip()).to_numpy()).dropna().to_numpy(np.int64)
    involved = np.unique(known)
    return Ties(np.stack([involved, involved], axis=1), known)
