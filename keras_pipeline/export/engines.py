"""The browsers that a page can be checked in, by the names that the config gives them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_pipeline.export.browser import BrowserMissing, Chromium, Engine, check_starts, find_chromium, open_browser
from keras_pipeline.export.firefox import find_firefox, open_firefox
from keras_pipeline.export.webkit import find_webkit, open_webkit

ENGINES = ("chromium", "firefox", "webkit")


def find_engine(name: str, *, start: bool = False) -> Path:
    """Find the browser's program.

    Args:
        start: start Chromium once, of which there are stubs; it takes a second or more.

    Raises:
        BrowserMissing: where it is not there, or does not start, or what drives it is missing.
    """
    if name == "chromium":
        return check_starts() if start else find_chromium()
    return find_firefox() if name == "firefox" else find_webkit()[1]


def missing_engines(names: Sequence[str] = ENGINES, *, start: bool = False) -> dict[str, str]:
    """Return {name: why} of those that `find_engine` does not find."""
    missing = {}
    for name in names:
        try:
            find_engine(name, start=start)
        except BrowserMissing as error:
            missing[name] = str(error)
    return missing


def need_one(names: Sequence[str] | None, *, start: bool = False) -> None:
    """Raise BrowserMissing where none of the browsers is there; `names` is that of the config, `phase6.browsers`."""
    wanted = names or ENGINES
    missing = missing_engines(wanted, start=start)
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
