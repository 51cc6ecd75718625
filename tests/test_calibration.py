"""Calibration errors against hand-worked numbers."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from keras_pipeline.evaluation import calibration
from keras_pipeline.evaluation.calibration import equal_mass, equal_width
from keras_pipeline.evaluation.scores import Scores, score

# Four photos, two bins of width 1/2. (0, .5]: confidence 0.3, accuracy 1/2, gap 0.2.
# (.5, 1]: confidence (0.7 + 0.9) / 2 = 0.8, accuracy 1/2, gap 0.3. ECE = (2 * 0.2 + 2 * 0.3) / 4 = 0.25; MCE = 0.3.
CONFIDENCE = np.array([0.2, 0.4, 0.7, 0.9])
CORRECT = np.array([True, False, False, True])


def test_bins_literal():
    low, high = calibration.reliability_bins(CONFIDENCE, CORRECT, equal_width(2))
    assert low == pytest.approx({"lower": 0.0, "upper": 0.5, "n": 2, "confidence": 0.3, "accuracy": 0.5})
    assert high == pytest.approx({"lower": 0.5, "upper": 1.0, "n": 2, "confidence": 0.8, "accuracy": 0.5})


def test_bins_are_open_below_and_closed_above():
    table = calibration.reliability_bins([0.0, 0.25, 0.26, 1.0], [0, 0, 0, 1], equal_width(4))
    assert [b["n"] for b in table] == [2, 1, 0, 1]
    assert table[2]["confidence"] is None and table[2]["accuracy"] is None


def test_ece_and_mce_literal():
    assert calibration.expected_calibration_error(CONFIDENCE, CORRECT, equal_width(2)) == pytest.approx(0.25)
    assert calibration.maximum_calibration_error(CONFIDENCE, CORRECT, equal_width(2)) == pytest.approx(0.3)


def test_ece_agrees_with_a_direct_sum_over_bins():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(500), rng.random(500) < 0.6
    expected = 0.0
    for m in range(1, 16):
        mask = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        expected += abs(correct[mask].sum() - confidence[mask].sum()) / 500
    found = calibration.expected_calibration_error(confidence, correct, equal_width(15))
    assert found == pytest.approx(expected, abs=1e-12)


def test_ece_of_a_model_that_is_always_sure_is_its_error_rate():
    correct = np.arange(100) < 73
    assert calibration.expected_calibration_error(np.ones(100), correct, equal_width(15)) == pytest.approx(0.27)


def test_ece_ignores_the_order_of_photos():
    order = [2, 0, 3, 1]
    one = calibration.expected_calibration_error(CONFIDENCE, CORRECT, equal_width(15))
    other = calibration.expected_calibration_error(CONFIDENCE[order], CORRECT[order], equal_width(15))
    assert other == pytest.approx(one)


def test_ece_of_a_published_example():
    # M. Pavlovic, 'Expected Calibration Error (ECE): A Step-by-Step Visual Explanation', 2023: 9 samples, 5 bins.
    confidence = [0.78, 0.64, 0.92, 0.58, 0.51, 0.85, 0.70, 0.63, 0.83]
    correct = [1, 1, 0, 1, 0, 1, 1, 0, 1]
    found = calibration.expected_calibration_error(confidence, correct, equal_width(5))
    assert found == pytest.approx(0.104444, abs=1e-6)


@pytest.mark.parametrize(("strategy", "edges"), [("uniform", lambda c: equal_width(10)), ("quantile", equal_mass)])
def test_bins_agree_with_sklearn(strategy, edges):
    rng = np.random.default_rng(0)
    confidence = rng.random(1000)
    correct = rng.random(1000) < confidence
    edges = edges(confidence) if strategy == "uniform" else edges(confidence, 10)
    table = calibration.reliability_bins(confidence, correct, edges)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=10, strategy=strategy)
    if strategy == "uniform":
        np.testing.assert_allclose([b["accuracy"] for b in table], accuracy, atol=1e-12)
        np.testing.assert_allclose([b["confidence"] for b in table], mean, atol=1e-12)
    else:  # where a photo lies on an edge, sklearn interpolates: one photo of 100 may change its bin
        assert [b["n"] for b in table] == [100] * 10
        np.testing.assert_allclose([b["confidence"] for b in table], mean, atol=0.002)


def test_equal_mass_literal():
    # Two photos in each of three bins; the edge is the last confidence of a bin, which belongs to it.
    np.testing.assert_array_equal(equal_mass([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 3), [0.0, 0.2, 0.4, 1.0])
    np.testing.assert_array_equal(equal_mass([0.9] * 5 + [1.0], 3), [0.0, 0.9, 1.0])  # equal ones can't be parted


def null_ece(confidence, bins=15, **options):
    return calibration.null_errors(confidence, equal_width(bins), **options)[:, 0].mean()


def test_null_errors_literal():
    # One bin, n photos of confidence 1/2: ECE is |Binomial(n, 1/2)/n - 1/2|. For n = 2 it is 1/2, 0, 0, 1/2: mean 1/4.
    drawn = calibration.null_errors([0.5, 0.5], equal_width(1), repeats=20_000)
    assert drawn.mean(axis=0) == pytest.approx([0.25, 0.25], abs=0.01)  # standard error 0.25 / sqrt(20,000) = 0.0018
    # Two bins of one photo each, of confidence .4 and .6: each misses by .6 in 4 of 10 draws and by .4 otherwise. The
    # ECE is their mean, .48; the larger of the two is .6 unless both miss by .4, .6 - .2 * .6 * .6.
    drawn = calibration.null_errors([0.4, 0.6], equal_width(2), repeats=20_000)
    assert drawn.mean(axis=0) == pytest.approx([0.48, 0.528], abs=0.005)


def test_null_ece_is_what_a_calibrated_model_shows():
    rng = np.random.default_rng(1)
    confidence = rng.beta(4, 1, 400)
    edges = equal_width(15)
    shown = [
        calibration.expected_calibration_error(confidence, rng.random(400) < confidence, edges) for _ in range(200)
    ]
    assert null_ece(confidence) == pytest.approx(np.mean(shown), rel=0.1)


def test_null_ece_is_seeded_and_falls_with_n():
    confidence = np.random.default_rng(2).beta(4, 1, 6400)
    assert null_ece(confidence, seed=3) == null_ece(confidence, seed=3)
    # the noise of each bin falls as 1 / sqrt(n): 64 times the photos, an eighth of the error
    assert null_ece(confidence[:100]) / null_ece(confidence) == pytest.approx(8.0, rel=0.2)


def test_null_ece_of_certainty_is_zero():
    assert null_ece(np.ones(50)) == 0.0


def scores_of(confidence, correct):
    """Of a model with two classes: p and 1 - p."""
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    return score(logits, 1 - np.asarray(correct).astype(int))


def test_quality_literal():
    # ECE and MCE as above; NLL -(ln .7 + ln .4 + ln .3 + ln .9) / 4; Brier 2 (.3² + .6² + .7² + .1²) / 4.
    scores = scores_of(np.array([0.7, 0.6, 0.7, 0.9]), [1, 0, 0, 1])
    found = calibration.quality(scores, list("abcd"), bins=2)
    assert found["nll"]["value"] == pytest.approx(-np.log(0.7 * 0.4 * 0.3 * 0.9) / 4)
    assert found["brier"]["value"] == pytest.approx(2 * (0.09 + 0.36 + 0.49 + 0.01) / 4)
    # All four in (.5, 1]: confidence 2.9 / 4, accuracy 1/2.
    assert found["ece"]["value"] == found["mce"]["value"] == pytest.approx(2.9 / 4 - 0.5)
    assert (found["n"], found["groups"], "fewer_photos_than_bins" in found) == (4, 4, False)
    assert calibration.quality(scores, list("abcd"), bins=5)["fewer_photos_than_bins"] == "4 photos in 5 bins"


def test_photos_of_one_group_widen_the_interval():
    rng = np.random.default_rng(0)
    plants = rng.beta(4, 1, 100)
    confidence, correct = np.repeat(plants, 9), np.repeat(rng.random(100) < plants, 9)
    scores = scores_of(np.maximum(confidence, 0.5), correct)
    widths = [
        np.diff(calibration.quality(scores, groups)["nll"]["interval"])[0]
        for groups in (np.repeat(np.arange(100), 9), np.arange(900))
    ]
    assert widths[0] / widths[1] == pytest.approx(3.0, rel=0.2)  # as if there were 100 photos, not 900


@pytest.mark.parametrize(
    ("truth", "least"), [(lambda c: c, 0.94), (lambda c: c - 0.03, 0.80), (lambda c: c**1.4, 0.84)],
    ids=["calibrated", "3 points too sure", "overconfident"],
)  # fmt: skip
def test_intervals_hold_the_true_ece(truth, least):
    rng = np.random.default_rng(0)
    many = rng.beta(4, 0.8, 400_000)
    table = calibration.reliability_bins(many, np.zeros(len(many)), equal_width(15))
    index = np.digitize(many, equal_width(15)[1:-1], right=True)
    wanted = [np.mean(truth(many[index == m])) if b["n"] else 0 for m, b in enumerate(table)]
    true = sum(b["n"] * abs(w - (b["confidence"] or 0)) for b, w in zip(table, wanted, strict=True)) / len(many)
    held = 0
    for world in range(100):
        confidence = rng.beta(4, 0.8, 300)
        vectors = (confidence, rng.random(300) < truth(confidence), np.ones(300), np.ones(300), confidence, confidence)
        low, high = calibration.quality(Scores(*vectors), np.arange(300), replicates=200, seed=world)["ece"]["interval"]
        held += low <= true <= high
    assert held / 100 >= least


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "message"),
    [
        ([], [], 15, "n >= 1"),
        ([0.5], [1, 0], 15, "two vectors of one length"),
        ([1.2], [1], 15, r"\[0, 1\]"),
        ([np.nan], [1], 15, r"\[0, 1\]"),
        ([0.5], [2], 15, "booleans or 0/1"),
        ([0.5], [1], 0, "bins must be at least 1"),
    ],
)
def test_malformed_confidences_are_refused(confidence, correct, bins, message):
    with pytest.raises(ValueError, match=message):
        calibration.reliability_bins(confidence, correct, equal_width(bins))
