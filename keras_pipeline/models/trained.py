"""Load trained models."""

from __future__ import annotations

from pathlib import Path

import keras

from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.models import heads


def load(path: Path, info: DatasetInfo, *, image_size: int | None = None) -> keras.Model:
    """Load a `.keras` file, and check that it fits the dataset.

    Args:
        image_size: pixels of the input that it must have; None: any.

    Raises:
        BrokenArtefact: if it was trained on another dataset, or has another number of classes or image size.
    """
    dataset = info.folder / "dataset.json"
    trained_on = (sidecar(path) or {}).get("inputs", {}).get("dataset")
    present = (sidecar(dataset) or {}).get("content_hash")
    if trained_on and present and trained_on != present:
        raise BrokenArtefact(
            f"{path}: trained on another dataset (content hash {trained_on[:12]}) than {dataset} ({present[:12]}), "
            "whose classes may differ; train it again"
        )
    model = heads.load_classifier(path)
    if model.output_shape[-1] != len(info.classes):
        raise BrokenArtefact(
            f"{path}: received a model of {model.output_shape[-1]} classes, expected the dataset's "
            f"{len(info.classes)}; train it again"
        )
    if image_size not in (None, model.input_shape[1]):
        raise BrokenArtefact(
            f"{path}: received a model of {model.input_shape[1]} px input, expected the config's data.image_size, "
            f"{image_size}; set it back, or train again"
        )
    return model
