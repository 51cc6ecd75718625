"""A calibration split that is not like the test split promises nothing; chance alone refuses nearly never."""

import numpy as np
import pytest

from keras_pipeline.evaluation.exchangeability import compare, why_not

EVEN = np.linspace(0, 1, 400)


def test_shares_and_distance_by_hand():
    """4, 5, 19 and 100 train photos lie in the classes < 5, < 10, < 20 and the last."""
    found = compare(np.array([4, 5, 19, 100]), np.array([4, 4, 4, 100]), EVEN, EVEN)["species_size"]
    assert found["below"] == [5, 10, 20, 50, 100, None]
    assert found["calibration"] == [0.25, 0.25, 0.25, 0, 0, 0.25] and found["test"] == [0.75, 0, 0, 0, 0, 0.25]
    assert found["distance"] == 0.5 and not found["differs"]  # four photos are none


def test_common_species_do_not_promise_for_rare_ones():
    common, mixed = np.repeat([15, 150], [40, 360]), np.repeat([15, 150], [300, 100])
    found = compare(common, mixed, EVEN, EVEN)
    assert found["species_size"]["differs"] and not found["confidence"]["differs"]
    assert "10% of its photos are of species with fewer than 20 train photos, 75% of the test photos" in why_not(found)


def test_surer_photos_do_not_promise_for_others():
    sizes = np.repeat([15, 150], 200)
    found = compare(sizes, sizes, EVEN**0.5, EVEN)  # largest where sqrt(x) - x is: 1/4
    assert abs(found["confidence"]["distance"] - 0.25) < 0.01 and found["confidence"]["differs"]
    assert "0.25, expected at most 0.1" in why_not(found)
    assert why_not(compare(sizes, sizes, EVEN, EVEN)) == ""


def test_chance_refuses_one_promise_in_a_thousand_at_most():
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        sizes = [random.choice([3, 8, 30, 200], n) for n in (60, 150)]
        refused += why_not(compare(*sizes, random.random(60), random.random(150))) != ""
    assert refused <= 4


def test_many_photos_do_not_refuse_a_small_difference():
    """20,000 photos show 5 % more rare species as significant, which a promise bears."""
    fit, test = np.repeat([15, 150], [10_000, 10_000]), np.repeat([15, 150], [11_000, 9_000])
    even = np.linspace(0, 1, 20_000)
    found = compare(fit, test, even, even)["species_size"]
    assert found["p"] < 1e-20 and found["distance"] == pytest.approx(0.05) and not found["differs"]
