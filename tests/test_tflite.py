"""The TensorFlow Lite file answers as the model does, to what int8 allows."""

import numpy as np
import pytest
from support import web_example as example

from keras_pipeline.evaluation.metrics import softmax
from keras_pipeline.export.quantize import fold_batch_norm
from keras_pipeline.export.tflite import LiteModel, convert


def test_converting_and_asking_say_nothing(capfd):
    """The first test of all: TensorFlow Lite speaks once a process."""
    photos = example.tensors(example.samples(2))
    LiteModel(convert(fold_batch_norm(example.trained()), photos, temperature=1.7)).scores(photos)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def content():
    photos = example.tensors(example.samples(8, first_seed=1000))
    return convert(fold_batch_norm(example.trained()), photos, temperature=1.7)


def test_it_names_the_same_species_with_calibrated_probabilities(content):
    photos = example.tensors(example.samples())
    logits, probabilities = LiteModel(content).scores(photos)
    expected = example.trained()(photos, training=False)
    assert np.mean(logits.argmax(1) == np.argmax(expected, axis=1)) >= 0.95
    np.testing.assert_allclose(probabilities, softmax(logits, 1.7), atol=1e-6)
    assert len(np.unique(probabilities.max(1))) > 20  # in int8 there are few


def test_kernels_and_activations_are_integers_and_the_ends_are_not(content):
    interpreter = LiteModel(content)._interpreters[0]
    tensors = {t["name"]: t["dtype"] for t in interpreter.get_tensor_details()}
    assert sum(dtype is np.int8 for dtype in tensors.values()) > 20
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    assert {end["dtype"] for end in ends} == {np.float32}
    assert len(content) < sum(w.numpy().nbytes for w in example.trained().weights)


def test_the_last_layer_computes_in_float32_and_stores_bytes(content):
    """In int8, 256 values for all logits, two of thousands of species often shared the first place."""
    interpreter = LiteModel(content, xnnpack=False)._interpreters[0]
    head = [op for op in interpreter._get_ops_details() if op["op_name"] == "FULLY_CONNECTED"][-1]
    types = [
        interpreter._get_tensor_details(int(index), 0)["dtype"] for index in [*head["inputs"][:2], *head["outputs"]]
    ]
    assert types == [np.float32, np.int8, np.float32]


def test_both_sets_of_kernels_agree_to_what_rounding_allows(content):
    photos = example.tensors(example.samples())
    first, second = (LiteModel(content, xnnpack=each).scores(photos)[1] for each in (True, False))
    assert np.mean(first.argmax(1) == second.argmax(1)) >= 0.95
    assert 0 < np.abs(first - second).max() < 0.3
