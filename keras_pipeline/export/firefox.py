"""A real headless Firefox, driven by WebDriver BiDi without geckodriver."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from keras_pipeline.export.browser import TIMEOUT_S, BrowserMissing, Engine, Page, PageError, peak_memory_mb, running

NAMES = ("firefox-esr", "firefox")
START_S = 120  # on a machine whose cores are all busy
REMEDY = "`make browsers` installs it (Debian: `apt-get install firefox-esr`)"
CONTENT = ("Isolated Web Co", "Web Content")  # names of the processes that hold pages
# Firefox's own requests, such as for updates, go to a port where nothing listens; those to loopback go straight.
NOWHERE = {f"network.proxy.{kind}": "127.0.0.1" for kind in ("http", "ssl")}
PREFERENCES = {
    **NOWHERE,
    **{f"{name}_port": 9 for name in NOWHERE},
    "network.proxy.type": 1,
    "datareporting.policy.dataSubmissionEnabled": False,
    "browser.shell.checkDefaultBrowser": False,
}


def find_firefox() -> Path:
    """Find Firefox on the PATH.

    Raises:
        BrowserMissing: where there is none, or its driver is missing.
    """
    if importlib.util.find_spec("websocket") is None:
        raise BrowserMissing("the Python package `websocket-client` is missing; pip install websocket-client")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise BrowserMissing(f"no Firefox found; {REMEDY}")
    return Path(path)


@contextlib.contextmanager
def open_firefox() -> Iterator[Engine]:
    """Start headless Firefox with an empty profile.

    Raises:
        BrowserMissing: where there is no Firefox, or it does not start.
    """
    executable = find_firefox()
    with contextlib.ExitStack() as stack:
        # Its processes may still write while they are being killed.
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True))
        profile = Path(home) / "profile"
        profile.mkdir()
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        (profile / "user.js").write_text("\n".join(lines))
        command = [str(executable), "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port=0"]
        log = Path(home) / "log"
        process = stack.enter_context(
            running(
                command,
                env=os.environ | {"HOME": home},
                stdout=subprocess.DEVNULL,
                stderr=stack.enter_context(log.open("wb")),
            )
        )
        try:
            bidi = _Bidi(_address(process, log))
            found = bidi.command("session.new", capabilities={})["capabilities"]
            bidi.command("session.subscribe", events=["network.beforeRequestSent"])
        except (PageError, OSError) as error:
            raise BrowserMissing(f"{executable} does not start: {error}; {REMEDY}") from error
        yield _Firefox(bidi, process, found["browserVersion"])


def _address(process: subprocess.Popen, log: Path) -> str:
    """Return the WebSocket's address, once Firefox has written it to its log. Raises PageError where it does not."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        if found := re.search(r"WebDriver BiDi listening on (ws://\S+)\n", text):
            return f"{found[1]}/session"
        if process.poll() is not None:
            raise PageError(f"it ended with {process.returncode}: {(text.strip().splitlines() or ['no message'])[-1]}")
        time.sleep(0.05)
    raise PageError(f"no WebDriver BiDi within {START_S} s")


class _Bidi:
    """Commands of WebDriver BiDi, one at a time."""

    def __init__(self, address: str):
        import websocket  # an optional dependency, see `find_firefox`

        self._failures = (websocket.WebSocketException, OSError)
        self._numbers = itertools.count(1)
        self.requested: list[str] = []  # URLs that pages have requested
        # Firefox refuses connections that come from a page.
        self._socket = websocket.create_connection(address, timeout=TIMEOUT_S, suppress_origin=True)

    def command(self, method: str, **parameters: Any) -> dict:
        """Return the result. Raises PageError where there is an error instead, or Firefox has ended."""
        number = next(self._numbers)
        try:
            self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
            while (message := json.loads(self._socket.recv())).get("id") != number:
                if message.get("method") == "network.beforeRequestSent":
                    self.requested.append(message["params"]["request"]["url"])
        except (*self._failures, ValueError) as error:
            raise PageError(f"Firefox has ended, or gives no answer to {method}: {error}") from error
        if message["type"] == "error":
            raise PageError(f"{method}: {message['error']}: {message['message']}".splitlines()[0])
        return message["result"]


class _Firefox(Engine):
    name = "Firefox"

    def __init__(self, bidi: _Bidi, process: subprocess.Popen, version: str):
        self._bidi, self._process, self._version = bidi, process, version

    @contextlib.contextmanager
    def opened(self, url: str, requests: list[str]) -> Iterator[Page]:
        context = self._bidi.command("browser.createUserContext")
        try:
            page = self._bidi.command("browsingContext.create", type="tab", **context)["context"]
            self._bidi.command("browsingContext.navigate", context=page, url=url, wait="complete")
            yield _FirefoxPage(self._bidi, page, self._process, self._version)
        finally:
            with contextlib.suppress(PageError):  # Firefox may have ended, which is told already
                self._bidi.command("browser.removeUserContext", **context)
            requests += self._bidi.requested
            self._bidi.requested.clear()


class _FirefoxPage(Page):
    def __init__(self, bidi: _Bidi, context: str, process: subprocess.Popen, version: str):
        self._bidi, self._context, self._process = bidi, context, process
        self.browser = {"name": _Firefox.name, "version": version}

    def call(self, function: str, argument: object = None) -> Any:
        # BiDi has types of its own for all values; text is the simplest of them.
        answer = self._bidi.command(
            "script.callFunction",
            functionDeclaration=f"async (text) => JSON.stringify((await ({function})(JSON.parse(text))) ?? null)",
            arguments=[{"type": "string", "value": json.dumps(argument)}],
            target={"context": self._context},
            awaitPromise=True,
        )
        if answer["type"] == "exception":
            raise PageError(answer["exceptionDetails"]["text"].splitlines()[0])
        return json.loads(answer["result"]["value"])

    def peak_memory_mb(self) -> float | None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self._process.pid).children(recursive=True)
            return peak_memory_mb(child.pid for child in children if child.name() in CONTENT)
        return None
