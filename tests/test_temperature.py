"""The temperature, against hand-worked numbers and second minimisers."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from keras_pipeline.evaluation import metrics, temperature
from keras_pipeline.evaluation.calibration import equal_width, expected_calibration_error
from keras_pipeline.evaluation.metrics import nll, softmax
from keras_pipeline.evaluation.scores import Prior, score
from keras_pipeline.evaluation.temperature import fit_by_likelihood, fit_temperature

both = pytest.mark.parametrize("fit", [fit_temperature, fit_by_likelihood])


def labelled_by(temperature, n=4000, c=5, seed=0):
    """Logits, and labels drawn from softmax(logits / temperature): the best temperature is the one given."""
    rng = np.random.default_rng(seed)
    logits = 2.5 * rng.normal(size=(n, c))
    thresholds = softmax(logits, temperature).cumsum(axis=1)
    return logits, np.minimum((rng.random((n, 1)) > thresholds).sum(axis=1), c - 1)


@both
def test_temperature_literal(fit):
    # Logits (a, 0), label 0 in 3 of 4 photos: the NLL is least where sigmoid(a / T) = 3/4, T = a / ln 3.
    logits, labels = np.tile([[2.0, 0.0]], (40, 1)), np.tile([0, 0, 0, 1], 10)
    assert fit(logits, labels) == pytest.approx(2.0 / np.log(3.0), rel=1e-6)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_temperature_is_recovered_and_agrees_with_another_minimiser(true_temperature):
    logits, labels = labelled_by(true_temperature)
    fitted = fit_by_likelihood(logits, labels)
    other = minimize_scalar(
        lambda u: nll(logits, labels, np.exp(u)), bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}
    )
    assert fitted == pytest.approx(true_temperature, rel=0.08)  # 4000 photos leave about 2 %
    assert fitted == pytest.approx(np.exp(other.x), rel=1e-6)


class Echo(ClassifierMixin, BaseEstimator):
    """A classifier whose decision function is what it is given."""

    def __init__(self, classes=5):
        self.classes, self.classes_ = classes, np.arange(classes)

    def fit(self, x, y):
        return self

    def decision_function(self, x):
        return x

    def predict(self, x):
        return x.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


@pytest.mark.parametrize("true_temperature", [0.5, 2.5])
def test_temperature_agrees_with_sklearn(true_temperature):
    logits, labels = labelled_by(true_temperature)
    other = CalibratedClassifierCV(FrozenEstimator(Echo()), method="temperature", ensemble=False).fit(logits, labels)
    fitted = fit_by_likelihood(logits, labels)
    # sklearn's search stops a little before the minimum: ours is never the worse
    assert fitted == pytest.approx(1 / other.calibrated_classifiers_[0].calibrators[0].beta_, rel=1e-4)
    assert nll(logits, labels, fitted) <= log_loss(labels, other.predict_proba(logits)) + 1e-12
    assert nll(logits, labels, fitted) == pytest.approx(log_loss(labels, other.predict_proba(logits)), abs=1e-6)


@pytest.mark.parametrize("true_temperature", [0.5, 2.5])
@both
def test_float32_logits_fit_the_temperature_of_float64(fit, true_temperature):
    logits, labels = labelled_by(true_temperature)
    small = logits.astype(np.float32)
    whole = fit(small.astype(np.float64), labels)
    assert fit(small, labels) == pytest.approx(whole, rel=1e-7)


def test_nan_logits_are_counted_wherever_they_are(monkeypatch):
    logits, labels = labelled_by(1.7, n=500)
    monkeypatch.setattr(metrics, "_BLOCK_ELEMENTS", 50)
    logits[[3, 499], [1, 4]] = np.nan, np.inf
    for work in (fit_by_likelihood, fit_temperature, score):
        with pytest.raises(ValueError, match="NaN or infinity in 2 of 500 rows"):
            work(logits, labels)


@both
def test_a_temperature_that_newton_overshoots_is_found(fit):
    """From T = 1 all probabilities are 0 or 1 at first, so that the curvature says nothing."""
    logits, labels = labelled_by(1.7, n=500)
    assert fit(10.0 * logits, labels) == pytest.approx(10.0 * fit(logits, labels), rel=1e-6)


@both
def test_flat_logits_keep_the_temperature(fit):
    assert fit(np.zeros((30, 3), np.float32), np.arange(30) % 3) == 1.0


@both
def test_temperature_scales_with_the_logits(fit):
    logits, labels = labelled_by(1.7, n=500)
    once = fit(logits, labels)
    assert fit(3.0 * logits, labels) == pytest.approx(3.0 * once, rel=1e-6)


def test_temperature_of_a_calibrated_model_is_kept_only_if_it_helps():
    # sigmoid(ln 3) = 3/4 and 3 of 4 are right: T = 1 is already the minimum
    logits, labels = np.tile([[np.log(3.0), 0.0]], (40, 1)), np.tile([0, 0, 0, 1], 10)
    temperature = fit_by_likelihood(logits, labels)
    assert temperature == pytest.approx(1.0, abs=1e-6)
    assert temperature == 1.0 or nll(logits, labels, temperature) < nll(logits, labels)


@both
def test_separable_photos_stop_at_the_lower_bound(fit):
    labels = np.arange(30) % 3
    assert fit(np.eye(3)[labels], labels) == 0.05


@both
def test_logits_that_know_less_than_chance_stop_at_the_upper_bound(fit):
    labels = np.arange(30) % 3
    assert fit(5.0 * np.eye(3)[(labels + 1) % 3], labels) == 20.0


@both
def test_too_few_photos_and_one_class_are_refused(fit):
    with pytest.raises(ValueError, match="at least 20 photos, received 19"):
        fit(np.eye(19), np.arange(19))
    with pytest.raises(ValueError, match="at least 2 classes, received only class 1"):
        fit(np.zeros((30, 3)), np.ones(30, int))


def test_very_many_logits_are_searched_from_a_sample(monkeypatch):
    logits, labels = labelled_by(1.7, n=20_000)
    whole = fit_by_likelihood(logits, labels)
    passes = []
    moments = temperature._likelihood_moments
    monkeypatch.setattr(temperature, "SCOUTS", 50_000)
    monkeypatch.setattr(temperature, "_likelihood_moments", lambda z, *rest: passes.append(len(z)) or moments(z, *rest))
    assert fit_by_likelihood(logits, labels) == pytest.approx(whole, rel=1e-6)
    assert passes.count(20_000) <= 2 < passes.count(10_000)
    # A sample that points elsewhere costs time, not truth: here every other photo is of another temperature.
    logits[::2] *= 5
    monkeypatch.setattr(temperature, "SCOUTS", 1 << 26)
    whole = fit_by_likelihood(logits, labels)
    monkeypatch.setattr(temperature, "SCOUTS", 50_000)
    assert fit_by_likelihood(logits, labels) == pytest.approx(whole, rel=1e-6)


@both
def test_a_prior_is_added_after_the_temperature(fit):
    # Logits (a, 0), prior (b, 0): label 0 in 3 of 4 photos where a / T + b = ln 3.
    logits, labels = np.tile([[2.0, 0.0]], (40, 1)), np.tile([0, 0, 0, 1], 10)
    prior = Prior(np.array([[0.5, 0.0], [9.0, 9.0]]), np.zeros(40, int))
    assert fit(logits, labels, prior=prior) == pytest.approx(2 / (np.log(3) - 0.5), rel=1e-6)


def brier(logits, labels, temperature):
    """Of the answers, not of all classes."""
    found = score(logits, labels, temperature)
    return ((found.confidence - found.correct) ** 2).mean()


def ece(logits, labels, temperature):
    found = score(logits, labels, temperature)
    return expected_calibration_error(found.confidence, found.correct, equal_width(15))


def test_species_that_were_never_learnt_do_not_move_the_temperature():
    # Confidence sigmoid(ln 3) = 3/4, and 3 of 4 answers are right. The others' species has a probability of 1e-9.
    logits, labels = np.tile([[np.log(3.0), 0.0, -20.0]], (40, 1)), np.tile([0, 0, 0, 2], 10)
    assert fit_temperature(logits, labels) == pytest.approx(1.0, abs=1e-6)
    assert ece(logits, labels, 1.0) == pytest.approx(0.0, abs=1e-9)
    likeliest = fit_by_likelihood(logits, labels)
    assert likeliest == pytest.approx(20.0) and ece(logits, labels, likeliest) > 0.3


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_no_other_temperature_has_a_lower_brier_score(true_temperature):
    logits, labels = labelled_by(true_temperature)
    fitted = fit_temperature(logits, labels)
    other = minimize_scalar(
        lambda u: brier(logits, labels, np.exp(u)), bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}
    )
    assert fitted == pytest.approx(true_temperature, rel=0.08)
    assert fitted == pytest.approx(np.exp(other.x), rel=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_wrong_labels_leave_the_confidences_calibrated(share):
    """Of a tenth of the photos the label is any class: likelihood makes all answers unsure."""
    logits, labels = labelled_by(1.0, n=8000, c=30)
    random = np.random.default_rng(1)
    labels = np.where(random.random(8000) < share, random.integers(0, 30, 8000), labels)
    assert ece(logits, labels, fit_temperature(logits, labels)) < 0.8 * ece(
        logits, labels, fit_by_likelihood(logits, labels)
    )


def test_the_brier_score_of_very_many_logits_is_searched_from_a_sample_too(monkeypatch):
    logits, labels = labelled_by(1.7, n=20_000)
    whole, passes, moments = fit_temperature(logits, labels), [], temperature._brier_moments
    monkeypatch.setattr(temperature, "SCOUTS", 50_000)
    monkeypatch.setattr(temperature, "_brier_moments", lambda z, *rest: passes.append(len(z)) or moments(z, *rest))
    assert fit_temperature(logits, labels) == pytest.approx(whole, rel=1e-6)
    assert passes.count(20_000) <= 3 < passes.count(10_000)
