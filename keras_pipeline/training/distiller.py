"""The Keras model for distillation: `fit` trains it; only `compute_loss` differs from Keras's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import ops

from keras_pipeline.training import distribute
from keras_pipeline.training.losses import Tensor, cross_entropy, dense_kl, dist, distillation_kl, spread


@keras.saving.register_keras_serializable("keras_pipeline")
class Distiller(keras.Model):
    """Train a student with loss = soft · (T² · KL(teacher || student), or DIST) + cross_entropy · CE(label, student).

    `fit` takes (x, label int [N]). x is a dict with

    - "image": float [N, S, S, 3];
    - "labels" int [N, M] and "share" float [N, M] of the M photos mixed into each image (M = 1 without mixing); rows of
      "share" sum to 1. If absent, `label` is used;
    - the stored teacher: "teacher_ids" [N, M, K], "teacher_logits" [N, M, K], "teacher_tail" [N, M], see
      `losses.distillation_kl`. A live teacher computes its output from x instead;
    - "teacher_answer" int [N], optional, in batches without teacher output (validation). Their loss is the
      cross-entropy alone.

    The metric `agreement` is the fraction of photos with the same first guess of teacher and student. Saving the model
    saves the student.

    Example:
        One black photo of class 0, of which the teacher is sure by a logit of 4; the student has no preference:

        >>> import numpy as np
        >>> student = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
        >>> model = Distiller(student, temperature=2.0, soft=1.0, cross_entropy=0.0, loss="kl")
        >>> model.compile(optimizer="sgd")
        >>> x = {"image": np.zeros((1, 4, 4, 3)), "labels": np.array([[0]]), "share": np.ones((1, 1))}
        >>> x |= {"teacher_ids": np.array([[[0, 1]]]), "teacher_logits": np.array([[[4.0, 0.0]]])}
        >>> x |= {"teacher_tail": np.array([[-65504.0]], np.float32)}
        >>> round(model.evaluate(x, np.array([0]), verbose=0, return_dict=True)["loss"], 3)  # 4 KL at T 2
        1.311
    """

    def __init__(
        self,
        student: keras.Model,
        *,
        temperature: float,
        soft: float,
        cross_entropy: float,
        loss: str,
        teacher: Callable | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            student: image [N, S, S, 3] -> logits [N, C].
            temperature: T > 0 of both sides.
            soft: weight of the teacher's term.
            cross_entropy: weight of the labels' term.
            loss: kl | dist, the teacher's term.
            teacher: a live teacher, x -> log-probabilities [N, C] at T, see `live.live_teachers`; it is neither trained
                nor saved. None: x holds the teacher's stored output.
        """
        super().__init__(**kwargs)
        self.student = student
        self.temperature = temperature
        self.soft_weight = soft
        self.ce_weight = cross_entropy
        self.soft_loss = loss
        self.teacher = teacher
        self.agreement = keras.metrics.Mean(name="agreement")
        self.built = True  # All weights are the student's; `Backup` loads them before the first batch.

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> Tensor:
        return self.student(inputs["image"], training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        labels, share = x.get("labels"), x.get("share")
        if labels is None:
            labels = ops.reshape(y, (-1, 1))
            share = ops.ones_like(labels, dtype="float32")
        loss = sum(share[:, m] * cross_entropy(y_pred, labels[:, m]) for m in range(labels.shape[1]))
        soft, answer = self._compare(x, y_pred, share, training)
        if soft is not None:
            loss = self.soft_weight * soft + self.ce_weight * loss
        if answer is not None:
            self.agreement.update_state(ops.cast(ops.argmax(y_pred, axis=-1) == ops.cast(answer, "int32"), "float32"))
        if sample_weight is not None:
            loss = loss * ops.cast(ops.reshape(sample_weight, (-1,)), loss.dtype)
        total = ops.mean(loss)
        for penalty in self.losses:
            total = total + penalty
        return distribute.share(total)  # Keras undoes it for the logs

    def _compare(
        self, x: dict[str, Tensor], y_pred: Tensor, share: Tensor, training: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the teacher's term of the loss, float [N] or None, and its first guess, int [N] or None."""
        if self.teacher is not None:
            dense = ops.stop_gradient(self.teacher(x))
            answer = ops.argmax(dense, axis=-1)
            if not training:
                return None, answer
            term = dense_kl if self.soft_loss == "kl" else dist
            return term(y_pred, dense, temperature=self.temperature), answer
        if "teacher_ids" not in x:
            return None, x.get("teacher_answer")
        parts = [
            (share[:, m], x["teacher_ids"][:, m], x["teacher_logits"][:, m], x["teacher_tail"][:, m])
            for m in range(share.shape[1])
        ]
        answer = ops.take_along_axis(x["teacher_ids"][:, :, 0], ops.argmax(share, axis=1)[:, None], axis=1)[:, 0]
        if self.soft_loss == "kl":
            # The mean KL to two targets differs from the KL to their mixture by a constant of the student.
            kl = (s * distillation_kl(y_pred, *soft, temperature=self.temperature) for s, *soft in parts)
            return sum(kl), answer
        options = {"num_classes": y_pred.shape[-1], "temperature": self.temperature}
        dense = ops.log(sum(s[:, None] * ops.exp(spread(*soft, **options)) for s, *soft in parts))
        return dist(y_pred, dense, temperature=self.temperature), answer

    def save(self, filepath: str | Path, overwrite: bool = True, **kwargs: Any) -> None:
        """Save the student as a Keras model, without the teacher's part."""
        self.student.save(filepath, overwrite=overwrite, **kwargs)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "student": keras.saving.serialize_keras_object(self.student),
            "temperature": self.temperature,
            "soft": self.soft_weight,
            "cross_entropy": self.ce_weight,
            "loss": self.soft_loss,
        }

    @classmethod
    def from_config(cls, config: dict) -> Distiller:
        student = keras.saving.deserialize_keras_object(config["student"])
        return cls(student, **{key: value for key, value in config.items() if key != "student"})
