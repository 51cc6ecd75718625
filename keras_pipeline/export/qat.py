"""Quantisation-aware training: kernels learn to answer as before although each is rounded to 256 steps.

tensorflow-model-optimization works on tf_keras alone, so the model gets a twin there, with the same weights; the
trained ones go back into a Keras model. What is rounded in the forward pass is what the bundle stores as a byte a
value: each kernel, over one range of its own. Activations are floats in TensorFlow.js and stay so (Jacob et al. 2017,
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
SAME = 1e-4  # of the largest logit, by which the twin may differ: float32 sums in another order
INITIAL = ("_initializer", "_regularizer", "_constraint", "dtype", "trainable")  # of a config; weights are set after


def train(
    model: keras.Model, kernels: Collection[str], batches: Iterable[np.ndarray], *, steps: int, learning_rate: float
) -> keras.Model:
    """A copy of the model that answers as the model does once the kernels are rounded.

    Args:
        model: functional, float32 [N, S, S, 3] -> logits [N, C], BatchNorm folded; its own answers are what is learnt.
            Not changed.
        kernels: names of the layers whose kernels are rounded, see `kernels_of`.
        batches: float32 [N, S, S, 3] each; `steps` of them are taken.
        learning_rate: of Adam, falling to 0 by a cosine. Small: without BatchNorm the kernels of some channels are
            hundreds of times those of others.

    Raises:
        ValueError: for a layer that tf_keras does not have, a twin that answers otherwise, or no batches.
    """
    trained, stack = copy(model), _stack()
    student = twin(trained)
    rounded = _rounding(student, kernels)
    schedule = stack.keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    rounded.compile(stack.keras.optimizers.Adam(schedule), stack.keras.losses.CategoricalCrossentropy(from_logits=True))
    answer = tf.function(lambda images: tf.nn.softmax(model(images, training=False)), reduce_retracing=True)
    seen = 0
    for images in progress(batches, total=steps, description="int8-qat", unit="steps"):
        if seen == 0:
            _check_twin(student, trained, images)
        loss = float(rounded.train_on_batch(images, answer(images)))
        if not np.isfinite(loss):
            raise ValueError(f"int8-qat: the loss is {loss} at step {seen}; lower phase6.qat.learning_rate")
        seen += 1
        if seen == steps:
            break
    if not seen:
        raise ValueError("int8-qat: received no batches, expected train photos")
    _take_back(rounded, trained)
    return trained


def kernels_of(model: keras.Model) -> set[str]:
    """Names of the layers whose kernels training is for: not the depthwise ones, of which one range has to serve all
    channels. They are a fiftieth of a MobileNet's weights, and rounded alike they end it (all of flowers17's kernels:
    0.06 top-1, these alone 0.91, before training).
    """
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return {layer.name for layer in model.layers if isinstance(layer, kinds) and type(layer) in kinds}


def twin(model: keras.Model) -> Any:
    """The same graph of tf_keras layers with the same weights; without dropout, which is none in inference.

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
    made.trainable = not isinstance(layer, keras.layers.BatchNormalization)  # inference mode: its statistics stay
    return made


def _check_twin(student: Any, model: keras.Model, images: np.ndarray) -> None:
    expected, found = np.asarray(model(images, training=False)), np.asarray(student(images, training=False))
    if np.abs(expected - found).max() > SAME * max(1.0, float(np.abs(expected).max())):
        raise ValueError(
            f"int8-qat: the tf_keras twin answers otherwise, by up to {np.abs(expected - found).max():.3g} in a logit; "
            "use --type int8"
        )


def _rounding(student: Any, kernels: Collection[str]) -> Any:
    """The twin with these kernels rounded in the forward pass; gradients pass as if they weren't."""
    stack = _stack()
    quantization = stack.quantization

    def annotated(layer):
        return quantization.quantize_annotate_layer(layer, stack.config()) if layer.name in kernels else layer

    marked = stack.keras.models.clone_model(student, clone_function=annotated)
    with quantization.quantize_scope({stack.config.__name__: stack.config}):
        return quantization.quantize_apply(marked, stack.scheme())


def _kernel_of(layer: Any) -> str | None:
    return next((name for name in ("depthwise_kernel", "kernel") if hasattr(layer, name)), None)


def _take_back(rounded: Any, model: keras.Model) -> None:
    """The trained weights, unrounded, into the Keras model."""
    for layer in model.layers:
        if not layer.weights:
            continue
        wrapped = next(made for made in rounded.layers if made.name in (layer.name, f"quant_{layer.name}"))
        trained = {weight.name.rpartition("/")[2].partition(":")[0]: weight for weight in wrapped.weights}
        names = [weight.name if weight.name in trained else f"depthwise_{weight.name}" for weight in layer.weights]
        layer.set_weights([trained[name].numpy() for name in names])


@functools.cache
def _stack() -> SimpleNamespace:
    """tf_keras and tensorflow-model-optimization, imported where they are needed: they take seconds."""
    import tensorflow_model_optimization as optimization
    import tf_keras

    # Bases of the classes below: mypy takes no attribute of an untyped package for one.
    quantization: Any = optimization.quantization.keras
    base_config: Any = quantization.QuantizeConfig
    base_transform: Any = quantization.QuantizeLayoutTransform
    base_scheme: Any = quantization.default_8bit.Default8BitQuantizeScheme

    class KernelSteps(base_config):
        """256 steps over one range for the whole kernel, as `quantize.affine`; nothing else is rounded."""

        def get_weights_and_quantizers(self, layer):
            steps = quantization.quantizers.LastValueQuantizer(
                num_bits=BITS, per_axis=False, symmetric=False, narrow_range=False
            )
            return [(getattr(layer, str(_kernel_of(layer))), steps)]

        def set_quantize_weights(self, layer, quantize_weights):
            setattr(layer, str(_kernel_of(layer)), quantize_weights[0])

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            return []

        def get_config(self):
            return {}

    class NoTransforms(base_transform):
        """Leaves the graph as it is: nothing but what is marked is rounded."""

        def apply(self, model, layer_quantize_map):
            return model, layer_quantize_map

    class Scheme(base_scheme):
        def get_layout_transformer(self):
            return NoTransforms()

    return SimpleNamespace(keras=tf_keras, quantization=quantization, config=KernelSteps, scheme=Scheme)
