"""Warm-up, cosine and decay against numbers worked out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_pipeline.training.schedule import WarmupCosine, build_optimizer, jit_compile, mean_gradient_norm


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


def variables_of(*values):
    return [keras.Variable(np.array(value, "float32"), name=f"v{i}") for i, value in enumerate(values)]


def constant(name="sgd", rate=0.5, accumulation=1, **options):
    """One update at `rate`: the warm-up is over after it, and the cosine has not begun to fall."""
    options = {"weight_decay": 0.0, "steps": 10_000 * accumulation, **options}
    return build_optimizer(
        name, learning_rate=rate, warmup=accumulation, gradient_accumulation=accumulation, **options
    )  # fmt: skip


def applied(optimizer, variables, *batches):
    """The variables after each batch's gradients, as TensorFlow runs it, in a graph."""
    optimizer.build(variables)
    step = tf.function(lambda *gradients: optimizer.apply(list(gradients)))
    after = []
    for gradients in batches:
        step(*(tf.constant(gradient, tf.float32) for gradient in gradients))
        after.append([variable.numpy().tolist() for variable in variables])
    return after


# Adam at rate 1 (its epsilon, 1e-7, aside), from rest. Gradient 1: m = 0.1, v = 0.001, both corrected to 1: w = -1.
# Then -2: m = -0.11, corrected / 0.19 = -0.578947; v = 0.004999, corrected / 0.001999 = 2.500750;
# w = -1 + 0.578947 / 1.581376 = -0.633897.
@pytest.mark.parametrize("jit", [False, True])
def test_adam_by_hand(jit):
    variables = variables_of([0.0, 0.0])
    optimizer = constant("adam", rate=1.0)
    optimizer.build(variables)
    step = tf.function(lambda gradient: optimizer.apply([gradient]), jit_compile=jit)
    step(tf.constant([1.0, -1.0]))
    np.testing.assert_allclose(variables[0], [-1.0, 1.0], rtol=1e-5)
    step(tf.constant([-2.0, 2.0]))
    np.testing.assert_allclose(variables[0], [-0.633897, 0.633897], rtol=1e-5)


def test_adam_takes_an_embeddings_gradient_as_the_sum_over_each_row():
    # Keras's own squares every occurrence of a row by itself: v would be 0.001 * (1 + 4) instead of 0.001 * 9.
    sparse, dense = (variables_of([[0.0], [0.0]]) for _ in range(2))
    once = tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([1, 1]), tf.constant([2, 1]))
    for variables, gradients in ((sparse, [once] * 2), (dense, [tf.constant([[0.0], [3.0]])] * 2)):
        optimizer = constant("adam", rate=1.0)
        optimizer.build(variables)
        for gradient in (*gradients, tf.constant([[0.0], [-3.0]])):
            optimizer.apply([gradient])
    np.testing.assert_allclose(sparse[0], dense[0], rtol=1e-6)
    assert float(dense[0][1, 0]) < -1.9  # two whole steps, and part of the way back


# The first step of Nesterov's momentum 0.9 from rest: v = -rate g, w += 0.9 v - rate g, which is -1.9 rate g.


def test_the_gradients_norm_is_clipped_over_all_weights():
    # (6, 8) has norm 10: clipped to (0.6, 0.8); times -1.9 * 0.5
    after = applied(constant(clip_norm=1.0), variables_of([0], [0]), ([6], [8]))[-1]
    np.testing.assert_allclose(after, [[-0.57], [-0.76]], rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_small_gradient_is_not_clipped(clip_norm):
    after = applied(constant(clip_norm=clip_norm), variables_of([0], [0]), ([0.3], [0.4]))[-1]
    np.testing.assert_allclose(after, [[-0.285], [-0.38]], rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_accumulated_batches_move_the_weights_as_one_with_their_mean_gradient(name):
    batches = [([1.0, -2.0], [4.0]), ([2.0, 0.0], [-1.0]), ([3.0, 5.0], [0.0])]
    mean = ([2.0, 1.0], [1.0])
    start = ([0.1, 0.2], [0.3])
    after = applied(constant(name, accumulation=3), variables_of(*start), *batches)
    np.testing.assert_allclose(after[0][0] + after[1][0], [0.1, 0.2] * 2, rtol=1e-6)  # not before the third
    one = applied(constant(name), variables_of(*start), mean)[-1]
    for got, expected in zip(after[-1], one, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert after[-1] != after[0]


def test_it_is_the_mean_that_is_clipped():
    # 30 and -10 are 10 in the mean, clipped to 1; clipped one by one they would be 0.
    after = applied(constant(accumulation=2, clip_norm=1.0), variables_of([0]), ([30],), ([-10],))
    np.testing.assert_allclose(after, [[[0]], [[-0.95]]], rtol=1e-6)


def test_the_schedule_spans_all_accumulated_batches():
    # 12 batches are 3 updates, after batches 3, 7 and 11 of the cosine: (1 + cos(pi k / 12)) / 2
    optimizer = build_optimizer("sgd", learning_rate=1.0, weight_decay=0, steps=12, warmup=0, gradient_accumulation=4)
    optimizer.build(variables_of([0.0]))
    rates = []
    for step in range(12):
        if step % 4 == 3:
            rates.append(float(optimizer.learning_rate))
        optimizer.apply([np.ones(1, "float32")])
    np.testing.assert_allclose(rates, [0.853553, 0.370591, 0.017037], rtol=1e-4)


def test_each_variable_has_its_share_of_the_rate():
    optimizer = constant(rates={"v0": 0.25})
    after = applied(optimizer, variables_of([0], [0]), ([2], [2]))[-1]
    np.testing.assert_allclose(after, [[-1.9 * 0.5 * 0.25 * 2], [-1.9 * 0.5 * 2]], rtol=1e-6)


def test_of_adam_too():
    # Adam's first step is rate * sign(g), but for its epsilon.
    after = applied(constant("adam", rates={"v0": 0.25}), variables_of([0], [0]), ([2], [-9]))[-1]
    np.testing.assert_allclose(after, [[-0.125], [0.5]], rtol=1e-5)


def test_decay_falls_with_the_rate():
    # With gradient 0: 1 - 0.5 * 0.5 * 0.1
    layer = keras.layers.Dense(1, kernel_initializer="ones", name="deep")
    layer.build((None, 1))
    optimizer = constant("adamw", weight_decay=0.1, rates={"deep/kernel": 0.5})
    assert applied(optimizer, [layer.kernel], ([[0]],))[-1] == [[[pytest.approx(0.975)]]]


def test_a_saved_optimizer_has_its_shares_and_its_decay():
    layer = keras.layers.Dense(1, kernel_initializer="ones", name="deep")
    layer.build((None, 1))
    config = keras.saving.serialize_keras_object(constant("sgd", weight_decay=0.1, rates={"deep/kernel": 0.5}))
    again = keras.saving.deserialize_keras_object(config)
    assert applied(again, [layer.kernel], ([[0]],))[-1] == [[[pytest.approx(0.975)]]]


def test_mean_gradient_norm_is_of_the_batches_since_it_was_asked():
    # 5 and 10, before clipping
    optimizer = constant(clip_norm=1.0)
    variables = variables_of([0], [0])
    applied(optimizer, variables, ([3], [4]), ([6], [8]))
    assert mean_gradient_norm(optimizer) == pytest.approx(7.5)
    assert mean_gradient_norm(optimizer) == 0
    optimizer.apply([tf.constant([0.0]), tf.constant([2.0])])
    assert mean_gradient_norm(optimizer) == pytest.approx(2)


def test_mean_gradient_norm_counts_each_accumulated_batch():
    optimizer = constant(accumulation=2)
    applied(optimizer, variables_of([0]), ([1],), ([-1],), ([4],))
    assert mean_gradient_norm(optimizer) == pytest.approx(2)  # (1 + 1 + 4) / 3


def test_mean_gradient_norm_is_free_of_the_loss_scale():
    optimizer = keras.optimizers.LossScaleOptimizer(constant(), initial_scale=8.0)
    variables = variables_of([0], [0])
    applied(optimizer, variables, ([24], [32]), ([np.inf], [0]))  # the second is skipped
    assert mean_gradient_norm(optimizer) == pytest.approx(5)
    np.testing.assert_allclose([v.numpy()[0] for v in variables], [-1.9 * 0.5 * 3, -1.9 * 0.5 * 4], rtol=1e-6)


@pytest.mark.parametrize("gpus, wanted, expected", [
    ([], None, False), ([], True, True), ([], False, False), (["gpu"], None, "auto"), (["gpu"], False, False),
])  # fmt: skip
def test_xla_is_as_the_config_says_and_else_for_gpus(monkeypatch, gpus, wanted, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    assert jit_compile(wanted) == expected
