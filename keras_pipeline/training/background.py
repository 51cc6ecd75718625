"""A thread that writes soft labels while the teacher predicts the next batches."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from keras_pipeline.training.soft_labels import Layout
from keras_pipeline.training.store import finished_shard, write_shard

AHEAD = 4  # batches that may wait to be written


class BackgroundWriter:
    """Writes shards in a thread of its own, one after the other, while the caller computes the next batches.

    A context manager. Leaving it waits for the thread; leaving it with an error abandons the shard begun.
    """

    def __init__(self, folder: Path, layout: Layout, *, made_from: str) -> None:
        self.entries: dict[str, dict] = {}  # of the shards that are finished, for `finish_store`
        self._folder, self._layout, self._made_from = folder, layout, made_from
        self._queue: queue.Queue[Any] = queue.Queue(AHEAD)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="soft-labels")

    def __enter__(self) -> Self:
        self._work = self._pool.submit(self._write)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._pool:
            if not self._work.done() or error is None:
                self._put(_END if error is None else _ABANDON)
        if error is None:
            self._work.result()

    def write(self, name: str, n: int, batches: Iterable[Any], encode: Callable[[Any], np.ndarray]) -> None:
        """Hand over the batches of one shard, unless a killed run has finished it; at most AHEAD wait to be written.

        Args:
            n: number of records that they make.
            batches: consumed by the calling thread.
            encode: a batch -> structured records; called by the writer's thread.

        Raises:
            Exception: what the writer's thread raised, of this shard or of an earlier one.
        """
        finished = finished_shard(self._folder, self._layout, name, self._made_from)
        if finished:
            self.entries[name] = finished
            return
        self._put((name, n, encode))
        for batch in batches:
            self._put(batch)
        self._put(_END)

    def _put(self, item: Any) -> None:
        while not self._work.done():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.5)
                return
        self._work.result()

    def _write(self) -> None:
        while (shard := self._queue.get()) is not _END:
            if shard is _ABANDON:
                return
            name, n, encode = shard
            blocks = map(encode, self._received())
            self.entries[name] = write_shard(self._folder, self._layout, name, n, blocks, made_from=self._made_from)

    def _received(self) -> Iterator[Any]:
        while (batch := self._queue.get()) is not _END:
            if batch is _ABANDON:
                raise RuntimeError("the shard's batches broke off")  # removes the shard begun; nobody sees it
            yield batch


_END, _ABANDON = object(), object()
