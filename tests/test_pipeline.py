"""Batches: counts are exact, a restart sees what it would have seen, and companions stay with their photos."""

import numpy as np
import pytest
import tensorflow as tf

from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.training import soft_labels, store

PREPROCESSING = Preprocessing(image_size=32, short_side=36)


def train(info, epochs=range(2), *, augmentation="moderate", batch_size=5, seed=1, **options):
    view = pipeline.training_view(augmentation, PREPROCESSING)
    dataset = pipeline.training_batches(info, view, batch_size=batch_size, seed=seed, epochs=epochs, **options)
    return list(dataset.as_numpy_iterator())


def same(a, b):
    return all(np.array_equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in x)


@pytest.mark.parametrize("batch_size", [1, 4, 23, 64])
@pytest.mark.parametrize("split, n", [("train", 23), ("test", 11)])
def test_evaluation_sees_each_photo_once_in_order(info, split, n, batch_size):
    batches = list(pipeline.evaluation_batches(info, split, PREPROCESSING, batch_size=batch_size).as_numpy_iterator())
    assert len(batches) == -(-n // batch_size)
    expected = [records.decode(e) for path in info.shards(split) for e in records.read_shard(path)]
    for key, values in (
        ("sample_id", [p.sample_id.encode() for p in expected]),
        ("label", [p.label for p in expected]),
    ):
        assert np.concatenate([b[key] for b in batches]).tolist() == values
    images = np.concatenate([b["image"] for b in batches])
    assert images.shape == (n, 32, 32, 3) and images.dtype == np.float32
    np.testing.assert_array_equal(images[-1], PREPROCESSING.from_jpeg(expected[-1].image))


def test_evaluation_of_one_region_sees_its_photos_only_and_all_of_them(info):
    batches = list(pipeline.evaluation_batches(info, "train", PREPROCESSING, region="EU_SW").as_numpy_iterator())
    regions = np.concatenate([b["region"] for b in batches])
    assert set(regions) == {b"EU_SW"} and 0 < len(regions) == info.count("train", "EU_SW") < 23


def test_evaluation_of_the_first_shards_only(info):
    batches = list(pipeline.evaluation_batches(info, "train", PREPROCESSING, max_shards=1).as_numpy_iterator())
    assert [len(b["label"]) for b in batches] == [5]


def test_evaluation_notices_a_shard_with_other_contents(info, tmp_path, photo):
    # Same name, other number of photos than dataset.json says: neither silently fewer nor more.
    entry = records.write_shard(tmp_path / "v.tfrecord", [records.encode(photo(i)) for i in range(3)])
    for n in (2, 4):
        splits = {"val": {"n": n, "shards": [{**entry, "n": n}]}}
        wrong = records.DatasetInfo(tmp_path, info.classes, info.class_hash, splits)
        with pytest.raises(tf.errors.FailedPreconditionError, match=f"expected to contain {n} elements"):
            list(pipeline.evaluation_batches(wrong, "val", PREPROCESSING))


def test_a_restart_at_epoch_k_sees_what_it_would_have_seen(info):
    whole = train(info, range(4))
    steps = pipeline.steps_per_epoch(info, 5)
    assert steps == 4 and len(whole) == 16
    assert same(whole[2 * steps :], train(info, range(2, 4)))


@pytest.mark.parametrize(
    "done, options",
    [(1, {}), (3, {}), (2, {"region": "EU", "batch_size": 2}), (2, {"repeats": np.float32([0.5, 1.5, 1.0])})],
)
def test_what_was_done_of_the_first_epoch_is_left_out(info, done, options):
    whole = train(info, range(2, 4), **options)
    rest = train(info, range(2, 4), done=done, **options)
    assert len(rest) == len(whole) - done  # of the second epoch nothing is left out
    assert same(whole[done:], rest)


def test_what_was_done_is_left_out_of_companions_too(info, tmp_path):
    companion = store_of(info, tmp_path)
    whole = train(info, range(2), companion=companion)
    assert same(whole[2:], train(info, range(2), companion=companion, done=2))


def test_photos_of_batches_that_were_done_are_not_decoded(info):
    decoded = []

    def view(image_bytes, seed, number):
        seen = tf.numpy_function(lambda data: decoded.append(data) or np.float32(0), [image_bytes], tf.float32)
        return tf.fill((2, 2, 3), seen)

    options = {"batch_size": 5, "seed": 1, "epochs": range(1), "done": 3}
    (batch,) = pipeline.training_batches(info, view, **options).as_numpy_iterator()
    assert len(decoded) == len(batch["label"]) == 5


def test_batches_are_the_same_again_and_other_with_another_seed(info):
    first = train(info)
    assert same(first, train(info))
    other = train(info, seed=2)
    assert [b["label"].tolist() for b in first] != [b["label"].tolist() for b in other]
    assert not np.array_equal(first[0]["seed"], other[0]["seed"])


@pytest.mark.parametrize("global_seed", [0, 1])
def test_the_global_seed_does_not_matter(info, global_seed):
    first = train(info, range(1))
    tf.random.set_seed(global_seed)
    assert same(first, train(info, range(1)))


def test_two_epochs_differ_in_order_and_in_views(info):
    # batch_size 23 takes every photo, so that only order and views can differ.
    first, second = train(info, range(2), batch_size=23)
    assert first["label"].tolist() != second["label"].tolist()
    assert sorted(first["label"]) == sorted(second["label"])
    views = {image.tobytes() for image in first["image"]} & {image.tobytes() for image in second["image"]}
    assert not views


def test_without_augmentation_an_epoch_is_the_clean_photos_once(info):
    (batch,) = train(info, range(1), augmentation="none", batch_size=23)
    (clean,) = pipeline.evaluation_batches(info, "train", PREPROCESSING).as_numpy_iterator()
    assert {i.tobytes() for i in batch["image"]} == {i.tobytes() for i in clean["image"]}


def test_an_epoch_never_repeats_a_photo_and_drops_others_each_time(info):
    seen = [
        {i.tobytes() for b in train(info, range(e, e + 1), augmentation="none") for i in b["image"]} for e in range(6)
    ]
    assert [len(s) for s in seen] == [20] * 6  # 23 photos, full batches of 5
    assert len(set.union(*seen)) == 23


def test_region_filter(info):
    per_region = info.splits["train"]["per_region"]["EU_SW"]
    (batch,) = train(info, range(1), augmentation="none", batch_size=per_region, region="EU_SW")
    clean = {}
    for evaluated in pipeline.evaluation_batches(info, "train", PREPROCESSING).as_numpy_iterator():
        clean |= {i.tobytes(): r for i, r in zip(evaluated["image"], evaluated["region"], strict=True)}
    assert {clean[i.tobytes()] for i in batch["image"]} == {b"EU_SW"}
    assert len(batch["image"]) == per_region == 12


@pytest.mark.parametrize("region, n", [(None, 23), ("EU", 11)])
def test_a_batch_larger_than_the_split_raises(info, region, n):
    with pytest.raises(ValueError, match=f"has {n} photos, batch_size is 24: lower batch_size"):
        train(info, batch_size=24, region=region)


def test_a_region_without_a_photo_is_named_with_those_that_have_some(info):
    with pytest.raises(ValueError, match="split of region nowhere has no photo; there are {'EU': 11, 'EU_SW': 12}"):
        train(info, batch_size=24, region="nowhere")


def store_of(info, folder, views=2, seed=0):
    """Soft labels whose largest logit is the label, one store record beside each photo."""
    layout = soft_labels.Layout("d", "c", num_classes=3, temperature=2.0, top_k=3, views=views)
    shards = []
    for path in info.shards("train"):
        photos = [records.decode(e) for e in records.read_shard(path)]
        block = np.zeros(len(photos), layout.dtype)
        block["sample"] = tf.strings.to_hash_bucket_fast([p.sample_id for p in photos], 2**62).numpy()
        for view in range(views):
            logits = 4.0 * np.eye(3)[[p.label for p in photos]] + view
            logits[:, view] += 0.5  # tells the views apart
            block["views"][:, view] = soft_labels.encode_view(logits, layout, view * 1_000_003 + seed)
        shards.append((path.name, len(photos), iter([block[:2], block[2:]])))
    store.write_store(folder, layout, shards)
    return pipeline.Companion(folder, layout.dtype.itemsize, soft_labels.selector(layout))


def answers(batch):
    layout = soft_labels.Layout("d", "c", num_classes=3, temperature=2.0, top_k=3, views=2)
    return soft_labels.targets(batch["teacher"], layout)["teacher_ids"][:, 0].numpy().tolist()


def test_companion_records_meet_their_photos_after_all_shuffles(info, tmp_path):
    companion = store_of(info, tmp_path)
    batches = train(info, range(3), companion=companion)
    assert len(batches) == 12
    for batch in batches:
        assert set(batch) == {"image", "label", "region", "seed", "teacher"}
        assert answers(batch) == batch["label"].tolist()


def test_companions_with_a_region_filter(info, tmp_path):
    (batch,) = train(info, range(1), companion=store_of(info, tmp_path), region="EU", batch_size=11)
    assert answers(batch) == batch["label"].tolist()


def test_the_student_sees_the_view_that_was_stored(info, tmp_path):
    # Epochs 0, 1, 2 show views 0 (clean), 1, 0 again; view 1 must be the very picture the teacher saw. The record says
    # which that was: the seed of the student's run is another.
    companion, seen = store_of(info, tmp_path, seed=9), []
    for epoch in range(3):
        dataset = pipeline.training_batches(
            info, pipeline.stored_view(PREPROCESSING), batch_size=23, seed=1, epochs=range(epoch, epoch + 1),
            companion=companion,
        )  # fmt: skip
        (batch,) = dataset.as_numpy_iterator()
        seen.append({image.tobytes() for image in batch["image"]})
    for number, epochs in ((0, (0, 2)), (1, (1,))):
        stored = set()
        for path in info.shards("train"):
            for batch in pipeline.stored_view_batches(path, PREPROCESSING, number=number, seed=9).as_numpy_iterator():
                stored |= {image.tobytes() for image in batch["image"]}
        assert len(stored) == 23
        for epoch in epochs:
            assert seen[epoch] == stored
    assert not seen[0] & seen[1]


def test_stored_views_come_in_the_shards_order(info):
    path = info.shards("train")[1]
    (batch,) = pipeline.stored_view_batches(path, PREPROCESSING, number=0, seed=0).as_numpy_iterator()
    expected = [records.decode(e).sample_id for e in records.read_shard(path)]
    np.testing.assert_array_equal(batch["seed"][:, 0], tf.strings.to_hash_bucket_fast(expected, 2**62))


def test_companions_of_other_photos_raise(info, tmp_path):
    companion = store_of(info, tmp_path)
    first, second = (tmp_path / path.name for path in info.shards("train")[:2])
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(tf.errors.InvalidArgumentError, match="out of step"):
        train(info, companion=companion)


def test_how_often_a_class_comes():
    counts = np.array([100, 4, 0, 16])
    assert pipeline.class_repeats(counts, "natural") is None
    # roots 10, 2, 0, 4: 120 photos are 75, 15, 0 and 30 of them
    np.testing.assert_allclose(pipeline.class_repeats(counts, "sqrt"), [0.75, 3.75, 0, 1.875])
    np.testing.assert_allclose(pipeline.class_repeats(counts, "balanced") * counts, [40, 40, 0, 40], rtol=1e-6)


def test_repeats_act_copies_look_different_and_a_restart_sees_the_same(info):
    counts = np.bincount([records.decode(e).label for path in info.shards("train") for e in records.read_shard(path)])
    repeats = np.zeros(len(counts), np.float32)
    repeats[1] = counts.sum() / counts[1]  # nothing but this class
    options = {"batch_size": 5, "seed": 3, "repeats": repeats}
    view = pipeline.training_view("moderate", PREPROCESSING)
    whole = list(pipeline.training_batches(info, view, epochs=range(2), **options).as_numpy_iterator())
    assert len(whole) == 8 and {int(label) for batch in whole for label in batch["label"]} == {1}
    first = np.concatenate([batch["image"] for batch in whole[:4]])
    assert len({image.tobytes() for image in first}) == len(first) > counts[1]
    again = list(pipeline.training_batches(info, view, epochs=range(1, 2), **options).as_numpy_iterator())
    assert same(whole[4:], again)


def test_fractions_of_repeats_come_right_on_average(info):
    repeats = np.full(len(info.classes), 1.0, np.float32)
    repeats[0] = 0.5
    view = pipeline.training_view("none", PREPROCESSING)
    batches = pipeline.training_batches(info, view, batch_size=5, seed=3, epochs=range(30), repeats=repeats)
    labels = np.concatenate([batch["label"] for batch in batches.as_numpy_iterator()])
    counts = np.bincount([records.decode(e).label for path in info.shards("train") for e in records.read_shard(path)])
    expected = counts[0] * 0.5 / (counts.sum() - counts[0] * 0.5)
    assert np.mean(labels == 0) == pytest.approx(expected, abs=0.04)
