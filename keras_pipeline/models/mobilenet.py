"""MobileNetV2 (arXiv 1801.04381) as one flat functional graph, so that export can fold BatchNorm."""

from __future__ import annotations

import keras

from keras_pipeline.models.weights import copy_weights, load_checked


def backbone(image_size: int, *, alpha: float, pretrained: bool | str, batch_norm_momentum: float) -> keras.Model:
    """Build the backbone: float32 [N, S, S, 3], RGB 0..255 -> float32 [N, 1280 * max(alpha, 1)] pooled features.

    Args:
        alpha: width multiplier.
        pretrained: True or "imagenet": Keras's ImageNet weights (download); a path: `.weights.h5` of
            `keras.applications.MobileNetV2(alpha=alpha, classifier_activation=None)`, 1000 classes; False: none.
        batch_norm_momentum: with Keras's own 0.999, evaluation needs thousands of steps to catch up with training.

    Raises:
        ValueError: if the weights can't be downloaded, or don't fit.
    """
    inputs = keras.Input((image_size, image_size, 3), name="image")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
    model = keras.applications.MobileNetV2(
        input_tensor=scaled, alpha=alpha, include_top=False, pooling="avg", weights=None, name="mobilenetv2"
    )
    if pretrained:
        copy_weights(_donor(alpha, pretrained), model)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = batch_norm_momentum
    return model


def _donor(alpha: float, pretrained: bool | str) -> keras.Model:
    """Build the 1000-class network with the pretrained weights."""
    if pretrained in (True, "imagenet"):
        try:
            return keras.applications.MobileNetV2(alpha=alpha, weights="imagenet", include_top=False)
        except Exception as error:  # urllib, SSL and Keras raise different things
            raise ValueError(
                f"model.pretrained: {pretrained} needs a download that failed ({error}); give the path of a "
                ".weights.h5 file, or false"
            ) from error
    donor = keras.applications.MobileNetV2(
        alpha=alpha, weights=None, classifier_activation=None, name=f"MobileNetV2 with alpha {alpha:g}, 1000 classes"
    )
    load_checked(donor, str(pretrained))
    return donor
