"""The 'not conclusive' threshold: its bound, its order of tests, and how often its promise turns out false."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from keras_pipeline.evaluation import threshold
from keras_pipeline.evaluation.metrics import softmax
from keras_pipeline.evaluation.scores import score
from keras_pipeline.evaluation.temperature import fit_temperature


def photos(*groups):
    """(confidence, photos, right) groups as the two vectors."""
    confidence = np.concatenate([np.full(n, c) for c, n, _ in groups])
    correct = np.concatenate([np.arange(n) < right for _, n, right in groups])
    return confidence, correct


@pytest.mark.parametrize(("right", "covered"), [(59, 59), (58, 59), (190, 200), (1, 10), (3, 3)])
def test_bound_agrees_with_scipy(right, covered):
    expected = binomtest(right, covered, alternative="greater").proportion_ci(0.95, method="exact").low
    assert threshold.precision_lower_bound(right, covered, confidence_level=0.95) == pytest.approx(expected, abs=1e-6)


def test_bound_literal():
    # All n right: the bound solves p^n = 0.05. 0.05^(1/59) = 0.950492 passes 0.95, 0.05^(1/58) = 0.949661 does not.
    bounds = threshold.precision_lower_bound([58, 59, 0, 0], [58, 59, 5, 0], confidence_level=0.95)
    np.testing.assert_allclose(bounds, [0.949661, 0.950492, 0.0, 0.0], atol=1e-6)


def test_bound_and_exact_binomial_test_say_the_same():
    for right in range(180, 201):
        rejected = binomtest(right, 200, 0.95, alternative="greater").pvalue <= 0.05
        assert (threshold.precision_lower_bound(right, 200, confidence_level=0.95) >= 0.95) == rejected


@pytest.fixture
def promises_alone(monkeypatch):
    """What `photos_needed` says takes a second where a target is missed, and plays no part in the promise."""
    monkeypatch.setattr(threshold, "photos_needed", lambda *_: None)


def test_chooses_the_last_threshold_before_the_first_failure():
    # 200 of 200 right at 0.90, 100 of 100 at 0.70, 0 of 60 at 0.50: what is shown is shown of the first 300.
    result = threshold.choose_threshold(*photos((0.9, 200, 200), (0.7, 100, 100), (0.5, 60, 0)))
    assert (result["threshold"], result["precision"], result["n"]) == (0.7, 1.0, 360)
    assert result["coverage"] == pytest.approx(300 / 360)
    assert (result["target_met"], result["shortfall"], result["precision_lower_bound"]) == (True, 0.0, 0.95)


def test_the_surest_photos_are_not_given_up_for_those_below_them():
    # 85 of the surest 85 of 415 are right, and fewer and fewer of the others. A search that begins at a third of the
    # photos, 138 of which 127 are right, can't promise 0.90 here and calls that the best there is.
    confidence = np.linspace(0.999, 0.41, 415)
    correct = np.ones(415, bool)
    correct[85::5] = correct[200::2] = False
    result = threshold.choose_threshold(confidence, correct)
    assert result["target_met"] and result["coverage"] >= 85 / 415
    assert threshold.precision_lower_bound(correct[:138].sum(), 138, confidence_level=0.95) < 0.90


def test_on_new_photos_of_such_a_model_the_promise_holds_at_a_fifth_of_them(promises_alone):
    rate = lambda c: np.interp(c, [0.4, 0.87, 0.8701, 1.0], [0.3, 0.8, 0.99, 0.999])  # noqa: E731
    rng, met, broken, coverage = np.random.default_rng(11), 0, 0, []
    many = rng.uniform(0.4, 1.0, 200_000)
    for _ in range(400):
        confidence = rng.uniform(0.4, 1.0, 415)
        result = threshold.choose_threshold(confidence, rng.random(415) < rate(confidence))
        met += result["target_met"]
        answered = many[many >= result["threshold"]]
        broken += result["target_met"] and rate(answered).mean() < 0.95
        coverage.append(len(answered) / len(many) * result["target_met"])
    assert met > 0.6 * 400 and np.mean(coverage) > 0.12
    assert broken <= binom.ppf(0.999, 400, 0.05)


def test_it_does_not_go_on_after_a_failure():
    # The 10,000 photos at 0.60 are all right, yet 30 of the 100 surest are wrong: together they pass.
    result = threshold.choose_threshold(*photos((0.8, 100, 70), (0.6, 10_000, 10_000)))
    assert (result["target_met"], result["threshold"]) == (True, 0.6)
    # Where the wrong ones come last, what went before stays.
    result = threshold.choose_threshold(*photos((0.8, 400, 400), (0.6, 400, 200)))
    assert (result["target_met"], result["threshold"]) == (True, 0.8)


def test_missed_target_is_said_and_never_a_silent_default():
    # 190 of 200 right is 0.95 by eye; P(Binomial(200, 0.916665) >= 190) is 0.05; searching costs a little.
    result = threshold.choose_threshold(*photos((0.9, 200, 190)))
    assert (result["target_met"], result["precision"]) == (False, 0.95)
    assert 0.87 < result["precision_lower_bound"] <= 0.916665
    assert result["shortfall"] == pytest.approx(0.95 - result["precision_lower_bound"], abs=1e-9)


def test_too_few_photos_cannot_promise():
    # Of 40, all right, no more can be shown than 0.05^(1/40) = 0.927827.
    result = threshold.choose_threshold(*photos((0.99, 40, 40)))
    assert not result["target_met"] and 0.88 < result["precision_lower_bound"] <= 0.927827


@pytest.mark.parametrize("rate", [lambda c: c, lambda c: c**1.3], ids=["calibrated", "overconfident"])
def test_what_is_promised_instead_holds_too(rate, promises_alone):
    rng = np.random.default_rng(5)
    many = rng.beta(4, 0.6, 200_000)
    missed = false = 0
    for _ in range(1000):
        confidence = rng.beta(4, 0.6, 120)
        result = threshold.choose_threshold(confidence, rng.random(120) < rate(confidence))
        missed += not result["target_met"]
        true = rate(many[many >= result["threshold"]]).mean() if (many >= result["threshold"]).any() else 1.0
        false += not result["target_met"] and true < result["precision_lower_bound"]
    assert missed > 400
    assert false <= binom.ppf(0.999, missed, 0.05)


def test_below_four_tenths_nothing_is_conclusive():
    result = threshold.choose_threshold(*photos((0.2, 100, 90)))
    assert (result["threshold"], result["precision"], result["coverage"]) == (1.0, None, 0.0)
    assert (result["precision_lower_bound"], result["shortfall"], result["target_met"]) == (0.0, 0.95, False)


def test_a_lower_target_and_a_lower_confidence_never_cover_less():
    rng = np.random.default_rng(0)
    confidence = rng.beta(4, 0.6, 2000)
    correct = rng.random(2000) < confidence
    base = threshold.choose_threshold(confidence, correct)
    assert threshold.choose_threshold(confidence, correct, target=0.9)["coverage"] > base["coverage"]
    assert threshold.choose_threshold(confidence, correct, confidence_level=0.8)["coverage"] >= base["coverage"]


def test_the_order_of_photos_does_not_matter():
    rng = np.random.default_rng(1)
    confidence, order = rng.beta(4, 0.6, 500).round(2), rng.permutation(500)
    correct = rng.random(500) < confidence
    one = threshold.choose_threshold(confidence, correct)
    assert threshold.choose_threshold(confidence[order], correct[order]) == one


def false_promises(rate, draw, worlds=500, n=400):
    """How many of the worlds break their promise: by `choose_threshold`, and by the plan's eye on the sample."""
    rng = np.random.default_rng(7)
    big = draw(rng, 400_000)
    true = lambda t: rate(big[big >= t]).mean() if (big >= t).any() else 1.0  # noqa: E731
    broken = broken_by_eye = 0
    for _ in range(worlds):
        confidence = draw(rng, n)
        correct = rng.random(n) < rate(confidence)
        result = threshold.choose_threshold(confidence, correct)
        broken += result["target_met"] and true(result["threshold"]) < 0.95
        order = np.argsort(-confidence)
        looks_good = np.flatnonzero(np.cumsum(correct[order]) >= 0.95 * np.arange(1, n + 1))
        broken_by_eye += len(looks_good) > 0 and true(confidence[order][looks_good[-1]]) < 0.95
    return broken, broken_by_eye


@pytest.mark.parametrize(
    "rate",
    [lambda c: c, lambda c: c**1.3, lambda c: np.full_like(c, 0.9499)],
    ids=["calibrated", "overconfident", "just short of the target everywhere"],
)
@pytest.mark.parametrize("decimals", [17, 2], ids=["distinct", "hundredths"])
def test_promises_are_false_no_more_often_than_stated(rate, decimals, promises_alone):
    broken, broken_by_eye = false_promises(rate, lambda rng, n: rng.beta(4, 0.6, n).round(decimals))
    # 500 worlds at 5 % give 25; 41 is what an exactly 5 % procedure exceeds once in a thousand runs
    assert broken <= binom.ppf(0.999, 500, 0.05) == 41
    assert broken_by_eye > 0.4 * 500  # what the tests are for


LOGITS = 17


def world(rng, n, temperature):
    """Logits of a model that is right where it is sure once they are divided by the temperature, and their labels."""
    logits = rng.normal(size=(n, LOGITS)) * 1.5
    logits[np.arange(n), rng.integers(0, LOGITS, n)] += 1.5 * rng.gamma(3, 1.5, n)
    labels = (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=LOGITS - 1)
    return logits * temperature, labels


def oracle(truth):
    """The coverage of one who knows how often each answer is right."""
    sure = np.sort(truth)[::-1]
    return (np.cumsum(sure) / np.arange(1, len(sure) + 1) >= 0.95).mean()


def test_in_200_worlds_temperature_and_threshold_keep_their_promise(promises_alone):
    # benchmarks/calibration/calibration_worlds.py does the same with 10,000 and 100,000 photos, and 9,000 classes.
    n, temperature = 1000, 2.0
    rng = np.random.default_rng(n)
    logits, _ = world(rng, 10_000, temperature)
    truth = softmax(logits, temperature).max(axis=1)  # of right answers, given the photo
    broken, coverage = 0, []
    for _ in range(200):
        rows = rng.integers(0, len(logits), n)
        drawn = (softmax(logits[rows], temperature).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
        labels = drawn.clip(max=LOGITS - 1)
        fitted = fit_temperature(logits[rows], labels)
        scores = score(logits[rows], labels, fitted)
        result = threshold.choose_threshold(scores.confidence, scores.correct)
        answered = truth[score(logits, np.zeros(len(logits), int), fitted).confidence >= result["threshold"]]
        broken += result["target_met"] and answered.mean() < 0.95
        coverage.append(len(answered) / len(logits))
    print(f"n {n}: {broken} of 200 promises false, coverage {np.mean(coverage):.3f}, at best {oracle(truth):.3f}")
    assert broken <= 18  # binom.ppf(0.99, 200, 0.05)


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_with_many_photos_the_promise_holds_and_costs_little(n, promises_alone):
    rng = np.random.default_rng(0)
    confidence = rng.beta(4, 0.6, n)
    results = [threshold.choose_threshold(confidence, rng.random(n) < confidence) for _ in range(200)]
    broken = sum(confidence[confidence >= each["threshold"]].mean() < 0.95 for each in results if each["target_met"])
    coverage = np.mean([each["coverage"] for each in results])
    print(f"n {n:,}: {broken} of 200 promises false, coverage {coverage:.3f}, at best {oracle(confidence):.3f}")
    assert broken <= 18
    assert n < 100_000 or coverage > oracle(confidence) - 0.03
    # What the bound alone costs, if every number of right answers is the expected one.
    sure, covered = np.sort(confidence)[::-1], np.arange(1, n + 1)
    bounds = threshold.precision_lower_bound(np.cumsum(sure), covered, confidence_level=0.95)
    assert coverage > (bounds >= 0.95).mean() - 0.005


def test_the_genus_below_the_species_threshold_keeps_its_promise_too(promises_alone):
    # The same photos choose the species' threshold, and then, among those it leaves open, the genus's.
    rng = np.random.default_rng(3)

    def draw(n):
        genus, species = rng.beta(6, 0.5, n), rng.beta(2, 0.8, n)  # p(genus right), p(species right | genus right)
        return genus, genus * species

    many_genus, many_species = draw(400_000)
    broken = met = 0
    for _ in range(200):
        genus, species = draw(2000)
        genus_right = rng.random(2000) < genus
        right = genus_right & (rng.random(2000) < species / genus)
        first = threshold.choose_threshold(species, right)["threshold"]
        left = np.flatnonzero(species < first)[:1000]  # always as many, or each world needs a schedule of its own
        second = threshold.choose_threshold(genus[left], genus_right[left])
        named = many_genus[(many_species < first) & (many_genus >= second["threshold"])]
        met += second["target_met"]
        broken += second["target_met"] and named.mean() < 0.95
    print(f"genus: {met} of 200 promises made, {broken} false")
    assert broken <= 18 < 100 < met


def test_one_photo_of_each_group():
    groups = np.array(["b", "a", "b", "b", "c"])
    chosen = threshold.one_of_each(groups, seed=0)
    assert sorted(groups[chosen]) == ["a", "b", "c"]
    assert (np.diff(chosen) > 0).all()
    assert {int(i) for seed in range(50) for i in threshold.one_of_each(groups, seed=seed)} == {0, 1, 2, 3, 4}


def test_no_number_of_photos_helps_a_model_that_errs_where_it_is_surest():
    assert threshold.photos_needed([100, 200], [6, 20], 300, 0.95, 0.95) is None
    assert threshold.photos_needed([3], [0], 3, 0.95, 0.95) is None  # three of three prove nothing
    result = threshold.choose_threshold(*photos((0.9, 100, 60)))
    assert (result["target_met"], result["photos_needed"]) == (False, None)


def test_a_promise_that_was_made_needs_no_more_photos():
    assert threshold.choose_threshold(*photos((0.9, 200, 200)))["photos_needed"] is None


def test_as_many_photos_as_said_suffice_four_times_in_five():
    # 98 of the surest 100 of 400 photos are right, none of the others.
    needed = threshold.photos_needed([100], [2], 400, 0.95, 0.95)
    schedule, rng, met = threshold._schedule(needed, 0.95, 0.95), np.random.default_rng(1), 0
    for _ in range(1000):
        right, wrong, _ = rng.multinomial(needed, [0.245, 0.005, 0.75])
        met += threshold._search(np.array([right + wrong]), np.array([wrong]), schedule) >= 0
    assert met / 1000 == pytest.approx(0.8, abs=0.06)


def test_scan_is_the_plans_table():
    confidence, correct = photos((0.9, 2, 2), (0.6, 2, 1))
    rows = threshold.threshold_scan(confidence, correct)
    assert [row["threshold"] for row in rows] == [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
    np.testing.assert_allclose([row["threshold"] for row in rows], np.arange(0.4, 0.95, 0.05))
    assert rows[4] == {"threshold": 0.6, "accuracy": 0.75, "coverage": 1.0}
    assert rows[5] == {"threshold": 0.65, "accuracy": 1.0, "coverage": 0.5}


def test_scan_and_evaluate_say_none_where_nothing_is_covered():
    assert threshold.threshold_scan([0.5], [1])[-1] == {"threshold": 0.9, "accuracy": None, "coverage": 0.0}
    result = threshold.evaluate_threshold([0.5, 0.9], [1, 1], 0.95)
    assert result == {"threshold": 0.95, "precision": None, "coverage": 0.0, "n": 2}


def test_risk_coverage_literal():
    # Surest first: right, wrong, right, right. Risks 0, 1/2, 1/3, 1/4; their mean (0 + 6 + 4 + 3) / 48 = 13/48.
    coverage, risk, aurc = threshold.risk_coverage([0.6, 0.9, 0.8, 0.7], [1, 1, 0, 1])
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 4])
    assert aurc == pytest.approx(13 / 48)


def test_risk_coverage_cannot_part_equal_confidences():
    coverage, risk, aurc = threshold.risk_coverage([0.8, 0.8, 0.8, 0.8], [1, 0, 1, 1])
    np.testing.assert_allclose(coverage, [1.0])
    assert risk.tolist() == [0.25] and aurc == 0.25


@pytest.mark.parametrize("wrong", [{"target": 0.0}, {"target": 95.0}, {"confidence_level": 1.0}])
def test_shares_must_be_shares(wrong):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        threshold.choose_threshold([0.5], [1], **wrong)
