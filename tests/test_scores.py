"""Confidence, log likelihood, Brier score and genus of each photo, from one pass; several photos of one plant."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from keras_pipeline.core.taxonomy import Rank, ranks_above
from keras_pipeline.evaluation import metrics
from keras_pipeline.evaluation.metrics import softmax
from keras_pipeline.evaluation.scores import Prior, score, together


def random_case(n=50, c=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, c)) * 2, rng.integers(0, c, n)


def test_literal():
    # p = (3/4, 1/4) and (1/5, 4/5), both photos of class 0.
    found = score(np.log([[3.0, 1.0], [1.0, 4.0]]), [0, 0])
    np.testing.assert_allclose(found.confidence, [0.75, 0.8])
    np.testing.assert_array_equal(found.correct, [True, False])
    np.testing.assert_allclose(found.nll, [-np.log(0.75), -np.log(0.2)])
    np.testing.assert_allclose(found.brier, [2 * 0.25**2, 2 * 0.8**2])


def test_nll_and_brier_agree_with_sklearn():
    logits, labels = random_case()
    found, p = score(logits, labels, 1.7), softmax(logits, 1.7)
    assert found.nll.mean() == pytest.approx(log_loss(labels, p), abs=1e-9)
    assert found.brier.mean() == pytest.approx(brier_score_loss(labels, p, scale_by_half=False), abs=1e-9)
    assert found.nll.mean() == pytest.approx(metrics.nll(logits, labels, 1.7), abs=1e-12)


def test_temperature_moves_confidence_but_never_the_answer():
    logits, labels = random_case()
    plain, flat = score(logits, labels), score(logits, labels, 4.0)
    assert (flat.confidence < plain.confidence).all()
    np.testing.assert_array_equal(plain.correct, flat.correct)


def test_a_prior_is_bayes_rule():
    # p(s | photo) = (1/2, 1/2); the second region has class 1 four times as often as class 0.
    prior = Prior(np.log([[1.0, 1.0], [0.4, 1.6]]), np.array([0, 1]))
    found = score(np.zeros((2, 2)), [1, 1], prior=prior)
    np.testing.assert_allclose(found.confidence, [0.5, 0.8])
    np.testing.assert_array_equal(found.correct, [False, True])
    # It is added to the log-probability, not to what the temperature divides.
    assert score(np.array([[2.0, 0.0]]), [0], 2.0, prior=Prior(np.array([[0.0, 1.0]]), np.array([0]))).confidence == 0.5


def test_genus_literal():
    # Viola 0.25 + 0.25 beats Tulipa 0.3 although Tulipa is the best species; Crocus has 0.2.
    logits = np.log([[0.2, 0.3, 0.25, 0.25]] * 2)
    ranks = ranks_above(["Crocus vernus", "Tulipa sylvestris", "Viola odorata", "Viola tricolor"], [])
    assert ranks == [Rank("genus", ("Crocus", "Tulipa", "Viola"), (0, 1, 2, 2))]
    found = score(logits, [2, 1], ranks=ranks)
    np.testing.assert_allclose(found.rank_confidence, [[0.5], [0.5]])
    np.testing.assert_array_equal(found.rank_correct, [[True], [False]])
    np.testing.assert_array_equal(found.correct, [False, True])
    np.testing.assert_allclose(found.confidence, [0.3, 0.3])
    np.testing.assert_array_equal(found.of_rank(0).confidence, [0.5, 0.5])


def test_families_are_those_of_the_details_and_of_the_genus():
    classes = ["Viola alba", "Viola tricolor", "Iris pumila", "Crocus vernus", "Rosa canina"]
    details = [{"Family": "violaceae "}, {}, {"family": "IRIDACEAE", "plant_id": "7"}, {"family": "Iridaceae"}, {}]
    genus, family = ranks_above(classes, details)
    assert genus.taxa == ("Crocus", "Iris", "Rosa", "Viola")
    assert family == Rank("family", ("", "Iridaceae", "Violaceae"), (2, 2, 1, 1, 0))
    # Two families of one genus: nothing can be told of a third species.
    several = ranks_above(["Iris a", "Iris b", "Iris c"], [{"family": "Iridaceae"}, {"family": "Liliaceae"}, {}])
    assert several[1].of_classes() == ["Iridaceae", "Liliaceae", ""]
    assert len(ranks_above(classes, [{"plant_id": "7"}] * 5)) == 1


def test_a_family_that_nobody_knows_is_never_sure():
    ranks = ranks_above(["Iris pumila", "Rosa canina"], [{"family": "Iridaceae"}, {}])
    found = score(np.log([[0.9, 0.1], [0.1, 0.9]]), [0, 1], ranks=ranks)
    np.testing.assert_allclose(found.rank_confidence, [[0.9, 0.9], [0.9, 0.0]])


def test_hybrids_are_of_their_genus_wherever_they_stand_in_the_list():
    classes = ["Mentha spicata", "Salix alba", "× Mentha piperita"]
    assert ranks_above(classes, []) == [Rank("genus", ("Mentha", "Salix"), (0, 1, 0))]


def test_blocks_of_rows_add_up(monkeypatch):
    logits, labels = random_case(n=23)
    ranks = [Rank("genus", ("a", "b", "c", "d"), (0, 0, 1, 2, 2, 2, 3))]
    prior = Prior(np.random.default_rng(1).normal(size=(3, 7)), labels % 3)
    whole = score(logits, labels, 1.3, ranks=ranks, prior=prior)
    monkeypatch.setattr(metrics, "_BLOCK_ELEMENTS", 14)  # two rows at a time
    parts = score(logits, labels, 1.3, ranks=ranks, prior=prior)
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(parts, field.name), getattr(whole, field.name))


def test_probabilities_of_one_genus_never_add_up_to_more_than_one():
    logits, labels = random_case(n=500, c=300)
    one = Rank("genus", ("Viola",), (0,) * 300)
    assert score(logits, labels, ranks=[one]).rank_confidence.max() <= 1.0


def test_several_photos_literal():
    # Plant 0 on photos 0 and 2: sqrt(.9 * .4) : sqrt(.1 * .6) = .6 : .245; plant 1 on photo 3; photo 1 is left out.
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.3, 0.7]])
    ((plants, combined),) = together(np.log(p), 1.0, [0, -1, 0, 1], 2)
    said = softmax(combined)
    assert plants.start == 0
    np.testing.assert_allclose(said, [[0.36**0.5 / (0.36**0.5 + 0.06**0.5), 0.06**0.5 / (0.36**0.5 + 0.06**0.5)], p[3]],
                               rtol=1e-6)  # fmt: skip


def test_one_photo_of_each_plant_says_what_it_said_alone(monkeypatch):
    logits, labels = random_case(n=20)
    order = np.random.default_rng(2).permutation(20)
    monkeypatch.setattr(metrics, "_BLOCK_ELEMENTS", 21)
    blocks = list(together(logits, 1.4, np.argsort(order), 20))  # photo i shows plant argsort(order)[i]
    said = np.concatenate([combined for _, combined in blocks])
    assert len(blocks) == 7
    np.testing.assert_allclose(softmax(said), softmax(logits[order], 1.4), atol=1e-6)
