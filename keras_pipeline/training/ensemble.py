"""The teachers' ensemble: the average of their stored or live answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from keras import ops

from keras_pipeline.core.region_names import names_of
from keras_pipeline.training.losses import EMPTY_TAIL, Tensor
from keras_pipeline.training.soft_labels import (
    BLOCK,
    Layout,
    dense_log_probabilities,
    encode_view,
    log_probabilities,
    log_sum,
)


def combine(
    members: list[tuple[np.ndarray, float, str | list[str] | None]],
    regions: np.ndarray,
    layout: Layout,
    *,
    space: str = "logits",
    workers: int = 1,
) -> Iterator[np.ndarray]:
    """Combine the teachers' records of one shard, see `ensemble`; yield blocks of structured records.

    Args:
        members: (structured records [n], weight, region_filter or None) of each teacher.
        regions: str [n], of the photos.
        layout: of the records, and of the result, whose logits are log-probabilities times T.
        space: logits | probabilities.
        workers: threads; the result does not depend on their number.

    Raises:
        ValueError: if the teachers' records differ in photos, views or order.
    """
    first = members[0][0]
    for other, _, _ in members[1:]:
        if not np.array_equal(other["sample"], first["sample"]) or not np.array_equal(
            other["views"]["seed"], first["views"]["seed"]
        ):
            raise ValueError(
                "the teachers' records are of other photos or views, or in another order; run both `logits` again"
            )
    weights = member_weights([(weight, region) for _, weight, region in members], regions)
    stored = [records for records, _, _ in members]

    def combine_block(start: int) -> np.ndarray:
        rows = slice(start, start + BLOCK)
        combined = np.zeros(len(first[rows]), layout.dtype)
        combined["sample"] = first["sample"][rows]
        scratch = np.empty((len(combined), layout.num_classes))
        for number in range(layout.views):
            views = [records["views"][rows, number] for records in stored]
            combined["views"][:, number] = _combine_view(views, weights[rows], layout, space, scratch)
            combined["views"]["seed"][:, number] = first["views"]["seed"][rows, number]
        return combined

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(combine_block, range(0, len(first), BLOCK))


def _combine_view(
    views: list[np.ndarray], weights: np.ndarray, layout: Layout, space: str, scratch: np.ndarray
) -> np.ndarray:
    """Combine the teachers' records of one view, structured [N] each, by weights float [N, t]; leave the seed 0.

    Only classes that a teacher lists are sorted: the others share one value.
    """
    ids = np.concatenate([view["ids"] for view in views], axis=1)
    values, repeated = _candidates(views, ids, layout, scratch)
    together = ops.convert_to_numpy(ensemble(values, weights, space)) * layout.temperature
    together[:, :-1][repeated] = -np.inf
    unlisted = layout.num_classes - ids.shape[1] + repeated.sum(axis=1)  # classes that no teacher lists
    together[unlisted == 0, -1] = -np.inf
    together -= together.max(axis=1, keepdims=True)
    common, together = together[:, -1], together[:, :-1]
    order = np.lexsort((ids, -together), axis=1)
    ranked = np.take_along_axis(together, order, axis=1)
    k = layout.top_k
    combined = np.zeros(len(ids), layout.dtype["views"].base)
    combined["ids"] = np.take_along_axis(ids, order[:, :k], axis=1)
    combined["logits"] = np.maximum(ranked[:, :k], EMPTY_TAIL)
    combined["tail"] = EMPTY_TAIL
    if k < layout.num_classes:
        with np.errstate(divide="ignore"):  # log 0 where every class is listed by a teacher
            several = common / layout.temperature + np.log(unlisted)
        combined["tail"] = log_sum(np.concatenate([ranked[:, k:] / layout.temperature, several[:, None]], axis=1))
    # The value shared can be among the K largest, where a teacher hardly distinguishes its classes.
    flat = common >= ranked[:, k - 1]
    if flat.any():
        dense = np.stack([dense_log_probabilities(view[flat], layout) for view in views], axis=1)
        together = ops.convert_to_numpy(ensemble(dense, weights[flat], space)) * layout.temperature
        combined[flat] = encode_view(together, layout)
    return combined


def _candidates(
    views: list[np.ndarray], ids: np.ndarray, layout: Layout, scratch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Look up each teacher's log-probabilities of the classes `ids` [N, tK], which one of them lists.

    Returns:
        float64 [N, t, tK + 1], the last of a class that no teacher lists; bool [N, tK], listed by an earlier teacher.
    """
    cells = np.arange(len(ids))[:, None] * layout.num_classes + ids
    repeated = np.zeros(ids.shape, bool)
    values = []
    for number, view in enumerate(views):
        own = slice(number * layout.top_k, (number + 1) * layout.top_k)
        listed, unlisted = log_probabilities(view, layout, scratch)
        # Where a class stands in the teacher's list, as a negative number: what else is in the memory is positive.
        places = scratch.reshape(-1)
        places[cells[:, own]] = -1 - np.arange(layout.top_k)
        at = np.pad(np.maximum(-places[cells], 0).astype(np.intp), ((0, 0), (0, 1)))  # 0: not in the list
        repeated[:, own.stop :] |= at[:, own.stop : -1] > 0
        values.append(np.take_along_axis(np.concatenate([unlisted, listed], axis=1), at, axis=1))
    return np.stack(values, axis=1), repeated


def member_weights(members: list[tuple[float, str | list[str] | None]], regions: np.ndarray) -> np.ndarray:
    """Return the weight of each teacher for each photo: float64 [n, t], rows sum to 1.

    Args:
        members: (weight, region_filter or None); a filter limits the teacher to photos of that region.
        regions: str [n].
    """
    weights = np.array([[w if r is None or region in names_of(r) else 0.0 for w, r in members] for region in regions])
    return weights / weights.sum(axis=1, keepdims=True)


def ensemble(log_probabilities: Tensor, weights: Tensor, space: str) -> Tensor:
    """Average teachers; takes arrays or tensors, so that live and stored teachers agree.

    Args:
        log_probabilities: float [n, t, C], at T.
        weights: float [n, t], rows sum to 1.
        space: `logits`: Σ w z, the plan's (a geometric mean of the probabilities); `probabilities`: Σ w p.

    Returns:
        float [n, C], log-probabilities at T up to a constant of each row.
    """
    if space == "logits":
        return ops.sum(log_probabilities * weights[:, :, None], axis=1)
    return ops.logsumexp(log_probabilities + ops.log(weights)[:, :, None], axis=1)
