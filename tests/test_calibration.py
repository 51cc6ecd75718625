"""Calibration errors and the temperature, against hand-worked numbers and a second minimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from keras_pipeline.evaluation import calibration
from keras_pipeline.evaluation.metrics import confidence_and_correct, nll, softmax

# Four photos, two bins of width 1/2. (0, .5]: confidence 0.3, accuracy 1/2, gap 0.2.
# (.5, 1]: confidence (0.7 + 0.9) / 2 = 0.8, accuracy 1/2, gap 0.3. ECE = (2 * 0.2 + 2 * 0.3) / 4 = 0.25; MCE = 0.3.
CONFIDENCE = np.array([0.2, 0.4, 0.7, 0.9])
CORRECT = np.array([True, False, False, True])


def labelled_by(temperature, n=4000, c=5, seed=0):
    """Logits, and labels drawn from softmax(logits / temperature): the best temperature is the one given."""
    rng = np.random.default_rng(seed)
    logits = 2.5 * rng.normal(size=(n, c))
    thresholds = softmax(logits, temperature).cumsum(axis=1)
    return logits, np.minimum((rng.random((n, 1)) > thresholds).sum(axis=1), c - 1)


def test_bins_literal():
    low, high = calibration.reliability_bins(CONFIDENCE, CORRECT, bins=2)
    assert low == pytest.approx({"lower": 0.0, "upper": 0.5, "n": 2, "confidence": 0.3, "accuracy": 0.5})
    assert high == pytest.approx({"lower": 0.5, "upper": 1.0, "n": 2, "confidence": 0.8, "accuracy": 0.5})


def test_bins_are_open_below_and_closed_above():
    table = calibration.reliability_bins([0.0, 0.25, 0.26, 1.0], [0, 0, 0, 1], bins=4)
    assert [b["n"] for b in table] == [2, 1, 0, 1]
    assert table[2]["confidence"] is None and table[2]["accuracy"] is None


def test_ece_and_mce_literal():
    assert calibration.expected_calibration_error(CONFIDENCE, CORRECT, bins=2) == pytest.approx(0.25)
    assert calibration.maximum_calibration_error(CONFIDENCE, CORRECT, bins=2) == pytest.approx(0.3)


def test_ece_agrees_with_a_direct_sum_over_bins():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(500), rng.random(500) < 0.6
    expected = 0.0
    for m in range(1, 16):
        mask = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        expected += abs(correct[mask].sum() - confidence[mask].sum()) / 500
    assert calibration.expected_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_ece_of_a_model_that_is_always_sure_is_its_error_rate():
    correct = np.arange(100) < 73
    assert calibration.expected_calibration_error(np.ones(100), correct) == pytest.approx(0.27)


def test_ece_ignores_the_order_of_photos():
    order = [2, 0, 3, 1]
    one = calibration.expected_calibration_error(CONFIDENCE, CORRECT)
    assert calibration.expected_calibration_error(CONFIDENCE[order], CORRECT[order]) == pytest.approx(one)


def test_null_ece_literal():
    # One bin, n photos of confidence 1/2: ECE is |Binomial(n, 1/2)/n - 1/2|. For n = 2 it is 1/2, 0, 0, 1/2: mean 1/4.
    value = calibration.ece_null([0.5, 0.5], bins=1, repeats=20_000, seed=0)
    assert value == pytest.approx(0.25, abs=0.01)  # standard error 0.25 / sqrt(20,000) = 0.0018


def test_null_ece_is_what_a_calibrated_model_shows():
    rng = np.random.default_rng(1)
    confidence = rng.beta(4, 1, 400)
    shown = [calibration.expected_calibration_error(confidence, rng.random(400) < confidence) for _ in range(200)]
    assert calibration.ece_null(confidence) == pytest.approx(np.mean(shown), rel=0.1)


def test_null_ece_is_seeded_and_falls_with_n():
    confidence = np.random.default_rng(2).beta(4, 1, 6400)
    assert calibration.ece_null(confidence, seed=3) == calibration.ece_null(confidence, seed=3)
    # the noise of each bin falls as 1 / sqrt(n): 64 times the photos, an eighth of the error
    ratio = calibration.ece_null(confidence[:100]) / calibration.ece_null(confidence)
    assert ratio == pytest.approx(8.0, rel=0.2)


def test_null_ece_of_certainty_is_zero():
    assert calibration.ece_null(np.ones(50)) == 0.0


def test_temperature_literal():
    # Logits (a, 0), label 0 in 3 of 4 photos: the NLL is least where sigmoid(a / T) = 3/4, T = a / ln 3.
    logits, labels = np.tile([[2.0, 0.0]], (40, 1)), np.tile([0, 0, 0, 1], 10)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(2.0 / np.log(3.0), rel=1e-6)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_temperature_is_recovered_and_agrees_with_another_minimiser(true_temperature):
    logits, labels = labelled_by(true_temperature)
    fitted = calibration.fit_temperature(logits, labels)
    other = minimize_scalar(
        lambda u: nll(logits, labels, np.exp(u)), bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}
    )
    assert fitted == pytest.approx(true_temperature, rel=0.08)  # 4000 photos leave about 2 %
    assert fitted == pytest.approx(np.exp(other.x), rel=1e-6)


def test_temperature_scales_with_the_logits():
    logits, labels = labelled_by(1.7, n=500)
    once = calibration.fit_temperature(logits, labels)
    assert calibration.fit_temperature(3.0 * logits, labels) == pytest.approx(3.0 * once, rel=1e-6)


def test_temperature_of_a_calibrated_model_is_kept_only_if_it_helps():
    # sigmoid(ln 3) = 3/4 and 3 of 4 are right: T = 1 is already the minimum
    logits, labels = np.tile([[np.log(3.0), 0.0]], (40, 1)), np.tile([0, 0, 0, 1], 10)
    temperature = calibration.fit_temperature(logits, labels)
    assert temperature == pytest.approx(1.0, abs=1e-6)
    assert temperature == 1.0 or nll(logits, labels, temperature) < nll(logits, labels)


def test_separable_photos_stop_at_the_lower_bound():
    labels = np.arange(30) % 3
    assert calibration.fit_temperature(np.eye(3)[labels], labels) == 0.05


def test_logits_that_know_less_than_chance_stop_at_the_upper_bound():
    labels = np.arange(30) % 3
    assert calibration.fit_temperature(5.0 * np.eye(3)[(labels + 1) % 3], labels) == 20.0


def test_too_few_photos_and_one_class_are_refused():
    with pytest.raises(ValueError, match="at least 20 photos, received 19"):
        calibration.fit_temperature(np.eye(19), np.arange(19))
    with pytest.raises(ValueError, match="at least 2 classes, received only class 1"):
        calibration.fit_temperature(np.zeros((30, 3)), np.ones(30, int))


def test_report_fits_on_one_split_and_measures_on_the_other():
    fit, test = labelled_by(2.5, n=1000, seed=1), labelled_by(2.5, n=2000, seed=2)
    report = calibration.calibration_report(*fit, *test, bins=10)
    assert report["temperature"] == calibration.fit_temperature(*fit)
    assert (report["n_fit"], report["n"], report["temperature_at_bound"]) == (1000, 2000, False)
    assert report["nll_before"] == nll(*test)
    assert report["nll_after"] == nll(*test, report["temperature"])
    assert report["ece_after"] < 0.1 < report["ece_before"]
    assert report["ece_after"] < 3 * report["ece_null"]  # a calibrated model is within its own noise
    assert report["mce_after"] < report["mce_before"]


def test_report_counts_every_error_in_the_same_bins():
    fit, test = labelled_by(2.5, n=500, seed=1), labelled_by(2.5, n=500, seed=2)
    report = calibration.calibration_report(*fit, *test, bins=4)
    confidence, correct = confidence_and_correct(*test, temperature=report["temperature"])
    assert report["ece_null"] == calibration.ece_null(confidence, bins=4)
    assert report["ece_after"] == calibration.expected_calibration_error(confidence, correct, bins=4)
    assert report["mce_after"] == calibration.maximum_calibration_error(confidence, correct, bins=4)


def test_report_says_when_the_temperature_ran_into_a_bound():
    labels = np.arange(30) % 3
    report = calibration.calibration_report(np.eye(3)[labels], labels, np.eye(3)[labels], labels)
    assert (report["temperature"], report["temperature_at_bound"]) == (0.05, True)


def test_report_refuses_splits_of_different_classes():
    with pytest.raises(ValueError, match="same classes"):
        calibration.calibration_report(np.zeros((30, 3)), np.arange(30) % 3, np.zeros((30, 4)), np.arange(30) % 3)


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
        calibration.reliability_bins(confidence, correct, bins=bins)
