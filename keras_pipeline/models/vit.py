"""Vision Transformers (arXiv 2010.11929) from keras-hub, by the name of their size."""

from __future__ import annotations

import contextlib
import re

import keras
import keras_hub

from keras_pipeline.core.config.teachers import VIT_NAME, VIT_SIZES
from keras_pipeline.models.pretrained import vit_preset
from keras_pipeline.models.weights import copy_weights, load_checked
from keras_pipeline.models.weights_file import stored_shapes


def backbone(name: str, image_size: int, *, pretrained: bool | str, rematerialisation: bool = False) -> keras.Model:
    """Build the backbone: float32 [N, S, S, 3], RGB 0..255 -> float32 [N, width], the class token.

    Args:
        name: vit_{tiny,small,base,large,huge}_patch{8,14,16,32}[_SIZE].
        pretrained: True, "imagenet" or "imagenet21k": keras-hub's preset of that name (download); a path: a
            `.weights.h5` of such a preset's backbone; False: none. Position embeddings are resized to `image_size`.
        rematerialisation: keep only each block's input, and recompute the block in the backward pass (arXiv
            1604.06174).

    Raises:
        ValueError: if the name is unknown, the weights can't be downloaded, or they don't fit.
    """
    match = VIT_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"received {name!r}, expected vit_{{tiny,small,base,large,huge}}_patch{{8,14,16,32}}")
    blocks = [f"transformer_block_{number + 1}" for number in range(VIT_SIZES[match[1]][0])]
    scope = keras.RematScope("list_of_layers", layer_names=blocks) if rematerialisation else contextlib.nullcontext()
    with scope:
        vit = _build(match, image_size)
    if pretrained:
        preset = vit_preset(name, pretrained)
        copy_weights(_preset(preset) if preset else _donor(match, str(pretrained)), vit)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
    return keras.Model(inputs, vit(scaled)[:, 0], name=name)


def _build(match: re.Match, image_size: int) -> keras.Model:
    layers, heads, width = VIT_SIZES[match[1]]
    return keras_hub.models.ViTBackbone(
        image_shape=(image_size, image_size, 3), patch_size=int(match[2]), num_layers=layers, num_heads=heads,
        hidden_dim=width, mlp_dim=4 * width, name=match[0],
    )  # fmt: skip


def _preset(preset: str) -> keras.Model:
    try:
        return keras_hub.models.ViTBackbone.from_preset(preset)
    except Exception as error:  # Kaggle, Hugging Face and the preset table raise different things
        raise ValueError(
            f"model.pretrained: preset {preset!r} is not available ({error}); give the path of a .weights.h5 file, or "
            "false"
        ) from error


def _donor(match: re.Match, path: str) -> keras.Model:
    """Build the network at the file's own image size, with its weights."""
    shapes = stored_shapes(path)
    positions = next((shape for key, shape in shapes.items() if "position_embedding" in key), None)
    if positions is None:
        raise ValueError(f"model.pretrained: {path} has no position embedding; expected a ViTBackbone's .weights.h5")
    donor = _build(match, round((positions[0] - 1) ** 0.5) * int(match[2]))
    load_checked(donor, path)
    return donor
