"""Asks for all that waits in a ledger: many hosts at once, each at its own pace, failures again later."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Iterator

from keras_pipeline.core.config import Export, HostLimits
from keras_pipeline.ingest import fetch
from keras_pipeline.ingest.fetch import Answer
from keras_pipeline.ingest.ledger import Ledger, Task

ACTIVE_HOSTS = 1000  # worked on at once; a slow one must not keep the others waiting

# Asks once for one task's URL.
Ask = Callable[[Task, fetch.Turn], Awaitable[Answer]]
# Told each task's last answer and the number of tries.
Done = Callable[[Task, Answer, int], Awaitable[None]]


class Host:
    """The pace of one host, and what is still to be asked of it."""

    def __init__(self, name: str, limits: HostLimits, settings: Export) -> None:
        self.name, self.limits, self._settings = name, limits, settings
        self.tasks: Iterator[Task] = iter(())
        self._retries: list[tuple[float, int, int, Task]] = []  # heap of (due, tie-break, tries, task)
        self._next_turn = 0.0
        self._rest_until = 0.0
        self._failures = 0  # in a row
        self.given_up = ""  # why, once it is

    async def turn(self) -> None:
        """Returns when this host may be asked once more: at its rate, and not while it asked to be left alone."""
        loop = asyncio.get_running_loop()
        pause = 1 / self.limits.requests_per_second if self.limits.requests_per_second else 0.0
        at = max(loop.time(), self._next_turn, self._rest_until)
        self._next_turn = at + pause
        while (wait := max(at, self._rest_until) - loop.time()) > 0:  # it may ask for peace while we wait
            await asyncio.sleep(wait)

    async def next_task(self) -> tuple[Task, int] | None:
        """(task, tries so far), or None when nothing is left for this worker."""
        loop = asyncio.get_running_loop()
        while not self.given_up:
            if self._retries and self._retries[0][0] <= loop.time():
                _, _, tries, task = heapq.heappop(self._retries)
                return task, tries
            if (task := next(self.tasks, None)) is not None:
                return task, 0
            if not self._retries:
                return None
            await asyncio.sleep(max(0.0, self._retries[0][0] - loop.time()))
        return None

    def judge(self, task: Task, answer: Answer, tries: int) -> bool:
        """Whether the task is settled; otherwise it comes again later. Slows the host down, or gives it up."""
        self._failures = self._failures + 1 if answer.host_trouble else 0
        exponent = max(self._failures, tries) - 1
        wait = min(self._settings.backoff_seconds * 2 ** min(exponent, 30), self._settings.max_wait_seconds)
        wait *= random.uniform(0.5, 1.0)  # jitter: many that failed together must not come back together
        if answer.retry_after is not None:
            wait = max(wait, answer.retry_after)
        due = asyncio.get_running_loop().time() + wait
        if answer.host_trouble:
            self._rest_until = max(self._rest_until, due)
            if wait > self._settings.max_wait_seconds:
                self.given_up = f"{answer.reason}: asked for {wait:.0f} s of peace"
            elif self._failures >= self._settings.host_failures:
                self.given_up = f"{answer.reason}: {self._failures} times in a row at this host"
        if not answer.may_succeed or tries >= self._settings.attempts or self.given_up:
            return True
        heapq.heappush(self._retries, (due, task.rowid, tries, task))
        return False


async def crawl(ledger: Ledger, settings: Export, *, ask: Ask, done: Done, own_host: str = "") -> None:
    """Returns when nothing waits any more: each task was done, or its host was given up until another run.

    Args:
        own_host: our own photo server, which needs no mercy.
    """
    hosts: dict[str, Host] = {}
    gate, active = asyncio.Semaphore(settings.concurrency), asyncio.Semaphore(ACTIVE_HOSTS)

    def known(name: str) -> Host:
        if name not in hosts:
            free = HostLimits(concurrency=settings.concurrency, requests_per_second=None)
            limits = free if name == own_host else settings.hosts.get(name, settings.each_host)
            hosts[name] = Host(name, limits, settings)
        return hosts[name]

    async def turn(name: str) -> None:
        await known(name).turn()

    async def work(host: Host) -> None:
        while (upcoming := await host.next_task()) is not None:
            task, tries = upcoming
            await host.turn()  # before the gate: who waits for one host must not keep others out
            async with gate:
                answer = await ask(task, turn)
                if host.judge(task, answer, tries + 1):
                    await done(task, answer, tries + 1)

    async def serve(host: Host) -> None:
        async with active:
            host.tasks = ledger.waiting(host.name)
            async with asyncio.TaskGroup() as group:
                for _ in range(host.limits.concurrency):
                    group.create_task(work(host))
            if host.given_up:
                ledger.give_up(host.name, host.given_up)

    try:
        async with asyncio.TaskGroup() as group:
            for name, _ in ledger.hosts():
                group.create_task(serve(known(name)))
    except BaseExceptionGroup as failures:
        raise _first(failures) from None


def _first(failure: BaseException) -> BaseException:
    """What stopped everything: a full disk, say. The task groups cancel the rest."""
    return _first(failure.exceptions[0]) if isinstance(failure, BaseExceptionGroup) else failure
