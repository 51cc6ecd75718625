"""How deep in its model a weight lies, for a learning rate that falls towards the input."""

from __future__ import annotations

import re

import keras

# Of the variables' paths: what comes before the first block, and the blocks of ViT and MobileNetV2.
STEM = re.compile(r"(.*/)?(vit_patching_and_embedding|Conv1|bn_Conv1|expanded_conv_\w+)/")
BLOCK = re.compile(r"(?:.*/)?(?:transformer_block|block)_(\d+)[_/]")


def layer_rates(model: keras.Model, decay: float) -> dict[str, float]:
    """Path of each trainable variable -> share of the learning rate, decay^(L + 1 - depth) (arXiv 2106.08254, A).

    The stem has depth 0, block k of L depth k, and what follows the blocks, the head too, L + 1: a share of 1.
    """
    paths = [variable.path for variable in model.trainable_variables]
    depths = [0 if STEM.match(path) else int(found[1]) if (found := BLOCK.match(path)) else None for path in paths]
    last = max((depth for depth in depths if depth is not None), default=0) + 1
    return {
        path: decay ** (last - (last if depth is None else depth)) for path, depth in zip(paths, depths, strict=True)
    }
