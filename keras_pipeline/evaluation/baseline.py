"""What frozen features say without any training: the figure every trained model has to beat."""

from __future__ import annotations

import numpy as np


def nearest_class_mean(features: np.ndarray, labels: np.ndarray, queries: np.ndarray, num_classes: int) -> np.ndarray:
    """Cosine similarity of each query to each class's mean feature.

    Args:
        features: float [n, D] of the train split; labels: int [n].
        queries: float [m, D].

    Returns:
        float [m, C], usable as logits; a class without train photos gets -1, the least similar.
    """
    means = np.zeros((num_classes, features.shape[1]))
    np.add.at(means, labels, _unit(features - features.mean(axis=0)))
    scores = _unit(queries - features.mean(axis=0)) @ _unit(means).T
    scores[:, np.bincount(labels, minlength=num_classes) == 0] = -1
    return scores


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def colour_histogram(images: np.ndarray, levels: int = 4) -> np.ndarray:
    """float [N, S, S, 3], 0..255 -> float [N, levels³], the share of pixels in each cell of the RGB cube."""
    cells = np.clip(images * levels / 256, 0, levels - 1).astype(np.int64)
    index = (cells[..., 0] * levels + cells[..., 1]) * levels + cells[..., 2]
    counts = [np.bincount(row.ravel(), minlength=levels**3) for row in index]
    return np.stack(counts) / index[0].size
