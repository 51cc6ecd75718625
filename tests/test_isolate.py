"""Work on hostile bytes in processes of its own."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from keras_pipeline.ingest import isolate
from keras_pipeline.ingest.isolate import Isolated


def work(data):
    if data == b"refused":
        raise ValueError("not a photo")
    if data == b"crash":
        os.kill(os.getpid(), 11)
    if data == b"slow":
        threading.Event().wait()
    return os.getpid(), data[::-1]


def test_results_and_refusals_come_back_and_a_crash_takes_nobody_along():
    with Isolated(work) as call:
        first, reversed_ = call(b"abc")
        assert first != os.getpid() and reversed_ == b"cba"
        with pytest.raises(ValueError, match="^not a photo$"):
            call(b"refused")
        assert call(b"abc")[0] == first
        with pytest.raises(ValueError, match="the decoder crashed"):
            call(b"crash")
        assert call(b"x" * 3_000_000)[1] == b"x" * 3_000_000
        assert call(b"abc")[0] != first


def test_a_call_that_never_ends_is_ended(monkeypatch):
    with Isolated(work) as call:
        call(b"abc")
        monkeypatch.setattr(isolate, "PATIENCE", 0.2)
        with pytest.raises(ValueError, match="took more than a minute"):
            call(b"slow")


def test_each_thread_has_a_process_and_all_end_with_the_context():
    barrier = threading.Barrier(2)

    def both(call):
        barrier.wait()
        return call(b"abc")[0]

    with Isolated(work) as call, ThreadPoolExecutor(2) as pool:
        children = set(pool.map(both, [call, call]))
        assert len(children) == 2
    assert not any(psutil.pid_exists(child) for child in children)
