"""Groups go whole to train, val, calibration or test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from keras_pipeline.core.schema import SPLITS


class Groups:
    """Union-find over samples that must stay together: one observation, or the same bytes."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, a: str, b: str) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            # The smaller name is the root, so that a group's name doesn't depend on the order of joins.
            low, high = sorted((a, b))
            self._parent[high] = low

    def find(self, a: str) -> str:
        root = a
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while self._parent[a] != root:
            self._parent[a], a = root, self._parent[a]
        return root


def group_samples(samples: Iterable[tuple[str, str | None, str]]) -> dict[str, str]:
    """(sample_id, observation or None, sha256) -> {sample_id: group_id}."""
    groups = Groups()
    samples = list(samples)
    for sample_id, observation, sha256 in samples:
        groups.join(f"sample:{sample_id}", f"sha256:{sha256}")
        if observation:
            groups.join(f"sample:{sample_id}", f"observation:{observation}")
    return {sample_id: groups.find(f"sample:{sample_id}") for sample_id, _, _ in samples}


def assign_splits(groups: dict[str, list[int]], *, shares: dict[str, float], seed: int) -> dict[str, str]:
    """Group -> split, stratified by class.

    Within each class the groups come in a seeded order and each goes to the split that is furthest below its share of
    photos; the first goes to train, so that no class is without training photos.

    Args:
        groups: {group_id: labels of its photos}; a group counts for its first label.
        shares: {split: share}, summing to 1.
    """
    by_class: dict[int, list[str]] = {}
    for group, labels in groups.items():
        by_class.setdefault(labels[0], []).append(group)
    assignment = {}
    for label in sorted(by_class):
        filled = dict.fromkeys(SPLITS, 0.0)
        for group in sorted(by_class[label], key=lambda g: hashlib.sha256(f"{seed}:{g}".encode()).digest()):
            total = sum(filled.values()) + len(groups[group])
            split = "train" if not filled["train"] else max(SPLITS, key=lambda s: shares[s] * total - filled[s])  # noqa: B023
            filled[split] += len(groups[group])
            assignment[group] = split
    return assignment


def find_leaks(rows: Iterable[tuple[str, str, str, str]]) -> list[dict]:
    """(split, sample_id, group_id, sha256) of every finished record -> what two splits share.

    Groups, downloaded bytes and sample ids are each checked; [] means no leak.
    """
    seen: dict[tuple[str, str], set[str]] = {}
    for split, sample_id, group_id, sha256 in rows:
        for kind, value in (("sample_id", sample_id), ("group_id", group_id), ("sha256", sha256)):
            seen.setdefault((kind, value), set()).add(split)
    return [{"kind": k, "value": v, "splits": sorted(s)} for (k, v), s in sorted(seen.items()) if len(s) > 1]
