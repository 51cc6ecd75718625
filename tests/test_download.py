"""From documents to raw shards over a host that misbehaves: nothing lost, nothing twice, and the host not hammered."""

import asyncio
import collections
import functools
import sqlite3
import time

import pandas as pd
import pytest
from conftest import jpeg_of
from support.hostile_host import HostileHost
from support.raw_host import RawHost, response

from keras_pipeline.core.config.phase0 import Export, HostLimits
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.data import first_bytes, records
from keras_pipeline.data import photo as photos
from keras_pipeline.ingest import crawl, download, fetch, pace
from keras_pipeline.ingest.fetch import Answer
from keras_pipeline.ingest.ledger import Ledger

QUICK = Export(
    connect_seconds=1, read_seconds=0.3, total_seconds=0.8, max_megabytes=0.2, allow_networks=["127.0.0.1/32"],
    max_redirects=3, attempts=3, backoff_seconds=0.02, max_wait_seconds=5, concurrency=32,
    each_host=HostLimits(concurrency=16, requests_per_second=None),
)  # fmt: skip
CHECK = functools.partial(first_bytes.refusal, min_short_side=20)


class Names:
    """A curation that excludes nothing."""

    def refusal(self, document):
        return None if document["latin_name"] else "no latin_name"

    def latin_name(self, raw):
        return " ".join(raw.split())


def document(name, **fields):
    empty = dict.fromkeys(
        ("region", "observation_id", "license", "attribution", "user_id", "observed_on", "latitude", "longitude")
    )
    return {"sample_id": f"id-{name}", "latin_name": " Viola   odorata ", "image_url": name, **empty, **fields}


class Target:
    """Raw shards and a ledger in a folder, as phase 0 has them."""

    def __init__(self, folder, host, settings=QUICK):
        self.folder, self.host, self.settings, self.opened = folder, host, settings, 0
        self.caps = {"max_per_observation": None, "max_per_species": None}
        self.url_replace = None

    def convert(self, photo):
        return photos.to_record(photo, short_side=36, min_short_side=20, quality=95)

    def open_shard(self):
        self.opened += 1
        name = f"photos-{self.opened - 1:05d}.tfrecord"
        return name, records.ShardWriter(self.folder / name)

    def run(self, documents, per_shard=4, seed=1):
        """Rows of the ledger by sample id, after one export."""
        self.host.asked.clear()
        with Ledger(self.folder / "ledger.sqlite") as ledger:
            ledger.plan(download.rows(documents, Names(), self.host.url, self.url_replace), seed=seed)
            ledger.choose(**self.caps)
            given_up = {}
            while ledger.count("waiting"):
                download.fetch_photos(
                    ledger, self.settings, base_url=self.host.url, own=False, convert=self.convert,
                    encode=records.encode, open_shard=self.open_shard, shard_bytes=per_shard * 2000,
                    given_up=given_up, url_replace=self.url_replace,
                )  # fmt: skip
                ledger.choose(**self.caps)
            ledger.write_parquet(self.folder / "ledger.parquet")
        table = pd.read_parquet(self.folder / "ledger.parquet")
        return {row.sample_id: row for row in table.itertuples()}

    def stored(self):
        shards = sorted(self.folder.glob("photos-*.tfrecord"))
        return [records.decode(e) for shard in shards for e in records.read_shard(shard)]


@pytest.fixture
def host():
    with HostileHost(jpeg_of) as host:
        yield host


@pytest.fixture
def target(tmp_path, host):
    return Target(tmp_path, host)


def test_what_is_replaced_in_a_url_is_requested_and_nothing_else_changes(target):
    target.url_replace = {"/original-": "/good-", ".png": ".jpg"}
    (row,) = target.run([document(f"{target.host.url}original-1.png")]).values()
    assert (row.state, row.url) == ("ok", f"{target.host.url}original-1.png")
    assert list(target.host.asked) == ["good-1.jpg"]
    assert target.stored()[0].source_url == row.url


@pytest.mark.parametrize(
    "name, state, reason, tries, again",
    [
        ("good-1.jpg", "ok", "", 1, False),
        ("moved-1.jpg", "ok", "", 1, False),
        ("moody-1.jpg", "ok", "", 2, False),
        ("busy-1.jpg", "ok", "", 2, False),
        ("missing-1.jpg", "failed", "HTTP 404", 1, False),
        ("html-1.jpg", "failed", "an HTML page, not a photo", 1, True),
        ("empty-1.jpg", "failed", "an empty file", 1, True),
        ("half-1.jpg", "failed", "cut off: the end of the JPEG is missing", 1, True),
        ("small-1.jpg", "failed", "shorter side below 20 px", 1, False),
        ("endless-1.jpg", "failed", "larger than 0.2 MB", 1, False),
        ("loop-1.jpg", "failed", "more than 3 redirects", 1, True),
        ("hung-1.jpg", "failed", "silent for 0.3 s", 3, True),
        ("ftp://example.org/x.jpg", "failed", "not a valid http(s) URL; relative ones need source.base_url", 0, False),
    ],
)
def test_what_becomes_of_a_url(target, name, state, reason, tries, again):
    target.host.photo_of = lambda name: jpeg_of(1, (48, 12) if name.startswith("small") else (48, 40))
    rows = target.run([document(name), document("good-other.jpg")])
    row = rows[f"id-{name}"]
    assert (row.state, row.reason, row.attempts, row.may_succeed) == (state, reason, tries, again)
    assert row.url == name
    assert rows["id-good-other.jpg"].state == "ok"  # nobody's trouble is anybody else's
    assert len(target.stored()) == 1 + (state == "ok")


def test_what_is_kept_of_a_document(target):
    rows = target.run(
        [document("good-1.jpg", region=" EU_SW ", observation_id=17, license="CC0", attribution="Zoë", user_id="u",
                  observed_on="2021-05-03T10:00", latitude=41, longitude=float("nan"))]
    )  # fmt: skip
    (photo,) = target.stored()
    row = rows["id-good-1.jpg"]
    assert (photo.sample_id, photo.latin_name, photo.region) == ("id-good-1.jpg", "Viola odorata", "EU_SW")
    assert (photo.license, photo.attribution, photo.source_url, photo.label) == ("CC0", "Zoë", "good-1.jpg", -1)
    assert photo.sha256 == row.sha256 and (photo.height, photo.width) == (36, 43)  # floor(48 * 36 / 40 + 0.5) = 43
    assert (row.observation_id, row.user_id, row.day, row.latitude) == ("17", "u", "2021-05-03", 41.0)
    assert pd.isna(row.longitude) and row.http_status == 200 and row.bytes > 1000


def test_documents_that_the_curation_refuses_are_listed_and_not_asked_for(target):
    rows = target.run([document("x.jpg", latin_name=None), document("good-1.jpg")])
    assert (rows["id-x.jpg"].state, rows["id-x.jpg"].reason) == ("skipped", "no latin_name")
    assert set(target.host.asked) == {"good-1.jpg"}


def test_a_second_run_asks_only_for_what_may_succeed(target):
    names = ["good-1.jpg", "missing-1.jpg", "small-1.jpg", "half-1.jpg", "hung-1.jpg", "good-2.jpg"]
    target.run([document(name) for name in names])
    before = target.stored()
    target.run([document(name) for name in names])
    assert set(target.host.asked) == {"half-1.jpg", "hung-1.jpg"}
    assert target.stored() == before


def test_a_photo_that_is_cut_off_is_asked_for_until_it_is_the_hosts_file(target):
    whole = jpeg_of(1, (48, 40))

    def run(n):
        target.host.photo_of = lambda name: whole[: 2 * n]  # of which half-* gives half
        row = target.run([document("half-1.jpg")])["id-half-1.jpg"]
        return row.attempts, row.may_succeed

    assert run(500) == (1, True) and run(600) == (2, True)  # its host may be writing it
    assert run(600) == (3, False) and run(600) == (3, False) and not target.host.asked  # as many bytes: that's the file
    target.run([document("half-2.jpg")])
    target.host.photo_of = lambda name: whole
    target.host.becomes["half-2.jpg"] = "good"
    assert target.run([document("half-2.jpg")])["id-half-2.jpg"].state == "ok"


def test_a_photo_that_is_cut_off_elsewhere_each_time_is_asked_for_five_times(target):
    for n in range(6):
        target.host.photo_of = lambda name, n=n: jpeg_of(1, (48, 40))[: 600 + 20 * n]
        row = target.run([document("half-1.jpg")])["id-half-1.jpg"]
    assert (row.attempts, row.may_succeed) == (5, False)


def test_a_growing_collection_costs_only_what_is_new(target):
    target.run([document(f"good-{i}.jpg") for i in range(5)])
    grown = [document(f"good-{i}.jpg", latin_name="Viola alba") for i in range(1, 8)]
    rows = target.run(grown)
    assert set(target.host.asked) == {"good-5.jpg", "good-6.jpg", "good-7.jpg"}
    assert set(rows) == {f"id-good-{i}.jpg" for i in range(1, 8)}  # the vanished document is forgotten
    assert {row.latin_name for row in rows.values()} == {"Viola alba"}  # a new name needs no new photo


def test_another_url_is_another_photo(target):
    target.run([document("good-1.jpg")])
    rows = target.run([document("good-1.jpg") | {"image_url": "good-9.jpg"}])
    assert set(target.host.asked) == {"good-9.jpg"} and rows["id-good-1.jpg"].url == "good-9.jpg"
    assert [photo.sha256 == rows["id-good-1.jpg"].sha256 for photo in target.stored()] == [False, True]


def test_a_host_that_comes_back_is_asked_again_in_a_new_shard(target):
    target.run([document("good-1.jpg")])
    documents = [document(f"good-{i}.jpg") for i in range(1, 4)]
    target.host.down = True
    rows = target.run(documents)
    assert [rows[f"id-good-{i}.jpg"].state for i in (1, 2, 3)] == ["ok", "failed", "failed"]
    target.host.down = False
    target.run(documents)
    assert sorted(p.sample_id for p in target.stored()) == [f"id-good-{i}.jpg" for i in (1, 2, 3)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_rename_each_photo_is_stored_once(target, moment, monkeypatch):
    documents = [document(f"good-{i}.jpg") for i in range(10)]
    finish = records.ShardWriter.finish

    def dying(self):
        if moment == "after":
            finish(self)  # the shard is in place, the ledger does not know it
        raise RuntimeError("killed")

    monkeypatch.setattr(records.ShardWriter, "finish", dying)
    with pytest.raises(RuntimeError, match="killed"):
        target.run(documents)
    monkeypatch.undo()
    for shard in target.folder.glob("photos-*"):  # as phase 0 does with shards that are not in the ledger
        shard.unlink()
    rows = target.run(documents)
    assert sorted(p.sample_id for p in target.stored()) == sorted(d["sample_id"] for d in documents)
    assert all(row.state == "ok" for row in rows.values())


def test_shards_come_near_their_size(target):
    target.run([document(f"good-{i}.jpg") for i in range(30)], per_shard=5)
    sizes = [path.stat().st_size for path in sorted(target.folder.glob("photos-*.tfrecord"))]
    assert len(sizes) > 3 and all(10_000 <= size < 14_000 for size in sizes[:-1])
    assert not list(target.folder.glob(".writing-*"))


def test_a_full_disk_ends_the_export_and_keeps_finished_shards(target, monkeypatch):
    documents = [document(f"good-{i}.jpg") for i in range(30)]
    add = records.ShardWriter.add

    def full(self, example):
        if target.opened == 3:
            raise OSError(28, "No space left on device")
        add(self, example)

    monkeypatch.setattr(records.ShardWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        target.run(documents)
    monkeypatch.undo()
    assert len(list(target.folder.glob("photos-*"))) == 2 and not list(target.folder.glob(".writing-*"))
    kept = {photo.sample_id for photo in target.stored()}
    target.run(documents)
    assert not {f"id-{name}" for name in target.host.asked} & kept
    assert len(target.stored()) == len({photo.sample_id for photo in target.stored()}) == 30


def test_caps_choose_by_a_seeded_draw_and_top_up_where_photos_fail(target):
    species = [document(f"{'missing' if i % 3 == 0 else 'good'}-{i}.jpg") for i in range(30)]
    target.caps |= {"max_per_species": 8}
    rows = target.run(species)
    states = collections.Counter(row.state for row in rows.values())
    assert states["ok"] == 8 and target.host.asked.total() == 8 + states["failed"]
    chosen = {name for name, row in rows.items() if row.state == "ok"}
    assert {row.reason for row in rows.values() if row.state == "skipped"} == {"over source.max_per_species"}
    assert {name for name, row in target.run(species).items() if row.state == "ok"} == chosen
    target.caps |= {"max_per_species": None}
    assert sum(row.state == "ok" for row in target.run(species).values()) == 20


def test_a_cap_on_observations(target):
    documents = [document(f"good-{i}.jpg", observation_id=i // 5) for i in range(15)]
    target.caps |= {"max_per_observation": 2}
    rows = target.run([*documents, document("good-99.jpg"), document("good-98.jpg"), document("good-97.jpg")])
    stored = collections.Counter(row.observation_id for row in rows.values() if row.state == "ok")
    assert stored == {"0": 2, "1": 2, "2": 2, "": 3}  # no observation is no observation in common


KINDS = (
    "good", "good", "moved", "moody", "missing", "html", "half", "short", "endless", "drip", "hung", "reset", "loop",
    "quiet", "rubbish", "gzip", "away", "empty", "inside",
)  # fmt: skip
BAD = {
    "missing": "HTTP 404", "html": "an HTML page, not a photo", "half": "cut off: the end of the JPEG is missing",
    "short": "ended before its announced length", "endless": "larger than 0.2 MB", "hung": "silent for 0.3 s",
    "drip": "not finished within 0.8 s", "reset": "connection reset", "loop": "more than 3 redirects",
    "quiet": "silent for 0.3 s", "rubbish": "an answer that is not HTTP", "gzip": "sent with Content-Encoding gzip",
    "away": "redirected to what is no http(s) URL", "empty": "an empty file",
    "inside": "private address 127.0.0.2 refused; see phase0.export.allow_networks",
}  # fmt: skip


def test_a_hostile_host_every_good_photo_arrives_and_every_bad_one_has_its_reason(target):
    # 20 % of the URLs misbehave, in every way; some good ones answer 429 or 500 first.
    names = [f"{KINDS[4 + i // 5 % 15] if i % 5 == 0 else KINDS[i % 4]}-{i}.jpg" for i in range(300)]
    names += [f"busy-{i}.jpg" for i in range(3)]
    rows = target.run([document(name) for name in names], per_shard=40)
    for name in names:
        row, kind = rows[f"id-{name}"], name.split("-")[0]
        assert (row.state, row.reason) == (("failed", BAD[kind]) if kind in BAD else ("ok", "")), name
        assert row.attempts == target.host.asked[name] or kind in ("loop", "moved")
    assert sorted(p.source_url for p in target.stored()) == sorted(n for n in names if n.split("-")[0] not in BAD)
    retried = {name for name in names if rows[f"id-{name}"].may_succeed}
    target.run([document(name) for name in names])
    assert {name for name in target.host.asked if name != "good-elsewhere.jpg"} == retried


def test_the_rate_and_the_concurrency_of_a_host_are_kept(tmp_path, host):
    limits = HostLimits(concurrency=3, requests_per_second=40)
    target = Target(tmp_path, host, QUICK.model_copy(update={"each_host": limits}))
    host.delay = 0.1
    target.run([document(f"good-{i}.jpg") for i in range(40)])
    times = [at for at, _ in host.times]
    assert host.most == 3
    for window in (0.25, 0.5):
        busiest = max(sum(start <= t < start + window for t in times) for start in times)
        assert busiest <= 40 * window + 2  # one at the edge, one for the clock


def test_retry_after_gives_the_whole_host_its_peace(tmp_path, host):
    limits = HostLimits(concurrency=4, requests_per_second=50)
    target = Target(tmp_path, host, QUICK.model_copy(update={"each_host": limits}))
    rows = target.run([document("busy-1.jpg"), *(document(f"good-{i}.jpg") for i in range(30))])
    assert all(row.state == "ok" for row in rows.values())
    start = next(at for at, name in host.times if name == "busy-1.jpg")
    # Requests that were under way when the 429 came are no breach; nothing else may come within the second.
    assert sum(start + 0.1 < at < start + 0.98 for at, _ in host.times) == 0


def test_a_host_that_asks_for_an_hour_waits_for_another_run(target):
    rows = target.run([document(f"late-{i}.jpg") for i in range(30)])
    assert target.host.asked.total() <= 16  # the requests that were under way
    assert {(row.state, row.may_succeed) for row in rows.values()} == {("failed", True)}
    assert any("asked us to wait 3600 s" in row.reason for row in rows.values())


def test_a_dead_host_is_given_up_and_the_others_are_not(target):
    settings = target.settings.model_copy(update={"host_failures": 5, "attempts": 2})
    target.settings = settings
    dead = [document(f"http://127.0.0.1:9/{i}.jpg") for i in range(200)]
    rows = target.run([*dead, *(document(f"good-{i}.jpg") for i in range(10))])
    assert (
        sum(row.attempts for row in rows.values() if row.url.startswith("http")) <= 2 * 16
    )  # two rounds of those under way at once
    assert sum(row.state == "ok" for row in rows.values()) == 10
    assert {row.may_succeed for row in rows.values() if row.state == "failed"} == {True}


def test_a_host_that_is_given_up_frees_those_who_wait_for_its_turn(tmp_path, host):
    # At 5 a second nearly all are waiting for their turn when the first one hears of an hour of peace.
    limits = HostLimits(concurrency=8, requests_per_second=5)
    target = Target(tmp_path, host, QUICK.model_copy(update={"each_host": limits}))
    started = time.monotonic()
    rows = target.run([document(f"late-{i}.jpg") for i in range(30)])
    assert time.monotonic() - started < 3 and host.asked.total() <= 2
    assert {(row.state, row.may_succeed) for row in rows.values()} == {("failed", True)}


def test_after_a_rest_requests_come_at_the_rate_again(tmp_path, host):
    limits = HostLimits(concurrency=4, requests_per_second=10)
    target = Target(tmp_path, host, QUICK.model_copy(update={"each_host": limits}))
    target.run([document("busy-1.jpg"), *(document(f"good-{i}.jpg") for i in range(12))])
    times = sorted(at for at, _ in host.times)
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) > 0.07


def test_with_a_cap_a_host_that_was_given_up_is_not_asked_for_others_of_the_species(target):
    target.caps |= {"max_per_species": 5}
    rows = target.run([document(f"late-{i}.jpg") for i in range(60)])
    assert target.host.asked.total() <= 16
    assert {row.state for row in rows.values()} == {"failed"}


def test_redirects_keep_the_limits_of_the_host_they_lead_to(tmp_path, host):
    with HostileHost(jpeg_of, "127.0.0.2") as cdn:
        host.elsewhere, cdn.delay = cdn.url, 0.05
        settings = QUICK.model_copy(
            update={
                "allow_networks": ["127.0.0.0/8"],
                "hosts": {f"127.0.0.2:{cdn.port}": HostLimits(concurrency=2, requests_per_second=None)},
            }
        )
        rows = Target(tmp_path, host, settings).run([document(f"cdn-{i}.jpg") for i in range(20)])
        assert all(row.state == "ok" for row in rows.values())
        assert cdn.most == 2 and cdn.asked.total() == 20


def test_a_host_behind_redirects_is_given_up_and_not_the_one_that_leads_there(tmp_path, host):
    with HostileHost(jpeg_of, "127.0.0.2") as cdn:
        host.elsewhere, cdn.down = cdn.url, True
        settings = QUICK.model_copy(
            update={
                "allow_networks": ["127.0.0.0/8"], "host_failures": 4,
                "hosts": {f"127.0.0.2:{cdn.port}": HostLimits(concurrency=1, requests_per_second=None)},
            }
        )  # fmt: skip
        names = [*(f"cdn-{i}.jpg" for i in range(20)), *(f"good-{i}.jpg" for i in range(20))]
        rows = Target(tmp_path, host, settings).run([document(name) for name in names])
        assert cdn.asked.total() == 4
        assert {row.state for row in rows.values() if row.url.startswith("good")} == {"ok"}
        bad = [row for row in rows.values() if row.url.startswith("cdn")]
        assert {(row.state, row.may_succeed) for row in bad} == {("failed", True)}


def test_failures_under_way_at_once_are_one_and_a_redirect_is_an_answer():
    async def failures():
        host, now = crawl.Host(HostLimits(), QUICK), asyncio.get_running_loop().time()
        down = Answer(reason="HTTP 503", http_status=503, may_succeed=True, host_trouble=True)
        for _ in range(50):
            host.record_answer(down, 1, now)
        after_one_round = host._failures
        host.record_success()
        return after_one_round, host._failures, host.given_up

    assert asyncio.run(failures()) == (1, 0, "")


def test_checked_urls_stay_checked_when_the_run_was_killed(tmp_path, host):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        documents = [document(name) for name in ("good-1.jpg", "good-2.jpg", "missing-1.jpg", "down-1.jpg")]
        for _ in range(2):
            ledger.plan(download.rows(documents, Names(), host.url), seed=1)
            download.check_urls(ledger, QUICK, base_url=host.url, own=False, check=CHECK)
    assert host.asked == {"good-1.jpg": 1, "good-2.jpg": 1, "missing-1.jpg": 1, "down-1.jpg": 6}


def test_with_other_settings_all_that_failed_is_tried_again(tmp_path, host):
    documents = [document("missing-1.jpg"), document("good-1.jpg"), document("ftp://x/y")]
    waiting = []
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for settings in ("a", "a", "b"):
            ledger.request_with(settings)
            ledger.plan(download.rows(documents, Names(), host.url), seed=1)
            waiting.append(ledger.count("waiting"))
            download.check_urls(ledger, QUICK, base_url=host.url, own=False, check=CHECK)
    assert waiting == [2, 0, 1]


def test_what_is_no_ledger_is_named_and_a_full_disk_is_told_as_one(tmp_path):
    (tmp_path / "l.sqlite").write_bytes(b"rubbish" * 1000)
    with pytest.raises(BrokenArtefact, match="l.sqlite: .*remove it"), Ledger(tmp_path / "l.sqlite"):
        pass
    with pytest.raises(SourceError, match="disk is full.*make room"), Ledger(tmp_path / "m.sqlite"):
        raise sqlite3.OperationalError("database or disk is full")


def test_hosts_have_their_own_limits_and_ours_needs_no_mercy(tmp_path, host):
    seen = []

    class Watched(crawl.Host):
        def __init__(self, limits, settings, given_up):
            seen.append(limits)
            super().__init__(limits, settings, given_up)

    settings = QUICK.model_copy(update={"hosts": {"127.0.0.1:9": HostLimits(concurrency=2)}, "host_failures": 1})
    with pytest.MonkeyPatch.context() as patch, Ledger(tmp_path / "l.sqlite") as ledger:
        patch.setattr(crawl, "Host", Watched)
        documents = [document("http://127.0.0.1:9/a.jpg"), document("good-1.jpg")]
        ledger.plan(download.rows(documents, Names(), host.url), seed=1)
        download.check_urls(ledger, settings, base_url=host.url, own=True, check=CHECK)
    ours = HostLimits(concurrency=settings.concurrency, requests_per_second=None)
    assert sorted(seen, key=lambda limits: limits.concurrency) == [HostLimits(concurrency=2), ours]


def test_check_urls_finds_what_would_fail_and_stores_nothing(tmp_path, host):
    names = ["good-1.jpg", "missing-1.jpg", "html-1.jpg", "hung-1.jpg", "loop-1.jpg", "endless-1.jpg", "empty-1.jpg"]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        documents = [document(name) for name in names] + [document("n.jpg", latin_name=None), document("ftp://x/y")]
        ledger.plan(download.rows(documents, Names(), host.url), seed=1)
        download.check_urls(ledger, QUICK, base_url=host.url, own=False, check=CHECK)
        tally = {(state, reason): n for state, reason, n in ledger.tally("state", "reason")}
    assert tally == {
        ("ok", ""): 1, ("failed", "HTTP 404"): 1, ("failed", "an HTML page, not a photo"): 1,
        ("failed", "not a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF picture"): 1,
        ("failed", "silent for 0.3 s"): 1, ("failed", "more than 3 redirects"): 1, ("failed", "an empty file"): 1,
        ("skipped", "no latin_name"): 1, ("failed", "not a valid http(s) URL; relative ones need source.base_url"): 1,
    }  # fmt: skip


def test_a_sample_is_drawn_by_the_seed_and_has_the_size_asked_for(tmp_path, host):
    def drawn(seed):
        with Ledger(tmp_path / f"{seed}.sqlite") as ledger:
            ledger.plan(download.rows([document(f"good-{i}.jpg") for i in range(50)], Names(), host.url), seed=seed)
            ledger.sample(12)
            return {task.document.sample_id for task in ledger.waiting(f"127.0.0.1:{host.port}")}

    assert len(drawn(1)) == 12 and drawn(1) == drawn(1) != drawn(2)


def test_a_plan_that_was_killed_is_made_again_whole(tmp_path, host):
    def broken():
        yield from download.rows([document(f"good-{i}.jpg") for i in range(3)], Names(), host.url)
        raise KeyboardInterrupt

    with Ledger(tmp_path / "l.sqlite") as ledger:
        whole = list(download.rows([document(f"good-{i}.jpg") for i in range(5)], Names(), host.url))
        ledger.plan(whole, seed=1)
        with pytest.raises(KeyboardInterrupt):
            ledger.plan(broken(), seed=1)
        assert ledger.count("waiting") == 5
        ledger.plan(whole, seed=1)
        assert ledger.count("waiting") == 5


def test_two_documents_that_only_differ_in_the_case_of_their_id_are_two(tmp_path, host):
    one, two = document("good-1.jpg", sample_id="aB"), document("good-2.jpg", sample_id="ab")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.plan(download.rows([one, two], Names(), host.url), seed=1)
        assert ledger.count("waiting") == 2
        found = {task.document.sample_id: task.document.url for task in ledger.waiting(f"127.0.0.1:{host.port}")}
        assert found == {"aB": "good-1.jpg", "ab": "good-2.jpg"}


def test_two_documents_of_one_id_are_an_error_not_a_lost_photo(tmp_path, host):
    one, two = document("good-1.jpg", sample_id="7"), document("good-2.jpg", sample_id="7")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(ValueError, match="received 2 documents with 1 different _ids"):
            ledger.plan(download.rows([one, two], Names(), host.url), seed=1)
        ledger.plan(download.rows([two], Names(), host.url), seed=1)  # mended
        assert ledger.count("waiting") == 1


def test_a_url_keeps_its_password_to_itself(target):
    secret = target.host.url.replace("://", "://me:hush@")
    target.run([document(f"{secret}good-1.jpg"), document(f"{secret}missing-1.jpg")])
    assert [photo.source_url for photo in target.stored()] == [f"{target.host.url}good-1.jpg"]
    assert set(pd.read_parquet(target.folder / "ledger.parquet").url) == {
        f"{target.host.url}good-1.jpg", f"{target.host.url}missing-1.jpg",
    }  # fmt: skip


def test_pauses_double_with_jitter_up_to_the_longest(monkeypatch):
    clock = asyncio.new_event_loop()
    monkeypatch.setattr(crawl.asyncio, "get_running_loop", lambda: clock)
    settings = QUICK.model_copy(update={"backoff_seconds": 2.0, "max_wait_seconds": 10.0, "host_failures": 99})
    answer = Answer(reason="HTTP 500", http_status=500, may_succeed=True)
    for tries, longest in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (9, 10.0)):
        host = crawl.Host(HostLimits(), settings)
        waits = [host.record_answer(answer, tries, clock.time()) - clock.time() for _ in range(200)]
        assert longest * 0.49 < min(waits) < longest * 0.6 and longest * 0.9 < max(waits) <= longest
    clock.close()


def test_all_hosts_together_keep_the_concurrency(tmp_path, host):
    with HostileHost(jpeg_of, "127.0.0.2") as other:
        host.delay = other.delay = 0.05
        settings = QUICK.model_copy(update={"concurrency": 3, "allow_networks": ["127.0.0.0/8"]})
        urls = [f"{each.url}good-{i}.jpg" for i in range(15) for each in (host, other)]
        Target(tmp_path, host, settings).run([document(url) for url in urls])
        assert max(host.most, other.most) <= 3
        times = sorted(at for each in (host, other) for at, _ in each.times)
        assert all(b - a >= 0.045 for a, b in zip(times, times[3:], strict=False))


def picture(size=(48, 40), **options):
    return jpeg_of(1, size, **options)


REFUSED = [  # what a host sends with status 200, and why it is not stored
    (b'{"error": "not found"}', "a text or JSON, not a photo"),
    (b"<!DOCTYPE html>", "an HTML page, not a photo"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC, not a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF picture"),
    (b"\0\0\0\x18ftypisom\0\0\0\0mp41avc1" + bytes(99),
     "a video, not a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF picture"),
    (b"%PDF-1.4\0\n", "a PDF document, not a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF picture"),
    (b"", "an empty file"),
    (b"\0" * 99, "not a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF picture"),
    *((picture((60, 12), format=each), "shorter side below 20 px")
      for each in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF")),
    (picture((60, 12), comment=bytes(9000)), "shorter side below 20 px"),
    (picture((60, 12), format="WEBP", lossless=True), "shorter side below 20 px"),
    (picture((60, 12), format="WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"), "shorter side below 20 px"),
]  # fmt: skip


def test_the_check_refuses_what_the_export_refuses(tmp_path):
    bodies = [*(body for body, _ in REFUSED), *(picture(format=each) for each in ("JPEG", "PNG", "TIFF", "AVIF"))]
    with RawHost(lambda target, _: response(bodies[int(target[1:])])) as host:
        documents = [document(f"{host.url}/{i}") for i in range(len(bodies))]
        with Ledger(tmp_path / "l.sqlite") as ledger:
            ledger.plan(download.rows(documents, Names(), None), seed=1)
            download.check_urls(ledger, QUICK, base_url=None, own=False, check=CHECK)
            ledger.write_parquet(tmp_path / "check.parquet")
        exported = Target(tmp_path, host).run(documents)
    checked = {row.sample_id: row.reason for row in pd.read_parquet(tmp_path / "check.parquet").itertuples()}
    for document_, reason in zip(documents, [*(reason for _, reason in REFUSED), "", "", "", ""], strict=True):
        assert checked[document_["sample_id"]] == exported[document_["sample_id"]].reason == reason


@pytest.mark.parametrize(
    "bad", [response(status=522), response(status=202), response(status=501), response(b"<!DOCTYPE html>"),
            response(status=403), response(b"{}"), response(), response(status=302, location="ftp://x/")]
)  # fmt: skip
def test_a_bad_hour_is_not_for_ever(tmp_path, bad):
    with RawHost(lambda *_: bad if len(host.lines) == 1 else response(picture())) as host:
        target = Target(tmp_path, host, QUICK.model_copy(update={"attempts": 1}))
        (first,) = target.run([document(host.url + "/a.jpg")]).values()
        assert (first.state, first.may_succeed) == ("failed", True)
        (second,) = target.run([document(host.url + "/a.jpg")]).values()
        assert second.state == "ok" and len(host.lines) == 2


def test_a_passing_server_error_is_mended_in_the_same_run(tmp_path):
    for status in (522, 500, 202):
        with RawHost(lambda _, times, status=status: response(picture(), status if times == 1 else 200)) as host:
            (row,) = Target(tmp_path, host).run([document(f"{host.url}/{status}.jpg")]).values()
            assert (row.state, row.attempts) == ("ok", 2)


def test_what_is_gone_stays_gone(tmp_path):
    with RawHost(lambda target, _: response(status=int(target[1:4]))) as host:
        documents = [document(f"{host.url}/{status}.jpg") for status in (404, 410, 403)]
        target = Target(tmp_path, host)
        target.run(documents)
        target.run(documents)
        assert set(host.asked) == {"/403.jpg"}


def test_the_bytes_of_a_host_are_kept_and_those_of_another_are_not_held_up(tmp_path):
    body = picture() + bytes(20_000)
    with RawHost(lambda *_: response(body)) as slow, RawHost(lambda *_: response(body), "127.0.0.2") as fast:
        rate = 100_000  # bytes a second are 0.36 GB an hour
        limits = {
            f"127.0.0.1:{slow.port}": HostLimits(concurrency=2, requests_per_second=None, gigabytes_per_hour=0.36)
        }
        settings = QUICK.model_copy(update={"hosts": limits, "allow_networks": ["127.0.0.0/8"]})
        documents = [document(f"{host.url}/{i}.jpg") for host in (slow, fast) for i in range(10)]
        started = time.monotonic()
        rows = Target(tmp_path, slow, settings).run(documents)
        seconds = time.monotonic() - started
    assert {row.state for row in rows.values()} == {"ok"} and slow.asked.total() == fast.asked.total() == 10
    # The last two photos are under way when their predecessors are paid for.
    assert 8 * len(body) / rate <= seconds < 10 * len(body) / rate + 1


def test_the_time_a_crawl_takes_is_that_of_its_slowest_host():
    limits = {"Fast.org": HostLimits(requests_per_second=None), "big.org": HostLimits(gigabytes_per_hour=3.6)}
    settings = Export(hosts=limits)
    for waiting, seconds in (({"a.org": 500, "b.org": 100}, 50), ({"fast.org": 500}, 5), ({"big.org": 500}, 500)):
        found = pace.expected_seconds(waiting, settings, photo_bytes=1e6, photos_per_second=100)
        assert found == pytest.approx(seconds)


def outcomes_of(rows):
    return {name: (row.state, row.reason, row.latin_name) for name, row in rows.items()}


def test_a_url_is_asked_for_once_and_stored_once_for_each_name(target):
    documents = [
        document("good-1.jpg", sample_id="a"), document("good-1.jpg", sample_id="b"),
        document("good-1.jpg#top", sample_id="c"), document(f"{target.host.url}good-1.jpg", sample_id="d"),
        document("good-1.jpg", sample_id="e", latin_name="Viola alba"), document("good-2.jpg", sample_id="f"),
        document("missing-1.jpg", sample_id="g"), document("missing-1.jpg", sample_id="h", latin_name="Viola alba"),
        document("missing-1.jpg", sample_id="i"),
    ]  # fmt: skip
    rows = target.run(documents)
    assert target.host.asked == {"good-1.jpg": 1, "good-2.jpg": 1, "missing-1.jpg": 1}
    stored = {photo.sample_id: (photo.latin_name, photo.source_url) for photo in target.stored()}
    (winner,) = stored.keys() - {"e", "f"}
    assert stored["e"] == ("Viola alba", "good-1.jpg") and rows["e"].sha256 == rows[winner].sha256 != ""
    assert [rows[name].reason for name in "abcd" if name != winner] == [f"the same URL as {winner}"] * 3
    assert {rows[name].state for name in "abcd" if name != winner} == {"skipped"}
    assert sorted(rows[name].reason for name in "ghi")[:2] == ["HTTP 404", "HTTP 404"]
    for changed in (documents[::-1], [*documents, document("good-1.jpg", sample_id="new")]):
        again = target.run(changed)
        assert not target.host.asked and {n: r.state for n, r in again.items() if n in stored} == dict.fromkeys(
            stored, "ok"
        )
    assert again["new"].reason == f"the same URL as {winner}"
    # Where the document that counts has gone, another takes its place.
    rows = target.run([each for each in documents if each["sample_id"] != winner])
    assert target.host.asked == {"good-1.jpg": 1} and sum(rows[n].state == "ok" for n in rows if n in "abcd") == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_photo_that_is_stored_counts_before_one_that_is_not(tmp_path, host, seed):
    target = Target(tmp_path, host)
    target.run([document("good-1.jpg", sample_id="m")], seed=seed)
    rows = target.run([document("good-1.jpg", sample_id=name) for name in "abmyz"], seed=seed)
    assert not host.asked and [name for name, row in rows.items() if row.state == "ok"] == ["m"]


def test_copies_do_not_count_against_the_limits(target):
    target.caps |= {"max_per_species": 3, "max_per_observation": 2}
    copies = [document(f"good-{i % 3}.jpg", sample_id=f"{i}") for i in range(9)]
    rows = target.run([*copies, *(document(f"missing-{i}.jpg") for i in range(3)), document("good-7.jpg")])
    assert sum(row.state == "ok" for row in rows.values()) == 3
    two_names = [
        document(f"good-{i}.jpg", sample_id=f"{i} {name}", observation_id=1, latin_name=name)
        for i in range(3)
        for name in ("Viola alba", "Viola odorata")
    ]
    rows = target.run(two_names)  # two photos of the observation, each under both names
    assert sorted(collections.Counter(row.url for row in rows.values() if row.state == "ok").values()) == [2, 2]


@pytest.mark.parametrize(
    "signature",
    ["X-Amz-Date=2026{0}&X-Amz-Signature=ab{0}", "GoogleAccessId=x&Expires=1{0}&Signature=s{0}", "sv=1&sig={0}",
     "Expires={0}&Signature={0}&Key-Pair-Id=K"],
)  # fmt: skip
def test_a_photo_that_is_signed_again_is_not_fetched_again(target, signature):
    def signed(day, names):
        return [document(f"{name}?{signature.format(day)}", sample_id=name) for name in names]

    target.run(signed(1, ["good-1.jpg", "good-2.jpg"]))
    stored = target.stored()
    rows = target.run(signed(2, ["good-1.jpg", "good-2.jpg", "good-3.jpg"]))
    assert set(target.host.asked) == {f"good-3.jpg?{signature.format(2)}"}
    assert [photo.sha256 for photo in target.stored()][:2] == [photo.sha256 for photo in stored]
    assert rows["good-1.jpg"].url == f"good-1.jpg?{signature.format(2)}" and rows["good-1.jpg"].state == "ok"
    rows = target.run([document(f"good-1.jpg?v=2&{signature.format(2)}", sample_id="good-1.jpg")])
    assert target.host.asked.total() == 1  # not only the signature is another


def test_two_signatures_of_one_url_are_one_request(target):
    urls = [f"good-1.jpg?X-Amz-Date={day}&X-Amz-Signature={day}" for day in (1, 2)]
    rows = target.run([document(url) for url in urls])
    assert target.host.asked.total() == 1 and sorted(row.state for row in rows.values()) == ["ok", "skipped"]


def test_a_kill_never_separates_the_names_of_one_photo(target, monkeypatch):
    documents = [
        document(f"good-{i}.jpg", sample_id=f"{i} {name}", latin_name=name)
        for i in range(12)
        for name in ("Viola alba", "Viola odorata")
    ]
    finish, finished = records.ShardWriter.finish, []

    def dying(self):
        finished.append(self)
        if len(finished) > 2:
            raise RuntimeError("killed")
        finish(self)

    monkeypatch.setattr(records.ShardWriter, "finish", dying)
    with pytest.raises(RuntimeError, match="killed"):
        target.run(documents, per_shard=3)
    monkeypatch.undo()
    kept = {photo.source_url for photo in target.stored()}
    assert 0 < len(kept) < 12 and collections.Counter(p.source_url for p in target.stored()) == dict.fromkeys(kept, 2)
    target.run(documents)
    assert set(target.host.asked) == {f"good-{i}.jpg" for i in range(12)} - kept


def test_what_many_species_are_redirected_to_and_species_without_a_photo_are_listed(target):
    names = ("Viola alba", "Viola odorata", "Viola riviniana")
    target.run([document(f"moved-{i}.jpg", latin_name=names[i % 3]) for i in range(6)]
               + [document("missing-1.jpg", latin_name="Abies alba"), document("html-1.jpg", latin_name="Abies alba"),
                  document("missing-2.jpg", latin_name="Abies alba"), document("ftp://x/y", latin_name="Acer rubrum"),
                  document("x.jpg", latin_name="")])  # fmt: skip
    with Ledger(target.folder / "ledger.sqlite") as ledger:
        assert ledger.shared_redirects() == [(f"{target.host.url}good-elsewhere.jpg", 6, 3)]
        assert [row[:3] for row in ledger.species_without_photo()] == [
            ("Abies alba", 3, "HTTP 404"), ("Acer rubrum", 1, fetch.NO_URL),
        ]  # fmt: skip


def test_the_check_asks_for_a_url_once_whatever_its_names(tmp_path, host):
    documents = [document("good-1.jpg", sample_id=f"{i}", latin_name=f"Viola {'ab'[i % 2]}") for i in range(9)]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.plan(download.rows(documents, Names(), host.url), seed=1)
        ledger.skip_repeated_urls()
        download.check_urls(ledger, QUICK, base_url=host.url, own=False, check=CHECK)
        assert ledger.count("ok") == host.asked.total() == 1
