"""The store of soft labels: what goes in comes out, and damage is named."""

import dataclasses
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.training.background import AHEAD, BackgroundWriter
from keras_pipeline.training.soft_labels import Layout, encode_view
from keras_pipeline.training.store import Store, begin_store, finish_store, write_store

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


def one(number):
    """A batch as it is handed over, and one record as it is written."""
    return records(1, seed=number)


def test_a_background_writer_writes_what_write_store_does(tmp_path):
    shards = {"a.tfrecord": range(3), "b.tfrecord": range(3, 30), "c.tfrecord": range(30, 31)}
    begin_store(tmp_path / "thread")
    with BackgroundWriter(tmp_path / "thread", FULL, made_from="teacher") as writer:
        for name, numbers in shards.items():
            writer.write(name, len(numbers), numbers, one)
    finish_store(tmp_path / "thread", FULL, [writer.entries[name] for name in shards])
    write_store(tmp_path / "plain", FULL, [(name, len(each), map(one, each)) for name, each in shards.items()])
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert names == ["a.tfrecord", "b.tfrecord", "c.tfrecord", "index.json"]
    assert sorted(path.name for path in (tmp_path / "thread").iterdir()) == names
    for name in names:
        assert (tmp_path / "thread" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_batches_are_computed_while_others_are_written_but_only_a_few_ahead(tmp_path):
    computed, gate = [], threading.Event()

    def batches():
        for number in range(20):
            computed.append(number)
            yield number

    def slow(number):
        assert gate.wait(20)
        return one(number)

    with BackgroundWriter(tmp_path, FULL, made_from="") as writer:
        work = threading.Thread(target=writer.write, args=("a.tfrecord", 20, batches(), slow))
        work.start()
        deadline = time.monotonic() + 20
        while len(computed) < AHEAD + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        # AHEAD wait in the queue, one is being encoded, and one is ready to be handed over
        assert len(computed) == AHEAD + 2
        gate.set()
        work.join(20)
    assert writer.entries["a.tfrecord"]["n"] == 20


@pytest.mark.parametrize("fails_at", [0, 3, 19])
def test_an_error_of_the_writing_thread_ends_the_run_with_that_error(tmp_path, fails_at):
    def broken(number):
        if number == fails_at:
            raise OSError(28, "No space left on device")
        return one(number)

    def write():
        with BackgroundWriter(tmp_path, FULL, made_from="") as writer:
            writer.write("a.tfrecord", 1, [100], one)
            for start in (0, 10):
                writer.write(f"{start}.tfrecord", 10, range(start, start + 10), broken)

    with pytest.raises(OSError, match="No space left on device"):
        write()
    finished = {"a.tfrecord"} | ({"0.tfrecord"} if fails_at == 19 else set())
    assert {path.name for path in tmp_path.iterdir()} == finished | {f"{name}.finished.json" for name in finished}


def test_an_error_between_the_batches_abandons_the_shard_begun(tmp_path):
    def interrupted():
        yield from range(3)
        raise KeyboardInterrupt

    def write():
        with BackgroundWriter(tmp_path, FULL, made_from="") as writer:
            writer.write("a.tfrecord", 3, range(3), one)
            writer.write("b.tfrecord", 9, interrupted(), one)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert {path.name for path in tmp_path.iterdir()} == {"a.tfrecord", "a.tfrecord.finished.json"}
    with BackgroundWriter(tmp_path, FULL, made_from="") as writer:
        writer.write("a.tfrecord", 3, interrupted(), one)  # finished: nothing is computed again
    assert list(writer.entries) == ["a.tfrecord"]


def test_a_background_writer_notices_a_wrong_number_of_records(tmp_path):
    def write():
        with BackgroundWriter(tmp_path, FULL, made_from="") as writer:
            writer.write("a.tfrecord", 4, range(3), one)

    with pytest.raises(ValueError, match="received 3 records, expected 4"):
        write()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from test_store import FULL, BackgroundWriter, one
def encode(number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return one(number)
with BackgroundWriter(Path(sys.argv[1]), FULL, made_from="teacher") as writer:
    for start in (0, 5, 10):
        writer.write(f"{start}.tfrecord", 5, range(start, start + 5), encode)
"""


def test_kill_9_leaves_whole_shards_and_the_next_run_goes_on(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], stderr=subprocess.PIPE, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    whole = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert whole == {"0.tfrecord", "0.tfrecord.finished.json"}
    written = []
    names = ["0.tfrecord", "5.tfrecord", "10.tfrecord"]

    def encode(number):
        written.append(number)
        return one(number)

    begin_store(tmp_path)
    with BackgroundWriter(tmp_path, FULL, made_from="teacher") as writer:
        for start, name in zip((0, 5, 10), names, strict=True):
            writer.write(name, 5, range(start, start + 5), encode)
    finish_store(tmp_path, FULL, [writer.entries[name] for name in names])
    assert written == list(range(5, 15))  # the whole shard was not written again
    store = Store(tmp_path)
    received = np.concatenate([store.read(shard) for shard in store.shards])
    np.testing.assert_array_equal(received, np.concatenate([one(number) for number in range(15)]))
