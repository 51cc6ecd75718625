"""The bundle holds the SavedModel's weights bit for bit, everything it needs, and nothing from elsewhere."""

import hashlib
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import web_example as example

from keras_pipeline.export.quantize import fold_batch_norm, quantize_to_uint8
from keras_pipeline.export.tfjs import PAGE, read_shards, write_bundle, write_graph_model


@pytest.fixture(scope="module")
def folder():
    return example.bundle()[0]


def test_every_weight_arrives_bit_for_bit(folder):
    decoded = {data.tobytes() for data in read_shards(folder / "model").values()}
    reader = tf.train.load_checkpoint(str(example.saved() / "variables/variables"))
    weights = [n for n, dtype in reader.get_variable_to_dtype_map().items() if dtype == tf.float32]
    assert len(weights) == len(example.shipped().weights)
    assert all(reader.get_tensor(name).tobytes() in decoded for name in weights)


def test_only_the_graphs_own_constants_stay_float32(folder):
    report = example.bundle()[1]
    shards = read_shards(folder / "model")
    values = sorted(shards[name].item() for name in report["float32"])
    assert values == [float(np.float32(1 / 127.5)), float(np.float32(1 / 1.7))]  # 1.7: the temperature
    assert report["float16"] == len(example.shipped().weights) + 1  # and the Rescaling's offset, -1


def test_size_is_two_bytes_a_weight(folder):
    report = example.bundle()[1]
    topology = (folder / "model/model.json").stat().st_size
    assert report["bytes"] - topology == pytest.approx(2 * example.shipped().count_params(), abs=64)


def test_weights_that_were_not_quantized_stay_float32(tmp_path):
    saved = example.export(fold_batch_norm(example.trained()), tmp_path / "saved")
    report = write_graph_model(saved, tmp_path / "model")
    assert len(report["float32"]) > 20


def test_a_weight_that_the_converter_changes_is_refused_by_name(tmp_path):
    saved = example.export(example.trained(), tmp_path / "saved")  # its BatchNorms would be folded by the converter
    with pytest.raises(ValueError, match=r"weights/\d+.*fold_batch_norm"):
        write_bundle(saved, tmp_path / "bundle", about=example.ABOUT)
    assert not (tmp_path / "bundle").exists()


def test_an_operation_that_the_browser_lacks_is_named_with_its_layer(tmp_path):
    class Gamma(keras.layers.Layer):
        def call(self, x):
            return tf.math.lgamma(x + 1.0)

    inputs = keras.Input((48, 48, 3))
    odd = Gamma(name="odd")(keras.layers.GlobalAveragePooling2D()(inputs))
    saved = example.export(keras.Model(inputs, keras.layers.Dense(4)(odd)), tmp_path / "saved")
    with pytest.raises(
        ValueError, match=r"TensorFlow.js has no Lgamma, received in \S*odd\S*/Lgamma; use another layer"
    ):
        write_bundle(saved, tmp_path / "bundle", about=example.ABOUT)
    assert not (tmp_path / "bundle").exists()


def test_the_same_weights_give_the_same_files(tmp_path, folder):
    write_bundle(example.saved(), tmp_path / "again", about=example.ABOUT)
    assert (tmp_path / "again/files.json").read_bytes() == (folder / "files.json").read_bytes()


def test_file_list_covers_the_folder(folder):
    listed = json.loads((folder / "files.json").read_text())
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(listed) == set(present) - {"files.json"}
    assert all(hashlib.sha256(present[n].read_bytes()).hexdigest() == f["sha256"] for n, f in listed.items())
    assert {"index.html", "labels.json", "calibration.json", "preprocessing.json", "model/model.json"} <= set(listed)
    assert json.loads((folder / "about.json").read_text()) == example.ABOUT and "about.json" in listed
    assert {"NOTICES.txt", "vendor/LICENSE-Apache-2.0.txt"} <= set(listed)


def test_the_page_names_no_other_host():
    sources = "".join(path.read_text() for path in PAGE.iterdir() if path.suffix in {".html", ".js", ".css"})
    assert re.findall(r"https?://[^\s\"'<>]+", sources) == []


def test_versions_are_exact_and_the_lock_names_no_registry():
    package = json.loads((PAGE / "package.json").read_text())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["dependencies"].values())
    assert "resolved" not in (PAGE / "package-lock.json").read_text()


def test_kernels_of_a_byte_each_arrive_bit_for_bit(tmp_path):
    model = fold_batch_norm(example.trained())
    entries = quantize_to_uint8(model, example.tensors(example.samples()), most_kl=0.01)
    saved = example.export(model, tmp_path / "saved")
    report = write_graph_model(saved, tmp_path / "model")  # checks that each tensor decodes to the SavedModel's values
    kernels = [entry for entry in entries if entry["stored"] == "uint8"]
    assert report["uint8"] >= len(kernels) > 5
    saving = sum(np.prod(entry["shape"]) for entry in kernels)
    size = report["bytes"] - (tmp_path / "model/model.json").stat().st_size
    assert size == pytest.approx(2 * model.count_params() - saving, abs=256)
