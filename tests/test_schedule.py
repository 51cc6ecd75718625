"""Warm-up, cosine and decay against numbers worked out by hand."""

import keras
import numpy as np
import pytest

from keras_pipeline.training.schedule import WarmupCosine, build_optimizer


def test_rate_literal():
    # Peak 0.8, 4 steps of warm-up of 12: 0.2, 0.4, 0.6, 0.8; then 0.8 (1 + cos(pi k / 8)) / 2 for k = 0 … 8
    rate = WarmupCosine(0.8, steps=12, warmup=4)
    np.testing.assert_allclose([float(rate(s)) for s in range(5)], [0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-6)
    # k = 4: cos(pi / 2) = 0 -> 0.4; k = 6: cos(3 pi / 4) = -0.7071068 -> 0.1171573; then 0, for ever
    np.testing.assert_allclose([float(rate(s)) for s in (8, 10)], [0.4, 0.1171573], rtol=1e-5)
    np.testing.assert_allclose([float(rate(s)) for s in (12, 50)], [0, 0], atol=1e-7)


def test_without_warm_up_the_first_step_is_the_peak():
    assert float(WarmupCosine(0.5, steps=10, warmup=0)(0)) == 0.5


@pytest.mark.parametrize("warmup", [-1, 10, 11])
def test_an_impossible_warm_up_raises(warmup):
    with pytest.raises(ValueError, match="0 <= warmup < steps"):
        WarmupCosine(0.5, steps=10, warmup=warmup)


def test_config_round_trip():
    rate = WarmupCosine(0.5, steps=10, warmup=3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert [float(again(s)) for s in range(12)] == [float(rate(s)) for s in range(12)]


@pytest.mark.parametrize("name, kind", [("adam", keras.optimizers.Adam), ("adamw", keras.optimizers.Adam),
                                        ("sgd", keras.optimizers.SGD)])  # fmt: skip
def test_each_name_is_that_optimizer_under_the_schedule(name, kind):
    optimizer = build_optimizer(name, learning_rate=0.8, weight_decay=0.0, steps=12, warmup=4)
    assert isinstance(optimizer, kind)
    assert float(optimizer.learning_rate) == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_decay_shrinks_kernels_and_nothing_else(name):
    # With gradient 0 and rate 0.5 one step multiplies a kernel of 1 by 1 - 0.5 * 0.1 = 0.95.
    layer = keras.layers.Dense(2, kernel_initializer="ones", bias_initializer="ones")
    layer.build((None, 3))
    optimizer = build_optimizer(name, learning_rate=0.5, weight_decay=0.1, steps=10, warmup=0)
    optimizer.apply([np.zeros((3, 2), "float32"), np.zeros(2, "float32")], [layer.kernel, layer.bias])
    np.testing.assert_allclose(layer.kernel, 0.95, rtol=1e-6)
    np.testing.assert_array_equal(layer.bias, 1.0)
