"""Each photo's answer by a model, stored and compared."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.evaluation import intervals

TITLES = {"teacher": "global teacher", "regional": "regional teacher", "student": "student"}
ANSWERS = ("sample_id", "region", "group_id", "label", "answer", "confidence")


def same_photos(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Whether two models were asked about the same photos, with the same labels (`load_answers`)."""
    return all(np.array_equal(first[name], second[name]) for name in ("sample_id", "label"))


def compare(first: dict[str, np.ndarray], second: dict[str, np.ndarray], *, by_region: bool = True) -> dict:
    """`intervals.compare` of what two models answered (`load_answers`).

    Raises ValueError unless both answered the same photos.
    """
    if not same_photos(first, second):
        raise ValueError(
            f"received answers to {len(first['sample_id'])} and to {len(second['sample_id'])} photos that are not the "
            "same, expected the same test split; run `phase1 evaluate --force`, then `phase2 evaluate --force`"
        )
    right_first, right_second = (each["label"] == each["answer"] for each in (first, second))
    regions = first["region"] if by_region else np.zeros_like(first["region"])
    return intervals.compare(right_first, right_second, regions, first["group_id"])


def load_answers(path: Path) -> dict[str, np.ndarray]:
    """predictions_<split>.npz: sample_id, region, group_id str [n], label, answer int64 [n], confidence float32 [n].

    Raises BrokenArtefact naming a file that is none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ANSWERS}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BrokenArtefact(
            f"{path}: no answers can be read from it ({error}); run `evaluate --force`, of phase 0 `baseline --force`"
        ) from error
