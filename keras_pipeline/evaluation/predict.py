"""A model over a split, each photo exactly once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.progress import progress


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Aligned arrays over n photos."""

    logits: np.ndarray  # float32 [n, C]
    labels: np.ndarray  # int64 [n]
    sample_ids: np.ndarray  # str [n]
    regions: np.ndarray  # str [n]
    group_ids: np.ndarray  # str [n]


def inference(model: keras.Model) -> Callable[[tf.Tensor], np.ndarray]:
    """The model in inference mode, as a function of a batch. Keras's own `predict` would compile it with XLA, which
    on a CPU takes minutes and runs slower.
    """
    call = tf.function(lambda image: model(image, training=False), reduce_retracing=True)
    return lambda image: call(image).numpy()


def predict(model: keras.Model, batches: tf.data.Dataset, n: int, description: str = "predict") -> Predictions:
    """Runs `model` (image -> logits) over batches of {"image", "label", "sample_id", "region", "group_id"}.

    Raises ValueError unless exactly `n` photos came, or when a logit isn't finite.
    """
    infer = inference(model)
    columns: dict[str, list[np.ndarray]] = {k: [] for k in ("logits", "label", "sample_id", "region", "group_id")}
    with progress(total=n, description=description) as bar:
        for batch in batches:
            columns["logits"].append(infer(batch["image"]))
            for name in ("label", "sample_id", "region", "group_id"):
                columns[name].append(batch[name].numpy())
            bar.update(len(columns["label"][-1]))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
    received = len(arrays.get("label", ()))
    if received != n:
        raise ValueError(
            f"{description}: received {received} photos, expected {n}: the shards don't match dataset.json"
        )
    if not np.isfinite(arrays["logits"]).all():
        raise ValueError(f"{description}: the model answers NaN or infinity; train it again at a lower learning rate")
    texts = (decoded(arrays[name]) for name in ("sample_id", "region", "group_id"))
    return Predictions(arrays["logits"], arrays["label"], *texts)


def decoded(texts: np.ndarray) -> np.ndarray:
    """UTF-8 bytes [N], as TensorFlow gives texts -> str [N]; NumPy's own cast knows ASCII only."""
    return np.array([text.decode() for text in texts.tolist()], np.str_)
