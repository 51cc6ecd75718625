"""Which classes, and which genera, are confused with which.

Computed from the (truth, answer) pairs that occur, because a full table of 9,000 classes would have 81 million cells.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_pipeline.core import taxonomy
from keras_pipeline.evaluation.intervals import groups_per, share_interval

# Above it, species are too many to be shown one by one: the 30 with the most mistakes are then less than a third of
# all. Of 900 species with 1 or 2 test photos each they held 8 % of the mistakes, so that confusions are shown by genus.
MANY_SPECIES = 100

Pair = dict[str, str | int | float | list[float]]


def confused_pairs(
    labels: ArrayLike,
    answers: ArrayLike,
    classes: Sequence[str],
    group_ids: ArrayLike,
    confidence: ArrayLike,
    *,
    most: int = 20,
) -> list[Pair]:
    """Return the mistakes with the most evidence, `[{truth, answer, n, groups, share, interval}]`.

    The evidence is `groups` times the lower end of `interval`: how often it happened independently, times the share of
    the truth that is taken for the answer for sure. 8 of 10 photos in as many groups (3.6) come before 30 of 600 (1.0),
    2 of 2 (0.32), 12 of 600 (0.12) and one photo of one (0.025). Equals by the sum of the confidences, then by a hash
    of their names: nothing is first because its name begins with A.

    Args:
        labels: integer [n], in [0, C).
        answers: integer [n], in [0, C), the first guesses.
        classes: C names, latin ones or genera.
        group_ids: text [n].
        confidence: [n], of the first guesses.
        most: number of entries at most.

    Returns:
        Entries in which `share` = n / photos of the truth, in (0, 1], and `interval` its 95 % interval [low, high] with
        the truth's groups as trials; `groups` hold the n photos.

    Raises:
        ValueError: lengths that differ, class indices outside the class list.
    """
    labels, answers = check_answers(labels, answers, len(classes))
    group_ids, confidence = _one_each("group_ids", group_ids, labels), _one_each("confidence", confidence, labels)
    wrong = labels != answers
    codes, pair, n = np.unique(labels[wrong] * len(classes) + answers[wrong], return_inverse=True, return_counts=True)
    truths, taken_for = np.divmod(codes, len(classes))
    share = n / np.bincount(labels, minlength=len(classes))[truths]
    intervals = share_interval(share, groups_per(labels, group_ids, len(classes))[truths])
    groups = groups_per(pair, group_ids[wrong], len(codes))
    evidence = groups * intervals[:, 0]
    sureness = np.bincount(pair, confidence[wrong], len(codes)).round(6)  # whatever the order in which it is summed
    names = [(str(classes[truth]), str(classes[answer])) for truth, answer in zip(truths, taken_for, strict=True)]
    ranked = sorted(range(len(codes)), key=lambda i: (-evidence[i], -sureness[i], stable_hash(*names[i])))
    return [
        {
            "truth": names[i][0], "answer": names[i][1], "n": int(n[i]), "groups": int(groups[i]),
            "share": float(share[i]), "interval": intervals[i].tolist(),
        }
        for i in ranked[:most]
    ]  # fmt: skip


def stable_hash(*names: str) -> bytes:
    """Return a hash by which to order what is otherwise equal: the same on every machine, blind to the alphabet."""
    return hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest()


def examples(
    labels: ArrayLike,
    answers: ArrayLike,
    confidence: ArrayLike,
    group_ids: ArrayLike,
    classes: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    most: int = 4,
) -> list[NDArray[np.int64]]:
    """Find photos that show these mistakes: the most confident of each group, then the others; equals by index.

    Args:
        labels: integer [n], in [0, C).
        answers: integer [n], in [0, C), the first guesses.
        confidence: [n], of the first guesses.
        group_ids: text [n]; photos of a group look alike.
        classes: C latin names.
        pairs: (truth, answer) latin names, as in `confused_pairs`; truth = answer finds right answers.
        most: indices per pair at most.

    Returns:
        One int64 [<= most] per pair; empty where no photo shows it.

    Raises:
        ValueError: lengths that differ, class indices outside the class list, a pair with an unknown name.
    """
    labels, answers = check_answers(labels, answers, len(classes))
    confidence, group_ids = _one_each("confidence", confidence, labels), _one_each("group_ids", group_ids, labels)
    index = {name: i for i, name in enumerate(classes)}
    unknown = sorted({name for pair in pairs for name in pair} - index.keys())
    if unknown:
        raise ValueError(f"pairs: received {unknown}, expected names of the class list: give the list they came from.")
    result = []
    for truth, answer in pairs:
        rows = np.flatnonzero((labels == index[truth]) & (answers == index[answer]))
        rows = rows[np.argsort(-confidence[rows], kind="stable")]
        firsts = np.sort(np.unique(group_ids[rows], return_index=True)[1])
        result.append(np.r_[rows[firsts], np.delete(rows, firsts)][:most])
    return result


def confusion_table(
    labels: ArrayLike, answers: ArrayLike, num_classes: int, *, most: int = 30
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count photos by truth and answer for the classes with the most mistakes, with the rest added up.

    A mistake counts for its truth and for its answer, so that both classes of a confused pair are shown.

    Args:
        labels: integer [n], in [0, C).
        answers: integer [n], in [0, C), the first guesses.
        num_classes: C.
        most: classes shown, >= 1; among equals those with more photos, then the first.

    Returns:
        shown: int64 [k], k = min(C, most), rising class indices.
        table: int64 [k, k], rows are truths; [k + 1, k + 1] where C > most, with the rest as the last row and column.

    Raises:
        ValueError: lengths that differ, class indices outside the class list.
    """
    labels, answers = check_answers(labels, answers, num_classes)
    wrong = labels != answers
    mistakes = np.bincount(np.r_[labels[wrong], answers[wrong]], minlength=num_classes)
    photos = np.bincount(labels, minlength=num_classes)
    shown = np.sort(np.lexsort((-photos, -mistakes))[:most])
    size = len(shown) + (num_classes > most)
    place = np.full(num_classes, len(shown))
    place[shown] = np.arange(len(shown))
    return shown, np.bincount(place[labels] * size + place[answers], minlength=size**2).reshape(size, size)


@dataclasses.dataclass(frozen=True)
class GenusTable:
    """Photos by genus: k shown genera, and the rest as a last row and column where there are more.

    `right_species`, `right_genus` and `mistakes` add up to all photos.
    """

    names: list[str]  # k genera, the most confused first
    others: int  # genera in the rest
    right_species: NDArray[np.int64]  # [k or k + 1], by the truth's genus
    right_genus: NDArray[np.int64]  # the same; taken for another species of the genus
    mistakes: NDArray[np.int64]  # [k or k + 1, the same], rows are truths; taken for another genus

    @property
    def photos(self) -> NDArray[np.int64]:
        """Photos of each row."""
        return self.right_species + self.right_genus + self.mistakes.sum(axis=1)


def genus_table(labels: ArrayLike, answers: ArrayLike, classes: Sequence[str], *, most: int = 20) -> GenusTable:
    """Count photos by the genera of truth and answer, for the genera of the most frequent confusions.

    A confusion is a pair of genera, in either direction, or species of one genus among each other; so both genera of a
    pair are shown, and stand side by side. Equally frequent ones come in the order of a hash. Where mistakes are of
    fewer genera than are shown, those with the most photos follow.

    Args:
        labels: integer [n], in [0, C).
        answers: integer [n], in [0, C), the first guesses.
        classes: C latin names.
        most: genera shown, >= 1.

    Raises:
        ValueError: lengths that differ, class indices outside the class list.

    >>> table = genus_table([0, 0, 1, 2], [0, 1, 2, 2], ["Viola alba", "Viola odorata", "Iris lutea"])
    >>> table.names, table.right_species.tolist(), table.right_genus.tolist(), table.mistakes.tolist()
    (['Viola', 'Iris'], [1, 1], [1, 0], [[0, 1], [0, 0]])
    """
    labels, answers = check_answers(labels, answers, len(classes))
    rank = taxonomy.Rank.of("genus", taxonomy.genera(classes))
    names, genus = rank.taxa, np.array(rank.members)
    truth, answer, right = genus[labels], genus[answers], labels == answers
    elsewhere = truth != answer
    shown = _most_confused(truth, answer, ~right, names, most)
    size = len(shown) + (len(names) > most)
    place = np.full(len(names), len(shown))
    place[shown] = np.arange(len(shown))
    truth, answer = place[truth], place[answer]
    cells = truth[elsewhere] * size + answer[elsewhere]
    return GenusTable(
        names=[names[i] for i in shown],
        others=len(names) - len(shown),
        right_species=np.bincount(truth[right], minlength=size),
        right_genus=np.bincount(truth[~right & ~elsewhere], minlength=size),
        mistakes=np.bincount(cells, minlength=size**2).reshape(size, size),
    )


def _most_confused(truth: NDArray, answer: NDArray, wrong: NDArray, names: Sequence[str], most: int) -> list[int]:
    """Return genera [<= most] of the most frequent confusions, then those with the most photos."""
    pairs = np.sort(np.stack([truth[wrong], answer[wrong]], axis=1), axis=1)
    unique, n = np.unique(pairs, axis=0, return_counts=True)
    ranked = sorted(range(len(n)), key=lambda i: (-n[i], stable_hash(names[unique[i, 0]], names[unique[i, 1]])))
    photos = np.bincount(truth, minlength=len(names))
    common = sorted(range(len(names)), key=lambda i: (-photos[i], stable_hash(names[i])))
    return list(dict.fromkeys([*unique[ranked].ravel().tolist(), *common]))[:most]


def _one_each(name: str, values: ArrayLike, labels: NDArray) -> NDArray:
    values = np.asarray(values)
    if values.shape != labels.shape:
        raise ValueError(f"{name}: received shape {values.shape}, expected {labels.shape}: one value per photo.")
    return values


def check_answers(labels: ArrayLike, answers: ArrayLike, num_classes: int) -> tuple[NDArray, NDArray]:
    """Return both as int64 [n]; raise ValueError where they are malformed or do not fit each other."""
    labels, answers = np.asarray(labels), np.asarray(answers)
    if labels.ndim != 1 or labels.shape != answers.shape:
        raise ValueError(f"Received {labels.shape} labels and {answers.shape} answers, expected one of each per photo.")
    for name, values in (("labels", labels), ("answers", answers)):
        if len(values) and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= num_classes):
            raise ValueError(
                f"{name}: received {values.dtype} from {values.min()} to {values.max()}, expected integers in "
                f"[0, {num_classes}): give indices into the class list."
            )
    return labels.astype(np.int64), answers.astype(np.int64)
