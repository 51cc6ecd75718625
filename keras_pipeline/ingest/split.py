"""Groups go whole to train, val, calibration or test, and stay there when the collection grows."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_pipeline.core.schema import SPLITS

# A species with that many groups is in every split, whatever the rounding of its shares.
GROUPS_FOR_ALL_SPLITS = 10
# Same place: at most half a cell apart, 0.01 degrees, about a kilometre. Cells shifted by half leave no seam.
CELL = 0.02  # degrees
PICTURES = ("sha256", "near-duplicate")  # rules that tie the same picture
NONE = np.empty((0, 2), np.int64)
BRIDGE = "would join groups of different splits"
CONFLICT = "the same picture under two species, in a split that is evaluated"


@dataclasses.dataclass(frozen=True)
class Split:
    """What `split_photos` decided, a value for each row of its table."""

    group: np.ndarray  # int64, number of the group; -1 left out
    split: np.ndarray  # str, one of SPLITS; "" left out
    place: np.ndarray  # str, the same, but of a photo left out the split it was in before, to which it may come back
    reason: np.ndarray  # str, why it was left out
    conflict: np.ndarray  # bool, one picture of the group has two names


@dataclasses.dataclass(frozen=True)
class Ties:
    """What must stay together: photos that share a key, and photos whose keys are tied to one another.

    Keys, not pairs of photos: when one photo of an observation is left out, the others must still be held together.
    """

    members: np.ndarray  # int64 [m, 2], (row, key)
    pairs: np.ndarray  # int64 [k, 2], (key, key)

    @property
    def keys(self) -> int:
        """One more than the largest key."""
        return int(max(self.members[:, 1].max(initial=-1), self.pairs.max(initial=-1))) + 1

    @property
    def links(self) -> int:
        """As many pairs of photos as it takes to tie all this together."""
        return len(self.members) - len(np.unique(self.members[:, 1])) + len(self.pairs)


def merged(ties: Iterable[Ties]) -> Ties:
    """All of these; no key of one is a key of another."""
    members, pairs, offset = [NONE], [NONE], 0
    for each in ties:
        members.append(each.members + [0, offset])
        pairs.append(each.pairs + offset)
        offset += each.keys
    return Ties(np.concatenate(members), np.concatenate(pairs))


def same_key(*columns: pd.Series) -> Ties:
    """Ties of rows that agree in all columns; rows with an empty first value have none."""
    frame = pd.concat(columns, axis=1, ignore_index=True)
    frame = frame[(frame[0] != "") & frame[0].notna()]
    frame = frame[frame.duplicated(keep=False)]
    if frame.empty:
        return Ties(NONE, NONE)
    codes = frame.groupby(list(frame.columns), sort=False, dropna=False).ngroup().to_numpy()
    return Ties(np.stack([frame.index.to_numpy(np.int64), codes.astype(np.int64)], axis=1), NONE)


def same_session(table: pd.DataFrame) -> Ties:
    """Ties of photos of one user on one day at one place; those without coordinates share the unknown place."""
    known = table[(table.user_id != "") & (table.day != "")]
    placed = known.latitude.notna() & known.longitude.notna()
    lost, known = known[~placed], known[placed]
    ties = [same_key(lost.user_id, lost.day)]
    for shift in itertools.product((0.0, 0.5), repeat=2):
        cells = [np.floor(known[axis] / CELL + by) for axis, by in zip(("latitude", "longitude"), shift, strict=True)]
        ties.append(same_key(known.user_id, known.day, *cells))
    return merged(ties)


def same_picture(hashes: np.ndarray, near: np.ndarray) -> Ties:
    """Ties of near-duplicates; the key of a photo is its hash.

    Args:
        hashes: uint64 [n, 5], see `duplicates`.
        near: int64 [m, 2], rows that are near-duplicates; of equal rows the first may stand for all.
    """
    _, codes = np.unique(hashes, axis=0, return_inverse=True)
    involved = np.flatnonzero(np.isin(codes, codes[near]))
    pairs = codes[near]
    return Ties(np.stack([involved, codes[involved]], axis=1), pairs[pairs[:, 0] != pairs[:, 1]])


def ties_of(
    table: pd.DataFrame, group_by: Sequence[str], hashes: np.ndarray | None = None, near: np.ndarray = NONE
) -> dict[str, Ties]:
    """Rule of `phase0.split.group_by` -> what it ties together.

    Args:
        table: a row a photo (index 0 … n-1) with observation_id, user_id, day, latitude, longitude, sha256.
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
    """The whole decision.

    Args:
        table: a row a photo with sample_id and latin_name, ordered by sample_id.
        ties: of `ties_of`.
        shares: {split: share of the photos}, summing to 1.
        previous: {sample_id: split} of an earlier split; its groups keep their place.
    """
    names = table.latin_name.to_numpy()
    codes = {split: code for code, split in enumerate(SPLITS)}
    pinned = table.sample_id.map(previous or {}).map(codes).fillna(-1).to_numpy(np.int64)
    group, left_out = groups_of(len(table), merged(ties.values()), pinned)
    reason = np.where(left_out, BRIDGE, "").astype(object)

    differing = _two_names(merged(ties[rule] for rule in PICTURES if rule in ties), names)
    conflict = np.isin(group, group[differing]) & ~left_out  # its whole group is only trained on …
    judged = np.isin(group, group[conflict & (pinned > 0)])  # … where that can still be had: 0 is train
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
    """Rows of all pictures that have, or are tied to one of, another name: int64 [k]."""
    rows, keys = ties.members.T
    name_of = pd.Series(names[rows], index=keys)
    several = name_of.groupby(level=0).nunique() > 1
    first = name_of[~name_of.index.duplicated()]
    left, right = ties.pairs.T
    differ = first.loc[left].to_numpy() != first.loc[right].to_numpy()
    differ |= several.loc[left].to_numpy() | several.loc[right].to_numpy()
    return rows[np.isin(keys, np.concatenate([several.index[several], left[differ], right[differ]]))]


def groups_of(n: int, ties: Ties, pinned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups of tied photos (int64 [n]), and which photos had to be left out of them (bool [n], group -1).

    A photo is left out when it would join photos that are pinned to different splits: they can't move any more.

    Args:
        pinned: int64 [n], the code of the split that a photo is in already, or -1.
    """
    size = n + ties.keys  # keys are nodes of the graph, behind the photos
    edges = np.concatenate([ties.members + [0, n], ties.pairs + n])
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(size, size))
    _, found = connected_components(graph, directed=False)
    group, left_out = found[:n].astype(np.int64), np.zeros(n, bool)
    old = np.flatnonzero(pinned >= 0)
    spans = pd.Series(pinned[old]).groupby(group[old]).nunique()
    torn = spans.index[spans > 1].to_numpy()
    if len(torn):
        rows = np.flatnonzero(np.isin(group, torn))
        # First those that are pinned: who came later gives way.
        order = rows[np.argsort(pinned[rows] < 0, kind="stable")]
        inside = Ties(
            ties.members[np.isin(group[ties.members[:, 0]], torn)],
            ties.pairs[np.isin(found[n + ties.pairs[:, 0]], torn)],
        )
        for row, root in _join_in_order(order.tolist(), inside, pinned).items():
            group[row], left_out[row] = (-1, True) if root is None else (size + root, False)
    return group, left_out


def _join_in_order(order: list[int], ties: Ties, pinned: np.ndarray) -> dict[int, int | None]:
    """Union-find, photo by photo; {row: root, or None where the row would have joined two splits}."""
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
            holders[key] = [row]  # all that held it are of this group now
    return {row: None if row in left_out else find(row) for row in order}


def assign_splits(
    members: pd.DataFrame, sample_ids: np.ndarray, *, shares: dict[str, float], seed: int
) -> dict[int, str]:
    """Group -> split, stratified by species.

    Within each species the groups come in a seeded order and each goes to the split that is furthest below its share
    of photos; the first goes to train. A group counts for its commonest name. As one of several species (a session,
    say) is then dealt out by the name of another, groups are moved afterwards, so that every species has training
    photos, and with GROUPS_FOR_ALL_SPLITS groups that may be evaluated a photo in every split.

    Args:
        members: a row a photo: group, name, pin (code of the split it is in already, or -1), barred (train only).
        sample_ids: of the same rows; a group is known by its smallest one, so that its place in the order is its own.
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

    def put(row, split: str) -> None:
        assignment[row.Index] = split
        filled[split] += row.n

    fresh = sorted(species.itertuples(), key=lambda row: row.order)
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


def _top_up(assignment: dict[int, str], groups: pd.DataFrame, tallies: pd.DataFrame) -> None:
    """Moves groups that are free to move to splits in which one of their species has no photo. Changes `assignment`.

    Args:
        groups: by group: n, pin, barred, order.
        tallies: group, name, n.
    """
    names_of = tallies.groupby("group").name.agg(list)
    groups_of = tallies.groupby("name").group.agg(list).sort_index()
    free = groups[groups.pin < 0].sort_values(["n", "order"])  # the smallest first: shares change least
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
    """What two splits share: a sample id, a group, or what one of the rules ties together; [] means no leak.

    Args:
        photos: a row (0 … n-1) a finished record with split, sample_id, group_id.
        ties: of `ties_of`, of these rows.
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
        second = frame[frame.duplicated("key")].set_index("key").row  # of a key that several splits have
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
    """Number of groups, and the largest: {groups, largest_group: {n, share, species, sample_ids (five of them)}}."""
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
    """Split -> species that have no photo in it."""
    total = names[split != ""].nunique()
    return {name: int(total - names[split == name].nunique()) for name in SPLITS}
