"""Teachers that answer while the student trains, on the very picture that it sees (arXiv 2106.05237)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_pipeline.training.soft_labels import ensemble


def live_teachers(models: Sequence[keras.Model], *, student_size: int, temperature: float, space: str) -> Callable:
    """The `teacher` of a Distiller: x -> log-probabilities of the ensemble at T, float32 [N, C].

    The models are frozen and run in inference mode.

    Args:
        models: each image [N, S, S, 3] -> logits [N, C], S its own.
        student_size: pixels; a model of this size looks at x["image"], another at x["image_<S>"].
        space: of `soft_labels.ensemble`; the weights are x["teacher_weights"], float [N, len(models)].
    """
    for model in models:
        model.trainable = False

    def answer(x):
        said = []
        for model in models:
            logits = model(x[image_key(model.input_shape[1], student_size)], training=False)
            said.append(ops.log_softmax(ops.cast(logits, "float32") / temperature, axis=-1))
        together = ensemble(ops.stack(said, axis=1), x["teacher_weights"], space)
        return ops.log_softmax(together, axis=-1)

    return answer


def image_key(size: int, student_size: int) -> str:
    """Where in x the picture of `size` pixels lies."""
    return "image" if size == student_size else f"image_{size}"
