"""A real headless Chromium, driven through Playwright."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Chromium's own network calls and HTTP/3 are off, so that the request log shows every request of the page.
FLAGS = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Emulates WebGL and WebGPU where there is no graphics card; a real one is preferred.
SOFTWARE_GPU = ("--enable-unsafe-swiftshader", "--enable-unsafe-webgpu", "--enable-features=Vulkan")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = (
    "install Chromium (Debian, Ubuntu: `apt-get install chromium`; anywhere: `playwright install chromium`) "
    "or name one in the environment variable CHROMIUM_PATH"
)


PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".avif")  # those that it displays


class BrowserMissing(OSError):
    """There is no Chromium, or it does not start; the message says how to get one."""


class PageError(Exception):
    """The page raised an error, or did not answer in time; the message is the first line of the browser's."""


def find_chromium() -> Path:
    """Find Chromium: CHROMIUM_PATH, then the PATH, then Playwright's own download.

    Raises:
        BrowserMissing: where there is none.
    """
    named = os.environ.get("CHROMIUM_PATH")
    if named:
        if path := shutil.which(named):  # a path, or the name of a program on the PATH
            return Path(path)
        kind = "a folder" if Path(named).is_dir() else "not a program that can be started"
        absent = "no such file" if "/" in named else "no such program on the PATH; give its full path"
        raise BrowserMissing(f"CHROMIUM_PATH={named}: {kind if Path(named).exists() else absent}; {REMEDY}")
    for name in NAMES:
        if path := shutil.which(name):
            return Path(path)
    with _playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    if not own.is_file():
        raise BrowserMissing(f"no Chromium found; {REMEDY}")
    return own


def check_starts() -> Path:
    """Find Chromium and start it once; return it. Ubuntu's is a stub that only says which snap to install.

    Raises:
        BrowserMissing: where there is none, or it does not start.
    """
    path = find_chromium()
    stat = path.stat()
    _start(path, stat.st_size, stat.st_mtime_ns)
    return path


@functools.cache
def _start(path: Path, size: int, mtime_ns: int) -> None:
    """A process starts each file once; its size and time tell another file of the same name."""
    with open_browser():
        pass


@contextlib.contextmanager
def open_browser(*, software_gpu: bool = False) -> Iterator:
    """Open headless Chromium; yield a Playwright `Browser`.

    Args:
        software_gpu: emulate a graphics card where there is none.

    Raises:
        BrowserMissing: where there is no Chromium, or it does not start.
    """
    executable = find_chromium()
    # Chromium refuses its sandbox to root, the user of most containers; only our own page is opened.
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    graphics = SOFTWARE_GPU if software_gpu else ()
    with _playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=str(executable), args=[*FLAGS, *graphics, *sandbox])
        except Exception as error:
            raise BrowserMissing(f"{executable} does not start: {str(error).splitlines()[0]}; {REMEDY}") from error
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def page_errors() -> Iterator[None]:
    """Raise PageError where Playwright raises an error inside the block, in which a browser is open."""
    from playwright.sync_api import Error  # an optional dependency; an open browser shows that it is there

    try:
        yield
    except Error as error:
        raise PageError(str(error).splitlines()[0]) from error


@contextlib.contextmanager
def _playwright() -> Iterator:
    try:
        from playwright.sync_api import sync_playwright  # an optional dependency
    except ImportError as error:
        raise BrowserMissing("the Python package `playwright` is missing; pip install playwright") from error
    with sync_playwright() as playwright:
        yield playwright


def photos_in(folder: Path) -> list[Path]:
    """List the photos below a folder that a browser can display.

    Raises:
        ValueError: for a path that is no folder, or a folder without photos.
    """
    if not folder.is_dir():
        raise ValueError(f"phase6.photos: received {folder}, expected a folder of photos")
    # Only files: reading a pipe would block, and a link may lead nowhere.
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"phase6.photos: no photo in {folder}, expected files that end in {', '.join(PHOTO_SUFFIXES)}")
    return files
