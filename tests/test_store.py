"""The store of soft labels: what goes in comes out, and damage is named."""

import dataclasses

import numpy as np
import pytest

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.training.soft_labels import Layout, encode_view
from keras_pipeline.training.store import Store, write_store

FULL = Layout("d", "c", num_classes=5, temperature=2.0, top_k=5, views=2)


def records(n, layout=FULL, seed=0):
    rng = np.random.default_rng(seed)
    block = np.zeros(n, layout.dtype)
    block["sample"] = 1000 + np.arange(n)
    for view in range(layout.views):
        block["views"][:, view] = encode_view(2 * rng.normal(size=(n, layout.num_classes)), layout, seed=7 + view)
    return block


def write(folder, *blocks, layout=FULL, **options):
    shards = [(f"train-{i}.tfrecord", len(block), iter([block])) for i, block in enumerate(blocks)]
    write_store(folder, layout, shards, **options)
    return Store(folder)


def test_store_round_trip(tmp_path):
    first, second = records(3), records(4, seed=1)
    store = write(tmp_path / "store", first, second)
    np.testing.assert_array_equal(store.read(store.shards[0]), first)
    np.testing.assert_array_equal(store.read(store.shards[1]), second)
    assert store.layout == FULL


def test_announced_and_written_numbers_must_agree(tmp_path):
    with pytest.raises(ValueError, match="received 3 records, expected 4"):
        write_store(tmp_path, FULL, [("train-0.tfrecord", 4, iter([records(3)]))])
    assert not list(tmp_path.glob("*.tfrecord"))


def test_a_killed_writer_goes_on_with_the_next_shard(tmp_path):
    asked = []

    def blocks(number, fail=False):
        asked.append(number)
        if fail:
            raise KeyboardInterrupt
        yield records(3, seed=number)

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path, FULL, [("a.tfrecord", 3, blocks(0)), ("b.tfrecord", 3, blocks(1, fail=True))])
    with pytest.raises(BrokenArtefact, match="index.json: missing"):
        Store(tmp_path)
    write_store(tmp_path, FULL, [("a.tfrecord", 3, blocks(2)), ("b.tfrecord", 3, blocks(1))])
    assert asked == [0, 1, 1]  # shard a was not computed again
    assert {p.name for p in tmp_path.iterdir()} == {"a.tfrecord", "b.tfrecord", "index.json"}


@pytest.mark.parametrize(
    "layout, made_from",
    [(dataclasses.replace(FULL, temperature=3.0), "teacher 1"), (FULL, "teacher 2")],
)
def test_shards_of_another_teacher_or_layout_are_not_kept(tmp_path, layout, made_from):
    def interrupted():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        shards = [("a.tfrecord", 3, iter([records(3)])), ("b.tfrecord", 3, interrupted())]
        write_store(tmp_path, FULL, shards, made_from="teacher 1")
    fresh = records(3, layout, seed=5)
    shards = [("a.tfrecord", 3, iter([fresh])), ("b.tfrecord", 3, iter([fresh]))]
    write_store(tmp_path, layout, shards, made_from=made_from)
    store = Store(tmp_path)
    np.testing.assert_array_equal(store.read(store.shards[0]), fresh)


def test_shards_of_an_older_split_do_not_stay_behind(tmp_path):
    write(tmp_path, records(3), records(3))
    write(tmp_path, records(6))
    assert {p.name for p in tmp_path.iterdir()} == {"train-0.tfrecord", "index.json"}


def test_truncated_shard_is_named(tmp_path):
    store = write(tmp_path, records(3))
    file = tmp_path / store.shards[0]["name"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BrokenArtefact, match="train-0.tfrecord: received .* bytes, expected"):
        Store(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"layout": {"views": 1}, "shards": []}'])
def test_an_index_that_is_none_is_named(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(BrokenArtefact, match="index.json: not an index of soft labels .* run again with --force"):
        Store(tmp_path)


def test_flipped_byte_is_named(tmp_path):
    store = write(tmp_path, records(3))
    file = tmp_path / store.shards[0]["name"]
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BrokenArtefact, match="train-0.tfrecord: its sha256"):
        store.check_contents()
    with pytest.raises(BrokenArtefact, match="train-0.tfrecord: corrupt shard at byte 0; run again with --force"):
        store.read(store.shards[0])


def test_a_store_of_other_settings_is_refused(tmp_path):
    store = write(tmp_path, records(3))
    with pytest.raises(BrokenArtefact, match=": made with temperature 2.0, expected 3.0; run again with --force"):
        store.check_layout(dataclasses.replace(FULL, temperature=3.0))
