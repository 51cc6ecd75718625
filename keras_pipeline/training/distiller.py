"""The custom Keras model that distils: `fit` trains it, `compute_loss` is all it changes."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import ops

from keras_pipeline.training.losses import cross_entropy, distillation_kl


@keras.saving.register_keras_serializable("keras_pipeline")
class Distiller(keras.Model):
    """loss = kl_divergence · T² · KL(teacher || student) + cross_entropy · CE(label, student).

    Teacher outputs arrive as data: `fit` on ({"image", "teacher_ids", "teacher_logits", "teacher_tail"}, label). On
    batches without them (validation) the loss is the cross-entropy alone. Saving it saves the student.
    """

    def __init__(
        self, student: keras.Model, *, temperature: float = 3.0, kl_divergence: float = 0.7, cross_entropy: float = 0.3,
        **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.student = student
        self.temperature = temperature
        self.kl_weight = kl_divergence
        self.ce_weight = cross_entropy
        self.built = True  # The student brings all the weights; BackupAndRestore asks before the first batch.

    def call(self, inputs, training=None):
        return self.student(inputs["image"], training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = cross_entropy(y_pred, y)
        if "teacher_ids" in x:
            kl = distillation_kl(
                y_pred, x["teacher_ids"], x["teacher_logits"], x["teacher_tail"], temperature=self.temperature
            )
            loss = self.kl_weight * kl + self.ce_weight * loss
        if sample_weight is not None:
            loss = loss * ops.cast(ops.reshape(sample_weight, (-1,)), loss.dtype)
        total = ops.mean(loss)
        for penalty in self.losses:
            total = total + penalty
        return total

    def save(self, filepath: str | Path, overwrite: bool = True, **kwargs) -> None:
        self.student.save(filepath, overwrite=overwrite, **kwargs)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "student": keras.saving.serialize_keras_object(self.student),
            "temperature": self.temperature,
            "kl_divergence": self.kl_weight,
            "cross_entropy": self.ce_weight,
        }

    @classmethod
    def from_config(cls, config: dict) -> Distiller:
        student = keras.saving.deserialize_keras_object(config["student"])
        return cls(student, **{key: value for key, value in config.items() if key != "student"})
