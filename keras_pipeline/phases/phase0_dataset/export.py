"""`phase0 export`: download every photo of the collection once, into raw shards and a ledger."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_pipeline.core import beam
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.phase0 import Export, HostLimits
from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.progress import duration
from keras_pipeline.data import photo, records
from keras_pipeline.ingest import download, idle, urls
from keras_pipeline.ingest.ledger import SAME_URL, UNDER_SPECIES, Document, Ledger
from keras_pipeline.ingest.pace import CONVERTED, PHOTO_BYTES, expected_seconds
from keras_pipeline.ingest.tally import counted
from keras_pipeline.phases.phase0_dataset import export_beam, refetch
from keras_pipeline.phases.phase0_dataset.shard_index import stored_photos
from keras_pipeline.phases.phase0_dataset.stored import (
    RAW_SHARDS,
    database,
    discard_other_export,
    entries,
    finished_shards,
    is_stored_alike,
    next_raw_number,
    open_source,
    plan,
    raw_folder,
    raw_shard_name,
    shared_redirects,
    write_table,
)

REPEATED = f"{SAME_URL}another photo"
NAMED = 10  # species on the console; the table has all


def run(run: Run) -> None:
    convert = photo.converter(run.config.dataset)
    with open_source(run) as (documents, base_url):
        discard_other_export(run)
        with Ledger(database(run)) as ledger:
            export_beam.take_in(ledger, raw_folder(run))
            refetch.take_in(run, ledger)
            _take_in(run, ledger, documents)
            for remark in idle.of_downloads(ledger, run.config.source, run.config.phase0.export):
                print(remark, flush=True)  # before hours of downloads
            given_up: dict[str, str] = {}
            stored, others = _fetch(run, ledger, convert, base_url, given_up)
            told: list[str] = []
            if run.refetch:
                told += refetch.fetch_older(run, ledger, convert, base_url=base_url, given_up=given_up)
                ledger.write_parquet(run.path("url_ledger"))
            told += [*_repeats(ledger, others), *_without_photo(run, ledger), *shared_redirects(run, ledger)]
            later = ledger.may_succeed_later()
    print(f"{stored} photos stored, {sum(others.values())} not: {others or 'none'}", *told, sep="\n")
    if later and run.config.source.serves_photos:
        print(f"`phase0 export --force` reads {later:,} of the failures again, once their files are replaced")
    elif later:
        print(f"{later} of the failures may pass: `phase0 export --force` asks for these again, and for nothing else")
    if not stored:
        raise SourceError(f"no photo could be stored ({others}); see {run.path('url_ledger')} for each URL")


def _fetch(
    run: Run, ledger: Ledger, convert: Callable, base_url: str | None, given_up: dict[str, str]
) -> tuple[int, dict[str, int]]:
    """Fetch every waiting photo and write the ledger's file. Return (photos stored, {reason: photos not stored})."""
    settings, raw, known = run.config.dataset, raw_folder(run), ledger.shards()
    for shard in raw.glob(RAW_SHARDS):
        if shard.name not in known:  # a kill came between renaming it and recording it
            shard.unlink()
    numbers = itertools.count(next_raw_number(known))

    def open_shard() -> tuple[str, records.ShardWriter]:
        name = raw_shard_name(next(numbers))
        return name, records.ShardWriter(raw / name)

    estimate = _estimate(run, ledger)
    if estimate["needed"] > estimate["free"]:
        raise SourceError(f"{_describe(estimate)}; free some space, or lower source.max_per_species")
    while ledger.count("waiting"):
        if run.beam is not None:
            _fetch_on_beam(run, ledger, base_url)
            _choose(run, ledger)
            continue
        download.fetch_photos(
            ledger,
            run.config.phase0.export,
            base_url=base_url,
            url_replace=run.config.source.url_replace,
            own=run.config.source.serves_photos,
            convert=convert,
            encode=records.encode,
            open_shard=open_shard,
            shard_bytes=settings.shard_megabytes * 1e6,
            given_up=given_up,
        )
        _choose(run, ledger)  # the next photo of a species replaces one that failed
    ledger.write_parquet(run.path("url_ledger"))
    others: Counter[str] = Counter()
    for state, reason, n in ledger.tally("state", "reason"):
        if state != "ok":
            others[REPEATED if reason.startswith(SAME_URL) else reason] += n
    return ledger.count("ok"), dict(others.most_common())


def _repeats(ledger: Ledger, others: dict[str, int]) -> Iterator[str]:
    if names := ledger.stored_under_several_names():
        yield f"{counted(names, 'URL')} under several latin names, asked for once and stored under every name"
    if repeated := others.get(REPEATED):
        yield f"{counted(repeated, 'photo')} with a URL that the species has already, which is stored once"


def _without_photo(run: Run, ledger: Ledger) -> Iterator[str]:
    """Write the species that end with no photo, and yield lines on those that failed, and on those left out."""
    rows = ledger.species_without_photo()
    file = write_table(run, "species_without_photo.csv", ("latin_name", entries(run), "reason"), rows)
    few = [name for name, _, reason, *_ in rows if reason == UNDER_SPECIES]
    lost = [name for name, _, reason, *_ in rows if reason != UNDER_SPECIES]
    for names, what in ((lost, "end with no photo"), (few, f"left out, as they are {UNDER_SPECIES}")):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield f"{len(names)} species {what}: {', '.join(names[:NAMED])}{more}; see {file}"


def estimate(run: Run) -> str:
    """Return the text of `phase0 export --dry-run`. Reads the collection, but fetches and changes nothing."""
    folder = run.path("dataset").parent
    folder.mkdir(parents=True, exist_ok=True)
    with open_source(run) as (documents, _), tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as aside:
        copy = Path(aside) / "ledger.sqlite"
        if database(run).exists() and is_stored_alike(run):
            with Ledger(database(run)) as ledger:
                ledger.copy(copy)
        with Ledger(copy) as ledger:
            _take_in(run, ledger, documents)
            found = _estimate(run, ledger)
            size = _describe(found)
            if not run.config.source.serves_photos:
                size += f"; to download about {_bytes(found['download'])} ({found['size']})"
                size += f" in at least {duration(found['seconds'])}"
            older = [refetch.describe(run, ledger)] if run.refetch else []
            return "\n".join([size, *older, *idle.of_downloads(ledger, run.config.source, run.config.phase0.export)])


def _take_in(run: Run, ledger: Ledger, documents: Iterator[Document]) -> None:
    """Update the ledger to the collection, the shards on the disk, and the limits per species and observation."""
    plan(run, ledger, documents)
    gone = [name for name, wanted in ledger.shards().items() if wanted and not (raw_folder(run) / name).exists()]
    if gone:
        # A photo that was fetched again for today's rule may lie in a second raw shard.
        shards = [*finished_shards(run), *sorted(raw_folder(run).glob(RAW_SHARDS))]
        lost = ledger.fetch_again(gone, except_for=stored_photos(shards))
        if lost:
            print(f"{lost} photos were in shards that are missing; they are fetched again")
    _choose(run, ledger)


def _fetch_on_beam(run: Run, ledger: Ledger, base_url: str | None) -> None:
    raw = raw_folder(run)
    own_host = urls.host_of(base_url) if base_url and run.config.source.serves_photos else ""
    replace = run.config.source.url_replace
    work = export_beam.Fetching(raw, run.config.phase0.export, run.config.dataset, base_url, replace, own_host)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=raw.parent) as scratch:
        queues = export_beam.write_queues(ledger, Path(scratch), own_host)
        waiting = ledger.count("waiting")
        beam.each(functools.partial(export_beam.fetch_queue, work), queues, run.beam or (), Path(scratch))
    export_beam.take_in(ledger, raw)
    if ledger.count("waiting") == waiting:
        raise SourceError("Beam's workers fetched nothing; do they see this folder under the same path?")


def _choose(run: Run, ledger: Ledger) -> None:
    source = run.config.source
    ledger.choose(
        max_per_observation=source.max_per_observation,
        max_per_species=source.max_per_species,
        min_per_species=source.min_per_species,
    )


def _estimate(run: Run, ledger: Ledger) -> dict:
    """Count photos and hosts, and estimate the bytes they need."""
    waiting, stored, counts = ledger.count("waiting"), ledger.count("ok"), ledger.shards()
    raw = {shard.name: shard.stat().st_size for shard in raw_folder(run).glob(RAW_SHARDS)}
    final = sum(shard.stat().st_size for shard in run.path("dataset").parent.glob("*.tfrecord"))
    if in_raw := sum(counts.get(name, 0) for name in raw):
        each = sum(raw.values()) / in_raw
    elif final and stored:
        each = final / stored
    else:  # without photos to measure: 256 px at quality 95 take about 45 kB
        each = 45e3 * (run.config.dataset.short_side / 256) ** 2
    return {
        "waiting": waiting,
        **_download(run, ledger),
        "stored": stored,
        "raw": waiting * each,
        "final": (waiting + stored) * each,
        "needed": (2 * waiting + stored) * each,
        "free": shutil.disk_usage(run.path("dataset").parent).free,
    }


def _download(run: Run, ledger: Ledger) -> dict:
    """Count the hosts, and estimate bytes and seconds of the downloads at their limits."""
    settings, hosts, measured = run.config.phase0.export, dict(ledger.hosts()), ledger.photo_bytes()
    if run.config.source.serves_photos:  # our own server has no limits
        settings = Export(each_host=HostLimits(requests_per_second=None))
    each = measured or PHOTO_BYTES
    rate = CONVERTED * (os.cpu_count() or 1)
    return {
        "hosts": len(hosts),
        "download": sum(hosts.values()) * each,
        "size": f"{each / 1e6:.2f} MB a photo, {'as those before' if measured else 'a guess, as none was fetched yet'}",
        "seconds": expected_seconds(hosts, settings, photo_bytes=each, photos_per_second=rate),
    }


def _describe(estimate: dict) -> str:
    return (
        f"{estimate['waiting']} photos to fetch from {estimate['hosts']} hosts, {estimate['stored']} stored already; "
        f"raw shards about {_bytes(estimate['raw'])} and final ones {_bytes(estimate['final'])}, "
        f"free {_bytes(estimate['free'])}"
    )


def _bytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number > 1e8 else f"{number / 1e6:.2f} MB"
