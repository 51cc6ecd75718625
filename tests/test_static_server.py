"""The loopback file server: what a browser and a downloader need, and nothing outside the folder."""

import http.client
import socket
from urllib.parse import urlsplit

import pytest

from keras_pipeline.core.static_server import PortUnavailableError, serve_folder


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "page"
    (folder / "empty").mkdir(parents=True)
    (folder / "a b.jpg").write_bytes(b"123456789")
    for name in ("index.html", "app.js", "worker.mjs", "tf.wasm", "labels.json", "group1.bin"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "secret.txt").write_text("secret")
    with serve_folder(folder) as base_url:
        yield http.client.HTTPConnection(urlsplit(base_url).netloc)


def _ask(connection: http.client.HTTPConnection, path: str, method: str = "GET"):
    connection.request(method, path)
    response = connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html; charset=utf-8"),
        ("app.js", "text/javascript"),
        ("worker.mjs", "text/javascript"),
        ("tf.wasm", "application/wasm"),
        ("labels.json", "application/json"),
        ("group1.bin", "application/octet-stream"),
    ],
)
def test_types_that_browsers_insist_on(served, name, kind):
    response, body = _ask(served, f"/{name}")
    assert (response.status, response.headers["Content-Type"], body) == (200, kind, b"x")
    assert response.headers["Cache-Control"] == "no-cache"


def test_head_tells_the_length_without_the_body(served):
    response, body = _ask(served, "/a%20b.jpg", "HEAD")
    assert (response.status, response.headers["Content-Length"], body) == (200, "9", b"")


@pytest.mark.parametrize(
    "path",
    ["/none.jpg", "/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/empty/", "/a%00b", "//../secret.txt"],
)
def test_nothing_else_is_found(served, path):
    response, body = _ask(served, path)
    assert response.status == 404
    assert b"secret" not in body


def test_taken_port_says_what_to_do(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = pytest.raises(PortUnavailableError, match=f"received port {port}.*name another port")
        with expected, serve_folder(tmp_path, port):
            pass


def test_port_is_free_again_afterwards(tmp_path):
    with serve_folder(tmp_path) as first:
        port = urlsplit(first).port
    with serve_folder(tmp_path, port) as second:
        assert second == first


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere"), serve_folder(tmp_path / "nowhere"):
        pass
