"""Copy weights from a file or another model, and name every mismatch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_pipeline.models.weights_file import stored_shapes

POSITIONS = "position_embedding/embeddings"


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy every weight of `target` from that of the same path in `source`; resize position embeddings if needed.

    Raises:
        ValueError: listing every weight that is missing in `source` or has another shape.
    """
    donors = {variable.path: variable for variable in source.variables}
    faults = []
    for variable in target.weights:
        donor = donors.get(variable.path)
        value = None if donor is None else ops.convert_to_numpy(donor)
        if value is not None and variable.path.endswith(POSITIONS):
            value = resize_positions(value, variable.shape[0])
        if value is None or value.shape != tuple(variable.shape):
            received = "no such weight" if value is None else value.shape
            faults.append(f"{variable.path}: received {received}, expected {tuple(variable.shape)}")
        else:
            variable.assign(value)
    if faults:
        raise ValueError("these weights are of another model:\n  " + _some(faults))


def resize_positions(embedding: np.ndarray, length: int) -> np.ndarray:
    """Resize ViT's position embeddings to another grid of patches (arXiv 2010.11929, §3.2), bilinearly.

    Args:
        embedding: [1 + n², D], the class token's first.
        length: 1 + m² of the result.

    Returns:
        [1 + m², D]
    """
    if len(embedding) == length:
        return embedding
    n, m = round((len(embedding) - 1) ** 0.5), round((length - 1) ** 0.5)
    grid = embedding[1:].reshape(n, n, -1)
    resized = ops.image.resize(grid, (m, m), interpolation="bilinear", antialias=True, data_format="channels_last")
    return np.concatenate([embedding[:1], ops.convert_to_numpy(resized).reshape(m * m, -1)])


def load_checked(model: keras.Model, path: str | Path) -> None:
    """Load a `.weights.h5` file, after checking all its keys.

    Keras itself stops at the first layer that does not fit, and ignores keys that the model does not have.

    Raises:
        ValueError: naming the file and the keys that don't fit.
    """
    received = stored_shapes(path)
    with tempfile.TemporaryDirectory() as folder:
        model.save_weights(Path(folder) / "expected.weights.h5")
        expected = stored_shapes(Path(folder) / "expected.weights.h5")
    faults = [
        f"{key}: received {received.get(key, 'none')}, expected {expected.get(key, 'none')}"
        for key in sorted({**expected, **received})
        if received.get(key) != expected.get(key)
    ]
    if faults:
        count = f"{len(faults)} of {len({**expected, **received})}"
        raise ValueError(f"{path}: {count} keys don't fit {model.name}, {_why(received, expected)}:\n  {_some(faults)}")
    model.load_weights(path)


def _why(received: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    """Guess what kind of file this is."""
    if not received.keys() & expected.keys():
        return "none has the right name: a file of another network, or of a network nested in another"
    if received.keys() - expected.keys():
        return "some are not of this network: a file of another one"
    if expected.keys() - received.keys():
        return "some are missing: a file without its head, or of a smaller network"
    return "the names are right and the shapes are not: another width or number of classes"


def _some(faults: list[str]) -> str:
    rest = f"\n  … and {len(faults) - 10} more" if len(faults) > 10 else ""
    return "\n  ".join(faults[:10]) + rest
