"""Progress, rate and time left: a live bar on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress(iterable=None, *, total: int | None = None, description: str = "", unit: str = "photos") -> tqdm:
    live = sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        desc=description,
        unit=unit,
        mininterval=0.5 if live else 60,
        leave=True,
        delay=0 if live else 5,
    )
