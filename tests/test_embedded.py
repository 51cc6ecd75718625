"""The embedded server: real pymongo over a real socket, gone when its run is gone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pymongo
import pytest

from keras_pipeline.core.errors import SourceError
from keras_pipeline.demo import embedded

_RUN = """
import signal, sys, time
from pathlib import Path
from keras_pipeline.demo import embedded
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background is started without
with embedded.mongo(Path(sys.argv[1])) as uri:
    print(uri, flush=True)
    time.sleep(60)
"""


def _documents() -> list[dict]:
    return [{"_id": i, "latin_name": f"Vellania {i % 3}", "image_url": f"photos/{i}.jpg"} for i in range(1500)]


def _source(folder: Path, documents=_documents):
    (folder / "served").mkdir(exist_ok=True)
    return embedded.source(
        folder / "mongo", documents=documents, photos=folder / "served", database="plants", collection="photos"
    )


def _start_run(data_dir: Path) -> tuple[subprocess.Popen, psutil.Process]:
    """Another run that holds the server open, and the server it started."""
    run = subprocess.Popen([sys.executable, "-c", _RUN, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline().startswith("mongodb://127.0.0.1:")
    return run, psutil.Process(json.loads((data_dir / "server.json").read_text())["pid"])


def _pid(data_dir: Path) -> int:
    return json.loads((data_dir / "server.json").read_text())["pid"]


def test_source_serves_documents_and_photos(tmp_path):
    with _source(tmp_path) as (uri, base_url), pymongo.MongoClient(uri) as client:
        photos = client["plants"]["photos"]
        assert photos.count_documents({}) == 1500
        assert photos.find_one({"_id": 7})["latin_name"] == "Vellania 1"
        assert base_url.startswith("http://127.0.0.1:")


def test_documents_stay_and_are_not_inserted_again(tmp_path):
    with _source(tmp_path) as (uri, _), pymongo.MongoClient(uri) as client:
        client["plants"]["photos"].update_one({"_id": 3}, {"$set": {"seen": True}})
    with _source(tmp_path) as (uri, _), pymongo.MongoClient(uri) as client:
        assert client["plants"]["photos"].find_one({"_id": 3})["seen"]


def test_other_documents_replace_the_old(tmp_path):
    with _source(tmp_path):
        pass
    with _source(tmp_path, lambda: _documents()[:10]) as (uri, _), pymongo.MongoClient(uri) as client:
        assert client["plants"]["photos"].count_documents({}) == 10


def test_half_seeded_collection_is_seeded_again(tmp_path):
    with embedded.mongo(tmp_path / "mongo") as uri, pymongo.MongoClient(uri) as client:
        client["plants"]["photos"].insert_many(_documents()[:700])
    with _source(tmp_path) as (uri, _), pymongo.MongoClient(uri) as client:
        assert client["plants"]["photos"].count_documents({}) == 1500


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_server_ends_with_the_context(tmp_path, error):
    with pytest.raises(error), embedded.mongo(tmp_path):
        pid = _pid(tmp_path)
        raise error
    assert not psutil.pid_exists(pid)
    assert not (tmp_path / "server.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_server_ends_with_a_killed_run(tmp_path, number):
    run, server = _start_run(tmp_path)
    run.send_signal(number)
    run.wait(20)
    psutil.wait_procs([server], timeout=20)
    assert not server.is_running()


def test_orphan_is_found_and_ended(tmp_path):
    orphan = embedded._start(tmp_path)  # its run is gone without a trace, but its standard input is still held: here
    with embedded.mongo(tmp_path) as uri, pymongo.MongoClient(uri) as client:
        assert not psutil.pid_exists(orphan.pid)
        assert client.admin.command("ping")["ok"] == 1


@pytest.mark.parametrize(
    ("code", "shift"), [("'nx_27017'", 5.0), ("'another program'", 0.0)], ids=["other start", "other program"]
)
def test_foreign_process_with_the_same_pid_lives(tmp_path, code, shift):
    foreign = subprocess.Popen([sys.executable, "-c", f"import time; {code}; time.sleep(60)"])
    time.sleep(0.2)
    identity = {"pid": foreign.pid, "started": psutil.Process(foreign.pid).create_time() + shift}
    (tmp_path / "server.json").write_text(json.dumps(identity))
    with embedded.mongo(tmp_path):
        assert foreign.poll() is None
    foreign.kill()
    foreign.wait()


def test_second_run_over_the_same_data_is_refused(tmp_path):
    with embedded.mongo(tmp_path), pytest.raises(SourceError, match="another run has open"), embedded.mongo(tmp_path):
        pass


def test_server_that_cannot_start_shows_its_log(tmp_path):
    (tmp_path / "mongo.db").write_text("this is no SQLite file" * 100)
    with pytest.raises(SourceError, match="ended with status 1(.|\n)*file is not a database"), embedded.mongo(tmp_path):
        pass
