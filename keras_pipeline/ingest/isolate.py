"""A function in processes of its own: what it does with hostile bytes can neither stop nor slow down its caller."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

PATIENCE = 60.0  # seconds a call may take


class Isolated:
    """Calls `function(bytes)` in a child process, one for each thread that calls; use as a context.

    Threads would share one interpreter lock with the downloads, and a decoder that crashes would take them all along.

    Args:
        function: picklable; ValueErrors are raised again in the caller, which is also how a crash is told.
    """

    def __init__(self, function: Callable[[bytes], object]) -> None:
        self._function, self._thread = function, threading.local()
        self._children: list[_Child] = []

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_) -> None:
        for child in self._children:
            child.stop()

    def __call__(self, data: bytes) -> object:
        child = getattr(self._thread, "child", None)
        if child is None:
            child = self._thread.child = _Child(self._function)
            self._children.append(child)
        try:
            succeeded, value = child.ask(data)
        except (EOFError, OSError) as error:
            self._thread.child = None
            child.stop()
            raise ValueError("the decoder crashed, or took more than a minute") from error
        if not succeeded:
            raise ValueError(value)
        return value


class _Child:
    def __init__(self, function: Callable[[bytes], object]) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        # Spawned: a fork would copy locks that other threads hold at this moment.
        self._process = multiprocessing.get_context("spawn").Process(
            target=_answer, args=(function, theirs), daemon=True
        )
        self._process.start()
        theirs.close()  # So that we see the end of the child, as it sees ours.

    def ask(self, data: bytes) -> tuple[bool, object]:
        self._ours.send_bytes(data)
        if not self._ours.poll(PATIENCE):
            raise TimeoutError
        return self._ours.recv()

    def stop(self) -> None:
        self._ours.close()
        self._process.kill()
        self._process.join()


def _answer(function: Callable[[bytes], object], connection: Connection) -> None:
    # Ends with the other side of the connection, whatever ended that.
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            data = connection.recv_bytes()
            try:
                answer = (True, function(data))
            except ValueError as error:
                answer = (False, str(error))
            connection.send(answer)
