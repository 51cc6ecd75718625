"""Shards: round trip, and every kind of damage named instead of read."""

import dataclasses
import json

import pytest
import tensorflow as tf

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.data import records


def shard_of(path, photos):
    return records.write_shard(path, map(records.encode, photos), len(photos))


def test_round_trip_and_parse_agree(photo):
    one = photo(4, label=2, group_id="observation:7")
    assert records.decode(records.encode(one)) == one
    parsed = tf.function(records.parse)(tf.constant(records.encode(one)))
    for field, value in dataclasses.asdict(one).items():
        expected = value.encode() if isinstance(value, str) else value
        assert parsed[field].numpy() == expected, field


def test_equal_photos_give_equal_bytes(photo):
    assert {records.encode(photo(4)) for _ in range(20)} == {records.encode(photo(4))}
    assert records.encode(photo(4)) != records.encode(photo(4, label=0))


@pytest.mark.parametrize("data", [b"", b"\x00\xffnot a protobuf", tf.train.Example().SerializeToString()])
def test_bytes_that_are_no_record_raise(data):
    with pytest.raises(BrokenArtefact, match="are no photo record"):
        records.decode(data)


def test_a_missing_feature_is_no_silent_default(photo):
    example = tf.train.Example.FromString(records.encode(photo(1)))
    del example.features.feature["region"]
    with pytest.raises(BrokenArtefact):
        records.decode(example.SerializeToString())
    with pytest.raises(tf.errors.InvalidArgumentError, match="region"):
        records.parse(tf.constant(example.SerializeToString()))


def test_shard_entry_tells_the_file(tmp_path, photo):
    entry = shard_of(tmp_path / "a.tfrecord", [photo(i) for i in range(3)])
    data = (tmp_path / "a.tfrecord").read_bytes()
    assert (entry["name"], entry["n"], entry["bytes"]) == ("a.tfrecord", 3, len(data))
    assert [records.decode(e).sample_id for e in records.read_shard(tmp_path / "a.tfrecord")] == [
        "sample-000", "sample-001", "sample-002",
    ]  # fmt: skip
    assert entry == shard_of(tmp_path / "a.tfrecord", [photo(i) for i in range(3)])  # byte for byte again


@pytest.mark.parametrize("announced", [1, 3])
def test_a_wrong_count_leaves_no_file(tmp_path, photo, announced):
    with pytest.raises(ValueError, match=f"announced {announced} photos, wrote 2"):
        records.write_shard(tmp_path / "a.tfrecord", [records.encode(photo(i)) for i in range(2)], announced)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_keeps_the_old_shard(tmp_path, photo):
    shard_of(tmp_path / "a.tfrecord", [photo(1)])
    before = (tmp_path / "a.tfrecord").read_bytes()

    def broken():
        yield records.encode(photo(2))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        records.write_shard(tmp_path / "a.tfrecord", broken(), 2)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.tfrecord", before)]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_shard_is_named(tmp_path, photo, damage):
    path = tmp_path / "photos-00007.tfrecord"
    shard_of(path, [photo(i) for i in range(3)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-9] if damage == "truncated" else data)
    with pytest.raises(BrokenArtefact, match="photos-00007.tfrecord: corrupt or missing.*export"):
        list(records.read_shard(path))


def test_index_points_at_the_records(tmp_path, photo):
    photos = [photo(i, group_id=f"o{i}") for i in range(5)]
    shard_of(tmp_path / "a.tfrecord", photos[:3])
    shard_of(tmp_path / "b.tfrecord", photos[3:])
    places = records.index_shards([tmp_path / "a.tfrecord", tmp_path / "b.tfrecord"])
    assert [p.sample_id for p in places] == [f"sample-{i:03d}" for i in range(5)]
    for place, expected in zip(places, photos, strict=True):
        data = place.shard.read_bytes()[place.offset : place.offset + place.length]
        assert records.decode(data) == expected
        assert (place.group_id, place.sha256, place.latin_name) == (
            expected.group_id, expected.sha256, expected.latin_name,
        )  # fmt: skip


def test_a_sample_in_two_raw_records_raises(tmp_path, photo):
    shard_of(tmp_path / "a.tfrecord", [photo(1)])
    shard_of(tmp_path / "b.tfrecord", [photo(2), photo(1)])
    with pytest.raises(BrokenArtefact, match="b.tfrecord: sample sample-001 is in two raw records"):
        records.index_shards([tmp_path / "a.tfrecord", tmp_path / "b.tfrecord"])


def test_split_shards_carry_label_and_group_and_count_them(info):
    entry = info.splits["train"]
    names = [shard["name"] for shard in entry["shards"]]
    assert names == [f"train-{i:05d}-of-00004.tfrecord" for i in range(4)]
    assert [shard["n"] for shard in entry["shards"]] == [6, 6, 6, 5]
    photos = [records.decode(e) for path in info.shards("train") for e in records.read_shard(path)]
    assert [p.label for p in photos] == [i % 3 for i in range(23)]
    assert photos[22].group_id == "group-022"
    assert entry["per_region"] == {"EU": 11, "EU_SW": 12}
    assert entry["per_class"] == {"Bellis perennis": 8, "Crocus vernus": 8, "Iris germanica": 7}
    assert (info.count("train"), info.count("train", "EU"), info.count("train", "nowhere")) == (23, 11, 0)


def test_identities_read_the_finished_shards(info):
    rows = list(records.identities(info.folder, info.splits))
    assert len(rows) == 46
    assert rows[23] == ("val", "sample-023", "group-023", f"{23:064d}")


@pytest.fixture
def copy(dataset_json, tmp_path):
    """dataset.json and its shards in a folder that may be damaged."""
    for file in dataset_json.parent.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / "dataset.json"


def test_load_info_names_a_shard_of_another_length(copy):
    shard = copy.with_name("val-00000-of-00002.tfrecord")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(BrokenArtefact, match="val-00000-of-00002.tfrecord: received .* bytes, expected"):
        records.load_info(copy)
    shard.unlink()
    with pytest.raises(BrokenArtefact, match="received None bytes"):
        records.load_info(copy)


def test_load_info_refuses_a_reordered_class_list(copy):
    value = json.loads(copy.read_text())
    value["classes"] = value["classes"][::-1]
    copy.write_text(json.dumps(value))
    with pytest.raises(BrokenArtefact, match="class list does not match its hash"):
        records.load_info(copy)


@pytest.mark.parametrize("text, message", [("{", "not JSON"), ("{}", "'classes' is missing"), ("[]", "is missing")])
def test_load_info_refuses_what_is_no_dataset(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(BrokenArtefact, match=message):
        records.load_info(tmp_path / "dataset.json")


def test_load_info_without_a_file_says_what_to_do(tmp_path):
    with pytest.raises(BrokenArtefact, match="missing; the step that writes it has not run"):
        records.load_info(tmp_path / "dataset.json")


def test_corrupt_shards_finds_a_flipped_byte(copy):
    shard = copy.with_name("test-00001-of-00002.tfrecord")
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    info = records.load_info(copy)
    assert records.corrupt_shards(info) == []
    shard.write_bytes(data)
    assert records.corrupt_shards(info) == [shard]
