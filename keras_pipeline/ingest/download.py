"""Downloads photos straight into raw shards. The ledger records every URL, and a killed run resumes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import math
import os
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from keras_pipeline.core.config.phase0 import Export
from keras_pipeline.core.dataset import UNKNOWN_REGION
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.progress import progress
from keras_pipeline.core.record import Photo
from keras_pipeline.core.redaction import without_credentials
from keras_pipeline.core.taxonomy import normalise
from keras_pipeline.ingest import fetch, fields, urls
from keras_pipeline.ingest.crawl import crawl
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.fetch import Answer
from keras_pipeline.ingest.ledger import Document, Ledger, Outcome, Task
from keras_pipeline.ingest.pace import FIRST_BYTES

# A file's first bytes -> why `Convert` will refuse it, or "".
Check = Callable[[bytes], str]
# photo bytes -> (JPEG bytes, height, width); raises ValueError with the reason if the photo is not usable. Where its
# attribute `may_succeed` is true, another download may bring a usable one: hosts that break off mostly do so once.
Convert = Callable[[bytes], tuple[bytes, int, int]]
REPLACED = "not a valid http(s) URL after source.url_replace"
OTHER_FILE = "another file than the one that was stored"
FLUSH = 500  # outcomes without a photo per transaction


class Shard(Protocol):
    """A file to append records to; see data.records.ShardWriter."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    def add(self, example: bytes) -> None:
        """Append one record."""

    def finish(self) -> dict:
        """Complete the file; return its entry."""

    def abandon(self) -> None:
        """Remove the file unless it is complete."""


def rows(
    documents: Iterable[dict], curation: Curation, base_url: str | None, url_replace: Mapping[str, str] | None = None
) -> Iterator[Document]:
    """Convert source documents (as `mongo.documents` yields them) to what the ledger keeps of them."""
    for document in documents:
        url = fields.text_of(document["image_url"])
        yield Document(
            sample_id=document["sample_id"],
            url=url,
            region=normalise(fields.text_of(document["region"])) or UNKNOWN_REGION,
            observation_id=fields.id_of(document["observation_id"]),
            user_id=fields.id_of(document["user_id"]),
            day=fields.day_of(document["observed_on"]),
            latitude=fields.degrees_of(document["latitude"], 90),
            longitude=fields.degrees_of(document["longitude"], 180),
            license=fields.text_of(document["license"]),
            attribution=fields.text_of(document["attribution"]),
            details=document.get("details", {}),
            **_destination(document, url, curation, base_url, url_replace),
        )


def _destination(
    document: dict, url: str, curation: Curation, base_url: str | None, url_replace: Mapping[str, str] | None
) -> dict[str, str]:
    """Return the name and host of a document to be fetched; of any other, the state and the reason."""
    if reason := curation.refusal(document):
        return {"state": "skipped", "reason": reason}
    name = curation.latin_name(document["latin_name"])
    if resolved := urls.resolve(url, base_url, url_replace):
        return {"latin_name": name, "host": urls.host_of(resolved), "address": urls.address(resolved)}
    replaced = url_replace and urls.resolve(url, base_url)
    return {"latin_name": name, "state": "failed", "reason": REPLACED if replaced else fetch.NO_URL}


def fetch_photos(
    ledger: Ledger,
    settings: Export,
    *,
    base_url: str | None,
    own: bool,
    convert: Convert,
    encode: Callable[[Photo], bytes],
    open_shard: Callable[[], tuple[str, Shard]],
    shard_bytes: float,
    given_up: dict[str, str],
    url_replace: Mapping[str, str] | None = None,
    again: Mapping[str, str] | None = None,
) -> None:
    """Download, convert and store every waiting photo of the ledger.

    A shard's photos enter the ledger in one transaction after the shard has been renamed into place. After a kill in
    between, the next run fetches that shard again.

    Args:
        own: base_url is our own (embedded) server, at a private address and without a rate limit.
        given_up: {host: reason} of hosts to leave alone; hosts given up now are added.
        url_replace: see `urls.resolve`.
        again: {sample_id: sha256} of photos that are stored already; another file is refused.
    """
    _keep_freed_memory()
    store, make = _Store(ledger, open_shard, shard_bytes), functools.partial(_stored, convert, encode, again)
    asyncio.run(_fetch_photos(ledger, settings, base_url, url_replace, own, make, store, given_up))


def _keep_freed_memory() -> None:
    """Keep glibc from returning a photo's memory to the kernel, only to request it again for the next photo.

    Hundreds of page faults per photo took a fifth of the time. Without glibc, this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            libc.mallopt(option, 1 << 26)


async def _fetch_photos(
    ledger: Ledger,
    settings: Export,
    base_url: str | None,
    url_replace: Mapping[str, str] | None,
    own: bool,
    make: Callable[[Task, Answer, int], list[tuple[Outcome, bytes | None]]],
    store: _Store,
    given_up: dict[str, str],
) -> None:
    loop, tally = asyncio.get_running_loop(), _Tally(ledger.count("waiting"), "export", "photos")
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="convert")
    async with _closing(tally, store, pool), fetch.session(settings, base_url if own else None) as client:

        async def ask(task: Task, turn: fetch.Turn) -> Answer:
            url = urls.resolve(task.document.url, base_url, url_replace) or ""
            return await fetch.get(client, url, settings, turn=turn)

        async def done(task: Task, answer: Answer, tries: int) -> None:
            results: list[tuple[Outcome, bytes | None]]
            if answer.body is None:
                results = [(outcome, None) for outcome in _outcomes(task, answer, tries)]
            else:
                results = await loop.run_in_executor(pool, make, task, answer, tries)
            await store.add(results)
            tally.count([outcome for outcome, _ in results])

        own_host = urls.host_of(base_url) if own and base_url else ""
        await crawl(ledger, settings, ask=ask, done=done, own_host=own_host, given_up=given_up)


def check_urls(
    ledger: Ledger,
    settings: Export,
    *,
    base_url: str | None,
    own: bool,
    check: Check,
    url_replace: Mapping[str, str] | None = None,
) -> None:
    """Request the first bytes of every waiting URL in the ledger, to learn which ones fail."""
    asyncio.run(_check_urls(ledger, settings, base_url, url_replace, own, check))


async def _check_urls(
    ledger: Ledger,
    settings: Export,
    base_url: str | None,
    url_replace: Mapping[str, str] | None,
    own: bool,
    check: Check,
) -> None:
    tally, store = _Tally(ledger.count("waiting"), "validate-urls", "URLs"), _Store(ledger, None, math.inf)
    async with _closing(tally, store), fetch.session(settings, base_url if own else None) as client:

        async def ask(task: Task, turn: fetch.Turn) -> Answer:
            # A ranged GET, because many photo hosts answer HEAD wrongly. Without a URL, no row waits in the ledger.
            url = urls.resolve(task.document.url, base_url, url_replace) or ""
            return await fetch.get(client, url, settings, turn=turn, first_bytes=FIRST_BYTES)

        async def done(task: Task, answer: Answer, tries: int) -> None:
            outcomes = _outcomes(task, answer, tries)
            if answer.body is not None:
                reason = fetch.no_file(answer.body) or check(answer.body)
                state = "failed" if reason else "ok"
                outcomes = [dataclasses.replace(each, state=state, reason=reason) for each in outcomes]
            await store.add([(outcome, None) for outcome in outcomes])
            tally.count(outcomes)

        own_host = urls.host_of(base_url) if own and base_url else ""
        await crawl(ledger, settings, ask=ask, done=done, own_host=own_host, given_up={})


@contextlib.asynccontextmanager
async def _closing(tally: _Tally, store: _Store, pool: ThreadPoolExecutor | None = None) -> AsyncIterator[None]:
    """Keep what was fetched, whatever ends the downloads."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, sqlite3.Error, BrokenArtefact):  # the disk may still be full
            await store.close()
        raise
    else:
        await store.close()
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        tally.close()


def _outcomes(task: Task, answer: Answer, tries: int) -> list[Outcome]:
    """Return what an answer without a photo means for each row of a task."""
    return [
        Outcome(
            document.sample_id,
            "failed",
            answer.reason,
            http_status=answer.http_status,
            bytes=answer.bytes,
            attempts=tries,
            may_succeed=answer.may_succeed or answer.later,
            redirected_to=answer.redirected_to,
        )
        for document in task.documents
    ]


def _stored(
    convert: Convert,
    encode: Callable[[Photo], bytes],
    again: Mapping[str, str] | None,
    task: Task,
    answer: Answer,
    tries: int,
) -> list[tuple[Outcome, bytes | None]]:
    """Convert an answer, in a worker thread; return for each row its outcome, and a record if it is a photo."""
    body, outcomes = answer.body or b"", _outcomes(task, answer, tries)
    reason, sha256 = fetch.no_file(body), hashlib.sha256(body).hexdigest()
    later, cut_off = bool(reason), False
    wanted = [again is None or again[document.sample_id] == sha256 for document in task.documents]
    if not reason and not any(wanted):  # perhaps a picture for a bad hour
        reason, later = OTHER_FILE, True
    try:
        if not reason:
            image, height, width = convert(body)
    except ValueError as error:
        reason, later = str(error), getattr(error, "may_succeed", False)
        cut_off = later
    if reason:
        failed = functools.partial(dataclasses.replace, reason=reason, may_succeed=later, cut_off=cut_off)
        return [(failed(each), None) for each in outcomes]
    results: list[tuple[Outcome, bytes | None]] = []
    for document, outcome, is_wanted in zip(task.documents, outcomes, wanted, strict=True):
        if not is_wanted:
            results.append((dataclasses.replace(outcome, reason=OTHER_FILE, may_succeed=True), None))
            continue
        record = Photo(
            sample_id=document.sample_id, image=image, height=height, width=width, latin_name=document.latin_name,
            region=document.region, group_id="",  # decided by the split
            source_url=without_credentials(document.url), sha256=sha256, license=document.license,
            attribution=document.attribution,
        )  # fmt: skip
        results.append((dataclasses.replace(outcome, state="ok", sha256=sha256), encode(record)))
    return results


class _Store:
    """Writes one shard after another, and records each in the ledger when it is complete."""

    def __init__(self, ledger: Ledger, open_shard: Callable[[], tuple[str, Shard]] | None, shard_bytes: float) -> None:
        self._ledger, self._open_shard, self._shard_bytes = ledger, open_shard, shard_bytes
        self._name = ""
        self._shard: Shard | None = None
        self._inside: list[Outcome] = []  # photos in the open shard
        self._outside: list[Outcome] = []  # outcomes without a photo
        self._finishing: list[asyncio.Task] = []
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")

    async def add(self, results: list[tuple[Outcome, bytes | None]]) -> None:
        """Keep the results of one request together, so that a kill loses all or none of them."""
        for outcome, example in results:
            if example is None:
                self._outside.append(outcome)
                continue
            if self._shard is None:
                if self._open_shard is None:  # of a check of URLs, which stores none
                    raise ValueError("received a photo to store, expected an outcome alone; give open_shard")
                self._name, self._shard = self._open_shard()
            self._shard.add(example)
            self._inside.append(outcome)
        if len(self._outside) >= FLUSH:
            self._flush()
        if self._shard and self._shard.size >= self._shard_bytes:
            # Shielded, so that the shard is finished even if something else fails meanwhile.
            await asyncio.shield(self._begin_finish())

    async def close(self) -> None:
        self._flush()
        self._begin_finish()
        ended = await asyncio.gather(*self._finishing, return_exceptions=True)  # wait for all, even if one fails
        self._disk.shutdown()
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure

    def _flush(self) -> None:
        self._ledger.record(self._outside)
        self._outside = []

    def _begin_finish(self) -> asyncio.Task:
        task = asyncio.create_task(self._finish(self._name, self._shard, self._inside))
        self._shard, self._inside = None, []
        self._finishing.append(task)
        return task

    async def _finish(self, name: str, shard: Shard | None, outcomes: list[Outcome]) -> None:
        if shard is None:
            return
        try:
            if outcomes:
                await asyncio.get_running_loop().run_in_executor(self._disk, shard.finish)
        finally:
            shard.abandon()  # no effect on a finished shard
        self._ledger.record(dataclasses.replace(outcome, shard=name) for outcome in outcomes)


class _Tally:
    """Progress: done / total, rate, MB/s, failures by reason, time left."""

    def __init__(self, total: int, description: str, unit: str) -> None:
        self._bar = progress(total=total, description=description, unit=unit)
        self._started, self._asked, self._bytes = time.monotonic(), 0, 0
        self._failures: Counter[str] = Counter()

    def count(self, outcomes: list[Outcome]) -> None:
        """Count the outcomes of one request."""
        self._asked += len(outcomes)
        self._bytes += outcomes[0].bytes
        self._failures.update(outcome.reason for outcome in outcomes if outcome.state != "ok")
        rate = self._bytes / 1e6 / max(time.monotonic() - self._started, 1e-3)
        failed = ", ".join(f"{reason} {n}" for reason, n in self._failures.most_common(5))
        self._bar.set_postfix_str(f"{rate:.1f} MB/s; failed: {failed or 'none'}", refresh=False)
        self._bar.update(len(outcomes))

    def close(self) -> None:
        self._bar.close()
        seconds = time.monotonic() - self._started
        rate, mb = self._asked / max(seconds, 1e-3), self._bytes / 1e6
        print(f"{self._asked} {self._bar.unit} in {seconds:.2f} s: {rate:.1f} a second, {mb:.1f} MB")
