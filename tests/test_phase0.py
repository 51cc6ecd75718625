"""Phase 0 as a whole: MongoDB over a socket, a hostile photo host, kills, a collection that grows."""

import collections
import dataclasses
import datetime
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zlib

import numpy as np
import pandas as pd
import pymongo
import pytest
import yaml
from conftest import jpeg_of
from support.hostile_host import HostileHost
from support.raw_host import RawHost, response
from support.species_collection import documents

from keras_pipeline.__main__ import main
from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.data import records
from keras_pipeline.demo import embedded
from keras_pipeline.ingest.ledger import Ledger

SPECIES = ("Bellis perennis", "Crocus vernus", "Iris germanica")


@pytest.fixture(autouse=True)
def no_graphs_to_free(monkeypatch):
    """Other tests of this process may have left many: looking through them takes a third of a second a step."""
    monkeypatch.setattr(gc, "collect", lambda *generation: 0)


@pytest.fixture(scope="module")
def host():
    with HostileHost(jpeg_of) as host:
        yield host


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with embedded.mongo(tmp_path_factory.mktemp("mongo")) as uri, pymongo.MongoClient(uri) as client:
        client.uri = uri
        yield client


@pytest.fixture
def project(tmp_path, host, client, request):
    return Project(tmp_path, host, client, f"c{abs(hash(request.node.name))}")


class Project:
    """A config whose collection and photo host are ours, and what its commands left."""

    def __init__(self, root, host, client, name):
        self.root, self.host, self.photos = root, host, client.plants[name]
        size = {"data": {"image_size": 32}}
        values = {
            "root": str(root),
            "source": {"uri": client.uri, "collection": name, "base_url": host.url},
            "dataset": {"short_side": 36, "min_short_side": 20, "shard_megabytes": 0.01},
            "phase0": {
                "export": {
                    "allow_networks": ["127.0.0.1/32"], "read_seconds": 1, "backoff_seconds": 0.01, "attempts": 2,
                    "each_host": {"concurrency": 4, "requests_per_second": None},
                },
                "split": {"train": 0.6, "val": 0.1, "calibration": 0.1, "test": 0.2},
            },
            "phase1": size, "phase2": size, "phase4": size,
            "gates": dict.fromkeys(("valid_photos_min", "valid_photos_max", "largest_group", "two_names")),
        }  # fmt: skip
        self.file = root / "small.yaml"
        self.file.write_text(yaml.safe_dump(values))
        host.asked.clear()

    def add(self, names, **fields):
        self.photos.insert_many(
            [{"_id": n, "latin_name": SPECIES[i % 3], "image_url": n} | fields for i, n in enumerate(names)]
        )

    def run(self, *steps, **overrides):
        codes = (self.command(step, "--force", **overrides) for step in steps)
        return next((code for code in codes if code), 0)

    def command(self, step, *flags, **overrides):
        sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        return main(["phase0", step, *flags, "--config", str(self.file), *sets])

    @property
    def dataset(self):
        return self.root / "tfrecords/small"

    def read(self, name):
        return json.loads((self.root / "artifacts/small/phase0" / name).read_text())

    def stored(self):
        """{sample_id: (split, latin_name, sha256)} of the finished shards; ids must not come twice."""
        info, found = records.load_info(self.dataset / "dataset.json"), {}
        for split in info.splits:
            for shard in info.shards(split):
                for photo in map(records.decode, records.read_shard(shard)):
                    assert photo.sample_id not in found
                    assert photo.label == info.classes.index(photo.latin_name)
                    found[photo.sample_id] = (split, photo.latin_name, photo.sha256)
        return found

    def info(self):
        return json.loads((self.dataset / "dataset.json").read_text())

    def age(self, n):
        """Store the first n photos of the raw shards as an older version did, which wrote no rule."""
        for shard in sorted((self.dataset / "raw").glob("photos-*.tfrecord")):
            photos = [records.decode(example) for example in records.read_shard(shard)]
            older = [dataclasses.replace(photo, rule=1) for photo in photos[:n]]
            n -= len(older)
            records.write_shard(shard, map(records.encode, [*older, *photos[len(older) :]]))

    def raw(self):
        """Sample id and sha256 of every record in the raw shards, as a multiset."""
        shards = (self.dataset / "raw").glob("photos-*.tfrecord")
        photos = (records.decode(e) for shard in shards for e in records.read_shard(shard))
        return collections.Counter((photo.sample_id, photo.sha256) for photo in photos)


def test_killed_at_any_moment_the_records_are_those_of_an_undisturbed_run(project):
    names = [f"{'missing' if i % 9 == 0 else 'good'}-{i}.jpg" for i in range(200)]
    project.add(names)
    project.host.delay = 0.05
    command = [sys.executable, "-m", "keras_pipeline", "phase0", "export", "--config", str(project.file)]
    assert project.run("audit") == 0
    moments, kills = random.Random(3), 0
    for _ in range(6):
        asked = project.host.asked.total()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        progress = moments.randint(2, 40)
        while process.poll() is None and project.host.asked.total() < asked + progress:
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 3
    project.host.delay = 0.0
    finished = {p.name: p.read_bytes() for p in (project.dataset / "raw").glob("photos-*.tfrecord")}
    assert finished
    held = {records.decode(e).sample_id for e in _examples(project.dataset / "raw", finished)}
    project.host.asked.clear()
    assert subprocess.run(command, capture_output=True).returncode == 0
    good = {name for name in names if name.startswith("good")}
    assert set(project.raw().values()) == {1} and {name for name, _ in project.raw()} == good
    # Only a shard that was renamed in the very moment of a kill may be fetched twice.
    known = {p.name for p in (project.dataset / "raw").glob("photos-*.tfrecord")} & set(finished)
    assert len(known) >= len(finished) - 1 and len(held & set(project.host.asked)) <= len(held) / len(finished) * 2
    table = pd.read_parquet(project.root / "artifacts/small/phase0/url_ledger.parquet")
    assert table.state.value_counts().to_dict() == {"ok": len(good), "failed": len(names) - len(good)}
    assert not list(project.root.rglob(".writing-*"))


def _examples(folder, names):
    for name in names:
        yield from records.read_shard(folder / name)


def test_a_growing_collection(project, capsys):
    project.add([f"good-{i}.jpg" for i in range(150)])
    assert project.run("audit", "export", "split") == 0
    before = project.stored()
    assert len(before) == 150 and not (project.dataset / "raw").exists()
    # Twelve new photos; one document vanishes, one gets another name.
    project.host.asked.clear()
    project.add([f"good-{i}.jpg" for i in range(150, 162)])
    project.photos.delete_one({"_id": "good-3.jpg"})
    project.photos.update_one({"_id": "good-4.jpg"}, {"$set": {"latin_name": "Viola alba"}})
    assert project.run("export", "split") == 0
    assert set(project.host.asked) == {f"good-{i}.jpg" for i in range(150, 162)}
    after = project.stored()
    assert set(after) == set(before) - {"good-3.jpg"} | {f"good-{i}.jpg" for i in range(150, 162)}
    assert {name: split for name, (split, *_) in after.items() if name in before} == {
        name: split for name, (split, *_) in before.items() if name in after
    }
    assert after["good-4.jpg"][1] == "Viola alba"
    capsys.readouterr()
    assert main(["phase0", "split", "--config", str(project.file), "--set", "seed=7"]) == 0
    assert "does not keep the places of the old one" in capsys.readouterr().out
    assert set(project.stored()) == set(after) and project.stored() != after


def test_lost_shards_are_fetched_again_and_nothing_else(project):
    project.add([f"good-{i}.jpg" for i in range(90)])
    assert project.run("audit", "export") == 0
    lost = next(iter(sorted((project.dataset / "raw").glob("photos-*.tfrecord"))))
    gone = {records.decode(e).sample_id for e in records.read_shard(lost)}
    lost.unlink()
    assert project.run("split") == 3  # says so, and what to do
    project.host.asked.clear()
    assert project.run("export", "split") == 0
    assert set(project.host.asked) == gone
    shard = next(project.dataset.glob("train-*.tfrecord"))
    gone = {records.decode(e).sample_id for e in records.read_shard(shard)}
    shard.unlink()
    project.host.asked.clear()
    assert project.run("export", "split") == 0
    assert set(project.host.asked) == gone and len(project.stored()) == 90


def test_an_empty_split_names_the_photos_that_are_to_blame(project, capsys):
    """F-9: more photos would not help."""
    project.add([f"good-{i}.jpg" for i in range(40)])
    for i in range(40):  # each picture under a second name
        project.photos.insert_one({"_id": f"z{i}", "latin_name": "Viola alba", "image_url": f"good-{i}.jpg?again"})
    assert project.run("audit", "export", "split") == 2
    said = capsys.readouterr().err
    assert "val, calibration, test: no photo; received 80 photos in 40 groups" in said
    assert (
        "; 80 have a picture with two names (phase0/tables/label_conflicts.csv), which is not evaluated: join" in said
    )
    assert "source.synonyms" in said and "add photos" not in said
    assert len(pd.read_csv(project.root / "artifacts/small/phase0/tables/label_conflicts.csv")) == 80


def test_a_collection_of_one_placeholder_is_told_so(project, capsys):
    project.add(["good-1.jpg", *(f"good-1.jpg?{i}" for i in range(39))])
    for i in range(39):
        project.photos.update_one({"_id": f"good-1.jpg?{i}"}, {"$set": {"observation_id": f"o{i}"}})
    assert project.run("audit", "export", "split") == 2
    said = capsys.readouterr().err
    assert "train, val, calibration, test: no photo; received 40 photos in 0 groups" in said
    assert "; 40 show a placeholder, which a host sends instead of a photo, such as good-1.jpg" in said
    assert "add photos" not in said


def test_copies_stay_together_and_conflicts_out_of_what_is_judged(project):
    project.add([f"good-{i}.jpg" for i in range(120)])
    # The same bytes under other ids: five with the same name, five with another one.
    for i in range(10):
        name = SPECIES[i % 3] if i < 5 else "Viola alba"
        project.photos.insert_one({"_id": f"copy-{i}", "latin_name": name, "image_url": f"good-{i}.jpg?again"})
    assert project.run("audit", "export", "split", **{"gates.two_names": 0.08}) == 0  # 10 of 130
    stored, report = project.stored(), project.read("leak_audit.json")
    # Of the first five pictures one record is left: "copy-0" is the smaller id.
    assert all(f"copy-{i}" in stored and f"good-{i}.jpg" not in stored for i in range(5))
    assert all(stored[f"copy-{i}"][0] == stored[f"good-{i}.jpg"][0] == "train" for i in range(5, 10))
    assert report["label_conflicts"] == 10 and report["leaks"] == [] and report["photos"] == 125
    assert report["groups"] == 120 and report["largest_group"]["n"] == 2
    assert report["pictures"] == 120 and report["two_names"] == 5
    assert report["photos_compared"] == 130 and report["photos_with_two_names"] == 10
    assert report["left_out"] == {"the same picture as another record of its species": 5}
    left_out = pd.read_csv(project.root / "artifacts/small/phase0/tables/left_out.csv").set_index("sample_id").reason
    assert left_out.to_dict() == {f"good-{i}.jpg": f"the same picture as copy-{i}" for i in range(5)}
    assert sum(report["shares"]["photos"].values()) == 125
    conflicts = pd.read_csv(project.root / "artifacts/small/phase0/tables/label_conflicts.csv")
    assert len(conflicts) == 10 and set(conflicts.split) == {"train"}


def test_a_leak_stops_and_the_old_dataset_stays(project, monkeypatch, capsys):
    from keras_pipeline.ingest import split as splitting

    project.add([f"good-{i}.jpg" for i in range(60)])
    assert project.run("audit", "export", "split") == 0
    before = project.stored()
    project.photos.update_one({"_id": "good-0.jpg"}, {"$set": {"observation_id": "o"}})
    project.photos.insert_one(
        {"_id": "copy", "latin_name": SPECIES[0], "image_url": "good-99.jpg", "observation_id": "o"}
    )
    assert project.run("export") == 0
    real = splitting.split_photos

    def careless(table, ties, **options):
        decided = real(table, ties, **options)
        row = table.index[table.sample_id == "copy"][0]
        decided.split[row] = "test" if decided.split[row] == "train" else "train"
        return decided

    monkeypatch.setattr(splitting, "split_photos", careless)
    assert project.run("split") == 1
    assert "leaks between splits" in capsys.readouterr().err
    kinds = {leak["kind"] for leak in project.read("leak_audit.json")["leaks"]}
    assert kinds == {"group_id", "observation"}
    assert project.stored() == before


def test_dry_run_says_how_much_and_fetches_nothing(project, capsys):
    project.add([f"good-{i}.jpg" for i in range(40)])
    assert project.run("audit") == 0
    capsys.readouterr()
    assert main(["phase0", "export", "--dry-run", "--config", str(project.file)]) == 0
    printed = capsys.readouterr().out
    assert "40 photos to fetch from 1 hosts, 0 stored already; raw shards about" in printed and "free" in printed
    assert project.host.asked.total() == 0 and not list(project.dataset.rglob("*.tfrecord"))


def test_too_little_disk_is_said_before_the_start(project, monkeypatch, capsys):
    project.add([f"good-{i}.jpg" for i in range(40)])
    assert project.run("audit") == 0
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert project.run("export") == 3
    assert "free 0.00 MB; free some" in capsys.readouterr().err and project.host.asked.total() == 0


def test_validate_urls_on_a_sample_has_an_interval(project, capsys):
    project.add([f"{'missing' if i % 10 == 0 else 'good'}-{i}.jpg" for i in range(100)])
    assert project.run("audit") == 0
    code = project.run("validate-urls", **{"phase0.validate_urls.sample": 40})
    result = project.read("url_check.json")
    assert result["checked"] == 40 and project.host.asked.total() == 40 and not result["complete"]
    low, high = result["interval"]
    assert low < result["failure_rate"] < high and code in (0, 1)
    assert project.run("validate-urls") == 1  # all of them: 10 % fail
    result = project.read("url_check.json")
    assert (result["checked"], result["failed"], result["interval"]) == (100, 10, [0.1, 0.1])
    assert result["by_reason"] == {"HTTP 404": 10} and result["complete"]
    assert not list(project.root.rglob("urls.sqlite*"))


def everything(project):
    """Size and time of every file below tfrecords/, caches and databases' side files excepted."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in (project.root / "tfrecords").rglob("*")
        if path.is_file() and path.parent.name != "index" and path.suffix not in (".sqlite-wal", ".sqlite-shm")
    }


@pytest.mark.parametrize(
    "flags, options, code",
    [(["--dry-run"], {"dataset.jpeg_quality": 90}, 0), (["--force"], {"source.collection": "typo"}, 3)],
)
def test_what_was_fetched_survives_a_dry_run_and_a_collection_that_is_empty(project, flags, options, code):
    project.add([f"good-{i}.jpg" for i in range(40)])
    assert project.run("audit", "export") == 0
    before = everything(project)
    assert project.command("export", *flags, **options) == code
    assert everything(project) == before


def test_a_cure_takes_effect_without_asking_for_what_is_stored(project):
    project.add(["good-1.jpg", "good-2.jpg"])
    project.photos.insert_one({"_id": "abroad", "latin_name": SPECIES[0], "image_url": project.host.url + "good-3.jpg"})
    assert project.run("audit") == 0
    assert project.run("export", **{"source.base_url": "http://127.0.0.1:1/"}) == 0
    project.host.asked.clear()
    assert project.run("export") == 0
    assert set(project.host.asked) == {"good-1.jpg", "good-2.jpg"} and len(project.raw()) == 3


def test_documents_that_come_back_after_their_shard_was_removed_are_fetched_again(project, tmp_path):
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("")
    options = {"source.exclude": str(exclude)}
    project.add([f"good-{i}.jpg" for i in range(30)])
    assert project.run("audit", "export", **options) == 0
    shards, ids = list((project.dataset / "raw").glob("*.tfrecord")), [photo for photo, _ in project.raw()]
    exclude.write_text("\n".join(ids))
    project.add([f"good-{i}.jpg" for i in range(30, 60)])
    assert project.run("export", **options) == 0
    for shard in shards:
        shard.unlink()
    exclude.write_text("")
    assert project.run("export", "split", **options) == 0
    assert len(project.stored()) == 60


def test_raw_shards_of_an_export_that_was_not_split_yet_are_kept(project):
    project.add([f"good-{i}.jpg" for i in range(60)])
    assert project.run("audit", "export", "split") == 0
    project.add([f"good-{i}.jpg" for i in range(60, 120)])
    files = [project.root / "artifacts/small/phase0/url_ledger.parquet"]
    files.append(files[0].with_name(files[0].name + ".meta.json"))
    old = [(file, file.read_bytes(), file.stat()) for file in files]
    assert project.run("export") == 0
    for file, content, stat in old:  # as if the export had been killed before it ended
        file.write_bytes(content)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert project.command("split") == 0  # up to date
    assert len(project.raw()) == 60
    project.host.asked.clear()
    assert project.run("export", "split") == 0
    assert len(project.stored()) == 120 and not project.host.asked


def test_a_new_picture_under_the_old_id_is_fetched_again_when_its_shard_is_lost(project):
    project.add([f"good-{i}.jpg" for i in range(60)])
    assert project.run("audit", "export", "split") == 0
    project.photos.update_one({"_id": "good-3.jpg"}, {"$set": {"image_url": "good-new.jpg"}})
    assert project.run("export") == 0
    for shard in (project.dataset / "raw").glob("*.tfrecord"):
        shard.unlink()
    project.host.asked.clear()
    assert project.run("export", "split") == 0
    assert set(project.host.asked) == {"good-new.jpg"} and len(project.stored()) == 60


def test_a_split_made_again_reports_what_the_first_one_did(project):
    project.add([f"good-{i}.jpg" for i in range(60)], observation_id="one")
    project.photos.update_many({"_id": {"$gt": "good-2"}}, {"$unset": {"observation_id": 1}})
    assert project.run("audit", "export", "split") == 0
    first, shards = project.read("leak_audit.json"), project.stored()
    assert first["shares"]["two_groups"] > 0
    assert project.run("split") == 0
    assert project.read("leak_audit.json") == first and project.stored() == shards


def test_photos_of_an_older_rule_are_counted_and_stay(project, capsys):
    """Half of the photos were stored before the rule changed: told in one line, and never fetched again for that."""
    project.add([f"good-{i}.jpg" for i in range(60)])
    assert project.run("audit", "export") == 0
    project.age(30)
    assert project.run("split") == 0
    said = "30 of 60 photos were stored by an older rule for colours and orientation"
    assert project.info()["photos_by_rule"] == {"1": 30, "2": 30} and said in capsys.readouterr().out
    project.host.asked.clear()
    assert project.run("export", "split") == 0 and not project.host.asked
    assert project.info()["photos_by_rule"] == {"1": 30, "2": 30}
    assert main(["status", "--config", str(project.file)]) == 0
    assert said in capsys.readouterr().out


REFETCH = "--refetch-older-records"
KEPT = "artifacts/small/phase0/tables/older_records.csv"


def older(project, n):
    """A finished dataset of n photos, all stored by the older rule; {sample_id: (split, latin_name, sha256)}."""
    project.host.becomes.clear()
    project.add([f"good-{i}.jpg" for i in range(n)])
    assert project.run("audit", "export") == 0
    project.age(n)
    assert project.run("split") == 0 and project.info()["photos_by_rule"] == {"1": n}
    project.host.asked.clear()
    return project.stored()


def test_photos_of_an_older_rule_are_fetched_again_and_what_the_host_has_lost_stays(project, capsys):
    """A third is gone: 404, a page, no answer, another photo. Nothing is lost, and splits and groups stay."""
    before = older(project, 60)
    groups = pd.read_parquet(project.dataset / "assignment.parquet")[["sample_id", "group_id", "split"]]
    kinds = ["missing"] * 8 + ["html"] * 5 + ["hung"] * 2 + ["other"] * 5
    project.host.becomes = {f"good-{i}.jpg": kind for i, kind in enumerate(kinds)}
    capsys.readouterr()
    assert project.command("export", REFETCH) == 0  # runs although up to date
    said = capsys.readouterr().out
    assert set(project.host.asked) == set(before)
    assert "60 photos have a record of an older rule; 60 are asked for again" in said
    assert "40 of 60 photos fetched again; 20 keep their old record, see " in said
    assert "  8: HTTP 404\n  5: an HTML page, not a photo\n  5: another file than the one that was stored\n" in said
    assert "12 of the old ones may yet be replaced" in said
    kept = pd.read_csv(project.root / KEPT)
    assert set(kept.sample_id) == set(project.host.becomes) and set(kept.rule) == {1}
    assert main(["status", "--config", str(project.file)]) == 0
    assert "its input url_ledger changed" in capsys.readouterr().out
    assert project.command("split") == 0
    assert project.info()["photos_by_rule"] == {"1": 20, "2": 40} and project.stored() == before
    after = pd.read_parquet(project.dataset / "assignment.parquet")[["sample_id", "group_id", "split"]]
    assert after.equals(groups) and not (project.dataset / "raw").exists()
    # A 404 is not asked for again. The rest came back.
    project.host.asked.clear()
    project.host.becomes = {name: kind for name, kind in project.host.becomes.items() if kind == "missing"}
    assert project.command("export", REFETCH) == 0 and len(project.host.asked) == 12
    assert project.run("export", "split") == 0 and len(project.host.asked) == 12
    assert project.info()["photos_by_rule"] == {"1": 8, "2": 52} and project.stored() == before
    assert set(pd.read_csv(project.root / KEPT).sample_id) == set(project.host.becomes)


def test_photos_of_a_folder_are_read_again_and_one_that_changed_keeps_its_record(tmp_path, capsys):
    images, dataset = tmp_path / "images", tmp_path / "tfrecords/mine"
    images.mkdir()
    for i in range(12):
        (images / f"{i}.jpg").write_bytes(jpeg_of(i, (300, 280)))
    lines = ["image,latin_name", *(f"{i}.jpg,{SPECIES[i % 3]}" for i in range(12))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    config = tmp_path / "mine.yaml"
    demo = {"images": str(images), "labels": str(tmp_path / "labels.csv")}
    config.write_text(yaml.safe_dump({"root": str(tmp_path), "source": {"uri": "embedded", "demo": demo}}))
    assert main(["phase0", "audit", "--config", str(config)]) == 0
    assert main(["phase0", "export", "--config", str(config)]) == 0
    (shard,) = (dataset / "raw").glob("photos-*.tfrecord")
    photos = [dataclasses.replace(records.decode(example), rule=1) for example in records.read_shard(shard)]
    records.write_shard(shard, map(records.encode, photos))
    (images / "3.jpg").write_bytes(jpeg_of(99, (300, 280)))
    capsys.readouterr()
    assert main(["phase0", "export", REFETCH, "--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "11 of 12 photos fetched again; 1 keep their old record" in said
    assert "  1: another file than the one that was stored" in said


def test_where_no_record_follows_an_older_rule_nothing_is_fetched_again(project, capsys):
    project.add([f"good-{i}.jpg" for i in range(30)])
    assert project.run("audit", "export", "split") == 0
    project.host.asked.clear()
    assert project.command("export", REFETCH) == 0 and not project.host.asked
    assert "no record follows an older rule; nothing is fetched again" in capsys.readouterr().out
    assert main(["status", "--config", str(project.file)]) == 0
    assert "url_ledger" not in capsys.readouterr().out  # the same file: the split is up to date


def test_killed_while_photos_are_fetched_again_nothing_is_lost_or_stored_twice(project):
    before = older(project, 120)
    project.host.becomes = {f"good-{i}.jpg": "missing" for i in range(40)}
    project.host.delay = 0.05
    command = [sys.executable, "-m", "keras_pipeline", "phase0", "export", REFETCH, "--config", str(project.file)]
    kills = 0
    for progress in (30, 9, 25):
        asked = project.host.asked.total()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and project.host.asked.total() < asked + progress:
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.wait()
    project.host.delay = 0.0
    shards = {shard.name for shard in (project.dataset / "raw").glob("photos-*.tfrecord")}
    project.host.asked.clear()
    assert project.run("export") == 0 and not project.host.asked
    # Nor does it remove what was fetched again, but for a shard that was renamed in the very moment of a kill.
    assert (
        len(shards - {shard.name for shard in (project.dataset / "raw").glob("photos-*.tfrecord")}) <= 3 <= len(shards)
    )
    held = project.raw()
    assert kills == 3 and held and set(held.values()) == {1}
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert not {name for name, _ in held} & set(project.host.asked)
    assert set(project.raw().values()) == {1} and {name for name, _ in project.raw()} == set(before) - set(
        project.host.becomes
    )
    assert project.run("split") == 0
    assert project.info()["photos_by_rule"] == {"1": 40, "2": 80} and project.stored() == before
    assert not list(project.root.rglob(".writing-*"))


@pytest.mark.parametrize("moment", ["move_records", "forget_stored"])
def test_ended_between_the_two_ledgers_the_new_records_count(project, monkeypatch, moment):
    before = older(project, 30)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, moment, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert project.command("export", REFETCH) == 130
    project.host.asked.clear()
    assert project.run("export", "split") == 0 and not project.host.asked
    assert project.info()["photos_by_rule"] == {"2": 30} and project.stored() == before


def test_before_the_split_a_lost_shard_of_photos_fetched_again_leaves_their_old_records(project):
    project.host.becomes.clear()
    project.add([f"good-{i}.jpg" for i in range(30)])
    assert project.run("audit", "export") == 0
    project.age(30)
    old = {shard.name for shard in (project.dataset / "raw").glob("photos-*.tfrecord")}
    project.host.becomes = {f"good-{i}.jpg": "missing" for i in range(0, 30, 3)}  # some in every old shard
    assert project.command("export", REFETCH) == 0
    new = [shard for shard in (project.dataset / "raw").glob("photos-*.tfrecord") if shard.name not in old]
    gone = {records.decode(example).sample_id for example in records.read_shard(new[0])}
    new[0].unlink()
    project.host.asked.clear()
    assert project.run("export", "split") == 0 and not project.host.asked and len(project.stored()) == 30
    assert project.info()["photos_by_rule"] == {"1": 10 + len(gone), "2": 20 - len(gone)}


def test_a_dry_run_counts_what_would_be_fetched_again_and_beam_is_refused(project, capsys):
    older(project, 30)
    assert project.command("export", REFETCH, "--dry-run") == 0 and not project.host.asked
    assert "30 photos have a record of an older rule, to be fetched again" in capsys.readouterr().out
    assert project.command("export", REFETCH, "--runner", "beam") == 2 and not project.host.asked
    assert "--refetch-older-records: received it with --runner beam, expected the local" in capsys.readouterr().err


def test_how_many_photos_are_of_which_rule_is_no_change_of_a_dataset(tmp_path):
    write_json(tmp_path / "a.json", {"n": 3})
    write_json(tmp_path / "b.json", {"n": 3, "photos_by_rule": {"1": 3}})
    assert content_hash(tmp_path / "a.json") == content_hash(tmp_path / "b.json")


def test_a_species_whose_only_photo_is_left_out_has_no_label(project):
    project.add([f"good-{i}.jpg" for i in range(60)])
    assert project.run("audit", "export", "split") == 0
    table = pd.read_parquet(project.dataset / "assignment.parquet")
    tested = table.sample_id[table.split == "test"].iloc[0]
    project.photos.insert_one({"_id": "x", "latin_name": "Mistyped name", "image_url": tested})
    assert project.run("audit", "export", "split") == 0
    assert len(project.stored()) == 59
    left_out = pd.read_csv(project.root / "artifacts/small/phase0/tables/left_out.csv")
    assert set(left_out.sample_id) == {"x", tested}


def test_a_corrupt_shard_is_mended_by_what_the_message_says(project, capsys):
    project.add([f"good-{i}.jpg" for i in range(60)])
    assert project.run("audit", "export", "split") == 0
    before = project.stored()
    shard = next(project.dataset.glob("train-*.tfrecord"))
    shard.write_bytes(shard.read_bytes()[:-9])
    assert project.run("split") == 3
    message = capsys.readouterr().err
    assert str(shard) in message and "remove that shard, then run `phase0 export --force`" in message
    shard.unlink()
    assert project.run("export", "split") == 0
    assert project.stored() == before


def test_rules_of_the_split_act_and_raw_shards_stay_where_they_are_wanted(project):
    project.add([f"good-{i}.jpg" for i in range(60)], observation_id="one")
    project.photos.insert_one({"_id": "copy", "latin_name": SPECIES[0], "image_url": "good-0.jpg?"})
    assert project.run("audit", "export") == 0
    groups = {}
    for rules in (["observation"], ["sha256"], ["near-duplicate"], []):
        options = {"phase0.split.group_by": rules, "phase0.split.keep_raw": True}
        code = project.run("split", **options)
        groups[tuple(rules)] = project.read("leak_audit.json")["groups"] if code == 0 else code
    # One observation leaves two groups, too few for four splits. The copy is left out by any rule.
    assert groups == {("observation",): 2, ("sha256",): 60, ("near-duplicate",): 60, (): 60}
    assert len(project.raw()) == 61


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"noise")])
def test_without_the_assignment_no_stored_photo_is_fetched_again_or_lost(project, capsys, damage):
    project.add([f"good-{i}.jpg" for i in range(60)])
    assert project.run("audit", "export", "split") == 0
    stored = project.stored()
    kept = (project.dataset / "assignment.parquet").read_bytes()
    damage(project.dataset / "assignment.parquet")
    project.host.asked.clear()
    for step in ("split", "export"):
        assert project.run(step) == 3
        assert "it alone tells with which settings their photos are stored; put it back" in capsys.readouterr().err
    (project.dataset / "assignment.parquet").write_bytes(kept)
    assert project.run("export", "split") == 0
    assert not project.host.asked and project.stored() == stored


@pytest.mark.parametrize(
    "bits, confirm, difference, groups",
    [(0, 0, 0, 60), (0, 80, 80, 60), (5, 1, 3, 60), (5, 2, 2, 60), (5, 2, 3, 59)],
)
def test_the_limits_of_near_duplicates_act(project, monkeypatch, bits, confirm, difference, groups):
    from keras_pipeline.phases.phase0_dataset import split

    def hash_of(sample_id):
        if sample_id == "good-1.jpg":  # a bit of the 64, two of the phash and three of the dhash away from good-0.jpg
            return hash_of("good-0.jpg") ^ np.array([1, 1, 1, 0, 0, 1, 1, 1, 0], np.uint64)
        return np.random.default_rng(zlib.crc32(sample_id.encode())).integers(0, 2**64, 9, np.uint64)

    def hashes(table):
        return np.array([hash_of(sample_id) for sample_id in table.sample_id])

    monkeypatch.setattr(split, "hashes_of", hashes)
    project.add([f"good-{i}.jpg" for i in range(60)])
    limits = {"near_duplicate_bits": bits, "confirm_bits": confirm, "difference_bits": difference}
    options = {f"phase0.split.{name}": limit for name, limit in limits.items()}
    assert project.run("audit", "export") == 0
    assert project.run("split", **options) == 0
    assert project.read("leak_audit.json")["groups"] == groups


def test_the_quality_of_stored_photos_is_the_configs(project):
    project.host.photo_of = lambda name: jpeg_of(zlib.crc32(name.encode()), (96, 80))
    project.add(["good-1.jpg"])
    sizes = []
    for quality in (95, 50):
        assert project.run("audit", "export", **{"dataset.jpeg_quality": quality}) == 0
        sizes.append(sum(shard.stat().st_size for shard in (project.dataset / "raw").glob("*.tfrecord")))
    assert sizes[1] < 0.8 * sizes[0]


def test_a_photo_that_is_left_out_comes_back_to_its_old_place_only(project):
    project.add([f"good-{i}.jpg" for i in range(80)])
    assert project.run("audit", "export", "split") == 0
    before = project.stored()
    tested = next(name for name, (split, *_) in before.items() if split == "test")
    project.photos.insert_one({"_id": "x", "latin_name": "Other name", "image_url": tested})
    for _ in range(2):  # the second time nothing has changed
        assert project.run("audit", "export", "split") == 0
        assert project.stored() == {name: said for name, said in before.items() if name != tested}
    project.photos.delete_one({"_id": "x"})
    assert project.run("audit", "export", "split") == 0
    assert project.stored() == before


def shorter_sides(project):
    info = records.load_info(project.dataset / "dataset.json")
    shards = [shard for split in info.splits for shard in info.shards(split)]
    photos = [records.decode(e) for shard in shards for e in records.read_shard(shard)]
    return collections.Counter(min(photo.height, photo.width) for photo in photos)


def test_photos_of_two_sizes_never_meet_in_one_dataset(project, capsys):
    project.host.photo_of = lambda name: jpeg_of(zlib.crc32(name.encode()), (96, 80))
    project.add([f"good-{i}.jpg" for i in range(60)])
    other = {"dataset.short_side": 48}
    assert project.run("audit", "export", "split") == 0
    assert project.run("split", **other) == 3
    assert "run `phase0 export` with this config first" in capsys.readouterr().err
    assert project.run("export", **other) == 0
    assert project.command("split") == 0 and len(project.raw()) == 60  # up to date, and nothing of the other's is lost
    next((project.dataset / "raw").glob("*.tfrecord")).unlink()
    assert project.run("split", **other) == 3
    assert project.run("export", "split", **other) == 0
    assert shorter_sides(project) == {48: 60}


def test_where_no_photo_is_stored_every_later_step_says_so_in_a_sentence(project, capsys):
    project.add(["missing-1.jpg", "missing-2.jpg", "missing-3.jpg"])
    assert project.run("audit") == 0 and project.run("export") == 3
    offline = ["--set", "phase0.baseline.features=colour-histogram", "--set", "phase1.model.pretrained=false"]
    for phase, step, said in (
        ("phase0", "split", "error: no photo is stored; run `phase0 export`; see "),
        ("phase0", "baseline", "dataset.json; run `phase0 split` first"),
        ("phase1", "train", "dataset.json; run `phase0 split` first"),
        ("phase2", "subset", "dataset.json; run `phase0 split` first"),
    ):
        capsys.readouterr()
        assert main([phase, step, "--config", str(project.file), *offline]) == 3
        assert said in capsys.readouterr().err


def test_a_dataset_whose_photos_have_all_gone_is_kept(project):
    project.add([f"good-{i}.jpg" for i in range(60)])
    assert project.run("audit", "export", "split") == 0
    before = project.stored()
    project.photos.delete_many({})
    project.add(["missing-1.jpg"])
    assert project.run("audit") == 0 and project.run("export") == 3 and project.run("split") == 3
    assert project.stored() == before


def test_one_species_is_nothing_to_tell_apart(project, capsys):
    project.add([f"good-{i}.jpg" for i in range(60)], latin_name="Plantae")
    assert project.run("audit", "export") == 0 and project.run("split") == 2
    assert (
        "received one species, Plantae (60 photos), expected two or more; is source.fields.latin_name the right field?"
    ) in capsys.readouterr().err


def test_sessions_are_found_whatever_the_type_of_day_place_and_user(project, capsys):
    # Twelve pairs: numbers and texts, dates with slashes and blanks, seconds since 1970.
    project.add([f"good-{i}.jpg" for i in range(40)])
    for pair in range(12):
        second = 1588464000 + pair * 86400
        day = datetime.datetime.fromtimestamp(second, datetime.UTC)
        forms = [
            (f" {day:%Y/%m/%d}", {"latitude": "43.5", "longitude": "5.1", "user_id": "7"}),
            (day if pair % 2 else second * 1000, {"latitude": 43.5, "longitude": 5.1, "user_id": 7.0}),
        ]
        for which, (observed_on, fields) in enumerate(forms):
            names = {"_id": f"session-{pair}-{which}", "image_url": f"good-{100 + 2 * pair + which}.jpg"}
            project.photos.insert_one(names | {"latin_name": SPECIES[pair % 3], "observed_on": observed_on} | fields)
    project.photos.insert_one(
        {"_id": "may", "latin_name": SPECIES[0], "image_url": "good-99.jpg", "user_id": 7, "observed_on": "03.05.2020"}
    )
    assert project.run("audit", "export", "split") == 0
    report, printed = project.read("leak_audit.json"), capsys.readouterr().out
    assert report["groups"] == 40 + 12 + 1 and report["links"]["session"] >= 12
    assert report["judged"] == {"observation": 0, "session": 24, "sha256": 65, "near-duplicate": 65}
    assert (
        "rule session: 41 of 65 photos have no user_id or no day that is understood (40 no user_id, 41 no day)"
        in printed
    )
    assert "1 of 65 photos have a user, but no day that is understood" in printed
    assert "the rule author in phase0.split.group_by would tie 25 of 65 photos" in printed
    assert report["by_author"] == {"photos": 25, "links": 22}
    assert project.run("split", **{"phase0.split.group_by": ["author"]}) == 0
    assert project.read("leak_audit.json")["groups"] == 40 + 3


def test_a_host_that_answers_with_one_picture_costs_these_photos_alone(project):
    names = [f"good-{i}.jpg" for i in range(120)]
    project.add(names)
    for i in range(120):
        project.photos.update_one(
            {"_id": names[i]}, {"$set": {"observation_id": i // 3, "latin_name": f"Aus {i // 12}"}}
        )
    assert project.run("audit", "export", "split") == 0
    before = project.stored()
    shutil.rmtree(project.root / "tfrecords")
    shutil.rmtree(project.root / "artifacts")
    bad = names[::12]  # one a species
    photo_of, project.host.photo_of = (
        project.host.photo_of,
        lambda name: jpeg_of(0 if name in bad else zlib.crc32(name.encode())),
    )
    try:
        assert project.run("audit", "export", "split") == 0
    finally:
        project.host.photo_of = photo_of
    after, report = project.stored(), project.read("leak_audit.json")
    assert set(after) == set(names) - set(bad) and list(report["left_out"].values()) == [10]
    assert report["two_names"] == 0 and report["largest_group"]["n"] == 3
    assert {name: found[0] for name, found in after.items()} == {name: before[name][0] for name in after}


def test_steps_after_one_that_ended_with_nothing_say_what_to_do(project, capsys):
    project.add([f"missing-{i}.jpg" for i in range(3)])
    assert project.run("audit") == 0 and project.run("export") == 3
    capsys.readouterr()
    assert project.command("split", "--force") == 3
    assert "no photo is stored; run `phase0 export`" in capsys.readouterr().err
    later = ["phase0 baseline", "phase1 train", "phase2 subset", "phase3 combine", "phase4 distill", "phase5 calibrate"]
    random = ["phase0.baseline.features=colour-histogram", "phase1.model.pretrained=false"]
    for step in later:
        sets = [part for value in random for part in ("--set", value)]
        assert main([*step.split(), "--config", str(project.file), *sets]) == 3
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "run `" in error and "Traceback" not in error


def test_an_export_tells_what_repeats_what_has_no_photo_and_what_to_do(project, capsys):
    project.add([f"good-{i}.jpg" for i in range(6)])
    project.photos.insert_many(
        [{"_id": f"copy-{i}", "latin_name": SPECIES[i], "image_url": f"good-{i}.jpg"} for i in range(3)]
        + [{"_id": "two", "latin_name": SPECIES[1], "image_url": "good-0.jpg"}]
        + [{"_id": f"lost-{i:02}", "latin_name": f"Abies {i:02}", "image_url": f"missing-{i}.jpg"} for i in range(12)]
        + [{"_id": f"moved-{i}", "latin_name": SPECIES[i], "image_url": f"moved-{i}.jpg"} for i in range(3)]
        + [{"_id": "page", "latin_name": SPECIES[0], "image_url": "html-1.jpg"}]
    )
    assert project.run("audit", "validate-urls") == 1  # many fail
    table = project.root / "artifacts/small/phase0/tables/shared_redirects.csv"
    shared = f"3 documents of 3 species were redirected to one URL, {project.host.url}good-elsewhere.jpg"
    assert shared in capsys.readouterr().out
    project.host.asked.clear()
    table.unlink()
    assert project.run("export") == 0
    assert all(n == 1 for name, n in project.host.asked.items() if name != "good-elsewhere.jpg")
    printed = capsys.readouterr().out
    assert "3 photos with a URL that the species has already, which is stored once" in printed and shared in printed
    assert "1 URL under several latin names" in printed and "'the same URL as another photo': 3" in printed
    names = ", ".join(f"Abies {i:02}" for i in range(10))
    assert f"12 species end with no photo: {names} and 2 more; see " in printed
    assert printed.splitlines()[-2] == (
        "1 of the failures may pass: `phase0 export --force` asks for these again, and for nothing else"
    )
    assert pd.read_csv(table).values.tolist() == [[f"{project.host.url}good-elsewhere.jpg", 3, 3]]
    lost = pd.read_csv(table.with_name("species_without_photo.csv"))
    assert len(lost) == 12 and lost.iloc[11].tolist() == ["Abies 11", 1, "HTTP 404"]
    assert main(["phase0", "export", "--dry-run", "--config", str(project.file)]) == 0
    assert "to download about 0.00 MB (0.00 MB a photo, as those before) in at least 0.0 s" in capsys.readouterr().out


def test_a_dry_run_tells_bytes_and_time_at_the_limits_of_the_hosts(project, capsys):
    project.add([f"good-{i}.jpg" for i in range(40)])
    assert project.run("audit") == 0
    capsys.readouterr()
    limits = {f"127.0.0.1:{project.host.port}": {"gigabytes_per_hour": 0.36}}
    arguments = ["phase0", "export", "--dry-run", "--config", str(project.file)]
    assert main([*arguments, "--set", f"phase0.export.hosts={json.dumps(limits)}"]) == 0
    printed, guess = capsys.readouterr().out, "1.50 MB a photo, a guess, as none was fetched yet"
    assert f"to download about 60.00 MB ({guess}) in at least 10 min" in printed
    assert f"to download about 0.06 GB: {guess}" in printed


@pytest.mark.parametrize("nested", [True, False])
def test_there_are_as_many_requests_as_urls_and_no_more_bytes_than_their_photos(tmp_path, client, nested):
    def answer(target, _):
        number = int(target[1:].partition(".")[0])
        return response(jpeg_of(number, (48, 40))) if number % 97 else response(status=404)

    with RawHost(answer) as raw:
        project = Project(tmp_path, raw, client, f"species{nested}")
        plants = documents(species=40, urls=404, references=796, two_names=7, base=raw.url)
        overrides = {"source.fields": {"latin_name": "latinName", "image_url": "url"}, "source.base_url": None}
        if nested:
            overrides["source.photos"] = ["images", "img"]
        else:  # one document a reference
            plants = [
                {"_id": f"{plant['_id']}/{i}", "latinName": plant["latinName"], "url": url}
                for plant in plants
                for i, url in enumerate([*(entry["url"] for entry in plant["images"]), *plant["img"]])
            ]
            assert len(plants) == 796
        project.photos.insert_many(plants)
        assert project.run("audit", "export", **overrides) == 0
        assert raw.asked.total() == len(raw.asked) == 404
        assert raw.sent == sum(len(jpeg_of(number, (48, 40))) for number in range(404) if number % 97)
        # 5 of the 404 are missing, 6 of the 7 with two names are not.
        assert sum(project.raw().values()) == 399 + 6 and len({sha256 for _, sha256 in project.raw()}) == 399
        assert project.run("export", **overrides) == 0 and raw.asked.total() == 404
