"""Requests every waiting URL of a ledger: many hosts at once, each at its own rate, failures again later."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import random
from collections.abc import Awaitable, Callable, Iterator

from keras_pipeline.core.config.phase0 import Export, HostLimits
from keras_pipeline.ingest import fetch
from keras_pipeline.ingest.fetch import Answer
from keras_pipeline.ingest.ledger import Ledger, Task
from keras_pipeline.ingest.pace import limits_of

ACTIVE_HOSTS = 1000  # crawled at once; a slow one must not hold up the others

# Requests one task's URL once.
Ask = Callable[[Task, fetch.Turn], Awaitable[Answer]]
# Receives each task's last answer and the number of tries.
Done = Callable[[Task, Answer, int], Awaitable[None]]


class Host:
    """The rate limit of one host, and the tasks still waiting for it."""

    def __init__(self, limits: HostLimits, settings: Export, given_up: str = "") -> None:
        self.limits, self._settings = limits, settings
        self.tasks: Iterator[Task] = iter(())
        self.slots = asyncio.Semaphore(limits.concurrency)  # open requests, also those redirected from other hosts
        self.given_up = given_up  # the reason; empty unless the host is given up
        self._retries: list[tuple[float, int, int, Task]] = []  # heap of (due, tie-break, tries, task)
        self._turnstile = asyncio.Lock()
        self._next_turn = self._paused_until = self._paid_until = 0.0
        self._failures, self._last_failure = 0, 0.0  # in a row; the time when the last one was counted
        self._has_answered = False
        self._stopped = asyncio.Event()

    async def turn(self) -> None:
        """Wait until this host may receive another request: at its rates, and not during a pause.

        Raises HostGivenUp, also if the host is given up during the wait.
        """
        loop = asyncio.get_running_loop()
        async with self._turnstile:  # one at a time: requests held up by a pause must not come all at once
            while not self.given_up and (wait := self._next_request() - loop.time()) > 0:
                await self._sleep(wait)  # the pause may grow during the wait
            if self.given_up:
                raise fetch.HostGivenUp(self.given_up)
            if self.limits.requests_per_second:
                self._next_turn = loop.time() + 1 / self.limits.requests_per_second

    def _next_request(self) -> float:
        return max(self._next_turn, self._paused_until, self._paid_until)

    def charge(self, received: int) -> None:
        """Let later requests wait until these bytes are within `gigabytes_per_hour`.

        The requests under way go on, so a host sends at most `concurrency` photos before it gets its pause.
        """
        if self.limits.gigabytes_per_hour:
            now, seconds = asyncio.get_running_loop().time(), received * 3600 / (self.limits.gigabytes_per_hour * 1e9)
            self._paid_until = max(self._paid_until, now) + seconds

    async def next_task(self) -> tuple[Task, int] | None:
        """Return (task, tries so far), or None when this worker has nothing left to do."""
        loop = asyncio.get_running_loop()
        while not self.given_up:
            if self._retries and self._retries[0][0] <= loop.time():
                _, _, tries, task = heapq.heappop(self._retries)
                return task, tries
            if (fresh := next(self.tasks, None)) is not None:
                return fresh, 0
            if not self._retries:
                return None
            await self._sleep(self._retries[0][0] - loop.time())
        return None

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but wake up if the host is given up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), max(0.0, seconds))

    def record_success(self) -> None:
        """Reset the failures, because the host sent a photo, a redirect or a 404."""
        self._failures, self._has_answered = 0, True

    def record_answer(self, answer: Answer, tries: int, sent: float) -> float:
        """Slow this host down, or give it up, depending on one of its answers.

        Args:
            tries: of this task's URL, including this one.
            sent: when the request was sent (loop time).

        Returns:
            When to request the same URL again (loop time).
        """
        if self.given_up:
            return math.inf
        self._has_answered |= answer.http_status is not None
        if not answer.host_trouble:
            self._failures = 0
        elif sent >= self._last_failure:  # concurrent failures count as one
            self._failures, self._last_failure = self._failures + 1, asyncio.get_running_loop().time()
        exponent = max(self._failures, tries) - 1
        wait = min(self._settings.backoff_seconds * 2 ** min(exponent, 30), self._settings.max_wait_seconds)
        wait *= random.uniform(0.5, 1.0)  # jitter: requests that failed together must not return together
        if answer.retry_after is not None:
            wait = max(wait, answer.retry_after)
        due = asyncio.get_running_loop().time() + wait
        if answer.host_trouble:
            # A host that never answered is probably dead, and would keep a run waiting for an hour.
            patience = self._settings.host_failures if self._has_answered else self._settings.attempts
            if wait > self._settings.max_wait_seconds:
                self._give_up(f"{answer.reason}: asked us to wait {wait:.0f} s")
            elif self._failures >= patience:
                self._give_up(f"{answer.reason}: {self._failures} times in a row at this host")
            else:
                self._paused_until = max(self._paused_until, due)
        return due

    def _give_up(self, reason: str) -> None:
        self.given_up = reason
        self._stopped.set()

    def retry(self, task: Task, tries: int, due: float) -> None:
        """Put a task back, to be requested again when it is due."""
        heapq.heappush(self._retries, (due, task.rowid, tries, task))


async def crawl(
    ledger: Ledger, settings: Export, *, ask: Ask, done: Done, own_host: str, given_up: dict[str, str]
) -> None:
    """Run until nothing waits: each task is done, or its host is given up until another run.

    Args:
        own_host: our own photo server, which needs no rate limit; "" if there is none.
        given_up: {host: reason} from an earlier crawl of this run; hosts given up now are added.
    """
    unlimited = HostLimits(concurrency=settings.concurrency, requests_per_second=None)
    hosts: dict[str, Host] = {}
    gate, active = asyncio.Semaphore(settings.concurrency), asyncio.Semaphore(ACTIVE_HOSTS)

    def known(name: str) -> Host:
        if name not in hosts:
            limits = unlimited if name == own_host else limits_of(name, settings)
            hosts[name] = Host(limits, settings, given_up.get(name, ""))
        return hosts[name]

    async def work(host: Host) -> None:
        while (upcoming := await host.next_task()) is not None:
            task, tries = upcoming
            visit = _Visit(known, gate)
            try:
                answer = await ask(task, visit.turn)
                last = visit.leave_host() or host  # where redirects led
                last.charge(answer.bytes)
                due = last.record_answer(answer, tries + 1, visit.sent)
                if not answer.may_succeed or tries + 1 >= settings.attempts or last.given_up:
                    await done(task, answer, tries + 1)
                else:
                    host.retry(task, tries + 1, due)
            except fetch.HostGivenUp as given_up_host:
                if host.given_up:  # its waiting tasks wait for another run
                    return
                await done(task, Answer(reason=str(given_up_host), may_succeed=True), tries + 1)
            finally:
                visit.end()

    async def serve(name: str, host: Host) -> None:
        async with active:
            host.tasks = ledger.waiting(name)
            async with asyncio.TaskGroup() as group:
                for _ in range(host.limits.concurrency):
                    group.create_task(work(host))
            if host.given_up:
                ledger.give_up(name, host.given_up)

    try:
        async with asyncio.TaskGroup() as group:
            for name, _ in ledger.hosts():
                group.create_task(serve(name, known(name)))
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    given_up |= {name: host.given_up for name, host in hosts.items() if host.given_up}


class _Visit:
    """The resources of one task: a slot of the host that it requests from, and a place at the gate.

    The gate limits requests and the bodies that wait for `done`. A task that waits for its host has no place there, so
    that a paused host does not block the others.
    """

    def __init__(self, known: Callable[[str], Host], gate: asyncio.Semaphore) -> None:
        self._known, self._gate = known, gate
        self._host: Host | None = None
        self._inside = False
        self.sent = 0.0  # loop time of the last request

    async def turn(self, name: str) -> None:
        """Leave the host that redirected here, and wait for this one's turn. Raises HostGivenUp."""
        if self._host:
            self._host.record_success()
        self.end()
        host = self._known(name)
        await host.slots.acquire()
        self._host = host
        await host.turn()
        await self._gate.acquire()
        self._inside, self.sent = True, asyncio.get_running_loop().time()

    def leave_host(self) -> Host | None:
        """Free the slot of the last host, and return that host."""
        host, self._host = self._host, None
        if host:
            host.slots.release()
        return host

    def end(self) -> None:
        self.leave_host()
        if self._inside:
            self._inside = False
            self._gate.release()


def _first(failure: BaseException) -> BaseException:
    """Return the error that stopped everything, such as a full disk. The task groups cancel the rest."""
    return _first(failure.exceptions[0]) if isinstance(failure, BaseExceptionGroup) else failure
