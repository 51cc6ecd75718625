"""The student's network and preprocessing."""

from __future__ import annotations

import keras

from keras_pipeline.core.config.experiment import Config
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.models import heads


def preprocessing(config: Config) -> Preprocessing:
    """Return the path from a photo to the student's input."""
    return Preprocessing.of(config.dataset, config.phase4.data.image_size)


def build(config: Config, num_classes: int) -> keras.Model:
    """Build the student of section `phase3.model` at phase 4's image size, with its initial weights."""
    model = config.phase3.model
    return heads.build_classifier(
        model, num_classes=num_classes, image_size=config.phase4.data.image_size, dropout=model.dropout_rate
    )
