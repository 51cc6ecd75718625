"""Progress, rate and time left: a live bar on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm import tqdm


def duration(seconds: float) -> str:
    """Format a duration: 7.2 -> 7.2 s, 75 -> 1 min 15 s, 7260 -> 2 h 1 min, 200000 -> 2 d 8 h."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    if round(seconds / 60) < 24 * 60:
        return "{} h {} min".format(*divmod(round(seconds / 60), 60))
    return "{} d {} h".format(*divmod(round(seconds / 3600), 24))


class _Lines:
    """A file for tqdm that writes each state on its own line, without carriage returns in a log."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(
    iterable: Iterable | None = None, *, total: int | None = None, description: str = "", unit: str = "photos"
) -> tqdm:
    """Return a tqdm progress bar on standard error; see tqdm for the options."""
    live = sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        desc=description,
        unit=unit,
        file=None if live else _Lines(),
        mininterval=0.5 if live else 60,
        maxinterval=10 if live else 60,
        leave=True,
        delay=0 if live else 5,
    )
