"""An embedded MongoDB server: nx-27017 (MongoDB's wire protocol on SQLite) as a child process.

The child ends with its parent, however the parent ends: the context manager stops it, and its standard input, a pipe
that only the parent holds, closes when the parent is killed. If it outlives the parent nevertheless, the next run
finds it by its process id *and* start time, and ends it.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import bson
import psutil
import pymongo
from filelock import FileLock, Timeout

from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.static_server import HOST, serve_folder
from keras_pipeline.ingest.load import target
from keras_pipeline.ingest.mongo import said

_START_SECONDS = 60.0  # generous: the import alone takes seconds on a cold, busy disk
_STOP_SECONDS = 5.0
_BATCH = 1000  # documents per insert; well under the protocol's 48 MB per message

_CHILD = """
import os, signal, threading, time
def end_with_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
from nx_27017 import main
main()
"""


@contextmanager
def mongo(data_dir: Path) -> Iterator[str]:
    """Run an embedded server on the data in `data_dir` (created if missing) while the context is open.

    Yields `mongodb://127.0.0.1:PORT` with any free port. Raises `SourceError` if the server does not answer within a
    minute (with the end of its log), or if another running process has `data_dir` open.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(data_dir / "server.lock").acquire(timeout=0)
    except Timeout as error:
        raise SourceError(
            f"received data folder {data_dir}, which another run has open; expected one run at a time; "
            "wait for that run or stop it, or give this one another experiment name"
        ) from error
    with lock:
        _end_orphan(data_dir)
        child = _start(data_dir)
        try:
            yield _wait_until_it_answers(child, data_dir)
        finally:
            _stop(child)
            (data_dir / "server.json").unlink(missing_ok=True)


@contextmanager
def looked_at(data_dir: Path, *, documents: Callable[[], list[dict]], database: str, collection: str) -> Iterator[str]:
    """Run a server to look at while the context is open: yields the URI of the data in `data_dir`, unchanged.

    Where `load` has put nothing there, `source` would fill it anew: a server in a temporary folder holds `documents()`
    then. Raises as `mongo`.
    """
    client: pymongo.MongoClient
    if (data_dir / "mongo.db").exists():
        with mongo(data_dir) as uri:
            with pymongo.MongoClient(uri) as client:
                is_loaded = target.is_loaded(client[database], collection)
            if is_loaded:
                yield uri
                return
    with tempfile.TemporaryDirectory() as folder, mongo(Path(folder)) as uri:
        with pymongo.MongoClient(uri) as client:
            _seed(client[database], collection, documents())
        yield uri


@contextmanager
def source(
    folder: Path, *, documents: Callable[[], list[dict]], photos: Path, database: str, collection: str
) -> Iterator[tuple[str, str]]:
    """Run a filled MongoDB and an HTTP server for its photos while the context is open: yields (uri, base_url).

    `documents()` draws what is missing under `photos`. That folder is served at `base_url`, against which relative
    `image_url`s resolve. The collection is filled unless it already holds exactly these documents; one that `load` has
    put documents into is left as it is, and nothing is drawn. Server data is stored under `folder`. Raises what
    `mongo`, `serve_folder` and `documents` raise, and SourceError if the documents can't be stored.
    """
    with serve_folder(photos) as base_url, mongo(folder) as uri:
        try:
            client: pymongo.MongoClient
            with pymongo.MongoClient(uri) as client:
                if not target.is_loaded(client[database], collection):
                    _seed(client[database], collection, documents())
        except pymongo.errors.PyMongoError as error:
            entries = (getattr(error, "details", None) or {}).get("writeErrors", [])
            reasons = ", ".join({said(error), *(entry["errmsg"] for entry in entries)})
            raise SourceError(
                f"{folder}: the embedded MongoDB can't store its documents ({reasons}); free "
                "space on that disk or raise the limit on file size; then the same command resumes where it stopped"
            ) from error
        yield uri, base_url


def _seed(database: pymongo.database.Database, collection: str, documents: list[dict]) -> None:
    """Fill the collection. The marker is written last, so that a run killed halfway starts again."""
    digest = hashlib.sha256(b"".join(bson.encode(document) for document in documents)).hexdigest()
    filled, markers = database[collection], database[f"{collection}{target.SEEDING}"]
    if markers.find_one({"_id": collection, "digest": digest, "n": filled.count_documents({})}):
        return
    markers.delete_many({"_id": collection})
    filled.delete_many({})
    for start in range(0, len(documents), _BATCH):
        filled.insert_many(documents[start : start + _BATCH])
    found = filled.count_documents({})
    if found != len(documents):
        raise SourceError(
            f"received {found} documents back from {collection} after inserting; expected {len(documents)}; "
            "run again, and if this repeats delete the server's data folder"
        )
    markers.insert_one({"_id": collection, "digest": digest, "n": found})


def _start(data_dir: Path) -> subprocess.Popen:
    # Its own session: Ctrl-C reaches only the parent, which may still read from the server while it cleans up.
    # nx-27017 trusts any process with the number in its pid file, so it must not find an old one.
    (data_dir / "nx.pid").unlink(missing_ok=True)
    log = data_dir / "server.log"
    log.unlink(missing_ok=True)
    options = {"--db": "mongo.db", "--log-file": os.devnull, "--pid-file": "nx.pid", "--host": HOST, "--port": "0"}
    command = [sys.executable, "-c", _CHILD, *(part for option in options.items() for part in option)]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, cwd=data_dir, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )
    identity = {"pid": child.pid, "started": psutil.Process(child.pid).create_time()}
    (data_dir / "server.json").write_text(json.dumps(identity))
    return child


def _wait_until_it_answers(child: subprocess.Popen, data_dir: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        port = _listening_port(child.pid)
        if port is not None and _answers(f"mongodb://{HOST}:{port}"):
            return f"mongodb://{HOST}:{port}"
        time.sleep(0.05)
    state = "is silent" if child.poll() is None else f"ended with status {child.returncode}"
    tail = (data_dir / "server.log").read_text(errors="replace")[-2000:]
    raise SourceError(
        f"received no answer from the embedded MongoDB server, which {state}; expected a ping within "
        f"{_START_SECONDS:.0f} s; read its log, {data_dir / 'server.log'}, or set source.uri to your own:\n{tail}"
    )


def _listening_port(pid: int) -> int | None:
    """Return the port that the child chose. Choosing one for it would leave time for another program to take it."""
    with suppress(psutil.Error):
        for connection in psutil.Process(pid).net_connections("tcp4"):
            if connection.status == psutil.CONN_LISTEN:
                return connection.laddr.port
    return None


def _answers(uri: str) -> bool:
    client: pymongo.MongoClient
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=2000) as client, suppress(pymongo.errors.PyMongoError):
        return client.admin.command("ping")["ok"] == 1
    return False


def _stop(child: subprocess.Popen) -> None:
    child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdin:
        child.stdin.close()


def _end_orphan(data_dir: Path) -> None:
    """End a server that a killed run left on this data. The lock is held, so no running process owns it."""
    record = data_dir / "server.json"
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        identity = json.loads(record.read_text())
        process = psutil.Process(identity["pid"])
        # The process id alone may belong to another program by now.
        if process.create_time() == identity["started"] and "nx_27017" in " ".join(process.cmdline()):
            process.terminate()
            _, alive = psutil.wait_procs([process], _STOP_SECONDS)
            for stubborn in alive:
                stubborn.kill()
    record.unlink(missing_ok=True)
