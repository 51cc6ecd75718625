"""What a region says of its species: smoothed, floored, and right where the world is as it says."""

import numpy as np
import pytest

from keras_pipeline.evaluation.priors import log_ratios
from keras_pipeline.evaluation.scores import Prior, score


def test_literal():
    # p = (.5, .5). Region 0 has 30 of 40 photos of species 0: (30 + 10 * .5) / (40 + 10) = .7, 1.4 times p.
    found = np.exp(log_ratios([[30, 10], [10, 30]], smoothing=10, floor=0.01))
    np.testing.assert_allclose(found, [[1.4, 0.6], [0.6, 1.4]])


def test_what_was_never_seen_there_keeps_the_floor():
    # p = (.9, .1); species 1 in region 0: (0 + 1 * .1) / (80 + 1) / .1 = 1/81, below the floor.
    found = np.exp(log_ratios([[80, 0], [10, 10]], smoothing=1, floor=0.05))
    assert found[0, 1] == pytest.approx(0.05)
    assert (found >= 0.05).all()


def test_a_region_without_photos_says_nothing():
    np.testing.assert_allclose(log_ratios([[30, 10], [0, 0]], smoothing=5, floor=0.01)[1], [0.0, 0.0])


def test_a_species_without_photos_is_not_divided_by_zero():
    assert np.isfinite(log_ratios([[3, 0], [5, 0]], smoothing=1, floor=0.01)).all()


def test_it_pays_where_regions_differ():
    rng = np.random.default_rng(0)
    shares = np.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]])
    region = rng.integers(0, 2, 4000)
    labels = np.array([rng.choice(4, p=shares[r]) for r in region])
    logits = rng.normal(size=(4000, 4))
    logits[np.arange(4000), labels] += 1.0  # log p(photo | species) and a flat p(species), up to a constant
    counts = np.array([np.bincount(labels[region == r], minlength=4) for r in (0, 1)])
    prior = Prior(log_ratios(counts, smoothing=1, floor=0.01), region)
    without, with_it = score(logits, labels), score(logits, labels, prior=prior)
    assert with_it.nll.mean() < without.nll.mean() - 0.15
    assert with_it.correct.mean() > without.correct.mean() + 0.05


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([1, 2], {}, "expected \\[regions, species\\]"),
        ([[1, -2]], {}, "numbers of photos"),
        ([[1, 2]], {"smoothing": 0}, "smoothing 0"),
        ([[1, 2]], {"floor": 0}, "floor 0"),
    ],
)
def test_bad_input_is_refused(counts, options, message):
    with pytest.raises(ValueError, match=message):
        log_ratios(counts, **{"smoothing": 1, "floor": 0.1, **options})
