"""Whether a photo looks like none of the plants of the list: how far its features lie from those of the train photos.

The features of plant photos, each scaled to length 1, lie near a subspace of few dimensions. A photo's score is the
share of its squared length outside that subspace: 0 is typical of the train photos, 1 has nothing in common with them.
It is ViM's residual (arXiv 2203.10807) with the length divided out, because other pictures differ in direction, and the
length of the features says more about contrast than about content. Classes play no part, so that thousands of species
cost no more than ten.

Split conformal prediction sets the threshold on the calibration split: of new photos of the list's plants at least
`KEPT` stay below it, on average over calibration splits. No picture of anything else is needed, or used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from keras_pipeline.evaluation import intervals
from keras_pipeline.evaluation.threshold import one_of_each

KEPT = 0.98  # of the photos of the list's plants
DIRECTIONS = 32  # dimensions of the subspace; 24 to 64 differ little (docs/calibration.md)
LEAST_GROUPS = 49  # of the calibration split: below that no threshold keeps 98 % of new photos


@dataclasses.dataclass(frozen=True)
class OffList:
    """What `calibration.json` says of the score, and which photos it holds back."""

    part: dict
    on_fit: np.ndarray  # bool [n], the calibration photos that count as plants of the list
    on_test: np.ndarray  # bool [m], the test photos


def principal_directions(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Return the subspace that holds most of the features, each scaled to length 1.

    Args:
        batches: float [n, D] each, features of train photos.

    Returns:
        float32 [D, K], K = `DIRECTIONS` but at most D / 2; orthonormal but for rounding to float16, in which the page
        stores them.
    """
    moments: np.ndarray | float = 0.0
    for features in batches:
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        moments = moments + unit.T.astype(np.float64) @ unit
    vectors = np.linalg.eigh(moments)[1]
    largest = vectors[:, -min(DIRECTIONS, len(vectors) // 2) :]
    return largest.astype(np.float16).astype(np.float32)


def judge(
    fit_scores: np.ndarray, fit_groups: np.ndarray, test_scores: np.ndarray, test_groups: np.ndarray, *, seed: int
) -> OffList:
    """Set the threshold on the calibration photos, and measure on the test photos how many plants it keeps.

    Args:
        fit_scores, test_scores: float [n] and [m].
        fit_groups, test_groups: str [n] and [m], group ids.
        seed: draws the photo that stands for its group.

    Returns:
        With `part` {threshold, target_kept, n_promise, kept, interval, n}: a photo is off the list if its score exceeds
        `threshold`, set on `n_promise` photos; `kept` is the share of the `n` test photos that are not, with its 95 %
        interval over groups. Where the calibration photos are too few {why}, and no photo is off the list.
    """
    asked = np.sort(fit_scores[one_of_each(fit_groups, seed=seed)])
    if len(asked) < LEAST_GROUPS:
        why = f"{len(asked)} calibration photos of different plants are too few, {LEAST_GROUPS} are the least"
        return OffList({"why": why}, np.ones(len(fit_scores), bool), np.ones(len(test_scores), bool))
    rank = math.ceil(KEPT * (len(asked) + 1))
    threshold = float(np.clip(np.float32(asked[rank - 1]), 0, 1))
    on_fit, on_test = (scores.astype(np.float32) <= np.float32(threshold) for scores in (fit_scores, test_scores))
    kept = float(on_test.mean())
    part = {
        "threshold": threshold,
        "target_kept": KEPT,
        "n_promise": len(asked),
        "kept": kept,
        "interval": intervals.share_interval(kept, len(np.unique(test_groups))).tolist(),
        "n": len(test_scores),
    }
    return OffList(part, on_fit, on_test)
