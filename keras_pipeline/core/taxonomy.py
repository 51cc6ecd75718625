"""Latin names and the one class list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable


def normalise(latin_name: str) -> str:
    """Collapses blanks; everything else (case, authors, hybrid signs) is the audit's to report, not ours to guess."""
    return " ".join(latin_name.split())


def genus(latin_name: str) -> str:
    return latin_name.split(" ", 1)[0]


def class_list(latin_names: Iterable[str]) -> list[str]:
    """Sorted, unique: the only source of num_classes and of every label's index."""
    return sorted(set(latin_names))


def class_hash(classes: list[str]) -> str:
    """sha256 over the ordered list: a model refuses labels of another hash."""
    return hashlib.sha256(json.dumps(classes, ensure_ascii=False).encode()).hexdigest()
