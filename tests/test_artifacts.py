"""Sidecars, content hashes, and what makes a step stale."""

import contextlib
import hashlib
import json
import os
import re
import zipfile

import pytest

from keras_pipeline.core import artifacts, files, sidecars
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config import fingerprint
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import byte_hashes, content_hash, file_hash
from keras_pipeline.phases import staleness
from keras_pipeline.phases.staleness import why_stale
from keras_pipeline.phases.steps import Step


def step_of(**changes):
    values = {
        "phase": "phase5", "name": "threshold", "help": "", "inputs": ("predictions",),
        "outputs": ("calibration",), "keys": ("seed", "phase5.bins"), "code_version": 1,
    }  # fmt: skip
    return Step(**values | changes)


@pytest.fixture
def run(make_config):
    run = Run(make_config(), lambda: contextlib.nullcontext(("", None)))
    for name in ("predictions", "dataset"):
        run.path(name).parent.mkdir(parents=True)
    return run


@pytest.fixture
def done(run):
    """`threshold` has run on predictions that have a sidecar."""
    run.path("predictions").write_bytes(b"first")
    staleness.write_sidecars(run, step_of(inputs=(), outputs=("predictions",)), 0.5)
    write_json(run.path("calibration"), {"ece": 0.1})
    staleness.write_sidecars(run, step_of(), 1.25)
    return run


def test_a_json_that_says_something_else_was_edited_and_one_that_was_copied_was_not(done):
    path = done.path("calibration")
    assert sidecars.edited(path) is None
    path.write_text(json.dumps(json.loads(path.read_text())))  # another layout, another time, the same content
    assert sidecars.edited(path) is None
    path.write_text('{"ece": 0.2}')
    assert "not what `phase5 threshold` wrote; put" in sidecars.edited(path)
    path.write_text("{")
    assert "not what `phase5 threshold` wrote; put" in sidecars.edited(path)


def test_a_sidecar_tells_all_that_was_used(done):
    meta = sidecars.sidecar(done.path("calibration"))
    assert meta["producer"] == "phase5 threshold" and meta["seconds"] == 1.25
    assert meta["content_hash"] == content_hash(done.path("calibration"))
    assert meta["inputs"] == {"predictions": content_hash(done.path("predictions"))}


def test_an_untouched_step_is_up_to_date(done):
    assert why_stale(done, step_of()) is None


def test_a_step_that_never_ran(run):
    assert why_stale(run, step_of()) == "calibration not made yet"


def test_other_code(done):
    assert why_stale(done, step_of(code_version=2)) == "its code changed"


def test_other_code_only_for_some_configs(done):
    """What an older program made stays up to date where today's would make the same."""
    assert why_stale(done, step_of(code_version=2, newest_for=lambda config: config.seed == 1)) is None
    assert why_stale(done, step_of(code_version=2, newest_for=lambda config: config.seed == 42)) == "its code changed"


def test_other_config_only_where_the_step_depends_on_it(done, make_config):
    def with_config(**sections):
        return Run(make_config(**sections), done.open_source)

    assert why_stale(with_config(phase5={"bins": 10}), step_of()) == "its config changed (phase5.bins: 15 -> 10)"
    both = with_config(seed=1, phase5={"bins": 10})
    assert why_stale(both, step_of()) == "its config changed (phase5.bins: 15 -> 10, seed: 42 -> 1)"
    assert why_stale(with_config(phase5={"target_precision": 0.9}), step_of()) is None


def test_the_contents_of_a_file_that_the_config_names_count(done, make_config, tmp_path):
    labels = tmp_path / "labels"
    labels.write_text("image,latin_name\n")
    run = Run(make_config(source={"demo": {"images": str(tmp_path), "labels": str(labels)}}), done.open_source)
    step = step_of(keys=("source.demo",))
    staleness.write_sidecars(run, step, 1.0)
    assert why_stale(run, step) is None
    labels.write_text("image,latin_name\na.jpg,Viola odorata\n")
    assert why_stale(run, step) == "its config changed (source.demo.labels: other contents)"
    labels.unlink()
    assert why_stale(run, step) == f"its config changed (source.demo.labels: {labels} is gone)"
    without = Run(make_config(source={"demo": {"images": None, "labels": None}}), done.open_source)
    assert re.search(r'source.demo.labels: "contents \w{16}" -> null', why_stale(without, step))


def test_only_fields_marked_as_files_are_read(make_config, tmp_path):
    file = tmp_path / "names.csv"
    file.write_text("synonym,latin_name\n")
    contents = "contents " + hashlib.sha256(b"synonym,latin_name\n").hexdigest()[:16]
    source = {"synonyms": str(file), "query": {"labels": str(file)}, "database": str(file)}
    settings = fingerprint.settings_of(
        make_config(source=source), ("source.synonyms", "source.query", "source.database")
    )
    assert settings == {"source.synonyms": contents, "source.query.labels": str(file), "source.database": str(file)}


def test_a_file_that_only_moved_changes_nothing(done, make_config, tmp_path):
    weights = [tmp_path / name for name in ("a.h5", "b.h5")]
    for file in weights:
        file.write_bytes(b"weights")
    step = step_of(keys=("phase1.model",))
    first, second = (Run(make_config(phase1={"model": {"pretrained": str(w)}}), done.open_source) for w in weights)
    staleness.write_sidecars(first, step, 1.0)
    assert why_stale(second, step) is None
    weights[1].write_bytes(b"others")
    assert "its config changed (phase1.model.pretrained: other contents)" in why_stale(second, step)
    third = Run(make_config(phase1={"model": {"pretrained": "imagenet", "name": "mobilenetv2"}}), done.open_source)
    assert re.search(r'phase1.model.pretrained: "contents \w{16}" -> "imagenet"', why_stale(third, step))


def test_a_sidecar_holds_no_password_but_a_new_one_counts(done, make_config):
    step = step_of(keys=("source.base_url", "source.query"))

    def with_password(word):
        source = {"base_url": f"https://me:{word}@photos.example.org/?token={word}", "query": {"day": "2020-01-31"}}
        return Run(make_config(source=source), done.open_source)

    staleness.write_sidecars(with_password("s3cret"), step, 1.0)
    file = done.path("calibration").with_name("calibration.json.meta.json")
    assert "s3cret" not in file.read_text() and "photos.example.org" in file.read_text()
    assert why_stale(with_password("s3cret"), step) is None
    assert why_stale(with_password("other"), step) == "its config changed"


@pytest.fixture
def since(done, make_config):
    """(keys of a step, its settings in an older program's sidecar, sections of today's config) -> why it is stale."""

    def since(keys, old, **sections):
        run, step = Run(make_config(**sections), done.open_source), step_of(keys=tuple(keys.split()))
        staleness.write_sidecars(run, step, 1.0)
        file = sidecars.path_of(run.path("calibration"))
        digest = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
        write_json(file, json.loads(file.read_text()) | {"config": old, "config_hash": digest})
        return why_stale(run, step)

    return since


OLD_MODEL = {
    "phase3.model.name": "mobilenetv2", "phase3.model.pretrained": True, "phase3.model.alpha": 1.0,
    "phase3.model.batch_norm_momentum": 0.9, "phase3.model.head_rank": None, "phase3.model.num_classes": None,
}  # without dropout_rate, which is 0.2 unless given  # fmt: skip


def test_a_key_that_is_new_changes_nothing_at_its_default(since):
    assert since("phase3.model", OLD_MODEL) is None
    assert since("phase3.model", OLD_MODEL, phase3={"model": {"dropout_rate": 0.2}}) is None
    # 0.3 is the default in phase 2 alone.
    assert since("phase2.regularization", {"phase2.regularization.label_smoothing": 0.0}) is None


def test_a_key_that_is_new_counts_at_another_value_and_only_what_changed_is_named(since):
    model = {"dropout_rate": 0.3}
    reason = since("phase3.model", OLD_MODEL, phase3={"model": model})
    assert reason == "its config changed (phase3.model.dropout_rate: 0.2 -> 0.3)"
    reason = since("phase3.model", OLD_MODEL, phase3={"model": {"alpha": 0.5}})
    assert reason == "its config changed (phase3.model.alpha: 1.0 -> 0.5)"


def test_keys_of_list_entries_and_hosts_may_be_new_too(since):
    old = {"phase3.teachers": [{"path": "phase1/best.keras", "weight": 1.0}]}
    member = {"path": "phase1/best.keras", "weight": 1.0}
    assert since("phase3.teachers", old, phase3={"teachers": [member]}) is None
    assert "its config changed (phase3.teachers: " in since(
        "phase3.teachers", old, phase3={"teachers": [member | {"weight": 0.5}]}
    )
    other = {"path": "other.keras", "weight": 1.0}
    old = {"phase3.teachers": [member, other]}
    assert since("phase3.teachers", old, phase3={"teachers": [member, other]}) is None
    regional = other | {"region_filter": "EU"}
    assert "its config changed (phase3.teachers: " in since(
        "phase3.teachers", old, phase3={"teachers": [member, regional]}
    )

    def hosts(**limits):
        return {"export": {"hosts": {"a.org": {"concurrency": 2, **limits}}}}

    old = {"phase0.export.hosts.a.org.concurrency": 2}
    assert since("phase0.export.hosts", old, phase0=hosts()) is None
    assert since("phase0.export.hosts", old, phase0=hosts(requests_per_second=5.0)) == (
        "its config changed (phase0.export.hosts.a.org.requests_per_second: null -> 5.0)"
    )


def test_a_new_condition_of_a_query_is_no_new_key(since):
    old = {"source.query.$or": [{"license": "CC0"}, {"region": "EU"}]}
    query = {"$or": [{"license": "CC0"}, {"region": "EU"}]}
    assert since("source.query", old, source={"query": query}) is None
    query["$or"][0]["day"] = 1
    assert "its config changed (source.query.$or: " in since("source.query", old, source={"query": query})
    assert "source.query.day: null -> 1" in since("source.query", {"source.query": {}}, source={"query": {"day": 1}})


def test_a_key_that_is_gone_counts_unless_it_is_listed_with_its_value(since, monkeypatch):
    old = OLD_MODEL | {"phase3.model.activation": "relu6"}
    assert since("phase3.model", old) == 'its config changed (phase3.model.activation: "relu6" -> null)'
    monkeypatch.setitem(fingerprint.REMOVED, "phase3.model.activation", "relu6")
    assert since("phase3.model", old) is None
    assert since("phase3.model", OLD_MODEL) is None
    old = OLD_MODEL | {"phase3.model.activation": "swish"}
    assert since("phase3.model", old) == 'its config changed (phase3.model.activation: "swish" -> "relu6")'


def test_a_renamed_key_keeps_its_value(since, monkeypatch):
    old = {"phase3.model.width" if key == "phase3.model.alpha" else key: value for key, value in OLD_MODEL.items()}
    monkeypatch.setitem(fingerprint.RENAMED, "phase3.model.width", "phase3.model.alpha")
    assert since("phase3.model", old) is None
    assert since("phase3.model", OLD_MODEL) is None
    reason = since("phase3.model", old, phase3={"model": {"alpha": 0.5}})
    assert reason == "its config changed (phase3.model.width: 1.0 -> 0.5)"


def test_a_changed_password_counts_beside_a_new_key(done, make_config):
    def with_password(word):
        return Run(make_config(source={"base_url": f"https://me:{word}@photos.example.org/"}), done.open_source)

    staleness.write_sidecars(with_password("s3cret"), step_of(keys=("source.base_url",)), 1.0)
    now = step_of(keys=("source.base_url", "source.exclude"))
    assert why_stale(with_password("s3cret"), now) is None
    assert why_stale(with_password("other"), now) == "its config changed"


def test_source_demo_counts_where_the_source_is_embedded(since):
    old = {
        "source.database": "plants", "source.demo.images": None, "source.demo.labels": None, "source.demo.species": 14,
        "source.demo.photos": 1100,
    }  # without regional_shift  # fmt: skip
    mongodb, other = "mongodb://127.0.0.1:9/", {"photos": 900, "regional_shift": True}

    def reason(**source):
        return since("source.database source.demo", old, source=source)

    assert reason(uri="embedded") is None
    assert reason(uri=mongodb) is None and reason(uri=mongodb, demo=other) is None
    assert reason(uri="embedded", demo=other) == (
        "its config changed (source.demo.photos: 1100 -> 900, source.demo.regional_shift: false -> true)"
    )
    assert reason(uri=mongodb, database="trees") == 'its config changed (source.database: "plants" -> "trees")'


def test_a_lasting_hash_covers_new_keys_that_are_not_at_their_default(make_config):
    known = ("phase5.bins", "phase5.target_precision")

    def of(**phase5):
        return fingerprint.lasting_hash(make_config(phase5=phase5), ("phase5",), known)

    digest = hashlib.sha256(b'{"phase5.bins": 15, "phase5.target_precision": 0.95}').hexdigest()
    assert of() == of(accept_unmet=False) == digest
    assert of(bins=10) != digest != of(accept_unmet=True)


def test_an_input_made_again_with_other_contents(done):
    maker = step_of(inputs=(), outputs=("predictions",))
    staleness.write_sidecars(done, maker, 0.5)
    assert why_stale(done, step_of()) is None  # made again, the same
    done.path("predictions").write_bytes(b"second")
    staleness.write_sidecars(done, maker, 0.5)
    assert why_stale(done, step_of()) == "its input predictions changed"


def test_a_file_changed_by_hand(done):
    path = done.path("calibration")
    path.write_text(path.read_text().replace("0.1", "0.9"))
    assert why_stale(done, step_of()) == "calibration is not as its step left it (size or time)"


@pytest.mark.parametrize("name", ["predictions", "dataset"])
def test_what_was_made_from_an_altered_input_is_made_again_once_that_is_repaired(run, name):
    """predictions.npz is told by size and time, dataset.json is read."""
    path, maker, step = run.path(name), step_of(inputs=(), outputs=(name,)), step_of(inputs=(name,))
    path.write_bytes(b"{}")
    staleness.write_sidecars(run, maker, 0.5)
    write_json(run.path("calibration"), {"ece": 0.1})
    staleness.write_sidecars(run, step, 1.0)
    assert why_stale(run, step) is None
    path.write_bytes(b'{"spoilt": 1}')
    assert why_stale(run, step) == f"its input {name} is not as its step left it"
    staleness.write_sidecars(run, step, 1.0)  # a verdict on the spoilt one
    path.write_bytes(b"{}")
    staleness.write_sidecars(run, maker, 0.5)  # made again, as it was
    assert why_stale(run, step) == f"its input {name} changed"


def test_a_removed_file(done):
    done.path("calibration").unlink()
    assert why_stale(done, step_of()) == "calibration is missing"


def test_a_broken_sidecar_means_nothing_is_known(done):
    path = done.path("calibration")
    path.with_name(path.name + ".meta.json").write_text('{"content_ha')
    assert why_stale(done, step_of()) == f"{path}.meta.json: broken (no whole sidecar)"


@pytest.mark.parametrize(("text", "state"), [("", "empty"), ('{"n": 1', "no whole JSON"), ("\0" * 20, "no whole JSON")])
def test_a_broken_json_file_is_told_with_its_path_and_not_removed(done, text, state):
    path = done.path("calibration")
    stat = path.stat()
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as after a crash: the name is there, the bytes are not
    assert why_stale(done, step_of()) == f"{path}: broken ({state})"
    assert path.read_text() == text and not sidecars.is_as_written(path)


def test_a_whole_json_file_is_as_written(done):
    assert sidecars.broken(done.path("calibration")) is None and sidecars.is_as_written(done.path("calibration"))


def test_a_pipe_in_a_sidecars_place_is_not_waited_for(done):
    path = done.path("calibration")
    file = path.with_name(path.name + ".meta.json")
    file.unlink()
    os.mkfifo(file)
    assert why_stale(done, step_of()) == f"{file}: broken (no whole sidecar)"


def test_dataset_json_stands_for_its_shards(run):
    dataset = run.path("dataset")
    shard = dataset.with_name("train-00000-of-00001.tfrecord")
    shard.write_bytes(b"abc")
    write_json(dataset, {})
    step = step_of(inputs=(), outputs=("dataset",))
    staleness.write_sidecars(run, step, 1.0)
    assert why_stale(run, step) is None
    shard.write_bytes(b"abcd")
    assert why_stale(run, step) == "dataset is not as its step left it (size or time)"


def test_content_hash_of_json_leaves_out_times_and_layout(tmp_path):
    first, second, third = (tmp_path / f"{i}.json" for i in range(3))
    first.write_text('{"a": [{"b": 1, "timing": 3, "median_ms": 4}], "timing": {"x": 1}}')
    second.write_text('{"timing": 5,\n "a": [{"median_ms": 9, "b": 1}]}')
    third.write_text('{"a": [{"b": 2}]}')
    assert content_hash(first) == content_hash(second) != content_hash(third)


def test_content_hash_of_a_model_is_its_weights_not_its_dates(tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "a.keras")
    # The same archive saved on another day.
    with zipfile.ZipFile(tmp_path / "a.keras") as old, zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, b"{}" if entry.filename == "metadata.json" else data)
    assert content_hash(tmp_path / "a.keras") == content_hash(tmp_path / "b.keras")
    model.layers[0].bias.assign([0.0, 1e-7])
    model.save(tmp_path / "c.keras")
    assert content_hash(tmp_path / "c.keras") != content_hash(tmp_path / "a.keras")


def test_content_hash_of_a_folder_sees_names_and_contents(tmp_path):
    def folder(name, files):
        for file, data in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(data)
        return content_hash(tmp_path / name)

    one = folder("one", {"a.bin": b"1", "sub/b.bin": b"2", "saved_model.pb": b"date 1"})
    assert one == folder("two", {"a.bin": b"1", "sub/b.bin": b"2", "saved_model.pb": b"date 2"})
    assert one != folder("three", {"a.bin": b"1", "sub/c.bin": b"2"})
    assert one != folder("four", {"a.bin": b"12", "sub/b.bin": b""})


def test_content_hash_of_a_page_and_its_proof_leaves_out_the_date_in_about_json(tmp_path):
    def export(name, date, classes):
        page = tmp_path / name
        page.mkdir()
        write_json(page / "about.json", {"date": date})
        write_json(page / "labels.json", {"classes": classes})
        listed = {file.name: {"sha256": file_hash(file)} for file in sorted(page.iterdir())}
        write_json(page / "files.json", listed)
        write_json(tmp_path / f"{name}.json", {"files": {"list_sha256": file_hash(page / "files.json"), "n": 2}})
        return content_hash(page), content_hash(tmp_path / f"{name}.json"), byte_hashes(page)

    first, second = export("a", "today", "x"), export("b", "tomorrow", "x")
    third = export("c", "today", "y")
    assert first[:2] == second[:2] and first[2] != second[2]
    assert first[0] != third[0]


def test_a_folder_takes_the_place_of_a_file(tmp_path):
    path = tmp_path / "web"
    path.write_text("a file")
    with files.aside(path) as temporary:
        temporary.mkdir()
    assert path.is_dir() and [p.name for p in tmp_path.iterdir()] == ["web"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_aside_renames_on_success_and_leaves_nothing_on_failure(tmp_path, kind):
    path = tmp_path / "x.keras"

    def write(temporary, text):
        if kind == "folder":
            temporary.mkdir()
            temporary = temporary / "inner"
        temporary.write_text(text)

    def read():
        return (path / "inner" if kind == "folder" else path).read_text()

    with files.aside(path) as temporary:
        assert temporary.suffix == ".keras" and temporary.parent == path.parent
        write(temporary, "old")
    with pytest.raises(KeyboardInterrupt), files.aside(path) as temporary:
        write(temporary, "half")
        raise KeyboardInterrupt
    assert read() == "old"
    with files.aside(path) as temporary:
        write(temporary, "new")
    assert read() == "new" and [p.name for p in tmp_path.iterdir()] == ["x.keras"]


def test_json_refuses_what_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"ece": float("nan")})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "a.json", {"name": "Zoë"})
    assert "Zoë" in (tmp_path / "a.json").read_text() and files.read_json(tmp_path / "a.json") == {"name": "Zoë"}


def test_reading_names_the_file_and_the_remedy(tmp_path):
    with pytest.raises(BrokenArtefact, match="a.json: missing; the step that writes it has not run"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(BrokenArtefact, match="a.json: not JSON .*run its step again"):
        files.read_json(tmp_path / "a.json")


def test_no_two_artefacts_share_a_place_and_each_has_one_maker():
    from keras_pipeline.phases import steps

    assert len(set(artifacts.ARTEFACTS.values())) == len(artifacts.ARTEFACTS)
    made = [name for step in steps.STEPS for name in step.outputs]
    assert len(made) == len(set(made))
    assert set(made) == set(artifacts.ARTEFACTS) - {"report"}


def test_steps_read_only_what_earlier_steps_left(make_config):
    from keras_pipeline.phases import steps

    made = set()
    for step in steps.STEPS:
        assert set(step.inputs) <= made, step.title
        made |= set(step.outputs)
        json.dumps(fingerprint.config_hash(make_config(), step.keys))  # every section exists


def test_what_changed_deep_in_a_long_setting_is_shown():
    teachers = [[{"path": "phase1/best.keras", "weight": 0.5, "region_filter": region}] for region in ("EU_SW", None)]
    said = fingerprint.difference(*({"phase3.teachers": each} for each in teachers))
    assert said == ' (phase3.teachers: ... region_filter": "EU_SW"}] -> ... region_filter": null}])'


def test_lists_of_numbers_stand_on_one_line(tmp_path):
    value = {
        "names": ["Rosa × alba", "ß"], "empty": [{}, []], "recalls": [0.5, None, 1], 3: {None: [[1, 2], [3.5]]},
    }  # fmt: skip
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(value))
    assert '  "recalls": [0.5, null, 1],\n' in text and "      [1, 2],\n" in text and '    "Rosa × alba",\n' in text
    plain = {"a": {"b": ["c", {"d": 1.5}]}, "e": "f"}
    write_json(tmp_path / "y.json", plain)
    assert (tmp_path / "y.json").read_text() == json.dumps(plain, indent=2) + "\n"
    for bad in (float("nan"), [1.0, float("inf")]):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "x.json", {"x": bad})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == text
    assert len(list(tmp_path.iterdir())) == 2
