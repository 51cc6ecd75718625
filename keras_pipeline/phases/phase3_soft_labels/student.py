"""The student's network and preprocessing."""

from __future__ import annotations

import keras

from keras_pipeline.core.config.experiment import Config
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.models import heads


def preprocessing(config: Config) -> Preprocessing:
    """From a photo to the student's input; a photo too small for the export is too small for an answer."""
    dataset = config.dataset
    return Preprocessing(config.phase4.data.image_size, dataset.short_side, min_short_side=dataset.min_short_side)


def build(config: Config, num_classes: int) -> keras.Model:
    """The untrained student of phase 3's section at phase 4's image size."""
    model = config.phase3.model
    return heads.build_classifier(
        model, num_classes=num_classes, image_size=config.phase4.data.image_size, dropout=model.dropout_rate
    )
