"""Steps of `python -m keras_pipeline` in a process of N logical CPUs that leaves what each training ends with.

    python replica.py N small|whole FOLDER 'phase1 train, ...' ARGUMENT...

FOLDER/<stage>.npz: the weights, as this process has them; FOLDER/<stage>.steps.npy: where it writes, the epoch's mean
loss so far after each step; FOLDER/<stage>.chiefs.npy: `distribute.chiefs` of this machine's number plus [[0.5, 1.5]].
`small`: the network has two batch norms instead of MobileNetV2's fifty-two, through which
what float32 sums round grows a thousandfold in a few steps.
"""

import json
import os
import socket
import sys
from pathlib import Path

import numpy as np


def free_addresses(number: int) -> list[str]:
    """host:port, on loopback."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def two_machines() -> list[str]:
    """TF_CONFIG of each of two on loopback, the chief first."""
    cluster = {"worker": free_addresses(2)}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in (0, 1)]


def weights(folder: Path, stage: str = "full") -> list[np.ndarray]:
    with np.load(folder / f"{stage}.npz") as file:
        return [file[name] for name in file.files]


def small_backbone(model, image_size, *, rematerialisation):
    import keras

    image = keras.Input((image_size, image_size, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=model.batch_norm_momentum)(x))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


def watched(train, folder):
    import keras

    from keras_pipeline.training import distribute

    def fit(model, batches, validation, stage, callbacks=(), **start):
        number = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]
        mine = np.array([[0.5, 1.5]]) + number
        np.save(folder / f"{stage.folder.name}.chiefs.npy", distribute.chiefs(model.distribute_strategy, mine))
        losses = []
        note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(float(logs["loss"])))
        rows = train(model, batches, validation, stage, [*callbacks, note], **start)
        np.savez(folder / f"{stage.folder.name}.npz", *model.get_weights())
        np.save(folder / f"{stage.folder.name}.steps.npy", losses)
        return rows

    return fit


def reporting(patch):
    """Print what was patched, and what a second call patches."""

    def patch_keras(strategy):
        patched = patch(strategy)
        print("patched", json.dumps(patched), json.dumps(patch(strategy)), flush=True)
        return patched

    return patch_keras


def run(cpus: int, network: str, folder: Path, steps: list[str], arguments: list[str]) -> int:
    import tensorflow as tf

    from keras_pipeline.__main__ import main
    from keras_pipeline.models import heads
    from keras_pipeline.training import distribute, fit

    if cpus > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpus)
    if network == "small":
        heads.build_backbone = small_backbone
    fit.fit = watched(fit.fit, folder)
    distribute.patch_keras = reporting(distribute.patch_keras)
    return next(filter(None, (main([*step.split(), *arguments]) for step in steps)), 0)


if __name__ == "__main__":
    cpus, network, folder, steps, *arguments = sys.argv[1:]
    sys.exit(run(int(cpus), network, Path(folder), steps.split(", "), arguments))
