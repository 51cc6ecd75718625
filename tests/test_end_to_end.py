"""The whole road on a few easy photos: MongoDB over a socket, photos over HTTP, training, a real browser."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from support import axe

from keras_pipeline.__main__ import main
from keras_pipeline.core import manifest
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_file
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.export.browser import BrowserMissing, find_chromium, open_browser
from keras_pipeline.export.visit import show_photo
from keras_pipeline.phases import model_card

# Easy on purpose: what is tested is the road, and a model that learns nothing could not be compared with a browser's.
SPECIES = {
    "Rubra rotunda": (210, 30, 40),
    "Flava rotunda": (230, 210, 40),
    "Viola alta": (110, 40, 200),
    "Alba alta": (245, 245, 245),
}
PHOTOS = 48  # a species

CONFIG = {
    "deterministic": True,
    "source": {"uri": "embedded"},
    "dataset": {"shard_megabytes": 0.5},  # more than one train shard
    "phase0": {
        "split": {"train": 0.6, "val": 0.1, "calibration": 0.15, "test": 0.15},
        "baseline": {"features": "colour-histogram", "image_size": 32},
    },
    "phase1": {
        "model": {"name": "mobilenetv2", "alpha": 0.35, "pretrained": False, "batch_norm_momentum": 0.8},
        "training": {"learning_rate": 2e-3, "batch_size": 8, "epochs": 2, "warmup_epochs": 1},
        "data": {"augmentation": "moderate", "image_size": 32},
        "regularization": {"mixup_alpha": 0.2, "cutmix_alpha": 0.2},
    },
    "phase2": {
        "model": {"name": "mobilenetv2", "alpha": 0.35, "pretrained": False, "batch_norm_momentum": 0.8},
        "training": {"learning_rate": 2e-3, "batch_size": 8, "epochs": 3, "warmup_epochs": 1},
        "data": {"augmentation": "none", "image_size": 48},
        "callbacks": {"early_stopping": False},
    },
    "phase3": {
        "model": {
            "name": "mobilenetv2", "alpha": 0.35, "pretrained": False, "batch_norm_momentum": 0.8, "dropout_rate": 0.0,
        },
        "teachers": [
            {"path": "phase1/best.keras", "weight": 0.5},
            {"path": "phase2/best.keras", "weight": 0.5, "region_filter": "EU_SW"},
        ],
        "soft_labels": {"views": 2},
        "distillation": {"temperature": 3.0, "loss_weights": {"kl_divergence": 0.5, "cross_entropy": 0.5}},
    },
    "phase4": {
        "data": {"image_size": 48},
        "training": {"batch_size": 8, "warmup_epochs": 0.5},
        "distill": {"epochs": 10, "learning_rate": 2e-3},
        "finetune": {"epochs": 1, "learning_rate": 3e-4, "augmentation": "aggressive"},
        "callbacks": {"early_stopping": False, "save_best": False},
    },
    "phase5": {"target_precision": 0.6, "accept_unmet": True},  # 16 independent calibration photos promise little
    # Gates have their own tests; here only those stay that must hold for any model.
    "gates": dict.fromkeys(
        ("valid_photos_min", "valid_photos_max", "largest_group", "baseline_top1_min", "teacher_top1", "teacher_top5",
         "teacher_min_recall", "teacher_over_probe", "regional_top1", "regional_global_top1", "regional_gain",
         "student_val_top1", "student_train_top1", "val_loss_ratio", "ece", "precision", "coverage")
    ),
}  # fmt: skip


def draw_photos(folder: Path) -> Path:
    """A folder of photos and its CSV; every photo its own colours, place and noise."""
    random = np.random.default_rng(7)
    rows = []
    for number, (name, colour) in enumerate(SPECIES.items()):
        for i in range(PHOTOS):
            pixels = random.integers(60, 110, (120, 150, 3)) + random.normal(0, 8, (120, 150, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
            left, top, side = random.integers(10, 60), random.integers(5, 40), random.integers(45, 70)
            fill = tuple(int(c + random.integers(-25, 25)) for c in colour)
            ImageDraw.Draw(image).ellipse((left, top, left + side, top + side), fill=fill)
            file = f"{number}-{i}.jpg"
            image.save(folder / file, quality=90)
            rows.append((file, name, ("EU_SW", "EU")[i % 2], f"{number}-{i // 2}"))
    labels = folder / "labels.csv"
    with labels.open("w", newline="") as out:
        csv.writer(out).writerows([("image", "latin_name", "region", "observation_id"), *rows])
    return labels


@pytest.fixture(scope="session")
def road(tmp_path_factory):
    """(config file, root, what the second run printed): killed after phase 0, then run to the end."""
    try:
        find_chromium()
    except BrowserMissing as error:
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp("road")
    photos = root / "photos"
    photos.mkdir()
    labels = draw_photos(photos)
    config = CONFIG | {"root": str(root)}
    config["source"] = {"uri": "embedded", "demo": {"images": str(photos), "labels": str(labels)}}
    file = root / "easy.yaml"
    file.write_text(yaml.safe_dump(config))
    kill_after_phase0(file, root)
    command = [sys.executable, "-m", "keras_pipeline", "run", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return file, root, done.stdout


def kill_after_phase0(file: Path, root: Path) -> None:
    """At 25 other moments, some inside a write: benchmarks/whole/kills.py; inside an epoch: test_fit.py."""
    command = [sys.executable, "-m", "keras_pipeline", "run", "--config", str(file)]
    last = root / "artifacts/easy/phase0/baseline.json.meta.json"
    with (root / "killed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 300
    while not last.exists():
        assert process.poll() is None and time.monotonic() < deadline, (root / "killed.log").read_text()[-3000:]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_without_redoing_finished_steps(road):
    _, _, printed = road
    for step in ("audit", "validate-urls", "export", "split", "baseline"):
        assert f"phase0 {step}: up to date" in printed


@pytest.mark.slow
def test_the_page_says_what_python_says(road):
    _, root, _ = road
    verdict = json.loads((root / "web_export/easy/equivalence.json").read_text())
    assert verdict["passed"]
    wasm = verdict["backends"]["wasm"]
    assert wasm["top1_agreement"] == 1.0 and wasm["correlation"] > 0.9999 and wasm["n"] >= 24
    assert (
        wasm["stages"]["original"]["n"] == wasm["n"] + 1
    )  # the files that the test records were made of, one enlarged
    assert wasm["accuracy"]["n"] == wasm["n"]
    assert wasm["stages"]["record"]["conclusive"] > 0
    assert {*verdict["backends"], *verdict["missing_backends"]} == {
        "wasm", "wasm-threads", "cpu", "webgl", "webgpu"
    }  # fmt: skip


@pytest.mark.slow
def test_the_student_learnt_and_the_page_names_a_photo(road, tmp_path):
    _, root, _ = road
    metrics = json.loads((root / "artifacts/easy/phase4/metrics_test.json").read_text())
    assert metrics["top1_accuracy"] > 0.7  # four species: 0.25 by chance
    page = root / "web_export/easy"
    found = json.loads((page / "calibration.json").read_text())
    assert found["threshold"] == found["best_threshold"]
    answer = show_photo(page, root / "photos/1-0.jpg")
    assert answer["species"][0]["latin_name"] == "Flava rotunda"


@pytest.mark.slow
def test_every_photo_is_in_exactly_one_split_with_its_observation(road):
    from keras_pipeline.data import records

    _, root, _ = road
    info = records.load_info(root / "tfrecords/easy/dataset.json")
    rows = [
        (split, photo.sample_id, photo.group_id)
        for split in info.splits
        for shard in info.shards(split)
        for photo in map(records.decode, records.read_shard(shard))
    ]
    assert len({sample for _, sample, _ in rows}) == len(rows) == PHOTOS * len(SPECIES)
    assert len({group for *_, group in rows}) == len({(split, group) for split, _, group in rows})


@pytest.mark.slow
def test_a_second_run_does_nothing_and_verify_finds_everything_unchanged(road, capsys):
    file, root, _ = road
    before = content_hash(root / "artifacts/easy/phase4/finetune/best.keras")
    written = (root / "artifacts/easy/report.html").stat().st_mtime_ns
    assert main(["phase4", "evaluate", "--split", "val", "--config", str(file)]) == 0  # one of the step's artefacts
    capsys.readouterr()
    assert main(["run", "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("up to date") == 25 and "done in" not in printed
    assert content_hash(root / "artifacts/easy/phase4/finetune/best.keras") == before
    assert (root / "artifacts/easy/report.html").stat().st_mtime_ns == written
    assert main(["report", "--config", str(file)]) == 0
    assert (root / "artifacts/easy/report.html").stat().st_mtime_ns > written
    assert not list(root.rglob("backup")) and not list(root.rglob(".writing-*"))  # only a restart would need them
    assert main(["phase7", "verify", "--config", str(file)]) == 0


@pytest.mark.slow
def test_axe_finds_nothing_on_the_whole_report(road):
    _, root, _ = road
    report = root / "artifacts/easy/report.html"
    with open_browser() as browser:
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            found = axe.violations_of_report(browser, report, width=width, scheme=scheme)
            assert found == [], (width, scheme)


@pytest.mark.slow
def test_the_savedmodel_answers_from_the_command_line(road, capsys):
    file, root, _ = road
    photo = str(root / "photos/3-1.jpg")
    assert main(["classify", "--config", str(file), "--json", photo]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["latin_name"] == "Alba alta" and len(answer["top5"]) == 4
    assert main(["classify", "--config", str(file), str(file)]) == 2  # a YAML file is no photo
    assert str(file) in capsys.readouterr().err
    assert main(["classify", "--config", str(file), str(root / "nowhere.jpg")]) == 2


@pytest.mark.slow
def test_a_copy_that_lost_its_times_is_taken_after_verify_and_a_corrupt_shard_is_named(road, capsys, tmp_path):
    file, root, _ = road
    copy = tmp_path / "root"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    there = ["--config", str(file), "--set", f"root={copy}"]
    assert main(["status", *there]) == main(["phase7", "verify", *there]) == main(["status", *there]) == 0
    before, after = capsys.readouterr().out.split("verified, none changed")
    assert before.count(" stale ") == after.count(" done ") == 25
    shard = next((copy / "tfrecords/easy").glob("test-*.tfrecord"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert main(["phase4", "evaluate", "--force", *there]) == 3
    assert str(shard) in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_regional_teacher_manifest_report_and_card_say_so(road, capsys, tmp_path):
    file, root, _ = road
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    options = [
        "--config",
        str(file),
        "--set",
        f"root={copy}",
        "--set",
        "phase2=null",
        "--set",
        "gates.regional_top1=0.5",
    ]
    assert main(["run", "--from", "phase7", *options]) == 1  # what else is made with it is not up to date
    said = capsys.readouterr().out
    assert "warning: phase7 manifest uses" in said and "phase3 check" in said
    found = manifest.read(copy / "artifacts/easy/phase7/manifest.yaml")
    assert found.phases["phase_2"].why == {"phase2": "the config says phase2: null"}
    assert "teacher_regional_lr" not in found.hyperparameters
    assert not [name for name in found.artefacts if name.startswith("regional")]
    (gate,) = [gate for gate in found.gates if gate.name == "regional_top1"]
    assert (gate.status, gate.reason) == ("not measurable here", "the config says phase2: null")
    # The model that lies there learnt from both teachers: a card of this config would be of another one.
    card = (copy / "artifacts/easy/model_card.md").read_text()
    assert card.startswith("# Model card: easy\n\n## Out of date\n\nOut of date: phase3 combine (its config changed")
    assert "learnt from" not in card
    config = from_file(file, [f"root={copy}", "phase2=null"])
    ((_, (facts,)), *_) = model_card.sections(Run(config, None))  # as it is once `run` has renewed the model
    assert facts.items["learnt from"].startswith("global teacher, labels")
    assert facts.items["regional teacher"] == "none: the config says phase2: null"
    assert "No regional teacher: the config says phase2: null." in (copy / "artifacts/easy/report.html").read_text()
    assert main(["phase2", "evaluate", *options]) == 2
    assert "phase2 evaluate: not applicable here: the config says phase2: null" in capsys.readouterr().err
