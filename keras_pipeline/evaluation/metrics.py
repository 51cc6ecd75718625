"""Accuracy, recall and loss from logits and labels: arrays in, plain dictionaries out.

Sums over photos are taken in blocks of rows: at full size the test split's logits are [85,000, 9,000], and a float64
copy of them (6 GB) would not fit beside the original.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_pipeline.core import taxonomy
from keras_pipeline.core.dataset import MIN_PHOTOS
from keras_pipeline.evaluation.confusion import confused_pairs
from keras_pipeline.evaluation.intervals import accuracy_intervals, groups_per, share_interval
from keras_pipeline.evaluation.mapped import forget_pages

T = TypeVar("T")
Names = Sequence[str] | NDArray[np.str_]
_BLOCK_ELEMENTS = 1 << 17  # 1 MB as float64: fits the cache, and the loop's own cost is negligible
_FORGET_EVERY = 64  # blocks: 34 MB of float32


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return class probabilities softmax(logits / temperature).

    Args:
        logits: [n, C], finite.
        temperature: > 0; above 1 flattens, below 1 sharpens (Guo et al. 2017, arXiv 1706.04599, eq. 9).

    Returns:
        float64 [n, C]; each row sums to 1.

    Raises:
        ValueError: logits not a finite, non-empty [n, C], or temperature not above zero.
    """
    return np.exp(log_softmax(logits, temperature))


def log_softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log softmax(logits / temperature), float64 [n, C]; arguments and errors as `softmax`."""
    # By hand: scipy.special.log_softmax gives the same bits, but takes 2.3 times as long on a block of 9,000 classes.
    check_temperature(temperature)
    scaled = check_logits(logits).astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def nll(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Return the mean negative log likelihood of the labels, in nats per photo (cross-entropy without smoothing).

    Args:
        logits: [n, C], finite.
        labels: integer [n], in [0, C).
        temperature: > 0, divides the logits.

    Raises:
        ValueError: shapes that do not match, no photos, NaN or infinite logits, labels out of range.
    """
    return _nll_and_confidence(*check_logits_and_labels(logits, labels), temperature)[0]


def _nll_and_confidence(
    logits: NDArray, labels: NDArray, temperature: float = 1.0
) -> tuple[float, NDArray[np.float64]]:
    """Return `nll`, and the probability of each photo's first guess, [n]."""
    total, confidence = 0.0, np.empty(len(labels))
    for rows in row_blocks(logits.shape):
        log_probabilities = log_softmax(logits[rows], temperature)
        total -= float(np.take_along_axis(log_probabilities, labels[rows, None], axis=1).sum())
        confidence[rows] = np.exp(log_probabilities.max(axis=1))
    return total / len(labels), confidence


def first_guesses(logits: ArrayLike) -> NDArray[np.int64]:
    """Return the class with the highest logit, the first of equals, int64 [n]; raises as `check_logits`."""
    logits = check_logits(logits)
    # NumPy would first copy what isn't contiguous: one row shown 85,000 times becomes 3 GB.
    return np.concatenate([logits[rows].argmax(axis=1) for rows in row_blocks(logits.shape)])


def label_ranks(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Return the rank of the true class in each photo, int64 [n]: 0 is the first guess.

    Classes with equal logits are ranked by class index, so that the rank does not depend on the sorting algorithm.
    Raises as `nll`.
    """
    logits, labels = check_logits_and_labels(logits, labels)
    ranks = np.empty(len(labels), np.int64)
    class_index = np.arange(logits.shape[1])
    for rows in row_blocks(logits.shape):
        block, label = logits[rows], labels[rows, None]
        own = np.take_along_axis(block, label, axis=1)
        ranks[rows] = ((block > own) | ((block == own) & (class_index < label))).sum(axis=1)
    return ranks


def topk_accuracy(logits: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Return the share of photos whose true class is among the k highest logits, in [0, 1].

    Args:
        logits: [n, C], finite.
        labels: integer [n], in [0, C).
        k: >= 1; above C it counts as C.

    Raises:
        ValueError: as `nll`, or k below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, received {k}: give the number of guesses that may be right.")
    return float((label_ranks(logits, labels) < k).mean())


def classification_metrics(
    logits: ArrayLike, labels: ArrayLike, regions: Names, classes: Sequence[str], group_ids: Names
) -> dict[str, object]:
    """Compute the metrics of a `metrics_<split>.json`.

    Args:
        logits: [n, C], finite; one row per photo, each photo once.
        labels: integer [n], in [0, C).
        regions: n region names.
        classes: C latin names, in the order of the labels, without repeats.
        group_ids: n names; photos of one group are not independent, so intervals count groups.

    Returns:
        `n, groups, top1_accuracy, top5_accuracy, loss` (nats per photo), `macro_recall` (mean over classes that have
        photos); `top1_interval, top5_interval, macro_recall_interval`, [low, high] of `accuracy_intervals`;
        `species`, those with a photo;
        `per_region: {region: {n, species, groups, top1, top1_interval, top5}}` sorted by name;
        `per_class_recall: {latin_name: {n, groups, recall, interval}}`, [low, high] of `share_interval`, recall and
        interval None without photos;
        `min_recall: {latin_name, n, recall}` over classes with at least 20 photos, None where there is none;
        `worst_tenth: {species, of, recall}` of `worst_tenth`;
        `genus_accuracy`, the share of photos whose first guess is of the right genus;
        `confused_pairs, confused_genera: [{truth, answer, n, groups, share, interval}]` of `confusion.confused_pairs`.

    Raises:
        ValueError: shapes or lengths that do not match, no photos, NaN or infinite logits, labels out of range,
            regions or groups that are not text, repeated class names.
    """
    logits, labels = check_logits_and_labels(logits, labels)
    _check_names(list(regions), classes, list(group_ids), logits.shape)
    ranks = label_ranks(logits, labels)
    region_of, group_of = np.asarray(regions, np.str_), np.asarray(group_ids, np.str_)
    recall = _with_intervals(_recalls(ranks == 0, labels, classes), labels, group_of)
    measured = [entry["recall"] for entry in recall.values() if entry["recall"] is not None]
    intervals = accuracy_intervals(ranks < 1, ranks < 5, labels, region_of, group_of)
    regional: Any = intervals.pop("per_region")
    answers, (loss, confidence) = first_guesses(logits), _nll_and_confidence(logits, labels)
    rank = taxonomy.Rank.of("genus", taxonomy.genera(classes))
    genus = np.array(rank.members)
    return {
        "n": len(labels),
        "species": len(measured),
        "top1_accuracy": float((ranks < 1).mean()),
        "top5_accuracy": float((ranks < 5).mean()),
        "loss": loss,
        "macro_recall": float(np.mean(measured)),
        **intervals,
        "per_region": {name: entry | regional[name] for name, entry in _by_region(ranks, labels, region_of).items()},
        "per_class_recall": recall,
        "min_recall": _min_recall(recall),
        "worst_tenth": worst_tenth(ranks == 0, labels, group_of),
        "genus_accuracy": float((genus[answers] == genus[labels]).mean()),
        "confused_pairs": confused_pairs(labels, answers, classes, group_of, confidence),
        "confused_genera": confused_pairs(genus[labels], genus[answers], rank.taxa, group_of, confidence),
    }


def worst_tenth(right: NDArray[np.bool_], labels: NDArray, group_ids: NDArray) -> dict[str, int | float] | None:
    """Return the mean recall of the tenth of the species that are recognised worst, chosen by other photos.

    The lowest of many recalls is low by chance: of 1,000 species with a recall of 0.72 each, some show 0.4 on 20
    photos. So each species' groups are dealt into two halves; those with the lowest recalls on the one are judged on
    the other, and the reverse. A species that is in fact no worse than others is at its own recall there.

    Args:
        right: bool [n], whether the first guess is right.
        labels: integer [n].
        group_ids: text [n].

    Returns:
        {species, of, recall}: `species` of `of` with at least 20 photos and two groups; None where there is none.

    >>> right = np.tile([True, False, True, True], 10)  # 20 photos of either species, in groups of two
    >>> worst_tenth(right, np.repeat([0, 1], 20), np.repeat(np.arange(20).astype(str), 2))
    {'species': 1, 'of': 2, 'recall': 0.75}
    """
    hits, counts = np.zeros((2, labels.max() + 1)), np.zeros((2, labels.max() + 1))
    groups, group = np.unique(group_ids, return_inverse=True)
    pairs, pair = np.unique(labels * len(groups) + group, return_inverse=True)  # a species' photos of a group
    species = pairs // len(groups)
    half = ((np.arange(len(pairs)) - np.searchsorted(species, species)) % 2)[pair]
    np.add.at(hits, (half, labels), right)
    np.add.at(counts, (half, labels), 1)
    judged = np.flatnonzero((counts.sum(axis=0) >= MIN_PHOTOS) & (counts > 0).all(axis=0))
    if not judged.size:
        return None
    recalls = hits[:, judged] / counts[:, judged]
    tenth = -(-judged.size // 10)
    worst = np.argsort(recalls, axis=1, kind="stable")[:, :tenth]
    recall = np.mean([recalls[1, worst[0]], recalls[0, worst[1]]])
    return {"species": tenth, "of": int(judged.size), "recall": float(recall)}


TRAIN_BINS = ((0, 0), (1, 1), (2, 4), (5, 9), (10, 19), (20, 49), (50, 99), (100, None))  # train photos of a species


def recall_by_train_photos(
    right: NDArray[np.bool_], labels: NDArray, group_ids: NDArray, train_photos: ArrayLike
) -> list[dict[str, Any]]:
    """Pool the photos of species that were learnt from equally many photos: what does a species need to be recognised?

    Args:
        right: bool [n], whether the first guess is right.
        labels: integer [n], in [0, C).
        group_ids: text [n].
        train_photos: integer [C], of each class.

    Returns:
        `[{train: [low, high], species, n, groups, recall, interval}]` of the `TRAIN_BINS` that have photos, both ends
        included, the last high None; `species` with a photo here, `interval` with groups as trials.
    """
    counts = np.asarray(train_photos)[labels]
    rows: list[dict[str, Any]] = []
    for low, high in TRAIN_BINS:
        inside = (counts >= low) & (counts <= (np.inf if high is None else high))
        if not inside.any():
            continue
        groups, recall = len(np.unique(group_ids[inside])), float(right[inside].mean())
        rows.append(
            {
                "train": [low, high], "species": len(np.unique(labels[inside])), "n": int(inside.sum()),
                "groups": groups, "recall": recall, "interval": share_interval(recall, groups).tolist(),
            }
        )  # fmt: skip
    return rows


def check_logits(logits: ArrayLike) -> NDArray:
    """Return `logits` as an array; raise ValueError unless it is a finite, non-empty [n, C]."""
    logits = _check_shape(logits)
    _refuse_rows(sum(_bad_rows(logits[rows]) for rows in row_blocks(logits.shape)), len(logits))
    return logits


def check_logits_and_labels(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Return both as arrays; raise ValueError where they are malformed or do not fit each other."""
    logits, labels = check_labels(logits, labels)
    return check_logits(logits), labels


def check_labels(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Check as `check_logits_and_labels`, all but NaN and infinity, which `by_blocks` finds in the logits."""
    logits, labels = _check_shape(logits), np.asarray(labels)
    if labels.shape != (len(logits),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Labels must be integers of shape ({len(logits)},), received {labels.dtype} of shape {labels.shape}: "
            "give class indices, one per row of the logits (not one-hot rows, not names)."
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"Labels must lie in [0, {logits.shape[1]}), received {labels.min()} to {labels.max()}: "
            "logits and labels come from different class lists."
        )
    return logits, labels


def _check_shape(logits: ArrayLike) -> NDArray:
    logits = np.asanyarray(logits)  # a memory map stays one
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(
            f"Logits must be a non-empty [n, C] array, received shape {logits.shape}: "
            "check that the split holds photos and that the model returns one row per photo."
        )
    return logits


def _bad_rows(block: NDArray) -> int:
    finite = np.isfinite(block)
    return 0 if finite.all() else int((~finite).any(axis=1).sum())


def _refuse_rows(bad: int, n: int) -> None:
    if bad:
        raise ValueError(
            f"Logits must be finite, received NaN or infinity in {bad} of {n} rows: the training "
            "diverged or half precision overflowed; lower the learning rate or predict in float32."
        )


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Return slices that walk over the rows of an [n, C] array, a bounded number of elements at a time."""
    step = max(1, _BLOCK_ELEMENTS // shape[1])
    return (slice(start, start + step) for start in range(0, shape[0], step))


def by_blocks(logits: NDArray, work: Callable[[slice, NDArray], T]) -> list[T]:
    """Apply work(rows, logits[rows]) to all of `row_blocks`, in threads; raise ValueError for NaN or infinity."""

    def checked(rows: slice) -> tuple[int, T | None]:
        block = np.asarray(logits[rows])
        bad = _bad_rows(block)
        result = None if bad else work(rows, block)
        if rows.start // len(block) % _FORGET_EVERY == 0:
            forget_pages(logits)
        return bad, result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bad, found = zip(*pool.map(checked, row_blocks(logits.shape)), strict=True)
    forget_pages(logits)
    _refuse_rows(sum(bad), len(logits))
    return list(found)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless the temperature is finite and above 0."""
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"Temperature must be finite and above 0, received {temperature}: 1.0 leaves logits unchanged."
        )


def _check_names(regions: list, classes: Sequence[str], group_ids: list, shape: tuple[int, ...]) -> None:
    if (len(regions), len(classes)) != shape or len(group_ids) != shape[0]:
        raise ValueError(
            f"Logits of shape {shape} need {shape[0]} regions and {shape[1]} classes, received {len(regions)} and "
            f"{len(classes)}, and as many groups as regions, received {len(group_ids)}: "
            "give one region and one group per photo and the dataset's class list."
        )
    for kind, names in (("Regions", regions), ("Groups", group_ids)):
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{kind} must be text, received another type: decode bytes and name the missing ones.")
    if len(set(classes)) != len(classes):
        raise ValueError(f"The class list repeats a name ({len(set(classes))} distinct of {len(classes)}): merge them.")


def _recalls(
    first_guess_right: NDArray[np.bool_], labels: NDArray, classes: Sequence[str]
) -> dict[str, dict[str, int | float | None]]:
    counts = np.bincount(labels, minlength=len(classes))
    hits = np.bincount(labels[first_guess_right], minlength=len(classes))
    return {
        name: {"n": int(n), "recall": float(hit / n) if n else None}
        for name, n, hit in zip(classes, counts, hits, strict=True)
    }


def _with_intervals(recall: dict[str, dict], labels: NDArray, group_ids: NDArray) -> dict[str, dict]:
    groups = groups_per(labels, group_ids, len(recall))
    limits = share_interval([entry["recall"] or 0.0 for entry in recall.values()], groups).tolist()
    return {
        name: entry | {"groups": int(count), "interval": interval if count else None}
        for (name, entry), count, interval in zip(recall.items(), groups, limits, strict=True)
    }


def _min_recall(recall: dict[str, dict]) -> dict[str, str | int | float] | None:
    judged = [(name, entry) for name, entry in recall.items() if entry["n"] >= MIN_PHOTOS]
    if not judged:
        return None
    name, entry = min(judged, key=lambda item: item[1]["recall"])
    return {"latin_name": name, "n": entry["n"], "recall": entry["recall"]}


def _by_region(ranks: NDArray[np.int64], labels: NDArray, regions: NDArray) -> dict[str, dict[str, int | float]]:
    table = {}
    for region in np.unique(regions).tolist():
        there = regions == region
        own = ranks[there]
        shares = {"top1": float((own < 1).mean()), "top5": float((own < 5).mean())}
        table[region] = {"n": len(own), "species": len(np.unique(labels[there])), **shares}
    return table
