"""Weights made ready to leave Python: BatchNorm folded, values rounded to what the bundle stores, and what that costs.

Rounding happens here, in Keras, so that the SavedModel and the browser's shards hold the very same numbers and their
comparison measures the arithmetic alone. `evaluation.rounding` measures the rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.progress import progress

FLOAT16_MAX = float(np.finfo(np.float16).max)
MOST_KL = 0.002  # nats a photo that 256 steps may cost
BATCH = 32
BYTES = {"uint8": 1, "float16": 2, "float32": 4}  # a value
SIGNIFICANT_BITS = 16  # of a step: times up to 255 of them, a number of float32's 24 bits


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A float32 copy of a functional model with each BatchNorm folded into the convolution or dense layer before it.

    Args:
        model: functional model (nested functional models are folded too). Not changed.

    Returns:
        A model with the same inference outputs up to float32 rounding. A BatchNorm that has no layer of its own to
        fold into (after an Add, after a shared or activated convolution, not over the last axis) stays;
        `remaining_batch_norms` names those.

    Raises:
        ValueError: for a model that is not functional.
    """
    if not _is_functional(model):
        raise ValueError(f"received {type(model).__name__}, expected a functional keras.Model")
    target_of = _foldable(model)
    widened = set(target_of.values())
    folded = keras.models.clone_model(
        model,
        clone_function=lambda layer: _float32_copy(layer, add_bias=layer.name in widened),
        call_function=lambda layer, *args, **kwargs: args[0] if layer.name in target_of else layer(*args, **kwargs),
    )
    batch_norm_of = {target: batch_norm for batch_norm, target in target_of.items()}
    for layer in folded.layers:
        if layer.name in batch_norm_of:
            batch_norm = model.get_layer(batch_norm_of[layer.name])
            layer.set_weights(_folded_weights(model.get_layer(layer.name), batch_norm))
        elif layer.weights and not _is_functional(layer):
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return folded


def remaining_batch_norms(model: keras.Model) -> list[str]:
    """Names of the BatchNorm layers that are still in the model."""
    return [layer.name for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def round_to_float16(model: keras.Model) -> list[dict]:
    """Rounds every floating-point weight, in place, to the nearest float16 value.

    A BatchNorm that could not be folded keeps float32: its variance may lie below float16's smallest number.

    Returns:
        Per tensor {name: "layer/weight", shape, stored: "float16" | "float32", max_abs_error}.

    Raises:
        ValueError: for a NaN, an infinity or a value beyond +-65504, naming layer and weight; nothing is changed then.
    """
    check_finite(model)
    tensors = [(layer, weight) for layer in _layers(model) for weight in layer.weights if "float" in weight.dtype]
    for layer, weight in tensors:
        _check_range(np.asarray(weight), f"{layer.name}/{weight.name}")
    return [_round(layer, weight) for layer, weight in tensors]


def round_to_uint8(model: keras.Model, photos: np.ndarray, *, most_kl: float = MOST_KL) -> list[dict]:
    """Round, in place, each kernel to 256 steps (`affine`) where accuracy allows, and everything else to float16.

    Which kernels those are is measured: each is rounded alone, and KL(answers before || after) taken over the photos.
    From the least on they are taken while the sum stays within `most_kl`, and given up again, the last first, while
    all together exceed it. Depthwise kernels, of which one range has to serve all channels, tend to fall out
    (Krishnamoorthi 2018, arXiv 1806.08342, section 3.1).

    Args:
        model: float32 [N, S, S, 3] -> logits [N, C].
        photos: float32 [N, S, S, 3], of the train split.
        most_kl: nats a photo.

    Returns:
        As `round_to_float16`, some stored as "uint8"; of each kernel also `kl`, in nats, when it alone is rounded.

    Raises:
        ValueError: as `round_to_float16`.
    """
    exact = {id(weight): np.array(weight) for layer in _layers(model) for weight in layer.weights}
    entries = round_to_float16(model)
    weights = [weight for layer in _layers(model) for weight in layer.weights if "float" in weight.dtype]
    kernels = [(entry, weight) for entry, weight in zip(entries, weights, strict=True) if len(entry["shape"]) > 1]
    answer = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    before = _answers(answer, photos)
    for entry, weight in progress(kernels, description="rounding", unit="kernels"):
        halved = np.array(weight)
        weight.assign(affine(exact[id(weight)]))
        entry["kl"] = _kl(before, _answers(answer, photos))
        weight.assign(halved)
    kernels.sort(key=lambda kernel: kernel[0]["kl"])
    bearable = int((np.cumsum([entry["kl"] for entry, _ in kernels]) <= most_kl).sum())
    taken = [(entry, dict(entry), weight, np.array(weight)) for entry, weight in kernels[:bearable]]
    for entry, _, weight, _ in taken:
        _put_on_steps(entry, weight, exact[id(weight)])
    while taken and _kl(before, _answers(answer, photos)) > most_kl:
        entry, in_float16, weight, halved = taken.pop()
        weight.assign(halved)
        entry |= in_float16
    return entries


def round_kernels(model: keras.Model, names: Collection[str]) -> list[dict]:
    """Rounds, in place, the kernels of the layers of these names to 256 steps and everything else to float16.

    Returns and raises as `round_to_float16`.
    """
    chosen = [weight for layer in _layers(model) if layer.name in names for weight in layer.weights]
    exact = {id(weight): np.array(weight) for weight in chosen if len(weight.shape) > 1}
    entries = round_to_float16(model)
    weights = [weight for layer in _layers(model) for weight in layer.weights if "float" in weight.dtype]
    for entry, weight in zip(entries, weights, strict=True):
        if id(weight) in exact:
            _put_on_steps(entry, weight, exact[id(weight)])
    return entries


def _put_on_steps(entry: dict, weight: keras.Variable, exact: np.ndarray) -> None:
    rounded = affine(exact)
    weight.assign(rounded)
    entry |= {"stored": "uint8", "max_abs_error": float(np.abs(rounded - exact).max())}


def affine(values: np.ndarray) -> np.ndarray:
    """float32 values on 256 evenly spaced ones, 0 among them, that reach from the least to the largest.

    TensorFlow.js stores such a tensor as uint8 with one scale and one minimum, and decodes it to the very same
    float32 values: the step has `SIGNIFICANT_BITS`, so that no product with it is rounded. Values that don't reach to
    both sides of 0 are returned as they are.
    """
    low, high = float(values.min()), float(values.max())
    if not low < 0 < high:
        return values
    mantissa, exponent = np.frexp((high - low) / 255)
    step = np.ldexp(np.round(np.ldexp(mantissa, SIGNIFICANT_BITS)), exponent - SIGNIFICANT_BITS)
    zero = np.round(-low / step)
    return ((np.clip(np.round(values / step) + zero, 0, 255) - zero) * step).astype(np.float32)


def _answers(model: Callable[[np.ndarray], tf.Tensor], photos: np.ndarray) -> np.ndarray:
    """Log-probabilities, float64 [N, C]."""
    batches = (model(photos[start : start + BATCH]) for start in range(0, len(photos), BATCH))
    return _log_softmax(np.concatenate([np.asarray(batch) for batch in batches]))


def _kl(before: np.ndarray, after: np.ndarray) -> float:
    return float((np.exp(before) * (before - after)).sum(axis=1).mean())


def copy(model: keras.Model) -> keras.Model:
    """A copy of the model with its own weights."""
    result = keras.models.clone_model(model)
    result.set_weights(model.get_weights())
    return result


def check_finite(model: keras.Model) -> None:
    """Raises ValueError naming the first layer and weight with a NaN or an infinity."""
    for layer in _layers(model):
        for weight in layer.weights:
            values = np.asarray(weight)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(
                    f"{layer.name}/{weight.name}: received NaN or infinite weights, expected finite ones; the training "
                    "diverged"
                )


def keep_float32(model: keras.Model) -> list[dict]:
    """What `round_to_float16` returns, of weights that stay as they are."""
    return [
        {"name": f"{layer.name}/{weight.name}", "shape": list(weight.shape), "stored": "float32", "max_abs_error": 0.0}
        for layer in _layers(model)
        for weight in layer.weights
        if "float" in weight.dtype
    ]


def megabytes(tensors: list[dict]) -> float:
    """Of the weights as they are stored, in MB (10^6 bytes)."""
    return sum(BYTES[entry["stored"]] * int(np.prod(entry["shape"])) for entry in tensors) / 1e6


def _foldable(model: keras.Model) -> dict[str, str]:
    """{BatchNorm's name: name of the layer that takes it in}."""
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth]
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in model.outputs)
    calls = Counter(node.operation.name for node in nodes)
    found = {}
    for node in nodes:
        layer = node.operation
        if not isinstance(layer, keras.layers.BatchNormalization) or calls[layer.name] > 1:
            continue
        tensor = node.input_tensors[0]
        producer = tensor._keras_history.operation
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        over_last_axis = axis in (-1, len(tensor.shape) - 1)
        if over_last_axis and uses[id(tensor)] == 1 and calls[producer.name] == 1 and _takes_scale(producer):
            found[layer.name] = producer.name
    return found


def _takes_scale(layer: keras.layers.Layer) -> bool:
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.DepthwiseConv2D)
    # Exact types: SeparableConv2D and user classes inherit from these and keep their kernels elsewhere.
    if type(layer) not in (*kinds, keras.layers.Dense):
        return False
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return channels_last and layer.activation is keras.activations.linear


def _folded_weights(layer: keras.layers.Layer, batch_norm: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """[kernel, bias] such that layer(x) = batch_norm(old layer(x)), summed in float64."""
    mean, variance = (np.asarray(w, np.float64) for w in (batch_norm.moving_mean, batch_norm.moving_variance))
    gamma = np.asarray(batch_norm.gamma, np.float64) if batch_norm.scale else 1.0
    beta = np.asarray(batch_norm.beta, np.float64) if batch_norm.center else 0.0
    scale = gamma / np.sqrt(variance + batch_norm.epsilon)
    kernel = np.asarray(layer.kernel, np.float64)
    bias = np.asarray(layer.bias, np.float64) if layer.use_bias else 0.0
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    factor = scale.reshape(kernel.shape[-2:]) if depthwise else scale  # a depthwise kernel ends in [in, multiplier]
    return [(kernel * factor).astype(np.float32), (beta + (bias - mean) * scale).astype(np.float32)]


def _float32_copy(layer: keras.layers.Layer, *, add_bias: bool) -> keras.layers.Layer:
    """A new layer of the same config; float32 even where training ran in mixed precision."""
    if _is_functional(layer):
        return fold_batch_norm(layer)
    config = layer.get_config()
    config["dtype"] = "float32"
    if add_bias:
        config["use_bias"] = True
    return type(layer).from_config(config)


def _is_functional(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.Model) and hasattr(layer, "_nodes_by_depth")


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    return list(model._flatten_layers(include_self=False, recursive=True))


def _check_range(values: np.ndarray, name: str) -> None:
    largest = float(np.abs(values).max(initial=0))
    if largest > FLOAT16_MAX:
        raise ValueError(f"{name}: received {largest:.6g}, expected at most {FLOAT16_MAX:g} (float16's largest number)")


def _round(layer: keras.layers.Layer, weight: keras.Variable) -> dict:
    values = np.asarray(weight, np.float32)
    entry = {"name": f"{layer.name}/{weight.name}", "shape": list(values.shape)}
    if isinstance(layer, keras.layers.BatchNormalization):
        return {**entry, "stored": "float32", "max_abs_error": 0.0}
    rounded = values.astype(np.float16).astype(np.float32)
    weight.assign(rounded)
    return {**entry, "stored": "float16", "max_abs_error": float(np.abs(rounded - values).max(initial=0))}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
