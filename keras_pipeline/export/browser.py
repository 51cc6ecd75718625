"""What a check needs of a browser, and a real headless Chromium, driven through Playwright."""

from __future__ import annotations

import abc
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # an optional dependency
    from playwright import sync_api

TIMEOUT_S = 600  # of one call into a page: a chunk of photos on an emulated graphics card takes minutes
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
    """The browser is not there, or it does not start; the message says how to get it."""


class PageError(Exception):
    """The page raised an error, or did not answer in time; the message is the first line of the browser's."""


class Page(abc.ABC):
    """A page that a browser has open, with storage of its own."""

    browser: dict[str, str]  # {name, version}

    @abc.abstractmethod
    def call(self, function: str, argument: object = None) -> Any:
        """Call a JavaScript function in the page; wait for its promise.

        Args:
            function: its source, such as `async (photo) => photo.size`.
            argument: a value that JSON can hold.

        Returns:
            What it returned, as JSON holds it.

        Raises:
            PageError: where it throws, takes longer than TIMEOUT_S, or the browser has ended.
        """

    @abc.abstractmethod
    def peak_memory_mb(self) -> float | None:
        """Return the peak memory of the page's process in MB (10^6 bytes), or None where the system tells none.

        It includes the process's share of the browser.
        """


class Engine(abc.ABC):
    """A browser that is running."""

    name: str  # as the page's app.js names it to visitors

    @abc.abstractmethod
    def opened(self, url: str, requests: list[str]) -> contextlib.AbstractContextManager[Page]:
        """Open a page while the context is open.

        Args:
            url: of the page.
            requests: URLs that it requests are appended to it. All those to other hosts are, whatever the browser.

        Raises:
            PageError: where the page does not load.
        """


def find_chromium() -> Path:
    """Find Chromium: CHROMIUM_PATH, then the PATH, then Playwright's own download.

    Raises:
        BrowserMissing: where there is none.
    """
    named = os.environ.get("CHROMIUM_PATH")
    if named:
        if not Path(named).is_file():
            raise BrowserMissing(f"CHROMIUM_PATH={named}: no such file; {REMEDY}")
        if not os.access(named, os.X_OK):
            raise BrowserMissing(f"CHROMIUM_PATH={named}: not a program that can be started; {REMEDY}")
        return Path(named)
    for name in NAMES:
        if path := shutil.which(name):
            return Path(path)
    with _playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    if not own.is_file():
        raise BrowserMissing(f"no Chromium found; {REMEDY}")
    return own


@contextlib.contextmanager
def open_browser(*, software_gpu: bool = False) -> Iterator[sync_api.Browser]:
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


class Chromium(Engine):
    """Chromium, as `open_browser` yields it."""

    name = "Chromium"

    def __init__(self, browser: sync_api.Browser):
        self._browser = browser

    @contextlib.contextmanager
    def opened(self, url: str, requests: list[str]) -> Iterator[Page]:
        """Open a page in a context of its own."""
        context = self._browser.new_context()
        try:
            context.on("request", lambda request: requests.append(request.url))
            page = context.new_page()
            page.set_default_timeout(TIMEOUT_S * 1000)
            with page_errors():
                page.goto(url)
            yield _ChromiumPage(self._browser, page)
        finally:
            context.close()


class _ChromiumPage(Page):
    def __init__(self, browser: sync_api.Browser, page: sync_api.Page):
        self._browser, self._page = browser, page
        self.browser = {"name": Chromium.name, "version": browser.version}

    def call(self, function: str, argument: object = None) -> Any:
        with page_errors():
            return self._page.evaluate(function, argument)

    def peak_memory_mb(self) -> float | None:
        session = self._browser.new_browser_cdp_session()
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        session.detach()
        return peak_memory_mb(process["id"] for process in processes if process["type"] == "renderer")


def peak_memory_mb(pids: Iterable[int]) -> float | None:
    """Return the largest peak memory of these processes in MB (10^6 bytes); None where the system tells none."""
    return max((peak for pid in pids if (peak := _peak_kib(pid))), default=0) * 1024 / 1e6 or None


def _peak_kib(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(match[1]) if match else None
    return None


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Run a program while the context is open; then it is killed with all that it has started.

    A Ctrl-C does not reach it, so that it can still be asked for an orderly end.

    Args:
        command: the program and its arguments.
        options: of `subprocess.Popen`.
    """
    # It also has to end where this process is killed and can't clean up.
    tied = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    process = subprocess.Popen([*tied, *command], start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
