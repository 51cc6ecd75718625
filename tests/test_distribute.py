"""One process, two devices, two machines: the same batches, the same weights."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import replica

from keras_pipeline.core import cluster

CONFIG = {
    "dataset": {"name": "tiny", "short_side": 32},
    "phase1": {
        "model": {"name": "mobilenetv2", "alpha": 0.35, "pretrained": False},
        "data": {"image_size": 32, "augmentation": "moderate"},
        # SGD: gradients that are added up twice would leave Adam's steps as they are.
        "training": {
            "epochs": 2,
            "batch_size": 4,
            "warmup_epochs": 0.5,
            "learning_rate": 1e-2,
            "clip_norm": 1.0,
            "optimizer": "sgd",
        },
        "regularization": {"dropout": 0.0, "mixup_alpha": 0.2},
        "callbacks": {"backup_minutes": 0},
    },
    "phase2": {"data": {"image_size": 32}, "training": {"batch_size": 4}},
    "phase3": {
        "model": {"alpha": 0.35, "pretrained": False, "dropout_rate": 0.0},
        "teachers": [{"path": "phase1/best.keras", "weight": 1.0}],
    },
    "phase4": {
        "data": {"image_size": 32},
        "training": {"batch_size": 4, "warmup_epochs": 0.5},
        "distill": {"epochs": 2, "learning_rate": 1e-3, "live": True, "augmentation": "moderate", "mixup_alpha": 0.2},
    },
}
BOTH = "phase1 train, phase4 distill"


@pytest.fixture(scope="module")
def root(tmp_path_factory, dataset_json):
    """An experiment's root with the small dataset, and config.yaml."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(dataset_json.parent, root / "tfrecords/tiny")
    # No step is begun for a chain that could not end, and phase 5 would need 20 calibration photos.
    tiny = json.loads(dataset_json.read_text())
    tiny["splits"]["calibration"]["per_region"] = {"EU": 20}
    (root / "tfrecords/tiny/dataset.json").write_text(json.dumps(tiny))
    (root / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "root": str(root)}))
    return root


def started(root, experiment, *, cpus=1, tf_config=None, settings=(), steps="phase1 train"):
    """(process, folder of its weights)"""
    folder = root / f"{experiment}-{json.loads(tf_config)['task']['index'] if tf_config else 'alone'}"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, Path(__file__).parent / "support/replica.py", str(cpus), "small", folder, steps]
    command += ["--config", root / "config.yaml"]
    command += [f"--set={setting}" for setting in (f"experiment={experiment}", *settings)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "CUDA_VISIBLE_DEVICES": "-1"}
    environment |= {"TF_CONFIG": tf_config} if tf_config else {}
    out = (folder / "out.txt").open("w")
    return subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT), folder


def workers(root, experiment, rates=(1e-2, 1e-2), only=None):
    """Two on loopback, and the learning rates that they are told; of them one `only`, or both."""
    settings = [("distribute=multi_worker", f"phase1.training.learning_rate={rate}") for rate in rates]
    machines = list(zip(replica.two_machines(), settings, strict=True))
    chosen = machines if only is None else [machines[only]]
    return [started(root, experiment, tf_config=task, settings=told) for task, told in chosen]


def ended(process, folder, code=0):
    assert process.wait(timeout=300) == code, (folder / "out.txt").read_text()[-3000:]
    return folder


def rows(root, experiment, stage="phase1/full"):
    with (root / "artifacts" / experiment / stage / "log.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def assert_same_training(one, other, tolerance):
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        for key in ("loss", "val_loss", "top1", "val_top1", "learning_rate", "gradient_norm"):
            assert second[key] == pytest.approx(first[key], rel=tolerance), key


@pytest.fixture(scope="module")
def alone(root):
    """The experiment `alone`, trained by one device: teacher and distilled student."""
    return ended(*started(root, "alone", steps=BOTH))


@pytest.fixture(scope="module")
def mirrored(root):
    """As `alone`, by two devices of one machine."""
    return (ended(*started(root, "mirrored", cpus=2, settings=("distribute=mirrored",), steps=BOTH)),)


@pytest.fixture(scope="module")
def two(root):
    """The teacher by two machines, one of which was killed after two steps; then both began again."""
    (chief, folder), (killed, _) = workers(root, "two")
    position = root / "artifacts/two/phase1/full/backup/position.json"
    while not (position.exists() and json.loads(position.read_text())["step"] == 2):
        assert chief.poll() is None, (folder / "out.txt").read_text()[-3000:]
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    ended(chief, folder, code=3)
    said = (folder / "out.txt").read_text()
    assert re.search(r"^error: another machine of TF_CONFIG has ended .*start the same command again", said, re.M)
    return [ended(*each) for each in workers(root, "two")]


def test_two_machines_one_of_them_killed_and_started_again(root, alone, two):
    first, second = two
    # Mostly within the first epoch; on a busy machine the signal may come after it.
    assert re.search(r"resuming after epoch [01] of 2", (first / "out.txt").read_text())
    for mine, other in zip(replica.weights(first), replica.weights(second), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert_same_training(rows(root, "alone"), rows(root, "two"), 5e-5)
    for folder in two:
        np.testing.assert_array_equal(np.load(folder / "full.chiefs.npy"), [[0.5, 1.5]])
    # What the chief has left is whole.
    left = {path.name for path in (root / "artifacts/two/phase1").iterdir()}
    assert {"best.keras", "best.keras.meta.json", "history.json", "curves.png"} <= left


def test_two_devices_of_one_machine(root, alone, mirrored):
    assert "2 replicas" in (mirrored[0] / "out.txt").read_text()
    for stage in ("phase1/full", "phase4/distill"):
        assert_same_training(rows(root, "alone", stage), rows(root, "mirrored", stage), 5e-5)


def test_machines_that_were_told_different_things_do_not_train(root):
    chief, (process, folder) = workers(root, "mixed", rates=(1e-2, 2e-2))
    ended(process, folder, code=2)
    ended(*chief, code=3)
    said = (folder / "out.txt").read_text()
    assert "error: distribute: the chief of TF_CONFIG does not see `phase1 train` as this machine does" in said
    assert not (root / "artifacts/mixed/phase1/full").exists()


@pytest.mark.parametrize("setting", ["gradient_accumulation=2", "precision=mixed_float16", "jit_compile=true"])
def test_what_replicas_cannot_do_is_refused(root, setting):
    from keras_pipeline.core.config import base, load

    settings = ["distribute=mirrored", f"phase2.training.{setting}"]
    key = setting.partition("=")[0]
    said = rf"phase2\.training\.{key}: received .* distribute: mirrored, expected"
    with pytest.raises(base.ConfigError, match=said):
        load.from_file(root / "config.yaml", settings)
    load.from_file(root / "config.yaml", settings[1:])


def test_a_batch_that_replicas_cannot_share_is_refused(tmp_path):
    from types import SimpleNamespace

    from keras_pipeline.core.config.teachers import Callbacks
    from keras_pipeline.training import fit

    model = SimpleNamespace(distribute_strategy=SimpleNamespace(num_replicas_in_sync=2))
    stage = fit.Stage(tmp_path / "full", 1, 4, 5, 3, 0.0, Callbacks())
    with pytest.raises(ValueError, match=r"training\.batch_size: received 5 for 2 replicas .* expected a multiple"):
        fit.fit(model, None, None, stage)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}', ("a:1", "a:1", ("b:1",))),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}', ("b:1", "a:1", ("a:1",))),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 0}}',
            ("b:1", "a:1", ("a:1", "c:1")),
        ),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}',
            ("a:1", "a:1", ("b:1",)),
        ),
    ],
)
def test_which_machine_this_is_and_which_one_writes(monkeypatch, text, expected):
    monkeypatch.setenv("TF_CONFIG", text)
    assert cluster.task() == expected
    assert cluster.task().is_chief is (expected[0] == expected[1])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "it is not set"),
        ("", "it is not set"),
        ("{", "it is not JSON of that form"),
        ("[" * 100_000, "it is not JSON of that form"),
        ("[]", "it is not JSON of that form"),
        ('{"cluster": {"worker": ["a:1"]}}', "it is not JSON of that form"),
        ('{"cluster": ["worker"], "task": {"type": "worker", "index": 0}}', "nothing else"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "there is no worker 1"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}', "there is no worker -1"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "0"}}', "there is no worker '0'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "there is no ps 0"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', "nothing else"),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "nothing else"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "listed twice"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', "'a' is not host:port"),
        ('{"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}', "'a:99999' is not host:port"),
    ],
)
def test_a_tf_config_that_names_no_machine_is_an_error_with_an_example(monkeypatch, text, fault):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(
        ValueError, match=r"needs the environment variable TF_CONFIG: received .* expected .*2222"
    ) as it:
        cluster.task()
    assert fault in str(it.value)


def test_a_chief_that_waits_alone_says_so_and_hears_ctrl_c(root):
    ((process, folder),) = workers(root, "lonely", only=0)
    while ", the chief, waits for 127.0.0.1:" not in (folder / "out.txt").read_text():
        assert process.poll() is None, (folder / "out.txt").read_text()[-3000:]
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == -signal.SIGINT


def test_a_port_in_use_is_named(root):
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        task = {"cluster": {"worker": [address, *replica.free_addresses(1)]}, "task": {"type": "worker", "index": 0}}
        process, folder = started(root, "held", tf_config=json.dumps(task), settings=("distribute=multi_worker",))
        ended(process, folder, code=3)
    assert f"error: distribute: TensorFlow can't start its server at {address}" in (folder / "out.txt").read_text()


@pytest.mark.parametrize("kind", ["mirrored", "two"])
def test_keras_still_needs_patching(kind, request):
    """Skipped, with what can go from distribute.py, once it doesn't; a patched Keras is left alone."""
    for folder in request.getfixturevalue(kind):
        patched, again = re.search(r"^patched (\[.*?\]) (\[.*?\])$", (folder / "out.txt").read_text(), re.M).groups()
        assert json.loads(again) == []
        expected = ["reduce_per_replica"] * (kind == "two") + ["_maybe_symbolic_build"]
        gone = [name for name in expected if name not in json.loads(patched)]
        if gone:
            pytest.skip(f"Keras has fixed {gone} itself: remove them from training/distribute.py")
        assert json.loads(patched) == expected
