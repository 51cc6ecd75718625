"""Photos over HTTP straight into raw shards; every URL ends in the ledger, and a killed run goes on."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urljoin, urlsplit

import aiohttp

from keras_pipeline import __version__
from keras_pipeline.core.config import Export
from keras_pipeline.core.progress import progress
from keras_pipeline.core.schema import Photo
from keras_pipeline.core.taxonomy import normalise
from keras_pipeline.ingest.audit import region_of
from keras_pipeline.ingest.ledger import Ledger, Row
from keras_pipeline.ingest.mongo import missing_field

# photo bytes -> (JPEG bytes, height, width); ValueError says why it isn't a usable photo.
Convert = Callable[[bytes], tuple[bytes, int, int]]
# (index, photos) -> name of the finished shard
WriteShard = Callable[[int, list[Photo]], str]

NO_URL = "not an http(s) URL; relative ones need source.base_url"
RETRIED = {408, 425, 429, 500, 502, 503, 504}


def export_photos(
    documents: Iterable[dict],
    *,
    total: int,
    base_url: str | None,
    settings: Export,
    photos_per_shard: int,
    convert: Convert,
    write_shard: WriteShard,
    ledger: Ledger,
) -> None:
    """Downloads, converts and stores every usable document that the ledger hasn't settled.

    A shard's photos enter the ledger in one transaction after the shard was renamed into place: killed in between, the
    next run writes that shard again.
    """
    done = ledger.settled()
    index = max((int(name.split("-")[1].split(".")[0]) for name in ledger.shards()), default=-1) + 1
    pending = (document for document in documents if document["sample_id"] not in done)
    with progress(total=total, description="export") as bar, ThreadPoolExecutor() as pool:
        bar.update(len(done))
        for chunk in _chunks(pending, photos_per_shard):
            rows, photos = asyncio.run(_fetch_chunk(chunk, base_url, settings, convert, pool, bar.update))
            shard = write_shard(index, photos) if photos else ""
            index += bool(photos)
            ledger.record(replace(row, shard=shard) if row.state == "ok" else row for row in rows)


def check_urls(documents: Iterable[dict], *, total: int, base_url: str | None, settings: Export) -> list[Row]:
    """One request a document, the body not read: what would fail?"""

    async def check(chunk: list[dict]) -> list[Row]:
        async with _session(settings) as session:
            gate = asyncio.Semaphore(settings.concurrency)
            return await asyncio.gather(*(_check(d, base_url, settings, session, gate) for d in chunk))

    rows: list[Row] = []
    with progress(total=total, description="validate-urls", unit="URLs") as bar:
        for chunk in _chunks(documents, 1000):
            rows += asyncio.run(check(chunk))
            bar.update(len(chunk))
    return rows


def _chunks(items: Iterable[dict], size: int) -> Iterator[list[dict]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _session(settings: Export) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=settings.timeout_seconds, connect=min(10.0, settings.timeout_seconds))
    agent = {"User-Agent": f"keras_pipeline/{__version__} (plant photo export)"}
    connector = aiohttp.TCPConnector(limit=settings.concurrency)
    return aiohttp.ClientSession(timeout=timeout, headers=agent, connector=connector)


async def _fetch_chunk(chunk, base_url, settings, convert, pool, advance) -> tuple[list[Row], list[Photo]]:
    gate, loop = asyncio.Semaphore(settings.concurrency), asyncio.get_running_loop()
    async with _session(settings) as session:

        async def one(document: dict) -> tuple[Row, Photo | None]:
            async with gate:
                row, body = await _download(document, base_url, settings, session)
                photo = None
                if body is not None:
                    row, photo = await loop.run_in_executor(pool, _store, document, row, body, convert)
            advance(1)
            return row, photo

        results = await asyncio.gather(*(one(document) for document in chunk))
    return [row for row, _ in results], [photo for _, photo in results if photo]


async def _download(document, base_url, settings, session) -> tuple[Row, bytes | None]:
    reason = missing_field(document)
    row = Row(document["sample_id"], str(document["image_url"] or ""), "skipped", reason or "")
    if reason:
        return row, None
    row = replace(row, state="failed")
    url = _resolve(document["image_url"], base_url)
    if url is None:
        return replace(row, reason=NO_URL), None
    for attempt in range(1, settings.attempts + 1):
        row, body = await _try_once(replace(row, attempts=attempt), url, settings, session)
        if not row.may_succeed or attempt == settings.attempts:
            break
        await asyncio.sleep(0.5 * 2**attempt)
    return row, body


def _resolve(image_url: str, base_url: str | None) -> str | None:
    try:
        url = urljoin(base_url or "", image_url.strip())
        return url if urlsplit(url).scheme in ("http", "https") else None
    except ValueError:  # http://[half an IPv6 address
        return None


async def _try_once(row: Row, url: str, settings: Export, session) -> tuple[Row, bytes | None]:
    limit = int(settings.max_megabytes * 1e6)
    row = replace(row, may_succeed=False, http_status=None, bytes=0)  # Only the last try counts.
    try:
        async with session.get(url, max_redirects=5) as response:
            row = replace(row, http_status=response.status)
            if response.status != 200:
                retry = response.status in RETRIED
                return replace(row, reason=f"HTTP {response.status}", may_succeed=retry), None
            body = bytearray()
            async for part in response.content.iter_chunked(1 << 16):
                body += part
                if len(body) > limit:
                    return replace(row, reason=f"larger than {settings.max_megabytes:g} MB", bytes=len(body)), None
            row = replace(row, bytes=len(body), sha256=hashlib.sha256(body).hexdigest(), reason="")
            return row, bytes(body)
    except TimeoutError:
        return replace(row, reason="timeout", may_succeed=True), None
    except (aiohttp.TooManyRedirects, aiohttp.InvalidURL, ValueError) as error:
        return replace(row, reason=type(error).__name__), None
    except aiohttp.ClientError as error:
        return replace(row, reason=type(error).__name__, may_succeed=True), None


def _store(document: dict, row: Row, body: bytes, convert: Convert) -> tuple[Row, Photo | None]:
    if body.lstrip()[:1] == b"<":
        return replace(row, reason="an HTML page, not a photo"), None
    try:
        image, height, width = convert(body)
    except ValueError as error:
        return replace(row, reason=str(error)), None
    observation = document["observation_id"]
    photo = Photo(
        sample_id=row.sample_id,
        image=image,
        height=height,
        width=width,
        latin_name=normalise(document["latin_name"]),
        region=region_of(document),
        group_id="" if observation is None else str(observation),  # the split makes the final group of it
        source_url=row.url,
        sha256=row.sha256,
        license=str(document["license"] or ""),
        attribution=str(document["attribution"] or ""),
    )
    return replace(row, state="ok"), photo


async def _check(document: dict, base_url: str | None, settings: Export, session, gate) -> Row:
    async with gate:
        row = Row(document["sample_id"], str(document["image_url"] or ""), "failed", attempts=1)
        reason = missing_field(document)
        if reason:
            return replace(row, state="skipped", reason=reason)
        url = _resolve(document["image_url"], base_url)
        if url is None:
            return replace(row, reason=NO_URL)
        try:
            # A ranged GET: many photo hosts answer HEAD wrongly.
            async with session.get(url, headers={"Range": "bytes=0-511"}, max_redirects=5) as response:
                head = await response.content.read(512)
                row = replace(row, http_status=response.status)
        except TimeoutError:
            return replace(row, reason="timeout", may_succeed=True)
        except (aiohttp.ClientError, ValueError) as error:
            return replace(row, reason=type(error).__name__, may_succeed=True)
    if row.http_status not in (200, 206):
        return replace(row, reason=f"HTTP {row.http_status}")
    if head.lstrip()[:1] == b"<":
        return replace(row, reason="an HTML page, not a photo")
    return replace(row, state="ok")
