"""Accuracy, recall and loss, against numbers worked out by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, recall_score, top_k_accuracy_score

from keras_pipeline.evaluation import metrics

CLASSES = ["Bellis perennis", "Crocus vernus", "Viola tricolor"]
# Ranks of the labels, by eye: row 0 first, row 1 second, row 2 third, row 3 ties with class 0 and comes after it.
LOGITS = np.array([[3.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 2.0, -1.0], [1.0, 1.0, 0.0]])
LABELS = np.array([0, 1, 2, 1])
REGIONS = ["EU_SW", "EU", "EU_SW", "EU"]


def random_case(n=300, c=7, seed=0):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(n, c)), rng.integers(0, c, n)


def test_softmax_literal():
    # exp(ln 3) : exp(0) = 3 : 1; at T = 2 it is sqrt(3) : 1, 1.7320508 / 2.7320508 = 0.6339746
    logits = np.log([[3.0, 1.0]])
    np.testing.assert_allclose(metrics.softmax(logits), [[0.75, 0.25]])
    np.testing.assert_allclose(metrics.softmax(logits, 2.0), [[0.6339746, 0.3660254]], atol=1e-7)


def test_softmax_is_stable_and_blind_to_a_shift():
    logits, _ = random_case()
    np.testing.assert_allclose(metrics.softmax(logits + 1000.0), metrics.softmax(logits), atol=1e-12)
    np.testing.assert_array_equal(metrics.softmax([[1e4, 0.0, -1e4]]), [[1.0, 0.0, 0.0]])
    assert np.isfinite(metrics.log_softmax([[1e4, 0.0, -1e4]])).all()


def test_half_precision_logits_are_summed_in_double():
    logits = np.zeros((1, 9000), np.float16)
    assert metrics.nll(logits, [0]) == pytest.approx(np.log(9000), rel=1e-12)


def test_nll_literal():
    # -ln 0.75 = 0.2876821 and -ln 0.25 = 1.3862944: mean 0.8369882
    assert metrics.nll(np.log([[3.0, 1.0], [3.0, 1.0]]), [0, 1]) == pytest.approx(0.8369882, abs=1e-7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_nll_agrees_with_sklearn(temperature):
    logits, labels = random_case()
    expected = log_loss(labels, metrics.softmax(logits, temperature), labels=range(7))
    assert metrics.nll(logits, labels, temperature) == pytest.approx(expected, abs=1e-6)


def test_blocks_of_rows_add_up(monkeypatch):
    logits, labels = random_case()
    whole = metrics.nll(logits, labels), metrics.label_ranks(logits, labels)
    monkeypatch.setattr(metrics, "_BLOCK_ELEMENTS", 7 * 13)  # 300 rows = 23 blocks of 13 and one of 1
    assert metrics.nll(logits, labels) == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_array_equal(metrics.label_ranks(logits, labels), whole[1])


def test_ranks_resolve_ties_by_class_index():
    np.testing.assert_array_equal(metrics.label_ranks(LOGITS, LABELS), [0, 1, 2, 1])
    np.testing.assert_array_equal(metrics.label_ranks(np.zeros((3, 3)), [0, 1, 2]), [0, 1, 2])


@pytest.mark.parametrize(("k", "expected"), [(1, 0.25), (2, 0.75), (3, 1.0), (5, 1.0)])
def test_topk_literal_and_capped_at_the_number_of_classes(k, expected):
    assert metrics.topk_accuracy(LOGITS, LABELS, k) == expected


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_agrees_with_sklearn(k):
    logits, labels = random_case()
    expected = top_k_accuracy_score(labels, logits, k=k, labels=range(7))
    assert metrics.topk_accuracy(logits, labels, k) == pytest.approx(expected, abs=1e-12)


def test_confidence_and_correct():
    confidence, correct = metrics.confidence_and_correct(np.log([[3.0, 1.0], [1.0, 4.0]]), [0, 0])
    np.testing.assert_allclose(confidence, [0.75, 0.8])
    np.testing.assert_array_equal(correct, [True, False])


def test_temperature_moves_confidence_but_never_the_answer():
    logits, labels = random_case()
    plain, correct = metrics.confidence_and_correct(logits, labels)
    flat, correct_flat = metrics.confidence_and_correct(logits, labels, temperature=4.0)
    assert (flat < plain).all()
    np.testing.assert_array_equal(correct, correct_flat)


def test_per_class_recall_literal():
    # class 0: 1 of 1; class 1: rows 1 and 3, neither first; class 2 has no photo here
    recall = metrics.per_class_recall(LOGITS[[0, 1, 3]], LABELS[[0, 1, 3]], CLASSES)
    assert recall == {
        "Bellis perennis": {"n": 1, "recall": 1.0},
        "Crocus vernus": {"n": 2, "recall": 0.0},
        "Viola tricolor": {"n": 0, "recall": None},
    }


def test_classification_metrics_literal():
    result = metrics.classification_metrics(LOGITS, LABELS, REGIONS, CLASSES)
    assert (result["n"], result["top1_accuracy"], result["top5_accuracy"]) == (4, 0.25, 1.0)
    assert result["macro_recall"] == pytest.approx(1 / 3)  # 1, 0 and 0
    assert result["loss"] == metrics.nll(LOGITS, LABELS)
    assert list(result["per_region"]) == ["EU", "EU_SW"]
    assert result["per_region"]["EU_SW"] == {"n": 2, "top1": 0.5, "top5": 1.0}
    assert list(result["per_class_recall"]) == CLASSES


def test_regions_agree_with_topk_of_their_own_photos():
    logits, labels = random_case()
    regions = ["EU" if i % 3 else "EU_SW" for i in range(300)]
    table = metrics.classification_metrics(logits, labels, regions, [str(i) for i in range(7)])["per_region"]
    own = slice(0, None, 3)
    assert table["EU_SW"]["n"] == 100
    assert table["EU_SW"]["top1"] == metrics.topk_accuracy(logits[own], labels[own], 1)
    assert table["EU_SW"]["top5"] == metrics.topk_accuracy(logits[own], labels[own], 5)


def test_macro_recall_agrees_with_sklearn():
    logits, labels = random_case()
    result = metrics.classification_metrics(logits, labels, ["EU"] * 300, [str(i) for i in range(7)])
    assert result["macro_recall"] == pytest.approx(recall_score(labels, logits.argmax(1), average="macro"))


def test_the_order_of_photos_does_not_matter():
    logits, labels = random_case()
    regions, classes = np.array(["EU", "EU_SW", "NA"] * 100), [str(i) for i in range(7)]
    order = np.random.default_rng(1).permutation(300)
    first = metrics.classification_metrics(logits, labels, list(regions), classes)
    second = metrics.classification_metrics(logits[order], labels[order], list(regions[order]), classes)
    assert first.pop("loss") == pytest.approx(second.pop("loss"), rel=1e-12)
    assert first == second


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), [], "non-empty"),
        (np.zeros(3), [0], "shape"),
        ([[0.0, np.nan]], [0], "NaN or infinity in 1 of 1"),
        ([[0.0, np.inf]], [0], "NaN or infinity"),
        ([[0.0, 1.0]], [0, 1], "integers of shape"),
        ([[0.0, 1.0]], [0.0], "float64"),
        ([[0.0, 1.0]], [2], r"\[0, 2\)"),
        ([[0.0, 1.0]], [-1], r"\[0, 2\)"),
    ],
)
def test_malformed_input_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.nll(logits, labels)


@pytest.mark.parametrize(
    ("regions", "classes", "message"),
    [
        (REGIONS[:3], CLASSES, "3 and 3"),
        (REGIONS, CLASSES[:2], "4 and 2"),
        ([b"EU"] * 4, CLASSES, "decode bytes"),
        (REGIONS, ["a", "b", "a"], "repeats a name"),
    ],
)
def test_names_that_do_not_fit_are_refused(regions, classes, message):
    with pytest.raises(ValueError, match=message):
        metrics.classification_metrics(LOGITS, LABELS, regions, classes)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="Temperature must be finite and above 0"):
        metrics.softmax(LOGITS, temperature)


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="k must be at least 1"):
        metrics.topk_accuracy(LOGITS, LABELS, 0)
