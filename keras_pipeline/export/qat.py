"""Quantization-aware training: kernels learn to keep the model's predictions although each is quantized to 8 bits.

tensorflow-model-optimization supports tf_keras only, so the model gets a twin there with the same weights; the trained
ones are copied back into a Keras model. The forward pass quantizes what the bundle stores in one byte per value: each
kernel, over a range of its own. Activations are floats in TensorFlow.js and stay so (Jacob et al. 2017,
arXiv 1712.05877, section 3, without them).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.progress import progress
from keras_pipeline.export.quantize import copy

BITS = 8  # as `quantize.affine`
SAME = 1e-4  # of the largest logit, by which the twin may differ: it sums float32 in another order
# Endings of config keys that the twin does not need, because its weights are set afterwards.
INITIAL = ("_initializer", "_regularizer", "_constraint", "dtype", "trainable")


def train(
    model: keras.Model, kernels: Collection[str], batches: Iterable[np.ndarray], *, steps: int, learning_rate: float
) -> keras.Model:
    """Train a copy of the model to predict as the model does, once its kernels are quantized.

    Args:
        model: functional, float32 [N, S, S, 3] -> logits [N, C], BatchNorm folded; its own predictions are the targets.
            Not changed.
        kernels: names of the layers whose kernels are quantized, see `kernels_of`.
        batches: float32 [N, S, S, 3] each; `steps` of them are used.
        steps: number of training steps.
        learning_rate: of Adam, falling to 0 by a cosine. Small: without BatchNorm the kernels of some channels are
            hundreds of times those of others.

    Returns:
        The trained copy; its kernels are not quantized yet, see `quantize.quantize_kernels`.

    Raises:
        ValueError: for a layer that tf_keras does not have, a twin that predicts differently, a loss that is not
            finite, or no batches.
    """
    trained, stack = copy(model), _stack()
    student = twin(trained)
    quantized = _quantized(student, kernels)
    adam = stack.keras.optimizers.Adam(stack.keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    quantized.compile(adam, stack.keras.losses.CategoricalCrossentropy(from_logits=True))
    targets = tf.function(lambda images: tf.nn.softmax(model(images, training=False)), reduce_retracing=True)
    seen = 0
    for images in progress(batches, total=steps, description="int8-qat", unit="steps"):
        if seen == 0:
            _check_twin(student, trained, images)
        loss = float(quantized.train_on_batch(images, targets(images)))
        if not np.isfinite(loss):
            raise ValueError(
                f"int8-qat: the loss is {loss} at step {seen}, expected a finite one; lower phase6.qat.learning_rate"
            )
        seen += 1
        if seen == steps:
            break
    if not seen:
        raise ValueError("int8-qat: received no batches, expected train photos")
    _copy_back(quantized, trained)
    return trained


def kernels_of(model: keras.Model) -> set[str]:
    """Return the names of the layers whose kernels are quantized: all but the depthwise ones.

    In a depthwise kernel one range has to serve all channels. These kernels are a fiftieth of a MobileNet's weights,
    and quantizing them ruins it: before training, top-1 on flowers17 is 0.06 with all kernels quantized, and 0.91
    without the depthwise ones.
    """
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return {layer.name for layer in model.layers if isinstance(layer, kinds) and type(layer) in kinds}


def twin(model: keras.Model) -> Any:
    """Build the same graph of tf_keras layers with the same weights, without dropout, which inference does not use.

    Raises:
        ValueError: for a layer that tf_keras does not have, a nested model, or a layer used twice.
    """
    tf_keras = _stack().keras
    tensors = {}
    for layer in model.operations:
        if isinstance(layer, keras.layers.InputLayer):
            tensors[id(layer.output)] = tf_keras.Input(layer.batch_shape[1:])
            continue
        (node,) = _nodes_in(model, layer)
        inputs = [tensors[id(tensor)] for tensor in node.input_tensors]
        inputs = inputs[0] if len(inputs) == 1 else inputs
        made = inputs if isinstance(layer, keras.layers.Dropout) else _twin_of(layer, tf_keras)(inputs)
        tensors[id(node.output_tensors[0])] = made
    result = tf_keras.Model(tensors[id(model.inputs[0])], tensors[id(model.outputs[0])])
    for layer in model.layers:
        if layer.weights:
            result.get_layer(layer.name).set_weights(layer.get_weights())
    return result


def _nodes_in(model: keras.Model, layer: keras.layers.Layer) -> list:
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth if node.operation is layer]
    if len(nodes) != 1:
        raise ValueError(f"int8-qat: {layer.name} is used {len(nodes)} times, expected once; use --type int8")
    return nodes


def _twin_of(layer: keras.layers.Layer, tf_keras: Any) -> Any:
    kind = getattr(tf_keras.layers, type(layer).__name__, None)
    if kind is None or isinstance(layer, keras.Model):
        raise ValueError(
            f"int8-qat: received the layer {layer.name} ({type(layer).__name__}), which has no twin in tf_keras; use "
            "--type int8"
        )
    known = inspect.signature(kind.__init__).parameters
    config = layer.get_config()
    kept = {key: config[key] for key in config if key in known and not key.endswith(INITIAL)}
    made = kind(**kept, name=layer.name)
    made.trainable = not isinstance(layer, keras.layers.BatchNormalization)  # inference mode: keeps its statistics
    return made


def _check_twin(student: Any, model: keras.Model, images: np.ndarray) -> None:
    expected, received = np.asarray(model(images, training=False)), np.asarray(student(images, training=False))
    largest = np.abs(expected - received).max()
    if largest > SAME * max(1.0, float(np.abs(expected).max())):
        raise ValueError(
            f"int8-qat: the tf_keras twin's logits differ by up to {largest:.3g}, expected the same; use --type int8"
        )


def _quantized(student: Any, kernels: Collection[str]) -> Any:
    """Return the twin with these kernels quantized in the forward pass; gradients pass as if they weren't."""
    stack = _stack()
    quantization = stack.quantization

    def annotated(layer: Any) -> Any:
        return quantization.quantize_annotate_layer(layer, stack.config()) if layer.name in kernels else layer

    marked = stack.keras.models.clone_model(student, clone_function=annotated)
    with quantization.quantize_scope({stack.config.__name__: stack.config}):
        return quantization.quantize_apply(marked, stack.scheme())


def _kernel_of(layer: Any) -> str | None:
    return next((name for name in ("depthwise_kernel", "kernel") if hasattr(layer, name)), None)


def _copy_back(quantized: Any, model: keras.Model) -> None:
    """Copy the trained weights, not quantized, into the Keras model."""
    for layer in model.layers:
        if not layer.weights:
            continue
        wrapped = next(made for made in quantized.layers if made.name in (layer.name, f"quant_{layer.name}"))
        trained = {weight.name.rpartition("/")[2].partition(":")[0]: weight for weight in wrapped.weights}
        names = [weight.name if weight.name in trained else f"depthwise_{weight.name}" for weight in layer.weights]
        layer.set_weights([trained[name].numpy() for name in names])


@functools.cache
def _stack() -> SimpleNamespace:
    """Return tf_keras, tensorflow-model-optimization and the classes made of them."""
    # Imported on first use: they take seconds, which the other ways of quantizing do without.
    import tensorflow_model_optimization as optimization
    import tf_keras

    # Bases of the classes below: mypy takes no attribute of an untyped package for one.
    quantization: Any = optimization.quantization.keras
    base_config: Any = quantization.QuantizeConfig
    base_transform: Any = quantization.QuantizeLayoutTransform
    base_scheme: Any = quantization.default_8bit.Default8BitQuantizeScheme

    class KernelQuantization(base_config):
        """Quantizes a kernel to 8 bits over one range, as `quantize.affine`, and nothing else."""

        def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
            quantizer = quantization.quantizers.LastValueQuantizer(
                num_bits=BITS, per_axis=False, symmetric=False, narrow_range=False
            )
            return [(getattr(layer, str(_kernel_of(layer))), quantizer)]

        def set_quantize_weights(self, layer: Any, quantize_weights: list) -> None:
            setattr(layer, str(_kernel_of(layer)), quantize_weights[0])

        def get_activations_and_quantizers(self, layer: Any) -> list:
            return []

        def set_quantize_activations(self, layer: Any, quantize_activations: list) -> None:
            pass

        def get_output_quantizers(self, layer: Any) -> list:
            return []

        def get_config(self) -> dict:
            return {}

    class NoTransforms(base_transform):
        """Leaves the graph unchanged: only annotated layers are quantized."""

        def apply(self, model: Any, layer_quantize_map: dict) -> tuple[Any, dict]:
            return model, layer_quantize_map

    class Scheme(base_scheme):
        def get_layout_transformer(self) -> NoTransforms:
            return NoTransforms()

    return SimpleNamespace(keras=tf_keras, quantization=quantization, config=KernelQuantization, scheme=Scheme)
