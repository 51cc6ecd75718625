"""Weights files with the shapes that tell a network from others, without the megabytes of all the rest."""

from pathlib import Path

import h5py

from keras_pipeline.core.config.teachers import Model
from keras_pipeline.models.weights_file import telling_shapes


def write_weights(path: Path, name: str, alpha: float = 1.0) -> Path:
    """Write a file that could be of this network; return its path."""
    with h5py.File(path, "w") as file:
        for key, shape in telling_shapes(Model(name=name, alpha=alpha, pretrained=False)).items():
            file.create_dataset(key, shape, "f4")
    return path
