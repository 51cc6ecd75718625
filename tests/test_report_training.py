"""What TensorBoard is shown of a training: the batch as the model sees it, and after each epoch its confusions."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_pipeline.core.config.teachers import Callbacks
from keras_pipeline.evaluation.metrics import recall_by_train_photos
from keras_pipeline.evaluation.report import confusions, pictures, recalls, training
from keras_pipeline.training import fit
from keras_pipeline.training.schedule import build_optimizer

CLASSES = ["Viola alba", "Papaver rhoeas", "Bellis perennis", "Crocus vernus"]
LABEL = np.array([0, 1, 2, 3, 0, 1, 2, 3])


def photos_of(epoch):
    """Eight plain photos, a colour a class and a brightness an epoch."""
    colours = np.array([[160, 60, 200], [220, 40, 30], [240, 240, 240], [90, 80, 210]], "float32")
    return np.tile((colours[LABEL] - 10 * epoch)[:, None, None], (1, 8, 8, 1))


def batches(epochs, done=0):
    """Two an epoch."""
    photos = np.concatenate([photos_of(epoch) for epoch in epochs for _ in range(2)])
    labels = np.tile(np.eye(4, dtype="float32")[LABEL], (2 * len(epochs), 1))
    return tf.data.Dataset.from_tensor_slices((photos, labels)).batch(8).skip(done)


VALIDATION = batches(range(1))
# The same as `evaluation_batches` gives it; a group has two photos.
WATCHED = tf.data.Dataset.from_tensor_slices(
    {
        "image": np.tile(photos_of(0), (2, 1, 1, 1)),
        "label": np.tile(LABEL, 2),
        "group_id": [f"g{i // 2}" for i in range(16)],
    }
).batch(8)
TRAIN_PHOTOS = dict(zip(CLASSES, [3, 30, 30, 300], strict=True))


def trained(folder, epochs=2, *, watched=True, train_photos=None):
    """A model that classifies by colour, after training; eager, as tracing costs more."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    optimizer = build_optimizer("adam", learning_rate=0.01, weight_decay=0, steps=100, warmup=0)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), run_eagerly=True)
    stage = fit.Stage(folder, epochs, 2, 8, 4, 0, Callbacks(early_stopping=False))
    fit.fit(
        model,
        batches,
        VALIDATION,
        stage,
        [training.Pictures(folder, batches, WATCHED, train_photos or TRAIN_PHOTOS)] * watched,
    )
    return model


def images_in(folder):
    """{tag: {step: pixels}} of TensorBoard's files."""
    events = EventAccumulator(str(folder / "logs" / "pictures"), size_guidance={"tensors": 0}).Reload()
    return {
        tag: {event.step: pixels_of(event.tensor_proto.string_val[2]) for event in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
    }


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_training_leaves_its_pictures(tmp_path):
    model = trained(tmp_path)
    shown = images_in(tmp_path)
    assert {tag: list(steps) for tag, steps in shown.items()} == {
        "augmented batch": [0], "confusion": [0, 1], "recall by train photos": [0, 1],
    }  # fmt: skip
    # The batch of epoch 0 with its captions; pixels as the functions draw them, in both places.
    grid = pictures.photo_grid(photos_of(0), [CLASSES[label] for label in LABEL])
    np.testing.assert_array_equal(shown["augmented batch"][0], grid)
    np.testing.assert_array_equal(pixels_of((tmp_path / "augmented_batch.png").read_bytes()), grid)
    # After the last epoch: the finished model's own answers.
    answers = np.concatenate([model(images).numpy().argmax(1) for images, _ in VALIDATION])
    expected = confusions.confusion_picture(np.tile(LABEL, 2), answers, CLASSES)
    np.testing.assert_array_equal(shown["confusion"][1], expected)
    np.testing.assert_array_equal(pixels_of((tmp_path / "confusion.png").read_bytes()), expected)
    groups = np.array([f"g{i // 2}" for i in range(16)])
    rows = recall_by_train_photos(answers == np.tile(LABEL, 2), np.tile(LABEL, 2), groups, [3, 30, 30, 300])
    assert [(row["train"], row["n"], row["groups"]) for row in rows] == [
        ([2, 4], 4, 4), ([20, 49], 8, 8), ([100, None], 4, 4),
    ]  # fmt: skip
    np.testing.assert_array_equal(shown["recall by train photos"][1], recalls.recall_curve(rows))


def test_species_of_as_many_photos_have_no_curve(tmp_path):
    trained(tmp_path, 1, train_photos=dict.fromkeys(CLASSES, 80))
    assert set(images_in(tmp_path)) == {"augmented batch", "confusion"}
    assert not (tmp_path / "recall_by_train_photos.png").exists()


def test_watching_changes_nothing(tmp_path):
    watched, alone = trained(tmp_path / "a", 1), trained(tmp_path / "b", 1, watched=False)
    for mine, theirs in zip(watched.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_restart_keeps_the_first_batch_and_goes_on_with_the_confusions(tmp_path):
    trained(tmp_path, 1)
    trained(tmp_path, 3)
    shown = images_in(tmp_path)
    # Sorted: TensorBoard reads event files in the order of their names, which is open within one second.
    assert {tag: sorted(steps) for tag, steps in shown.items()} == {
        "augmented batch": [0], "confusion": [0, 1, 2], "recall by train photos": [0, 1, 2],
    }  # fmt: skip


def test_no_more_photos_are_judged_than_a_table_needs(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "JUDGED", 5)
    monkeypatch.setattr(confusions, "confusion_picture", lambda labels, *_: seen.append(labels) or np.zeros((9, 9, 3)))
    trained(tmp_path, 1)
    assert [labels.tolist() for labels in seen] == [LABEL[:5].tolist()]


@pytest.mark.parametrize(
    "label, text",
    [
        ([0, 1, 0, 0], "Papaver rhoeas"),
        ([0.7, 0.3, 0, 0], "70 % Viola alba + 30 % Papaver rhoeas"),
        ([0.3, 0.7, 0, 0], "70 % Papaver rhoeas + 30 % Viola alba"),  # the larger share first
        ([0.5, 0, 0.5, 0], "50 % Viola alba + 50 % Bellis perennis"),  # of equals the first
        ([0.025, 0.925, 0.025, 0.025], "Papaver rhoeas"),  # smoothing of 0.1 spread over four
        ([0.61, 0.29, 0.05, 0.05], "61 % Viola alba + 29 % Papaver rhoeas"),  # 70/30, smoothed by 0.2
        ([0.995, 0.005, 0, 0], "Viola alba"),
        ([0.98, 0.02, 0, 0], "98 % Viola alba + 2 % Papaver rhoeas"),
    ],
)
def test_caption(label, text):
    assert training.caption(np.array(label, "float32"), CLASSES) == text


@pytest.mark.parametrize(
    "label, text",
    [
        ([1, 0], "Viola alba"),
        ([0.3, 0.7], "70 % Papaver rhoeas + 30 % Viola alba"),
        # Of two classes the smaller share may be a mixed photo's as well as smoothing's.
        ([0.95, 0.05], "95 % Viola alba + 5 % Papaver rhoeas"),
    ],
)
def test_caption_of_two_classes(label, text):
    assert training.caption(np.array(label), CLASSES[:2]) == text
