"""Shards: round trip, and every kind of damage named instead of read."""

import dataclasses
import json
import tarfile
from pathlib import Path

import pytest
import tensorflow as tf

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.data import assignment, pipeline, records, tfrecord


def shard_of(path, photos):
    return records.write_shard(path, map(records.encode, photos))


def test_round_trip_and_parse_agree(photo):
    one = photo(4, label=2, group_id="observation:7")
    assert records.decode(records.encode(one)) == one
    parsed = tf.function(pipeline.parse)(tf.constant(records.encode(one)))
    assert set(dataclasses.asdict(one)) - set(parsed) == {"rule"}
    for field in parsed:
        value = getattr(one, field)
        expected = value.encode() if isinstance(value, str) else value
        assert parsed[field].numpy() == expected, field


def test_records_of_rule_1_have_no_rule_and_are_trained_on(photo):
    old, new = photo(4, rule=1), photo(4)
    assert b"image/rule" not in records.encode(old) and b"image/rule" in records.encode(new)
    assert records.decode(records.encode(old)) == old != new == records.decode(records.encode(new))
    assert pipeline.parse(tf.constant(records.encode(old)))["label"] == old.label


def test_equal_photos_give_equal_bytes(photo):
    assert {records.encode(photo(4)) for _ in range(20)} == {records.encode(photo(4))}
    assert records.encode(photo(4)) != records.encode(photo(4, label=0))


@pytest.mark.parametrize("data", [b"", b"\x00\xffnot a protobuf", tf.train.Example().SerializeToString()])
def test_bytes_that_are_no_record_raise(data):
    with pytest.raises(BrokenArtefact, match="are not a photo record"):
        records.decode(data)


def test_a_missing_feature_is_no_silent_default(photo):
    example = tf.train.Example.FromString(records.encode(photo(1)))
    del example.features.feature["region"]
    with pytest.raises(BrokenArtefact):
        records.decode(example.SerializeToString())
    with pytest.raises(tf.errors.InvalidArgumentError, match="region"):
        pipeline.parse(tf.constant(example.SerializeToString()))


def test_shard_entry_tells_the_file(tmp_path, photo):
    entry = shard_of(tmp_path / "a.tfrecord", [photo(i) for i in range(3)])
    data = (tmp_path / "a.tfrecord").read_bytes()
    assert (entry["name"], entry["n"], entry["bytes"]) == ("a.tfrecord", 3, len(data))
    assert [records.decode(e).sample_id for e in records.read_shard(tmp_path / "a.tfrecord")] == [
        "sample-000", "sample-001", "sample-002",
    ]  # fmt: skip
    assert entry == shard_of(tmp_path / "a.tfrecord", [photo(i) for i in range(3)])  # byte for byte again


def test_a_failing_source_keeps_the_old_shard(tmp_path, photo):
    shard_of(tmp_path / "a.tfrecord", [photo(1)])
    before = (tmp_path / "a.tfrecord").read_bytes()

    def broken():
        yield records.encode(photo(2))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        records.write_shard(tmp_path / "a.tfrecord", broken())
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
    with pytest.raises(BrokenArtefact, match="photos-00007.tfrecord: (corrupt|missing) shard.*export"):
        list(records.read_shard(path))


def test_index_points_at_the_records(tmp_path, photo):
    photos = [photo(i) for i in range(5)]
    shard_of(tmp_path / "a.tfrecord", photos)
    index = records.index_shard(tmp_path / "a.tfrecord", lambda photo: {"area": photo.height * photo.width})
    assert index.sample_id.tolist() == [f"sample-{i:03d}" for i in range(5)]
    assert index.area.tolist() == [36 * 40] * 5
    data = (tmp_path / "a.tfrecord").read_bytes()
    for row, expected in zip(index.itertuples(), photos, strict=True):
        assert records.decode(data[row.offset : row.offset + row.length]) == expected


def test_records_are_those_of_tensorflow(tmp_path, photo):
    examples = [records.encode(photo(i)) for i in range(4)] + [b""]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for example in examples:
            writer.write(example)
    ours = tfrecord.Writer(tmp_path / "ours")
    for example in examples:
        ours.add(example)
    ours.close()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert [data for _, data in tfrecord.read_records(tmp_path / "theirs")] == examples
    assert tf.train.Example.FromString(examples[0]).SerializeToString(deterministic=True) == examples[0]


def test_crc_literal():
    # CRC-32C of 32 zero bytes is 0x8A9136AA (RFC 3720, B.4); rotated right by 15 bits, plus 0xA282EAD8.
    assert tfrecord.masked_crc(bytes(32)) == (((0x8A9136AA >> 15) | (0x8A9136AA << 17)) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("cut", [1, 11, 12, 15])
def test_a_cut_anywhere_is_found(tmp_path, photo, cut):
    path = tmp_path / "a.tfrecord"
    shard_of(path, [photo(1), photo(2)])
    first = len(records.encode(photo(1))) + tfrecord.OVERHEAD
    path.write_bytes(path.read_bytes()[: first + cut])
    with pytest.raises(BrokenArtefact, match=f"corrupt shard at byte {first}"):
        list(records.read_shard(path))


def test_an_unfinished_shard_leaves_nothing(tmp_path, photo):
    shard = records.ShardWriter(tmp_path / "a.tfrecord")
    shard.add(records.encode(photo(1)))
    shard.abandon()
    assert list(tmp_path.iterdir()) == []


def test_shards_of_a_split_are_near_their_size_and_kept_when_they_are_there(tmp_path, photo):
    raw = tmp_path / "raw.tfrecord"
    shard_of(raw, [photo(i) for i in range(20)])
    table = records.index_shard(raw, lambda photo: {name: getattr(photo, name) for name in records.DECIDED})
    mean = table["length"].mean()
    entry = records.write_split(tmp_path, "val", table, shard_bytes=7 * mean)
    assert [shard["n"] for shard in entry["shards"]] == [6, 7, 7]
    first = tmp_path / entry["shards"][0]["name"]
    written = first.stat().st_mtime_ns
    assert records.write_split(tmp_path, "val", table, shard_bytes=7 * mean) == entry
    assert first.stat().st_mtime_ns == written
    assert records.write_split(tmp_path, "test", table.iloc[:0], shard_bytes=1)["n"] == 0


@pytest.fixture
def published(tmp_path, photo):
    """(folder with a dataset of two train shards, a folder beside it with the next one of three), not yet published."""
    for name, n in (("old", 2), ("new", 3)):
        (tmp_path / name / "index").mkdir(parents=True)
        names = [f"train-{i:05d}-of-{n:05d}.tfrecord" for i in range(n)]
        shards = [shard_of(tmp_path / name / file, [photo(i)]) for i, file in enumerate(names)]
        (tmp_path / name / "index" / name).touch()
        info = {"splits": {"train": {"shards": shards}}, "left_out": {"shards": []}, "made": name}
        (tmp_path / name / "dataset.json").write_text(json.dumps(info))
    return tmp_path / "old", tmp_path / "new"


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_publishing_replaces_the_dataset_whole(published):
    folder, made = published
    expected = contents(made)
    records.publish(folder, made)
    assert contents(folder) == expected and not made.exists()
    records.finish_publishing(folder)  # nothing left to do
    assert contents(folder) == expected


@pytest.mark.parametrize("moves", range(6))
def test_publishing_killed_after_any_move_is_finished_later(published, moves, monkeypatch):
    folder, made = published
    expected, done = contents(made), []
    replace = Path.replace

    def dying(self, target):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    try:
        records.publish(folder, made)
    except KeyboardInterrupt:
        assert not (folder / "dataset.json").exists()  # nobody takes half of it for a dataset
    monkeypatch.undo()
    records.finish_publishing(folder)
    assert contents(folder) == expected


def test_split_shards_carry_label_and_group_and_count_them(info):
    entry = info.splits["train"]
    names = [shard["name"] for shard in entry["shards"]]
    assert names == [f"train-{i:05d}-of-00004.tfrecord" for i in range(4)]
    assert [shard["n"] for shard in entry["shards"]] == [5, 6, 6, 6]
    photos = [records.decode(e) for path in info.shards("train") for e in records.read_shard(path)]
    assert [p.label for p in photos] == [i % 3 for i in range(23)]
    assert photos[22].group_id == "group-022"
    assert entry["per_region"] == {"EU": 11, "EU_SW": 12}
    assert entry["per_class"] == {"Bellis perennis": 8, "Crocus vernus": 8, "Iris germanica": 7}
    assert (info.count("train"), info.count("train", "EU"), info.count("train", "nowhere")) == (23, 11, 0)


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
    with pytest.raises(BrokenArtefact, match="received no file, expected"):
        records.load_info(copy)


def test_load_info_refuses_a_reordered_class_list(copy):
    value = json.loads(copy.read_text())
    value["classes"] = value["classes"][::-1]
    copy.write_text(json.dumps(value))
    with pytest.raises(BrokenArtefact, match="class list does not match its hash"):
        records.load_info(copy)


@pytest.mark.parametrize("text, message", [("{", "not JSON"), ("{}", "KeyError.'classes'"), ("[]", "TypeError")])
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


def test_rows_are_counted_over_the_shards_of_a_split(info):
    found = records.at(info, "train", iter([22, 0, 7]))
    photos = [records.decode(e) for path in info.shards("train") for e in records.read_shard(path)]
    assert found == {row: photos[row] for row in (0, 7, 22)}
    assert records.at(info, "train", [1, len(photos)]) == {1: photos[1]}  # what is not there is left out
    assert records.at(info, "train", []) == {}


def test_only_the_shards_of_the_rows_are_read_and_no_further_than_they_must(copy):
    shard = copy.with_name("train-00002-of-00004.tfrecord")  # photos 11 … 16
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    info = records.load_info(copy)
    shard.write_bytes(data)
    assert set(records.at(info, "train", {0, 10, 11, 22})) == {0, 10, 11, 22}
    with pytest.raises(BrokenArtefact, match="train-00002-of-00004.tfrecord: corrupt shard"):
        records.at(info, "train", {16})


def test_the_first_train_photo_of_a_species_is_where_the_split_has_put_it(tmp_path):
    archive = Path(__file__).with_name("old_project") / "demo.tar.xz"
    with tarfile.open(archive) as project:
        project.extractall(tmp_path, filter="data")
    info = records.load_info(tmp_path / "tfrecords/demo/dataset.json")
    names = [
        records.decode(example).latin_name for path in info.shards("train") for example in records.read_shard(path)
    ]
    rows = assignment.first_train_rows(tmp_path / "tfrecords/demo/assignment.parquet", info.classes)
    assert rows == {name: names.index(name) for name in info.classes}
    assert assignment.first_train_rows(tmp_path / "tfrecords/demo/assignment.parquet", ["Viola"]) == {}


def test_check_labels_names_the_first_shard_of_another_class_list(info, tmp_path, photo):
    records.check_labels(info)
    good, bad, none = (
        shard_of(tmp_path / f"{name}.tfrecord", [photo(1, latin_name="Crocus vernus", label=label)])
        for name, label in (("good", 1), ("bad", 0), ("none", 3))
    )
    for shard, listed in ((bad, "Bellis perennis"), (none, "no such label")):
        wrong = records.DatasetInfo(tmp_path, info.classes, "", {"val": {"shards": [good, shard]}})
        told = f"{shard['name']}: shard of another class list: Crocus vernus has label . there, .* is {listed}; remove"
        with pytest.raises(BrokenArtefact, match=told):
            records.check_labels(wrong)
