"""Groups stay together, shares come out right, and a planted leak is found."""

import numpy as np
import pytest

from keras_pipeline.ingest.split import assign_splits, find_leaks, group_samples

SHARES = {"train": 0.6, "val": 0.1, "calibration": 0.1, "test": 0.2}


def groups_of(classes=20, groups=50, largest=4, seed=0):
    """{group: labels}, each group of one class and of 1 to `largest` photos."""
    rng = np.random.default_rng(seed)
    return {f"{c}-{g}": [c] * int(rng.integers(1, largest + 1)) for c in range(classes) for g in range(groups)}


def photos_by_split(groups, assignment):
    counts = dict.fromkeys(SHARES, 0)
    for group, labels in groups.items():
        counts[assignment[group]] += len(labels)
    return counts


def test_same_observation_or_same_bytes_stay_together_transitively():
    groups = group_samples(
        [("a", "o1", "x"), ("b", "o1", "y"), ("c", None, "y"), ("d", "o2", "y"), ("e", None, "z"), ("f", "", "w")]
    )
    assert len({groups[s] for s in "abcd"}) == 1  # a and b by observation, c and d by bytes
    assert len({groups[s] for s in "adef"}) == 3


def test_ids_of_different_kinds_are_not_confused():
    groups = group_samples([("1", "2", "3"), ("2", "3", "1"), ("3", "1", "2")])
    assert len(set(groups.values())) == 3


def test_names_of_groups_do_not_depend_on_the_order():
    samples = [(f"s{i}", f"o{i // 3}", f"x{i % 7}") for i in range(20)]
    assert group_samples(samples) == group_samples(samples[::-1])


def test_a_chain_of_ten_thousand_duplicates():
    samples = [(f"s{i}", f"o{i}", f"x{i // 2}") for i in range(10_000)]
    samples += [(f"t{i}", f"o{i}", f"x{(i + 1) // 2}") for i in range(10_000)]
    assert len(set(group_samples(samples).values())) == 1


def test_shares_of_the_photos():
    groups = groups_of()
    counts = photos_by_split(groups, assign_splits(groups, shares=SHARES, seed=1))
    total = sum(counts.values())
    for split, share in SHARES.items():
        assert counts[split] / total == pytest.approx(share, abs=0.01)


def test_each_class_is_divided_alike():
    groups = {f"{c}-{g}": [c] for c in range(5) for g in range(100)}
    assignment = assign_splits(groups, shares=SHARES, seed=1)
    for c in range(5):
        one = {group: labels for group, labels in groups.items() if labels == [c]}
        assert photos_by_split(one, assignment) == {"train": 60, "val": 10, "calibration": 10, "test": 20}


@pytest.mark.parametrize("groups_per_class", [1, 2, 3, 5])
def test_every_class_has_a_training_photo(groups_per_class):
    groups = groups_of(groups=groups_per_class, largest=9)
    small_train = {"train": 0.1, "val": 0.2, "calibration": 0.3, "test": 0.4}  # not by being the largest share
    assignment = assign_splits(groups, shares=small_train, seed=3)
    trained = {groups[group][0] for group, split in assignment.items() if split == "train"}
    assert trained == set(range(20))


def test_assignment_depends_on_the_seed_alone():
    groups = groups_of()
    shuffled = dict(sorted(groups.items(), key=lambda item: item[0][::-1]))
    first = assign_splits(groups, shares=SHARES, seed=1)
    assert first == assign_splits(shuffled, shares=SHARES, seed=1)
    assert first != assign_splits(groups, shares=SHARES, seed=2)


def test_find_leaks_names_what_two_splits_share():
    clean = [("train", "a", "g1", "x"), ("train", "b", "g1", "y"), ("val", "c", "g2", "z"), ("test", "d", "g3", "w")]
    assert find_leaks(clean) == []
    planted = [*clean, ("test", "e", "g2", "x")]  # c's group, a's bytes
    assert find_leaks(planted) == [
        {"kind": "group_id", "value": "g2", "splits": ["test", "val"]},
        {"kind": "sha256", "value": "x", "splits": ["test", "train"]},
    ]
    assert find_leaks([*clean, ("val", "a", "g9", "q")])[0]["kind"] == "sample_id"


def test_grouped_and_assigned_samples_never_leak():
    rng = np.random.default_rng(0)
    samples = [(f"s{i}", f"o{rng.integers(150)}", f"x{rng.integers(300)}") for i in range(400)]
    groups = group_samples(samples)
    members = {}
    for sample, *_ in samples:
        members.setdefault(groups[sample], []).append(int(rng.integers(5)))
    assignment = assign_splits(members, shares=SHARES, seed=0)
    assert find_leaks((assignment[groups[s]], s, groups[s], x) for s, _, x in samples) == []
