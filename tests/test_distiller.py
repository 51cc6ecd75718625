"""The custom Keras model that distils: what its loss adds up, and that fit, save and load treat it as Keras does."""

import keras
import numpy as np
import pytest

from keras_pipeline.training.distiller import Distiller
from keras_pipeline.training.losses import EMPTY_TAIL

CLASSES = 4
WEIGHTS = {"temperature": 3.0, "soft": 0.7, "cross_entropy": 0.3, "loss": "kl"}  # the plan's


def linear_student(policy=None):
    """logits = the four 'pixels' of the image, times the identity."""
    inputs = keras.Input((2, 2, 1), name="image")
    x = keras.layers.Flatten(dtype=policy)(inputs)
    dense = keras.layers.Dense(CLASSES, dtype="float32", name="logits")
    model = keras.Model(inputs, dense(x))
    dense.set_weights([np.eye(4, dtype="float32"), np.zeros(4, "float32")])
    return model


def batch_of(student_logits, teacher_logits, labels):
    """x of unmixed photos; student's logits [N, C], teacher's [N, C]."""
    ids = np.argsort(-teacher_logits, axis=1)
    return {
        "image": student_logits.astype("float32").reshape(-1, 2, 2, 1),
        "labels": np.asarray(labels)[:, None],
        "share": np.ones((len(ids), 1), "float32"),
        "teacher_ids": ids.astype("int32")[:, None],
        "teacher_logits": np.take_along_axis(teacher_logits, ids, 1).astype("float32")[:, None],
        "teacher_tail": np.full((len(ids), 1), EMPTY_TAIL, "float32"),
    }


def random_batch(n=6, seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(n, CLASSES)), 2 * rng.normal(size=(n, CLASSES))
    labels = rng.integers(0, CLASSES, n)
    return batch_of(student, teacher, labels), labels


def teacher_logits(x):
    """float [N, C] of the first photo of each mixture."""
    logits = np.empty((len(x["image"]), CLASSES))
    np.put_along_axis(logits, x["teacher_ids"][:, 0], x["teacher_logits"][:, 0], 1)
    return logits


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def loss_of(x, y, **options):
    model = Distiller(linear_student(), **{**WEIGHTS, **options})
    return float(model.compute_loss(x, y, model(x)))


def compiled(**options):
    model = Distiller(linear_student(), **{**WEIGHTS, "temperature": 2.0, **options})
    metrics = [keras.metrics.SparseCategoricalAccuracy(name="top1")]
    model.compile(keras.optimizers.SGD(1.0), metrics=metrics, jit_compile=False)
    return model


def test_loss_literal():
    # T² KL = 0.5232481 (test_losses) for the two live classes; the other two have probability 0 on both sides.
    # CE of label 0 at logits (0, 0): ln 2 = 0.6931472.  0.7 * 0.5232481 + 0.3 * 0.6931472 = 0.5742178
    x = batch_of(np.array([[0, 0, -60.0, -60]]), np.array([[2 * np.log(3), 0, -120.0, -120]]), [0])
    model = Distiller(linear_student(), temperature=2.0, soft=0.7, cross_entropy=0.3, loss="kl")
    assert float(model.compute_loss(x, np.array([0]), model(x))) == pytest.approx(0.5742178, rel=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.7, 0.3)])
def test_weights_of_the_two_terms_act(weights):
    x, y = random_batch()
    parts = []
    for kl, ce in ((1.0, 0.0), (0.0, 1.0), weights):
        model = Distiller(linear_student(), temperature=3.0, soft=kl, cross_entropy=ce, loss="kl")
        parts.append(float(model.compute_loss(x, y, model(x))))
    assert parts[0] > 0.1 and parts[1] > 0.1 and abs(parts[0] - parts[1]) > 0.1
    assert parts[2] == pytest.approx(weights[0] * parts[0] + weights[1] * parts[1], rel=1e-6)


def test_sample_weight_zero_silences_a_photo():
    x, y = random_batch()
    model = Distiller(linear_student(), **WEIGHTS)
    alone = [float(model.compute_loss({k: v[i : i + 1] for k, v in x.items()}, y[i : i + 1], model(x)[i : i + 1]))
             for i in (0, 1)]  # fmt: skip
    pair = {k: v[:2] for k, v in x.items()}
    weighted = float(model.compute_loss(pair, y[:2], model(pair), sample_weight=np.array([2.0, 0.0])))
    # as Keras's sum_over_batch_size: the weighted sum over the number of photos
    assert weighted == pytest.approx(2 * alone[0] / 2, rel=1e-6)
    assert alone[0] != pytest.approx(alone[1])


def test_penalties_of_the_students_layers_are_added():
    x, y = random_batch()
    plain = Distiller(linear_student(), **WEIGHTS)
    penalised = Distiller(linear_student(), **WEIGHTS)
    penalised.student.get_layer("logits").kernel.regularizer = keras.regularizers.L2(0.5)
    # 0.5 * Σ identity² = 0.5 * 4 = 2
    difference = penalised.compute_loss(x, y, penalised(x)) - plain.compute_loss(x, y, plain(x))
    assert float(difference) == pytest.approx(2.0, rel=1e-5)


def test_validation_without_a_teacher_is_plain_cross_entropy():
    x, y = random_batch()
    model = compiled()
    result = model.evaluate({"image": x["image"]}, y, batch_size=4, verbose=0, return_dict=True)
    logits = x["image"].reshape(6, 4)
    expected = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True).numpy().mean()
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    assert result["top1"] == pytest.approx((logits.argmax(1) == y).mean())


def test_one_step_of_fit_takes_the_gradient_derived_by_hand():
    # KL alone at T = 2, learning rate 1: Δ bias = -mean over the batch of T (q - p)
    x, y = random_batch()
    model = compiled(soft=1.0, cross_entropy=0.0)
    model.fit(x, y, batch_size=6, epochs=1, verbose=0)
    p, q = (np.exp(log_softmax(z / 2)) for z in (teacher_logits(x), x["image"].reshape(6, 4)))
    np.testing.assert_allclose(model.student.get_layer("logits").bias, -2 * (q - p).mean(0), atol=1e-6)


def test_a_student_equal_to_its_teacher_does_not_move():
    logits = np.random.default_rng(0).normal(size=(6, CLASSES))
    model = compiled(soft=1.0, cross_entropy=0.0)
    before = model.student.get_weights()
    model.fit(batch_of(logits, logits, [0] * 6), np.zeros(6, int), epochs=2, verbose=0)
    for old, new in zip(before, model.student.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


def mixture_of(x, other, share):
    """Each photo of x mixed with the same of `other`; the picture stays that of x."""
    pair = {name: np.concatenate([x[name], other[name]], axis=1) for name in x if name not in ("image", "share")}
    return {"image": x["image"], "share": np.stack([share, 1 - share], axis=1).astype("float32"), **pair}


def test_a_mixture_pulls_towards_both_teachers_and_both_labels_by_their_shares():
    (x, y), (other, other_y) = random_batch(), random_batch(seed=1)
    share = np.array([0.5, 0.7, 1.0, 0.2, 0.6, 0.9])
    model = compiled(soft=1.0, cross_entropy=0.0)
    model.fit(mixture_of(x, other, share), y, batch_size=6, epochs=1, verbose=0)
    # KL at T = 2, rate 1: Δ bias = -mean over the batch of T (q - (λ p + (1 - λ) p'))
    p, p2, q = (
        np.exp(log_softmax(z / 2)) for z in (teacher_logits(x), teacher_logits(other), x["image"].reshape(6, 4))
    )
    target = share[:, None] * p + (1 - share[:, None]) * p2
    np.testing.assert_allclose(model.student.get_layer("logits").bias, -2 * (q - target).mean(0), atol=1e-6)
    hard = loss_of(mixture_of(x, other, share), y, soft=0.0, cross_entropy=1.0)
    log_q, rows = log_softmax(x["image"].reshape(6, 4)), np.arange(6)
    expected = -(share * log_q[rows, y] + (1 - share) * log_q[rows, other_y]).mean()
    assert hard == pytest.approx(expected, rel=1e-5)


def test_a_live_teacher_is_a_stored_one_with_every_class():
    x, y = random_batch()
    for loss in ("kl", "dist"):
        options = {"temperature": 2.0, "soft": 0.7, "cross_entropy": 0.3, "loss": loss}
        live = lambda batch: log_softmax(teacher_logits(x) / 2.0)  # noqa: E731
        alone = {"image": x["image"], "labels": x["labels"], "share": x["share"]}
        assert loss_of(alone, y, teacher=live, **options) == pytest.approx(loss_of(x, y, **options), rel=1e-5)


def test_dist_of_a_mixture_is_that_of_the_mixed_targets():
    (x, y), (other, _) = random_batch(), random_batch(seed=1)
    share = np.full(6, 0.25)
    p, p2 = (np.exp(log_softmax(teacher_logits(each) / 2)) for each in (x, other))
    mixed = np.log(0.25 * p + 0.75 * p2)
    options = {"temperature": 2.0, "soft": 1.0, "cross_entropy": 0.0, "loss": "dist"}
    alone = {"image": x["image"], "labels": x["labels"], "share": x["share"]}
    expected = loss_of(alone, y, teacher=lambda batch: mixed, **options)
    assert loss_of(mixture_of(x, other, share), y, **options) == pytest.approx(expected, rel=1e-5)


def test_the_live_teacher_is_neither_trained_nor_saved():
    x, y = random_batch()
    teacher = linear_student()
    before = teacher.get_weights()
    model = compiled(teacher=lambda batch: keras.ops.log_softmax(teacher(batch["image"], training=False) / 2.0))
    model.fit({"image": x["image"]}, y, batch_size=6, epochs=2, verbose=0)
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(model.trainable_variables) == 2 and not {id(v) for v in teacher.variables} & {
        id(v) for v in model.variables
    }


def test_agreement_is_the_share_of_equal_answers_in_training_and_validation():
    student = np.eye(4)[[0, 1, 2, 3]] * 3
    x = batch_of(student, np.eye(4)[[0, 1, 3, 2]] * 3, [0] * 4)
    model = compiled()
    val = {"image": x["image"], "teacher_answer": np.array([0, 1, 2, 1])}
    model.optimizer.learning_rate = 0.0
    history = model.fit(x, np.zeros(4, int), validation_data=(val, np.zeros(4, int)), epochs=1, verbose=0).history
    assert history["agreement"] == [0.5] and history["val_agreement"] == [0.75]


def test_of_a_mixture_the_larger_share_answers():
    (x, y), (other, _) = random_batch(), random_batch(seed=1)
    share = np.array([0.9, 0.1] * 3)
    model = compiled()
    mixture = mixture_of(x, other, share)
    model.compute_loss(mixture, y, model(mixture))
    answers = np.where(share > 0.5, teacher_logits(x).argmax(1), teacher_logits(other).argmax(1))
    expected = (x["image"].reshape(6, 4).argmax(1) == answers).mean()
    assert float(model.agreement.result()) == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["kl", "dist"])
@pytest.mark.parametrize("jit", [False, True])
def test_fit_under_mixed_precision(jit, loss):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        x, y = random_batch()
        model = Distiller(linear_student(), **{**WEIGHTS, "loss": loss})
        model.compile(keras.optimizers.Adam(0.05), jit_compile=jit)
        history = model.fit(x, y, batch_size=6, epochs=8, verbose=0).history["loss"]
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(history).all() and history[-1] < history[0]


def test_saving_the_distiller_saves_the_student_alone(tmp_path):
    x, y = random_batch()
    model = compiled()
    model.fit(x, y, epochs=1, verbose=0)
    model.save(tmp_path / "best.keras")
    student = keras.saving.load_model(tmp_path / "best.keras", compile=False, safe_mode=True)
    assert not isinstance(student, Distiller)
    np.testing.assert_array_equal(student(x["image"]), model.student(x["image"]))


def test_config_round_trip():
    model = Distiller(linear_student(), temperature=5.0, soft=0.2, cross_entropy=0.8, loss="dist", name="again")
    config = model.get_config()
    copy = Distiller.from_config(config)
    assert (copy.temperature, copy.soft_weight, copy.ce_weight, copy.soft_loss) == (5.0, 0.2, 0.8, "dist")
    assert copy.name == "again"
    assert "student" in config  # from_config leaves its argument as it was
    assert [layer.name for layer in copy.student.layers] == [layer.name for layer in model.student.layers]
