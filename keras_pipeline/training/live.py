"""Live teachers, which predict during distillation on the pictures that the student sees (arXiv 2106.05237)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_pipeline.training.ensemble import ensemble
from keras_pipeline.training.losses import Tensor


def live_teachers(models: Sequence[keras.Model], *, student_size: int, temperature: float, space: str) -> Callable:
    """Return the `teacher` of a Distiller: x -> log-probabilities of the ensemble at T, float32 [N, C].

    Freezes the models and runs them in inference mode. The function weights them by x["teacher_weights"], float
    [N, len(models)].

    Args:
        models: each image [N, S, S, 3] -> logits [N, C], with its own S.
        student_size: pixels; a model of this size reads x["image"], others x["image_<S>"].
        temperature: T > 0.
        space: see `ensemble.ensemble`.
    """
    for model in models:
        model.trainable = False

    def predict(x: dict[str, Tensor]) -> Tensor:
        outputs = []
        for model in models:
            logits = model(x[image_key(model.input_shape[1], student_size)], training=False)
            outputs.append(ops.log_softmax(ops.cast(logits, "float32") / temperature, axis=-1))
        together = ensemble(ops.stack(outputs, axis=1), x["teacher_weights"], space)
        return ops.log_softmax(together, axis=-1)

    return predict


def image_key(size: int, student_size: int) -> str:
    """Return the key of x under which the picture of `size` pixels is found."""
    return "image" if size == student_size else f"image_{size}"
