"""Distillation's loss and gradient against numbers derived by hand and an independent sum in numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_pipeline.training.losses import (
    EMPTY_TAIL,
    LogitAdjusted,
    cross_entropy,
    dense_kl,
    dist,
    distillation_kl,
    logit_shift,
    spread,
)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dense_arguments(teacher):
    """Teacher logits [N, C] as the sparse form with K = C, classes in falling order."""
    ids = np.argsort(-teacher, axis=1)
    tail = np.full(len(teacher), EMPTY_TAIL, "float32")
    return ids, np.take_along_axis(teacher, ids, 1).astype("float32"), tail


def value_and_gradient(student, *teacher, temperature):
    student = tf.Variable(np.asarray(student, "float32"))
    with tf.GradientTape() as tape:
        loss = distillation_kl(student, *teacher, temperature=temperature)
    return loss.numpy(), tape.gradient(loss, student).numpy()


def random_case(n=6, c=9, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, c)), scale * rng.normal(size=(n, c))


def test_kl_literal():
    # T = 2. Teacher (2 ln 3, 0) / 2 -> 3 : 1 = (0.75, 0.25); student (0, 0) -> (0.5, 0.5).
    # KL = 0.75 ln 1.5 + 0.25 ln 0.5 = 0.3040988 - 0.1732868 = 0.1308120; times T² = 4: 0.5232481
    # d/dz of T² KL = T² (1/T) (q - p) = 2 (0.5 - 0.75, 0.5 - 0.25) = (-0.5, 0.5)
    teacher = np.array([[2 * np.log(3), 0.0]])
    loss, gradient = value_and_gradient([[0.0, 0.0]], *dense_arguments(teacher), temperature=2.0)
    np.testing.assert_allclose(loss, [0.5232481], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5]], atol=1e-6)


def test_it_is_teacher_over_student_and_not_the_reverse():
    # The reverse, KL(student || teacher), would be 0.5 ln(0.5/0.75) + 0.5 ln(0.5/0.25) = 0.1438410, times 4: 0.5753641
    teacher = np.array([[2 * np.log(3), 0.0]])
    forward, _ = value_and_gradient([[0.0, 0.0]], *dense_arguments(teacher), temperature=2.0)
    backward, _ = value_and_gradient([[2 * np.log(3), 0.0]], *dense_arguments(np.zeros((1, 2))), temperature=2.0)
    assert forward[0] == pytest.approx(0.5232481, rel=1e-6)
    assert backward[0] == pytest.approx(0.5753641, rel=1e-6)


def test_softmax_is_applied_once():
    # Applied twice, the teacher would become softmax(0.75, 0.25) = (0.622, 0.378) and the gradient (-0.245, 0.245).
    teacher = np.log([[0.75, 0.25]])
    _, gradient = value_and_gradient([[0.0, 0.0]], *dense_arguments(teacher), temperature=1.0)
    np.testing.assert_allclose(gradient, [[-0.25, 0.25]], atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 5.0])
def test_all_classes_listed_is_the_dense_kl(temperature):
    student, teacher = random_case()
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    loss, gradient = value_and_gradient(student, *dense_arguments(teacher), temperature=temperature)
    np.testing.assert_allclose(loss, temperature**2 * (p * np.log(p / q)).sum(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, temperature * (q - p), atol=1e-5)


def test_temperature_squared_keeps_the_gradients_size():
    # For large T, T² KL -> mean squared difference of centred logits / 2 (Hinton 2015, eq. 4): gradient (z - v) / C.
    student, teacher = random_case()
    student -= student.mean(1, keepdims=True)
    teacher -= teacher.mean(1, keepdims=True)
    _, gradient = value_and_gradient(student, *dense_arguments(teacher), temperature=2000.0)
    np.testing.assert_allclose(gradient, (student - teacher) / 9, atol=3e-3)


def evenly(teacher, k, temperature):
    """The dense distribution [N, C] that K logits and a tail stand for: what is not listed, spread evenly."""
    p = softmax(teacher / temperature)
    order = np.argsort(-p, axis=1)
    for row, listed, rest in zip(p, order[:, :k], order[:, k:], strict=True):
        row[rest] = (1 - row[listed].sum()) / max(len(rest), 1)
    return p


def sparse_arguments(teacher, k, temperature):
    ids = np.argsort(-teacher, axis=1)
    logits = np.take_along_axis(teacher, ids, 1).astype("float32")
    tail = np.log(np.exp(logits[:, k:] / temperature).sum(1)).astype("float32")
    return ids[:, :k], logits[:, :k], tail


def bucketed(student, teacher, k, temperature):
    """The sparse loss and its gradient as explicit sums over K classes and one bucket."""
    losses, gradients = [], []
    for z, v in zip(student, teacher, strict=True):
        top = np.argsort(-v)[:k]
        rest = np.setdiff1d(np.arange(len(v)), top)
        p, q = softmax(v / temperature), softmax(z / temperature)
        p_rest, q_rest = p[rest].sum(), q[rest].sum()
        kl = (p[top] * np.log(p[top] / q[top])).sum() + p_rest * np.log(p_rest / q_rest)
        losses.append(temperature**2 * kl)
        # d KL / d z_i = (q_i - t_i) / T, with t_i = p_i for listed classes and p_rest q_i / q_rest in the bucket.
        target = p.copy()
        target[rest] = p_rest * q[rest] / q_rest
        gradients.append(temperature * (q - target))
    return np.array(losses), np.array(gradients)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_fewer_classes_against_an_explicit_bucket(k):
    student, teacher = random_case()
    loss, gradient = value_and_gradient(student, *sparse_arguments(teacher, k, 3.0), temperature=3.0)
    expected_loss, expected_gradient = bucketed(student, teacher, k, 3.0)
    np.testing.assert_allclose(loss, expected_loss, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)
    p, q = softmax(teacher / 3), softmax(student / 3)
    assert (loss <= 9 * (p * np.log(p / q)).sum(1) + 1e-5).all()


def test_one_listed_class_of_three_literal():
    # p = (0.5, 0.4, 0.1) of which the first is listed, q = (1/3, 1/3, 1/3): 0.5 ln 1.5 + 0.5 ln 0.75 = 0.0588915;
    # gradient (1/3 - 0.5, 1/3 - 0.25, 1/3 - 0.25): the rest grows as a whole, without a word on how it is shared out
    teacher = np.log([[0.5, 0.4, 0.1]])
    loss, gradient = value_and_gradient(np.zeros((1, 3)), *sparse_arguments(teacher, 1, 1.0), temperature=1.0)
    np.testing.assert_allclose(loss, [0.0588915], atol=1e-6)
    np.testing.assert_allclose(gradient, [[-1 / 6, 1 / 12, 1 / 12]], atol=1e-6)


@pytest.mark.parametrize("k", [2, 9])
def test_a_spread_teacher_is_the_dense_one(k):
    student, teacher = random_case()
    arguments = dense_arguments(teacher) if k == 9 else sparse_arguments(teacher, k, 3.0)
    dense = spread(*arguments, num_classes=9, temperature=3.0)
    np.testing.assert_allclose(np.exp(dense), evenly(teacher, k, 3.0), atol=1e-6)
    p, q = evenly(teacher, k, 3.0), softmax(student / 3)
    np.testing.assert_allclose(dense_kl(student, dense, temperature=3.0), 9 * (p * np.log(p / q)).sum(1), rtol=1e-4)


def test_at_nine_thousand_classes_all_of_them_listed_is_the_dense_kl():
    student, teacher = random_case(n=3, c=9000, scale=2.0)
    loss, gradient = value_and_gradient(student, *dense_arguments(teacher), temperature=2.0)
    p, q = softmax(teacher / 2), softmax(student / 2)
    np.testing.assert_allclose(loss, 4 * (p * np.log(p / q)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(gradient, 2 * (q - p), atol=1e-5)


def test_dist_literal():
    # Two photos, two classes. Student (0.6, 0.4), (0.2, 0.8); teacher (0.9, 0.1), (0.7, 0.3). Of two numbers the
    # correlation is the sign: over classes +1 for the first photo, -1 for the second (0.2 < 0.8 against 0.7 > 0.3);
    # over photos +1 for both classes (0.6 > 0.2 as 0.9 > 0.7). T² (1 - ρ + 1 - 1) = 0 and 2 T².
    student, teacher = np.log([[0.6, 0.4], [0.2, 0.8]]), np.log([[0.9, 0.1], [0.7, 0.3]])
    np.testing.assert_allclose(dist(student, teacher, temperature=1.0), [0, 2], atol=1e-5)
    np.testing.assert_allclose(dist(2 * student, teacher, temperature=2.0), [0, 8], atol=1e-5)


def test_dist_and_its_gradient_against_numpy():
    student, teacher = random_case()
    variable = tf.Variable(student.astype("float32"))
    with tf.GradientTape() as tape:
        loss = dist(variable, np.log(softmax(teacher / 2)), temperature=2.0)
    q, p = softmax(student / 2), softmax(teacher / 2)
    rows = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)]
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    np.testing.assert_allclose(loss, 4 * (np.array(rows) + columns), rtol=1e-4)
    assert np.isfinite(tape.gradient(loss, variable)).all()
    flat = tf.Variable(np.zeros((6, 9), "float32"))  # a student that has learnt nothing
    with tf.GradientTape() as tape:
        loss = dist(flat, np.log(p), temperature=2.0)
    assert np.isfinite(loss).all() and np.isfinite(tape.gradient(loss, flat)).all()


def test_dist_does_not_mind_how_sure_the_teacher_is_and_kl_does():
    # Correlation is blind to scale and shift of the probabilities: a teacher half as sharp gives the same loss.
    student, teacher = random_case()
    p = softmax(teacher)
    blunt = 0.5 * p + 0.5 / 9
    np.testing.assert_allclose(
        dist(student, np.log(blunt), temperature=1.0), dist(student, np.log(p), temperature=1.0), rtol=1e-4
    )
    sharp, dull = (dense_kl(student, np.log(each), temperature=1.0).numpy() for each in (p, blunt))
    assert np.abs(sharp - dull).min() > 0.01


def test_loss_and_gradient_vanish_at_equality_and_a_shift_changes_nothing():
    student, _ = random_case()
    loss, gradient = value_and_gradient(student + 7.0, *dense_arguments(student), temperature=3.0)
    np.testing.assert_allclose(loss, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


@pytest.mark.parametrize("k", [2, 4])
def test_extreme_logits_stay_finite(k):
    student = np.array([[300.0, 0.0, 0.0, -300.0], [-300.0, 300.0, 0.0, 0.0]])
    teacher = np.array([[-300.0, 0.0, 0.0, 300.0]] * 2)
    ids = np.argsort(-teacher, axis=1)[:, :k]
    tail = np.full(2, EMPTY_TAIL if k == 4 else -100.0, "float32")
    loss, gradient = value_and_gradient(
        student, ids, np.take_along_axis(teacher, ids, 1).astype("float32"), tail, temperature=1.0
    )
    assert np.isfinite(loss).all() and (loss > 0).all() and np.isfinite(gradient).all()


def test_half_precision_logits_are_summed_in_single_precision():
    student, teacher = random_case(c=300, scale=8.0)
    half = student.astype("float16")
    loss = distillation_kl(tf.constant(half), *dense_arguments(teacher), temperature=3.0)
    exact = distillation_kl(tf.constant(half.astype("float32")), *dense_arguments(teacher), temperature=3.0)
    assert loss.dtype == "float32"
    np.testing.assert_array_equal(loss, exact)


def test_cross_entropy_literal():
    # softmax(ln 3, 0) = (0.75, 0.25): -ln 0.75 = 0.2876821, -ln 0.25 = 1.3862944; gradient q - onehot
    logits = tf.Variable(np.log([[3.0, 1.0], [3.0, 1.0]]).astype("float32"))
    with tf.GradientTape() as tape:
        loss = cross_entropy(logits, np.array([0, 1]))
    np.testing.assert_allclose(loss, [0.2876821, 1.3862944], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, logits), [[-0.25, 0.25], [0.75, -0.75]], atol=1e-6)


def test_cross_entropy_equals_keras_for_labels_of_any_shape():
    logits, _ = random_case()
    labels = np.array([0, 8, 3, 3, 1, 2])
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits.astype("float32"), from_logits=True)
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(logits, labels[:, None]), expected, rtol=1e-5)


def test_logit_shift_literal():
    np.testing.assert_allclose(logit_shift(np.array([90, 10]), 1.0), np.log([0.9, 0.1]))
    np.testing.assert_allclose(logit_shift(np.array([90, 10]), 0.5), 0.5 * np.log([0.9, 0.1]))
    np.testing.assert_allclose(logit_shift(np.array([9.5, 0]), 1.0), np.log([0.95, 0.05]))  # half a photo


def test_logit_adjusted_literal_and_after_saving():
    loss = LogitAdjusted(logit_shift(np.array([90, 10]), 1.0), reduction=None)
    # equal logits: p = (0.9, 0.1); the rare class costs -log 0.1, half of each the mean of both
    labels, logits = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), np.zeros((3, 2))
    expected = [-np.log(0.9), -np.log(0.1), -np.log(0.9) / 2 - np.log(0.1) / 2]
    np.testing.assert_allclose(loss(labels, logits), expected, rtol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    np.testing.assert_allclose(again(labels, logits), expected, rtol=1e-6)


def test_trained_with_logit_adjustment_the_rare_class_is_not_given_up():
    # Two classes that only half of the evidence tells apart, 95 : 5. Balanced accuracy tells.
    random = np.random.default_rng(0)
    label = (random.random(4000) < 0.05).astype(int)
    x = random.standard_normal((4000, 1)).astype("float32") + 1.5 * label[:, None]
    y = np.eye(2, dtype="float32")[label]
    recall = {}
    for tau in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(2)])
        model.compile(optimizer=keras.optimizers.Adam(0.05), loss=LogitAdjusted(logit_shift(y.sum(0), tau)))
        model.fit(x, y, epochs=6, batch_size=100, verbose=0)
        recall[tau] = np.mean(model.predict(x, verbose=0).argmax(1)[label == 1] == 1)
    assert recall[0.0] < 0.3 and recall[1.0] > 0.65  # at equal priors the border lies at 0.75: Phi(0.75) = 0.77
