"""A project that commit 1770f94 made stays valid: nothing is stale but by its code, nothing is fetched again.

tests/old_project/README.md tells how it was made.
"""

import collections
import json
import os
import tarfile
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pandas as pd
import pytest

from keras_pipeline.__main__ import main
from keras_pipeline.core import sidecars
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.fingerprint import change_since
from keras_pipeline.core.config.load import from_file
from keras_pipeline.phases.phase0_dataset import stored
from keras_pipeline.phases.steps import STEPS

ARCHIVE = Path(__file__).with_name("old_project") / "demo.tar.xz"
MONGODB = "source.uri=mongodb://127.0.0.1:9/"
# `stored_as` as 1770f94 wrote it for any source with the default database, collection, source.demo and dataset.
DEFAULT_DEMO = "674b56000db887baed819ed437cddfb15e46db98fb752f20e2aa87e500023779"

# Steps that leave something else since, so that their code_version was raised on purpose.
OTHER_CODE = [
    "phase0 audit", "phase0 validate-urls", "phase0 export", "phase0 split", "phase0 baseline", "phase1 evaluate",
    "phase2 evaluate", "phase4 evaluate", "phase5 calibrate", "phase5 temperature", "phase5 threshold",
    "phase6 quantize", "phase6 export", "phase6 validate", "phase7 manifest",
]  # fmt: skip
UP_TO_DATE = [
    "phase1 train", "phase1 logits", "phase2 subset",
    "phase2 train", "phase2 logits", "phase3 combine", "phase3 check", "phase4 distill", "phase4 finetune",
    "phase4 plot",
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """The project's folder, its files as old as their sidecars say."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
        for member in archive:
            seconds, _, fraction = member.pax_headers.get("mtime", str(int(member.mtime))).partition(".")
            ns = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
            os.utime(tmp_path / member.name, ns=(ns, ns))
    return tmp_path


@pytest.fixture
def command(root):
    def command(*words, sets=()):
        options = [part for each in (f"root={root}", *sets) for part in ("--set", each)]
        return main([*words, "--config", str(root / "demo.yaml"), *options])

    return command


@pytest.fixture
def run_of(root):
    def run_of(*sets):
        return Run(from_file(root / "demo.yaml", [f"root={root}", *sets]), None)

    return run_of


@pytest.fixture
def asked(monkeypatch):
    """Counts what the server of the drawn photos is asked for, by path."""
    counts, answer = collections.Counter(), SimpleHTTPRequestHandler.do_GET

    def do_get(handler):
        counts[handler.path] += 1
        answer(handler)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "do_GET", do_get)
    return counts


@pytest.mark.parametrize("sets", [[], [MONGODB], [MONGODB, "source.demo.photos=500"]])
def test_only_steps_whose_code_changed_are_stale(command, capsys, sets):
    assert command("status", "--json", sets=sets) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows if row["state"] == "done"] == UP_TO_DATE
    assert [(row["step"], row["state"], row["reason"]) for row in rows if row["state"] != "done"] == [
        (step, "stale", "its code changed") for step in OTHER_CODE
    ]


def test_no_config_differs_also_of_steps_whose_code_changed(run_of):
    run = run_of()
    old = {name: sidecars.sidecar(run.path(name)) for step in STEPS for name in step.outputs}
    changes = {
        (step.title, name): change_since(old[name], run.config, step.keys)
        for step in STEPS
        for name in step.outputs
        if old[name]
    }
    assert len(changes) == 54
    # The check has come to depend on the smallest side, and this project's is not the default.
    assert changes.pop(("phase0 validate-urls", "url_check")) == " (dataset.min_short_side: 100 -> 64)"
    # The limits of near-duplicates were measured anew, for two hashes instead of one.
    assert {step for (step, _), change in changes.items() if change} == {"phase0 split"}


def test_another_value_is_noticed(command, run_of, capsys):
    sets = ["source.demo.photos=97", "phase4.finetune.epochs=3"]
    assert command("status", "--json", sets=sets) == 0
    reasons = {row["step"]: row["reason"] for row in json.loads(capsys.readouterr().out)}
    run, (export,) = run_of(*sets), (step for step in STEPS if step.title == "phase0 export")
    meta = sidecars.sidecar(run.path("url_ledger"))
    assert change_since(meta, run.config, export.keys) == " (source.demo.photos: 98 -> 97)"
    assert reasons["phase4 finetune"] == "its config changed (phase4.finetune.epochs: 2 -> 3)"


def test_an_export_asks_for_no_photo(command, root, asked, capsys):
    ledger = root / "artifacts/demo/phase0/url_ledger.parquet"
    before = pd.read_parquet(ledger)
    assert command("phase0", "export", "--force") == 0
    assert asked.total() == 0
    assert "95 photos stored, 3 not" in capsys.readouterr().out
    assert not list((root / "tfrecords/demo/raw").iterdir())
    pd.testing.assert_frame_equal(pd.read_parquet(ledger), before)
    # Stored otherwise, all with a name are asked for.
    assert command("phase0", "export", "--force", sets=["dataset.jpeg_quality=81"]) == 0
    assert asked.total() == len(asked) == 97


def test_photos_of_a_mongodb_are_stored_as_before_and_source_demo_no_longer_counts(run_of, root, capsys):
    """1770f94 hashed the same for a MongoDB as for this project, since the URI was no part of it."""
    file, ledger = root / "tfrecords/demo/stored_as", root / "tfrecords/demo/ledger.sqlite"
    former, shards = file.read_text(), sorted(root.glob("tfrecords/demo/*.tfrecord"))
    mongodb, other_demo = run_of(MONGODB), run_of(MONGODB, "source.demo.species=4")
    assert stored.is_stored_alike(mongodb) and stored.finished_shards(mongodb) == shards and len(shards) == 4
    assert not stored.is_stored_alike(other_demo)  # nobody can tell what 1770f94 would have hashed

    stored.discard_other_export(mongodb)
    assert capsys.readouterr().out == f"{file}: source.demo no longer counts for a MongoDB; nothing is fetched again\n"
    assert file.read_text() == f"{stored.stored_as(mongodb)}\n{former}"
    for run in (mongodb, other_demo):
        stored.discard_other_export(run)
        assert stored.is_stored_alike(run) and stored.finished_shards(run) == shards
    assert capsys.readouterr().out == "" and ledger.exists()
    assert file.read_text() == f"{stored.stored_as(mongodb)}\n{former}"

    otherwise = run_of(MONGODB, "dataset.jpeg_quality=81")
    assert not stored.is_stored_alike(otherwise) and not stored.finished_shards(otherwise)
    stored.discard_other_export(otherwise)
    assert not ledger.exists() and file.read_text() == stored.stored_as(otherwise)


def test_hashes_that_are_stored_alone_stay_the_same(make_config):
    """Another value here makes everyone fetch all photos again, or ask again for all that failed."""
    embedded, mongodb = make_config(), make_config(source={"uri": "mongodb://127.0.0.1:9/"})
    without_demo = "9a36aaae12d9b457d2a64df521691be1ba5b80f1a53851e64da99a65b277a247"
    for config, names in ((embedded, {DEFAULT_DEMO}), (mongodb, {DEFAULT_DEMO, without_demo})):
        run = Run(config, None)
        assert stored._accepted(run) == names
    assert stored.stored_as(Run(mongodb, None)) == without_demo
    asked_with = "c7ddab8b6584f45cc0cc33cc99021947ab49f5409d37ea298a22ae19294ce77c"
    assert stored.lasting_hash(mongodb, stored.REQUEST, stored.REQUEST_AT_FIRST) == asked_with
