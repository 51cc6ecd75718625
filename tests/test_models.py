"""Graphs: pinned parameter counts, exact copies of weights, and what freezing and saving do."""

import keras
import numpy as np
import pytest

from keras_pipeline.core.config import Model
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.models import heads, mobilenet, vit, weights
from keras_pipeline.training.schedule import build_optimizer

SMALL = Model(name="mobilenetv2", alpha=0.35, pretrained=False)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    return heads.build_classifier(SMALL, num_classes=5, image_size=32, dropout=0.2)


@pytest.fixture(scope="module")
def vit_tiny():
    keras.utils.set_random_seed(0)
    return heads.build_classifier(
        Model(name="vit_tiny_patch16", pretrained=False), num_classes=5, image_size=64, dropout=0.1
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")


@pytest.mark.parametrize(
    "alpha, parameters",
    # Keras's published no-top counts, 2,257,984 and 410,208, plus 17 * (1280 + 1) = 21,777 of the head
    [(1.0, 2_257_984 + 21_777), (0.35, 410_208 + 21_777)],
)
def test_mobilenet_has_the_published_number_of_parameters(alpha, parameters):
    model = heads.build_classifier(
        Model(name="mobilenetv2", alpha=alpha, pretrained=False), num_classes=17, image_size=32, dropout=0.2
    )
    assert model.count_params() == parameters


def test_vit_tiny_has_the_published_number_of_parameters(vit_tiny):
    # A block of width 192: 4 (192² + 192) attention, 2 * 192 * 768 + 768 + 192 MLP, 4 * 192 norms = 444,864; times 12.
    # Patches 16² * 3 * 192 + 192; (4² + 1) * 192 positions; 192 class token; 384 last norm; head 5 * 193.
    assert vit_tiny.count_params() == 12 * 444_864 + 147_648 + 17 * 192 + 192 + 384 + 965


def test_vit_answers_from_the_class_token(vit_tiny):
    assert vit_tiny.output_shape == (None, 5)
    a, b = (vit_tiny(np.random.default_rng(s).uniform(0, 255, (1, 64, 64, 3)), training=False) for s in (0, 1))
    assert np.isfinite(a).all() and not np.array_equal(a, b)


@pytest.mark.parametrize("name", ["vit_tiny", "vit_huge_patch16", "resnet50"])
def test_an_unknown_vit_raises(name):
    with pytest.raises(ValueError, match="expected vit_"):
        vit.backbone(name, 64, pretrained=False)


def test_the_graph_scales_its_input(small):
    # 0 -> -1, 127.5 -> 0, 255 -> 1, as MobileNetV2's weights expect
    scale = small.get_layer("scale")
    np.testing.assert_allclose(scale(np.array([0.0, 127.5, 255.0])), [-1, 0, 1], atol=1e-6)


def test_the_head_stays_in_single_precision_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = heads.build_classifier(SMALL, num_classes=5, image_size=32, dropout=0.2)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.get_layer("logits").compute_dtype == "float32"
    assert model.get_layer("Conv1").compute_dtype == "float16"


def test_dropout_acts(small, images):
    keras.utils.set_random_seed(0)
    model = heads.build_classifier(SMALL, num_classes=5, image_size=32, dropout=0.9)
    heads.freeze_backbone(model, True)  # so that BatchNorm does not differ between the two calls
    quiet = heads.build_classifier(SMALL, num_classes=5, image_size=32, dropout=0.0)
    heads.freeze_backbone(quiet, True)
    for candidate, acts in ((model, True), (quiet, False)):
        a, b = (np.asarray(candidate(images, training=t)) for t in (True, False))
        assert np.array_equal(a, b) != acts


def test_another_number_of_classes_than_the_list_raises():
    model = Model(name="mobilenetv2", alpha=0.35, pretrained=False, num_classes=9000)
    with pytest.raises(ValueError, match="received 9000, but the class list has 5"):
        heads.build_classifier(model, num_classes=5, image_size=32, dropout=0.0)


def test_batch_norm_momentum_reaches_every_layer():
    backbone = mobilenet.backbone(32, alpha=0.35, pretrained=False, batch_norm_momentum=0.7)
    momenta = {layer.momentum for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert momenta == {0.7}


def test_a_frozen_backbone_does_not_move_and_the_head_does(images):
    keras.utils.set_random_seed(0)
    model = heads.build_classifier(SMALL, num_classes=5, image_size=32, dropout=0.0)
    heads.freeze_backbone(model, True)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    before = {w.path: w.numpy() for w in model.weights}
    model.fit(images, np.array([0, 1]), epochs=1, verbose=0)
    moved = {w.path for w in model.weights if not np.array_equal(before[w.path], w.numpy())}
    # Moving means and variances stayed too. (Random weights give features too faint to move the head's kernel.)
    assert "logits/bias" in moved <= {"logits/kernel", "logits/bias"}
    heads.freeze_backbone(model, False)
    assert all(layer.trainable for layer in model.layers)


def test_pretrained_weights_are_copied_exactly(tmp_path):
    keras.utils.set_random_seed(1)
    donor = keras.applications.MobileNetV2(alpha=0.35, weights=None, classifier_activation=None)
    donor.save_weights(tmp_path / "donor.weights.h5")
    backbone = mobilenet.backbone(
        32, alpha=0.35, pretrained=str(tmp_path / "donor.weights.h5"), batch_norm_momentum=0.9
    )
    layers = [layer for layer in backbone.layers if layer.weights]
    assert sum(layer.count_params() for layer in layers) == 410_208
    for layer in layers:
        for mine, theirs in zip(layer.get_weights(), donor.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ValueError, match="is no MobileNetV2 with alpha 0.5"):
        mobilenet.backbone(32, alpha=0.5, pretrained=str(tmp_path / "donor.weights.h5"), batch_norm_momentum=0.9)


@pytest.mark.parametrize("text", [None, b"not hdf5"])
def test_weights_that_are_not_there_or_not_weights(tmp_path, text):
    path = tmp_path / "x.weights.h5"
    if text:
        path.write_bytes(text)
    with pytest.raises(ValueError, match="model.pretrained: .*(does not exist|is no MobileNetV2)"):
        mobilenet.backbone(32, alpha=0.35, pretrained=str(path), batch_norm_momentum=0.9)


def test_every_mismatch_is_named():
    def model_of(units, name):
        inputs = keras.Input((3,))
        x = keras.layers.Dense(units, name="first")(inputs)
        return keras.Model(inputs, keras.layers.Dense(2, name=name)(x))

    with pytest.raises(ValueError) as caught:
        weights.copy_layers(model_of(4, "second"), model_of(5, "last"))
    assert r"first: received [(3, 4), (4,)], expected [(3, 5), (5,)]" in str(caught.value)
    assert "last: received no such layer" in str(caught.value)


def test_answers_are_the_same_after_save_and_load(tmp_path, small, vit_tiny, images):
    for model, x in ((small, images), (vit_tiny, np.repeat(np.repeat(images, 2, 1), 2, 2))):
        model.save(tmp_path / "model.keras")
        loaded = heads.load_classifier(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))


@pytest.mark.parametrize("content", [None, b"", b"no zip", "zip", "truncated"])
def test_what_is_no_model_is_named(tmp_path, small, content):
    path = tmp_path / "best.keras"
    if content in ("zip", "truncated"):
        small.save(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if content == "truncated" else b"PK\5\6" + bytes(18))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BrokenArtefact, match="best.keras: no model can be loaded"):
        heads.load_classifier(path)


@pytest.mark.parametrize("name, steps", [("adamw", 10), ("sgd", 10)])
def test_weight_decay_spares_biases_norms_and_embeddings(vit_tiny, small, name, steps):
    for model in (vit_tiny, small):
        optimizer = build_optimizer(name, learning_rate=0.1, weight_decay=0.1, steps=steps, warmup=0)
        decayed = {v.path.split("/")[-1] for v in model.trainable_variables if optimizer._use_weight_decay(v)}
        assert decayed == {"kernel"}
