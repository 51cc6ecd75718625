"""The features that a classifier's head sees, and how much of them lies outside a subspace."""

from __future__ import annotations

import keras
import tensorflow as tf

SMALLEST = 1e-12  # length² that features are divided by; only those of a dead network are shorter


def with_features(model: keras.Model) -> keras.Model:
    """Return the classifier with a second output: image [N, S, S, 3] -> logits [N, C], features [N, D].

    Args:
        model: of `heads.build_classifier`, or a copy of it; its layers are shared.
    """
    features = model.get_layer("logits").input
    while isinstance(layer := features._keras_history.operation, keras.layers.Dropout) or layer.name == "low_rank":
        features = layer.input
    return keras.Model(model.inputs, [model.output, features])


def share_outside(features: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """Return the share of each squared length outside a subspace, see `evaluation.off_list`.

    Args:
        features: float32 [N, D].
        directions: float32 [D, K], orthonormal.

    Returns:
        float32 [N], 0 to 1 up to the rounding of `directions`.
    """
    inside = tf.reduce_sum(tf.square(tf.matmul(features, directions)), -1)
    return 1.0 - inside / tf.maximum(tf.reduce_sum(tf.square(features), -1), SMALLEST)
