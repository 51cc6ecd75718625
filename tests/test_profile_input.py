"""`train --profile-input`: what each stage of the input can do, what sets the pace, and no trace of it."""

import json
import shutil
from types import SimpleNamespace

import keras
import pytest

from keras_pipeline import __main__ as cli
from keras_pipeline.core.artifacts import Run
from keras_pipeline.models import heads
from keras_pipeline.phases.phase1_teacher import profile_input, train

STAGES = [
    "read, parse, shuffle", "+ decode", "+ crop, resize", "+ augmentation: moderate", "+ MixUp, CutMix, labels",
    "device alone", "training: input and device",
]  # fmt: skip


@pytest.fixture
def project(tmp_path, dataset_json, monkeypatch):
    """(config lines of phase1.data) -> arguments of the command line over the small dataset, with a model that is built
    at once.
    """
    from keras_pipeline.core.config.load import from_dict

    def build(model, *, num_classes, image_size, dropout, rematerialisation):
        layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(num_classes, name="logits")]
        return keras.Sequential([keras.Input((image_size, image_size, 3)), *layers])

    monkeypatch.setattr(heads, "build_classifier", build)
    monkeypatch.setattr(profile_input, "SECONDS", 0.05)
    size = "image_size: 32, augmentation"
    teacher = "model: {name: mobilenetv2, pretrained: false}, training: {batch_size: 4, epochs: 2000}"

    def write(augmentation="moderate"):
        values = {"experiment": "tiny", "root": str(tmp_path)}
        shutil.copytree(dataset_json.parent, Run(from_dict(values), None).path("dataset").parent)
        lines = [f"root: {tmp_path}", "dataset: {short_side: 36}"]
        lines += [f"phase1: {{{teacher}, data: {{{size}: {augmentation}}}}}"]
        lines += ["phase2: {data: {image_size: 32}}", "phase4: {data: {image_size: 32}}"]
        (tmp_path / "tiny.yaml").write_text("\n".join(lines))
        return ["phase1", "train", "--profile-input", "--config", str(tmp_path / "tiny.yaml")]

    return write


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_every_stage_is_measured_and_nothing_is_left(project, tmp_path, capsys):
    arguments = project()
    before = files_below(tmp_path)
    assert cli.main(arguments) == 0
    *lines, verdict = capsys.readouterr().out.splitlines()
    rates = {line[:34].strip(): float(line[34:].removesuffix(" images/s")) for line in lines}
    assert list(rates) == STAGES and min(rates.values()) > 0
    assert verdict.startswith(("input-bound: the input makes ", "device-bound: the input makes "))
    assert files_below(tmp_path) == before


def test_as_json_and_without_augmentation(project, capsys):
    assert cli.main([*project("none"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["images_per_second"]) == [stage for stage in STAGES if "augmentation" not in stage]
    assert result["bound"] in ("input", "device")


@pytest.mark.parametrize(
    "device, remark",
    [
        (50.0, "device-bound: the input makes 4.0 times the images that the device can process"),
        (
            400.0,
            "input-bound: the input makes 0.5 times the images that the device can process; more CPU cores, a weaker "
            "augmentation or smaller stored photos would help",
        ),
    ],
)
def test_the_whole_input_against_the_device_alone(project, monkeypatch, capsys, device, remark):
    # What the stages before give, or both together, does not decide.
    rates = iter([900.0, 800.0, 700.0, 200.0, device, 45.0])
    monkeypatch.setattr(profile_input, "_rate", lambda step, batch_size: next(rates))
    assert cli.main(project("none")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "read, parse, shuffle                   900 images/s" and lines[-1] == remark


def test_a_rate_counts_batches_of_the_measured_time_alone(monkeypatch):
    # The first six take a second each, as tracing does, and are not counted; 5 photos in 1/64 s are 320 in a second.
    now, waits = [0.0], iter([1.0] * 6 + [1 / 64] * 100)

    def step():
        now[0] += next(waits)

    monkeypatch.setattr(profile_input, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(profile_input, "SECONDS", 0.25)
    assert profile_input._rate(step, batch_size=5) == 320


def test_a_training_shorter_than_the_measuring(project, tmp_path):
    arguments = [*project("none"), "--set", "phase1.training.epochs=1", "--set", "phase1.training.warmup_epochs=0"]
    assert cli.main(arguments) == 0


def test_shards_of_another_class_list_are_refused(project, dataset_json, tmp_path):
    from keras_pipeline.core.config.load import from_file
    from keras_pipeline.core.errors import BrokenArtefact
    from keras_pipeline.core.taxonomy import class_hash

    arguments = project()
    run = Run(from_file(arguments[-1]), None)
    info = run.read("dataset")
    info["classes"] = info["classes"][::-1]
    run.path("dataset").write_text(json.dumps({**info, "class_hash": class_hash(info["classes"])}))
    with pytest.raises(BrokenArtefact, match="shard of another class list"):
        profile_input.profile(run, train.spec_of(run))
