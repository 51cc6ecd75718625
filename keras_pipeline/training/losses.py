"""Losses of distillation: stateless, per example, in log space, shape (batch,)."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

# log of a probability that stands for "nothing left in the tail".
EMPTY_TAIL = float(np.finfo(np.float16).min)


def distillation_kl(student_logits, teacher_ids, teacher_logits, teacher_tail, *, temperature: float):
    """T² · KL(teacher || student) at temperature T (Hinton et al. 2015, arXiv 1503.02531, §2).

    The teacher is sparse: its K largest logits and one number for all the rest, which is compared with the student's
    mass outside those K classes. With K = C it is the dense KL. Of how the rest is shared out nothing is said, so that
    nothing false is taught of it: the value is never above the dense one.

    Args:
        student_logits: float [N, C], C >= K.
        teacher_ids: int [N, K], distinct class ids.
        teacher_logits: float [N, K], the teacher's logits at those ids (any constant shift of a row is allowed).
        teacher_tail: float [N], log Σ exp(z / T) over the classes not listed; <= EMPTY_TAIL when none are left.
        temperature: T > 0; the same T at which `teacher_tail` was summed.

    Returns:
        float [N], >= 0.

    Example:
        A teacher that is sure of class 0 by a logit of 2, and a student that knows nothing:

        >>> loss = distillation_kl(
        ...     np.zeros((1, 2)), np.array([[0, 1]]), np.array([[2.0, 0.0]]), np.float32([EMPTY_TAIL]), temperature=1.0
        ... )
        >>> round(float(loss[0]), 3)  # ln 2 minus the teacher's entropy of 0.365
        0.328
    """
    student = ops.log_softmax(ops.cast(student_logits, "float32") / temperature, axis=-1)
    student_top = ops.take_along_axis(student, ops.cast(teacher_ids, "int32"), axis=-1)
    teacher = ops.concatenate([ops.cast(teacher_logits, "float32") / temperature, teacher_tail[:, None]], axis=-1)
    teacher = ops.log_softmax(teacher, axis=-1)
    student_all = ops.concatenate([student_top, _log_rest(student_top)[:, None]], axis=-1)
    # An empty tail has teacher probability exp(-65504) = 0 exactly, so that its term is 0 * finite.
    kl = ops.sum(ops.exp(teacher) * (teacher - student_all), axis=-1)
    return temperature**2 * kl


def _log_rest(log_probabilities):
    """log(1 - Σ exp(log_probabilities)) over the last axis, finite also when nothing is left."""
    mass = ops.minimum(ops.sum(ops.exp(log_probabilities), axis=-1), 1.0 - 1e-7)
    return ops.log1p(-mass)


def dense_kl(student_logits, teacher_log_probabilities, *, temperature: float):
    """`distillation_kl` of a teacher that is known whole.

    Args:
        student_logits: float [N, C].
        teacher_log_probabilities: float [N, C], at T; rows of exp() sum to 1.

    Returns:
        float [N], >= 0.
    """
    student = ops.log_softmax(ops.cast(student_logits, "float32") / temperature, axis=-1)
    teacher = ops.cast(teacher_log_probabilities, "float32")
    return temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def dist(student_logits, teacher_log_probabilities, *, temperature: float):
    """DIST (Huang et al. 2022, arXiv 2205.10536, equations 8 and 9): T² times one minus the correlation of teacher and
    student, over the classes of each photo, and over the batch's photos for each class.

    Args:
        student_logits: float [N, C].
        teacher_log_probabilities: float [N, C], at T.

    Returns:
        float [N], in [0, 4 T²]: the photo's own part plus the batch's common one.
    """
    student = ops.softmax(ops.cast(student_logits, "float32") / temperature, axis=-1)
    teacher = ops.exp(ops.cast(teacher_log_probabilities, "float32"))
    between_classes = 1 - _correlation(student, teacher, axis=1)
    within_class = 1 - ops.mean(_correlation(student, teacher, axis=0))
    return temperature**2 * (between_classes + within_class)


def _correlation(a, b, axis: int):
    """Pearson's; 0 where one of the two doesn't vary."""
    a, b = (x - ops.mean(x, axis=axis, keepdims=True) for x in (a, b))
    # Inside the root: its slope at 0 is infinite.
    norms = ops.sqrt(ops.sum(a * a, axis=axis) + 1e-16) * ops.sqrt(ops.sum(b * b, axis=axis) + 1e-16)
    return ops.sum(a * b, axis=axis) / norms


def spread(teacher_ids, teacher_logits, teacher_tail, *, num_classes: int, temperature: float):
    """A sparse teacher as dense log-probabilities at T, the tail spread evenly: for a loss that has to see every class.

    Args:
        teacher_ids, teacher_logits, teacher_tail: of `distillation_kl`; [N, K], [N, K], [N].

    Returns:
        float32 [N, num_classes].
    """
    teacher = ops.concatenate([ops.cast(teacher_logits, "float32") / temperature, teacher_tail[:, None]], axis=-1)
    teacher = ops.log_softmax(teacher, axis=-1)
    n, k = ops.shape(teacher_ids)
    even = teacher[:, -1:] - math.log(max(num_classes - teacher_logits.shape[-1], 1))
    rows = ops.repeat(ops.arange(n, dtype="int32"), k)
    places = ops.stack([rows, ops.reshape(ops.cast(teacher_ids, "int32"), (-1,))], axis=1)
    return ops.scatter_update(ops.tile(even, (1, num_classes)), places, ops.reshape(teacher[:, :-1], (-1,)))


def cross_entropy(logits, labels):
    """-log softmax(logits)[label]. logits: float [N, C]; labels: int [N] -> float [N]."""
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    labels = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
    return -ops.take_along_axis(log_probabilities, labels, axis=-1)[:, 0]


@keras.saving.register_keras_serializable("keras_pipeline")
class LogitAdjusted(keras.losses.Loss):
    """Cross-entropy of logits + shift with shift = τ log p(class) (Menon et al. 2021, arXiv 2007.07314, equation 10).

    A frequent class has to be learnt by more than being frequent: with τ = 1 the logits themselves, without the shift,
    are those of classes that are equally frequent.

    Args:
        shift: C numbers, see `logit_shift`.

    Called with labels float [N, C] that sum to 1 and logits float [N, C]; gives float [N] before the reduction.
    """

    def __init__(self, shift: list[float], name: str = "logit_adjusted", **options) -> None:
        super().__init__(name=name, **options)
        self.shift = list(shift)

    def call(self, y_true, y_pred):
        adjusted = y_pred + ops.cast(ops.convert_to_tensor(self.shift), y_pred.dtype)
        return ops.categorical_crossentropy(y_true, adjusted, from_logits=True)

    def get_config(self) -> dict:
        return {**super().get_config(), "shift": self.shift}


def logit_shift(shown: np.ndarray, tau: float) -> list[float]:
    """τ log p(class).

    Args:
        shown: float [C], how often photos of each class come in training; a class that never comes counts half a photo.
        tau: >= 0.
    """
    frequency = np.maximum(shown, 0.5) / np.maximum(shown, 0.5).sum()
    return (tau * np.log(frequency)).tolist()
