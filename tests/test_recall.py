"""Macro recall counted batch by batch, against numbers worked out by hand and against scikit-learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import recall_score

from keras_pipeline.training.recall import MacroRecall

# Class 0: one of two photos right; class 1: two of three; class 2 never came, though it was answered once.
LABELS, ANSWERS = np.array([0, 0, 1, 1, 1]), np.array([0, 2, 1, 1, 0])


def recall_of(*batches, num_classes=3):
    metric = MacroRecall(num_classes)
    for labels, answers, *weight in batches:
        metric.update_state(labels, 5.0 * np.eye(num_classes, dtype="float32")[answers], *weight)
    return float(metric.result())


def test_literal_and_a_class_that_never_came_has_no_part_in_it():
    assert recall_of((LABELS, ANSWERS)) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_of_nothing_it_is_zero():
    assert float(MacroRecall(3).result()) == 0


def test_of_soft_labels_the_largest_share_counts():
    soft = 0.6 * np.eye(3)[LABELS] + 0.4 * np.eye(3)[[2, 1, 2, 0, 0]]
    assert recall_of((soft, ANSWERS)) == recall_of((np.eye(3)[LABELS], ANSWERS)) == recall_of((LABELS, ANSWERS))


def test_labels_as_a_column_are_labels():
    assert recall_of((LABELS[:, None], ANSWERS)) == recall_of((LABELS, ANSWERS))


def test_a_batch_of_as_many_photos_as_classes():
    assert recall_of((np.array([0, 0, 1]), np.array([0, 2, 1]))) == pytest.approx(0.75)


def test_weights_of_photos():
    # Class 0: 2 of 2 + 3 right; class 1: 4 + 0 of 4 + 0 + 2
    assert recall_of((LABELS, ANSWERS, [2.0, 3.0, 4.0, 0.0, 2.0])) == pytest.approx((2 / 5 + 4 / 6) / 2)
    # Without weight class 0 has not come at all.
    assert recall_of((LABELS, ANSWERS, [0.0, 0.0, 1.0, 1.0, 1.0])) == pytest.approx(2 / 3)


def test_two_batches_are_counted_together():
    # Alone they have (1/2 + 1/1) / 2 = 0.75 and 1/2, which would be 0.625 in the mean.
    halves = (LABELS[:3], ANSWERS[:3]), (LABELS[3:], ANSWERS[3:])
    assert recall_of(*halves, num_classes=4) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_the_next_epoch_starts_from_nothing():
    metric = MacroRecall(4)
    metric.update_state(LABELS, np.eye(4)[ANSWERS])
    metric.reset_state()
    metric.update_state(np.array([3, 3]), np.eye(4)[[3, 0]])
    assert float(metric.result()) == 0.5


def test_config_round_trip():
    metric = MacroRecall(4, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    again.update_state(LABELS, np.eye(4)[ANSWERS])
    assert again.name == "mine" and float(again.result()) == pytest.approx(7 / 12)


@pytest.mark.parametrize("shape", ["integer", "one-hot"])
def test_agrees_with_sklearn_over_uneven_batches_in_a_graph(shape):
    rng = np.random.default_rng(0)
    labels = rng.choice(12, 500, p=np.arange(12) / 66)  # class 0 never comes
    logits = rng.normal(size=(500, 12)).astype("float32") + 1.5 * np.eye(12, dtype="float32")[labels]
    metric = MacroRecall(12)
    update = tf.function(metric.update_state, reduce_retracing=True)
    for rows in np.split(np.arange(500), [7, 64, 300]):
        given = labels[rows] if shape == "integer" else tf.one_hot(labels[rows], 12)
        update(tf.convert_to_tensor(given), tf.convert_to_tensor(logits[rows]))
    expected = recall_score(labels, logits.argmax(1), average="macro", labels=np.arange(1, 12))
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)
    assert 0.3 < expected < 0.9
