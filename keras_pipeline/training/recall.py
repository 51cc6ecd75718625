"""Macro recall as a Keras metric, updated batch by batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_pipeline.training.losses import Tensor


@keras.saving.register_keras_serializable("keras_pipeline")
class MacroRecall(keras.metrics.Metric):
    """Mean recall of the classes seen so far; rare species count as much as common ones.

    `update_state` takes labels int [N], or float [N, C], of which the largest counts, and logits float [N, C].
    """

    def __init__(self, num_classes: int, name: str = "macro_recall", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.num_classes = num_classes
        self.seen = self.add_weight(shape=(num_classes,), initializer="zeros", name="seen")
        self.right = self.add_weight(shape=(num_classes,), initializer="zeros", name="right")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        # The number of axes counts too: a batch may hold as many photos as there are classes.
        shares = len(y_true.shape) == 2 and y_true.shape[-1] == self.num_classes
        labels = ops.argmax(y_true, axis=-1) if shares else ops.reshape(y_true, (-1,))
        labels = ops.cast(labels, "int32")
        right = ops.cast(ops.equal(labels, ops.cast(ops.argmax(y_pred, axis=-1), "int32")), self.dtype)
        weight = ops.ones_like(right) if sample_weight is None else ops.cast(sample_weight, self.dtype)
        for total, values in ((self.seen, weight), (self.right, right * weight)):
            total.assign_add(ops.segment_sum(values, labels, num_segments=self.num_classes))

    def result(self) -> Tensor:
        present = ops.cast(self.seen > 0, self.dtype)
        recalls = ops.where(self.seen > 0, self.right / ops.maximum(self.seen, 1e-7), 0.0)
        return ops.sum(recalls) / ops.maximum(ops.sum(present), 1.0)

    def get_config(self) -> dict:
        return {**super().get_config(), "num_classes": self.num_classes}
