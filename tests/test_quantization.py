"""The cost of quantization, in literal numbers."""

import numpy as np
import pytest

from keras_pipeline.evaluation.predictions import Predictions
from keras_pipeline.evaluation.quantization import cost


def answers(probabilities, labels, ids=None):
    n = len(labels)
    names = np.array([str(i) for i in range(n)]) if ids is None else np.array(ids)
    logits = np.log(np.array(probabilities, np.float32))
    return Predictions(logits, np.array(labels), names, np.full(n, "EU"), names)


def test_a_flip_to_wrong_and_one_to_right_cancel_in_accuracy_alone():
    before = answers([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]], [0, 0, 0])
    after = answers([[0.5, 0.6], [0.6, 0.4], [0.9, 0.1]], [0, 0, 0])
    found = cost(before, after)
    assert (found["n"], found["groups"]) == (3, 3)
    assert {key: found["flips"][key] for key in ("n", "to_right", "to_wrong")} == {"n": 2, "to_right": 1, "to_wrong": 1}
    assert found["top1"]["first"] == found["top1"]["second"] == pytest.approx(2 / 3)
    assert found["top1"]["difference"] == 0
    # Clopper-Pearson of 2 in 3
    assert found["flips"]["interval"] == pytest.approx([0.0943, 0.9916], abs=1e-4)
    assert found["delta_nll"] == pytest.approx(np.log(0.8 / (0.5 / 1.1) * 0.4 / 0.6) / 3, abs=1e-6)
    assert found["max_abs_dp"] == pytest.approx(0.8 - 0.5 / 1.1, abs=1e-6)


def test_the_same_answers_cost_nothing():
    same = answers([[0.8, 0.2], [0.4, 0.6]], [0, 1])
    found = cost(same, same)
    assert (found["flips"]["n"], found["delta_nll"], found["max_abs_dp"]) == (0, 0.0, 0.0)


@pytest.mark.parametrize("other", [answers([[0.8, 0.2]], [0], ["x"]), answers([[0.5, 0.3, 0.2]], [0])])
def test_answers_to_other_photos_or_classes_are_refused(other):
    with pytest.raises(ValueError, match="same photos"):
        cost(answers([[0.8, 0.2]], [0]), other)
