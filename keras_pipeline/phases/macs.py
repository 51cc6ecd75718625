"""Multiply-adds and parameters of the networks, from their published shapes."""

from __future__ import annotations

from keras_pipeline.core.config.teachers import VIT_NAME, VIT_SIZES, Model
from keras_pipeline.models.weights_file import channels

# Width, blocks, stride and expansion of MobileNetV2 (arXiv 1801.04381, table 2).
MOBILENET_BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def macs(model: Model, image_size: int, classes: int) -> tuple[float, float]:
    """(multiply-adds of one forward pass, parameters); of thousands of classes the head has most of the parameters."""
    match, features = VIT_NAME.fullmatch(model.name), width(model)
    if match is None:
        total, parameters = _mobilenet(model.alpha, image_size)
    else:
        layers = VIT_SIZES[match[1]][0]
        patch = int(match[2])
        tokens = (image_size // patch) ** 2 + 1
        embedding = 3 * patch**2 * features
        # A block: 4 width² of attention, 8 width² of its MLP; scores and sums take tokens · width each.
        total = layers * tokens * (12 * features**2 + 2 * tokens * features) + tokens * embedding
        parameters = 12 * layers * features**2 + embedding + tokens * features
    rank = model.head_rank
    head = features * rank + rank * classes if rank else features * classes
    return total + head, parameters + head


def width(model: Model) -> int:
    """Return the number of features that the head receives."""
    match = VIT_NAME.fullmatch(model.name)
    return VIT_SIZES[match[1]][2] if match else channels(1280 * max(model.alpha, 1.0))


def _mobilenet(alpha: float, size: int) -> tuple[float, float]:
    """Return multiply-adds and parameters, without the head."""

    side, last = -(-size // 2), channels(32 * alpha)
    parameters = 27 * last
    total = side**2 * parameters
    for expansion, width, blocks, first_stride in MOBILENET_BLOCKS:
        for number in range(blocks):
            stride, inner, out = first_stride if number == 0 else 1, expansion * last, channels(width * alpha)
            after = -(-side // stride)
            expand = last * inner if expansion > 1 else 0
            total += side**2 * expand + after**2 * (9 * inner + inner * out)
            parameters += expand + 9 * inner + inner * out
            side, last = after, out
    features = channels(1280 * max(alpha, 1.0))
    return total + side**2 * last * features, parameters + last * features
