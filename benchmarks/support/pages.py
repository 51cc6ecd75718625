"""The page of a source tree: this one, or commit BASE in a worktree made for the run; and a link of limited speed."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

BASE, ROOT = "1770f94", Path(__file__).parents[2]
DATA = Path(os.environ.get("KERAS_PIPELINE_TEST_DATA", "../shared/data")).resolve()
SIZE = 224
SPECIES, GENERA, REGIONS = 9000, 1800, 200
CALIBRATION = {"temperature": 1.0, "threshold": 0.5}


def network() -> Any:
    """MobileNetV2 1.0 at 224 px with its ImageNet weights; RGB 0..255 -> logits, BatchNorm folded, in fp16."""
    import keras

    inputs = keras.Input((SIZE, SIZE, 3))
    body = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    body.load_weights(DATA / "mobilenet_v2_1.0_224_imagenet.weights.h5")
    return _shipped(keras.Model(inputs, body(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs))))


def many_species() -> Any:
    """MobileNetV2 0.35 at 32 px with a head of 128 and random weights, for SPECIES classes."""
    import keras

    keras.utils.set_random_seed(5)
    inputs = keras.Input((32, 32, 3))
    body = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, pooling="avg", weights=None)
    x = body(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(SPECIES)(keras.layers.Dense(128)(x)))
    for weight in model.weights:  # the converter would merge those that are equal
        if weight.name in ("beta", "bias"):
            weight.assign(keras.random.normal(weight.shape, stddev=0.1))
    return _shipped(model)


def _exports() -> tuple[Any, bool]:
    """Return how a tree's package of the page is called, and whether it is BASE's."""
    # Not by find_spec: an editable installation would find another tree's.
    is_base = (Path(importlib.import_module("keras_pipeline").__path__[0]) / "web").is_dir()
    return ("keras_pipeline.web" if is_base else "keras_pipeline.export"), is_base


def _shipped(model: Any) -> Any:
    package, is_base = _exports()
    quantize = importlib.import_module(f"{package}.quantize")
    model = quantize.fold_batch_norm(model)
    (quantize.round_to_float16 if is_base else quantize.quantize_to_float16)(model)
    return model


def write(what: str, folder: Path) -> None:
    """Write the bundle `folder`/page and the SavedModel `folder`/model with the package that is imported.

    Args:
        what: network, many_species, or many_species_regions with priors of REGIONS regions.
        folder: exists.
    """
    import numpy as np

    preprocess = importlib.import_module("keras_pipeline.data.preprocess")
    taxonomy = importlib.import_module("keras_pipeline.core.taxonomy")
    package, is_base = _exports()
    saved_model, tfjs = (importlib.import_module(f"{package}.{name}") for name in ("saved_model", "tfjs"))
    if what == "network":
        model, labels, size = network(), [f"Species {i}" for i in range(1000)], SIZE
    else:
        model, size = many_species(), 32
        labels = sorted(f"Genus{i % GENERA:04}us epithet{i:05}us" for i in range(SPECIES))
    options: dict[str, Any] = {}
    calibration = dict(CALIBRATION)
    if what == "many_species_regions":
        ratios = np.random.default_rng(0).normal(size=(REGIONS, SPECIES)).astype(np.float16)
        options["priors"] = {
            "regions": [f"Region {i}" for i in range(REGIONS)], "class_hash": taxonomy.class_hash(labels),
            "log_ratios": ratios.astype(np.float64).round(4).tolist(),
        }  # fmt: skip
        calibration["region_priors"] = {"ship": True, "temperature": 1.0, "threshold": 0.5}
    saved_model.write_saved_model(
        model, folder / "model", labels=labels, preprocessing=preprocess.Preprocessing(size), calibration=calibration,
        **options,
    )  # fmt: skip
    tfjs.write_bundle(folder / "model", folder / "page", **({} if is_base else {"about": {}}))


@contextlib.contextmanager
def base_tree() -> Iterator[Path]:
    """Yield a worktree of commit BASE, with our JavaScript libraries."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), BASE], check=True)
        libraries = importlib.import_module("keras_pipeline.export.tfjs")._node_modules()
        (tree / "keras_pipeline/web/page/node_modules").symlink_to(libraries.resolve())
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def written_by(tree: Path, what: str, folder: Path) -> Path:
    """Run `write` with the package of a source tree; return the bundle's folder."""
    folder.mkdir(parents=True)
    own = {"PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_PIPELINE_TEST_DATA": str(DATA)}
    environment = os.environ | own
    done = subprocess.run(
        [sys.executable, __file__, what, str(folder)], cwd=tree, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return folder / "page"


class Link:
    """A connection of limited speed, shared by all requests: `wait` before the answer, `passes` for each piece."""

    def __init__(self, bits: float, round_trip: float):
        self._seconds_a_byte, self._round_trip = 8 / bits, round_trip
        self._free, self._lock = 0.0, threading.Lock()
        self.bytes: dict[str, int] = {}  # by path, as often as sent

    def wait(self) -> None:
        """Let a round trip pass."""
        time.sleep(self._round_trip)

    def passes(self, count: int) -> None:
        """Return when `count` bytes have gone through."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count * self._seconds_a_byte
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


@contextlib.contextmanager
def slow_server(folder: Path, link: Link) -> Iterator[str]:
    """Serve a folder over a link on loopback, as `serve_folder`; yield the base URL."""
    static_server = importlib.import_module("keras_pipeline.core.static_server")

    class Handler(static_server._Handler):  # type: ignore[name-defined,misc]
        def send_head(self) -> Any:
            link.wait()
            return super().send_head()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            while piece := source.read(16_384):
                link.passes(len(piece))
                link.bytes[self.path] = link.bytes.get(self.path, 0) + len(piece)
                outputfile.write(piece)

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore the error: a browser that closes a page hangs up."""

    server = Server((static_server.HOST, 0), partial(Handler, directory=str(folder), headers={}))
    with static_server.in_background(server):
        yield f"http://{static_server.HOST}:{server.server_port}/"


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
