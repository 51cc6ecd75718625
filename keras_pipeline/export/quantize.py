"""Prepare weights for export: fold BatchNorm, and quantize values to those that the bundle can store.

Quantization happens here, in Keras, so that the SavedModel and the browser's shards hold the same numbers and their
comparison measures arithmetic alone. `evaluation.quantization` measures the cost of quantization.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.progress import progress
from keras_pipeline.evaluation.metrics import log_softmax

FLOAT16_MAX = float(np.finfo(np.float16).max)
MOST_KL = 0.002  # nats per photo that uint8 kernels may cost
BATCH = 32
BYTES = {"uint8": 1, "float16": 2, "float32": 4}  # per value
SIGNIFICANT_BITS = 16  # of a step: up to 255 steps then fit float32's 24 bits


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Copy a functional model in float32, with each BatchNorm folded into the convolution or dense layer before it.

    Args:
        model: functional model (nested functional models are folded too). Not changed.

    Returns:
        A model with the same inference outputs up to float32 rounding. A BatchNorm that can't be folded (after an Add,
        after a shared or activated convolution, or not over the last axis) stays; `remaining_batch_norms` names those.

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
    """Return the names of the BatchNorm layers that are still in the model."""
    return [layer.name for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def quantize_to_float16(model: keras.Model) -> list[dict]:
    """Quantize every floating-point weight, in place, to the nearest float16 value.

    A BatchNorm that could not be folded keeps float32: its variance may lie below float16's smallest number.

    Returns:
        For each tensor {name: "layer/weight", shape, stored: "float16" | "float32", max_abs_error}.

    Raises:
        ValueError: for a NaN, an infinity or a value beyond +-65504, naming layer and weight; nothing is changed then.
    """
    check_finite(model)
    weights = _float_weights(model)
    for layer, weight in weights:
        _check_range(np.asarray(weight), f"{layer.name}/{weight.name}")
    return [_to_float16(layer, weight) for layer, weight in weights]


def quantize_to_uint8(model: keras.Model, photos: np.ndarray, *, most_kl: float = MOST_KL) -> list[dict]:
    """Quantize in place: kernels to uint8 (`affine`) where predictions hardly change, everything else to float16.

    Each kernel is first quantized alone, and KL(predictions before || after) measured over the photos. In rising order
    of KL per byte saved, each kernel is chosen that keeps the sum within `most_kl`; while all of them together exceed
    it, the last one is given up. So the head, three quarters of the weights at thousands of species, comes before many
    small kernels that cost less each. Depthwise kernels, in which one range has to serve all channels, tend to stay
    float16 (Krishnamoorthi 2018, arXiv 1806.08342, section 3.1).

    Args:
        model: float32 [N, S, S, 3] -> logits [N, C].
        photos: float32 [N, S, S, 3], of the train split.
        most_kl: nats per photo.

    Returns:
        As `quantize_to_float16`, some stored as "uint8"; for each kernel also its `kl`, nats, quantized alone.

    Raises:
        ValueError: as `quantize_to_float16`, and for logits that aren't finite.
    """
    exact = {id(weight): np.array(weight) for _, weight in _float_weights(model)}
    entries = quantize_to_float16(model)
    weights = [weight for _, weight in _float_weights(model)]
    kernels = [(entry, weight) for entry, weight in zip(entries, weights, strict=True) if len(entry["shape"]) > 1]
    predict = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    before = _log_probabilities(predict, photos)
    for entry, weight in progress(kernels, description="quantization", unit="kernels"):
        in_float16 = np.array(weight)
        weight.assign(affine(exact[id(weight)]))
        entry["kl"] = _kl(before, _log_probabilities(predict, photos))
        weight.assign(in_float16)
    kernels.sort(key=lambda kernel: kernel[0]["kl"] / np.prod(kernel[0]["shape"]))
    chosen, spent = [], 0.0
    for entry, weight in kernels:
        if spent + entry["kl"] <= most_kl:
            spent += entry["kl"]
            chosen.append((entry, dict(entry), weight, np.array(weight)))
            _to_uint8(entry, weight, exact[id(weight)])
    while chosen and _kl(before, _log_probabilities(predict, photos)) > most_kl:
        entry, float16_entry, weight, in_float16 = chosen.pop()
        weight.assign(in_float16)
        entry |= float16_entry
    return entries


def quantize_kernels(model: keras.Model, names: Collection[str]) -> list[dict]:
    """Quantize, in place, the kernels of the layers of these names to uint8 (`affine`), everything else to float16.

    Returns and raises as `quantize_to_float16`.
    """
    chosen = [weight for layer, weight in _float_weights(model) if layer.name in names]
    exact = {id(weight): np.array(weight) for weight in chosen if len(weight.shape) > 1}
    entries = quantize_to_float16(model)
    for entry, (_, weight) in zip(entries, _float_weights(model), strict=True):
        if id(weight) in exact:
            _to_uint8(entry, weight, exact[id(weight)])
    return entries


def _float_weights(model: keras.Model) -> list[tuple[keras.layers.Layer, keras.Variable]]:
    return [(layer, weight) for layer in _layers(model) for weight in layer.weights if "float" in weight.dtype]


def _to_uint8(entry: dict, weight: keras.Variable, exact: np.ndarray) -> None:
    quantized = affine(exact)
    weight.assign(quantized)
    entry |= {"stored": "uint8", "max_abs_error": float(np.abs(quantized - exact).max())}


def affine(values: np.ndarray) -> np.ndarray:
    """Quantize float32 values to 256 evenly spaced ones, including 0, from the smallest value to the largest.

    TensorFlow.js stores such a tensor as uint8 with one scale and one minimum, and decodes it to exactly the same
    float32 values: the step has `SIGNIFICANT_BITS`, so that its multiples are exact. Values that lie on one side of 0
    are returned unchanged.
    """
    low, high = float(values.min()), float(values.max())
    if not low < 0 < high:
        return values
    mantissa, exponent = np.frexp((high - low) / 255)
    step = np.ldexp(np.round(np.ldexp(mantissa, SIGNIFICANT_BITS)), exponent - SIGNIFICANT_BITS)
    zero = np.round(-low / step)
    return ((np.clip(np.round(values / step) + zero, 0, 255) - zero) * step).astype(np.float32)


def _log_probabilities(predict: Callable[[np.ndarray], tf.Tensor], photos: np.ndarray) -> np.ndarray:
    """Return log-probabilities, float64 [N, C]."""
    batches = (predict(photos[start : start + BATCH]) for start in range(0, len(photos), BATCH))
    return log_softmax(np.concatenate([np.asarray(batch) for batch in batches]))


def _kl(before: np.ndarray, after: np.ndarray) -> float:
    """Return KL(before || after) in nats, the mean over photos; log-probabilities [N, C]."""
    return float((np.exp(before) * (before - after)).sum(axis=1).mean())


def copy(model: keras.Model) -> keras.Model:
    """Copy a model, with weights of its own."""
    result = keras.models.clone_model(model)
    result.set_weights(model.get_weights())
    return result


def check_finite(model: keras.Model) -> None:
    """Raise ValueError naming the first layer and weight with a NaN or an infinity."""
    for layer in _layers(model):
        for weight in layer.weights:
            values = np.asarray(weight)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(
                    f"{layer.name}/{weight.name}: received NaN or infinite weights, expected finite ones; the training "
                    "diverged"
                )


def keep_float32(model: keras.Model) -> list[dict]:
    """Return the entries of `quantize_to_float16` for weights that stay float32."""
    return [
        {"name": f"{layer.name}/{weight.name}", "shape": list(weight.shape), "stored": "float32", "max_abs_error": 0.0}
        for layer, weight in _float_weights(model)
    ]


def megabytes(tensors: list[dict]) -> float:
    """Return the size of the stored weights in MB (10^6 bytes).

    Args:
        tensors: of `quantize_to_float16` or a function like it.
    """
    return sum(BYTES[entry["stored"]] * int(np.prod(entry["shape"])) for entry in tensors) / 1e6


def _foldable(model: keras.Model) -> dict[str, str]:
    """Return {BatchNorm's name: name of the layer that it can be folded into}."""
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth]
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in model.outputs)
    calls = Counter(node.operation.name for node in nodes)
    targets = {}
    for node in nodes:
        layer = node.operation
        if not isinstance(layer, keras.layers.BatchNormalization) or calls[layer.name] > 1:
            continue
        tensor = node.input_tensors[0]
        producer = tensor._keras_history.operation
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        over_last_axis = axis in (-1, len(tensor.shape) - 1)
        if over_last_axis and uses[id(tensor)] == 1 and calls[producer.name] == 1 and _takes_scale(producer):
            targets[layer.name] = producer.name
    return targets


def _takes_scale(layer: keras.layers.Layer) -> bool:
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.DepthwiseConv2D)
    # Exact types, because SeparableConv2D and user classes inherit from these and store their kernels elsewhere.
    if type(layer) not in (*kinds, keras.layers.Dense):
        return False
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return channels_last and layer.activation is keras.activations.linear


def _folded_weights(layer: keras.layers.Layer, batch_norm: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """Return [kernel, bias] such that layer(x) = batch_norm(old layer(x)), computed in float64."""
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
    """Return a new layer of the same config; float32 even where training ran in mixed precision."""
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


def _to_float16(layer: keras.layers.Layer, weight: keras.Variable) -> dict:
    values = np.asarray(weight, np.float32)
    entry = {"name": f"{layer.name}/{weight.name}", "shape": list(values.shape)}
    if isinstance(layer, keras.layers.BatchNormalization):
        return {**entry, "stored": "float32", "max_abs_error": 0.0}
    quantized = values.astype(np.float16).astype(np.float32)
    weight.assign(quantized)
    return {**entry, "stored": "float16", "max_abs_error": float(np.abs(quantized - values).max(initial=0))}
