"""Classifiers: a backbone and a head, image [N, S, S, 3] (RGB 0..255) -> logits [N, C]."""

from __future__ import annotations

from pathlib import Path

import keras

from keras_pipeline.core.config.teachers import GLOBAL_TEACHER, Model
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.hashing import UNREADABLE
from keras_pipeline.models import mobilenet, vit

HEAD = {"low_rank", "logits"}  # layers that no backbone has


def build_classifier(
    model: Model, *, num_classes: int, image_size: int, dropout: float, rematerialisation: bool = False
) -> keras.Model:
    """Build a classifier with its initial weights.

    Args:
        model: section of the config.
        num_classes: length of the class list.
        image_size: pixels of the input.
        dropout: rate before the head.
        rematerialisation: see `vit.backbone`.

    Raises:
        ValueError: if model.num_classes differs from `num_classes`, or the weights are not available.
    """
    if model.num_classes not in (None, num_classes):
        raise ValueError(
            f"model.num_classes: received {model.num_classes}, expected {num_classes}, the length of the class list; "
            "remove the key"
        )
    features = build_backbone(model, image_size, rematerialisation=rematerialisation)
    x = keras.layers.Dropout(dropout, name="dropout")(features.output)
    if model.head_rank:
        # The kernel as a product of two: 256 x (1,280 + 9,000) weights instead of 1,280 x 9,000.
        x = keras.layers.Dense(model.head_rank, use_bias=False, name="low_rank")(x)
    # float32 under any precision policy: softmax over 9,000 classes overflows half precision.
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(features.inputs[0], logits, name=model.name)


def build_backbone(model: Model, image_size: int, *, rematerialisation: bool = False) -> keras.Model:
    """Build a backbone, image [N, S, S, 3] (RGB 0..255) -> features [N, D], see `build_classifier`."""
    # The phase copies the global teacher itself, including its head.
    pretrained = False if model.pretrained == GLOBAL_TEACHER else model.pretrained
    if model.name == "mobilenetv2":
        return mobilenet.backbone(
            image_size,
            alpha=model.alpha,
            pretrained=pretrained,
            batch_norm_momentum=model.batch_norm_momentum,
        )
    return vit.backbone(model.name, image_size, pretrained=pretrained, rematerialisation=rematerialisation)


def freeze_backbone(model: keras.Model, frozen: bool) -> None:
    """Freeze or free everything but the head. Keras runs a frozen BatchNorm in inference mode."""
    for layer in model.layers:
        layer.trainable = layer.name in HEAD or not frozen


def load_classifier(path: Path) -> keras.Model:
    """Load a `.keras` file in safe mode.

    Raises:
        BrokenArtefact: naming the file, if no model can be loaded from it.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except UNREADABLE as error:
        raise BrokenArtefact(f"{path}: no model can be loaded from it ({error}); run its step again") from error
