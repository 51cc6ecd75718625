"""95 % intervals of metrics, and whether the difference between two models is more than chance.

Photos of a group (one observation, one photographer's series) succeed and fail together. Groups are therefore resampled
and counted, never photos: the percentile bootstrap over clusters (Efron & Tibshirani 1993, sections 8.5 and 13.3;
Field & Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x). The ends of an interval differ between seeds by about 4 % of
its half-width: sqrt(0.025 * 0.975 / 1000) / normal density at 1.96.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

TAIL = 0.025  # on either side of a 95 % interval
REPLICATES = 1000
MIN_REPLICATES = 100  # fewer leave two beyond each end
# By McNemar's exact two-sided test no smaller number of disagreements is significant, even if all point one way:
# 2 / 2**5 = 0.0625, 2 / 2**6 = 0.031. The bootstrap alone accepts 4: only exp(-4) of its replicates hold none of them.
MIN_DISAGREEMENTS = 6

_AT_A_TIME = 32  # replicates: their weights of 100,000 groups take 26 MB

Entry = dict[str, object]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same photos; the entries are described at `compare`."""

    overall: Entry
    per_region: dict[str, Entry]  # by name

    def table(self) -> dict[str, Entry]:
        """Return `{'all': overall, region: entry …}`; a region called 'all' gets the key 'region all'."""
        return {"all": self.overall} | {
            "region all" if name == "all" else name: entry for name, entry in self.per_region.items()
        }


def accuracy_intervals(
    right: ArrayLike,
    right_in_5: ArrayLike,
    labels: ArrayLike,
    regions: ArrayLike,
    group_ids: ArrayLike,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Entry:
    """Return 95 % intervals of top-1, top-5, macro recall and each region's top-1, all from the same replicates.

    A replicate draws as many groups as there are, with replacement. Its macro recall is the mean over the classes that
    it holds. Rare classes, which tend to have low recalls, are missing from many replicates; the interval is shifted by
    the bias that this causes. It stays about 15 % too narrow where most classes have a single group, 5 % at two. A
    region's interval rests on the replicates that hold the region. Where all replicates agree (everything right,
    everything wrong, one group), the bootstrap interval is a point; `share_interval` of the groups replaces it.

    Args:
        right, right_in_5: bool [n], whether the first guess is the label, and whether the first five hold it.
        labels: integer [n], >= 0.
        regions, group_ids: n names.
        replicates, seed: of the draws, 100 or more.

    Returns:
        `groups`, their number; `top1_interval, top5_interval, macro_recall_interval`, each [low, high] in [0, 1];
        `per_region: {region: {groups, top1_interval}}` sorted by name.

    Raises:
        ValueError: no photos, lengths that differ, `right*` not bool, negative labels, too few replicates.
    """
    right, right_in_5, labels, regions, group_ids = _aligned(
        right=right, right_in_5=right_in_5, labels=labels, regions=regions, group_ids=group_ids
    )
    names, region = np.unique(regions, return_inverse=True)
    groups = len(np.unique(group_ids))
    region_groups = groups_per(region, group_ids, len(names))

    def statistics(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        hits = weight * right
        recalls = _shares(np.bincount(labels, hits), np.bincount(labels, weight))
        by_region = _shares(np.bincount(region, hits), np.bincount(region, weight))
        photos = weight.sum()
        return np.array([hits.sum() / photos, weight @ right_in_5 / photos, np.nanmean(recalls), *by_region])

    estimates, samples = cluster_bootstrap(statistics, group_ids, replicates, seed)
    samples[:, 2] += estimates[2] - samples[:, 2].mean()
    limits = np.clip(limits_of(samples), 0.0, 1.0)
    certain = ~(limits[:, 0] < limits[:, 1])
    limits[certain] = share_interval(estimates, np.r_[[groups] * 3, region_groups])[certain]
    top1, top5, macro_recall, *by_region = limits.tolist()
    per_region = {
        str(name): {"groups": int(count), "top1_interval": interval}
        for name, count, interval in zip(names, region_groups, by_region, strict=True)
    }
    return {
        "groups": groups, "top1_interval": top1, "top5_interval": top5, "macro_recall_interval": macro_recall,
        "per_region": per_region,
    }  # fmt: skip


def share_interval(share: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Return the Clopper-Pearson 95 % interval of a share, such as a recall, with groups as trials; elementwise.

    For a class with few photos, or with all of them right or wrong, the bootstrap is too narrow, or a point at 0 or 1.
    This interval errs on the wide side: it holds in at least 95 % of worlds, and several photos of a group carry a
    little more information than one. `share * groups` hits need not be whole: the Beta quantiles of Brown, Cai &
    DasGupta 2001 (doi 10.1214/ss/1009213286), section 4.2.1, are defined between whole numbers too.

    Args:
        share: in [0, 1], any shape.
        groups: >= 0, of the same shape.

    Returns:
        float64 [..., 2], low and high; NaN where there is no group.

    Raises:
        ValueError: a share outside [0, 1] where there are groups.
    """
    from scipy.special import betaincinv  # slow to import, and the gates, which every run judges, never come here

    share, groups = np.asarray(share, np.float64), np.asarray(groups, np.float64)
    if not np.all((groups == 0) | ((share >= 0) & (share <= 1))):
        raise ValueError(f"Shares must lie in [0, 1], received {share}: give hits / photos, not percentages.")
    hits = share * groups
    misses = groups - hits
    with np.errstate(invalid="ignore"):  # NaN shares of no groups
        low = np.where(hits > 0, betaincinv(np.where(hits > 0, hits, 1), misses + 1, TAIL), 0.0)
        high = np.where(misses > 0, betaincinv(hits + 1, np.where(misses > 0, misses, 1), 1 - TAIL), 1.0)
    return np.where((groups > 0)[..., None], np.stack([low, high], axis=-1), np.nan)


def compare(
    right_first: ArrayLike,
    right_second: ArrayLike,
    regions: ArrayLike,
    group_ids: ArrayLike,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Tell whether the second classifier is better than the first, by a paired bootstrap of groups.

    Args:
        right_first: bool [n], whether the first classifier named the photo's class.
        right_second: bool [n], the second one over the same photos in the same order.
        regions, group_ids: n names.
        replicates: >= 100.
        seed: of the draws.

    Returns:
        Entries `{n, groups, first, second, difference, interval, verdict}`, overall and for each region: top-1 of each,
        second - first and its 95 % interval [low, high] in [-1, 1]. `verdict` is 'better' (the second one) or 'worse'
        where the interval excludes 0 and the two differ on at least 6 groups, 'no difference shown' elsewhere. One
        verdict in 20 is wrong by chance, so mind how many regions there are.

    Raises:
        ValueError: no photos, lengths that differ, answers that are not bool, too few replicates.
    """
    first, second, regions, group_ids = _aligned(
        right_first=right_first, right_second=right_second, regions=regions, group_ids=group_ids
    )
    names, region = np.unique(regions, return_inverse=True)
    gain = second.astype(np.float64) - first

    def statistics(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        gains = weight * gain
        by_region = _shares(np.bincount(region, gains), np.bincount(region, weight))
        return np.array([gains.sum() / weight.sum(), *by_region])

    overall, *by_region = limits_of(cluster_bootstrap(statistics, group_ids, replicates, seed)[1]).tolist()
    per_region = {}
    for i, (name, interval) in enumerate(zip(names, by_region, strict=True)):
        own = region == i
        per_region[str(name)] = _entry(first[own], second[own], group_ids[own], interval)
    return Comparison(_entry(first, second, group_ids, overall), per_region)


def groups_per(index: ArrayLike, group_ids: ArrayLike, size: int) -> NDArray[np.int64]:
    """Count the distinct groups that have a photo of each class or region, int64 [size].

    Args:
        index: integer [n], in [0, size), the photo's class or region.
        group_ids: n names.
    """
    names, group = np.unique(group_ids, return_inverse=True)
    pairs = np.unique(np.asarray(index, np.int64) * len(names) + group)
    return np.bincount(pairs // len(names), minlength=size)


def cluster_bootstrap(
    statistics: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    group_ids: ArrayLike,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute statistics of the photos and of bootstrap replicates: as many groups as there are, with replacement.

    Args:
        statistics: how often each photo counts, float64 [n] -> float64 [m].
        group_ids: n names.
        replicates: >= 100.
        seed: of the draws.

    Returns:
        The statistics float64 [m] of the photos as they are, and [replicates, m] of the replicates.

    Raises:
        ValueError: too few replicates.
    """
    _check_replicates(replicates)
    names, group = np.unique(group_ids, return_inverse=True)
    # One replicate at a time: the weights of all would take 700 MB.
    samples = [statistics(drawn.astype(np.float64)[group]) for drawn in _draws(len(names), replicates, seed)]
    return statistics(np.ones(len(group))), np.stack(samples)


def bootstrap_sums(
    columns: Any, group_ids: ArrayLike, replicates: int = REPLICATES, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum columns over the photos and over the replicates of `cluster_bootstrap`, which draws the same groups.

    For statistics that are functions of sums: each group is summed once, and a replicate weighs groups, not photos.

    Args:
        columns: [n, k], of each photo; a SciPy sparse array where most are 0.
        group_ids, replicates, seed: as `cluster_bootstrap`.

    Returns:
        float64 [k] of the photos as they are, and [replicates, k].

    Raises:
        ValueError: too few replicates.
    """
    from scipy.sparse import csr_array  # slow to import, and the gates, which every run judges, never come here

    _check_replicates(replicates)
    names, group = np.unique(group_ids, return_inverse=True)
    photos = np.arange(len(group))
    by_group = csr_array((np.ones(len(group)), (group, photos)), (len(names), len(group))) @ csr_array(columns)
    draws, samples = _draws(len(names), replicates, seed), []
    while drawn := list(itertools.islice(draws, _AT_A_TIME)):
        samples.append((by_group.T @ np.stack(drawn, axis=1)).T)
    return by_group.sum(axis=0), np.concatenate(samples)


def _draws(groups: int, replicates: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield how often each replicate holds each group, integer [groups]."""
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(rng.integers(0, groups, groups), minlength=groups)


def _check_replicates(replicates: int) -> None:
    if replicates < MIN_REPLICATES:
        raise ValueError(f"replicates: received {replicates}, expected at least {MIN_REPLICATES}: give {REPLICATES}")


def limits_of(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the middle 95 % of the replicates lie, [replicates, m] -> [m, 2]; NaN don't count."""
    return np.nanpercentile(samples, [100 * TAIL, 100 * (1 - TAIL)], axis=0).T


def _entry(first: NDArray, second: NDArray, group_ids: NDArray, interval: list[float]) -> Entry:
    names, group = np.unique(group_ids, return_inverse=True)
    gains = np.bincount(group, second.astype(np.float64) - first)
    verdict = "no difference shown"
    if np.count_nonzero(gains) >= MIN_DISAGREEMENTS and not interval[0] <= 0 <= interval[1]:
        verdict = "better" if interval[0] > 0 else "worse"
    return {
        "n": len(first), "groups": len(names), "first": float(first.mean()), "second": float(second.mean()),
        "difference": float(gains.sum() / len(first)), "interval": interval, "verdict": verdict,
    }  # fmt: skip


def _shares(hits: NDArray, photos: NDArray) -> NDArray[np.float64]:
    return np.divide(hits, photos, out=np.full(len(photos), np.nan), where=photos > 0)


def _aligned(**columns: ArrayLike) -> list[NDArray]:
    """Return the columns as arrays [n], or raise ValueError where they are malformed or do not fit each other."""
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 or 0 in shape for shape in shapes.values()):
        raise ValueError(f"Received shapes {shapes}, expected one [n] for all, n >= 1: give each photo's value once.")
    for name, array in arrays.items():
        if name.startswith("right") and array.dtype != np.bool_:
            raise ValueError(f"{name}: received {array.dtype}, expected bool: give `ranks < k` or `answer == label`.")
    if "labels" in arrays and (arrays["labels"].dtype.kind not in "iu" or arrays["labels"].min() < 0):
        raise ValueError("labels: received other values, expected integers from 0 on: give class indices.")
    return list(arrays.values())
