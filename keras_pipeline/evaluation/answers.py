"""A model's answer to each photo: read from disk, and compared between two models."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.hashing import UNREADABLE
from keras_pipeline.evaluation import intervals
from keras_pipeline.evaluation.intervals import Comparison

TITLES = {"teacher": "global teacher", "regional": "regional teacher", "student": "student"}
OWN_PROBE = "own_probe_answer"  # column of the files of models that started from a probe of their own features
ANSWERS = ("sample_id", "region", "group_id", "label", "answer", "confidence")


def same_photos(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Tell whether two models answered the same photos in the same order, with the same labels.

    Args:
        first, second: of `load_answers`.
    """
    return all(np.array_equal(first[name], second[name]) for name in ("sample_id", "label"))


def compare(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> Comparison:
    """Compare two models' answers to the same photos, overall and by region, see `intervals.compare`.

    Args:
        first, second: of `load_answers`.

    Raises:
        ValueError: unless both answered the same photos.
    """
    if not same_photos(first, second):
        raise ValueError(
            f"received answers to {len(first['sample_id'])} and to {len(second['sample_id'])} photos that are not the "
            "same, expected the same test split; run `phase1 evaluate --force`, then `phase2 evaluate --force`"
        )
    right_first, right_second = (each["label"] == each["answer"] for each in (first, second))
    return intervals.compare(right_first, right_second, first["region"], first["group_id"])


def load_own_probe(path: Path) -> dict[str, np.ndarray] | None:
    """Read from a model's `predictions_test.npz` what the linear probe of its own features answered.

    Returns:
        As `load_answers`, without `confidence`; None if the model did not start from such a probe, or if an older
        program evaluated it.

    Raises:
        BrokenArtefact: as `load_answers`.
    """
    found = _load(path, (*ANSWERS[:-1], OWN_PROBE))
    return {**found, "answer": found.pop(OWN_PROBE)} if OWN_PROBE in found else None


def load_answers(path: Path) -> dict[str, np.ndarray]:
    """Read `predictions_<split>.npz`.

    Returns:
        `sample_id, region, group_id` str [n]; `label, answer` int64 [n]; `confidence` float32 [n], before calibration.

    Raises:
        BrokenArtefact: naming a file that can't be read.
    """
    return _load(path, ANSWERS)


def _load(path: Path, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in columns if name != OWN_PROBE or name in file}
    except UNREADABLE as error:
        raise BrokenArtefact(
            f"{path}: no answers can be read from it ({error}); run `evaluate --force`, or `phase0 "
            "baseline --force` if it is phase 0's"
        ) from error
