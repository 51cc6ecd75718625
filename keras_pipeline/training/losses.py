"""Losses of distillation and classification: functions of a batch, in log space, one value per photo."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any  # NumPy's or the backend's; Keras has no type for both

# Log-probability that stands for an empty tail.
EMPTY_TAIL = float(np.finfo(np.float16).min)


def distillation_kl(
    student_logits: Tensor, teacher_ids: Tensor, teacher_logits: Tensor, teacher_tail: Tensor, *, temperature: float
) -> Tensor:
    """Return T² · KL(teacher || student) at temperature T (Hinton et al. 2015, arXiv 1503.02531, §2).

    The teacher is sparse: its K largest logits, and the total mass of the other classes, which is compared with the
    student's mass outside the K classes. How the teacher divides that mass is unknown, so the student is free to divide
    it in any way. The value is at most the dense KL, and equal to it if K = C.

    Args:
        student_logits: float [N, C], C >= K.
        teacher_ids: int [N, K], distinct class ids.
        teacher_logits: float [N, K], the teacher's logits at those ids; each row may be shifted by a constant.
        teacher_tail: float [N], log Σ exp(z / T) over the classes not listed; <= EMPTY_TAIL if there are none.
        temperature: T > 0, the same as in `teacher_tail`.

    Returns:
        float [N], >= 0.

    Example:
        A teacher that prefers class 0 by a logit of 2, and a student without a preference:

        >>> loss = distillation_kl(
        ...     np.zeros((1, 2)), np.array([[0, 1]]), np.array([[2.0, 0.0]]), np.float32([EMPTY_TAIL]), temperature=1.0
        ... )
        >>> round(float(loss[0]), 3)  # ln 2 minus the teacher's entropy, 0.365
        0.328
    """
    student = ops.log_softmax(ops.cast(student_logits, "float32") / temperature, axis=-1)
    student_top = ops.take_along_axis(student, ops.cast(teacher_ids, "int32"), axis=-1)
    teacher = ops.concatenate([ops.cast(teacher_logits, "float32") / temperature, teacher_tail[:, None]], axis=-1)
    teacher = ops.log_softmax(teacher, axis=-1)
    student_all = ops.concatenate([student_top, _log_rest(student_top)[:, None]], axis=-1)
    # The teacher's probability of an empty tail is exp(-65504) = 0 exactly, so its term is 0 times a finite number.
    kl = ops.sum(ops.exp(teacher) * (teacher - student_all), axis=-1)
    return temperature**2 * kl


def _log_rest(log_probabilities: Tensor) -> Tensor:
    """Return log(1 - Σ exp(log_probabilities)) over the last axis, finite even if nothing is left."""
    mass = ops.minimum(ops.sum(ops.exp(log_probabilities), axis=-1), 1.0 - 1e-7)
    return ops.log1p(-mass)


def dense_kl(student_logits: Tensor, teacher_log_probabilities: Tensor, *, temperature: float) -> Tensor:
    """Return T² · KL(teacher || student) for a dense teacher, see `distillation_kl`.

    Args:
        student_logits: float [N, C].
        teacher_log_probabilities: float [N, C], at T; rows of exp() sum to 1.
        temperature: T > 0.

    Returns:
        float [N], >= 0.
    """
    student = ops.log_softmax(ops.cast(student_logits, "float32") / temperature, axis=-1)
    teacher = ops.cast(teacher_log_probabilities, "float32")
    return temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def dist(student_logits: Tensor, teacher_log_probabilities: Tensor, *, temperature: float) -> Tensor:
    """Return the loss DIST (Huang et al. 2022, arXiv 2205.10536, equations 8 and 9).

    It is T² times the sum of two terms, each one minus the correlation of teacher and student: over the classes of each
    photo, and over the batch's photos for each class (the mean over classes).

    Args:
        student_logits: float [N, C].
        teacher_log_probabilities: float [N, C], at T.
        temperature: T > 0.

    Returns:
        float [N], in [0, 4 T²]; the second term is the same for all photos.
    """
    student = ops.softmax(ops.cast(student_logits, "float32") / temperature, axis=-1)
    teacher = ops.exp(ops.cast(teacher_log_probabilities, "float32"))
    between_classes = 1 - _correlation(student, teacher, axis=1)
    within_class = 1 - ops.mean(_correlation(student, teacher, axis=0))
    return temperature**2 * (between_classes + within_class)


def _correlation(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Return Pearson's correlation; 0 if one of the two is constant."""
    a, b = (x - ops.mean(x, axis=axis, keepdims=True) for x in (a, b))
    # Added inside the root, whose slope at 0 is infinite.
    norms = ops.sqrt(ops.sum(a * a, axis=axis) + 1e-16) * ops.sqrt(ops.sum(b * b, axis=axis) + 1e-16)
    return ops.sum(a * b, axis=axis) / norms


def spread(
    teacher_ids: Tensor, teacher_logits: Tensor, teacher_tail: Tensor, *, num_classes: int, temperature: float
) -> Tensor:
    """Convert a sparse teacher to dense log-probabilities at T, its tail spread evenly, for losses of all classes.

    Args:
        teacher_ids, teacher_logits, teacher_tail: see `distillation_kl`; [N, K], [N, K], [N].
        num_classes: C >= K.
        temperature: T > 0, the same as in `teacher_tail`.

    Returns:
        float32 [N, C].
    """
    teacher = ops.concatenate([ops.cast(teacher_logits, "float32") / temperature, teacher_tail[:, None]], axis=-1)
    teacher = ops.log_softmax(teacher, axis=-1)
    n, k = ops.shape(teacher_ids)
    even = teacher[:, -1:] - math.log(max(num_classes - teacher_logits.shape[-1], 1))
    rows = ops.repeat(ops.arange(n, dtype="int32"), k)
    places = ops.stack([rows, ops.reshape(ops.cast(teacher_ids, "int32"), (-1,))], axis=1)
    return ops.scatter_update(ops.tile(even, (1, num_classes)), places, ops.reshape(teacher[:, :-1], (-1,)))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(logits)[label]: logits float [N, C], labels int [N] -> float [N].

    Example:
        >>> round(float(cross_entropy(np.zeros((1, 4)), np.array([2]))[0]), 3)  # ln 4
        1.386
    """
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    labels = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
    return -ops.take_along_axis(log_probabilities, labels, axis=-1)[:, 0]


@keras.saving.register_keras_serializable("keras_pipeline")
class LogitAdjusted(keras.losses.Loss):
    """Cross-entropy of logits + shift, where shift = τ log p(class) (Menon et al. 2021, arXiv 2007.07314, equation 10).

    The shift explains how frequent a class is, so that the logits need not: with τ = 1 they are trained as if all
    classes were equally frequent.

    `call` takes labels float [N, C], whose rows sum to 1, and logits float [N, C]; it returns float [N].

    Args:
        shift: C numbers, see `logit_shift`.
    """

    def __init__(self, shift: list[float], name: str = "logit_adjusted", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.shift = list(shift)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        adjusted = y_pred + ops.cast(ops.convert_to_tensor(self.shift), y_pred.dtype)
        return ops.categorical_crossentropy(y_true, adjusted, from_logits=True)

    def get_config(self) -> dict:
        return {**super().get_config(), "shift": self.shift}


def logit_shift(shown: np.ndarray, tau: float) -> list[float]:
    """Return τ log p(class) for each class.

    Args:
        shown: float [C], photos of each class in an epoch; a class without any counts as half a photo.
        tau: τ >= 0.

    Example:
        >>> [round(shift, 3) for shift in logit_shift(np.array([3.0, 1.0]), tau=1.0)]  # ln 0.75, ln 0.25
        [-0.288, -1.386]
    """
    frequency = np.maximum(shown, 0.5) / np.maximum(shown, 0.5).sum()
    return (tau * np.log(frequency)).tolist()
