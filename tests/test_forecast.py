"""The forecast: multiply-adds as published, photos from whatever has counted them, and what changes a step's cost."""

import contextlib
import math

import pandas as pd
import pytest

from benchmarks.whole.species_9000 import CONFIG
from keras_pipeline.core import artifacts
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.dataset import SPLITS
from keras_pipeline.core.files import write_json
from keras_pipeline.phases import forecast, staleness, steps

TWO_CORES = forecast.Device("2 cores", mobilenet=12e9, vit=30e9, cores=2)


@pytest.mark.parametrize(
    ("alpha", "size", "millions"),
    # The table of MobileNetV2's checkpoints (tensorflow/models, research/slim/nets/mobilenet).
    [(1.0, 224, 300), (1.4, 224, 582), (1.3, 224, 509), (0.75, 224, 209), (0.5, 224, 97), (0.35, 224, 59),
     (1.0, 160, 154), (1.0, 96, 56)],
)  # fmt: skip
def test_multiply_adds_of_mobilenet_as_published(alpha, size, millions):
    model = Model(name="mobilenetv2", alpha=alpha, pretrained=False)
    assert forecast.macs(model, size, 1000)[0] / 1e6 == pytest.approx(millions, rel=0.025)


@pytest.mark.parametrize(
    ("name", "billions", "millions"),
    # arXiv 2012.12877, table 5 and 2010.11929, table 1; their parameters include a head of 1000 classes.
    [("vit_tiny_patch16", 1.25, 5.7), ("vit_base_patch16", 17.6, 86), ("vit_large_patch16", 61.6, 304)],
)
def test_multiply_adds_of_vits_as_published(name, billions, millions):
    multiply_adds, parameters = forecast.macs(Model(name=name, pretrained=False), 224, 1000)
    assert multiply_adds / 1e9 == pytest.approx(billions, rel=0.01)
    assert parameters / 1e6 == pytest.approx(millions, rel=0.04)


@pytest.mark.parametrize(("rank", "head"), [(None, 11_520_000), (256, 2_631_680)])
def test_of_9000_species_the_head_counts(rank, head):
    without = forecast.macs(Model(name="mobilenetv2", pretrained=False), 224, 0)
    found = forecast.macs(Model(name="mobilenetv2", pretrained=False, head_rank=rank), 224, 9000)
    assert found == (without[0] + head, without[1] + head)


@pytest.fixture
def make_run(make_config):
    return lambda **sections: Run(make_config(**sections), lambda: contextlib.nullcontext())


def seconds(run, step):
    return forecast.costs(run, TWO_CORES)[step].seconds - forecast.START


def test_every_step_has_a_cost(make_run):
    found = forecast.costs(make_run(), TWO_CORES)
    assert set(found) == {step.title for step in steps.STEPS}
    assert all(math.isfinite(each.seconds) and each.seconds > 0 and each.bytes >= 0 for each in found.values())


def test_twice_the_epochs_or_the_photos_take_twice_as_long(make_run):
    teacher = {"model": {"name": "mobilenetv2", "pretrained": False}}
    once = make_run(phase1=teacher | {"training": {"epochs": 5}})
    epochs = make_run(phase1=teacher | {"training": {"epochs": 10}})
    photos = make_run(phase1=teacher | {"training": {"epochs": 5}}, source={"demo": {"photos": 2200}})
    for other in (epochs, photos):
        assert seconds(other, "phase1 train") == pytest.approx(2 * seconds(once, "phase1 train"), rel=0.01)


def test_the_probe_of_its_own_features_costs_a_pass_over_the_train_photos(make_run):
    """Once, before the teacher's 4 epochs and the student's distillation; fine-tuning has no new head."""

    def run(head_init):
        model = {"name": "mobilenetv2", "pretrained": "imagenet", "head_init": head_init}
        teacher = {"model": model, "data": {"image_size": 224}, "training": {"epochs": 4}}
        return make_run(
            source={"demo": {"photos": 1000, "species": 10}}, phase1=teacher, phase3={"model": model},
            phase4={"data": {"image_size": 128}},
        )  # fmt: skip

    random, probe = run("random"), run("probe")
    # 850 photos (train and val): 300 million multiply-adds take 25 ms, reading 1.6 ms.
    assert seconds(probe, "phase1 train") - seconds(random, "phase1 train") == pytest.approx(850 * 26.6e-3, rel=0.01)
    assert seconds(probe, "phase4 distill") - seconds(random, "phase4 distill") == pytest.approx(850 * 8.8e-3, rel=0.02)
    assert seconds(probe, "phase4 finetune") == seconds(random, "phase4 finetune")


def test_live_teachers_cost_time_and_stored_ones_space(make_run):
    stored, live = make_run(), make_run(phase4={"distill": {"live": True}})
    assert seconds(live, "phase4 distill") > 2 * seconds(stored, "phase4 distill")
    assert forecast.costs(live, TWO_CORES)["phase1 logits"].bytes == 0
    # 880 photos of 14 classes: 8 bytes, and 12 + 4 * 14 for each of 8 views
    assert forecast.costs(stored, TWO_CORES)["phase1 logits"].bytes == 880 * (8 + 8 * 68)


def test_photos_are_counted_where_they_can_be(make_run, tmp_path):
    mongo = make_run(source={"uri": "mongodb://127.0.0.1"})
    found, origin = forecast.photos(mongo)
    assert (found["train"], found["classes"]) == (720_000, 9000) and "nothing is counted yet" in origin
    mongo.path("audit").parent.mkdir(parents=True)
    write_json(mongo.path("audit"), {"usable": 1000, "species": 7, "per_region": {"EU_SW": 250}})
    assert forecast.photos(mongo) == (
        {"train": 800, "val": 50, "calibration": 50, "test": 100, "region": 200, "classes": 7}, "the audit",
    )  # fmt: skip
    mongo.path("dataset").parent.mkdir(parents=True)
    splits = {name: {"n": n, "per_region": {"EU_SW": 3}} for n, name in enumerate(SPLITS)}
    write_json(mongo.path("dataset"), {"splits": splits, "classes": ["a", "b"]})
    assert forecast.photos(mongo) == (
        {"train": 0, "val": 1, "calibration": 2, "test": 3, "region": 3, "classes": 2}, "the dataset",
    )  # fmt: skip
    labels = tmp_path / "labels.csv"
    labels.write_text("image,latin_name\n" + "".join(f"{i}.jpg,Species {i % 3}\n" for i in range(10)))
    own = make_run(source={"demo": {"images": str(tmp_path), "labels": str(labels)}}, experiment="own")
    assert forecast.photos(own) == (
        {"train": 8, "val": 0, "calibration": 0, "test": 1, "region": 3, "classes": 3}, str(labels),
    )  # fmt: skip


def test_what_has_run_here_corrects_the_forecast(make_run):
    run = make_run()
    (train,) = steps.steps_between("phase1 train", "phase1 train")
    for name in train.outputs:
        run.path(name).parent.mkdir(parents=True, exist_ok=True)
        run.path(name).write_text("x")
    run.path("teacher").unlink()
    run.path("teacher").mkdir()  # whatever: a folder's hash needs no weights
    before = forecast.corrected(run, steps.STEPS)["phase2 train"].seconds
    staleness.write_sidecars(run, artifacts.dataclasses.replace(train, outputs=()), 1.0)
    write = artifacts.dataclasses.replace(train, outputs=("teacher_curves", "teacher_history"))
    run.path("teacher_history").write_text("{}")
    staleness.write_sidecars(run, write, 1.0)
    assert forecast.corrected(run, steps.STEPS)["phase2 train"].seconds == before  # not done: its weights are missing
    # To begin takes 15 s, whatever the device; one measurement counts as much as the forecast, 2.25 and 1.
    said = forecast.costs(run)["phase1 train"].seconds
    staleness.write_sidecars(run, train, 15 + 2.25 * (said - 15))
    corrected = forecast.corrected(run, steps.STEPS)
    assert corrected["phase2 train"].seconds == pytest.approx(15 + 1.5 * (before - 15), rel=1e-3)
    assert corrected["phase7 manifest"].seconds == 2  # needs no TensorFlow


@pytest.mark.parametrize(
    ("took", "factor"),
    [
        ({}, 1),
        ({"phase1 train": 9}, 3),
        ({"phase1 train": 9, "phase2 train": 1}, 1),  # one slow training decides nothing
        ({"phase1 train": 1, "phase2 train": 1, "phase4 distill": 9, "phase4 finetune": 1}, 1),
        ({"phase1 train": 3, "phase2 train": 3}, 3),  # a machine of a third of the speed does
        ({"phase1 train": 0.5, "phase2 train": 0.5}, 0.5),
        ({"phase1 train": 2, "phase2 train": 3, "phase4 distill": 9}, 6**0.5),
        ({"phase0 export": 900}, 1),  # a slow host trains nothing
    ],
)
def test_a_forecast_is_corrected_by_the_median(make_run, monkeypatch, took, factor):
    run = make_run()
    said = {title: cost.seconds for title, cost in forecast.costs(run, TWO_CORES).items()}
    start = {title: forecast._start(title) for title in said}
    seconds = {
        run.path(step.outputs[0]): start[step.title] + took[step.title] * (said[step.title] - start[step.title])
        for step in steps.STEPS
        if step.title in took
    }
    assert all(each > 60 for each in seconds.values())
    monkeypatch.setattr(forecast, "device", lambda: TWO_CORES)
    monkeypatch.setattr(forecast, "sidecar", lambda path: path in seconds and {"seconds": seconds[path]})
    monkeypatch.setattr(staleness, "why_stale", lambda run, step: None)
    corrected = forecast.corrected(run, steps.STEPS)
    assert corrected.keys() == said.keys()
    for title in said:
        expected = 1 if title in forecast.LIGHT else factor
        assert corrected[title].seconds == pytest.approx(start[title] + expected * (said[title] - start[title]))


def test_the_free_space_is_that_of_the_nearest_folder_that_exists(make_config, tmp_path):
    run = Run(make_config(root=str(tmp_path / "not" / "yet")), lambda: contextlib.nullcontext())
    assert forecast.free_bytes(run) > 0


def test_an_export_keeps_the_limits_of_its_hosts_and_says_what_it_downloads(make_run):
    hosts = {"a.org": {"requests_per_second": None}, "b.org": {"gigabytes_per_hour": 3.6}}
    run = make_run(source={"uri": "mongodb://127.0.0.1"}, phase0={"export": {"hosts": hosts}})
    run.path("audit").parent.mkdir(parents=True)
    audit = {
        "usable": 8000, "species": 7, "per_region": {}, "repeated_urls": {"photos": 3900}, "conflicts": {"photos": 100},
        "per_host": {"a.org": 7000, "B.org:8000": 1000},
    }  # fmt: skip
    write_json(run.path("audit"), audit)
    cost = forecast.costs(run, TWO_CORES)["phase0 export"]
    # Half of the references repeat a URL. b.org:8000 is another server than b.org.
    assert cost.download == 4000 * 1.5e6 and cost.seconds == pytest.approx(2 + 500 / 10)
    write_json(run.path("audit"), audit | {"per_host": {"a.org": 7000, "b.org": 1000}})
    assert forecast.costs(run, TWO_CORES)["phase0 export"].seconds == pytest.approx(2 + 500 * 1.5)
    run.path("url_ledger").parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"state": ["ok", "ok", "failed"], "bytes": [1_000_000, 3_000_000, 17]}).to_parquet(
        run.path("url_ledger")
    )
    assert forecast.photo_bytes(run) == (2e6, "as those before")
    assert forecast.costs(run, TWO_CORES)["phase0 export"].download == 4000 * 2e6


# Seconds of single steps repeated on the collection of benchmark species_9000, 2 cores with other work beside them.
REPEATED = {
    "phase0 split": 34.8, "phase0 baseline": 265.1, "phase1 logits": 86.9, "phase3 combine": 10.3, "phase3 check": 37.3,
    "phase5 calibrate": 32.8,
}  # fmt: skip
# Seconds of its whole run, of which most steps took two to five times as long for the work beside it.
WHOLE = {"phase1 train": 1467.8, "phase2 train": 602.9, "phase4 distill": 1719.2, "phase4 finetune": 216.9}


def of_9000_species(make_run):
    run = make_run(**{name: CONFIG[name] for name in ("dataset", "phase0", "phase1", "phase2", "phase3", "phase4")})
    run.path("dataset").parent.mkdir(parents=True)
    photos = {"train": 60_284, "val": 3768, "calibration": 3768, "test": 7535}
    splits = {name: {"n": n, "per_region": {"EU_SW": 15_243 if name == "train" else 0}} for name, n in photos.items()}
    write_json(run.path("dataset"), {"splits": splits, "classes": [str(number) for number in range(9000)]})
    return run


@pytest.mark.parametrize(("step", "took"), (REPEATED | WHOLE).items())
def test_at_9000_species_a_step_takes_what_was_said_within_a_factor_of_2(make_run, step, took):
    assert 0.5 < forecast.costs(of_9000_species(make_run), TWO_CORES)[step].seconds / took < 2


def test_combining_leaves_nothing_but_its_soft_labels(make_run):
    costs = forecast.costs(of_9000_species(make_run), TWO_CORES)
    # 60,284 photos of 2 views: 8 bytes, and 12 + 4 * 128 for each view
    assert costs["phase3 combine"].bytes == costs["phase1 logits"].bytes == 60_284 * (8 + 2 * 524)


def test_more_classes_cost_more(make_run):
    run = of_9000_species(make_run)
    more = forecast.costs(run, TWO_CORES)
    write_json(run.path("dataset"), run.read("dataset") | {"classes": ["a", "b"]})
    less = forecast.costs(run, TWO_CORES)
    # 123 and 48 us of a core for each of 120,568 views, half of it on two cores
    assert more["phase1 logits"].seconds - less["phase1 logits"].seconds > 7.4
    assert more["phase3 combine"].seconds - less["phase3 combine"].seconds > 2.8
    assert more["phase0 baseline"].seconds - less["phase0 baseline"].seconds > 70


def test_a_gpu_reads_and_encodes_while_it_computes(make_run):
    run = of_9000_species(make_run)
    card = forecast.Device("GPU", 1.5e12, 25e12, cores=8, gpu=True)
    # 120,568 views: 2.5e6 multiply-adds take 2 us, reading and encoding on 8 cores 54 us
    assert forecast.costs(run, card)["phase1 logits"].seconds - forecast.START == pytest.approx(
        120_568 * 54e-6, rel=0.02
    )
