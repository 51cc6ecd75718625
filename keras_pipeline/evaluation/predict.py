"""Run a model over a split, each photo exactly once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.progress import progress
from keras_pipeline.evaluation.mapped import forget_pages
from keras_pipeline.evaluation.predictions import Predictions


def inference(model: keras.Model) -> Callable[[tf.Tensor], np.ndarray]:
    """Return the model in inference mode, as a function of a batch."""
    forward = graph(model, lambda outputs: outputs)
    return lambda image: forward(image).numpy()


def graph(model: keras.Model, then: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
    """Compile then(model(batch)) in inference mode into one graph; `then` runs on the model's device.

    Keras's own `predict` would compile it with XLA, which on a CPU takes minutes and runs slower.
    """
    batch = tf.TensorSpec((None, *model.input_shape[1:]))  # else a smaller last batch would be traced again
    return tf.function(lambda image: then(model(image, training=False)), input_signature=[batch])


def predict(
    model: Any,
    batches: tf.data.Dataset,
    n: int,
    description: str = "predict",
    *,
    file: Path | None = None,
) -> Predictions:
    """Run `model` (image -> logits) over batches of {"image", "label", "sample_id", "region", "group_id"}.

    Args:
        model: a Keras model, or any callable that returns float32 [N, C] and has an `output_shape` (None, C).
        n: number of photos expected.
        description: of the progress bar and in messages.
        file: where to write the logits, as a memory-mapped `.npy`; None keeps them in memory.

    Raises:
        ValueError: unless exactly `n` photos came, or when a logit isn't finite.
    """
    infer = inference(model) if isinstance(model, keras.Model) else model
    shape = (n, model.output_shape[-1])
    logits = np.lib.format.open_memmap(file, "w+", np.float32, shape) if file else np.empty(shape, np.float32)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("label", "sample_id", "region", "group_id")}
    received = 0
    with progress(total=n, description=description) as bar:
        for batch in batches:
            outputs = infer(batch["image"])
            if received + len(outputs) <= n:
                logits[received : received + len(outputs)] = outputs
                forget_pages(logits)
            received += len(outputs)
            if not np.isfinite(outputs).all():
                raise ValueError(
                    f"{description}: the model returned NaN or infinity, expected finite logits; train it again at a "
                    "lower learning rate"
                )
            for name, parts in columns.items():
                parts.append(batch[name].numpy())
            bar.update(len(outputs))
    if received != n:
        raise ValueError(
            f"{description}: received {received} photos, expected {n}: the shards don't match dataset.json"
        )
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Predictions(
        logits, arrays["label"], *(decoded(arrays[name]) for name in ("sample_id", "region", "group_id"))
    )


def decoded(texts: np.ndarray) -> np.ndarray:
    """Decode UTF-8 bytes [N], as TensorFlow returns texts, to str [N]; NumPy's own cast knows ASCII only."""
    return np.array([text.decode() for text in texts.tolist()], np.str_)
