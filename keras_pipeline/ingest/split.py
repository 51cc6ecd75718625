"""Groups go whole to train, val, calibration or test, and stay there when the collection grows."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_pipeline.core.schema import SPLITS

# A species with that many groups is in every split, whatever the rounding of its shares.
GROUPS_FOR_ALL_SPLITS = 10
# Same place: at most half a cell apart, 0.01 degrees, about a kilometre. Cells shifted by half leave no seam.
CELL = 0.02  # degrees
BRIDGE = "would join groups of different splits"
CONFLICT = "the same picture under two species, in a split that is evaluated"


@dataclasses.dataclass(frozen=True)
class Split:
    """What `split_photos` decided, a value for each row of its table."""

    group: np.ndarray  # int64, number of the group; -1 left out
    split: np.ndarray  # str, one of SPLITS; "" left out
    reason: np.ndarray  # str, why it was left out
    conflict: np.ndarray  # bool, one picture of the group has two names


def same_key(*columns: pd.Series) -> np.ndarray:
    """int64 [m, 2]: edges between rows that agree in all columns; rows with an empty first value have none."""
    frame = pd.concat(columns, axis=1, ignore_index=True)
    frame = frame[(frame[0] != "") & frame[0].notna()]
    if frame.empty:
        return np.empty((0, 2), np.int64)
    codes = frame.groupby(list(frame.columns), sort=False, dropna=False).ngroup().to_numpy()
    _, first = np.unique(codes, return_index=True)
    edges = np.stack([frame.index.to_numpy()[first[codes]], frame.index.to_numpy()], axis=1)
    return edges[edges[:, 0] != edges[:, 1]]


def same_session(table: pd.DataFrame) -> np.ndarray:
    """Edges between photos of one user on one day at one place; photos without coordinates share the unknown place."""
    known = table[(table.user_id != "") & (table.day != "")]
    placed = known.latitude.notna() & known.longitude.notna()
    lost, known = known[~placed], known[placed]
    edges = [same_key(lost.user_id, lost.day)]
    for shift in itertools.product((0.0, 0.5), repeat=2):
        cells = [np.floor(known[axis] / CELL + by) for axis, by in zip(("latitude", "longitude"), shift, strict=True)]
        edges.append(same_key(known.user_id, known.day, *cells))
    return np.concatenate(edges)


def group_edges(table: pd.DataFrame, near: np.ndarray, group_by: Sequence[str]) -> dict[str, np.ndarray]:
    """Rule of `phase0.split.group_by` -> the edges that it makes.

    Args:
        table: a row a photo (index 0 … n-1) with observation_id, user_id, day, latitude, longitude, sha256.
        near: int64 [m, 2], pairs of near-duplicates.
    """
    rules = {
        "observation": lambda: same_key(table.observation_id),
        "session": lambda: same_session(table),
        "sha256": lambda: same_key(table.sha256),
        "near-duplicate": lambda: near,
    }
    return {rule: rules[rule]() for rule in group_by}


def split_photos(
    table: pd.DataFrame,
    edges: np.ndarray,
    pictures: np.ndarray,
    *,
    shares: dict[str, float],
    seed: int,
    previous: dict[str, str] | None = None,
) -> Split:
    """The whole decision.

    Args:
        table: a row a photo with sample_id and latin_name, ordered by sample_id.
        edges: int64 [m, 2], what must stay together.
        pictures: int64 [k, 2], those of `edges` that join the same picture.
        shares: {split: share of the photos}, summing to 1.
        previous: {sample_id: split} of an earlier split; its groups keep their place.
    """
    names = table.latin_name.to_numpy()
    codes = {split: code for code, split in enumerate(SPLITS)}
    pinned = table.sample_id.map(previous or {}).map(codes).fillna(-1).to_numpy(np.int64)
    group, left_out = groups_of(len(table), edges, pinned)
    reason = np.where(left_out, BRIDGE, "").astype(object)

    differing = pictures[names[pictures[:, 0]] != names[pictures[:, 1]]]
    conflict = np.isin(group, group[differing.ravel()]) & ~left_out
    evaluated = conflict & np.isin(group, group[conflict & (pinned > 0)])  # 0 is train
    group[evaluated], reason[evaluated] = -1, CONFLICT

    kept = np.flatnonzero(group >= 0)
    members = pd.DataFrame({"group": group[kept], "name": names[kept], "pin": pinned[kept], "barred": conflict[kept]})
    chosen = assign_splits(members, table.sample_id.to_numpy()[kept], shares=shares, seed=seed)
    split = np.full(len(table), "", object)
    split[kept] = [chosen[g] for g in group[kept]]
    return Split(group, split, reason, conflict)


def groups_of(n: int, edges: np.ndarray, pinned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected components (int64 [n]), and which photos had to be left out of them (bool [n], component -1).

    A photo is left out when it would join photos that are pinned to different splits: they can't move any more.

    Args:
        pinned: int64 [n], the code of the split that a photo is in already, or -1.
    """
    ones = np.ones(len(edges), bool)
    _, group = connected_components(coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(n, n)), directed=False)
    group, left_out = group.astype(np.int64), np.zeros(n, bool)
    old = np.flatnonzero(pinned >= 0)
    spans = pd.Series(pinned[old]).groupby(group[old]).nunique()
    torn = spans.index[spans > 1].to_numpy()
    if len(torn):
        inside = edges[np.isin(group[edges[:, 0]], torn)]
        rows = np.flatnonzero(np.isin(group, torn))
        # First those that are pinned: who came later gives way.
        order = rows[np.argsort(pinned[rows] < 0, kind="stable")]
        for row, root in _join_in_order(order.tolist(), inside, pinned).items():
            group[row], left_out[row] = (-1, True) if root is None else (n + root, False)
    return group, left_out


def _join_in_order(order: list[int], edges: np.ndarray, pinned: np.ndarray) -> dict[int, int | None]:
    """Union-find, photo by photo; {row: root, or None where the row would have joined two splits}."""
    neighbours: dict[int, list[int]] = {row: [] for row in order}
    for a, b in edges.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    parent: dict[int, int] = {}
    pin: dict[int, int] = {}
    left_out = set()

    def find(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row in order:
        roots = {find(other) for other in neighbours[row] if other in parent}
        pins = ({pin[root] for root in roots} | {int(pinned[row])}) - {-1}
        if len(pins) > 1:
            left_out.add(row)
            continue
        parent[row], pin[row] = row, pins.pop() if pins else -1
        for root in roots:
            parent[root] = row
    return {row: None if row in left_out else find(row) for row in order}


def assign_splits(
    members: pd.DataFrame, sample_ids: np.ndarray, *, shares: dict[str, float], seed: int
) -> dict[int, str]:
    """Group -> split, stratified by species.

    Within each species the groups come in a seeded order and each goes to the split that is furthest below its share
    of photos; the first goes to train, so that no species is without training photos, and with GROUPS_FOR_ALL_SPLITS
    groups or more the last ones fill what is still empty. A group counts for its commonest name.

    Args:
        members: a row a photo: group, name, pin (code of the split it is in already, or -1), barred (train only).
        sample_ids: of the same rows; a group is known by its smallest one, so that its place in the order is its own.
    """
    groups = pd.DataFrame({"group": members.group, "id": sample_ids}).groupby("group").agg(id=("id", "min"))
    groups["n"] = members.groupby("group").size()
    groups["pin"] = members.groupby("group").pin.max()
    groups["barred"] = members.groupby("group").barred.any()
    tallies = members.groupby(["group", "name"]).size().reset_index(name="n")
    tallies = tallies.sort_values(["group", "n", "name"], ascending=[True, False, True])
    groups["name"] = tallies.drop_duplicates("group").set_index("group").name
    assignment: dict[int, str] = {}
    for _, species in groups.groupby("name", sort=True):
        assignment |= _assign_species(species, shares, seed)
    return assignment


def _assign_species(species: pd.DataFrame, shares: dict[str, float], seed: int) -> dict[int, str]:
    filled, assignment = dict.fromkeys(SPLITS, 0), {}

    def put(row, split: str) -> None:
        assignment[row.Index] = split
        filled[split] += row.n

    fresh = sorted(species.itertuples(), key=lambda row: _order(row.id, seed))
    for row in fresh:
        if row.pin >= 0 or row.barred:  # first, so that the others make up for them
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


def _order(sample_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()


def find_leaks(photos: pd.DataFrame, near: np.ndarray) -> list[dict]:
    """What two splits share: sample ids, groups, downloaded bytes, or one picture; [] means no leak.

    Args:
        photos: a row a finished record with split, sample_id, group_id, sha256.
        near: int64 [m, 2], near-duplicates found among these rows.
    """
    leaks = []
    for kind in ("group_id", "sample_id", "sha256"):
        spans = photos.groupby(kind).split.agg(lambda splits: sorted(set(splits)))
        leaks += [{"kind": kind, "value": v, "splits": s} for v, s in spans[spans.map(len) > 1].items()]
    split, sample = photos.split.to_numpy(), photos.sample_id.to_numpy()
    for a, b in near[split[near[:, 0]] != split[near[:, 1]]]:
        value, splits = f"{sample[a]} and {sample[b]}", sorted((split[a], split[b]))
        leaks.append({"kind": "near-duplicate", "value": value, "splits": splits})
    return leaks


def describe_groups(table: pd.DataFrame, group: np.ndarray) -> dict:
    """Number of groups, and the largest: {groups, largest_group: {n, share, species, sample_ids (five of them)}}."""
    sizes = pd.Series(group[group >= 0]).value_counts()
    if sizes.empty:
        return {"groups": 0, "largest_group": None}
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
    """Split -> species that have no photo in it."""
    total = names[split != ""].nunique()
    return {name: int(total - names[split == name].nunique()) for name in SPLITS}
