"""Classifiers: a backbone and a head, image [N, S, S, 3] (RGB 0..255) -> logits [N, C]."""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path

import keras
import numpy as np

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


def freeze(model: keras.Model, *, backbone: bool, batch_norm: bool) -> None:
    """Freeze or free everything but the head, or the batch norms. Keras runs a frozen one in inference mode."""
    for layer in model.layers:
        frozen = backbone or (batch_norm and isinstance(layer, keras.layers.BatchNormalization))
        layer.trainable = layer.name in HEAD or not frozen


def backbone_of(model: keras.Model) -> keras.Model:
    """Return a classifier without its head, image [N, S, S, 3] -> features [N, D]; both share their weights."""
    return keras.Model(model.inputs[0], model.get_layer("dropout").input)


def set_head(model: keras.Model, *, mean: np.ndarray, scale: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Set the head to a linear classifier, ((features - mean) / scale) @ kernel + bias.

    A factorized head gets the nearest kernel of its rank (truncated SVD, in units of the scale). Columns beyond the
    rank of `kernel` keep their random weights before zeros, so that training can use them.

    Args:
        model: of `build_classifier`, with D features and C classes.
        mean, scale: float [D]; no scale is 0.
        kernel: float [D, C].
        bias: float [C].
    """
    logits = model.get_layer("logits")
    if "low_rank" in (layer.name for layer in model.layers):
        low_rank = model.get_layer("low_rank")
        first, second = low_rank.get_weights()[0].astype(np.float64), np.zeros(logits.kernel.shape)
        left, values, right = np.linalg.svd(kernel.astype(np.float64), full_matrices=False)
        rank = min(len(second), len(values))
        roots = np.sqrt(values[:rank])
        first[:, :rank] = left[:, :rank] * roots / scale[:, None]
        second[:rank] = roots[:, None] * right[:rank]
        low_rank.set_weights([first])
        folded, kernel = first @ second, second
    else:
        folded = kernel = kernel / scale[:, None]
    logits.set_weights([kernel, bias - mean @ folded])


def load_classifier(path: Path) -> keras.Model:
    """Load a `.keras` file in safe mode.

    Raises:
        BrokenArtefact: naming the file, if no model can be loaded from it, and the Keras that wrote it, if another did.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except UNREADABLE as error:
        writer = _writer(path)
        if writer not in ("", keras.__version__):
            raise BrokenArtefact(
                f"{path}: was written by Keras {writer}, not by this machine's {keras.__version__}, and can't be "
                f"loaded here: install keras=={writer}, or run its step again"
            ) from error
        raise BrokenArtefact(f"{path}: no model can be loaded from it ({error}); run its step again") from error
    freeze(model, backbone=False, batch_norm=False)  # a file tells what was frozen while it was trained
    return model


def _writer(path: Path) -> str:
    """Return the version of Keras that wrote a file; empty where it doesn't tell."""
    with contextlib.suppress(*UNREADABLE), zipfile.ZipFile(path) as file:
        return str(json.loads(file.read("metadata.json"))["keras_version"])
    return ""
