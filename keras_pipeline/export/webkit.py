"""A real WebKit: WebKitGTK's MiniBrowser on a display of its own, driven by WebDriver.

Safari is a WebKit too, but with Apple's image decoders and canvas: what is found here is not shown of Safari.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from keras_pipeline.export.browser import BrowserMissing, Engine, running

REMEDY = "`make browsers` installs it (Debian: `apt-get install webkit2gtk-driver xvfb`)"
# Debian's and Fedora's folders, of which no one is on the PATH.
BROWSERS = ("usr/lib/*/webkit2gtk-4.*/MiniBrowser", "usr/libexec/webkit2gtk-4.*/MiniBrowser")
DRAWING = {"GDK_BACKEND": "x11", "GSK_RENDERER": "cairo", "WEBKIT_DISABLE_DMABUF_RENDERER": "1"}  # without a card


def find_webkit() -> tuple[Path, Path]:
    """Find (WebKitWebDriver, MiniBrowser).

    Raises:
        BrowserMissing: where one of them, Xvfb or Selenium is missing.
    """
    if importlib.util.find_spec("selenium") is None:
        raise BrowserMissing("the Python package `selenium` is missing; pip install selenium")
    driver, display = shutil.which("WebKitWebDriver"), shutil.which("Xvfb")
    browser = next((path for pattern in BROWSERS for path in sorted(Path("/").glob(pattern))), None)
    if driver and browser and display:
        return Path(driver), browser
    found = {"WebKitWebDriver": driver, "MiniBrowser of WebKitGTK": browser, "Xvfb": display}
    raise BrowserMissing(f"no {' and no '.join(name for name, path in found.items() if not path)} found; {REMEDY}")


@contextlib.contextmanager
def open_webkit() -> Iterator[Engine]:
    """Start WebKitGTK's driver on a display of its own.

    Raises:
        BrowserMissing: where there is no WebKitGTK, or its driver does not start.
    """
    driver, browser = find_webkit()
    from keras_pipeline.export import webdriver  # with Selenium, an optional dependency

    with contextlib.ExitStack() as stack:
        # Its processes may still write while they are being killed.
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="webkit-", ignore_cleanup_errors=True))
        folders = ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
        display = stack.enter_context(_display())
        # Driver and MiniBrowser speak over loopback, where a proxy of the environment has no part.
        inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment = inherited | DRAWING | dict.fromkeys(folders, home) | {"DISPLAY": display}
        port = webdriver.free_port()
        process = stack.enter_context(
            running(
                [str(driver), f"--port={port}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )
        deadline = time.monotonic() + webdriver.START_S
        while not webdriver.is_connectable(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BrowserMissing(f"{driver} does not start; {REMEDY}")
            time.sleep(0.05)
        yield webdriver.WebKit(f"http://127.0.0.1:{port}", browser, process)


@contextlib.contextmanager
def _display() -> Iterator[str]:
    """Start an X server without a screen; yield its name. Raises BrowserMissing where it does not start."""
    read, write = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, read)  # the server ends where nobody could read its number
        command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1200x900x24", "-nolisten", "tcp", "-ac"]
        try:
            stack.enter_context(running(command, pass_fds=[write], stderr=subprocess.DEVNULL))
        finally:
            os.close(write)
        number = os.read(read, 20).decode().strip()  # nothing where it has ended
        if not number:
            raise BrowserMissing(f"Xvfb does not start; {REMEDY}")
        yield f":{number}"
