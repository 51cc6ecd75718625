"""Check, before any work and without TensorFlow, whether pretrained weights are available."""

from __future__ import annotations

import functools
import os
import urllib.error
import urllib.request
from pathlib import Path

from keras_pipeline.core.config.teachers import GLOBAL_TEACHER, VIT_PRESETS, Model
from keras_pipeline.models import weights_file

KAGGLE, KERAS = "https://www.kaggle.com", "https://storage.googleapis.com"
SECONDS = 10  # to wait for any response


def vit_preset(name: str, pretrained: bool | str) -> str | None:
    """Return the keras-hub preset of a ViT; None if `pretrained` is a file or false."""
    tag = "imagenet" if pretrained is True else pretrained
    preset = f"{name}_{tag}"
    return preset if preset in VIT_PRESETS else None


def check_available(model: Model, key: str, received: str = "", remedy: str = "") -> None:
    """Check that the weights of `model` exist: a file, a cached download, or a host that responds.

    Args:
        key: the config key of the weights, for the message.
        received, remedy: its value, and what to do with the file; default: those of `model.pretrained`.

    Raises:
        ValueError: naming the local alternative, if they don't.
    """
    if model.pretrained in (True, "imagenet", "imagenet21k"):
        source, cached = _source(model)
        if not (cached or _reachable(source)):
            raise ValueError(
                f"{key}: {received or str(model.pretrained).lower()} needs a download from {source}, which does not "
                f"answer, and nothing is cached. Where there is a network, write the file with\n    {_recipe(model)}\n"
                "and " + (remedy or f"give its path here as {key}, or do without pretrained weights")
            )
    elif (
        isinstance(model.pretrained, str)
        and model.pretrained != GLOBAL_TEACHER
        and (fault := weights_file.fault(Path(model.pretrained), model))
    ):
        raise ValueError(f"{key}: {model.pretrained} {fault}")


def _source(model: Model) -> tuple[str, bool]:
    """Return the host of the weights, and whether Keras or Kaggle has cached them."""
    if model.name == "mobilenetv2":
        home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
        file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(model.alpha)}_224_no_top.h5"
        return KERAS, (home / "models" / file).is_file()
    cache = Path(os.environ.get("KAGGLEHUB_CACHE", Path.home() / ".cache" / "kagglehub"))
    preset = vit_preset(model.name, model.pretrained)
    return KAGGLE, any((cache / "models" / "keras" / "vit" / "keras" / str(preset)).glob("*/*.weights.h5"))


@functools.cache
def _reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an error status, but a response
    except OSError:
        return False
    return True


def _recipe(model: Model) -> str:
    if model.name == "mobilenetv2":
        network = f"keras.applications.MobileNetV2(alpha={model.alpha:g}, classifier_activation=None)"
        return f"python -c \"import keras; {network}.save_weights('mobilenetv2.weights.h5')\""
    preset = vit_preset(model.name, model.pretrained)
    network = f"keras_hub.models.ViTBackbone.from_preset('{preset}')"
    return f"python -c \"import keras_hub; {network}.save_weights('{model.name}.weights.h5')\""
