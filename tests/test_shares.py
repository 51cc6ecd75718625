"""Shares of the splits hold over the whole, for any mix of species and groups."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from keras_pipeline.core.dataset import SPLITS, DatasetInfo
from keras_pipeline.ingest.shares import assign_splits
from keras_pipeline.phases.phase0_dataset.split_report import remarks

DEFAULT = {"train": 0.8, "val": 0.05, "calibration": 0.05, "test": 0.1}


def assigned(groups, shares=DEFAULT, *, seed=0, pins=(), barred=()):
    """Split groups, each a list of its photos' species; return (split of each group, species of each photo, shares)."""
    number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    pin = np.full(len(groups), -1)
    pin[: len(pins)] = pins
    members = pd.DataFrame(
        {
            "group": number,
            "name": [name for group in groups for name in group],
            "pin": pin[number],
            "barred": np.isin(number, barred),
            "absent": False,
        }
    )
    rows, found = assign_splits(members, np.char.mod("%06d", number).astype(object), shares=shares, seed=seed)
    split = np.zeros(len(groups), int)
    split[number] = rows
    assert (split[number] == rows).all()  # no group in two splits
    assert found.photos == dict(zip(SPLITS, np.bincount(rows, minlength=4).tolist(), strict=True))
    return split, members.assign(split=rows), found


def species(number, groups, photos=1, prefix="s"):
    return [[f"{prefix}{i}"] * photos for i in range(number) for _ in range(groups)]


@pytest.mark.parametrize(
    "groups, expected, within",
    [
        (species(300, 4), [960, 60, 60, 120], 12),
        (species(50, 60, prefix="common") + species(3000, 3), [9600, 600, 600, 1200], 120),
        (species(200, 3, 2), [960, 60, 60, 120], 12),
    ],
)
def test_what_rounding_takes_from_small_species_is_given_back(groups, expected, within):
    _, photos, found = assigned(groups)
    assert np.abs(np.subtract(list(found.photos.values()), expected)).max() <= within
    assert list(found.reachable.values()) == pytest.approx(expected)
    assert photos[photos.split == 0].name.nunique() == photos.name.nunique()


@pytest.mark.parametrize("seed", range(3))
def test_val_calibration_and_test_are_of_species_as_small(seed):
    """Rounded alone, small species gave test two thirds single photos, calibration a third, and no promise held."""
    random = np.random.default_rng(seed)
    groups = []
    for number, photos in enumerate([*random.integers(4, 10, 3000), *random.integers(50, 200, 60)]):
        while photos > 0:
            groups.append([f"s{number}"] * min(photos, random.integers(1, 4)))
            photos -= len(groups[-1])
    split, photos, found = assigned(groups, seed=seed)
    assert np.abs(np.subtract(list(found.photos.values()), list(found.reachable.values()))).max() <= len(photos) / 100
    learnt = photos[photos.split == 0].name.value_counts()
    sizes = [np.minimum(learnt[[group[0] for group, place in zip(groups, split, strict=True) if place == code]], 10)
             for code in (1, 2, 3)]  # fmt: skip
    shares = [np.bincount(each, minlength=11) / len(each) for each in sizes]
    assert max(np.abs(shares[2] - shares[code]).sum() / 2 for code in (0, 1)) < 0.08  # 0.2 before, 0.05 by chance


def test_a_dataset_tells_the_species_of_each_split():
    info = DatasetInfo(Path(), ["a", "b"], "", {"test": {"n": 3, "per_class": {"a": 3}}})
    assert info.species("test") == 1 and len(info.classes) == 2


def test_where_no_share_can_hold_the_reachable_ones_are_told():
    # 900 species of one photo leave 100 for a test of 400: the three splits share them 1:1:2.
    _, _, found = assigned(
        species(900, 1) + species(1, 100, prefix="common"), {**dict.fromkeys(SPLITS, 0.2), "test": 0.4}
    )
    assert found.reachable == pytest.approx({"train": 901, "val": 24.75, "calibration": 24.75, "test": 49.5})
    assert [found.photos[name] for name in SPLITS] == pytest.approx([901, 25, 25, 49], abs=1)


def test_each_of_twenty_species_of_ten_groups_needs_one_in_each_split():
    _, _, found = assigned(species(20, 10))
    assert list(found.reachable.values()) == list(found.photos.values()) == [140, 20, 20, 20]


def test_old_and_barred_groups_keep_their_place_and_the_others_make_up_for_them():
    pins = [3] * 300 + [1] * 100
    split, _, found = assigned(species(100, 20), pins=pins, barred=range(400, 1000))
    assert split[:400].tolist() == pins and not split[400:1000].any()
    # Test has 300 of them, and needs one of each other species: the rest have 1,500 at 80 : 5, val likewise.
    assert list(found.reachable.values()) == pytest.approx([1500 * 16 / 17, 150, 1500 / 17, 350])
    for name in SPLITS:
        assert found.photos[name] == pytest.approx(found.reachable[name], abs=1)


def test_a_large_species_gives_before_a_small_one_loses_its_part():
    # Of 40 species alike each has its own share; what 400 small ones need is taken from those with too much in train.
    _, photos, _ = assigned(species(40, 40, prefix="common") + species(400, 3))
    common = photos[photos.name.str.startswith("common")]
    assert (pd.crosstab(common.name, common.split) == [32, 2, 2, 4]).all().all()


def drawn(random, several):
    """A mix of 2 to 25 species with 1 to 40 groups of 1 to 20 photos, some of several species."""
    groups, number = [], int(random.integers(2, 26))
    for name in range(number):
        mean = random.choice([1, 2, 5])
        for _ in range(int(np.clip(random.lognormal(1.5, 1.2), 1, 40))):
            group = [name] * min(int(random.geometric(1 / mean)), 20)
            if several and random.random() < 0.3:
                group += [int(random.integers(number))] * int(random.integers(1, 4))
            groups.append([f"s{name:02d}" for name in group])
    return groups


@pytest.mark.parametrize("several", [False, True])
def test_a_hundred_random_mixes_also_after_they_have_grown(several):
    for seed in range(100):
        random = np.random.default_rng(seed)
        groups = drawn(random, several)
        shares = dict(zip(SPLITS, 0.05 + 0.8 * random.dirichlet([8, 1, 1, 2]), strict=True))
        random.shuffle(groups)
        half = groups[: len(groups) // 2]
        before, photos, found = assigned(half, shares, seed=seed)
        _check(photos, found, half)
        after, photos, found = assigned(groups, shares, seed=seed, pins=before)
        _check(photos, found, groups)
        assert (after[: len(half)] == before).all()


def _check(photos, found, groups):
    # Two groups; one where there are many, which is stricter than the gate.
    near = max(0.01 * len(photos), (1 + (len(groups) < 20)) * max(map(len, groups)))
    for name in SPLITS:
        assert abs(found.photos[name] - found.reachable[name]) <= near, (len(photos), found)
    assert photos[photos.split == 0].name.nunique() == photos.name.nunique()
    if len(groups) >= photos.name.nunique() + 3:
        assert all(found.photos.values())


def test_no_split_is_empty_where_groups_are_few():
    for seed in range(20):
        split, photos, _ = assigned([["a"], ["a", "b"], ["b"], ["a"]], seed=seed)
        assert sorted(split) == [0, 1, 2, 3] and set(photos[photos.split == 0].name) == {"a", "b"}


def test_the_seed_decides_which_small_species_are_judged():
    splits = [assigned(species(100, 4), seed=seed)[0] for seed in (1, 1, 2)]
    assert (splits[0] == splits[1]).all() and (splits[0] != splits[2]).any()


def remarks_on(shares):
    """What `phase0 split` says of these shares."""
    report = {
        "photos": shares.all_photos, "species": 1, "species_missing_from": {"test": 0}, "stored": shares.all_photos,
        "shares": dataclasses.asdict(shares), "absent": {"user_id": 0, "day": 0}, "judged": {}, "without_day": 0,
        "by_author": {"photos": 0},
    }  # fmt: skip
    return remarks(report)


def test_a_split_of_less_than_half_of_what_was_asked_is_warned_of():
    # 3,000 species have one photo each, which is learnt; only 20 species of 10 photos can fill the other splits.
    shares = assigned(species(3000, 1) + species(20, 10, prefix="common"))[2]
    assert shares.photos == {"train": 3020, "val": 45, "calibration": 45, "test": 90}
    assert remarks_on(shares)[0].startswith(
        "warning: less than half of what was asked for: val 45 of 160 photos, calibration 45 of 160 photos, "
        "test 90 of 320 photos; "
    )
    shares = assigned(species(1000, 1) + species(20, 10, prefix="common"))[2]
    assert shares.photos == {"train": 1020, "val": 45, "calibration": 45, "test": 90}
    assert not any("less than half" in each for each in remarks_on(shares))
