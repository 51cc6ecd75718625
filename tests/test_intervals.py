"""Intervals over groups: against exact ones, under changes that must not matter, and in simulated worlds."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.stats import binomtest

from keras_pipeline.evaluation import intervals


def ids_of(numbers):
    return np.array([f"g{number:05d}" for number in numbers])


def random_case(n=400, groups=150, classes=8, seed=0):
    """(right, right_in_5, labels, regions, group_ids)"""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < 0.7
    regions = np.array(["EU", "EU_SW", "NA"])[rng.integers(0, 3, n)]
    in_5 = right | (rng.random(n) < 0.5)
    return right, in_5, rng.integers(0, classes, n), regions, ids_of(rng.integers(0, groups, n))


def clustered_world(rng, groups=60, photos=5):
    """(right, group_ids) whose groups differ: each has its own chance of being right, 0.7 on average."""
    chance = np.repeat(rng.beta(1.4, 0.6, groups), photos)
    return rng.random(groups * photos) < chance, ids_of(np.repeat(np.arange(groups), photos))


def top1_interval(right, group_ids, **options):
    one = np.zeros(len(right), int)
    return intervals.accuracy_intervals(right, right, one, ["EU"] * len(right), group_ids, **options)["top1_interval"]


def test_two_groups_literal():
    # One group of one photo, right; one of three photos, wrong. Drawn: right twice (1/4 of replicates) 1.0, one of
    # each (1/2) 1/4, wrong twice (1/4) 0.0: the outer 2.5 % lie at 0 and 1.
    assert top1_interval(np.array([True, False, False, False]), ["a", "b", "b", "b"]) == [0.0, 1.0]


def test_one_photo_a_group_agrees_with_the_normal_interval_of_a_binomial():
    right = np.arange(2000) < 1400  # 0.7 +- 1.96 sqrt(0.7 * 0.3 / 2000) = 0.7 +- 0.0201
    low, high = top1_interval(right, ids_of(range(2000)))
    assert (low, high) == (pytest.approx(0.6799, abs=0.002), pytest.approx(0.7201, abs=0.002))


def test_copies_of_photos_within_their_groups_tell_nothing_new():
    columns = random_case()
    twice = [np.repeat(column, 2) for column in columns]
    assert intervals.accuracy_intervals(*twice) == intervals.accuracy_intervals(*columns)


def test_copies_of_photos_as_groups_of_their_own_narrow_the_interval():
    right = np.arange(300) % 10 < 7
    one, four = top1_interval(right, ids_of(range(300))), top1_interval(np.tile(right, 4), ids_of(range(1200)))
    assert (one[1] - one[0]) / (four[1] - four[0]) == pytest.approx(2.0, rel=0.15)  # sqrt(4)


def test_the_order_of_photos_does_not_matter_and_the_seed_does():
    columns = random_case()
    order = np.random.default_rng(1).permutation(400)
    shuffled = [column[order] for column in columns]
    first = intervals.accuracy_intervals(*columns)
    assert intervals.accuracy_intervals(*shuffled) == first
    other = intervals.accuracy_intervals(*columns, seed=1)
    assert 0 < abs(other["top1_interval"][0] - first["top1_interval"][0]) < 0.01


def test_a_region_has_the_interval_of_its_own_photos():
    right, in_5, labels, regions, group_ids = random_case(n=3000, groups=1500)
    entry = intervals.accuracy_intervals(right, in_5, labels, regions, group_ids)["per_region"]["NA"]
    own = regions == "NA"
    assert entry["groups"] == len(set(group_ids[own]))
    assert entry["top1_interval"] == pytest.approx(top1_interval(right[own], group_ids[own]), abs=0.006)


def test_macro_recall_of_balanced_classes_is_as_sure_as_top1():
    labels = np.arange(2000) % 4
    right = np.random.default_rng(0).random(2000) < 0.7
    result = intervals.accuracy_intervals(right, right, labels, ["EU"] * 2000, ids_of(range(2000)))
    assert result["macro_recall_interval"] == pytest.approx(result["top1_interval"], abs=0.003)


def test_macro_recall_is_not_biased_by_rare_classes_that_replicates_miss():
    # 1 common class, always right, and 50 single photos, always wrong: replicates hold about 32 of the 51 classes and
    # so have a macro recall of 1 / 32, where it is 1 / 51.
    labels = np.r_[np.zeros(500, int), np.arange(1, 51)]
    result = intervals.accuracy_intervals(labels == 0, labels == 0, labels, ["EU"] * 550, ids_of(range(550)))
    low, high = result["macro_recall_interval"]
    assert low < 1 / 51 < high < 1 / 32


@pytest.mark.parametrize("right", [True, False])
def test_certainty_falls_back_on_the_number_of_groups(right):
    # Nothing but hits in 30 trials: at least 0.025 ** (1 / 30) = 0.8843; nothing but misses: at most 0.1157.
    result = intervals.accuracy_intervals(
        np.full(60, right), np.full(60, right), np.zeros(60, int), ["EU"] * 60, ids_of(np.arange(60) // 2)
    )
    expected = pytest.approx([0.8843, 1.0] if right else [0.0, 0.1157], abs=1e-4)
    assert result["top1_interval"] == result["macro_recall_interval"] == expected
    assert result["per_region"]["EU"] == {"groups": 30, "top1_interval": expected}


def test_ninety_five_worlds_of_a_hundred_lie_within_the_interval():
    rng = np.random.default_rng(0)
    grouped = single = 0
    for world in range(200):
        right, group_ids = clustered_world(rng)
        low, high = top1_interval(right, group_ids, replicates=200, seed=world)
        grouped += low <= 0.7 <= high
        low, high = top1_interval(right, ids_of(range(len(right))), replicates=100, seed=world)
        single += low <= 0.7 <= high
    assert 0.91 <= grouped / 200 <= 0.98  # standard error 0.015
    assert single / 200 < 0.85  # photos taken for independent ones promise too much


@pytest.mark.parametrize(("hits", "groups"), [(0, 5), (1, 1), (3, 8), (8, 8), (70, 100)])
def test_share_interval_equals_scipy_at_whole_numbers(hits, groups):
    expected = binomtest(hits, groups).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(intervals.share_interval(hits / groups, groups), [expected.low, expected.high])


def test_share_interval_lies_between_whole_numbers_and_keeps_shapes():
    limits = intervals.share_interval(np.array([[0.2, 0.25], [0.3, np.nan]]), np.array([[10, 10], [10, 0]]))
    assert limits.shape == (2, 2, 2) and np.isnan(limits[1, 1]).all()
    assert (limits[0, 0] < limits[0, 1]).all() and (limits[0, 1] < limits[1, 0]).all()  # 2, 2.5 and 3 hits of 10


def test_groups_are_counted_for_each_class():
    assert intervals.groups_per([0, 0, 2, 2, 2], ["a", "a", "a", "b", "c"], 4).tolist() == [1, 0, 3, 0]


def test_comparison_literal():
    # 100 photos, one a group: both right on 60, only the second on 20, only the first on 5. Difference 15 points, its
    # standard deviation sqrt((0.25 - 0.15 ** 2) / 100) = 0.0477: 0.15 +- 0.0935.
    first, second = np.arange(100) < 65, (np.arange(100) < 60) | (np.arange(100) >= 80)
    entry = intervals.compare(first, second, ["EU"] * 100, ids_of(range(100))).per_region["EU"]
    low, high = entry.pop("interval")
    assert (low, high) == (pytest.approx(0.0565, abs=0.015), pytest.approx(0.2435, abs=0.015))
    assert entry == {
        "n": 100, "groups": 100, "first": 0.65, "second": 0.8, "difference": pytest.approx(0.15), "verdict": "better"
    }  # fmt: skip


def test_comparison_the_other_way_round_is_the_mirror_image():
    rng = np.random.default_rng(0)
    first, second = rng.random(300) < 0.5, rng.random(300) < 0.8
    regions, group_ids = ["EU"] * 300, ids_of(np.arange(300) // 2)
    forth = intervals.compare(first, second, regions, group_ids).overall
    back = intervals.compare(second, first, regions, group_ids).overall
    assert (forth["verdict"], back["verdict"]) == ("better", "worse")
    assert back["interval"] == pytest.approx([-end for end in forth["interval"][::-1]])


def test_equal_classifiers_show_no_difference():
    right, _, _, regions, group_ids = random_case()
    result = intervals.compare(right, right, regions, group_ids).table()
    assert list(result) == ["all", "EU", "EU_SW", "NA"]
    assert all(entry["verdict"] == "no difference shown" for entry in result.values())
    assert result["all"]["interval"] == [0.0, 0.0] and sum(result[r]["n"] for r in ("EU", "EU_SW", "NA")) == 400


@pytest.mark.parametrize(("groups", "verdict"), [(1, "no difference shown"), (5, "no difference shown"), (6, "better")])
def test_a_handful_of_groups_is_no_proof(groups, verdict):
    # All disagree in one direction, ten photos each: McNemar's exact p is 2 / 2 ** groups, 0.0625 at 5, 0.031 at 6.
    second = np.ones(10 * groups, bool)
    result = intervals.compare(~second, second, ["EU"] * len(second), ids_of(np.arange(len(second)) // 10)).per_region
    assert result["EU"]["verdict"] == verdict and result["EU"]["interval"] == [1.0, 1.0]


def test_a_comparison_of_equals_errs_one_time_in_twenty():
    rng = np.random.default_rng(0)
    group_ids, found = ids_of(np.arange(300) // 3), 0
    for world in range(200):
        chance = np.repeat(rng.beta(2, 1, 100), 3)
        first, second = rng.random((2, 300)) < chance
        compared = intervals.compare(first, second, ["EU"] * 300, group_ids, replicates=300, seed=world)
        found += compared.overall["verdict"] != "no difference shown"
    assert found / 200 < 0.10  # 0.05 with a standard error of 0.015


def test_a_region_called_all_is_not_every_photo():
    # 8 photos, one a group: right on the first 4 alone, which are those of the region.
    second = np.arange(8) < 4
    compared = intervals.compare(np.zeros(8, bool), second, ["all"] * 4 + ["EU"] * 4, ids_of(range(8)))
    assert (compared.overall["n"], compared.overall["difference"]) == (8, 0.5)
    region = compared.per_region["all"]
    assert (region["n"], region["difference"], region["interval"]) == (4, 1.0, [1.0, 1.0])
    assert {name: entry["n"] for name, entry in compared.table().items()} == {"all": 8, "EU": 4, "region all": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"right_second": np.ones(3, bool)}, r"'right_second': \(3,\).* expected one \[n\] for all"),
        ({"group_ids": ["a"]}, r"'group_ids': \(1,\)"),
        ({"right_first": np.ones(4)}, "right_first: received float64, expected bool"),
    ],
)
def test_comparisons_that_do_not_fit_are_refused(changes, message):
    columns = {"right_first": np.ones(4, bool), "right_second": np.ones(4, bool), "regions": ["EU"] * 4}
    with pytest.raises(ValueError, match=message):
        intervals.compare(**columns | {"group_ids": list("abcd")} | changes)


def test_malformed_input_is_refused():
    right, names = np.ones(2, bool), ["a", "b"]
    with pytest.raises(ValueError, match="n >= 1"):
        intervals.accuracy_intervals(right[:0], right[:0], [], [], [])
    with pytest.raises(ValueError, match="labels: received other values, expected integers from 0 on"):
        intervals.accuracy_intervals(right, right, [0, -1], names, names)
    with pytest.raises(ValueError, match="replicates: received 10, expected at least 100"):
        intervals.accuracy_intervals(right, right, [0, 1], names, names, replicates=10)
    with pytest.raises(ValueError, match=r"Shares must lie in \[0, 1\]"):
        intervals.share_interval([70.0], [10])


def test_sums_of_replicates_are_those_of_the_photos_drawn():
    """The same groups as `cluster_bootstrap` draws, also where columns are sparse or replicates end in mid-block."""
    rng = np.random.default_rng(5)
    groups, columns = rng.integers(0, 30, 90), rng.normal(size=(90, 4)) * (rng.random((90, 4)) < 0.4)
    values, samples = intervals.cluster_bootstrap(lambda weight: weight @ columns, groups, 101, 7)
    for given in (columns, coo_array(columns)):
        sums, replicates = intervals.bootstrap_sums(given, groups, 101, 7)
        np.testing.assert_allclose(sums, values, atol=1e-12)
        np.testing.assert_allclose(replicates, samples, atol=1e-12)
    with pytest.raises(ValueError, match="received 99, expected at least 100"):
        intervals.bootstrap_sums(columns, groups, 99)
