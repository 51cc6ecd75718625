"""The manifest's schema, what verify names, a repetition compared with it. No training: the chain is stood in for."""

import contextlib
import copy
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml

from keras_pipeline import __main__ as cli
from keras_pipeline.core import manifest, sidecars
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.evaluation import gates
from keras_pipeline.phases import reproduce, staleness, verify
from keras_pipeline.phases.steps import Step

ARTEFACTS = {
    "dataset": "phase0 split", "teacher": "phase1 train", "regional": "phase2 train", "soft_labels": "phase3 combine",
    "distilled": "phase4 distill", "student": "phase4 finetune", "shipped": "phase6 quantize",
    "shipped_calibration": "phase6 quantize", "curves": "phase4 plot",
}  # fmt: skip
LEAKS = {
    "name": "leaks",
    "words": "in two splits",
    "step": "phase0 split",
    "status": "met",
    "value": 0,
    "target": "<= 0",
    "reason": "",
}


@pytest.fixture
def value(make_config):
    """A whole manifest, as plain values."""
    hashes = {name: f"{number:064x}" for number, name in enumerate(ARTEFACTS)}
    phase = {"status": "completed", "seconds": 10.0}
    return {
        "manifest_version": 1,
        "timestamp": "2026-01-01T00:00:00Z",
        "git_commit": None,
        "git_dirty": None,
        "experiment": "tiny",
        "data": {
            "mongo_snapshot": "tfrecords/tiny/dataset.json", "source": "embedded plants.photos", "query": {},
            "dataset_hash": hashes["dataset"], "class_hash": "c", "total_samples": 1000, "total_species": 3,
            "train_samples": 700, "val_samples": 50, "calibration_samples": 50, "test_samples": 200, "shards": {},
        },
        "phases": {f"phase_{n}": copy.deepcopy(phase) for n in range(7)}
        | {"phase_1": phase | {"top1": 0.9, "top5": 0.995}, "phase_4": phase | {"final_top1": 0.8}},
        "environment": {
            "python_version": "3.11.7", "tensorflow_version": "2.19.0", "keras_version": "3.15.1", "platform": "Linux",
            "cpu": "2 x EPYC", "gpu": [], "drivers": {}, "flags": {}, "packages": {"numpy": "2.1.3"}, "seed": 42,
            "deterministic": True,
        },
        "hyperparameters": {"kl_weight": 0.7},
        "gates": [LEAKS],
        "artefacts": {
            name: {"content_hash": hashes[name], "producer": maker, "code_version": 1, "inputs": {}, "seconds": 1.0,
                   "finished": "2026-01-01T00:00:00Z"}
            for name, maker in ARTEFACTS.items()
        },
        "config": make_config(deterministic=True).model_dump(),
    }  # fmt: skip


@pytest.fixture
def run(make_config):
    run = Run(make_config(deterministic=True), lambda: contextlib.nullcontext())
    run.path("manifest").parent.mkdir(parents=True)
    return run


def test_a_manifest_comes_back_as_it_was_written(value, tmp_path):
    manifest.write(tmp_path / "m.yaml", value)
    found = manifest.read(tmp_path / "m.yaml")
    assert found.phases["phase_4"].final_top1 == 0.8 and found.data.test_samples == 200
    manifest.write(tmp_path / "again.yaml", found.model_dump())
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "m.yaml").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.pop("gates"), "manifest schema: gates: missing; `phase7 manifest` writes one"),
        (lambda v: v.update(manifest_version=2), "manifest_version: received 2, expected 1;"),
        (
            lambda v: v["phases"].pop("phase_3"),
            "phases: received phase_0, phase_1, phase_2, phase_4, phase_5, phase_6, expected phase_0, "
            "phase_1, phase_2, phase_3, phase_4, phase_5, phase_6",
        ),
        (
            lambda v: v["phases"].update(phase_9=v["phases"].pop("phase_3")),
            "phases: received phase_0, phase_1, phase_2, phase_4, phase_5, phase_6, phase_9, expected",
        ),
        (lambda v: v["data"].update(test_samples="x"), "data.test_samples: received 'x', expected a value of another"),
        (lambda v: v["data"].update(dataset_hash="abc"), "data.dataset_hash: received 'abc', expected ..0-9a-f"),
        (lambda v: v["phases"]["phase_2"].update(status="fine"), "phase_2.status: received 'fine', expected 'comp"),
        (lambda v: v.update(more=1), "more: unknown;"),
    ],
)
def test_what_is_no_manifest_is_named(value, tmp_path, change, said):
    manifest.write(tmp_path / "m.yaml", value)
    change(value)
    with pytest.raises(BrokenArtefact, match=said):
        manifest.write(tmp_path / "m.yaml", value)
    (tmp_path / "n.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(BrokenArtefact, match=said):
        manifest.read(tmp_path / "n.yaml")
    manifest.read(tmp_path / "m.yaml")  # the old one is still there


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\x00", "!!python/object/apply:os.system [true]"])
def test_other_files_are_no_manifests(tmp_path, text):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(BrokenArtefact, match="m.yaml: (received a file without manifest_version, exp|can't be read)"):
        manifest.read(tmp_path / "m.yaml")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(20_000_001)
    with pytest.raises(BrokenArtefact, match="received 20,000,001 bytes, expected at most"):
        manifest.read(tmp_path / "large.yaml")
    with pytest.raises(BrokenArtefact, match="n.yaml: missing; run `phase7 manifest`"):
        manifest.read(tmp_path / "n.yaml")


def test_verify_names_each_file_that_changed(run):
    steps = Step("phase6", "export", print, (), ("saved_model", "export"), (), 1)
    folder = run.path("saved_model")
    folder.mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (folder / name).write_text(name)
    write_json(run.path("export"), {"bytes": 1})
    staleness.write_sidecars(run, steps, 1.0)
    assert verify.verify(run) == 2
    (folder / "a.bin").write_text("A.bin")  # as long as before
    (folder / "b.bin").unlink()
    (folder / "c.bin").write_text("new")
    with pytest.raises(
        BrokenArtefact, match=r"saved_model/a.bin, .*/b.bin \(missing\), .*/c.bin; to .*: `phase6 export --force`"
    ) as found:
        verify.verify(run)
    assert "export.json" not in str(found.value)
    run.path("export").write_text("{")
    with pytest.raises(BrokenArtefact, match="export.json"):
        verify.verify(run)


def test_verify_looks_at_the_ledger_too(run):
    run.path("audit").parent.mkdir(parents=True, exist_ok=True)
    write_json(run.path("audit"), {"usable": 1})
    staleness.write_sidecars(run, Step("phase0", "audit", print, (), ("audit",), (), 1), 1.0)
    ledger = run.path("dataset").with_name("ledger.sqlite")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        database.execute("CREATE TABLE photos (url TEXT)")
        database.executemany("INSERT INTO photos VALUES (?)", [("x" * 1000,)] * 50)
        database.commit()
    assert verify.verify(run) == 1
    ledger.write_bytes(ledger.read_bytes()[: ledger.stat().st_size // 2])
    with pytest.raises(BrokenArtefact, match="ledger.sqlite: .*; remove it and its -wal"):
        verify.verify(run)


def test_verify_of_a_dataset_tells_its_list_from_its_shards(run, dataset_json):
    folder = run.path("dataset").parent
    shutil.copytree(dataset_json.parent, folder)
    staleness.write_sidecars(run, Step("phase0", "split", print, (), ("dataset",), (), 1), 1.0)
    assert verify.verify(run) == 1
    whole = run.path("dataset").read_bytes()
    for text in ("{", "{}", "[]"):
        run.path("dataset").write_text(text)
        with pytest.raises(BrokenArtefact, match="dataset.json; to make them again: `phase0 split --force`$"):
            verify.verify(run)
    run.path("dataset").write_bytes(whole)
    shard = folder / "val-00000-of-00002.tfrecord"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(BrokenArtefact, match="made: [^ ]*/val-00000-of-00002.tfrecord; .* remove that shard, then"):
        verify.verify(run)


def test_verify_looks_at_every_byte_and_takes_the_times_of_what_is_whole(run):
    """The graph of a SavedModel holds random ids and is left out of its content hash; a copy has other times."""
    step = Step("phase6", "export", print, (), ("saved_model", "export"), (), 1)
    graph, export = run.path("saved_model") / "saved_model.pb", run.path("export")
    graph.parent.mkdir(parents=True)
    graph.write_bytes(bytes(100))
    write_json(export, {"bytes": 1})
    staleness.write_sidecars(run, step, 1.0)
    graph.write_bytes(bytes(99) + b"1")
    os.utime(export, (1, 1))
    assert "export is not" in _why_stale_of(run, "export")
    with pytest.raises(
        BrokenArtefact, match=r"since they were made: [^ ]*/saved_model.pb; to .*: `phase6 export --force`$"
    ):
        verify.verify(run)
    assert _why_stale_of(run, "export") is None and "saved_model is not" in _why_stale_of(run, "saved_model")


def _why_stale_of(run, name):
    return staleness.why_stale(run, Step("phase6", "export", print, (), (name,), (), 1))


@pytest.mark.parametrize("text", [None, "", "[]", "null"])
def test_verify_names_what_the_manifest_lists_and_nothing_vouches_for(run, value, text):
    step = Step("phase6", "export", print, (), ("export",), (), 1)
    run.path("export").parent.mkdir(parents=True)
    write_json(run.path("export"), {"bytes": 1})
    staleness.write_sidecars(run, step, 1.0)
    meta = run.path("export").with_name("export.json.meta.json")
    if text is None:
        value["artefacts"]["export"] = value["artefacts"]["teacher"]
        run.path("manifest").parent.mkdir(parents=True, exist_ok=True)
        manifest.write(run.path("manifest"), value)
        meta.unlink()
    else:
        meta.write_text(text)
        assert _why_stale_of(run, "export").startswith(f"{meta}: broken (")
    with pytest.raises(BrokenArtefact, match=r"export.json \(no sidecar that can be read\)"):
        verify.verify(run)


def test_nothing_is_not_verified(run):
    empty = Run(run.config.model_copy(update={"root": str(run.folder / "nowhere")}), run.open_source)
    with pytest.raises(
        BrokenArtefact, match="received no artefact to verify, expected those of a run; use `run` first"
    ):
        verify.verify(empty)
    assert not Path(empty.config.root).exists()


@pytest.fixture
def repeat(run, value, monkeypatch):
    """reproduce(changes of the second manifest) -> its result; the chain's place takes a manifest."""
    manifest.write(run.path("manifest"), value)

    def repeat(change=lambda v: None, **first):
        again = copy.deepcopy(value | first)
        manifest.write(run.path("manifest"), again)
        change(again)

        def execute(other, steps, force):
            other.path("manifest").parent.mkdir(parents=True, exist_ok=True)
            manifest.write(other.path("manifest"), again)
            assert other.config.root == str(run.path("manifest").parent / "reproduction")

        monkeypatch.setattr(reproduce.runner, "execute", execute)
        monkeypatch.setattr(gates, "judge", lambda run, steps: [])
        return reproduce.reproduce(run, run.path("manifest"))

    return repeat


def change_of(*names):
    return lambda v: [v["artefacts"][name].update(content_hash="f" * 64) for name in names]


def test_the_same_hashes_are_a_reproduction(repeat, run, capsys):
    result = repeat()
    assert result["same"] and result["first_difference"] is None and result["environment"] == {}
    assert "reproduced: 8 artefacts have the same content hash" in capsys.readouterr().out
    assert json.loads(run.path("manifest").with_name("reproduction.json").read_text()) == result


def test_the_first_step_that_differs_is_named(repeat, capsys):
    result = repeat(change_of("shipped", "student", "distilled", "curves"))
    assert (result["same"], result["first_difference"]) == (False, "phase4 distill")
    assert result["also_different"] == ["curves"]
    assert "NOT reproduced: the first that differs is phase4 distill" in capsys.readouterr().out


def test_a_picture_alone_is_no_failure(repeat):
    result = repeat(change_of("curves"))
    assert result["same"] and result["also_different"] == ["curves"]


def test_another_machine_is_told(repeat, capsys):
    def elsewhere(v):
        v["environment"]["packages"]["numpy"] = "2.2.0"
        v["environment"]["cpu"] = "4 x Xeon"

    assert repeat(elsewhere)["environment"] == {"cpu": ["2 x EPYC", "4 x Xeon"], "numpy": ["2.1.3", "2.2.0"]}
    assert "changed since: numpy: 2.1.3 -> 2.2.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("top1", "same"),
    # 0.9 of 200 photos: 3 sqrt(2 * 0.9 * 0.1 / 200) = 0.09
    [(0.9, True), (0.811, True), (0.989, True), (0.809, False), (0.991, False)],
)
def test_without_determinism_figures_have_a_tolerance(repeat, make_config, top1, same):
    def change(v):
        change_of("teacher", "student")(v)
        v["phases"]["phase_1"]["top1"] = top1

    result = repeat(change, config=make_config(deterministic=False).model_dump())
    assert result["same"] is same and result["first_difference"] == (None if same else "phase_1 top1")


def test_without_determinism_the_records_still_must_be_the_same(repeat, make_config):
    result = repeat(change_of("dataset"), config=make_config().model_dump())
    assert (result["same"], result["first_difference"]) == (False, "phase0 split")


def test_the_gate_believes_a_reproduction_of_these_weights_only(repeat, run):
    judge = gates.judge

    def verdict():
        (found,) = (each for each in judge(run, {"phase7 manifest"}) if each["name"] == "same_seed_same_model")
        return found["status"]

    assert verdict() == "not measurable here"
    repeat()
    assert verdict() == "not measurable here"  # nothing lies here
    for name in reproduce.WEIGHTS:
        path = run.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = dict.fromkeys(("producer", "config_hash", "finished"), "") | dict.fromkeys(("config", "inputs"), {})
        meta |= {"content_hash": f"{list(ARTEFACTS).index(name):064x}", "seconds": 1.0}
        write_json(
            path.with_name(path.name + ".meta.json"), meta | dict.fromkeys(("size", "mtime_ns", "code_version"), 1)
        )
    assert verdict() == "met"
    repeat(change_of("student"))
    assert verdict() == "missed"


def test_a_manifest_without_its_password_asks_for_it(run, value):
    uri = {"uri": "mongodb://***@host", "base_url": None}
    value["config"]["source"] |= uri
    manifest.write(run.path("manifest"), value)
    config = run.config.model_copy(update={"source": run.config.source.model_copy(update=uri)})
    with pytest.raises(
        ValueError, match="source.uri: received mongodb://\\*\\*\\*@host, .* give it by --set 'source.uri=URI'"
    ):
        reproduce.reproduce(Run(config, run.open_source), run.path("manifest"))


def test_the_records_of_a_mongodb_are_the_snapshot(run, value, make_config, monkeypatch):
    source = {"uri": "mongodb://me:s3cret@host"}
    mine = Run(make_config(deterministic=True, source=source), run.open_source)
    dataset = mine.path("dataset")
    dataset.parent.mkdir(parents=True)
    write_json(dataset, {"classes": []})
    (dataset.parent / "train-00000-of-00001.tfrecord").write_bytes(b"photos")
    (dataset.parent / "ledger.sqlite").write_bytes(b"changes in place")
    mine.path("audit").parent.mkdir(parents=True)
    write_json(mine.path("audit"), {})
    staleness.write_sidecars(mine, Step("phase0", "split", print, (), ("dataset",), (), 1), 1.0)
    value["data"]["dataset_hash"] = sidecars.sidecar(dataset)["content_hash"]
    value["config"]["source"]["uri"] = "mongodb://***@host"
    value["config"]["phase1"]["callbacks"]["checkpoint_dir"] = "/where/the/first/run/has/its/own"
    manifest.write(mine.path("manifest"), value)
    seen = {}

    def execute(other, steps, force):
        folder = other.path("dataset").parent
        seen.update(files=sorted(p.name for p in folder.iterdir()), uri=other.config.source.uri)
        seen["checkpoints"] = other.config.phase1.callbacks.checkpoint_dir
        seen["vouched"] = sidecars.fingerprint(other.path("dataset")).items() <= sidecars.sidecar(dataset).items()
        manifest.write(other.path("manifest"), value)

    monkeypatch.setattr(reproduce.runner, "execute", execute)
    monkeypatch.setattr(gates, "judge", lambda run, steps: [])
    (mine.path("manifest").parent / "reproduction/artifacts/tiny/phase7").mkdir(parents=True)
    reproduce.reproduce(mine, mine.path("manifest"))
    assert seen == {
        "files": ["dataset.json", "dataset.json.meta.json", "train-00000-of-00001.tfrecord"],
        "uri": "mongodb://me:s3cret@host", "vouched": True, "checkpoints": None,
    }  # fmt: skip
    assert "s3cret" not in mine.path("manifest").with_name("reproduction.json").read_text()


def test_a_teachers_key_without_effect_is_left_out_of_an_older_manifest(repeat, value, capsys):
    model = {**value["config"]["phase1"]["model"], "name": "vit_tiny_patch16", "pretrained": False}
    older = value["config"]["phase1"] | {"model": model | {"dropout_rate": 0.3, "alpha": 0.5}}
    assert repeat(config=value["config"] | {"phase1": older, "phase2": None})["same"]
    printed = capsys.readouterr().out
    assert "manifest: phase1.model.dropout_rate is left out; it never had an effect on a teacher" in printed
    assert "manifest: phase1.model.alpha is left out" in printed and "batch_norm_momentum" not in printed


def test_reproduce_needs_a_manifest_and_nothing_else(value, tmp_path, monkeypatch, capsys):
    file = tmp_path / "m.yaml"
    manifest.write(file, value)
    seen = {}
    monkeypatch.setattr(
        reproduce, "reproduce", lambda run, source, force: seen.update(run=run, source=source) or {"same": True}
    )
    assert cli.main(["phase7", "reproduce", "--manifest", str(file), "--set", "seed=7"]) == 0
    assert seen["source"] == file and seen["run"].config.seed == 7 and seen["run"].config.experiment == "tiny"
    config = tmp_path / "tiny.yaml"
    config.write_text(f"root: {tmp_path}")
    assert cli.main(["phase7", "reproduce", "--config", str(config)]) == 0  # the experiment's own
    assert seen["source"] == tmp_path / "artifacts/tiny/phase7/manifest.yaml"
    for given, said in (("none.yaml", "no file"), (".", "a folder")):
        assert cli.main(["phase7", "reproduce", "--manifest", str(tmp_path / given)]) == 2
        said = f"error: --manifest: received {tmp_path / given}, which is {said}, expected what `phase7 man"
        assert said in capsys.readouterr().err
    assert cli.main(["phase7", "reproduce", "--manifest", str(config)]) == 3
    said = f"{config}: received a file without manifest_version, expected a manifest; give the file that `phase7 manif"
    assert said in capsys.readouterr().err


def test_without_config_or_manifest_a_command_says_what_it_needs(capsys):
    assert cli.main(["phase7", "reproduce"]) == 2
    assert "phase7: --config is missing; expected a YAML file, see configs/" in capsys.readouterr().err
