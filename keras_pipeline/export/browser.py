"""A real headless Chromium, driven through Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Chromium's own calls home and HTTP/3 are off, so that whatever leaves the page shows up in the request log.
FLAGS = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# WebGL and WebGPU where no graphics card is; where one is, it is taken.
SOFTWARE_GPU = ("--enable-unsafe-swiftshader", "--enable-unsafe-webgpu", "--enable-features=Vulkan")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = (
    "install Chromium (Debian, Ubuntu: `apt-get install chromium`; anywhere: `playwright install chromium`) "
    "or name one in the environment variable CHROMIUM_PATH"
)


PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")  # what it shows


class BrowserMissing(OSError):
    """No Chromium here, or it does not start; the message says how to get one."""


def find_chromium() -> Path:
    """CHROMIUM_PATH, then the PATH, then Playwright's own download. Raises BrowserMissing."""
    named = os.environ.get("CHROMIUM_PATH")
    if named:
        if not Path(named).is_file():
            raise BrowserMissing(f"CHROMIUM_PATH={named}: no such file; {REMEDY}")
        return Path(named)
    for name in NAMES:
        if found := shutil.which(name):
            return Path(found)
    with _playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    if not own.is_file():
        raise BrowserMissing(f"no Chromium found; {REMEDY}")
    return own


@contextlib.contextmanager
def open_browser(*, software_gpu: bool = False) -> Iterator:
    """Yields a playwright Browser, on request with emulated graphics where there are none. Raises BrowserMissing."""
    executable = find_chromium()
    # Chromium refuses its sandbox to root, as in most containers; only our own page is opened.
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
def _playwright() -> Iterator:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise BrowserMissing("the Python package `playwright` is missing; pip install playwright") from error
    with sync_playwright() as playwright:
        yield playwright


def photos_in(folder: Path) -> list[Path]:
    """The photos in a folder, and below, that a browser can show. Raises ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"phase6.photos: received {folder}, expected a folder of photos")
    # A pipe would be waited for, a link may lead nowhere.
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"phase6.photos: no photo in {folder}, expected files that end in {', '.join(PHOTO_SUFFIXES)}")
    return files
