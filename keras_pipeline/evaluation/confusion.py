"""Which classes are confused with which.

Computed from the (truth, answer) pairs that occur, because a full table of 9,000 classes would have 81 million cells.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def confused_pairs(
    labels: ArrayLike, answers: ArrayLike, classes: Sequence[str], *, most: int = 20
) -> list[dict[str, str | int | float]]:
    """Return the most frequent mistakes, `[{truth, answer, n, share}]`: n falling, equals by name.

    Args:
        labels: integer [n], in [0, C).
        answers: integer [n], in [0, C), the first guesses.
        classes: C latin names.
        most: number of entries at most.

    Returns:
        Entries in which `share` = n / photos of the truth, in (0, 1].

    Raises:
        ValueError: lengths that differ, class indices outside the class list.
    """
    labels, answers = check_answers(labels, answers, len(classes))
    photos = np.bincount(labels, minlength=len(classes))
    wrong = labels != answers
    codes, counts = np.unique(labels[wrong] * len(classes) + answers[wrong], return_counts=True)
    pairs = ((int(n), *divmod(int(code), len(classes))) for code, n in zip(codes, counts, strict=True))
    ranked = sorted(pairs, key=lambda pair: (-pair[0], classes[pair[1]], classes[pair[2]]))
    return [
        {"truth": str(classes[truth]), "answer": str(classes[answer]), "n": n, "share": float(n / photos[truth])}
        for n, truth, answer in ranked[:most]
    ]


def examples(
    labels: ArrayLike,
    answers: ArrayLike,
    confidence: ArrayLike,
    classes: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    most: int = 4,
) -> list[NDArray[np.int64]]:
    """Find photos that show these mistakes: their indices, the most confident first, equals by index.

    Args:
        labels: integer [n], in [0, C).
        answers: integer [n], in [0, C), the first guesses.
        confidence: [n], of the first guesses.
        classes: C latin names.
        pairs: (truth, answer) latin names, as in `confused_pairs`; truth = answer finds right answers.
        most: indices per pair at most.

    Returns:
        One int64 [<= most] per pair; empty where no photo shows it.

    Raises:
        ValueError: lengths that differ, class indices outside the class list, a pair with an unknown name.
    """
    labels, answers = check_answers(labels, answers, len(classes))
    confidence = np.asarray(confidence)
    if confidence.shape != labels.shape:
        raise ValueError(
            f"confidence: received shape {confidence.shape}, expected {labels.shape}: one value per photo."
        )
    index = {name: i for i, name in enumerate(classes)}
    unknown = sorted({name for pair in pairs for name in pair} - index.keys())
    if unknown:
        raise ValueError(f"pairs: received {unknown}, expected names of the class list: give the list they came from.")
    result = []
    for truth, answer in pairs:
        rows = np.flatnonzero((labels == index[truth]) & (answers == index[answer]))
        result.append(rows[np.argsort(-confidence[rows], kind="stable")][:most])
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
