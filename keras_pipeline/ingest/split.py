"""Assigns whole groups to train, val, calibration or test, and keeps them there as the collection grows."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_pipeline.core.schema import SPLITS

# A species with this many groups is in every split, however its shares are rounded.
GROUPS_FOR_ALL_SPLITS = 10
# Same place: at most half a cell apart (0.01 degrees, about a kilometre). A second grid, shifted by half, covers seams.
CELL = 0.02  # degrees
PICTURES = ("sha256", "near-duplicate", "same_photo")  # rules for the same picture
NONE = np.empty((0, 2), np.int64)
BRIDGE = "would join groups of different splits"
CONFLICT = "the same picture under two species, in a split that is evaluated"


@dataclasses.dataclass(frozen=True)
class Split:
    """The result of `split_photos`: a value for each row of its table."""

    group: np.ndarray  # int64, number of the group; -1: left out
    split: np.ndarray  # str, one of SPLITS; "": left out
    place: np.ndarray  # str, as split; for a photo that is left out, its previous split, to which it may return
    reason: np.ndarray  # str, why the photo is left out
    conflict: np.ndarray  # bool, a picture of the group has two names


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
        table: one row per photo (index 0 … n-1) with observation_id, user_id, day, latitude, longitude, sha256.
        hashes, near: see `same_picture`; needed for `near-duplicate`.
    """
    rules = {
        "observation": lambda: same_key(table.observation_id),
        "session": lambda: same_session(table),
        "sha256": lambda: same_key(table.sha256),
        "near-duplicate": lambda: same_picture(np.asarray(hashes), near),
    }
    return {rule: rules[rule]() for rule in group_by}


def split_photos(
    table: pd.DataFrame,
    ties: dict[str, Ties],
    *,
    shares: dict[str, float],
    seed: int,
    previous: dict[str, str] | None = None,
) -> Split:
    """Assign every photo to a group and a split, or leave it out.

    Args:
        table: one row per photo with sample_id and latin_name, ordered by sample_id.
        ties: from `ties_of`.
        shares: {split: share of the photos}, summing to 1.
        previous: {sample_id: split} of an earlier split, whose groups keep their places.
    """
    names = table.latin_name.to_numpy()
    codes = {split: code for code, split in enumerate(SPLITS)}
    pinned = table.sample_id.map(previous or {}).map(codes).fillna(-1).to_numpy(np.int64)
    group, left_out = groups_of(len(table), merged(ties.values()), pinned)
    reason = np.where(left_out, BRIDGE, "").astype(object)

    differing = _two_names(merged(ties[rule] for rule in PICTURES if rule in ties), names)
    conflict = np.isin(group, group[differing]) & ~left_out  # its whole group is used only for training …
    judged = np.isin(group, group[conflict & (pinned > 0)])  # … if it is not pinned elsewhere: 0 is train
    out = np.intersect1d(differing, np.flatnonzero(judged & ~left_out))
    conflict &= ~judged
    conflict[out], group[out], reason[out] = True, -1, CONFLICT

    kept = np.flatnonzero(group >= 0)
    members = pd.DataFrame({"group": group[kept], "name": names[kept], "pin": pinned[kept], "barred": conflict[kept]})
    chosen = assign_splits(members, table.sample_id.to_numpy()[kept], shares=shares, seed=seed)
    split = np.full(len(table), "", object)
    split[kept] = [chosen[g] for g in group[kept]]
    before = np.array(["", *SPLITS], object)[pinned + 1]
    return Split(group, split, np.where(split == "", before, split), reason, conflict)


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


def assign_splits(
    members: pd.DataFrame, sample_ids: np.ndarray, *, shares: dict[str, float], seed: int
) -> dict[int, str]:
    """Assign groups to splits, stratified by species.

    Within each species, groups are taken in a seeded order. Each goes to the split that is furthest below its share of
    photos; the first goes to train. A group counts as its most frequent species. A group of several species (such as a
    session) is thus assigned by only one of them, so groups are moved afterwards until every species has training
    photos, and with GROUPS_FOR_ALL_SPLITS groups that may be evaluated also a photo in every split.

    Args:
        members: one row per photo: group, name, pin (code of the split it is already in, or -1), barred (train only).
        sample_ids: of the same rows; a group's smallest one decides its place in the order.
    """
    groups = pd.DataFrame({"group": members.group, "id": sample_ids}).groupby("group").agg(id=("id", "min"))
    groups["n"] = members.groupby("group").size()
    groups["pin"] = members.groupby("group").pin.max()
    groups["barred"] = members.groupby("group").barred.any()
    groups["order"] = [_order(sample_id, seed) for sample_id in groups.id]
    tallies = members.groupby(["group", "name"]).size().reset_index(name="n")
    tallies = tallies.sort_values(["group", "n", "name"], ascending=[True, False, True])
    groups["name"] = tallies.drop_duplicates("group").set_index("group").name
    assignment: dict[int, str] = {}
    for _, species in groups.groupby("name", sort=True):
        assignment |= _assign_species(species, shares)
    _top_up(assignment, groups, tallies)
    return assignment


def _assign_species(species: pd.DataFrame, shares: dict[str, float]) -> dict[int, str]:
    filled, assignment = dict.fromkeys(SPLITS, 0), {}

    def put(row: Any, split: str) -> None:  # of itertuples
        assignment[row.Index] = split
        filled[split] += row.n

    fresh = sorted(species.itertuples(), key=lambda row: row.order)
    for row in fresh:
        if row.pin >= 0 or row.barred:  # first, so that the others balance them
            put(row, SPLITS[max(row.pin, 0)])
    free = [row for row in fresh if row.Index not in assignment]
    complete = len(species) >= GROUPS_FOR_ALL_SPLITS
    for place, row in enumerate(free):
        empty = [split for split in SPLITS if not filled[split]]
        if empty and (not filled["train"] or (complete and len(free) - place <= len(empty))):
            put(row, empty[0])  # train is the first of SPLITS
        else:
            total = sum(filled.values()) + row.n
            put(row, max(SPLITS, key=lambda split: shares[split] * total - filled[split]))
    return assignment


def _top_up(assignment: dict[int, str], groups: pd.DataFrame, tallies: pd.DataFrame) -> None:
    """Move free groups to splits in which one of their species has no photo. Changes `assignment`.

    Args:
        groups: by group: n, pin, barred, order.
        tallies: group, name, n.
    """
    names_of = tallies.groupby("group").name.agg(list)
    groups_of = tallies.groupby("name").group.agg(list).sort_index()
    free = groups[groups.pin < 0].sort_values(["n", "order"])  # smallest first, so that shares change least
    rank = {group: place for place, group in enumerate(free.index)}
    in_split = collections.Counter((name, assignment[g]) for name, found in groups_of.items() for g in found)

    def move(name: str, split: str, may_leave: Callable[[int], bool]) -> None:
        movable = [g for g in groups_of[name] if g in rank and not (groups.barred[g] and split != "train")]
        for group in sorted(movable, key=rank.__getitem__):
            if may_leave(group):
                in_split.subtract((other, assignment[group]) for other in names_of[group])
                in_split.update((other, split) for other in names_of[group])
                assignment[group] = split
                return

    def leaves_some(group: int) -> bool:
        return all(in_split[other, assignment[group]] > 1 for other in names_of[group])

    for name in groups_of.index:
        if not in_split[name, "train"]:
            move(name, "train", lambda group: True)
    for name, found in groups_of.items():
        complete = sum(not groups.barred[g] for g in found) >= GROUPS_FOR_ALL_SPLITS
        for split in SPLITS[1:] if complete else ():
            if not in_split[name, split]:
                move(name, split, leaves_some)


def _order(sample_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()


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
