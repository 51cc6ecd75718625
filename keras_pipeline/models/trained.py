"""Load trained models."""

from __future__ import annotations

from pathlib import Path

import keras

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.schema import DatasetInfo
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.models import heads


def load(path: Path, info: DatasetInfo, *, image_size: int | None = None) -> keras.Model:
    """Load a `.keras` file.

    Args:
        info: the dataset whose classes it has to answer.
        image_size: pixels of the photos that it has to take; None takes any.

    Raises:
        BrokenArtefact: where it was trained on another dataset, or answers or takes something else.
    """
    dataset = info.folder / "dataset.json"
    learnt = (sidecar(path) or {}).get("inputs", {}).get("dataset")
    present = (sidecar(dataset) or {}).get("content_hash")
    if learnt and present and learnt != present:
        raise BrokenArtefact(
            f"{path}: trained on another dataset (content hash {learnt[:12]}) than {dataset} ({present[:12]}), whose "
            "classes may be others; train it again"
        )
    model = heads.load_classifier(path)
    if model.output_shape[-1] != len(info.classes):
        raise BrokenArtefact(
            f"{path}: answers {model.output_shape[-1]} classes, the dataset has {len(info.classes)}; train it again"
        )
    if image_size not in (None, model.input_shape[1]):
        raise BrokenArtefact(
            f"{path}: takes photos of {model.input_shape[1]} px, the config's data.image_size is {image_size}; set it "
            "back, or train again"
        )
    return model
