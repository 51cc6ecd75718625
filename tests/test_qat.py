"""Quantization-aware training: the twin is the same function, and the trained kernels bear being quantized."""

import keras
import numpy as np
import pytest
from support import web_example as example

from keras_pipeline.export import qat
from keras_pipeline.export.quantize import copy, fold_batch_norm


def batches(photos):
    random = np.random.default_rng(0)
    while True:
        yield photos[random.permutation(len(photos))[:16]]


def quantized(model, bits):
    """A copy with each kernel on 2^bits evenly spaced values."""
    result = copy(model)
    for layer in result.layers:
        if layer.name in qat.kernels_of(model):
            weight = layer.kernel
            values = np.asarray(weight)
            step = (values.max() - values.min()) / (2**bits - 1)
            zero = np.round(-values.min() / step)
            weight.assign((np.clip(np.round(values / step) + zero, 0, 2**bits - 1) - zero) * step)
    return result


def divergence(first, second, photos):
    p, q = (np.asarray(keras.ops.log_softmax(model(photos, training=False))) for model in (first, second))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def test_the_twin_gives_the_same_logits():
    model, photos = fold_batch_norm(example.trained()), example.tensors(example.samples(2))
    found = np.asarray(qat.twin(model)(photos, training=False))
    np.testing.assert_allclose(found, model(photos, training=False), atol=1e-5)


def test_after_training_quantization_costs_less(monkeypatch):
    monkeypatch.setattr(qat, "BITS", 4)  # 8 bits hardly change so small a model
    model = fold_batch_norm(example.trained())
    before = [np.array(weight) for weight in model.weights]
    trained = qat.train(
        model, qat.kernels_of(model), batches(example.tensors(example.samples(16, 1000))), steps=60, learning_rate=2e-3
    )
    held_out = example.tensors(example.samples(10))
    cost, cheaper = (divergence(model, quantized(each, 4), held_out) for each in (model, trained))
    assert cheaper < cost / 3, (cheaper, cost)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.weights, strict=True))
    assert [w.path for w in trained.weights] == [w.path for w in model.weights]


def test_a_layer_without_a_twin_is_named():
    @keras.saving.register_keras_serializable("tests")
    class Odd(keras.layers.Layer):
        def call(self, x):
            return x

    inputs = keras.Input((8,))
    model = keras.Model(inputs, Odd(name="strange")(keras.layers.Dense(2)(inputs)))
    with pytest.raises(ValueError, match="strange .* has no twin in tf_keras; use --type int8"):
        qat.twin(model)


def test_no_photos_are_refused():
    model = fold_batch_norm(example.trained())
    with pytest.raises(ValueError, match="no batches"):
        qat.train(model, qat.kernels_of(model), iter([]), steps=1, learning_rate=1e-4)
