"""Does the search for the 'not conclusive' threshold keep its promise, and does any other find more?

    .venv/bin/python -m benchmarks.calibration.threshold_search      (CPU only, one core, 2 minutes, 0.5 GB)

Worlds give how often the photo at each rank of confidence is named rightly; 2,000 draws of 200 to 1,600 photos each.

    power     how often the target is met, the true coverage of the threshold (0 where it is not), and how often the
              promise is broken, beside the search until version 1 (from a third of the photos down, a grid of
              confidences) and beside others: one start at the sure end; two starts of half the error each; Wiens's
              fallback from starts that double; Holm over the same counts; a wealth process (Ville's inequality); a
              band, exact, that holds at every count
    promise   200 draws in each world, in worlds made to break it, and with equal confidences: how often the target was
              missed though promised, and how often the lower bound named instead of it was too high

The last line is the smallest of: what chance alone allows (99.9 %) over the most promises broken, of 2,000 and of 200
draws; coverage over that of the search until version 1, mean of all worlds and numbers of photos. Exit 1 below 1.
"""

import math
import sys
from collections.abc import Callable

import numpy as np
from scipy.stats import beta, binom

from keras_pipeline.evaluation import threshold

TARGET, ERROR, SLIP, LEVEL = 0.95, 0.05, 1 - 0.95, 0.95
PHOTOS, DRAWS, PROMISES = (200, 400, 800, 1600), 2000, 200
RANKS = (np.arange(100_000) + 0.5) / 100_000
GRID = np.array([0.999, 0.998, 0.997, 0.996, *(thousandth / 1000 for thousandth in range(995, 399, -5))])


def line(*points: tuple[float, float]) -> np.ndarray:
    return np.interp(RANKS, *zip(*points, strict=True))


GOOD, WEAK = beta.ppf(1 - RANKS, 4, 0.6), beta.ppf(1 - RANKS, 1.2, 1)
FALLING = line((0, 0.9999), (1, 0.4))
# name: (confidence, how often right), by rank, surest first.
WORLDS = {
    "calibrated": (GOOD, GOOD),
    "overconfident": (GOOD, GOOD**1.3),
    "sure end": (FALLING, line((0, 0.997), (0.2, 0.99), (0.2001, 0.82), (0.35, 0.75), (1, 0.25))),
    "flat, small gain": (FALLING, line((0, 0.97), (0.7, 0.97), (0.7001, 0.7), (1, 0.5))),
    "flat": (FALLING, line((0, 0.98), (0.6, 0.98), (0.6001, 0.7), (1, 0.5))),
    "weak": (WEAK, WEAK),
    "surest worse": (FALLING, line((0, 0.93), (0.08, 0.95), (0.1, 0.99), (0.6, 0.97), (1, 0.5))),
}
HOSTILE = {
    "0.9499 everywhere": (FALLING, np.full_like(RANKS, 0.9499)),
    "0.9499 to a fifth, then 0.9": (FALLING, np.where(RANKS < 0.2, 0.9499, 0.9)),
    "0.99, then 0.9499 in all": (FALLING, line((0, 0.99), (0.1, 0.99), (0.1001, 0.9449), (1, 0.9449))),
    "dips, rises, falls": (
        FALLING,
        line((0, 1), (0.1, 1), (0.1001, 0.85), (0.2, 0.85), (0.2001, 1), (0.5, 1), (1, 0.2)),
    ),
    "calibrated, hundredths": (GOOD.round(2), GOOD),
    "calibrated, twentieths": ((GOOD * 20).round() / 20, GOOD),
    "overconfident, twentieths": ((GOOD * 20).round() / 20, GOOD**1.3),
}


def draw(right: np.ndarray, photos: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and wrong answers so far, [DRAWS, photos], surest first."""
    ranks = np.sort(random.integers(0, len(RANKS), (DRAWS, photos)), axis=1)
    return ranks, np.cumsum(random.random(ranks.shape) >= right[ranks], axis=1, dtype=np.int32)


def most_wrong(counts: np.ndarray, error: np.ndarray | float) -> np.ndarray:
    """As many wrong answers as the binomial test of this level allows; -1 where it allows none."""
    most = binom.ppf(error, counts, SLIP)
    return np.where(binom.cdf(most, counts, SLIP) <= error, most, most - 1).astype(int)


def follow(start: np.ndarray, go_on: np.ndarray) -> Callable:
    """The count at which a search ends, 0 where nothing passes; [k - 1]: wrong answers allowed among k photos."""

    def search(wrong: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        under_way, found = np.zeros(len(wrong), bool), np.zeros(len(wrong), int)
        for k in np.flatnonzero(np.maximum(start, go_on) >= 0):
            under_way = (wrong[:, k] <= start[k]) | under_way & (wrong[:, k] <= go_on[k])
            found[under_way] = k + 1
        return found

    return search


def until_now(n: int) -> Callable:
    """Fixed sequence over a grid of confidences, from the first one that a third of the photos reach, or 384."""

    def search(wrong: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        covered = np.stack([np.searchsorted(-row, -GRID, side="right") for row in confidence])
        so_far = np.take_along_axis(np.pad(wrong, ((0, 0), (1, 0))), covered, axis=1)
        waits = covered < max(59, min(384, n // 3))
        passes = np.minimum.accumulate(waits | (so_far <= most_wrong(np.arange(n + 1), ERROR)[covered]), axis=1)
        return (covered * (passes & ~waits)).max(axis=1)

    return search


def holm(n: int) -> Callable:
    counts = doubling(n, 59, math.sqrt(2))

    def search(wrong: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        chance = binom.cdf(wrong[:, counts - 1], counts, SLIP)
        order = np.argsort(chance, axis=1)
        small = np.take_along_axis(chance, order, axis=1) <= ERROR / np.arange(len(counts), 0, -1)
        return (counts[order] * np.minimum.accumulate(small, axis=1)).max(axis=1)

    return search


def doubling(n: int, first: int, factor: float = 2.0) -> np.ndarray:
    return (first * factor ** np.arange(1 + int(math.log(n / first, factor)))).astype(int)


def wealth(n: int) -> Callable:
    counts, wrong = np.arange(1, n + 1)[:, None], np.arange(n // 20)
    grown = 0.0
    for p in (0.96, 0.97, 0.98, 0.99, 0.995, 1 - 1e-9):
        grown = grown + np.exp((counts - wrong) * math.log(p / TARGET) + wrong * math.log((1 - p) / SLIP)) / 6
    return follow(((grown >= 1 / ERROR) & (wrong < counts)).sum(axis=1) - 1, np.full(n, -1))


def others(n: int) -> dict[str, Callable]:
    counts, none = np.arange(1, n + 1), np.full(n, -1)
    full, half = most_wrong(counts, ERROR), most_wrong(counts, ERROR / 2)
    third = max(72, min(384, n // 3))
    at = lambda *where: np.where(np.isin(counts, where), half, -1)  # noqa: E731
    fallback, levels = none.copy(), np.zeros(n)
    for place, k in enumerate(doubling(n, 72)):
        fallback[k - 1] = most_wrong(k, ERROR / 2 ** (place + 1))
        levels[k - 1 :] += ERROR / 2 ** (place + 1)
    low, high = 0.0, ERROR
    for _ in range(12):
        level = (low + high) / 2
        band = threshold._least_count(np.arange(n // 20), level, SLIP)
        low, high = (level, high) if threshold._passed_later(band[band <= n], SLIP)[0, 0] <= ERROR else (low, level)
    return {
        "until now": until_now(n),
        "sure end": follow(np.where(counts == 59, 0, -1), full),
        "two starts": follow(at(72, third), np.where(counts < third, half, full)),
        "fallback": follow(fallback, np.where(levels > 0, most_wrong(counts, np.maximum(levels, 1e-9)), -1)),
        "Holm": holm(n),
        "wealth": wealth(n),
        "band": follow(most_wrong(counts, low), none),
    }


def ours(n: int) -> Callable:
    schedule, counts = threshold._schedule(n, TARGET, LEVEL), np.arange(1, n + 1)
    return lambda wrong, confidence: np.array([threshold._search(counts, row, schedule) + 1 for row in wrong])


def power(random: np.random.Generator) -> tuple[float, float, float]:
    """(most promises broken, as a share; mean share met, then mean coverage, over those of the search until now)"""
    most, behind, totals = 0.0, {}, {}
    for name, (confidence, right) in WORLDS.items():
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        for n in PHOTOS:
            ranks, wrong = draw(right, n, random)
            found = {}
            for method, search in ({"this one": ours(n)} | others(n)).items():
                ends = search(wrong, confidence[ranks])
                rank = np.take_along_axis(ranks, np.maximum(ends - 1, 0)[:, None], axis=1)[:, 0]
                met = ends > 0
                broken = (met & (precision[rank] < TARGET)).mean()
                found[method] = met.mean(), (RANKS[rank] * met).mean(), broken
            best = np.max(list(found.values()), axis=0)
            for method, (met, coverage, _) in found.items():
                behind.setdefault(method, []).append((best[0] - met, best[1] - coverage))
                totals[method] = np.add(totals.get(method, 0.0), (met, coverage))
            most = max(most, found["this one"][2])
            cells = " | ".join(f"{met:.2f} {coverage:.3f} {broken:.3f}" for met, coverage, broken in found.values())
            print(f"| {name}, {n} | {cells} |", flush=True)
    for what, column in (("met", 0), ("coverage", 1)):
        cells = (
            f"{np.mean(lost, axis=0)[column]:.3f} ({np.max(lost, axis=0)[column]:.2f})" for lost in behind.values()
        )
        print(f"| {what}: behind the best, mean (most) | {' | '.join(cells)} |")
    return most, *(totals["this one"] / totals["until now"])


def promises(random: np.random.Generator) -> float:
    """The largest share of draws whose promise is broken, of the target or of the bound named instead."""
    threshold.photos_needed = lambda *_: None  # takes a second where the target is missed, and promises nothing
    most = 0.0
    for name, (confidence, right) in (WORLDS | HOSTILE).items():
        for n in (100, 400):
            broken = missed = too_high = 0
            for _ in range(PROMISES):
                rank = random.integers(0, len(RANKS), n)
                asked = confidence[rank], random.random(n) < right[rank]
                chosen = threshold.choose_threshold(*asked, target=TARGET, confidence_level=LEVEL)
                answered = confidence >= chosen["threshold"]
                short = answered.any() and right[answered].mean() < chosen["precision_lower_bound"]
                missed += not chosen["target_met"]
                broken, too_high = (
                    broken + (short and chosen["target_met"]),
                    too_high + (short and not chosen["target_met"]),
                )
            print(f"  {name}, {n}: target promised {1 - missed / PROMISES:.2f}, broken {broken / PROMISES:.3f}; less "
                  f"promised, too high {too_high / PROMISES:.3f}", flush=True)  # fmt: skip
            most = max(most, (broken + too_high) / PROMISES)
    return most


def main() -> float:
    random = np.random.default_rng(0)
    print("| world, photos | " + " | ".join(["this one", *others(200)]) + " |   (met, coverage, broken)")
    most, met, coverage = power(random)
    worst = promises(random)
    print(
        f"most promises broken: {most:.3f} of {DRAWS} draws, {worst:.3f} of {PROMISES}; the target is met {met:.2f} "
        f"times as often as by the search until version 1, with {coverage:.2f} times its coverage"
    )
    allowed = [binom.ppf(0.999, n, ERROR) / n for n in (DRAWS, PROMISES)]
    return min(allowed[0] / most, allowed[1] / worst, met, coverage)


if __name__ == "__main__":
    ratio = main()
    print(f"ratio {ratio:.2f}")
    sys.exit(int(ratio < 1))
