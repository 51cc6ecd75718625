"""Vision Transformers (arXiv 2010.11929) from keras-hub, by size name."""

from __future__ import annotations

import keras
import keras_hub

from keras_pipeline.core.config import VIT_NAME

# layers, heads, width; MLP = 4 x width. tiny and small: arXiv 2012.12877, table 1; base and large: 2010.11929, table 1.
SIZES = {"tiny": (12, 3, 192), "small": (12, 6, 384), "base": (12, 12, 768), "large": (24, 16, 1024)}


def backbone(name: str, image_size: int, *, pretrained: bool | str) -> keras.Model:
    """float32 [N, S, S, 3], RGB 0..255 -> float32 [N, width], the class token.

    Args:
        name: vit_{tiny,small,base,large}_patch{8,14,16,32}[_SIZE].
        pretrained: True: keras-hub's ImageNet preset of that name (download); a path: the backbone's `.weights.h5`;
            False: none.
    """
    match = VIT_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"received {name!r}, expected vit_{{tiny,small,base,large}}_patch{{8,14,16,32}}")
    shape = (image_size, image_size, 3)
    if pretrained is True:
        vit = _preset(f"{name}_imagenet", shape)
    else:
        layers, heads, width = SIZES[match[1]]
        vit = keras_hub.models.ViTBackbone(
            image_shape=shape, patch_size=int(match[2]), num_layers=layers, num_heads=heads, hidden_dim=width,
            mlp_dim=4 * width,
        )  # fmt: skip
        if pretrained:
            _load(vit, pretrained)
    inputs = keras.Input(shape, name="image")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
    return keras.Model(inputs, vit(scaled)[:, 0], name=name)


def _preset(preset: str, shape: tuple[int, int, int]) -> keras.Model:
    try:
        return keras_hub.models.ViTBackbone.from_preset(preset, image_shape=shape)
    except Exception as error:  # Kaggle, Hugging Face and the preset table raise different things
        raise ValueError(
            f"model.pretrained: true: preset {preset!r} can't be had ({error}); give the path of a .weights.h5 file, "
            "false, or one of " + ", ".join(sorted(keras_hub.models.ViTBackbone.presets))
        ) from error


def _load(vit: keras.Model, path: str) -> None:
    try:
        vit.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.pretrained: {path} can't be loaded into {vit.name}: {error}") from error
