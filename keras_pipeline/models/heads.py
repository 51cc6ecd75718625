"""A backbone and a head make a classifier: image [N, S, S, 3] (RGB 0..255) -> logits [N, C]."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras

from keras_pipeline.core.config.teachers import GLOBAL_TEACHER, Model
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.models import mobilenet

HEAD = {"low_rank", "logits"}  # layers that no backbone has


def build_classifier(
    model: Model, *, num_classes: int, image_size: int, dropout: float, rematerialisation: bool = False
) -> keras.Model:
    """Args: model: the config's section; num_classes: length of the class list; rematerialisation: see `vit.backbone`.

    Raises ValueError when model.num_classes says another number, or the weights can't be had.
    """
    if model.num_classes not in (None, num_classes):
        raise ValueError(
            f"model.num_classes: received {model.num_classes}, but the class list has {num_classes}: remove the key"
        )
    features = build_backbone(model, image_size, rematerialisation=rematerialisation)
    x = keras.layers.Dropout(dropout, name="dropout")(features.output)
    if model.head_rank:
        # The kernel as a product of two: of 1,280 x 9,000 numbers 256 x (1,280 + 9,000) are left.
        x = keras.layers.Dense(model.head_rank, use_bias=False, name="low_rank")(x)
    # float32 whatever the precision policy: softmax over 9,000 classes overflows half precision.
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(features.inputs[0], logits, name=model.name)


def build_backbone(model: Model, image_size: int, *, rematerialisation: bool = False) -> keras.Model:
    """image [N, S, S, 3] (RGB 0..255) -> features [N, D]."""
    # The phase copies the global teacher itself, head and all.
    pretrained = False if model.pretrained == GLOBAL_TEACHER else model.pretrained
    if model.name == "mobilenetv2":
        return mobilenet.backbone(
            image_size,
            alpha=model.alpha,
            pretrained=pretrained,
            batch_norm_momentum=model.batch_norm_momentum,
        )
    from keras_pipeline.models import vit  # keras-hub takes seconds to import

    return vit.backbone(model.name, image_size, pretrained=pretrained, rematerialisation=rematerialisation)


def freeze_backbone(model: keras.Model, frozen: bool) -> None:
    """Freezes everything but the head. Keras then also runs BatchNorm in inference mode."""
    for layer in model.layers:
        layer.trainable = layer.name in HEAD or not frozen


def load_classifier(path: Path) -> keras.Model:
    """A `.keras` file written by this package, in safe mode. Raises BrokenArtefact naming it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if b"keras_hub" in archive.read("config.json"):
                import keras_hub  # noqa: F401  registers its layers
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BrokenArtefact(f"{path}: no model can be loaded from it ({error}); run its step again") from error
