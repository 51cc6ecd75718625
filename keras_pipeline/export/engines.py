"""The browsers that a page can be checked in, by the names that the config gives them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_pipeline.export.browser import BrowserMissing, Chromium, Engine, find_chromium, open_browser
from keras_pipeline.export.firefox import find_firefox, open_firefox
from keras_pipeline.export.webkit import find_webkit, open_webkit

ENGINES = ("chromium", "firefox", "webkit")


def find_engine(name: str) -> Path:
    """Find the browser's program.

    Raises:
        BrowserMissing: where it is not there, or what drives it is missing.
    """
    if name == "chromium":
        return find_chromium()
    return find_firefox() if name == "firefox" else find_webkit()[1]


def missing_engines(names: Sequence[str] = ENGINES) -> dict[str, str]:
    """Return {name: why} of those that are not there."""
    missing = {}
    for name in names:
        try:
            find_engine(name)
        except BrowserMissing as error:
            missing[name] = str(error)
    return missing


def need_one(names: Sequence[str] | None) -> None:
    """Raise BrowserMissing where none of the browsers is there; `names` is that of the config, `phase6.browsers`."""
    wanted = names or ENGINES
    missing = missing_engines(wanted)
    if len(missing) == len(set(wanted)):
        raise BrowserMissing("; ".join(missing.values()))


@contextlib.contextmanager
def open_engine(name: str) -> Iterator[Engine]:
    """Start the browser while the context is open.

    Raises:
        BrowserMissing: where it is not there, or does not start.
    """
    if name == "chromium":
        with open_browser(software_gpu=True) as browser:
            yield Chromium(browser)
    else:
        with open_firefox() if name == "firefox" else open_webkit() as engine:
            yield engine
