"""Counts of texts in bounded space."""

from __future__ import annotations

DISTINCT = 10_000  # different texts; all others count as one
CLIP = 1000  # characters; longer texts are cut
OTHER = "(other)"


class Tally(dict):
    """Counts of texts. After 10,000 different ones, new ones count as `(other)`."""

    def add(self, value: str) -> None:
        """Count one occurrence of a text."""
        try:
            self[value] += 1
        except KeyError:
            name = value[:CLIP] if len(self) < DISTINCT else OTHER
            self[name] = self.get(name, 0) + 1

    def ranked(self) -> dict[str, int]:
        """Return the counts, largest first, equal ones by name."""
        return dict(sorted(self.items(), key=lambda item: (-item[1], item[0])))


def counted(n: int, noun: str) -> str:
    """Return `1 photo`, `1,200 photos`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
