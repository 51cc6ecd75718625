"""`phase1 logits` and `phase3 combine` on the small dataset: the store holds what the teacher says of each view."""

import shutil

import keras
import numpy as np
import pytest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.phases.phase1_teacher import logits
from keras_pipeline.phases.phase3_soft_labels import combine
from keras_pipeline.training import soft_labels
from keras_pipeline.training.soft_labels import Layout
from keras_pipeline.training.store import Store


@pytest.fixture
def run(make_config, dataset_json):
    """23 train photos in four shards, of three species, two of them stored; a teacher that depends on the picture."""
    phase3 = {
        "teachers": [{"path": "phase1/best.keras", "weight": 1.0}],
        "soft_labels": {"views": 3, "top_k": 2},
        "distillation": {"temperature": 2.0},
    }
    small = {phase: {"data": {"image_size": 32}} for phase in ("phase1", "phase2", "phase4")}
    config = make_config(dataset={"short_side": 36}, phase3=phase3, **small)
    run = Run(config, None, made_from="teacher 1")
    shutil.copytree(dataset_json.parent, run.path("dataset").parent)
    run.path("teacher").parent.mkdir(parents=True)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3),
    ])  # fmt: skip
    model.save(run.path("teacher"))
    return run


def store_of(run, name):
    info = records.load_info(run.path("dataset"))
    return Store.open(run.path(name), Layout.of(run.config.phase3, info))


def test_the_store_holds_what_the_teacher_says_of_each_view(run):
    logits.run(run)
    store, info = store_of(run, "teacher_logits"), records.load_info(run.path("dataset"))
    assert [shard["n"] for shard in store.shards] == [5, 6, 6, 6]
    model = keras.models.load_model(run.path("teacher"))
    received = np.concatenate([store.read(shard) for shard in store.shards])
    for number in range(3):
        batches = [
            batch
            for shard in info.shards("train")
            for batch in pipeline.stored_view_batches(
                shard, Preprocessing(32, 36), number=number, seed=run.config.seed, batch_size=64
            )
        ]
        sample, seed = np.concatenate([batch["seed"].numpy() for batch in batches]).T
        answers = np.concatenate([model(batch["image"], training=False).numpy() for batch in batches])
        expected = soft_labels.encode_view(answers, store.layout, seed)
        np.testing.assert_array_equal(received["sample"], sample)
        for name in ("seed", "ids"):
            np.testing.assert_array_equal(received["views"][name][:, number], expected[name])
        for name in ("logits", "tail"):
            np.testing.assert_allclose(received["views"][name][:, number], expected[name], rtol=2e-3, atol=1e-5)


def test_a_diverged_teacher_ends_the_step(run):
    model = keras.models.load_model(run.path("teacher"))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, np.array([0, np.nan, 0], np.float32) + bias])
    model.save(run.path("teacher"))
    with pytest.raises(ValueError, match=r"NaN or infinity in 5 of 5 photos, expected finite ones of \[N, 3\]"):
        logits.run(run)
    assert not list(run.path("teacher_logits").iterdir())


def test_one_teacher_alone_is_combined_into_itself_and_its_bytes_repeat(run):
    logits.run(run)
    combine.run(run)
    own, together = store_of(run, "teacher_logits"), store_of(run, "soft_labels")
    for shard, other in zip(own.shards, together.shards, strict=True):
        one, both = own.read(shard), together.read(other)
        np.testing.assert_array_equal(one["views"]["ids"], both["views"]["ids"])
        np.testing.assert_allclose(one["views"]["logits"], both["views"]["logits"], atol=4e-3)
    before = [path.read_bytes() for path in sorted(run.path("soft_labels").glob("*.tfrecord"))]
    combine.run(run)
    assert [path.read_bytes() for path in sorted(run.path("soft_labels").glob("*.tfrecord"))] == before
