"""The chain on steps that only write small files: what runs, what is skipped, what a killed run leaves."""

import contextlib
import dataclasses
import gc
import json
import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from filelock import FileLock

from keras_pipeline.core import artifacts
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import SPLITS
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.core.files import read_json, write_json
from keras_pipeline.core.sidecars import path_of
from keras_pipeline.evaluation import gates
from keras_pipeline.phases import forecast, inputs, preflight, runner, staleness, status, steps
from keras_pipeline.phases.steps import Step


@dataclasses.dataclass(frozen=True)
class Written(Step):
    """A step whose work is a function of this file."""

    work: Callable = None

    def load(self):
        return SimpleNamespace(run=self.work)


class Chain:
    """audit -> export -> split -> dataset, leak_audit -> train; counts what ran."""

    def __init__(self, run):
        self.run, self.ran, self.leaks = run, [], []
        self.raw = run.path("dataset").parent / "raw"
        self.steps = [
            Written("phase0", "audit", "", (), ("audit",), ("source.query",), work=self.audit),
            Written("phase0", "export", "", ("audit",), ("url_ledger",), ("source.query",), work=self.export),
            Written(
                "phase0", "split", "", ("url_ledger",), ("dataset", "leak_audit"), ("seed",), work=self.split,
                leftovers=("tfrecords/{dataset}/raw",),
            ),
            Written("phase1", "train", "", ("dataset",), ("teacher_history",), ("phase1",), work=self.train),
        ]  # fmt: skip

    def audit(self, run):
        self.ran.append("audit")
        counts = {
            "per_class": {"a": 1, "b": 1},
            "conflicts": {"photos": 0},
            "per_region": {"EU": 2},
            "per_host": {"h": 1},
            "species": 2,
            "usable": 2,
        }
        write_json(run.path("audit"), {**counts, "query": run.config.source.query})

    def export(self, run):
        self.ran.append("export")
        self.raw.mkdir(exist_ok=True)
        run.path("url_ledger").write_text("photos")

    def split(self, run):
        self.ran.append("split")
        splits = {name: {"n": 1, "per_region": {"EU": 1}, "per_class": {"a": 1}, "shards": []} for name in SPLITS}
        write_json(run.path("dataset"), {"seed": run.config.seed, "classes": ["a"], "splits": splits})
        photos = {"train": 680_000, "test": 170_000}
        found = {
            "leaks": self.leaks, "links": {"sha256": 1}, "photos": 850_000, "largest_group": {"share": 0.001},
            "shares": {"asked": {"train": 0.8, "test": 0.2}, "photos": photos, "reachable": photos, "two_groups": 2},
            "pictures": 850_000, "two_names": 0,
        }  # fmt: skip
        write_json(run.path("leak_audit"), found)

    def train(self, run):
        self.ran.append("train")
        write_json(run.path("teacher_history"), {"epochs": run.config.phase1.training.epochs})

    def execute(self, force=False, **sections):
        """Runs the chain, returns the names of the steps that really ran."""
        self.ran.clear()
        values = self.run.config.model_dump() | sections
        run = Run(artifacts.Config.model_validate(values), self.run.open_source)
        runner.execute(run, self.steps, force=force)
        self.verdicts = gates.judge(run, {step.title for step in self.steps})
        return list(self.ran)


@pytest.fixture
def chain(make_config, monkeypatch):
    chain = Chain(Run(make_config(), lambda: contextlib.nullcontext()))
    for table in ("CHECKS", "NEEDS"):
        monkeypatch.setattr(preflight, table, {})
    for module in (inputs, status, forecast):
        monkeypatch.setattr(module, "STEPS", chain.steps)
    monkeypatch.setattr(gc, "collect", lambda *generation: 0)  # seconds each, in a process that holds many graphs
    return chain


ALL = ["audit", "export", "split", "train"]


def test_a_second_run_does_nothing(chain):
    assert chain.execute() == ALL
    assert not chain.raw.exists()
    assert chain.execute() == []
    assert {row["state"] for row in status.rows(chain.run, chain.steps)} == {"done"}


@pytest.mark.parametrize(
    ("artefact", "suffix", "step", "again"),
    [
        ("audit", "", "phase0 audit", ["audit"]),
        ("leak_audit", "", "phase0 split", ["split"]),
        ("dataset", "", "phase0 split", ["split"]),
        ("teacher_history", ".meta.json", "phase1 train", ["train"]),
    ],
)
@pytest.mark.parametrize("text", ["", '{"n": ', "\0\0\0"])
def test_a_broken_file_is_named_and_its_step_made_again(chain, capsys, artefact, suffix, step, again, text):
    chain.execute()
    path = chain.run.path(artefact)
    file = path.with_name(path.name + suffix)
    file.write_text(text)
    states = {row["step"]: (row["state"], row["reason"]) for row in status.rows(chain.run, chain.steps)}
    kind = "empty" if not text else "no whole sidecar" if suffix else "no whole JSON"
    assert states[step] == ("broken", f"{file}: broken ({kind})")
    assert [state for state, _ in states.values()].count("broken") == 1 and file.read_text() == text
    capsys.readouterr()
    assert chain.execute() == again
    assert f"{step}: {file}: broken ({kind})\n" in capsys.readouterr().out
    assert {row["state"] for row in status.rows(chain.run, chain.steps)} == {"done"}


def test_a_step_that_would_read_a_broken_file_names_the_step_that_makes_it(chain):
    chain.execute()
    path = chain.run.path("dataset")
    text = path.read_text()
    stat = path.stat()
    path.write_text("\0" * len(text))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(BrokenArtefact, match=r"dataset.json: broken .no whole JSON.; `phase0 split` makes it again"):
        runner.execute(chain.run, chain.steps[-1:], force=True)


def test_gates_of_a_broken_file_are_not_measurable(chain):
    chain.execute()
    chain.run.path("leak_audit").write_text("")
    verdicts = gates.judge(chain.run, {"phase0 split"})
    assert {verdict["status"] for verdict in verdicts} == {"not measurable here"}
    assert all("leak_audit.json: not JSON" in verdict["reason"] for verdict in verdicts)


def test_each_step_that_ran_is_passed_on_at_once(chain):
    seen = []
    runner.execute(chain.run, chain.steps, after=lambda step: seen.append((step.name, list(chain.ran))))
    assert seen == [(name, ALL[: i + 1]) for i, name in enumerate(ALL)]
    runner.execute(chain.run, chain.steps, after=lambda step: seen.append(step))
    assert len(seen) == 4


def test_force_runs_everything(chain):
    chain.execute()
    assert chain.execute(force=True) == ALL


def test_only_what_depends_on_a_change_runs(chain):
    chain.execute()
    training = {"training": {"epochs": 4, "learning_rate": 1e-3}}
    assert chain.execute(phase1=training) == ["train"]


def test_the_same_contents_again_stop_the_wave(chain):
    # export runs for another query, but the ledger comes out the same, so nothing after it has to run.
    chain.execute()
    other = {**chain.run.config.model_dump()["source"], "query": {"x": 1}}
    assert chain.execute(source=other) == ["audit", "export"]


def test_a_hand_edited_file_is_made_again(chain):
    chain.execute()
    path = chain.run.path("teacher_history")
    path.write_text(path.read_text() + " ")
    assert chain.execute() == ["train"]


def failing(chain, fail):
    """The chain's last step replaced by one that fails, while the context is open."""
    whole = chain.steps[3]
    chain.steps[3] = dataclasses.replace(whole, work=fail)
    with pytest.raises(ZeroDivisionError):
        chain.execute(force=True)
    chain.steps[3] = whole
    return state_of(chain, "phase1 train")


def state_of(chain, step):
    return {row["step"]: row["state"] for row in status.rows(chain.run, chain.steps)}[step]


def test_a_step_that_fails_half_way_runs_again(chain):
    def fail(run):
        write_json(run.path("teacher_history"), {"epochs": "half"})
        raise ZeroDivisionError

    chain.execute()
    assert failing(chain, fail) == "failed"
    assert status.rows(chain.run, chain.steps)[3]["reason"].startswith("ZeroDivisionError (20")
    assert chain.execute() == ["train"]
    assert state_of(chain, "phase1 train") == "done"


def test_a_failure_is_told_without_its_password(chain):
    def fail(run):
        raise OSError("no answer from mongodb://me:s3cret@host/plants\nat all")

    chain.steps[3] = dataclasses.replace(chain.steps[3], work=fail)
    with pytest.raises(OSError):
        chain.execute()
    assert status.rows(chain.run, chain.steps)[3]["reason"].startswith("no answer from mongodb://***@host/plants (20")


def test_status_tells_a_step_that_runs_from_one_that_was_killed(chain):
    seen = []

    def look(run):
        seen.append(status.rows(run, chain.steps)[3])
        shutil.copy(run.folder / ".under_way.json", run.folder / "kept")

    whole = chain.steps[3]
    chain.steps[3] = dataclasses.replace(whole, work=look)
    with pytest.raises(FileNotFoundError):  # it leaves nothing
        chain.execute()
    assert seen[0]["state"] == "running" and f"process {os.getpid()}" in seen[0]["reason"]
    word = json.loads((chain.run.folder / "kept").read_text())
    for change in ({"process": 2**22 + 1}, {"began": 1.0}):  # no such process; its number belongs to another one now
        write_json(chain.run.folder / ".under_way.json", word | change)
        killed = status.rows(chain.run, chain.steps)[3]
        assert killed["state"] == "failed" and "was killed" in killed["reason"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"step": 1}'])
def test_a_spoilt_note_says_nothing(chain, text):
    chain.execute()
    (chain.run.folder / ".under_way.json").write_text(text)
    assert {row["state"] for row in status.rows(chain.run, chain.steps)} == {"done"}


def test_a_dry_run_names_what_may_follow(chain, monkeypatch):
    costs = {step.title: forecast.Cost(10.0, 2e9) for step in chain.steps}
    monkeypatch.setattr(forecast, "corrected", lambda run, steps: costs)
    chain.execute()
    assert forecast.would_run(chain.run, chain.steps) == []
    chain.run.path("url_ledger").unlink()
    rows = forecast.would_run(chain.run, chain.steps)
    assert [(row["step"], row["reason"]) for row in rows] == [
        ("phase0 export", "url_ledger is missing"),
        ("phase0 split", "where phase0 export ends otherwise than before"),
        ("phase1 train", "where phase0 split ends otherwise than before"),
    ]
    assert rows[0]["gigabytes"] == 2 and rows[0]["last"] is not None
    assert [row["reason"] for row in forecast.would_run(chain.run, chain.steps, force=True)] == ["--force"] * 4
    assert [(row["state"], row["reason"]) for row in status.rows(chain.run, chain.steps)] == [
        ("done", None),
        ("stale", "url_ledger is missing"),
        ("done", "until phase0 export ends otherwise than before"),
        ("done", "until phase0 split ends otherwise than before"),
    ]


def test_a_forced_step_that_fails_at_once_loses_nothing(chain):
    chain.execute()
    assert failing(chain, lambda run: 1 / 0) == "done"
    assert chain.execute() == []


def test_leftovers_of_a_killed_run_are_removed(chain):
    chain.execute()
    dataset, phase1 = chain.run.path("dataset").parent, chain.run.path("teacher_history").parent
    leftovers = [phase1 / ".writing-77-best.keras", dataset / ".writing-77-train-00000-of-00001.tfrecord"]
    for leftover in leftovers:
        leftover.write_text("half")
    for folder in (phase1 / ".old-77-soft_labels", chain.run.folder.parents[1] / "web_export" / ".writing-77-tiny"):
        folder.mkdir(parents=True)
        (folder / "x").write_text("half")
        leftovers.append(folder)
    chain.execute()
    assert not [leftover for leftover in leftovers if leftover.exists()]
    assert phase1.joinpath("history.json").exists()


def test_a_missing_input_names_the_step_that_makes_it(chain):
    with pytest.raises(BrokenArtefact, match="phase1 train needs .*dataset.json; run `phase0 split` first"):
        runner.execute(chain.run, chain.steps[3:])
    assert state_of(chain, "phase1 train") == "missing"  # it has not begun, and so has not failed


def test_a_ledger_that_is_none_is_told_before_the_export(chain):
    chain.execute()
    ledger = chain.run.path("dataset").with_name("ledger.sqlite")
    ledger.write_bytes(bytes(range(256)))
    assert chain.execute() == []  # nothing needs it
    with pytest.raises(BrokenArtefact, match="ledger.sqlite: file is not a database; remove it .*`phase0 export"):
        chain.execute(force=True)
    assert chain.ran == []
    ledger.unlink()
    with contextlib.closing(sqlite3.connect(ledger)) as database, database:
        database.executescript("PRAGMA page_size = 512; CREATE TABLE a (b); CREATE TABLE c (d)")
    assert chain.execute(force=True) == ALL and sorted(ledger.parent.glob("ledger*")) == [ledger]
    ledger.write_bytes(ledger.read_bytes()[:1024])
    with pytest.raises(BrokenArtefact, match="ledger.sqlite: database disk image is malformed; remove it"):
        chain.execute(force=True)


def test_a_cut_shard_is_told_before_the_step_that_would_read_it(chain):
    chain.execute()
    dataset = chain.run.path("dataset")
    found = read_json(dataset)
    found["splits"]["train"]["shards"] = [{"name": "train-0.tfrecord", "n": 1, "bytes": 5, "sha256": ""}]
    write_json(dataset, found)
    (dataset.parent / "train-0.tfrecord").write_text("12345")
    staleness.write_sidecars(chain.run, chain.steps[2], 1.0)
    assert chain.execute() == ["train"]
    (dataset.parent / "train-0.tfrecord").write_text("1234")
    said = r"train-0.tfrecord: received 4 bytes, expected 5 bytes: corrupt shard; remove that shard, then run"
    for first in (0, 2, 3):
        with pytest.raises(BrokenArtefact, match=said):
            preflight.check_ahead(chain.run, chain.steps[first:], force=True)
    (dataset.parent / "train-0.tfrecord").unlink()
    for first in (0, 2):  # an export fetches its photos, or has fetched them
        preflight.check_ahead(chain.run, chain.steps[first:], force=True)
    with pytest.raises(BrokenArtefact, match="train-0.tfrecord: received no file, expected 5 bytes"):
        preflight.check_ahead(chain.run, chain.steps[3:], force=True)


@pytest.fixture
def asking(chain, monkeypatch):
    """The chain's last step asks, before any work, for what it says is not there."""

    def check(run, counts):
        raise ValueError(f"no weights for {run.config.experiment}")

    def ask():
        monkeypatch.setattr(preflight, "CHECKS", {"phase1 train": check})
        return chain

    return ask


def test_what_a_later_step_lacks_is_said_before_the_first_one_runs(asking):
    chain = asking()
    with pytest.raises(ValueError, match="no weights for tiny"):
        chain.execute()
    assert chain.ran == [] and not chain.run.path("audit").exists()


def test_finished_steps_are_not_asked_again(asking, chain):
    chain.execute()
    chain = asking()
    assert chain.execute() == []
    with pytest.raises(ValueError, match="no weights"):
        chain.execute(force=True)
    # The export alone is stale, but may be what the training learns from.
    chain.run.path("url_ledger").unlink()
    with pytest.raises(ValueError, match="no weights"):
        chain.execute()
    assert chain.ran == []


def hold(path, taken, release):
    with FileLock(path):
        taken.set()
        release.wait(20)


def test_two_runs_of_one_experiment_do_not_mix(chain):
    context = multiprocessing.get_context("spawn")
    taken, release = context.Event(), context.Event()
    chain.run.folder.mkdir(parents=True)
    other = context.Process(target=hold, args=(chain.run.folder / ".lock", taken, release))
    other.start()
    assert taken.wait(20)
    try:
        with pytest.raises(SourceError, match="another run is writing here"):
            chain.execute()
    finally:
        release.set()
        other.join()
    assert chain.execute() == ALL


def test_a_missed_gate_does_not_stop_the_chain(chain):
    chain.leaks = [{"kind": "sha256"}]
    assert chain.execute() == ALL
    assert {v["name"]: v["status"] for v in chain.verdicts if v["step"] == "phase0 split"} == {
        "leaks": "missed", "largest_group": "met", "split_shares": "met", "two_names": "met", "valid_photos_min": "met",
        "valid_photos_max": "met",
    }  # fmt: skip
    chain.execute()
    assert "missed" in {v["status"] for v in chain.verdicts}  # said again though nothing ran


def test_steps_between():
    def titles(*names):
        return [step.title for step in steps.steps_between(*names)]

    assert titles(None, None) == [step.title for step in steps.STEPS]
    assert titles("phase3", "phase3") == ["phase3 combine", "phase3 check"]
    assert titles("phase2 train", "phase3 combine") == [
        "phase2 train", "phase2 evaluate", "phase2 logits", "phase3 combine",
    ]  # fmt: skip
    assert titles("phase7", None) == ["phase7 manifest"]
    with pytest.raises(ValueError, match="^--from: received 'phase9', expected one of phase0, phase1, "):
        titles("phase9", None)
    with pytest.raises(ValueError, match="--from phase4 --until phase1: received an end before the beginning"):
        titles("phase4", "phase1")


def test_a_corrupt_shard_is_named_when_training_stumbles_over_it(chain, dataset_json, tmp_path):
    tf = pytest.importorskip("tensorflow")
    folder = chain.run.path("dataset").parent
    folder.mkdir(parents=True)
    for file in dataset_json.parent.glob("*.*"):
        (folder / file.name).write_bytes(file.read_bytes())
    shard = folder / "val-00001-of-00002.tfrecord"
    data = bytearray(shard.read_bytes())
    data[60] ^= 1
    shard.write_bytes(data)

    def read(run):
        list(tf.data.TFRecordDataset([str(path) for path in sorted(folder.glob("*.tfrecord"))]))

    step = dataclasses.replace(chain.steps[3], work=read)
    with pytest.raises(BrokenArtefact, match="val-00001-of-00002.tfrecord: corrupt shard"):
        runner.execute(chain.run, [step])


def test_describing_all_verdicts(chain):
    chain.execute()
    assert all(gates.describe(verdict) for verdict in chain.verdicts)


def test_a_phase_that_is_not_applicable_is_left_out_and_named(chain, capsys, tmp_path):
    def never(run):
        raise AssertionError("phase 2 was run")

    chain.steps.insert(4, Written("phase2", "train", "", ("dataset",), ("regional",), ("phase2",), work=never))
    assert chain.execute(phase2=None) == ALL
    assert "phase2: not applicable here: the config says phase2: null" in capsys.readouterr().out
    config = artifacts.Config.model_validate(chain.run.config.model_dump() | {"phase2": None})
    (row,) = status.rows(Run(config, None), chain.steps)[4:]
    assert (row["step"], row["state"]) == ("phase2 train", "not applicable")
    # Now the photos are counted.
    assert row["reason"] == "all 2 photos are of region EU: there is no other region to compare with"
    given = str(tmp_path / "labels.csv")
    path_of(chain.run.path("audit")).unlink()
    for labels, said in ((None, "no photo has a region"), (given, f"{given} has no column region")):
        demo = {"images": labels and str(tmp_path), "labels": labels}
        (tmp_path / "labels.csv").write_text("image,latin_name,place\na.jpg,A a,region\n")
        config = artifacts.Config.model_validate(config.model_dump() | {"source": {"demo": demo}})
        write_json(chain.run.path("audit"), {"per_region": {"unknown": 2}})
        assert said == Run(config, None).why_not_applicable("phase2")
    (tmp_path / "labels.csv").write_text('image,latin_name,"region"\r\na.jpg,A a,unknown\n')
    assert Run(config, None).why_not_applicable("phase2") == "no photo has a region"
