"""Graphs: pinned parameter counts, exact copies of weights, and what freezing and saving do."""

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_pipeline.core.config.teachers import VIT_PRESETS, Model
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.export.quantize import fold_batch_norm
from keras_pipeline.models import heads, layerwise, mobilenet, vit, weights, weights_file
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


@pytest.mark.parametrize(
    "rank, parameters, megabytes",
    # A whole head is 9,000 * 1,281 = 11,529,000, of rank 256 it is 1,280 * 256 + 256 * 9,000 + 9,000 = 2,640,680.
    [(None, 2_257_984 + 11_529_000, 55.1), (256, 2_257_984 + 2_640_680, 19.6)],
)
def test_a_head_of_9000_classes_whole_and_factorised(rank, parameters, megabytes):
    settings = Model(name="mobilenetv2", pretrained=False, head_rank=rank)
    model = heads.build_classifier(settings, num_classes=9000, image_size=32, dropout=0.2)
    assert model.count_params() == parameters
    assert parameters * 4e-6 == pytest.approx(megabytes, abs=0.05)  # MB of float32; the plan's limit is 20


def test_a_factorised_head_is_the_product_of_its_two_and_trains_alone(images, tmp_path):
    keras.utils.set_random_seed(0)
    settings = SMALL.model_copy(update={"head_rank": 2})
    model = heads.build_classifier(settings, num_classes=5, image_size=32, dropout=0.0)
    low, logits = model.get_layer("low_rank"), model.get_layer("logits")
    features = keras.Model(model.inputs, low.input)(images, training=False)
    whole = low.kernel.numpy() @ logits.kernel.numpy()
    np.testing.assert_allclose(model(images, training=False), features @ whole + logits.bias, atol=1e-5)
    assert np.linalg.matrix_rank(whole) == 2
    heads.freeze(model, backbone=True, batch_norm=False)
    assert {v.path for v in model.trainable_variables} == {"low_rank/kernel", "logits/kernel", "logits/bias"}
    model.save(tmp_path / "student.keras")
    again = heads.load_classifier(tmp_path / "student.keras")
    np.testing.assert_array_equal(again(images, training=False), model(images, training=False))
    folded = fold_batch_norm(model)
    np.testing.assert_allclose(folded(images, training=False), model(images, training=False), atol=1e-4)


def test_vit_tiny_has_the_published_number_of_parameters(vit_tiny):
    # A block of width 192: 4 (192² + 192) attention, 2 * 192 * 768 + 768 + 192 MLP, 4 * 192 norms = 444,864; times 12.
    # Patches 16² * 3 * 192 + 192; (4² + 1) * 192 positions; 192 class token; 384 last norm; head 5 * 193.
    assert vit_tiny.count_params() == 12 * 444_864 + 147_648 + 17 * 192 + 192 + 384 + 965


def test_vit_answers_from_the_class_token(vit_tiny):
    assert vit_tiny.output_shape == (None, 5)
    a, b = (vit_tiny(np.random.default_rng(s).uniform(0, 255, (1, 64, 64, 3)), training=False) for s in (0, 1))
    assert np.isfinite(a).all() and not np.array_equal(a, b)


@pytest.mark.parametrize("name", ["vit_tiny", "vit_giant_patch14", "resnet50"])
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
    heads.freeze(model, backbone=True, batch_norm=False)  # so that BatchNorm does not differ between the two calls
    quiet = heads.build_classifier(SMALL, num_classes=5, image_size=32, dropout=0.0)
    heads.freeze(quiet, backbone=True, batch_norm=False)
    for candidate, acts in ((model, True), (quiet, False)):
        a, b = (np.asarray(candidate(images, training=t)) for t in (True, False))
        assert np.array_equal(a, b) != acts


def test_another_number_of_classes_than_the_list_raises():
    model = Model(name="mobilenetv2", alpha=0.35, pretrained=False, num_classes=9000)
    with pytest.raises(ValueError, match="received 9000, expected 5, the length of the class list"):
        heads.build_classifier(model, num_classes=5, image_size=32, dropout=0.0)


def test_batch_norm_momentum_reaches_every_layer():
    backbone = mobilenet.backbone(32, alpha=0.35, pretrained=False, batch_norm_momentum=0.7)
    momenta = {layer.momentum for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert momenta == {0.7}


def test_a_frozen_backbone_does_not_move_and_the_head_does(images):
    keras.utils.set_random_seed(0)
    model = heads.build_classifier(SMALL, num_classes=5, image_size=32, dropout=0.0)
    heads.freeze(model, backbone=True, batch_norm=False)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    before = {w.path: w.numpy() for w in model.weights}
    model.fit(images, np.array([0, 1]), epochs=1, verbose=0)
    moved = {w.path for w in model.weights if not np.array_equal(before[w.path], w.numpy())}
    # Moving means and variances stayed too. (Random weights give features too faint to move the head's kernel.)
    assert "logits/bias" in moved <= {"logits/kernel", "logits/bias"}
    heads.freeze(model, backbone=False, batch_norm=False)
    assert all(layer.trainable for layer in model.layers)


def test_pretrained_weights_are_copied_exactly(tmp_path):
    keras.utils.set_random_seed(1)
    donor = keras.applications.MobileNetV2(alpha=0.35, weights=None, classifier_activation=None)
    donor.save_weights(tmp_path / "donor.weights.h5")
    backbone = mobilenet.backbone(
        32, alpha=0.35, pretrained=str(tmp_path / "donor.weights.h5"), batch_norm_momentum=0.9
    )
    network = Model(name="mobilenetv2", alpha=0.35)
    assert weights_file.fault(tmp_path / "donor.weights.h5", network) is None
    assert weights_file.fault(tmp_path / "donor.weights.h5", network.model_copy(update={"alpha": 0.5}))
    layers = [layer for layer in backbone.layers if layer.weights]
    assert sum(layer.count_params() for layer in layers) == 410_208
    for layer in layers:
        for mine, theirs in zip(layer.get_weights(), donor.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ValueError, match=r"don't fit MobileNetV2 with alpha 0.5[^\n]*\n.*received .*, expected"):
        mobilenet.backbone(32, alpha=0.5, pretrained=str(tmp_path / "donor.weights.h5"), batch_norm_momentum=0.9)


@pytest.mark.parametrize("text", [None, b"not hdf5"])
def test_weights_that_are_not_there_or_not_weights(tmp_path, text):
    path = tmp_path / "x.weights.h5"
    if text:
        path.write_bytes(text)
    with pytest.raises(ValueError, match="x.weights.h5: received no readable HDF5 file"):
        mobilenet.backbone(32, alpha=0.35, pretrained=str(path), batch_norm_momentum=0.9)


def test_every_mismatch_is_named():
    def model_of(units, name):
        inputs = keras.Input((3,))
        x = keras.layers.Dense(units, name="first")(inputs)
        return keras.Model(inputs, keras.layers.Dense(2, name=name)(x))

    with pytest.raises(ValueError) as caught:
        weights.copy_weights(model_of(4, "second"), model_of(5, "last"))
    assert r"first/kernel: received (3, 4), expected (3, 5)" in str(caught.value)
    assert "last/bias: received no such weight, expected (2,)" in str(caught.value)


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


@pytest.fixture
def two_blocks(monkeypatch):
    """Each of a ViT's blocks takes a second to trace, and says what the others say."""
    monkeypatch.setitem(vit.VIT_SIZES, "tiny", (2, 3, 192))
    monkeypatch.setitem(vit.VIT_SIZES, "small", (2, 6, 384))


@pytest.fixture
def short_vit(two_blocks):
    keras.utils.set_random_seed(0)
    model = Model(name="vit_tiny_patch16", pretrained=False)
    return heads.build_classifier(model, num_classes=5, image_size=64, dropout=0.1)


@pytest.mark.parametrize(("name", "network"), [("adamw", "vit_tiny_patch16"), ("sgd", "mobilenetv2")])
def test_weight_decay_spares_biases_norms_and_embeddings(two_blocks, name, network):
    # One step with gradient 0: 1 - 0.1 * 0.1 where decay acts. As TensorFlow runs it, in a graph.
    model = Model(name=network, alpha=0.35, pretrained=False)
    twin = heads.build_classifier(model, num_classes=3, image_size=32, dropout=0.0)
    optimizer = build_optimizer(name, learning_rate=0.1, weight_decay=0.1, steps=10, warmup=0)
    optimizer.build(twin.trainable_variables)
    for variable in twin.trainable_variables:
        variable.assign(np.ones(variable.shape))
    step = tf.function(lambda: optimizer.apply([tf.zeros(v.shape) for v in twin.trainable_variables]))
    step()
    decayed = {v.path.split("/")[-1] for v in twin.trainable_variables if np.all(v.numpy() < 0.995)}
    spared = {v.path.split("/")[-1] for v in twin.trainable_variables if np.all(v.numpy() == 1)}
    assert decayed == {"kernel"} and "kernel" not in spared


@pytest.mark.parametrize("name, last", [("vit_tiny_patch16", 13), ("mobilenetv2", 17)])
def test_rates_fall_towards_the_input(name, last, vit_tiny, small):
    rates = layerwise.layer_rates({"vit_tiny_patch16": vit_tiny, "mobilenetv2": small}[name], 0.5)
    by_name = {path.split("/")[-2 if "mha" not in path else -3]: rate for path, rate in rates.items()}
    assert rates["logits/kernel"] == 1 and min(rates.values()) == 0.5**last
    deepest, stem = {"vit_tiny_patch16": ("transformer_block_12", "patch_embedding"),
                     "mobilenetv2": ("block_16_project", "Conv1")}[name]  # fmt: skip
    assert next(rate for path, rate in rates.items() if deepest in path) == 0.5
    assert by_name[stem] == 0.5**last and len(set(rates.values())) == last + 1


def test_position_embeddings_of_another_image_size_are_resized():
    # A class token and the grid [[0, 1], [2, 3]] -> 4 x 4, bilinear, half-pixel centres: 0, .25, .75, 1 along a row
    embedding = np.array([[9.0], [0], [1], [2], [3]], "float32")
    resized = weights.resize_positions(embedding, 17)
    assert resized[0] == 9
    np.testing.assert_allclose(resized[1:5, 0], [0, 0.25, 0.75, 1], atol=1e-6)
    np.testing.assert_allclose(resized[1::4, 0], [0, 0.5, 1.5, 2], atol=1e-6)
    assert weights.resize_positions(embedding, 5) is embedding


def test_a_vit_takes_weights_of_another_image_size_from_a_file(tmp_path, short_vit):
    backbone = next(layer for layer in short_vit.layers if layer.weights and layer.name != "logits")
    backbone.save_weights(tmp_path / "vit.weights.h5")
    assert weights_file.fault(tmp_path / "vit.weights.h5", Model(name="vit_tiny_patch16", pretrained=False)) is None
    larger = vit.backbone("vit_tiny_patch16", 96, pretrained=str(tmp_path / "vit.weights.h5"))
    theirs = {v.path: v.numpy() for v in backbone.weights}
    for variable in larger.weights:
        if variable.path.endswith("position_embedding/embeddings"):
            assert variable.shape == (37, 192)
        else:
            np.testing.assert_array_equal(variable.numpy(), theirs[variable.path])


def test_a_saved_vit_gives_its_weights_to_one_of_another_image_size(tmp_path, short_vit):
    # As a regional teacher takes them from the global one: head and all.
    short_vit.save(tmp_path / "teacher.keras")
    teacher = heads.load_classifier(tmp_path / "teacher.keras")
    keras.utils.set_random_seed(9)
    model = Model(name="vit_tiny_patch16", pretrained=False)
    larger = heads.build_classifier(model, num_classes=5, image_size=96, dropout=0.1)
    weights.copy_weights(teacher, larger)
    for mine, theirs in zip(larger.weights, short_vit.weights, strict=True):
        if mine.path.endswith("position_embedding/embeddings"):
            np.testing.assert_array_equal(mine, weights.resize_positions(theirs.numpy(), 37))
        else:
            np.testing.assert_array_equal(mine, theirs)


def test_a_file_of_another_vit_is_refused_with_its_keys(tmp_path, short_vit):
    backbone = next(layer for layer in short_vit.layers if layer.weights and layer.name != "logits")
    backbone.save_weights(tmp_path / "vit.weights.h5")
    with pytest.raises(
        ValueError,
        match=r"38 of \d+ keys don't fit vit_small_patch16, the names are right [^\n]*another width[^\n]*:\n"
        r"  .*layer_norm_1/vars/0: received \(192,\), expected \(384,",
    ):
        vit.backbone("vit_small_patch16", 64, pretrained=str(tmp_path / "vit.weights.h5"))


def test_every_listed_preset_is_keras_hubs():
    import keras_hub

    theirs = keras_hub.models.ViTBackbone.presets
    assert set(VIT_PRESETS) == {name for name in theirs if name.startswith("vit_")}
    # Where `core/pretrained` looks for them in Kaggle's cache: models/OWNER/MODEL/FRAMEWORK/VARIATION.
    for name in VIT_PRESETS:
        assert theirs[name]["kaggle_handle"].startswith(f"kaggle://keras/vit/keras/{name}/")


def test_rematerialisation_gives_the_same_gradients(two_blocks):
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    gradients, matmuls = [], []
    for remat in (False, True):
        keras.utils.set_random_seed(0)
        model = vit.backbone("vit_tiny_patch16", 32, pretrained=False, rematerialisation=remat)

        @tf.function
        def gradient(model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(images) ** 2)
            return tape.gradient(loss, [v.value for v in model.trainable_variables])

        operations = [op.type for op in gradient.get_concrete_function().graph.get_operations()]
        # Each of the 2 blocks has 4 of them; its gradient has 8 more, and 4 again where it is computed anew.
        matmuls.append(operations.count("BatchMatMulV2"))
        gradients.append([np.asarray(tf.convert_to_tensor(g)) for g in gradient()])
    assert matmuls == [24, 32]
    for plain, again in zip(*gradients, strict=True):
        np.testing.assert_allclose(plain, again, atol=1e-5)


def test_a_file_of_another_keras_names_it(tmp_path, small):
    """Keras 3.14 stops at an argument that 3.15 writes of the default initializer; so does 3.15 at a made-up one."""
    small.save(tmp_path / "own.keras")
    with zipfile.ZipFile(tmp_path / "own.keras") as own, zipfile.ZipFile(tmp_path / "newer.keras", "w") as newer:
        for name in own.namelist():
            data = own.read(name)
            if name == "config.json":
                data = data.replace(b'"seed": null', b'"seed": null, "later_axes": null')
            if name == "metadata.json":
                data = data.replace(keras.__version__.encode(), b"3.99.1")
            newer.writestr(name, data)
    with pytest.raises(BrokenArtefact, match=r"was written by Keras 3\.99\.1, .*install keras==3\.99\.1, or run"):
        heads.load_classifier(tmp_path / "newer.keras")
