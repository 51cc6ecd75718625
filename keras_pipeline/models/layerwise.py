"""Layer-wise learning rates, which fall towards the input."""

from __future__ import annotations

import re

import keras

# Paths of variables before the first block, and in the blocks, of ViT and MobileNetV2.
STEM = re.compile(r"(.*/)?(vit_patching_and_embedding|Conv1|bn_Conv1|expanded_conv_\w+)/")
BLOCK = re.compile(r"(?:.*/)?(?:transformer_block|block)_(\d+)[_/]")


def layer_rates(model: keras.Model, decay: float) -> dict[str, float]:
    """Return {path of a trainable variable: factor of the learning rate} (arXiv 2106.08254, appendix A).

    The factor is decay^(L + 1 - depth). The stem has depth 0, block k of L has depth k, and everything after the
    blocks, including the head, has depth L + 1, a factor of 1.
    """
    depths = {variable.path: _depth(variable.path) for variable in model.trainable_variables}
    last = max((depth for depth in depths.values() if depth is not None), default=0) + 1
    return {path: 1.0 if depth is None else decay ** (last - depth) for path, depth in depths.items()}


def _depth(path: str) -> int | None:
    """Return 0 in the stem, k in block k, None after the blocks."""
    if STEM.match(path):
        return 0
    block = BLOCK.match(path)
    return int(block[1]) if block else None
