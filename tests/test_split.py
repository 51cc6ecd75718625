"""Groups stay together and in their place, shares come out right, and a planted leak is found."""

import numpy as np
import pandas as pd
import pytest

from keras_pipeline.core.dataset import SPLITS
from keras_pipeline.ingest import split as splitting
from keras_pipeline.ingest.split import (
    BRIDGE,
    CONFLICT,
    COPY,
    NONE,
    PLACEHOLDER,
    Ties,
    find_leaks,
    groups_of,
    merged,
    split_photos,
    ties_of,
)

SHARES = {"train": 0.6, "val": 0.1, "calibration": 0.1, "test": 0.2}
RULES = ["observation", "session", "sha256", "near-duplicate"]


def table_of(n=6, **columns):
    values = {
        "sample_id": [f"s{i:05d}" for i in range(n)], "latin_name": "Viola odorata", "observation_id": "",
        "user_id": "", "day": "", "latitude": np.nan, "longitude": np.nan, "sha256": [f"{i:064d}" for i in range(n)],
    }  # fmt: skip
    return pd.DataFrame(values | columns)


def hashes_of(table):
    """Different ones."""
    return np.arange(5 * len(table), dtype=np.uint64).reshape(-1, 5)


def pairs(n, edges):
    """Ties of these pairs of rows, in which no photo stands for another."""
    return Ties(np.stack([np.arange(n)] * 2, axis=1), np.asarray(edges, np.int64).reshape(-1, 2))


def together(table, rules=RULES, near=NONE):
    """Sets of row numbers that stay together, those of one row left out."""
    ties = merged(ties_of(table, rules, hashes_of(table), near).values())
    group, _ = groups_of(len(table), ties, np.full(len(table), -1))
    sets = [set(np.flatnonzero(group == g).tolist()) for g in np.unique(group)]
    return [s for s in sets if len(s) > 1]


def test_one_observation_or_the_same_bytes_stay_together_transitively():
    table = table_of(observation_id=["o1", "o1", "", "o2", "", ""], sha256=["x", "y", "y", "y", "z", "w"])
    assert together(table) == [{0, 1, 2, 3}]


def test_near_duplicates_stay_together_and_each_rule_can_be_left_out():
    table = table_of(observation_id=["a", "a", "", "", "", ""], sha256=["1", "2", "3", "3", "4", "5"])
    near = np.array([[4, 5]])
    assert together(table, near=near) == [{0, 1}, {2, 3}, {4, 5}]
    assert together(table, ["sha256"], near) == [{2, 3}]
    assert together(table, ["near-duplicate"], near) == [{4, 5}]
    assert together(table, [], near) == []


@pytest.mark.parametrize(
    "first, second, same",
    [
        (("u", "2021-05-03", 41.0, 2.0), ("u", "2021-05-03", 41.009, 2.009), True),
        (("u", "2021-05-03", 41.0099, 2.0), ("u", "2021-05-03", 41.0101, 2.0), True),  # no seam between cells
        (("u", "2021-05-03", -0.001, 0.001), ("u", "2021-05-03", 0.001, -0.001), True),
        (("u", "2021-05-03", 41.0, 2.0), ("u", "2021-05-03", 41.03, 2.0), False),
        (("u", "2021-05-03", 41.0, 2.0), ("u", "2021-05-04", 41.0, 2.0), False),
        (("u", "2021-05-03", 41.0, 2.0), ("v", "2021-05-03", 41.0, 2.0), False),
        (("u", "2021-05-03", None, None), ("u", "2021-05-03", None, None), True),  # nobody knows that they differ
        (("u", "2021-05-03", 41.0, 2.0), ("u", "2021-05-03", None, None), False),
        (("", "2021-05-03", 41.0, 2.0), ("", "2021-05-03", 41.0, 2.0), False),
        (("u", "", 41.0, 2.0), ("u", "", 41.0, 2.0), False),
    ],
)
def test_same_user_day_and_place(first, second, same):
    user, day, latitude, longitude = zip(first, second, strict=True)
    table = table_of(2, user_id=user, day=day).assign(
        latitude=pd.Series(latitude, dtype=float), longitude=pd.Series(longitude, dtype=float)
    )
    assert together(table) == ([{0, 1}] if same else [])


def test_a_chain_of_ten_thousand_duplicates_is_one_group():
    table = table_of(20_000, observation_id=[f"o{i // 2}" for i in range(20_000)])
    table["sha256"] = [f"x{(i + 1) // 2}" for i in range(20_000)]
    assert len(together(table)[0]) == 20_000


def split(table, edges=NONE, pictures=NONE, seed=1, previous=None, shares=SHARES):
    ties = {"observation": pairs(len(table), edges), "sha256": pairs(len(table), pictures)}
    return split_photos(table, ties, shares=shares, seed=seed, previous=previous)


def random_table(seed=0, species=20, groups=40, largest=5):
    """Species with groups of 1 to `largest` photos, and the edges that make these groups."""
    rng = np.random.default_rng(seed)
    names, edges = [], []
    for s in range(species):
        for _ in range(groups):
            size = int(rng.integers(1, largest + 1))
            edges += [(len(names), len(names) + i) for i in range(1, size)]
            names += [f"species {s:02d}"] * size
    return table_of(len(names), latin_name=names), np.array(edges).reshape(-1, 2)


def test_shares_of_the_photos_overall():
    table, edges = random_table()
    parts = pd.Series(split(table, edges).split).value_counts(normalize=True)
    for name, share in SHARES.items():
        assert parts[name] == pytest.approx(share, abs=0.01)


def test_each_species_is_divided_alike():
    table = table_of(500, latin_name=[f"species {i % 5}" for i in range(500)])
    parts = pd.crosstab(table.latin_name, split(table).split)
    assert (parts == pd.Series({"train": 60, "val": 10, "calibration": 10, "test": 20})[parts.columns]).all().all()


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 9])
def test_every_species_has_a_training_photo(groups):
    table, edges = random_table(3, groups=groups, largest=9)
    small_train = {"train": 0.1, "val": 0.2, "calibration": 0.3, "test": 0.4}  # not by being the largest share
    decided = split(table, edges, seed=3, shares=small_train)
    assert table.latin_name[decided.split == "train"].nunique() == 20


@pytest.mark.parametrize("largest", [1, 40])
def test_a_species_with_ten_groups_is_in_every_split(largest):
    table, edges = random_table(5, groups=10, largest=largest)
    plan = {"train": 0.8, "val": 0.05, "calibration": 0.05, "test": 0.1}
    decided = split(table, edges, shares=plan)
    assert (pd.crosstab(table.latin_name, decided.split)[list(SPLITS)] > 0).all().all()
    assert splitting.missing_species(table.latin_name, decided.split) == dict.fromkeys(SPLITS, 0)


def test_the_seed_decides_and_the_order_of_rows_does_not():
    table, edges = random_table()
    first = split(table, edges)
    assert (first.split == split(table, edges).split).all()
    assert (first.split != split(table, edges, seed=2).split).any()
    assert (first.split == split(table, edges[::-1]).split).all()


def test_a_grown_collection_keeps_the_places_of_its_old_groups():
    table, edges = random_table()
    rng = np.random.default_rng(4)
    old = np.sort(rng.choice(len(table), len(table) // 2, replace=False))
    number = {row: i for i, row in enumerate(old.tolist())}
    inside = np.array([(number[a], number[b]) for a, b in edges.tolist() if a in number and b in number])
    before = split(table.iloc[old].reset_index(drop=True), inside)
    previous = dict(zip(table.sample_id.iloc[old], before.split, strict=True))
    after = split(table, edges, previous=previous)
    stays = (after.split[old] == before.split) | (after.split[old] == "")
    assert stays.all()
    joined = pd.Series(after.split)[after.group >= 0].groupby(after.group[after.group >= 0]).nunique()
    assert (joined == 1).all()
    parts = pd.Series(after.split[after.split != ""]).value_counts(normalize=True)
    assert parts["train"] == pytest.approx(0.6, abs=0.02) and parts["test"] == pytest.approx(0.2, abs=0.02)


def test_a_new_photo_that_would_join_two_splits_is_left_out_and_only_that():
    # 0 and 1 are old, in train and test. 2 is near both; 3 is near 2 alone, 4 near 0 alone.
    table = table_of(5)
    edges = np.array([[0, 2], [1, 2], [2, 3], [0, 4]])
    decided = split(table, edges, previous={"s00000": "train", "s00001": "test"})
    assert decided.split[[0, 1, 2, 4]].tolist() == ["train", "test", "", "train"]
    assert decided.reason.tolist() == ["", "", BRIDGE, "", ""]
    assert decided.group[0] == decided.group[4] and decided.group[2] == -1
    assert decided.split[3] != "" and decided.group[3] not in decided.group[[0, 1]]


def test_new_photos_in_a_chain_follow_the_old_group_they_reach():
    decided = split(table_of(4), np.array([[3, 2], [2, 1], [1, 0]]), previous={"s00000": "calibration"})
    assert decided.split.tolist() == ["calibration"] * 4


def test_old_photos_that_turn_out_to_belong_together_are_parted_by_leaving_one_out():
    decided = split(table_of(3), np.array([[0, 1]]), previous={"s00000": "val", "s00001": "train", "s00002": "train"})
    assert sorted(decided.split.tolist()) == ["", "train", "val"]


def test_the_same_picture_under_two_species_is_only_trained_on():
    names = ["Viola odorata"] * 40 + ["Viola alba"] * 40
    pictures = np.array([[i, 40 + i] for i in range(10)])
    decided = split(table_of(80, latin_name=names), pictures, pictures)
    assert set(decided.split[:10]) == set(decided.split[40:50]) == {"train"}
    assert decided.conflict.sum() == 20
    rest = pd.Series(decided.split).value_counts()
    assert rest["test"] == 16 and rest["val"] == 8  # the others make up for them


def test_a_conflict_found_later_in_an_evaluated_split_is_left_out():
    table = table_of(3, latin_name=["Viola odorata", "Viola alba", "Viola alba"])
    edge = np.array([[0, 1]])
    decided = split(table, edge, edge, previous={"s00000": "test"})
    assert decided.split.tolist() == ["", "", "train"]
    assert decided.reason.tolist() == [CONFLICT, CONFLICT, ""]


def test_the_rest_of_an_evaluated_observation_stays_when_one_of_its_pictures_gets_two_names():
    table = table_of(5, latin_name=["Viola odorata"] * 4 + ["Viola alba"])
    previous = dict.fromkeys(table.sample_id[:4], "test")
    decided = split(table, [[0, 1], [1, 2], [2, 3], [0, 4]], [[0, 4]], previous=previous)
    assert decided.split.tolist() == ["", "test", "test", "test", ""]
    assert decided.conflict.tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("names", ["ABA", "BAA", "AAB", "BAB"])
def test_a_picture_near_one_with_two_names_is_in_doubt_whatever_the_order(names):
    # Rows 0 and 1 are equal pictures, row 2 is near them.
    hashes = hashes_of(table_of(3))
    hashes[1] = hashes[0]
    ties = ties_of(table_of(3), ["near-duplicate"], hashes, np.array([[0, 1], [0, 2]]))["near-duplicate"]
    expected = [0, 1, 2] if len(set(names)) > 1 else []
    assert sorted(splitting._two_names(ties, np.array(list(names)))) == expected


def test_one_observation_with_two_species_is_no_conflict():
    table = table_of(2, latin_name=["Viola odorata", "Bellis perennis"])
    assert not split(table, np.array([[0, 1]]), NONE).conflict.any()


def test_when_one_photo_is_left_out_those_it_was_tied_to_stay_together():
    # 0 and 1 are old, in train and test, and 2 is near both. 2 to 23 share a key, of which 2 comes first.
    table = table_of(24, observation_id=["a", "b"] + ["c"] * 22)
    ties = ties_of(table, ["observation", "near-duplicate"], hashes_of(table), np.array([[0, 2], [1, 2]]))
    decided = split_photos(table, ties, shares=SHARES, seed=1, previous={"s00000": "train", "s00001": "test"})
    assert decided.reason[2] == BRIDGE
    assert len(set(decided.split[3:])) == 1 and len(set(decided.group[3:])) == 1 and decided.split[3] != ""


def test_one_record_of_the_same_bytes_and_name_stays_whose_place_is_kept():
    # Three records of one picture, two of them under one name, and an observation tied by a copy alone.
    table = table_of(
        30, sha256=[*"aaabbb", *map(str, range(24))], observation_id=["o", "", "o", "p", "q", "q"] + [""] * 24
    )
    table.loc[2, "latin_name"] = "Viola alba"
    ties = ties_of(table, ["observation", "sha256"])
    first = split_photos(table, ties, shares=SHARES, seed=1)
    assert (
        first.reason.tolist()
        == ["", "the same picture as s00000", "", "", *["the same picture as s00003"] * 2] + [""] * 24
    )
    assert first.group[[1, 4, 5]].tolist() == [-1] * 3 and first.conflict[[0, 2]].all()
    assert sum(first.shares.photos.values()) == 27
    assert (first.pictures, first.two_names) == (26, 1)
    assert (first.photos_compared, first.photos_with_two_names) == (30, 3)
    later = split_photos(table, ties, shares=SHARES, seed=1, previous={"s00001": "train", "s00005": "test"})
    assert later.reason[:6].tolist() == ["the same picture as s00001", "", "", *["the same picture as s00005"] * 2, ""]
    assert later.split[5] == "test"


@pytest.mark.parametrize("place", ["sha256", "hashes"])
def test_a_placeholder_is_left_out_and_no_other_photo_changes_its_split(place):
    # 50 species, 300 observations of three; ten of ten species are answered with one picture.
    names = [f"species {i // 18:02d}" for i in range(900)]
    table = table_of(900, latin_name=names, observation_id=[f"o{i // 3}" for i in range(900)])
    hashes, bad = hashes_of(table), np.arange(0, 180, 18)
    before = split_photos(table, ties_of(table, RULES, hashes), shares=SHARES, seed=1)
    if place == "sha256":
        table.loc[bad, "sha256"] = "placeholder"
    else:
        hashes[bad] = hashes[0]
    near = np.stack([np.zeros(10, int), [*bad[1:], 899]], axis=1)  # also near a photo
    found = splitting.placeholders(table, hashes)
    assert np.flatnonzero(found).tolist() == bad.tolist()
    after = split_photos(table, ties_of(table, RULES, hashes, near), shares=SHARES, seed=1, placeholder=found)
    assert set(after.reason[bad]) == {PLACEHOLDER} and set(after.split[bad]) == {""}
    others = ~found
    assert (after.split[others] == before.split[others]).all() and set(after.reason[others]) == {""}
    assert (after.pictures, after.two_names) == (890, 0)
    assert (after.photos_compared, after.photos_with_two_names) == (890, 0)


def test_a_picture_in_ten_observations_is_a_placeholder_and_in_nine_none():
    table = table_of(40, observation_id=[f"o{i}" for i in range(40)], sha256=["x"] * 9 + ["y"] * 10 + ["z"] * 21)
    table.loc[19:, "observation_id"] = "one"  # a copy for each of its observations is none
    table.loc[30:, "observation_id"] = ""
    table.loc[[0, 20], "latin_name"] = "Viola alba"  # two names are a conflict
    assert np.flatnonzero(splitting.placeholders(table, hashes_of(table))).tolist() == list(range(9, 19))


def test_an_author_is_a_user_or_an_attribution_of_one_species():
    table = table_of(6, user_id=["u", "u", "u", "", "", ""], latin_name=["a", "a", "b", "b", "b", "a"]).assign(
        attribution=["", "", "", "(c) Ann", "(c) Ann", "(c) Ann"]
    )
    assert together(table, ["author"]) == [{0, 1}, {3, 4}]
    assert splitting.judged_by("author", table).all()
    table.loc[5, "attribution"] = ""
    assert splitting.judged_by("author", table).tolist() == [True] * 5 + [False]


def test_what_a_rule_can_judge():
    table = table_of(4, observation_id=["o", "", "o", ""], user_id=["u", "u", "", "v"], day=["d", "", "d", "d"])
    assert splitting.judged_by("observation", table).tolist() == [True, False, True, False]
    assert splitting.judged_by("session", table).tolist() == [True, False, False, True]
    assert splitting.judged_by("sha256", table).all() and splitting.judged_by("near-duplicate", table).all()


def test_all_copies_of_a_picture_that_would_join_two_splits_are_left_out():
    # One of equal hashes stands for all in the pairs: here 2 for 3, 4 and 5.
    table, hashes = table_of(6), hashes_of(table_of(6))
    hashes[3:] = hashes[2]
    near = np.array([[0, 2], [1, 2], [2, 3], [2, 4], [2, 5]])
    ties = ties_of(table, ["near-duplicate"], hashes, near)
    decided = split_photos(table, ties, shares=SHARES, seed=1, previous={"s00000": "train", "s00001": "test"})
    assert decided.split.tolist() == ["train", "test", "", "", "", ""]


def test_a_species_that_shares_its_groups_with_a_commoner_one_is_in_every_split_too():
    # 200 sessions of three photos of one species and one of another: each is dealt out by the first one's name.
    names = [name for i in range(200) for name in [f"common {i % 3}"] * 3 + [f"rare {i % 20:02d}"]]
    observations = [f"o{i}" for i in range(200) for _ in range(4)]
    table = table_of(800, latin_name=names, observation_id=observations)
    decided = split_photos(table, ties_of(table, ["observation"]), shares=SHARES, seed=1)
    assert splitting.missing_species(table.latin_name, decided.split) == dict.fromkeys(SPLITS, 0)
    parts = pd.Series(decided.split).value_counts(normalize=True)
    assert parts["train"] == pytest.approx(0.6, abs=0.07)
    assert pd.Series(decided.split).groupby(observations).nunique().max() == 1


def test_a_species_of_few_groups_has_training_photos_also_when_it_is_nowhere_the_commonest():
    names, observations = [], []
    for i in range(60):
        names += [f"common {i % 3}"] * 3 + [f"rare {i % 30:02d}"]
        observations += [f"o{i}"] * 4
    table = table_of(240, latin_name=names, observation_id=observations)
    decided = split_photos(table, ties_of(table, ["observation"]), shares=SHARES, seed=1)
    assert splitting.missing_species(table.latin_name, decided.split)["train"] == 0


def finished(**columns):
    values = {"split": ["train", "train", "val", "test"], "group_id": list("1123"), "sha256": list("wxyz")}
    return table_of(4, sample_id=list("abcd")).assign(**values | columns)


def leaks(photos, rules=RULES, near=NONE):
    return find_leaks(photos, ties_of(photos, rules, hashes_of(photos), near))


def test_find_leaks_names_what_two_splits_share():
    assert leaks(finished(), near=np.array([[0, 1]])) == []
    assert leaks(finished(group_id=list("1122"))) == [{"kind": "group_id", "value": "2", "splits": ["test", "val"]}]
    shared = {"value": "a and d", "splits": ["test", "train"]}
    assert leaks(finished(sha256=list("wxyw"))) == [{"kind": "sha256", **shared}]
    assert leaks(finished(sha256=list("wxyw")), ["observation"]) == []  # not asked for
    assert leaks(finished(observation_id=list("oxyo"))) == [{"kind": "observation", **shared}]
    session = {"user_id": list("uvwu"), "day": "2021-05-03", "latitude": 41.0, "longitude": 2.0}
    assert leaks(finished(**session))[0] == {"kind": "session", **shared}
    assert leaks(finished(sample_id=list("abca")))[0]["kind"] == "sample_id"
    assert leaks(finished(), near=np.array([[0, 1], [1, 3]])) == [
        {"kind": "near-duplicate", "value": "b and d", "splits": ["test", "train"]}
    ]


def test_what_was_split_never_leaks():
    rng = np.random.default_rng(0)
    n = 3000
    table = table_of(
        n, latin_name=[f"species {i}" for i in rng.integers(0, 9, n)],
        observation_id=[f"o{i}" if i else "" for i in rng.integers(0, 900, n)],
        user_id=[f"u{i}" for i in rng.integers(0, 60, n)], day=[f"2021-05-{d:02d}" for d in rng.integers(1, 29, n)],
        sha256=[f"x{i}" for i in rng.integers(0, 2500, n)],
    ).assign(latitude=rng.uniform(40, 42, n), longitude=rng.uniform(1, 3, n))  # fmt: skip
    near, hashes = np.sort(rng.integers(0, n, (80, 2))), hashes_of(table)
    near = near[near[:, 0] < near[:, 1]]
    previous = None
    for rows in (n // 2, n):  # the second time as a collection that has grown
        part, pairs = table.iloc[:rows], near[(near < rows).all(axis=1)]
        ties = ties_of(part, RULES, hashes[:rows], pairs)
        decided = split_photos(part, ties, shares=SHARES, seed=1, previous=previous)
        kept = decided.split != ""
        records = part[kept].assign(split=decided.split[kept], group_id=decided.group[kept]).reset_index(drop=True)
        found = (np.cumsum(kept) - 1)[pairs[kept[pairs].all(axis=1)]]
        assert leaks(records, near=found) == []
        assert all(reason.startswith(COPY) for reason in decided.reason[~kept]) or previous
        previous = dict(zip(part.sample_id, decided.split, strict=True))


def test_the_largest_group_is_named():
    table = table_of(10, latin_name=["a"] * 4 + ["b"] * 6)
    found = splitting.describe_groups(table, np.array([0, 0, 0, 1, 1, 1, 1, 2, 3, -1]))
    assert found["groups"] == 4
    assert found["largest_group"] == {
        "n": 4, "share": 4 / 9, "species": ["a", "b"], "sample_ids": ["s00003", "s00004", "s00005", "s00006"],
    }  # fmt: skip
