"""Weights made ready to leave Python: BatchNorm folded, values rounded to what the bundle stores, and what that costs.

Rounding happens here, in Keras, so that the SavedModel and the browser's shards hold the very same numbers and their
comparison measures the arithmetic alone. `compare_models` measures the rounding.
"""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np

FLOAT16_MAX = float(np.finfo(np.float16).max)


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
    tensors = [(layer, weight) for layer in _layers(model) for weight in layer.weights if "float" in weight.dtype]
    for layer, weight in tensors:
        _check_range(np.asarray(weight), f"{layer.name}/{weight.name}")
    return [_round(layer, weight) for layer, weight in tensors]


def weight_megabytes(model: keras.Model) -> dict[str, float]:
    """Size of the weights in MB (10^6 bytes) when stored as float32 and as float16."""
    count = model.count_params()
    return {"float32": count * 4 / 1e6, "float16": count * 2 / 1e6}


def compare_models(reference_logits: np.ndarray, quantized_logits: np.ndarray, labels: np.ndarray) -> dict:
    """What rounding did to the answers.

    Args:
        reference_logits: float [N, C], of the model before.
        quantized_logits: float [N, C], of the model after, same photos in the same order.
        labels: int [N], 0..C-1.

    Returns:
        {n, top1_agreement, top1_before, top1_after, max_abs_dp (probabilities at T = 1), delta_nll (nats, after -
        before)}.
    """
    if reference_logits.shape != quantized_logits.shape or len(labels) != len(reference_logits) or not len(labels):
        raise ValueError(
            f"received logits {reference_logits.shape} and {quantized_logits.shape} for {len(labels)} labels, "
            "expected two equal [N, C] with N > 0 and N labels"
        )
    before, after = _log_softmax(reference_logits), _log_softmax(quantized_logits)
    first, second = before.argmax(1), after.argmax(1)
    rows = np.arange(len(labels))
    return {
        "n": len(labels),
        "top1_agreement": float(np.mean(first == second)),
        "top1_before": float(np.mean(first == labels)),
        "top1_after": float(np.mean(second == labels)),
        "max_abs_dp": float(np.abs(np.exp(before) - np.exp(after)).max()),
        "delta_nll": float(np.mean(before[rows, labels] - after[rows, labels])),
    }


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
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: received NaN or infinite weights, expected finite ones; the training diverged")
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
