"""The cost of quantization: a model's answers to the same photos before and after."""

from __future__ import annotations

import numpy as np

from keras_pipeline.evaluation.intervals import compare, share_interval
from keras_pipeline.evaluation.mapped import forget_pages
from keras_pipeline.evaluation.metrics import by_blocks, log_softmax
from keras_pipeline.evaluation.predictions import Predictions


def cost(before: Predictions, after: Predictions) -> dict:
    """Compare the predictions of two models on the same photos, at T = 1.

    Returns:
        `n, groups`; `top1`, the overall entry of `intervals.compare` (first: before); `flips: {n, share, interval,
        to_right, to_wrong}`, first guesses that changed, with a 95 % interval that counts one trial per group;
        `delta_nll`, nats, after - before; `max_abs_dp`, the largest change of a probability.

    Raises:
        ValueError: photos or classes that differ, or no photos.
    """
    same = before.logits.shape == after.logits.shape and np.array_equal(before.sample_ids, after.sample_ids)
    if not same or not len(before.labels):
        raise ValueError(
            f"received logits {before.logits.shape} and {after.logits.shape}, expected both for the same photos, one "
            "or more, in the same order"
        )

    def changes(rows: slice, logits: np.ndarray) -> tuple[np.ndarray, ...]:
        first, second = log_softmax(logits), log_softmax(after.logits[rows])
        forget_pages(after.logits)
        at = np.arange(len(first)), before.labels[rows]
        return first.argmax(1), second.argmax(1), first[at] - second[at], np.abs(np.exp(first) - np.exp(second)).max(1)

    blocks = by_blocks(before.logits, changes)
    first, second, delta, largest = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    was, now = first == before.labels, second == before.labels
    compared: dict = compare(was, now, before.regions, before.group_ids).overall
    flipped = first != second
    share = float(flipped.mean())
    return {
        "n": len(first),
        "groups": compared["groups"],
        "top1": compared,
        "flips": {
            "n": int(flipped.sum()),
            "share": share,
            "interval": share_interval(share, compared["groups"]).tolist(),
            "to_right": int((now & ~was).sum()),
            "to_wrong": int((was & ~now).sum()),
        },
        "delta_nll": float(delta.mean()),
        "max_abs_dp": float(largest.max()),
    }
