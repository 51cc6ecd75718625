"""Folding and quantization: literal numbers, equality of outputs, and refusals that name the layer."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from support import web_example

from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.export import tfjs
from keras_pipeline.export.quantize import (
    affine,
    check_finite,
    copy,
    fold_batch_norm,
    keep_float32,
    megabytes,
    quantize_kernels,
    quantize_to_float16,
    quantize_to_uint8,
    remaining_batch_norms,
)

layers = keras.layers
DATA = Path(os.environ.get("KERAS_PIPELINE_TEST_DATA", "../shared/data"))
WEIGHTS = DATA / "mobilenet_v2_1.0_224_imagenet.weights.h5"


def functional(*stack, shape=(8, 8, 3)):
    inputs = x = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def settle(model, seed=0):
    """Draws every BatchNorm's gamma, beta, mean and variance."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    return model


def largest_difference(first, second, shape=(8, 8, 3)):
    x = np.random.default_rng(9).normal(size=(4, *shape)).astype(np.float32)
    return float(np.abs(first(x, training=False) - second(x, training=False)).max())


def test_folding_a_dense_layer_in_literal_numbers():
    norm = layers.BatchNormalization(epsilon=0.0)
    model = functional(layers.Dense(1), norm, shape=(1,))
    model.layers[1].set_weights([np.array([[2.0]]), np.array([1.0])])
    norm.set_weights([np.array([3.0]), np.array([5.0]), np.array([-1.0]), np.array([4.0])])
    kernel, bias = fold_batch_norm(model).layers[1].get_weights()
    assert kernel.item() == 3.0  # 2 * 3 / sqrt(4)
    assert bias.item() == 8.0  # 5 + (1 - -1) * 3 / sqrt(4)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False),
        layers.Conv2D(4, 3, groups=1, dilation_rate=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        layers.Dense(5),
    ],
)
def test_folded_layer_gives_the_same_numbers(layer):
    model = settle(functional(layer, layers.BatchNormalization(), layers.ReLU(6)))
    folded = fold_batch_norm(model)
    assert remaining_batch_norms(folded) == []
    assert largest_difference(model, folded) < 1e-5


def test_folding_without_scale_and_centre():
    model = settle(functional(layers.Conv2D(4, 1), layers.BatchNormalization(scale=False, center=False)))
    assert largest_difference(model, fold_batch_norm(model)) < 1e-5


def test_mobilenet_folds_whole_and_is_left_as_it_was():
    model = settle(keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, include_top=False))
    before = [weight.copy() for weight in model.get_weights()]
    folded = fold_batch_norm(model)
    assert remaining_batch_norms(folded) == [] and len(remaining_batch_norms(model)) == 52
    scale = float(np.abs(model(np.ones((1, 32, 32, 3)), training=False)).max())
    assert largest_difference(model, folded, (32, 32, 3)) < 1e-4 * scale
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_batch_norm_with_nothing_to_fold_into_stays_and_is_named():
    inputs = keras.Input((8, 8, 3))
    x = layers.Add()([layers.Conv2D(3, 1)(inputs), inputs])
    x = layers.BatchNormalization(name="after_add")(x)
    x = layers.BatchNormalization(name="after_activation")(layers.Conv2D(4, 1, activation="relu")(x))
    branch = layers.Conv2D(4, 1)(x)
    x = layers.Add()([layers.BatchNormalization(name="beside_a_branch")(branch), branch])
    model = settle(keras.Model(inputs, x))
    folded = fold_batch_norm(model)
    assert sorted(remaining_batch_norms(folded)) == ["after_activation", "after_add", "beside_a_branch"]
    assert largest_difference(model, folded) < 1e-5


def test_nested_model_is_folded_too():
    inner = functional(layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization())
    model = settle(functional(inner, layers.Flatten(), layers.Dense(2)))
    folded = fold_batch_norm(model)
    assert remaining_batch_norms(folded) == []
    assert largest_difference(model, folded) < 1e-5


def test_mixed_precision_leaves_as_float32():
    model = settle(functional(layers.Conv2D(4, 3, dtype="mixed_float16"), layers.BatchNormalization()))
    assert {layer.compute_dtype for layer in fold_batch_norm(model).layers} == {"float32"}


def test_folding_refuses_what_is_not_functional():
    with pytest.raises(ValueError, match="received Dense"):
        fold_batch_norm(layers.Dense(2))


def test_quantization_in_literal_numbers():
    model = functional(layers.Dense(1, name="head"), shape=(1,))
    model.get_layer("head").set_weights([np.array([[1 + 2.0**-12]]), np.array([0.5])])
    kernel, bias = quantize_to_float16(model)
    assert kernel == {"name": "head/kernel", "shape": [1, 1], "stored": "float16", "max_abs_error": 2.0**-12}
    assert bias["max_abs_error"] == 0.0
    assert model.get_layer("head").kernel[0, 0] == 1.0


def test_a_batch_norm_that_stayed_keeps_float32():
    model = functional(layers.BatchNormalization(name="norm"))
    model.get_layer("norm").set_weights([np.ones(3), np.zeros(3), np.zeros(3), np.full(3, 1e-9, np.float32)])
    assert {entry["stored"] for entry in quantize_to_float16(model)} == {"float32"}
    assert np.all(np.asarray(model.get_layer("norm").moving_variance) == np.float32(1e-9))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -7e4])
def test_quantization_refuses_and_changes_nothing(bad):
    model = functional(layers.Dense(1, name="first"), layers.Dense(1, name="second"), shape=(1,))
    model.get_layer("first").set_weights([np.array([[0.1]]), np.zeros(1)])
    model.get_layer("second").set_weights([np.array([[bad]]), np.zeros(1)])
    with pytest.raises(ValueError, match="second/kernel"):
        quantize_to_float16(model)
    assert model.get_layer("first").kernel[0, 0] == np.float32(0.1)


def test_size_in_megabytes():
    model = functional(layers.Dense(1000, use_bias=False), shape=(250,))
    assert megabytes(keep_float32(model)) == 1.0
    assert megabytes(quantize_to_float16(model)) == 0.5


def test_weights_that_are_no_numbers_are_named():
    model = functional(layers.Dense(3, name="head"), shape=(2,))
    model.get_layer("head").bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(ValueError, match="head/bias: received NaN"):
        check_finite(model)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} is absent: set KERAS_PIPELINE_TEST_DATA")
def test_real_weights_on_a_real_photo():
    model = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    model.load_weights(WEIGHTS)
    photo = (DATA / "flowers17/images/image_0001.jpg").read_bytes()
    x = Preprocessing(224).from_photo(photo)[None] / 127.5 - 1
    folded = fold_batch_norm(model)
    before = np.asarray(model(x, training=False))
    assert np.abs(before - folded(x, training=False)).max() < 1e-4
    quantize_to_float16(folded)
    after = np.asarray(folded(x, training=False))
    assert np.abs(keras.ops.softmax(before) - keras.ops.softmax(after)).max() < 0.05


def test_the_example_has_learnt_something():
    records = web_example.samples()
    logits = web_example.trained().predict(web_example.tensors(records), verbose=0)
    labels = np.array([label for _, _, label in records])
    assert np.mean(logits.argmax(1) == labels) > 0.9 and logits.std(1).mean() > 1


def test_named_kernels_alone_are_quantized_to_uint8():
    model = functional(layers.Conv2D(4, 3, name="first"), layers.Conv2D(4, 1, name="second"))
    exact = np.array(model.get_layer("first").kernel)
    entries = {entry["name"]: entry for entry in quantize_kernels(model, {"first"})}
    stored = {name: entry["stored"] for name, entry in entries.items()}
    assert stored == dict.fromkeys(stored, "float16") | {"first/kernel": "uint8"}
    np.testing.assert_array_equal(model.get_layer("first").kernel, affine(exact))
    assert entries["first/kernel"]["max_abs_error"] == np.abs(affine(exact) - exact).max()


def test_affine_literal():
    # From -1 to 1.55 in 255 steps: 0.01, of which 16 significant bits are 41943 / 2^22; 0 is step 100.
    step = 41943 / 2**22
    found = affine(np.array([-1.0, 1.55, 0.0, 0.004, 0.006, 0.0149], np.float32))
    np.testing.assert_array_equal(found, np.float32([-100 * step, 155 * step, 0, 0, step, step]))


@pytest.mark.parametrize("seed", range(20))
def test_tensorflowjs_stores_the_very_values(seed):
    quantization = tfjs._tensorflowjs().quantization
    rng = np.random.default_rng(seed)
    values = ((rng.normal(size=500) + rng.uniform(-1, 1)) * 10 ** rng.uniform(-6, 3)).astype(np.float32)
    quantized = affine(values)
    assert len(np.unique(quantized)) <= 256 and 0 in affine(np.append(values, np.float32(0)))
    stored, numbers = quantization.quantize_weights(quantized, np.uint8)
    np.testing.assert_array_equal(quantization.dequantize_weights(stored, numbers), quantized)
    assert np.abs(quantized - values).max() <= 0.51 * (values.max() - values.min()) / 255
    np.testing.assert_array_equal(affine(quantized), quantized)


def test_values_on_one_side_of_zero_are_left_alone():
    values = np.array([0.5, 1.0, 2.0], np.float32)
    assert affine(values) is values


def test_kernels_are_stored_in_a_byte_where_the_answers_bear_it():
    model, photos = fold_batch_norm(web_example.trained()), web_example.tensors(web_example.samples())
    exact = {f"{layer.name}/{w.name}": np.array(w) for layer in model.layers for w in layer.weights}
    before = model.predict(photos, verbose=0)
    entries = quantize_to_uint8(model, photos, most_kl=0.002)
    after = model.predict(photos, verbose=0)
    by_way = {way: [e for e in entries if e["stored"] == way] for way in ("uint8", "float16")}
    assert len(by_way["uint8"]) >= 5 and all(len(e["shape"]) > 1 for e in by_way["uint8"])
    p, q = (z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (before.astype(float), after.astype(float)))
    assert 0 < (np.exp(p) * (p - q)).sum(1).mean() <= 0.002 * 1.05  # against float32; the limit is against float16
    for entry in entries:
        values = exact[entry["name"]]
        found = np.asarray(next(w for layer in model.layers for w in layer.weights
                                if f"{layer.name}/{w.name}" == entry["name"]))  # fmt: skip
        expected = affine(values) if entry["stored"] == "uint8" else values.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(found, expected)
        assert entry["max_abs_error"] == pytest.approx(np.abs(found - values).max())


def test_a_head_that_costs_most_but_least_per_byte_is_stored_in_bytes():
    """By KL alone the small layer came first, and then the head no longer fitted."""
    random = np.random.default_rng(0)
    image = keras.Input((4, 4, 3))
    small = keras.layers.Dense(8, name="small")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(500, name="head")(small))
    for layer in model.layers[2:]:
        layer.set_weights([random.normal(0, 0.3, w.shape) for w in layer.get_weights()])
    photos = random.normal(0, 1, (64, 4, 4, 3)).astype(np.float32)
    alone = {e["name"]: e["kl"] for e in quantize_to_uint8(copy(model), photos, most_kl=1.0) if "kl" in e}
    assert 2e-5 < alone["small/kernel"] < alone["head/kernel"] < 12 * alone["small/kernel"]  # of 384 and 4,000 values
    entries = quantize_to_uint8(model, photos, most_kl=alone["head/kernel"] * 1.02)
    assert {e["name"] for e in entries if e["stored"] == "uint8"} == {"head/kernel"}


def test_without_any_allowance_no_kernel_is_stored_in_a_byte():
    model, photos = fold_batch_norm(web_example.trained()), web_example.tensors(web_example.samples())
    assert {entry["stored"] for entry in quantize_to_uint8(model, photos, most_kl=0.0)} == {"float16"}
