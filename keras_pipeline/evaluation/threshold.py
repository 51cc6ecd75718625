"""Above which confidence may the app name the plant? The rest is 'not conclusive'.

The plan asks for precision >= 0.95 above the threshold. The smallest threshold whose precision on n photos happens to
be 0.95 falls short of it on new photos about every second time (tests/test_threshold.py). So the threshold is chosen
by tests in a fixed order: 'Learn then Test' (Angelopoulos et al. 2021, arXiv 2110.01052), fixed-sequence testing.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, norm

from keras_pipeline.evaluation.calibration import check_confidence

# The order of the tests: from the surest answers down, fixed before any photo is seen. It ends at 0.40, where the
# plan's own scan begins: below that an answer is more likely wrong than right, whatever the average above says.
GRID: tuple[float, ...] = (0.999, 0.998, 0.997, 0.996, *(thousandth / 1000 for thousandth in range(995, 399, -5)))

_SCAN = tuple(percent / 100 for percent in range(40, 95, 5))  # np.arange(0.4, 0.95, 0.05) without its rounding noise
_POWER = 0.8  # customary; only decides how many photos the first test waits for


def choose_threshold(
    confidence: ArrayLike, correct: ArrayLike, *, target: float = 0.95, confidence_level: float = 0.95
) -> dict[str, float | int | bool | None]:
    """The smallest grid threshold that promises precision >= target on new photos.

    The promise: over repeated draws of the calibration photos, a threshold returned with `target_met` has a true
    precision below the target in at most 1 - confidence_level of the draws, the search included. It holds for
    independent photos: of several photos of one plant give one, or the bound is too good.

    Args:
        confidence: [n], in [0, 1], the calibrated top-1 probability on photos that fitted nothing else.
        correct: bool or 0/1 [n].
        target: precision promised, in (0, 1).
        confidence_level: in (0, 1), one-sided.

    Returns:
        `threshold`: an answer counts as conclusive where confidence >= threshold; `precision` (None where no photo
        reaches it) and `coverage` measured there on these photos; `precision_lower_bound`, at least the target where
        `target_met`; `shortfall` = target - bound, 0.0 where met; `n`; `photos_needed`, see the function of this name,
        None where met. Where the target is missed, `threshold` is the first one tested, or, with fewer than 177 photos,
        the one that a third of them reach. Counts alone fix it, so that its bound needs no discount for having been
        picked among many; and that the surest photos failed the target has not made these ones look better.

    Raises:
        ValueError: as `check_confidence`, or target or confidence_level outside (0, 1).
    """
    confidence, correct = check_confidence(confidence, correct)
    _check_share("target", target)
    _check_share("confidence_level", confidence_level)
    covered, right = _counts(confidence, correct)
    bounds = precision_lower_bound(right, covered, confidence_level=confidence_level)
    wanted = start_count(len(confidence), target, confidence_level)
    chosen = _walk(covered, bounds, target, wanted)
    met = bool(bounds[chosen] >= target)
    if not met:
        chosen = _first(covered, min(wanted, max(1, len(confidence) // 3)))
    return evaluate_threshold(confidence, correct, GRID[chosen]) | {
        "precision_lower_bound": float(bounds[chosen]),
        "target_met": met,
        "shortfall": 0.0 if met else float(target - bounds[chosen]),
        "photos_needed": None if met else photos_needed(covered, right, len(confidence), target, confidence_level),
    }


def one_of_each(group_ids: Sequence[str], *, seed: int) -> NDArray[np.intp]:
    """Positions, rising, of one photo of each group, drawn by the seed: photos that are independent of one another."""
    order = np.random.default_rng(seed).permutation(len(group_ids))
    return np.sort(order[np.unique(np.asarray(group_ids)[order], return_index=True)[1]])


def photos_needed(covered: ArrayLike, right: ArrayLike, n: int, target: float, confidence_level: float) -> int | None:
    """With how many photos the promise could be expected (power 0.8) to be made, if these ones are as others are.

    At each threshold the precision is taken for (right + 1/2) / (covered + 1), Jeffreys's, so that three photos out of
    three are no proof; the cheapest threshold counts. None where that is nowhere above the target, or takes over a
    hundred times as many: the model errs too often even where it is surest, or so few photos say nothing.

    Args:
        covered, right: integer [m], photos answered, and answered correctly, at each threshold.
        n: photos in all.
    """
    covered, right = np.asarray(covered, np.float64), np.asarray(right, np.float64)
    truth = (right + 0.5) / (covered + 1)
    hopeful = truth > target
    if not hopeful.any():
        return None
    wanted = (_comfortable(target, truth[hopeful], confidence_level) * n / covered[hopeful]).min()
    return math.ceil(max(wanted, n + 1)) if wanted <= 100 * n else None


def evaluate_threshold(confidence: ArrayLike, correct: ArrayLike, threshold: float) -> dict[str, float | int | None]:
    """`{threshold, precision, coverage, n}` on any photos, e.g. the test split's; precision None where none is covered.

    Raises:
        ValueError: as `check_confidence`.
    """
    confidence, correct = check_confidence(confidence, correct)
    mask = confidence >= threshold
    precision = float(correct[mask].mean()) if mask.any() else None
    return {"threshold": threshold, "precision": precision, "coverage": float(mask.mean()), "n": len(confidence)}


def threshold_scan(confidence: ArrayLike, correct: ArrayLike) -> list[dict[str, float | None]]:
    """The plan's table (5.3): `[{threshold, accuracy, coverage}]` for 0.40, 0.45 … 0.90; accuracy None if none covered.

    A description of these photos, not a promise: `choose_threshold` makes that.
    """
    rows = (evaluate_threshold(confidence, correct, threshold) for threshold in _SCAN)
    return [{"threshold": r["threshold"], "accuracy": r["precision"], "coverage": r["coverage"]} for r in rows]


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Share of wrong answers among the surest photos, as more and more are answered (Geifman & El-Yaniv
    2017, arXiv 1705.08500).

    Returns:
        coverage: [m], rising to 1, one point for each distinct confidence: a threshold cannot part equal ones.
        risk: [m], 1 - precision among the photos covered.
        aurc: the mean of the risk over the n photos in that order, equal confidences sharing theirs
            (Geifman, Uziel & El-Yaniv 2019, arXiv 1805.08206); lower is better.

    Raises:
        ValueError: as `check_confidence`.
    """
    confidence, correct = check_confidence(confidence, correct)
    values, group = np.unique(-confidence, return_inverse=True)
    sizes = np.bincount(group, minlength=len(values))
    covered = np.cumsum(sizes)
    risk = np.cumsum(np.bincount(group, ~correct, len(values))) / covered
    return covered / len(confidence), risk, float((risk * sizes).sum() / len(confidence))


def precision_lower_bound(right: ArrayLike, covered: ArrayLike, *, confidence_level: float) -> NDArray[np.float64]:
    """One-sided Clopper–Pearson bound on a precision, elementwise; 0.0 where nothing is right or covered.

    beta.ppf(1 - confidence_level, right, covered - right + 1): Clopper & Pearson 1934 in the form of
    Brown, Cai & DasGupta 2001 (doi 10.1214/ss/1009213286), section 4.2.1.

    Args:
        right: photos answered correctly, 0 <= right <= covered.
        covered: photos answered.
        confidence_level: in (0, 1).
    """
    right, covered = np.asarray(right, np.float64), np.asarray(covered, np.float64)
    bound = beta.ppf(1.0 - confidence_level, np.maximum(right, 1.0), covered - right + 1.0)
    return np.where(right > 0, bound, 0.0)


def start_count(n: int, target: float, confidence_level: float) -> int:
    """How many of n photos a threshold must cover before the tests begin, at least 1.

    Enough for a test of power 0.8 when the model errs half as often as it may (the normal approximation for one
    proportion: 384 photos for 0.95 at 0.95), but at most a third of the photos, or a small calibration split would
    begin below the thresholds of interest (a third beat a fifth, a half and two thirds in simulated worlds of 136 to
    2000 photos); and never fewer than can pass at all, all of them right (59 for 0.95 at 0.95).
    """
    comfortable = math.ceil(_comfortable(target, (1.0 + target) / 2.0, confidence_level))
    possible = math.ceil(math.log(1.0 - confidence_level) / math.log(target))
    wanted = max(possible, min(comfortable, n // 3))
    return wanted if wanted <= n else max(1, n // 3)


def _comfortable(target: float, truth: ArrayLike, confidence_level: float) -> NDArray[np.float64]:
    """Photos for a test of power `_POWER` that `truth`, a precision, is above `target`; no fewer than can pass."""
    truth = np.asarray(truth, np.float64)
    noise = norm.ppf(confidence_level) * math.sqrt(target * (1 - target)) + norm.ppf(_POWER) * np.sqrt(
        truth * (1 - truth)
    )
    return np.maximum((noise / (truth - target)) ** 2, math.log(1.0 - confidence_level) / math.log(target))


def _counts(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Photos covered and photos right at each threshold of `GRID`."""
    ascending = np.argsort(confidence, kind="stable")
    first = np.searchsorted(confidence[ascending], GRID, side="left")
    right_from = np.append(np.cumsum(correct[ascending][::-1])[::-1], 0)
    return len(confidence) - first, right_from[first]


def _walk(covered: NDArray[np.int64], bounds: NDArray[np.float64], target: float, wanted: int) -> int:
    """Index of the last threshold to pass before the first failure; the first one tested where that one fails.

    Why the search costs nothing. H_t: precision(t) < target, precision(t) = P(right | confidence >= t) on new photos.
    Of the photos covered at a fixed t, the number right is binomial given their count, so the Clopper–Pearson test
    errs at most alpha of the time. A wrong promise needs a true H_t to be rejected, hence the first true one in the
    order to be rejected, which is one test at level alpha, however many follow: no Bonferroni.

    Why the start may look at the photos. The top of the grid covers too few photos to pass, so the walk starts at
    s = the first threshold that covers `wanted` photos. That reads counts, never correctness. Let j be the first true
    H. If s is at j or above, H_j is tested, and given its count the argument stands. If s is below j, then j … s - 1
    were skipped, and H_s is the first tested. Given the counts at s - 1 and at s, the number right at s is a sum of
    two binomials. Where precision does not rise as the threshold falls, both rates are below the target, the sum lies
    below Binomial(covered, target), and the level is still at most alpha. (Given all the confidences, the test also
    holds for the expected precision on these very photos, without that condition: Hoeffding 1956, doi
    10.1214/aoms/1177728178: a sum of unequal Bernoullis has lighter tails than the binomial of the same mean.)
    """
    start = _first(covered, wanted)
    failures = np.flatnonzero(bounds[start:] < target)
    passed = int(failures[0]) if len(failures) else len(bounds) - start
    return start + max(passed - 1, 0)


def _first(covered: NDArray[np.int64], wanted: int) -> int:
    """Index of the first threshold that covers so many photos; the last one where none does."""
    enough = np.flatnonzero(covered >= wanted)
    return int(enough[0]) if len(enough) else len(covered) - 1


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, received {value}: 0.95 means 95 %.")
