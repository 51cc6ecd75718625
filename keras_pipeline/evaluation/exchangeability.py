"""Do the calibration photos speak for the test photos?

A promise holds for photos like those that it was made on. A split that takes whole groups of photos can end up with the
common species in one part and the rare ones in another, and then holds neither on test nor on anything else. Both
comparisons look at photos, not at whether their answers are right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, ks_2samp

SIZES = (5, 10, 20, 50, 100)  # train photos of a species at which the next class of species begins
DISTANCE = 0.1  # from which two samples differ by more than a promise bears,
ALPHA = 0.001  # if chance alone does not reach that distance more often


def compare(
    fit_sizes: NDArray, test_sizes: NDArray, fit_confidence: NDArray, test_confidence: NDArray
) -> dict[str, dict]:
    """Compare independent calibration photos with independent test photos.

    Args:
        fit_sizes, test_sizes: [n], [m], number of train photos of each photo's species.
        fit_confidence, test_confidence: [n], [m], highest probability of each photo.

    Returns:
        `species_size: {below, calibration, test, distance, p, differs}`: shares of the photos by classes of `SIZES`,
        their total variation, and the p-value of the chi-squared test of homogeneity.
        `confidence: {distance, p, differs}`: of the two-sample Kolmogorov-Smirnov test.
    """
    counts = np.stack([_histogram(fit_sizes), _histogram(test_sizes)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    apart = float(np.abs(shares[0] - shares[1]).sum() / 2)
    p = float(chi2_contingency(counts[:, counts.any(axis=0)]).pvalue)
    scores = ks_2samp(fit_confidence, test_confidence)
    return {
        "species_size": {
            "below": [*SIZES, None],
            "calibration": shares[0].tolist(),
            "test": shares[1].tolist(),
            **_verdict(apart, p),
        },
        "confidence": _verdict(float(scores.statistic), float(scores.pvalue)),
    }


def why_not(found: dict[str, dict]) -> str:
    """Say in what the two splits differ so much that the one can't promise for the other, or ""."""
    size, confidence = found["species_size"], found["confidence"]
    if size["differs"]:
        few = size["below"].index(20) + 1
        first, second = (sum(size[name][:few]) for name in ("calibration", "test"))
        return (
            f"the calibration split's species are not the test split's: {first:.0%} of its photos are of species with "
            f"fewer than 20 train photos, {second:.0%} of the test photos (total variation by species size "
            f"{size['distance']:.2f}, expected at most {DISTANCE:g})"
        )
    if confidence["differs"]:
        return (
            "the model is not as sure of the calibration photos as of the test photos (Kolmogorov-Smirnov distance of "
            f"the probabilities {confidence['distance']:.2f}, expected at most {DISTANCE:g})"
        )
    return ""


def _histogram(sizes: NDArray) -> NDArray:
    return np.bincount(np.digitize(sizes, SIZES), minlength=len(SIZES) + 1)


def _verdict(distance: float, p: float) -> dict:
    return {"distance": distance, "p": p, "differs": distance > DISTANCE and p < ALPHA}
