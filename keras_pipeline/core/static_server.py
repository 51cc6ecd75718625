"""A loopback HTTP server for one folder: the demo's photos, and the exported page."""

import os
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

HOST = "127.0.0.1"


class PortUnavailableError(OSError):
    """The server cannot listen on the requested port."""


# Browsers let a page that is isolated from other sites share memory between threads.
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Handler(SimpleHTTPRequestHandler):
    # Connections stay open between requests; otherwise a thousand photos would cost a thousand handshakes.
    protocol_version = "HTTP/1.1"
    # Head and body are two writes: with Nagle's algorithm each answer would wait 40 ms for a delayed acknowledgement.
    disable_nagle_algorithm = True
    timeout = 60  # seconds an idle connection keeps its thread
    # The system's table may be missing or wrong, and browsers refuse modules and WebAssembly of a wrong type.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".html": "text/html; charset=utf-8",
        ".json": "application/json",
        ".wasm": "application/wasm",
        ".bin": "application/octet-stream",
        ".jpg": "image/jpeg",
        ".png": "image/png",
        ".svg": "image/svg+xml",
    }

    def __init__(self, *args: Any, headers: Mapping[str, str], **options: Any):
        self.headers_of_all = headers
        super().__init__(*args, **options)  # answers the request

    def send_head(self) -> BinaryIO | None:
        # A NUL byte in the path would otherwise end the connection with a traceback.
        if "%00" in self.path or "\0" in self.path:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        for name, value in self.headers_of_all.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the caller's own progress and ledger report on requests."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # a downloader opens many connections at once; the default 5 would refuse some

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: a client that hangs up early is none."""


@contextmanager
def serve_folder(
    folder: Path,
    port: int = 0,
    *,
    host: str = HOST,
    certificate: ssl.SSLContext | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """Serve the files under `folder` while the context is open, on the loopback interface unless `host` is another.

    Yields the base URL, `http://127.0.0.1:PORT/`, with a certificate `https://…`. Port 0 takes any free port. There are
    no directory listings. Paths out of the folder are not found; symbolic links inside it are followed. `headers`, such
    as ISOLATED, go with every answer. Raises `NotADirectoryError` if the folder does not exist, and
    `PortUnavailableError` (an `OSError`) if the port is taken or not allowed, or no address of this machine.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"received folder {folder} to serve; expected an existing directory; fill it first")
    try:
        server = _Server((host, port), partial(_Handler, directory=str(folder.resolve()), headers=headers))
    except (OSError, OverflowError) as error:
        raise PortUnavailableError(
            f"received port {port}, on which {host} cannot listen ({error}); expected a free port from 1024 to 65535; "
            "stop the program that uses it, name another port, or give 0 to take any free one"
        ) from error
    if certificate:
        # Each connection shakes hands in its own thread: one that never does must not hold up the others.
        server.socket = certificate.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    name = f"[{host}]" if ":" in host else host
    with in_background(server):
        yield f"{'https' if certificate else 'http'}://{name}:{server.server_port}/"


@contextmanager
def in_background(server: socketserver.BaseServer) -> Iterator[None]:
    """Let a server answer in a thread while the context is open, then close it."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
