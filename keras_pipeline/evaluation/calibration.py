"""Does a confidence of 0.8 mean right eight times in ten? Measured, and mended by one temperature.

Guo et al. 2017, 'On Calibration of Modern Neural Networks' (arXiv 1706.04599), unless said otherwise.
"""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from keras_pipeline.evaluation.metrics import check_logits_and_labels, confidence_and_correct, nll, row_blocks

TEMPERATURE_BOUNDS = (0.05, 20.0)  # beyond these a softmax over trained logits is one-hot or uniform
MIN_PHOTOS = 20  # below this one photo moves the temperature by more than the correction is worth

Bin = dict[str, float | int | None]


def reliability_bins(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> list[Bin]:
    """Photos grouped by confidence into equal-width bins ((m-1)/M, m/M] (section 2, 'Reliability Diagrams').

    Args:
        confidence: [n], in [0, 1].
        correct: bool or 0/1 [n].
        bins: M >= 1.

    Returns:
        M dictionaries `{lower, upper, n, confidence, accuracy}` in ascending order; the means are None where n = 0.

    Raises:
        ValueError: lengths that differ, no photos, confidence outside [0, 1], correct not 0/1, bins below 1.
    """
    confidence, correct = check_confidence(confidence, correct)
    edges, index = _assign(confidence, bins)
    counts = np.bincount(index, minlength=bins)
    confidence_sum = np.bincount(index, confidence, bins)
    correct_sum = np.bincount(index, correct, bins)
    return [
        {
            "lower": float(edges[m]),
            "upper": float(edges[m + 1]),
            "n": int(counts[m]),
            "confidence": float(confidence_sum[m] / counts[m]) if counts[m] else None,
            "accuracy": float(correct_sum[m] / counts[m]) if counts[m] else None,
        }
        for m in range(bins)
    ]


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """ECE (eq. 3): the mean of |accuracy - confidence| over bins, weighted by photos; in [0, 1]."""
    table = [b for b in reliability_bins(confidence, correct, bins=bins) if b["n"]]
    return float(sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in table) / sum(b["n"] for b in table))


def maximum_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """MCE (eq. 5): the largest |accuracy - confidence| of any bin that holds a photo; in [0, 1].

    A bin with a single photo counts in full, as in the paper: read it beside the bins' counts.
    """
    table = [b for b in reliability_bins(confidence, correct, bins=bins) if b["n"]]
    return max(abs(b["accuracy"] - b["confidence"]) for b in table)


def ece_null(confidence: ArrayLike, *, bins: int = 15, repeats: int = 200, seed: int = 0) -> float:
    """The ECE that a perfectly calibrated model with these confidences would show, by chance alone.

    ECE is biased upwards in small samples, so an ECE says something only above this figure. Monte-Carlo mean over
    `repeats` draws of correct ~ Bernoulli(confidence), the 'consistency resampling' of Bröcker & Smith 2007
    (doi 10.1175/WAF993.1); its standard error is below 1 / sqrt(n * repeats).

    Args:
        confidence: [n], in [0, 1].
        bins: >= 1, as in the ECE that it is compared with.
        repeats: >= 1.
        seed: of the draws.

    Raises:
        ValueError: no photos, confidence outside [0, 1], bins or repeats below 1.
    """
    confidence, _ = check_confidence(confidence, np.zeros(np.shape(confidence)))
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, received {repeats}: 200 gives two digits.")
    _, index = _assign(confidence, bins)
    rng = np.random.default_rng(seed)
    total = 0.0
    for _ in range(repeats):
        gap = np.bincount(index, (rng.random(len(confidence)) < confidence) - confidence, bins)
        total += np.abs(gap).sum() / len(confidence)
    return float(total / repeats)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that minimises the negative log likelihood of softmax(logits / T) (section 4.2, eq. 9).

    The NLL is convex in 1/T, so its only minimum is the zero of its derivative, found to a relative 1e-7. Where there
    is none inside `TEMPERATURE_BOUNDS` the bound itself is returned: the lower one where every photo is right (the
    likelihood then grows for ever as T falls), the upper one where the logits say no more than chance. A caller
    should say so: `calibration_report` does, as `temperature_at_bound`.

    Args:
        logits: [n, C], finite, n >= 20, from photos that chose neither the weights nor the epoch.
        labels: integer [n], in [0, C), at least two different ones.

    Returns:
        T in [0.05, 20]; exactly 1.0 unless T strictly lowers the NLL on these photos.

    Raises:
        ValueError: malformed arrays, fewer than 20 photos, or a single class.
    """
    logits, labels = check_logits_and_labels(logits, labels)
    _check_fit_data(labels)
    low, high = np.log(TEMPERATURE_BOUNDS)

    @cache  # the search asks for its two ends again, and at full size one pass over the logits takes seconds
    def slope(log_temperature: float) -> float:
        return _nll_slope(logits, labels, float(np.exp(log_temperature)))

    if slope(low) <= 0:  # still falling towards sharper: no minimum above the lower bound
        temperature = TEMPERATURE_BOUNDS[0]
    elif slope(high) >= 0:
        temperature = TEMPERATURE_BOUNDS[1]
    else:
        temperature = float(np.exp(brentq(slope, low, high, xtol=1e-7)))
    return temperature if nll(logits, labels, temperature) < nll(logits, labels) else 1.0


def calibration_report(
    fit_logits: ArrayLike, fit_labels: ArrayLike, test_logits: ArrayLike, test_labels: ArrayLike, *, bins: int = 15
) -> dict[str, float | int | bool]:
    """Fits T on one set of photos and measures what it does on another.

    Args:
        fit_logits: [n_fit, C] of the calibration split.
        fit_labels: integer [n_fit].
        test_logits: [n, C] of the test split, same weights.
        test_labels: integer [n].
        bins: M of ECE and MCE.

    Returns:
        `temperature, temperature_at_bound, n_fit` from the fit; on the test split `n`, `ece_before, mce_before,
        nll_before` at T = 1, `ece_after, mce_after, nll_after` at T, and `ece_null`, the ECE that the calibrated
        confidences would show if they were exactly right.

    Raises:
        ValueError: as `fit_temperature`, or class counts that differ between the two sets.
    """
    if np.shape(fit_logits)[1:] != np.shape(test_logits)[1:]:
        raise ValueError(
            f"Fit and test logits must have the same classes, received shapes {np.shape(fit_logits)} and "
            f"{np.shape(test_logits)}: predict both splits with the same weights."
        )
    temperature = fit_temperature(fit_logits, fit_labels)
    report = {
        "temperature": temperature,
        "temperature_at_bound": temperature in TEMPERATURE_BOUNDS,
        "n_fit": len(np.asarray(fit_labels)),
        "n": len(np.asarray(test_labels)),
    }
    for moment, t in (("before", 1.0), ("after", temperature)):
        confidence, correct = confidence_and_correct(test_logits, test_labels, temperature=t)
        report[f"ece_{moment}"] = expected_calibration_error(confidence, correct, bins=bins)
        report[f"mce_{moment}"] = maximum_calibration_error(confidence, correct, bins=bins)
        report[f"nll_{moment}"] = nll(test_logits, test_labels, t)
    return report | {"ece_null": ece_null(confidence, bins=bins)}


def check_confidence(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """`(float64 [n], bool [n])`, or ValueError where they are malformed or do not fit each other."""
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct)
    if confidence.ndim != 1 or not len(confidence) or correct.shape != confidence.shape:
        raise ValueError(
            f"Confidence and correct must be two vectors of one length n >= 1, received shapes {confidence.shape} "
            f"and {correct.shape}: give the highest probability and 'was it right' of each photo."
        )
    if not np.all((confidence >= 0) & (confidence <= 1)):
        raise ValueError(
            f"Confidence must lie in [0, 1], received {confidence.min()} to {confidence.max()}: "
            "give probabilities, not logits or percentages."
        )
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("Correct must be booleans or 0/1, received other values: compare prediction and label first.")
    return confidence, correct.astype(bool)


def _assign(confidence: NDArray[np.float64], bins: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The M + 1 edges, and the bin of each photo; 0.0 itself joins the first bin, which the paper leaves open."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, received {bins}: the literature uses 15.")
    edges = np.linspace(0.0, 1.0, bins + 1)
    return edges, np.digitize(confidence, edges[1:-1], right=True)


def _check_fit_data(labels: NDArray) -> None:
    if len(labels) < MIN_PHOTOS:
        raise ValueError(
            f"A temperature needs at least {MIN_PHOTOS} photos, received {len(labels)}: "
            "raise the calibration split's share of the dataset."
        )
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"A temperature needs photos of at least 2 classes, received only class {labels[0]}: "
            "draw the calibration split from all classes."
        )


def _nll_slope(logits: NDArray, labels: NDArray, temperature: float) -> float:
    """d NLL / d(1/T) = mean(E_p[z] - z_label), rising in 1/T since the NLL is convex there."""
    total = 0.0
    for rows in row_blocks(logits.shape):
        block = logits[rows].astype(np.float64)
        block -= block.max(axis=1, keepdims=True)  # shifts both terms alike
        weights = np.exp(block / temperature)
        expected = np.einsum("ij,ij->i", weights, block) / weights.sum(axis=1)
        total += float((expected - np.take_along_axis(block, labels[rows, None], axis=1)[:, 0]).sum())
    return total / len(labels)
