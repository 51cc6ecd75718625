"""Downloads against a loopback server that misbehaves in every way hosts are known to."""

import asyncio
import collections
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from keras_pipeline.core.config import Export
from keras_pipeline.data import preprocess, records
from keras_pipeline.ingest import fetch
from keras_pipeline.ingest.ledger import Ledger, Row

HTML = b"<!DOCTYPE html><title>Sorry</title>"
FAST = Export(timeout_seconds=1.0, attempts=2, max_megabytes=0.2, concurrency=8)


class Host(ThreadingHTTPServer):
    """Answers by path; counts requests; `down` answers 503 to everything."""

    def __init__(self, jpeg):
        self.asked, self.down, self.jpeg, self.lock = collections.Counter(), False, jpeg, threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        name = self.path.lstrip("/")
        with self.server.lock:
            self.server.asked[name] += 1
            first = self.server.asked[name] == 1
        photo = self.server.jpeg(sum(name.encode()), (48, 40))
        status, body, headers = 200, photo, {}
        if self.server.down:
            status, body = 503, b""
        elif name.startswith("missing"):
            status, body = 404, HTML
        elif name.startswith("html"):
            body = b"\n " + HTML
        elif name.startswith("moody") and first:
            status, body = 500, b""
        elif name.startswith("half"):
            body = photo[: len(photo) // 2]
        elif name.startswith("small"):
            body = self.server.jpeg(1, (48, 12))
        elif name.startswith("huge"):
            body = b"\xff\xd8" + bytes(300_000)
        elif name.startswith("loop"):
            status, body, headers = 302, b"", {"Location": f"/{name}"}
        elif name.startswith("moved"):
            status, body, headers = 301, b"", {"Location": "/good-elsewhere.jpg"}
        elif name.startswith("slow"):
            time.sleep(1.3)
        elif name.startswith("cut"):
            headers = {"Content-Length": str(len(photo) + 100)}
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if not name.startswith("slow"):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def host(jpeg):
    server = Host(jpeg)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    sleep = asyncio.sleep
    monkeypatch.setattr(fetch.asyncio, "sleep", lambda seconds: sleep(0))


def document(name, **fields):
    empty = dict.fromkeys(("region", "observation_id", "license", "attribution"))
    return {"sample_id": f"id-{name}", "latin_name": " Viola   odorata ", "image_url": name, **empty, **fields}


class Target:
    """Raw shards and a ledger in a folder, as phase 0 has them."""

    def __init__(self, folder, host, settings=FAST):
        self.folder, self.host, self.settings = folder, host, settings

    def convert(self, photo):
        return preprocess.to_record(photo, short_side=36, min_short_side=20, quality=95)

    def write(self, index, photos):
        path = self.folder / f"photos-{index:05d}.tfrecord"
        return records.write_shard(path, map(records.encode, photos), len(photos))["name"]

    def run(self, documents, write=None, per_shard=4):
        self.host.asked.clear()
        with Ledger(self.folder / "ledger.sqlite") as ledger:
            fetch.export_photos(
                documents, total=len(documents), base_url=f"http://127.0.0.1:{self.host.server_port}/",
                settings=self.settings, photos_per_shard=per_shard, convert=self.convert, ledger=ledger,
                write_shard=write or self.write,
            )  # fmt: skip
            return {row.sample_id: row for row in map(row_of, ledger.table().to_dict("records"))}

    def stored(self):
        shards = sorted(self.folder.glob("photos-*.tfrecord"))
        return [records.decode(e) for shard in shards for e in records.read_shard(shard)]


def row_of(values):
    return Row(**values)


@pytest.fixture
def target(tmp_path, host):
    return Target(tmp_path, host)


@pytest.mark.parametrize(
    "name, state, reason, tries, again",
    [
        ("good.jpg", "ok", "", 1, False),
        ("moved.jpg", "ok", "", 1, False),
        ("moody.jpg", "ok", "", 2, False),
        ("missing.jpg", "failed", "HTTP 404", 1, False),
        ("html.jpg", "failed", "an HTML page, not a photo", 1, False),
        ("half.jpg", "failed", "truncated or broken photo", 1, False),
        ("small.jpg", "failed", "shorter side below 20 px", 1, False),
        ("huge.jpg", "failed", "larger than 0.2 MB", 1, False),
        ("loop.jpg", "failed", "TooManyRedirects", 1, False),
        ("slow.jpg", "failed", "timeout", 2, True),
        ("cut.jpg", "failed", "ClientPayloadError", 2, True),
        ("http://127.0.0.1:9/x.jpg", "failed", "ClientConnectorError", 2, True),
        ("http://[::1/x.jpg", "failed", "not an http(s) URL; relative ones need source.base_url", 0, False),
        ("ftp://example.org/x.jpg", "failed", "not an http(s) URL; relative ones need source.base_url", 0, False),
        ("file:///etc/passwd", "failed", "not an http(s) URL; relative ones need source.base_url", 0, False),
    ],
)
def test_what_becomes_of_a_url(target, name, state, reason, tries, again):
    rows = target.run([document(name), document("good-other.jpg")])
    row = rows[f"id-{name}"]
    assert (row.state, row.reason, row.attempts, row.may_succeed) == (state, reason, tries, again)
    assert row.url == name
    assert rows["id-good-other.jpg"].state == "ok"  # nobody's trouble is anybody else's
    assert len(target.stored()) == 1 + (state == "ok")


def test_what_is_stored_of_a_photo(target, host):
    observed = document("good.jpg", region=" EU_SW ", observation_id=17, license="CC0", attribution="Zoë")
    rows = target.run([observed])
    (photo,) = target.stored()
    row = rows["id-good.jpg"]
    assert (photo.sample_id, photo.latin_name, photo.region, photo.group_id) == (
        "id-good.jpg", "Viola odorata", "EU_SW", "17",
    )  # fmt: skip
    assert (photo.license, photo.attribution, photo.source_url, photo.label) == ("CC0", "Zoë", "good.jpg", -1)
    assert photo.sha256 == row.sha256 and (photo.height, photo.width) == (36, 43)  # floor(48 * 36 / 40 + 0.5) = 43
    assert (row.http_status, row.shard) == (200, "photos-00000.tfrecord")


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"latin_name": None}, "no latin_name"),
        ({"latin_name": "  "}, "no latin_name"),
        ({"latin_name": 7}, "latin_name is no text"),
        ({"image_url": None}, "no image_url"),
        ({"image_url": ["a.jpg"]}, "image_url is no text"),
    ],
)
def test_documents_without_label_or_url_are_skipped_and_listed(target, host, fields, reason):
    rows = target.run([{**document("x.jpg"), **fields}, document("good.jpg")])
    assert (rows["id-x.jpg"].state, rows["id-x.jpg"].reason) == ("skipped", reason)
    assert set(host.asked) == {"good.jpg"}


def test_a_second_run_asks_only_for_what_may_succeed(target, host):
    names = ["good.jpg", "missing.jpg", "half.jpg", "slow.jpg", "good-2.jpg"]
    target.run([document(name) for name in names])
    before = target.stored()
    target.run([document(name) for name in names])
    assert set(host.asked) == {"slow.jpg"}
    assert target.stored() == before


def test_a_host_that_comes_back_is_tried_again_in_a_new_shard(target, host):
    target.run([document("good-1.jpg")])
    host.down = True
    documents = [document(f"good-{i}.jpg") for i in range(1, 4)]
    rows = target.run(documents)
    assert [rows[f"id-good-{i}.jpg"].reason for i in (1, 2, 3)] == ["", "HTTP 503", "HTTP 503"]
    host.down = False
    rows = target.run(documents)
    assert [rows[f"id-good-{i}.jpg"].shard for i in (1, 2, 3)] == [
        "photos-00000.tfrecord", "photos-00001.tfrecord", "photos-00001.tfrecord",
    ]  # fmt: skip
    assert sorted(p.sample_id for p in target.stored()) == [f"id-good-{i}.jpg" for i in (1, 2, 3)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_rename_each_photo_is_stored_once(target, moment):
    documents = [document(f"good-{i}.jpg") for i in range(10)]

    def dying(index, photos):
        if index == 1 and moment == "before":
            raise KeyboardInterrupt
        name = target.write(index, photos)
        if index == 1:
            raise KeyboardInterrupt  # the shard is in place, the ledger does not know it
        return name

    with pytest.raises(KeyboardInterrupt):
        target.run(documents, write=dying)
    rows = target.run(documents)
    assert set(target.host.asked) == {f"good-{i}.jpg" for i in range(4, 10)}
    assert [p.sample_id for p in target.stored()] == [d["sample_id"] for d in documents]
    assert all(row.state == "ok" for row in rows.values())


def test_photos_come_in_document_order_however_fast_they_arrive(target):
    names = ["moody-1.jpg", "good-1.jpg", "moved.jpg", "good-2.jpg"]
    target.run([document(name) for name in names])
    assert [p.source_url for p in target.stored()] == names


def test_no_more_downloads_at_once_than_allowed(tmp_path, host):
    target, open_now, most = Target(tmp_path, host, FAST.model_copy(update={"concurrency": 2})), [0], [0]
    original = fetch._try_once

    async def counted(*arguments):
        open_now[0] += 1
        most[0] = max(most[0], open_now[0])
        try:
            return await original(*arguments)
        finally:
            open_now[0] -= 1

    fetch._try_once = counted
    try:
        target.run([document(f"good-{i}.jpg") for i in range(12)], per_shard=12)
    finally:
        fetch._try_once = original
    assert most[0] == 2


def test_check_urls_reads_no_bodies_and_finds_what_would_fail(host):
    names = ["good.jpg", "missing.jpg", "html.jpg", "slow.jpg", "loop.jpg", "http://[::1/x.jpg", "ftp://x/y.jpg"]
    documents = [document(name) for name in names] + [document("n.jpg", latin_name=None)]
    base_url = f"http://127.0.0.1:{host.server_port}/"
    rows = fetch.check_urls(documents, total=len(documents), base_url=base_url, settings=FAST)
    assert [(row.state, row.reason) for row in rows] == [
        ("ok", ""), ("failed", "HTTP 404"), ("failed", "an HTML page, not a photo"), ("failed", "timeout"),
        ("failed", "TooManyRedirects"), ("failed", fetch.NO_URL), ("failed", fetch.NO_URL),
        ("skipped", "no latin_name"),
    ]  # fmt: skip


def test_ledger_commits_all_rows_or_none_and_writes_parquet(tmp_path):
    import pandas as pd

    def rows():
        yield Row("a", "a.jpg", "ok", shard="photos-00000.tfrecord")
        raise KeyboardInterrupt

    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(KeyboardInterrupt):
            ledger.record(rows())
        assert ledger.settled() == set() and ledger.shards() == {}
        ledger.record(
            [Row("b", "b.jpg", "failed", "HTTP 404", 404), Row("a", "a.jpg", "failed", "timeout", may_succeed=True)]
        )
        assert ledger.settled() == {"b"}
        ledger.write_parquet(tmp_path / "l.parquet")
    table = pd.read_parquet(tmp_path / "l.parquet")
    assert table.sample_id.tolist() == ["a", "b"] and table.may_succeed.tolist() == [True, False]
    assert table.http_status.isna().tolist() == [True, False]
