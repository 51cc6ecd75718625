"""The pages of WebKitGTK's MiniBrowser, by Selenium, which is an optional dependency."""

from __future__ import annotations

import contextlib
import json
import socketserver
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from selenium.common import WebDriverException
from selenium.webdriver import Remote, WebKitGTKOptions
from selenium.webdriver.common.proxy import Proxy
from selenium.webdriver.common.utils import free_port, is_connectable
from selenium.webdriver.remote.client_config import ClientConfig
from selenium.webdriver.remote.remote_connection import RemoteConnection
from urllib3.exceptions import HTTPError  # of the client that Selenium uses

from keras_pipeline.core.static_server import HOST, in_background
from keras_pipeline.export.browser import TIMEOUT_S, BrowserMissing, Engine, Page, PageError, peak_memory_mb

__all__ = ["START_S", "WebKit", "free_port", "is_connectable"]

START_S = 60
FAILURES = (WebDriverException, HTTPError, OSError)
CALL = """
const [text, done] = arguments;
(async () => (%s)(JSON.parse(text)))().then(
  (value) => done(JSON.stringify({ value: value ?? null })),
  (error) => done(JSON.stringify({ error: String(error) })),
);
"""


class WebKit(Engine):
    """WebKitGTK, by the address of its driver."""

    name = "WebKitGTK"

    def __init__(self, address: str, browser: Path, process: subprocess.Popen):
        self._address, self._browser, self._process = address, browser, process

    @contextlib.contextmanager
    def opened(self, url: str, requests: list[str]) -> Iterator[Page]:
        """Open a page in a MiniBrowser of its own."""
        # The driver reports no requests. Loopback is reached without the proxy, so that only those to other hosts pass.
        with _listening(requests) as watch:
            options = WebKitGTKOptions()
            options.binary_location = str(self._browser)
            options.add_argument("--automation")
            addresses = {"httpProxy": watch, "sslProxy": watch, "noProxy": [HOST]}
            options.proxy = Proxy({"proxyType": "manual", **addresses})
            # Selenium would ask a proxy of the environment for the driver, too.
            client = ClientConfig(self._address, proxy=Proxy({"proxyType": "direct"}), timeout=START_S)
            try:
                driver = Remote(RemoteConnection(client_config=client), options=options)
            except FAILURES as error:
                raise BrowserMissing(f"{self._browser} does not start: {_first_line(error)}") from error
            client.timeout = TIMEOUT_S + 60  # the driver ends a call after TIMEOUT_S
            page = _WebKitPage(driver, self._process)
            try:
                page.goto(url)
                yield page
            finally:
                with contextlib.suppress(*FAILURES):  # MiniBrowser may have ended, which is told already
                    driver.quit()


class _WebKitPage(Page):
    def __init__(self, driver: Remote, process: subprocess.Popen):
        self._driver, self._process = driver, process
        self.browser = {"name": WebKit.name, "version": driver.capabilities["browserVersion"]}

    def goto(self, url: str) -> None:
        """Load a page. Raises PageError where it does not load."""
        with self._page_errors():
            self._driver.set_script_timeout(TIMEOUT_S)
            self._driver.get(url)
        # The driver reports success where WebKit shows its own page about an error.
        if self.call("() => document.URL") != url:
            raise PageError(f"{url} does not load")

    def call(self, function: str, argument: object = None) -> Any:
        with self._page_errors():
            answer = json.loads(self._driver.execute_async_script(CALL % function, json.dumps(argument)))
        if "error" in answer:
            raise PageError(answer["error"].splitlines()[0])
        return answer["value"]

    def peak_memory_mb(self) -> float | None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self._process.pid).children(recursive=True)
            return peak_memory_mb(child.pid for child in children if child.name().startswith("WebKitWebProces"))
        return None

    @contextlib.contextmanager
    def _page_errors(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise PageError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).removeprefix("Message: ").strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _listening(requests: list[str]) -> Iterator[str]:
    """Stand in for a proxy that lets nothing through; yield its address, and append what is asked of it."""

    class Handler(socketserver.StreamRequestHandler):
        timeout = 10

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                words = self.rfile.readline(10_000).split()
                # WebKitGTK speaks TLS to a proxy for https, so that the address stays unknown.
                plain = len(words) == 3 and words[1].isascii()
                requests.append(words[1].decode() if plain else "https://(an address that WebKitGTK encrypts)")
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    server = socketserver.ThreadingTCPServer((HOST, 0), Handler)
    with in_background(server):
        yield f"{HOST}:{server.server_address[1]}"
