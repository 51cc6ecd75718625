"""Assigns whole groups to train, val, calibration or test, and keeps them there as the collection grows."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_pipeline.core.dataset import SPLITS
from keras_pipeline.ingest.shares import Shares, assign_splits

# Same place: at most half a cell apart (0.01 degrees, about a kilometre). A second grid, shifted by half, covers seams.
CELL = 0.02  # degrees
PICTURES = ("sha256", "near-duplicate", "same_photo")  # rules for the same picture
NONE = np.empty((0, 2), np.int64)
BRIDGE = "would join groups of different splits"
CONFLICT = "the same picture under two species, in a split that is evaluated"
# One picture under so many names, or in so many observations, is no photo of a plant, but what a host sends instead.
PLACEHOLDER_NAMES, PLACEHOLDER_OBSERVATIONS = 3, 10
PLACEHOLDER = (
    f"a placeholder: one picture under {PLACEHOLDER_NAMES} names or in {PLACEHOLDER_OBSERVATIONS} observations, or more"
)
COPY = "the same picture as "  # and the sample id of the record that stays


@dataclasses.dataclass(frozen=True)
class Split:
    """The result of `split_photos`: a value for each row of its table."""

    group: np.ndarray  # int64, number of the group; -1: left out
    split: np.ndarray  # str, one of SPLITS; "": left out
    place: np.ndarray  # str, as split; for a photo that is left out, its previous split, to which it may return
    reason: np.ndarray  # str, why the photo is left out
    conflict: np.ndarray  # bool, a picture of the group has two names
    shares: Shares  # over the whole, as are the following
    pictures: int  # different ones, without placeholders; as far as the rules for pictures tell
    two_names: int  # pictures with two names
    photos_compared: int  # all but placeholders
    photos_with_two_names: int  # of them, those whose picture has two names

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The values by row, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}


@dataclasses.dataclass(frozen=True)
class Ties:
    """Photos that must stay together: those that share a key, and those whose keys are tied to each other.

    Keys, not pairs of photos: if one photo of an observation is left out, the others must still stay together.
    """

    members: np.ndarray  # int64 [m, 2], (row, key)
    pairs: np.ndarray  # int64 [k, 2], (key, key)

    @property
    def keys(self) -> int:
        """One more than the largest key."""
        return int(max(self.members[:, 1].max(initial=-1), self.pairs.max(initial=-1))) + 1

    @property
    def links(self) -> int:
        """The number of pairs of photos that it takes to connect all of them."""
        return len(self.members) - len(np.unique(self.members[:, 1])) + len(self.pairs)

    def without(self, out: np.ndarray) -> Ties:
        """Return the ties of the other photos, without keys that only photos in `out` (bool [n]) had."""
        members = self.members[~out[self.members[:, 0]]]
        return Ties(members, self.pairs[np.isin(self.pairs, members[:, 1]).all(axis=1)])


def merged(ties: Iterable[Ties]) -> Ties:
    """Combine ties, with separate keys for each."""
    members, pairs, offset = [NONE], [NONE], 0
    for each in ties:
        members.append(each.members + [0, offset])
        pairs.append(each.pairs + offset)
        offset += each.keys
    return Ties(np.concatenate(members), np.concatenate(pairs))


def same_key(*columns: pd.Series) -> Ties:
    """Tie rows that agree in all columns, except rows with an empty first value."""
    frame = pd.concat(columns, axis=1, ignore_index=True)
    frame = frame[(frame[0] != "") & frame[0].notna()]
    frame = frame[frame.duplicated(keep=False)]
    if frame.empty:
        return Ties(NONE, NONE)
    codes = frame.groupby(list(frame.columns), sort=False, dropna=False).ngroup().to_numpy()
    return Ties(np.stack([frame.index.to_numpy(np.int64), codes.astype(np.int64)], axis=1), NONE)


def same_session(table: pd.DataFrame) -> Ties:
    """Tie photos of one user on one day at one place; those without coordinates share an unknown place."""
    known = table[(table.user_id != "") & (table.day != "")]
    placed = known.latitude.notna() & known.longitude.notna()
    lost, known = known[~placed], known[placed]
    ties = [same_key(lost.user_id, lost.day)]
    for shift in itertools.product((0.0, 0.5), repeat=2):
        cells = [np.floor(known[axis] / CELL + by) for axis, by in zip(("latitude", "longitude"), shift, strict=True)]
        ties.append(same_key(known.user_id, known.day, *cells))
    return merged(ties)


def same_author(table: pd.DataFrame) -> Ties:
    """Tie photos of one species that have one user or one attribution."""
    return merged(same_key(by, table.latin_name) for by in (table.user_id, table.attribution))


def same_picture(hashes: np.ndarray, near: np.ndarray) -> Ties:
    """Tie near-duplicates; the key of a photo is its hash.

    Args:
        hashes: uint64 [n, 5], see `duplicates`.
        near: int64 [m, 2], rows that are near-duplicates; the first of equal rows may represent all.
    """
    _, codes = np.unique(hashes, axis=0, return_inverse=True)
    involved = np.flatnonzero(np.isin(codes, codes[near]))
    pairs = codes[near]
    return Ties(np.stack([involved, codes[involved]], axis=1), pairs[pairs[:, 0] != pairs[:, 1]])


def ties_of(
    table: pd.DataFrame, group_by: Sequence[str], hashes: np.ndarray | None = None, near: np.ndarray = NONE
) -> dict[str, Ties]:
    """Return the ties of each rule in `phase0.split.group_by`.

    Args:
        table: one row per photo (index 0 … n-1) with observation_id, user_id, day, latitude, longitude, sha256; for
            `author` also latin_name and attribution.
        hashes, near: see `same_picture`; needed for `near-duplicate`.
    """
    rules = {
        "observation": lambda: same_key(table.observation_id),
        "session": lambda: same_session(table),
        "sha256": lambda: same_key(table.sha256),
        "near-duplicate": lambda: same_picture(np.asarray(hashes), near),
        "author": lambda: same_author(table),
    }
    return {rule: rules[rule]() for rule in group_by}


def judged_by(rule: str, table: pd.DataFrame) -> np.ndarray:
    """Return whether a photo has what a rule in `phase0.split.group_by` compares: bool [n]; others it can't judge."""
    needs = {
        "observation": lambda: table.observation_id != "",
        "session": lambda: (table.user_id != "") & (table.day != ""),
        "author": lambda: (table.user_id != "") | (table.attribution != ""),
    }
    return needs[rule]().to_numpy() if rule in needs else np.ones(len(table), bool)


def placeholders(table: pd.DataFrame, hashes: np.ndarray) -> np.ndarray:
    """Return which photos show a picture that a host sends instead of a photo: bool [n].

    Args:
        table: one row per photo (index 0 … n-1) with sha256, latin_name, observation_id.
        hashes: uint64 [n, 5], see `duplicates`.
    """
    pictures = (pd.factorize(table.sha256)[0], np.unique(hashes, axis=0, return_inverse=True)[1])
    found = np.zeros(len(table), bool)
    for picture in pictures:
        for column, most in (("latin_name", PLACEHOLDER_NAMES), ("observation_id", PLACEHOLDER_OBSERVATIONS)):
            pairs = pd.DataFrame({"picture": picture, "value": table[column]})
            pairs = pairs[pairs.picture.duplicated(keep=False) & (pairs.value != "")].drop_duplicates()
            several = pairs.picture.value_counts()
            found |= np.isin(picture, several.index[several >= most])
    return found


def split_photos(
    table: pd.DataFrame,
    ties: dict[str, Ties],
    *,
    shares: dict[str, float],
    seed: int,
    previous: dict[str, str] | None = None,
    placeholder: np.ndarray | None = None,
) -> Split:
    """Assign every photo to a group and a split, or leave it out.

    Args:
        table: one row per photo with sample_id, latin_name and sha256, ordered by sample_id.
        ties: from `ties_of`.
        shares: {split: share of the photos}, summing to 1.
        previous: {sample_id: split} of an earlier split, whose groups keep their places.
        placeholder: bool [n], from `placeholders`: photos that are left out.
    """
    names = table.latin_name.to_numpy()
    codes = {split: code for code, split in enumerate(SPLITS)}
    pinned = table.sample_id.map(previous or {}).map(codes).fillna(-1).to_numpy(np.int64)
    absent = np.zeros(len(table), bool) if placeholder is None else placeholder
    ties = {rule: each.without(absent) if rule in PICTURES else each for rule, each in ties.items()}
    group, left_out = groups_of(len(table), merged(ties.values()), np.where(absent, -1, pinned))
    # A placeholder still counts where its group gets its place, so that it changes no other photo's.
    of_absent = np.where(absent, group, -1)
    reason = np.where(absent, PLACEHOLDER, np.where(left_out, BRIDGE, "")).astype(object)
    group[absent] = -1

    same = merged(ties[rule] for rule in PICTURES if rule in ties)
    differing = _two_names(same, names)
    conflict = np.isin(group, group[differing]) & (group >= 0)  # its whole group is used only for training …
    judged = np.isin(group, group[conflict & (pinned > 0)])  # … if it is not pinned elsewhere: 0 is train
    out = np.intersect1d(differing, np.flatnonzero(judged & (group >= 0)))
    conflict &= ~judged
    conflict[out], group[out], reason[out] = True, -1, CONFLICT

    copies, originals = _copies(table, np.flatnonzero(group >= 0), pinned)
    group[copies], reason[copies] = -1, COPY + table.sample_id.to_numpy(object)[originals]

    counted = np.where(np.isin(of_absent, group[group >= 0]), of_absent, group)
    rows = np.flatnonzero(counted >= 0)
    members = pd.DataFrame({"group": counted, "name": names, "pin": pinned, "barred": conflict, "absent": absent})
    chosen, reached = assign_splits(members.iloc[rows], table.sample_id.to_numpy()[rows], shares=shares, seed=seed)
    split = np.full(len(table), "", object)
    split[rows] = np.where(absent[rows], "", np.array(SPLITS, object)[chosen])
    before = np.array(["", *SPLITS], object)[pinned + 1]
    picture, _ = groups_of(len(table), same, np.full(len(table), -1))
    pictures = len(np.unique(picture[~absent])), len(np.unique(picture[differing]))
    photos = int((~absent).sum()), len(np.unique(differing))
    return Split(group, split, np.where(split == "", before, split), reason, conflict, reached, *pictures, *photos)


def _copies(table: pd.DataFrame, rows: np.ndarray, pinned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose bytes and name another row has too, and that row: int64 [k] each.

    The first row that has a place already stays, else the first: so it does as the collection grows.
    """
    rows = rows[np.argsort(pinned[rows] < 0, kind="stable")]
    keys = table[["sha256", "latin_name"]].iloc[rows].reset_index(drop=True)
    number = keys.groupby(["sha256", "latin_name"], sort=False).ngroup().to_numpy()  # in order of the first row
    _, first = np.unique(number, return_index=True)
    copies = np.setdiff1d(np.arange(len(rows)), first)
    return rows[copies], rows[first[number[copies]]]


def _two_names(ties: Ties, names: np.ndarray) -> np.ndarray:
    """Return rows of all pictures with several names, directly or through ties: int64 [k]."""
    rows, keys = ties.members.T
    name_of = pd.Series(names[rows], index=keys)
    several = name_of.groupby(level=0).nunique() > 1
    first = name_of[~name_of.index.duplicated()]
    left, right = ties.pairs.T
    differ = first.loc[left].to_numpy() != first.loc[right].to_numpy()
    differ |= several.loc[left].to_numpy() | several.loc[right].to_numpy()
    return rows[np.isin(keys, np.concatenate([several.index[several], left[differ], right[differ]]))]


def groups_of(n: int, ties: Ties, pinned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return groups of tied photos (int64 [n]), and which photos are left out (bool [n], group -1).

    A photo is left out if it would join photos that are pinned to different splits, because these can no longer move.

    Args:
        pinned: int64 [n], the code of the split that a photo is already in, or -1.
    """
    size = n + ties.keys  # keys are nodes of the graph, after the photos
    edges = np.concatenate([ties.members + [0, n], ties.pairs + n])
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(size, size))
    _, found = connected_components(graph, directed=False)
    group, left_out = found[:n].astype(np.int64), np.zeros(n, bool)
    old = np.flatnonzero(pinned >= 0)
    spans = pd.Series(pinned[old]).groupby(group[old]).nunique()
    torn = spans.index[spans > 1].to_numpy()
    if len(torn):
        rows = np.flatnonzero(np.isin(group, torn))
        # Pinned photos first: later ones give way.
        order = rows[np.argsort(pinned[rows] < 0, kind="stable")]
        inside = Ties(
            ties.members[np.isin(group[ties.members[:, 0]], torn)],
            ties.pairs[np.isin(found[n + ties.pairs[:, 0]], torn)],
        )
        for row, root in _join_in_order(order.tolist(), inside, pinned).items():
            group[row], left_out[row] = (-1, True) if root is None else (size + root, False)
    return group, left_out


def _join_in_order(order: list[int], ties: Ties, pinned: np.ndarray) -> dict[int, int | None]:
    """Union-find, photo by photo: return {row: root, or None if the row would join two splits}."""
    keys_of, near = collections.defaultdict(list), collections.defaultdict(list)
    for row, key in ties.members.tolist():
        keys_of[row].append(key)
    for a, b in ties.pairs.tolist():
        near[a].append(b)
        near[b].append(a)
    parent: dict[int, int] = {}
    pin: dict[int, int] = {}  # of the roots
    holders: dict[int, list[int]] = collections.defaultdict(list)  # of a key: a photo of each group that has it
    left_out = set()

    def find(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row in order:
        tied = {other for key in keys_of[row] for other in (key, *near[key])}
        roots = {find(holder) for key in tied for holder in holders[key]}
        pins = ({pin[root] for root in roots} | {int(pinned[row])}) - {-1}
        if len(pins) > 1:
            left_out.add(row)
            continue
        parent[row], pin[row] = row, pins.pop() if pins else -1
        for root in roots:
            parent[root] = row
        for key in keys_of[row]:
            holders[key] = [row]  # all its holders are now in this group
    return {row: None if row in left_out else find(row) for row in order}


def find_leaks(photos: pd.DataFrame, ties: dict[str, Ties]) -> list[dict]:
    """Find what two splits share: a sample id, a group, or photos tied by a rule; [] means no leak.

    Args:
        photos: one row (0 … n-1) per finished record with split, sample_id, group_id.
        ties: from `ties_of`, for these rows.
    """
    leaks = []
    for kind in ("group_id", "sample_id"):
        spans = photos.groupby(kind).split.agg(lambda splits: sorted(set(splits)))
        leaks += [{"kind": kind, "value": v, "splits": s} for v, s in spans[spans.map(len) > 1].items()]
    split, sample = photos.split.to_numpy(), photos.sample_id.to_numpy()
    for rule, each in ties.items():
        rows, keys = each.members.T
        frame = pd.DataFrame({"row": rows, "key": keys, "split": split[rows]}).drop_duplicates(["key", "split"])
        first = frame.drop_duplicates("key").set_index("key").row
        second = frame[frame.duplicated("key")].set_index("key").row  # of keys in several splits
        torn = [
            np.stack([first.loc[second.index], second], axis=1),
            first.loc[each.pairs.ravel()].to_numpy().reshape(-1, 2),
        ]
        for a, b in np.concatenate(torn).tolist():
            if split[a] != split[b]:
                value, splits = f"{sample[a]} and {sample[b]}", sorted((split[a], split[b]))
                leaks.append({"kind": rule, "value": value, "splits": splits})
    return leaks


def describe_groups(table: pd.DataFrame, group: np.ndarray) -> dict:
    """Return the number of groups and the largest: {groups, largest_group: {n, share, species, sample_ids (five)}}."""
    sizes = pd.Series(group[group >= 0]).value_counts()
    largest = table[group == sizes.index[0]]
    return {
        "groups": len(sizes),
        "largest_group": {
            "n": len(largest),
            "share": len(largest) / int(sizes.sum()),
            "species": sorted(set(largest.latin_name))[:5],
            "sample_ids": largest.sample_id.head(5).tolist(),
        },
    }


def missing_species(names: pd.Series, split: np.ndarray) -> dict[str, int]:
    """Return for each split the number of species without a photo in it."""
    total = names[split != ""].nunique()
    return {name: int(total - names[split == name].nunique()) for name in SPLITS}
