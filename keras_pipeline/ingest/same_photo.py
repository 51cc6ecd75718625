"""Reads `phase0.split.same_photo`, a list of pairs that a person or `phase0 baseline` found to be one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from keras_pipeline.ingest.split import Ties

COLUMNS = ["sample_id_1", "sample_id_2"]


def same_photo(path: Path, sample_ids: pd.Series) -> Ties:
    """Return the ties of the listed pairs; pairs with a photo that is not stored are passed over.

    Args:
        path: CSV with the columns sample_id_1 and sample_id_2, and any others.
        sample_ids: of the rows 0 … n-1, each once.

    Raises:
        ValueError: no such file, not a CSV, without these columns, or of other photos.
    """
    try:
        pairs = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(
            f"phase0.split.same_photo: received {path}, which does not exist; expected a CSV such as "
            "phase0/tables/look_alikes.csv"
        ) from None
    except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
        raise ValueError(f"phase0.split.same_photo: {path} is not a readable CSV ({error})") from None
    if not set(COLUMNS) <= set(pairs.columns):
        raise ValueError(
            f"phase0.split.same_photo: {path}: received the columns {', '.join(pairs.columns)}, expected "
            "sample_id_1 and sample_id_2"
        )
    rows = pd.Series(np.arange(len(sample_ids)), index=sample_ids.to_numpy())
    if len(pairs) and not pairs[COLUMNS].isin(rows.index).any(axis=None):
        raise ValueError(
            f"phase0.split.same_photo: {path}: received {len(pairs)} pairs without a stored photo, expected sample "
            f"ids such as {rows.index[0]}; is it another collection's list?"
        )
    known = pairs[COLUMNS].apply(lambda column: rows.reindex(column.str.strip()).to_numpy()).dropna().to_numpy(np.int64)
    involved = np.unique(known)
    return Ties(np.stack([involved, involved], axis=1), known)
