"""Correct confidences with one temperature, fitted so that an answer's probability is how often it is right."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_pipeline.core.dataset import MIN_PHOTOS
from keras_pipeline.evaluation.metrics import by_blocks, check_labels
from keras_pipeline.evaluation.scores import Prior, score

TEMPERATURE_BOUNDS = (0.05, 20.0)  # beyond these a softmax over trained logits is one-hot or uniform
SCOUTS = 1 << 26  # logits of the first, coarse search: a full pass over 9e8 of them takes seconds
LAST_MOVE = 3e-5  # of log T: Newton's error is of the order of its square
LONGEST_MOVE = math.log(2)  # of log T: far from the minimum the Brier score's curvature says nothing


def fit_temperature(logits: ArrayLike, labels: ArrayLike, *, prior: Prior | None = None) -> float:
    """Fit the T with the lowest Brier score of the answers: the mean of (confidence - right)^2 over photos.

    That score is the squared calibration error plus a part that a temperature hardly changes, and one photo adds at
    most 1 to it. The likelihood of the labels (Guo et al. 2017, eq. 9) has no such limit. Among thousands of species it
    is ruled by the photos whose true species has a probability of 1e-5 or less, and gives up calibrated confidences for
    them (docs/calibration.md has both in numbers).

    The search begins at `fit_by_likelihood`, whose minimum is the only one, and descends from there.

    Args:
        logits: [n, C], finite, n >= 20, of photos used neither for the weights nor to choose the epoch; may be
            memory-mapped.
        labels: integer [n], in [0, C), at least two different ones.
        prior: of each photo's region; None adds nothing.

    Returns:
        T in [0.05, 20]: a bound itself where the score still falls there, which the caller should report. Exactly 1.0
        unless T strictly lowers the score on these photos (on every k-th of very many), and differs by 1e-7 or more.

    Raises:
        ValueError: malformed arrays, fewer than 20 photos, or a single class.

    Example:
        Logits [2, 0] mean a confidence of 88 %, but 75 of 100 photos are right. T = 2 / ln 3 makes it 75 %:

        >>> logits, labels = np.tile([2.0, 0.0], (100, 1)), np.repeat([0, 1], [75, 25])
        >>> round(fit_temperature(logits, labels), 3)
        1.82
    """
    logits, labels = check_labels(logits, labels)
    _check_fit_data(labels)
    sample = _scouts(logits, labels, prior)
    near = _zero(lambda t: _likelihood_moments(*sample, t), 1.0)
    near = _zero(lambda t: _brier_moments(*sample, t)[1:], near)
    if len(sample[0]) < len(logits):
        near = _zero(lambda t: _brier_moments(logits, labels, prior, t)[1:], near)
    if abs(near - 1) < 1e-7:
        return 1.0
    before, after = (_brier_moments(*sample, t)[0] for t in (1.0, near))
    return near if after < before else 1.0


def fit_by_likelihood(logits: ArrayLike, labels: ArrayLike, *, prior: Prior | None = None) -> float:
    """Fit the T that minimises the negative log likelihood of softmax(logits / T + prior), Guo et al. 2017, eq. 9.

    The NLL is convex in 1/T, so its only minimum is the zero of its derivative, found to a relative 1e-7 (from logits
    in float32, which all weights are then computed in, to 1e-6 of what float64 gives). Where there is none inside
    `TEMPERATURE_BOUNDS` the bound itself is returned: the lower one where every photo is right (the likelihood then
    keeps growing as T falls), the upper one where the logits are no better than chance.

    Arguments and errors as `fit_temperature`; 1.0 is kept by the NLL.
    """
    logits, labels = check_labels(logits, labels)
    _check_fit_data(labels)
    sample = _scouts(logits, labels, prior)
    near = _zero(lambda t: _likelihood_moments(*sample, t), 1.0) if len(sample[0]) < len(logits) else 1.0
    temperature = _zero(lambda t: _likelihood_moments(logits, labels, prior, t), near)
    if abs(temperature - 1) < 1e-7:
        return 1.0
    if temperature not in TEMPERATURE_BOUNDS:
        return temperature  # where the NLL has a single minimum, every other temperature's is higher
    before, after = (score(logits, labels, t, prior=prior).nll.mean() for t in (1.0, temperature))
    return temperature if after < before else 1.0


def _scouts(logits: NDArray, labels: NDArray, prior: Prior | None) -> tuple[NDArray, NDArray, Prior | None]:
    """Return every k-th photo, few enough for a coarse search."""
    step = -(-logits.size // SCOUTS)
    return logits[::step], labels[::step], None if prior is None else Prior(prior.added, prior.row[::step])


def _zero(moments: Callable[[float], tuple[float, float]], near: float) -> float:
    """Return the temperature at which the slope crosses 0, or the bound nearer to it.

    By Newton's method in log T, and by bisection where that leaves the temperatures between which the zero must lie. At
    full size each evaluation is a pass over the logits, which Brent's method needs seven times.

    Args:
        moments: of a temperature, see `_likelihood_moments`.
        near: where the search begins.
    """
    (low, high), tried = TEMPERATURE_BOUNDS, set()
    while high / low - 1 > 1e-9:
        slope, curvature = moments(near)
        if slope == 0 or (near in TEMPERATURE_BOUNDS and (slope > 0) == (near == high)):
            return near
        tried.add(near)
        low, high = (near, high) if slope > 0 else (low, near)
        move = slope * near / curvature if curvature > 0 else math.copysign(math.inf, slope)
        move = min(max(move, -LONGEST_MOVE), LONGEST_MOVE)
        end = high if slope > 0 else low
        if abs(move) < LAST_MOVE:
            return min(max(near * math.exp(move), low), high)
        if abs(move) < abs(math.log(end / near)):
            near = _rounded(near * math.exp(move))
        else:
            near = end if end in TEMPERATURE_BOUNDS and end not in tried else _rounded(math.sqrt(low * high))
    return near


def _rounded(temperature: float) -> float:
    """Return a float32: dividing float32 logits would round the temperature, and give the moments of that one."""
    return float(np.float32(temperature))


def _likelihood_moments(
    logits: NDArray, labels: NDArray, prior: Prior | None, temperature: float
) -> tuple[float, float]:
    """Return the first two derivatives of the NLL by 1/T: mean(E_p[z] - z_label), which rises, and mean(Var_p[z])."""

    def block_sums(rows: slice, block: NDArray) -> tuple[float, float]:
        block = block.astype(np.promote_types(block.dtype, np.float32), copy=False)
        shifted = block - block.max(axis=1, keepdims=True)  # shifts both terms equally
        weight = shifted / temperature
        if prior is not None:
            weight += prior.of(rows)
            weight -= weight.max(axis=1, keepdims=True)
        np.exp(weight, out=weight)
        total = weight.sum(axis=1)
        weight *= shifted
        mean = (weight.sum(axis=1) / total).astype(np.float64)
        weight *= shifted
        variance = weight.sum(axis=1) / total - mean**2
        return float((mean - shifted[np.arange(len(mean)), labels[rows]]).sum()), float(variance.sum())

    slope, curvature = np.sum(by_blocks(logits, block_sums), axis=0) / len(labels)
    return float(slope), float(curvature)


def _brier_moments(
    logits: NDArray, labels: NDArray, prior: Prior | None, temperature: float
) -> tuple[float, float, float]:
    """Return the answers' Brier score and its first two derivatives by 1/T.

    With p the answer's probability, log(p / (1 - p)) has the derivative E_q[z_answer - z] and the second derivative
    -Var_q[z], q being the distribution over the other classes.
    """

    def block_sums(rows: slice, block: NDArray) -> tuple[float, float, float]:
        photo = np.arange(len(block))
        block = block.astype(np.promote_types(block.dtype, np.float32), copy=False)
        weight = block / temperature
        if prior is not None:
            weight += prior.of(rows)
        answer = weight.argmax(axis=1)
        weight -= weight[photo, answer, None]
        np.exp(weight, out=weight)
        weight[photo, answer] = 0.0
        below = block - block[photo, answer, None]
        rest = weight.sum(axis=1, dtype=np.float64)
        some = np.maximum(rest, np.finfo(np.float32).tiny)  # of an answer that nothing comes near
        weight *= below
        first = -weight.sum(axis=1) / some
        weight *= below
        second = first**2 - weight.sum(axis=1) / some
        confidence, doubt = 1 / (1 + rest), rest / (1 + rest)  # not 1 - confidence, which may round to 0
        gap = np.where(answer == labels[rows], -doubt, confidence)
        slope = confidence * doubt * first
        curvature = confidence * doubt * (second + (doubt - confidence) * first**2)
        return float((gap**2).sum()), float((2 * gap * slope).sum()), float((2 * (slope**2 + gap * curvature)).sum())

    brier, slope, curvature = np.sum(by_blocks(logits, block_sums), axis=0) / len(labels)
    return float(brier), float(slope), float(curvature)


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
