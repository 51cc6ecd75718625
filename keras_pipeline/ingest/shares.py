"""Assigns groups to splits, so that each species is learnt and the shares hold over the whole.

First every species is divided, as well as its groups allow. What rounding takes from one species is given back by the
next of its kind, so that val, calibration and test are of the same species. Then groups move between splits until the
whole has its shares. Groups that have a place keep it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from keras_pipeline.core.dataset import SPLITS

# A species with this many groups is in every split, however its shares are rounded.
GROUPS_FOR_ALL_SPLITS = 10
TRAIN = 0  # place of train in SPLITS
NEAR = 0.01  # of all photos: shares that are so near, or a usual group, are left as they are


@dataclasses.dataclass(frozen=True)
class Shares:
    """What was asked of the splits, what was possible, and what came out."""

    asked: dict[str, float]  # share of the photos
    reachable: dict[str, float]  # photos; differs from what was asked where species or old groups leave no choice
    photos: dict[str, int]
    two_groups: int  # photos in two groups, each as large as the largest that could choose its split

    @property
    def all_photos(self) -> int:
        """The number of photos in all splits."""
        return sum(self.photos.values())


def assign_splits(
    members: pd.DataFrame, sample_ids: np.ndarray, *, shares: dict[str, float], seed: int
) -> tuple[np.ndarray, Shares]:
    """Assign groups to splits; return the code of each row's split (int64 [n]), and the shares.

    Within each species, groups are taken in a seeded order. Each goes to the split that is furthest below its share of
    the photos, of this species and of earlier ones of its kind; the first goes to train. A group counts as its most
    frequent species. A group of several species (such as a session) is thus assigned by only one of them, so groups are
    moved afterwards until every species has training photos, and with GROUPS_FOR_ALL_SPLITS groups that may be
    evaluated also a photo in every split. If the shares of the whole are then not near, further groups are moved, first
    of the species that have too much in a split.

    Args:
        members: one row per photo, ordered by sample_id: group, name, pin (code of the split it is already in, or -1),
            barred (train only), absent (it is left out, but its group gets its place as if it were not).
        sample_ids: of the same rows; a group's smallest one decides its place in the order.
    """
    ids, first, row_group = np.unique(members.group.to_numpy(), return_index=True, return_inverse=True)
    drawn = np.frombuffer(b"".join(_draw(sample_id, seed) for sample_id in sample_ids[first].tolist()), ">u8, 4>u2")
    groups = _Groups.of(members, row_group, order=drawn["f0"].astype(np.uint64), dice=drawn["f1"] / 2**16)
    asked = np.array([shares[split] for split in SPLITS])
    plan = _Plan(groups, _dealt(groups, asked))
    _top_up(plan)
    target = _settle(plan, asked)
    if members.absent.any():
        groups = dataclasses.replace(groups, size=np.bincount(row_group[~members.absent], minlength=len(ids)))
        plan = _Plan(groups, plan.split)
        target = _settle(plan, asked)
    return plan.split[row_group], Shares(
        dict(shares),
        dict(zip(SPLITS, target.tolist(), strict=True)),
        dict(zip(SPLITS, plan.photos.tolist(), strict=True)),
        2 * int(groups.size[groups.free].max(initial=0)),
    )


def _settle(plan: _Plan, asked: np.ndarray) -> np.ndarray:
    """Move groups where the shares are not near what is reachable, which is returned: float [4], photos."""
    groups = plan.groups
    target, free = groups.reachable(asked), groups.size[groups.free]
    near = max(NEAR * groups.size.sum(), np.median(free)) if len(free) else np.inf
    if (np.abs(plan.photos - target) > near).any():
        _balance(plan, target)
    _fill_empty(plan, target)
    return target


def _draw(sample_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()[:16]


@dataclasses.dataclass(frozen=True)
class _Groups:
    """The groups, numbered from 0, and their species, numbered in the order of their names."""

    size: np.ndarray  # int64 [g], photos
    pin: np.ndarray  # int64 [g], code of the split that it must be in, or -1
    order: np.ndarray  # uint64 [g], seeded
    dice: np.ndarray  # float [g, 4], seeded, 0 to 1
    home: np.ndarray  # int64 [g], most frequent species
    pairs: np.ndarray  # int64 [p, 2], (group, species), sorted
    needed: np.ndarray  # bool [species, 4], splits in which a species must have a photo

    @classmethod
    def of(cls, members: pd.DataFrame, row_group: np.ndarray, *, order: np.ndarray, dice: np.ndarray) -> _Groups:
        """Return the groups of rows; a species is in a group if one of its photos there is not left out."""
        codes, names = pd.factorize(members.name, sort=True)
        pin, barred = np.full(len(order), -1), np.zeros(len(order), bool)
        np.maximum.at(pin, row_group, np.where(members.absent, -1, members.pin))
        barred[row_group[members.barred.to_numpy()]] = True
        keys, photos = np.unique((row_group * len(names) + codes)[~members.absent], return_counts=True)
        pairs = np.stack(np.divmod(keys, len(names)), axis=1)
        by_photos = pairs[np.lexsort((pairs[:, 1], -photos, pairs[:, 0]))]
        home = by_photos[np.unique(by_photos[:, 0], return_index=True)[1], 1]
        may_be_judged = np.bincount(pairs[~barred[pairs[:, 0]], 1], minlength=len(names))
        needed = np.repeat((may_be_judged >= GROUPS_FOR_ALL_SPLITS)[:, None], len(SPLITS), axis=1)
        needed[:, TRAIN] = True
        needed[np.bincount(codes[~members.absent], minlength=len(names)) == 0] = False  # nothing of it is left
        pin[barred & (pin < 0)] = TRAIN
        return cls(np.bincount(row_group, minlength=len(order)), pin, order, dice, home, pairs, needed)

    @property
    def free(self) -> np.ndarray:
        """Whether a group may choose its split: bool [g]."""
        return self.pin < 0

    @functools.cached_property
    def species_starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `pairs` by species: (int64 [p] rows, int64 [species + 1] where each species starts)."""
        rows = np.argsort(self.pairs[:, 1], kind="stable")
        return rows, np.searchsorted(self.pairs[rows, 1], np.arange(len(self.needed) + 1))

    @functools.cached_property
    def group_starts(self) -> np.ndarray:
        """Where each group starts in `pairs`: int64 [g + 1]."""
        return np.searchsorted(self.pairs[:, 0], np.arange(len(self.size) + 1))

    def of_species(self, name: int) -> np.ndarray:
        """Return the groups with photos of a species."""
        rows, starts = self.species_starts
        return self.pairs[rows[starts[name] : starts[name + 1]], 0]

    def names_of(self, group: int) -> np.ndarray:
        """Return the species in a group."""
        return self.pairs[self.group_starts[group] : self.group_starts[group + 1], 1]

    def reachable(self, asked: np.ndarray) -> np.ndarray:
        """Return the photos of each split if the shares hold as far as they can: float [4].

        A split has at least its pinned groups, and one group of each species that it needs: of the species' groups the
        smallest, the next for the split with the next larger share. A group of k species counts 1/k for each of them.
        No split is empty if the groups suffice.
        """
        least = np.bincount(self.pin[~self.free], self.size[~self.free], minlength=len(SPLITS))
        there = np.zeros_like(self.needed)
        pinned = self.pairs[~self.free[self.pairs[:, 0]]]
        there[pinned[:, 1], self.pin[pinned[:, 0]]] = True
        group, name = self.pairs[self.free[self.pairs[:, 0]]].T
        part = self.size[group] / np.diff(self.group_starts)[group]
        by_part = np.lexsort((part, name))
        part, starts = part[by_part], np.searchsorted(name[by_part], np.arange(len(self.needed) + 1))
        taken = np.zeros(len(self.needed), np.int64)
        for split in np.argsort(asked, kind="stable"):
            wants = self.needed[:, split] & ~there[:, split] & (starts[:-1] + taken < starts[1:])
            least[split] += part[(starts[:-1] + taken)[wants]].sum()
            taken += wants
        none, smallest = np.flatnonzero(least == 0), np.sort(self.size[self.free])
        if least.sum() + smallest[: len(none)].sum() <= self.size.sum():
            least[none[: len(smallest)]] = smallest[: len(none)]
        return _filled_up(asked, least, self.size.sum())


def _filled_up(asked: np.ndarray, least: np.ndarray, total: int) -> np.ndarray:
    """Divide `total` by the shares, but no split below its least; what that takes is taken from the others alike."""
    raised = np.zeros(len(asked), bool)
    while True:
        rest = total - least[raised].sum()
        found = np.where(raised, least, rest * asked / asked[~raised].sum())
        more = ~raised & (found < least)
        if not more.any():
            return found
        raised |= more
        if raised.all():  # only by rounding errors of the parts
            return least


class _Plan:
    """An assignment that changes, and what follows from it."""

    def __init__(self, groups: _Groups, split: np.ndarray) -> None:
        self.groups, self.split = groups, split  # int64 [g]
        self.in_split = np.zeros(groups.needed.shape, np.int64)  # groups of each species in each split
        np.add.at(self.in_split, (groups.pairs[:, 1], split[groups.pairs[:, 0]]), 1)
        self.photos = np.bincount(split, groups.size, minlength=len(SPLITS)).astype(np.int64)  # of each split

    def move(self, group: int, to: int) -> None:
        """Move a group to a split."""
        names, out = self.groups.names_of(group), self.split[group]
        self.in_split[names, out] -= 1
        self.in_split[names, to] += 1
        self.photos[[out, to]] += self.groups.size[group] * np.array([-1, 1])
        self.split[group] = to

    def may_leave(self, group: int) -> bool:
        """Return whether its split still has a group of each species that needs one there."""
        names, out = self.groups.names_of(group), self.split[group]
        return not (self.groups.needed[names, out] & (self.in_split[names, out] < 2)).any()

    def leavers(self, split: int) -> np.ndarray:
        """Return the groups that may leave a split, each on its own: int64 [m]."""
        group, name = self.groups.pairs.T
        here = (self.split[group] == split) & self.groups.free[group]
        kept = here & self.groups.needed[name, split] & (self.in_split[name, split] < 2)
        return np.setdiff1d(group[here], group[kept], assume_unique=False)

    def by_surplus(self, candidates: np.ndarray, out: int, to: int, target: np.ndarray) -> np.ndarray:
        """Sort groups of `out` so that species come first which have too much there, and too little in `to`."""
        groups = self.groups
        photos = np.zeros(groups.needed.shape)
        np.add.at(photos, (groups.home, self.split), groups.size)
        surplus = photos - photos.sum(axis=1, keepdims=True) * (target / target.sum())
        ordered = candidates[np.lexsort((groups.order[candidates], groups.home[candidates]))]
        home, size = groups.home[ordered], groups.size[ordered]
        before = np.cumsum(size) - size
        before -= np.repeat(*_starts(home, before))
        left = surplus[home, out] - surplus[home, to] - 2 * before  # each group leaves less surplus for the next
        return ordered[np.lexsort((groups.order[ordered], -left))]


def _starts(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first value of each run of equal keys, and the length of the run."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])[: len(keys)]
    return values[starts], np.diff(np.r_[starts, len(keys)])


def _dealt(groups: _Groups, asked: np.ndarray) -> np.ndarray:
    """Divide each species on its own, and pass on what rounding gives or takes to the next one of its kind: int64 [g].

    Species of a kind have about as many groups and photos. So val, calibration and test get common and rare species
    alike: were each species rounded alone, one split would always be the first in turn, and a promise made on the
    calibration split would not hold for the test split. A seeded photo more or less keeps species that are all alike
    from taking turns in a pattern.
    """
    split = groups.pin.copy()
    by_species = np.lexsort((groups.order, groups.home))
    ends = np.flatnonzero(np.diff(groups.home[by_species])) + 1
    shares, places = asked.tolist(), range(len(SPLITS))
    owed_by: dict[tuple[int, int], list[float]] = {}  # photos that a kind's species so far have left to each split
    for species in np.split(by_species, ends):
        pins, sizes = groups.pin[species], groups.size[species]
        # What has its place counts first, so that the others balance it.
        filled = np.bincount(pins[pins >= 0], sizes[pins >= 0], minlength=len(SPLITS)).tolist()
        free = species[pins < 0]
        complete = len(species) >= GROUPS_FOR_ALL_SPLITS
        kind = _kind(len(species), int(sizes.sum()))
        owed = owed_by.get(kind, [0.0] * len(SPLITS))
        for place, (group, size) in enumerate(zip(free.tolist(), groups.size[free].tolist(), strict=True)):
            empty = [code for code in places if not filled[code]]
            if empty and (not filled[TRAIN] or (complete and len(free) - place <= len(empty))):
                code = empty[0]
            else:
                total = sum(filled) + size
                dice = groups.dice[group].tolist()
                code = max(places, key=[shares[c] * total - filled[c] + owed[c] + dice[c] for c in places].__getitem__)
            split[group] = code
            filled[code] += size
        owed_by[kind] = [owed[c] + shares[c] * sum(filled) - filled[c] for c in places]
    return split


def _kind(groups: int, photos: int) -> tuple[int, int]:
    """Return what species with as many groups and photos have in common: few exactly, many to a factor of two."""
    if groups < GROUPS_FOR_ALL_SPLITS:
        return groups, photos if photos < 2 * GROUPS_FOR_ALL_SPLITS else -photos.bit_length()
    return GROUPS_FOR_ALL_SPLITS, -photos.bit_length()


def _top_up(plan: _Plan) -> None:
    """Move free groups to splits in which one of their species has no photo but needs one."""
    groups = plan.groups
    for code, _ in enumerate(SPLITS):
        for name in np.flatnonzero(groups.needed[:, code] & (plan.in_split[:, code] == 0)).tolist():
            if plan.in_split[name, code]:
                continue  # came with a group of another species
            free = groups.of_species(name)
            free = free[groups.free[free]]
            # The smallest first, so that shares change least.
            for group in free[np.lexsort((groups.order[free], groups.size[free]))].tolist():
                if code == TRAIN or plan.may_leave(group):
                    plan.move(group, code)
                    break


def _balance(plan: _Plan, target: np.ndarray) -> None:
    """Move or exchange groups between splits until no change brings their photos nearer to the target."""
    while True:
        over = plan.photos - target
        ways = sorted(itertools.permutations(range(len(SPLITS)), 2), key=lambda way: over[way[1]] - over[way[0]])
        if any(_shift(plan, out, to, target) for out, to in ways if over[out] > 0 > over[to]):
            continue
        if not any(_exchange(plan, out, to, target) for out, to in ways if over[out] > 0 and over[to] < over[out]):
            return


def _shift(plan: _Plan, out: int, to: int, target: np.ndarray) -> bool:
    """Move groups between two splits, as many photos as one has too much or the other too little."""
    over, size = plan.photos - target, plan.groups.size
    rest = min(over[out], -over[to])
    candidates = plan.leavers(out)
    candidates = candidates[size[candidates] < 2 * rest]
    moved = False
    for group in plan.by_surplus(candidates, out, to, target).tolist():
        if size[group] < 2 * rest and plan.may_leave(group):
            plan.move(group, to)
            rest -= size[group]
            moved = True
        if rest <= 0:
            break
    return moved


def _exchange(plan: _Plan, out: int, to: int, target: np.ndarray) -> bool:
    """Exchange groups of one species between two splits, the larger for the smaller."""
    moved = False
    for larger, smaller in _exchangeable(plan, out, to):
        over = plan.photos - target
        gain = plan.groups.size[larger] - plan.groups.size[smaller]
        if 0 < gain < over[out] - over[to]:
            plan.move(larger, to)
            plan.move(smaller, out)
            moved = True
    return moved


def _exchangeable(plan: _Plan, out: int, to: int) -> Iterator[tuple[int, int]]:
    """Yield (largest group in one split, smallest in another) of each species; groups of a single species only."""
    groups = plan.groups
    lone = groups.free & (np.diff(groups.group_starts) == 1)
    found = []
    for split, sign in ((out, -1), (to, 1)):
        rows = np.flatnonzero(lone & (plan.split == split))
        rows = rows[np.lexsort((groups.order[rows], sign * groups.size[rows], groups.home[rows]))]
        found.append(pd.Series(rows, index=groups.home[rows]).groupby(level=0).first())
    both = pd.concat(found, axis=1, join="inner")
    yield from both.itertuples(index=False, name=None)


def _fill_empty(plan: _Plan, target: np.ndarray) -> None:
    """Give each split without a group one from the split that has most beyond its target, if any may leave."""
    groups = plan.groups
    for empty in np.flatnonzero(np.bincount(plan.split, minlength=len(SPLITS)) == 0).tolist():
        several = np.flatnonzero(np.bincount(plan.split, minlength=len(SPLITS)) > 1)
        for out in several[np.argsort(-(plan.photos - target)[several], kind="stable")].tolist():
            found = plan.leavers(out)
            if len(found):
                plan.move(int(found[np.lexsort((groups.order[found], groups.size[found]))][0]), empty)
                break
