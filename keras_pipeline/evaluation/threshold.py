"""The confidence from which the app names the plant; answers below it are 'not conclusive'.

The plan asks for precision >= 0.95 above the threshold. The smallest threshold whose precision on n photos happens to
be 0.95 falls short of it on new photos about half of the time (tests/test_threshold.py). So the threshold is chosen
by tests in a fixed order, most confident answers first: 'Learn then Test' (Angelopoulos et al. 2021, arXiv 2110.01052),
with several starts that share the error, like interim looks at a clinical trial (Lan & DeMets 1983, doi
10.1093/biomet/70.3.659).
"""

import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrin
from scipy.stats import beta, binom

from keras_pipeline.evaluation.calibration import check_confidence

# No answer below it is ever conclusive. The plan's own scan starts here: below it an answer is more likely wrong than
# right, whatever the precision above it.
LEAST = 0.4

_SCAN = tuple(percent / 100 for percent in range(40, 95, 5))  # np.arange(0.4, 0.95, 0.05) without its rounding noise
_POWER, _DRAWS = 0.8, 200  # of `photos_needed`; 0.8 is the customary power
_MOST_STARTS = 64  # 1,600 photos at 0.95: after so many failures one more start hardly helps


def choose_threshold(
    confidence: ArrayLike, correct: ArrayLike, *, target: float = 0.95, confidence_level: float = 0.95
) -> dict[str, float | int | bool | None]:
    """Choose the smallest threshold that guarantees precision >= target on new photos.

    The guarantee: over repeated draws of the calibration photos, a threshold returned with `target_met` has a true
    precision below the target in at most 1 - confidence_level of the draws, the search included (why: see `_search`).
    It holds for independent photos: of several photos of one plant give only one, or the bound is too high.

    Args:
        confidence: [n], in [0, 1], the calibrated top-1 probability on photos that fitted nothing else.
        correct: bool or 0/1 [n].
        target, confidence_level: the precision guaranteed, and with which confidence (one-sided); in (0, 1).

    Returns:
        `threshold`: an answer counts as conclusive where confidence >= threshold; `precision` (None where no photo
        reaches it) and `coverage` measured there on these photos; `precision_lower_bound`: the precision guaranteed
        there, the target where `target_met`; `shortfall` = target - bound, 0.0 where met; `n`; `photos_needed`, see the
        function of this name, None where met. Where the target is missed, threshold and bound are those of the highest
        target, in thousandths, that the same search meets: bound 0.0 and threshold 1.0 where it meets none.

    Raises:
        ValueError: as `check_confidence`, or target or confidence_level outside (0, 1).

    Example:
        >>> confidence = np.linspace(0.5, 1.0, 400)  # those above 0.6 are right
        >>> chosen = choose_threshold(confidence, confidence > 0.6, target=0.95)
        >>> chosen["threshold"], chosen["target_met"], round(chosen["precision"], 3)
        (0.588, True, 0.973)
    """
    confidence, correct = check_confidence(confidence, correct)
    _check_share("target", target)
    _check_share("confidence_level", confidence_level)
    n = len(confidence)
    values, covered, wrong = _surest_first(confidence, correct)
    asked = values >= LEAST
    covered, wrong = covered[asked], wrong[asked]

    def search(target: float) -> int:
        return _search(covered, wrong, _schedule(n, target, confidence_level))

    chosen, bound = search(target), target
    met = chosen >= 0
    if not met:
        kept, missed = 0, math.ceil(target * 1000)
        while missed - kept > 1:
            middle = (kept + missed) // 2
            kept, missed = (middle, missed) if search(middle / 1000) >= 0 else (kept, middle)
        bound = kept / 1000
        chosen = search(bound) if kept else -1
    lower = values[chosen + 1] if chosen + 1 < len(values) else 0.0
    threshold = _between(lower, values[chosen]) if chosen >= 0 else 1.0
    return evaluate_threshold(confidence, correct, threshold) | {
        "precision_lower_bound": bound,
        "target_met": met,
        "shortfall": 0.0 if met else target - bound,
        "photos_needed": None if met else photos_needed(covered, wrong, n, target, confidence_level),
    }


def one_of_each(group_ids: ArrayLike, *, seed: int) -> NDArray[np.intp]:
    """Draw one photo of each group, so that the photos are independent; return their positions, rising."""
    groups = np.asarray(group_ids)
    order = np.random.default_rng(seed).permutation(len(groups))
    return np.sort(order[np.unique(groups[order], return_index=True)[1]])


def photos_needed(covered: ArrayLike, wrong: ArrayLike, n: int, target: float, confidence_level: float) -> int | None:
    """Estimate how many photos the search needs to meet the target in 80 % of draws, if new photos are like these.

    The estimate redraws photos from these (the bootstrap; 200 draws), and is good to within 5 %. None where even 20
    times as many would not do: the model errs too often even where it is most confident. None too where these photos
    are too few to estimate it: where one more answer at the confident end, half right (Jeffreys's prior, by which three
    right answers out of three prove nothing), needs over three times as many.

    Args:
        covered, wrong: integer [m], photos answered, and answered wrongly, at each threshold, most confident first.
        n: number of all photos.
        target: precision to guarantee, in (0, 1).
        confidence_level: in (0, 1), one-sided.
    """
    covered, wrong = np.asarray(covered), np.asarray(wrong)
    wrongly = np.diff(wrong, prepend=0)
    rightly = np.diff(covered, prepend=0) - wrongly
    measured = np.concatenate([rightly, wrongly, [n - rightly.sum() - wrongly.sum()]])
    doubted = np.concatenate([[0.5], rightly, [0.5], wrongly, measured[-1:]])

    def suffice(photos: int, weights: NDArray[np.float64]) -> bool:
        random, schedule = np.random.default_rng(0), _schedule(photos, target, confidence_level)
        met = 0
        for _ in range(_DRAWS):
            right, wrong = random.multinomial(photos, weights / weights.sum())[:-1].reshape(2, -1)
            met += _search(np.cumsum(right + wrong), np.cumsum(wrong), schedule) >= 0
        return met >= _POWER * _DRAWS

    few, enough = n, 20 * n
    if not suffice(enough, measured):
        return None
    while enough > max(1.05 * few, few + 1):
        middle = round(math.sqrt(few * enough))
        few, enough = (few, middle) if suffice(middle, measured) else (middle, enough)
    return enough if suffice(3 * enough, doubted) else None


def evaluate_threshold(confidence: ArrayLike, correct: ArrayLike, threshold: float) -> dict[str, float | int | None]:
    """Measure a threshold on any photos, such as the test split's.

    Returns:
        `{threshold, precision, coverage, n}`; precision is None where no photo reaches the threshold.

    Raises:
        ValueError: as `check_confidence`.
    """
    confidence, correct = check_confidence(confidence, correct)
    mask = confidence >= threshold
    precision = float(correct[mask].mean()) if mask.any() else None
    return {"threshold": threshold, "precision": precision, "coverage": float(mask.mean()), "n": len(confidence)}


def threshold_scan(confidence: ArrayLike, correct: ArrayLike) -> list[dict[str, float | None]]:
    """Return the plan's table (5.3): `[{threshold, accuracy, coverage}]` for 0.40, 0.45 … 0.90.

    It describes these photos and guarantees nothing; `choose_threshold` does. Accuracy is None where no photo is
    covered. Raises as `check_confidence`.
    """
    rows = (evaluate_threshold(confidence, correct, threshold) for threshold in _SCAN)
    return [{"threshold": r["threshold"], "accuracy": r["precision"], "coverage": r["coverage"]} for r in rows]


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return the share of wrong answers among the most confident photos, as more and more are answered.

    See Geifman & El-Yaniv 2017, arXiv 1705.08500.

    Returns:
        coverage: [m], rising to 1, one point for each distinct confidence: a threshold cannot separate equal ones.
        risk: [m], 1 - precision among the photos covered.
        aurc: the mean of the risk over the n photos in that order, where equal confidences share theirs
            (Geifman, Uziel & El-Yaniv 2019, arXiv 1805.08206); lower is better.

    Raises:
        ValueError: as `check_confidence`.
    """
    confidence, correct = check_confidence(confidence, correct)
    _, covered, wrong = _surest_first(confidence, correct)
    risk = wrong / covered
    return covered / len(confidence), risk, float((risk * np.diff(covered, prepend=0)).sum() / len(confidence))


def precision_lower_bound(right: ArrayLike, covered: ArrayLike, *, confidence_level: float) -> NDArray[np.float64]:
    """Return the one-sided Clopper–Pearson bound on a precision, elementwise; 0.0 where nothing is right or covered.

    beta.ppf(1 - confidence_level, right, covered - right + 1): Clopper & Pearson 1934 in the form of
    Brown, Cai & DasGupta 2001 (doi 10.1214/ss/1009213286), section 4.2.1.

    Args:
        right: photos answered correctly, 0 <= right <= covered.
        covered: photos answered.
        confidence_level: in (0, 1).

    Example:
        59 right answers out of 59 are the fewest that guarantee 0.95:

        >>> precision_lower_bound([58, 59], [58, 59], confidence_level=0.95).round(4).tolist()
        [0.9497, 0.9505]
    """
    right, covered = np.asarray(right, np.float64), np.asarray(covered, np.float64)
    bound = beta.ppf(1.0 - confidence_level, np.maximum(right, 1.0), covered - right + 1.0)
    return np.where(right > 0, bound, 0.0)


def _surest_first(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct confidences, falling, the photos that reach each, and the wrong answers among them."""
    values, group = np.unique(-confidence, return_inverse=True)
    covered = np.cumsum(np.bincount(group, minlength=len(values)))
    return -values, covered, np.cumsum(np.bincount(group[~correct], minlength=len(values)))


def _between(lower: float, upper: float) -> float:
    """Return the number of fewest decimals, three or more, that separates two confidences: in (lower, upper]."""
    for decimals in range(3, 17):
        rounded = math.floor(upper * 10**decimals) / 10**decimals
        if max(lower, LEAST - 1e-9) < rounded <= upper:
            return rounded
    return float(upper)


def _search(covered: NDArray[np.int64], wrong: NDArray[np.int64], schedule: tuple) -> int:
    """Return the index of the lowest threshold that passes; -1 where none does.

    Thresholds are tested at the counts of the schedule, most confident answers first. Once one of the starts is passed,
    the search goes down, with one more wrong answer allowed at each test, until a test fails. After a failure it may
    start again. From the last test passed it goes on until one more answer than allowed is wrong.

    Why a guarantee is broken at most 1 - confidence_level of the time: assume that precision does not rise as the
    threshold falls, and let J be the first count at which it lies below the target; it lies below at all later ones
    too. A broken guarantee is a search that ends at J or later. Either a search under way passes the first test from J
    on, or a start is passed from there on. Each answer above a confidence fixed beforehand is wrong with a chance of at
    least 1 - target, independently of the others; so is, given those, each further answer. `_schedule` computes the
    chance of either at exactly 1 - target, for every test, and keeps it at 1 - confidence_level. How the wrong answers
    are placed before J does not matter: a search under way counts as certain.

    The argument leaves two things open, which simulation covers (benchmark threshold_search): J may lie between two
    tests, behind the last one passed; and precision may rise again below J.

    Args:
        covered, wrong: integer [m], rising, photos answered and answered wrongly at each threshold, most confident
            first. Where confidences are equal, a test is made at the first count that is no less than the schedule's.
        schedule: of `_schedule`.
    """
    start, go_on = schedule
    counts = np.concatenate([start, go_on])
    order = np.argsort(counts, kind="stable")
    index = np.searchsorted(covered, counts[order])
    order, index = order[index < len(covered)], index[index < len(covered)]
    starts = order < len(start)
    allowed = np.where(
        starts, *(np.searchsorted(needed, covered[index], side="right") - 1 for needed in (start, go_on))
    )
    under_way, last = False, -1
    for test, (is_start, passed) in enumerate(zip(starts, wrong[index] <= allowed, strict=True)):
        under_way = (under_way or passed) if is_start else (under_way and passed)
        if under_way and passed:
            last = test
    return int(np.searchsorted(wrong, allowed[last], side="right")) - 1 if last >= 0 else -1


@functools.lru_cache(256)
def _schedule(n: int, target: float, confidence_level: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (start, go_on): [e] is the count at which e wrong answers are few enough to start, or to go on.

    A start with e wrong answers is a binomial test at a level proportional to (1 + e) ** -sqrt(20 / (n (1 - target))),
    at 0.95 and 400 photos 1 / (1 + e): of few photos only the most confident can prove anything. The levels are the
    largest at which any start is passed at most 1 - confidence_level of the time, where answers are right exactly as
    often as the target. Tests are made where one more wrong answer becomes acceptable, which loses nothing: a test in
    between would only be harder. In simulated worlds of 200 photos and more this shape was never worse than the search
    that began at a third of the photos, and better than all others on average, though not in each world
    (benchmarks/README.md).
    """
    error, slip = 1.0 - confidence_level, 1.0 - target
    wrong = np.arange(min(_MOST_STARTS, n))

    def starts(level: float) -> NDArray[np.int64]:
        found = _least_count(wrong, np.minimum(error, level * (1.0 + wrong) ** -math.sqrt(20 / (n * slip))), slip)
        return found[found <= n]

    low, high = 0.0, error
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if _passed_later(starts(middle), slip)[0, 0] <= error else (low, middle)
    start = starts(high if _passed_later(starts(high), slip)[0, 0] <= error else low)
    go_on = _least_count(np.arange(int(binom.ppf(error, n, slip)) + 2), error, slip)
    later = _passed_later(start, slip)[:, :-1]
    here = binom.pmf(np.arange(later.shape[1]), np.arange(len(later))[:, None], slip)
    missed = here * later  # as many wrong, and a later start passed
    either = np.cumsum(here - missed, axis=1) + missed.sum(axis=1, keepdims=True)
    go_on[: len(start)] = (either > error).sum(axis=0)
    return start, go_on[go_on <= n]


def _passed_later(start: NDArray[np.int64], slip: float) -> NDArray[np.float64]:
    """Return the chance [k, e] that a start at more than k photos is passed, given that e of the k are wrong.

    Further answers are wrong with chance `slip`; the last column, too many wrong for any start, is 0.
    """
    chance = np.zeros((start[-1] + 1 if len(start) else 1, len(start) + 1))
    allowed = dict(zip(start.tolist(), range(len(start)), strict=True))
    for k in range(len(chance) - 1, 0, -1):
        here = chance[k].copy()
        here[: allowed.get(k, -1) + 1] = 1.0
        chance[k - 1, :-1] = (1.0 - slip) * here[:-1] + slip * here[1:]
    return chance


def _least_count(wrong: NDArray[np.int64], level: ArrayLike, slip: float) -> NDArray[np.int64]:
    """Return the fewest photos among which so few wrong answers, each of chance `slip`, have chance `level` at most."""
    return np.ceil(bdtrin(wrong, level, slip) - 1e-9).astype(np.int64)


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, received {value}: 0.95 means 95 %.")
