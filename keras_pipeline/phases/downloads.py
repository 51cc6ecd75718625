"""`phase0 validate-urls` and `phase0 export`: the collection becomes a ledger, whose URLs are asked for."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run, config_hash, write_json
from keras_pipeline.core.errors import SourceError

if TYPE_CHECKING:
    from keras_pipeline.ingest.ledger import Ledger

# What decides the bytes of a stored photo. Anything else may change without fetching it again.
STORED = (
    "source.database", "source.collection", "source.demo",
    "dataset.short_side", "dataset.min_short_side", "dataset.jpeg_quality",
)  # fmt: skip


def validate_urls(run: Run) -> None:
    import pandas as pd

    from keras_pipeline.ingest import export as exporting

    settings, own = run.config.phase0, run.config.source.uri == "embedded"
    with _planned(run, _url_database(run)) as (ledger, base_url):
        if settings.validate_urls.sample is not None:
            ledger.sample(settings.validate_urls.sample)
        exporting.check_urls(ledger, settings.export, base_url=base_url, own=own)
        columns = ["host", "state", "reason"]
        rows = pd.DataFrame(ledger.tally(*columns), columns=[*columns, "urls"])
    failed = rows[rows.state == "failed"]
    tables = run.path("url_check").parent / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    failed[["host", "reason", "urls"]].to_csv(tables / "url_failures.csv", index=False)
    result = _failure_rate(rows)
    write_json(run.path("url_check"), result)
    within = "" if result["complete"] else " (95 % interval {:.1%} to {:.1%})".format(*result["interval"])
    print(f"{result['failed']} of {result['checked']} URLs failed{within}: {result['by_reason'] or 'none'}")


def _failure_rate(rows) -> dict:
    """A table of host, state, reason, urls -> what the gate and the report need.

    The interval of a sample is Clopper and Pearson's (1934): exact, if anything too wide.
    """
    from scipy.stats import binomtest

    from keras_pipeline.ingest.ledger import NOT_SAMPLED

    asked, failed = rows[rows.state.isin(("ok", "failed"))], rows[rows.state == "failed"]
    n, bad = int(asked.urls.sum()), int(failed.urls.sum())
    rate = bad / n if n else None
    complete = not (rows.reason == NOT_SAMPLED).any()
    interval = [rate, rate]
    if n and not complete:
        exact = binomtest(bad, n).proportion_ci(0.95, "exact")
        interval = [float(exact.low), float(exact.high)]
    hosts = asked.groupby("host").urls.sum().to_frame("checked")
    hosts["failed"] = failed.groupby("host").urls.sum()
    hosts = hosts.fillna(0).astype(int).sort_values(["failed", "checked"], ascending=False)
    return {
        "checked": n,
        "failed": bad,
        "failure_rate": rate,
        "complete": complete,  # every URL was asked for
        "interval": interval,  # 95 %
        "by_reason": {reason: int(k) for reason, k in failed.groupby("reason").urls.sum().items()},
        "by_host": hosts.head(100).to_dict("index"),  # those with most failures
    }


def _url_database(run: Run) -> Path:
    return run.path("url_check").with_name("urls.sqlite")


def forget_urls(run: Run) -> None:
    """What was asked is only of use to a killed run: the next whole one is to ask again."""
    for file in _url_database(run).parent.glob("urls.sqlite*"):
        file.unlink()


@contextlib.contextmanager
def _planned(run: Run, database: Path) -> Iterator[tuple[Ledger, str | None]]:
    """(a ledger that has taken in what the collection holds now, base URL), the source open for downloads."""
    from keras_pipeline.core.progress import progress
    from keras_pipeline.ingest import export as exporting
    from keras_pipeline.ingest import mongo
    from keras_pipeline.ingest.curation import Curation
    from keras_pipeline.ingest.ledger import Ledger

    source = run.config.source
    curation = Curation.load(source)
    with run.open_source() as (uri, base_url), Ledger(database) as ledger:
        with mongo.open_collection(source, uri) as collection:
            documents = exporting.rows(mongo.documents(collection, source), curation, base_url)
            ledger.plan(progress(documents, description="read", unit="documents"), seed=run.config.seed)
        yield ledger, base_url


def export(run: Run) -> None:
    from keras_pipeline.data import photo, records
    from keras_pipeline.ingest import export as exporting

    settings, raw = run.config.dataset, raw_folder(run)
    convert = functools.partial(
        photo.to_record,
        short_side=settings.short_side,
        min_short_side=settings.min_short_side,
        quality=settings.jpeg_quality,
    )
    with _export_ledger(run) as (ledger, base_url):
        numbers = itertools.count(max((int(name[7:12]) for name in ledger.shards()), default=-1) + 1)

        def open_shard() -> tuple[str, records.ShardWriter]:
            name = f"photos-{next(numbers):05d}.tfrecord"
            return name, records.ShardWriter(raw / name)

        estimate = _estimate(run, ledger)
        if estimate["needed_gb"] > estimate["free_gb"]:
            raise SourceError(f"{_describe(estimate)}; free some, or lower source.max_per_species")
        while ledger.count("waiting"):
            exporting.fetch_photos(
                ledger,
                run.config.phase0.export,
                base_url=base_url,
                own=run.config.source.uri == "embedded",
                convert=convert,
                encode=records.encode,
                open_shard=open_shard,
                shard_bytes=settings.shard_megabytes * 1e6,
            )
            _choose(run, ledger)  # where a photo failed, the next of its species takes its place
        ledger.write_parquet(run.path("url_ledger"))
        stored = ledger.count("ok")
        others = {reason: n for state, reason, n in ledger.tally("state", "reason") if state != "ok"}
    print(f"{stored} photos stored, {sum(others.values())} not: {others or 'none'}")
    if not stored:
        raise SourceError(f"no photo could be stored ({others}); each URL's fate is in {run.path('url_ledger')}")


def estimate_export(run: Run) -> str:
    """What `phase0 export --dry-run` says; reads the collection, fetches nothing."""
    with _export_ledger(run) as (ledger, _):
        return _describe(_estimate(run, ledger))


@contextlib.contextmanager
def _export_ledger(run: Run) -> Iterator[tuple[Ledger, str | None]]:
    """The ledger in accord with the collection, with the shards on the disk, and with the caps."""
    _discard_other_export(run)
    with _planned(run, run.path("dataset").with_name("ledger.sqlite")) as (ledger, base_url):
        known = ledger.shards()
        for shard in raw_folder(run).glob("photos-*.tfrecord"):
            if shard.name not in known:  # renamed into place just before a kill
                shard.unlink()
        _fetch_lost_again(run, ledger)
        _choose(run, ledger)
        yield ledger, base_url


def _choose(run: Run, ledger: Ledger) -> None:
    source = run.config.source
    ledger.choose(max_per_observation=source.max_per_observation, max_per_species=source.max_per_species)


def _estimate(run: Run, ledger: Ledger) -> dict:
    waiting, stored = ledger.count("waiting"), ledger.count("ok")
    shards = [*raw_folder(run).glob("*.tfrecord"), *run.path("dataset").parent.glob("*.tfrecord")]
    held = sum(shard.stat().st_size for shard in shards)
    # Until there are photos to go by: 256 px at quality 95 take about 45 kB.
    each = held / stored if held and stored else 45e3 * (run.config.dataset.short_side / 256) ** 2
    return {
        "waiting": waiting,
        "hosts": len(ledger.hosts()),
        "stored": stored,
        "raw_gb": waiting * each / 1e9,
        "final_gb": (waiting + stored) * each / 1e9,
        "needed_gb": (2 * waiting + stored) * each / 1e9,
        "free_gb": shutil.disk_usage(raw_folder(run)).free / 1e9,
    }


def _describe(estimate: dict) -> str:
    return (
        "{waiting} photos to fetch from {hosts} hosts, {stored} stored already; raw shards about {raw_gb:.2f} GB and "
        "final ones {final_gb:.2f} GB, free {free_gb:.1f} GB"
    ).format(**estimate)


def raw_folder(run: Run) -> Path:
    return run.path("dataset").parent / "raw"


def _discard_other_export(run: Run) -> None:
    """A ledger of other photos, or of photos stored otherwise, must not vouch for these."""
    from keras_pipeline.data import records

    folder, raw = run.path("dataset").parent, raw_folder(run)
    records.finish_publishing(folder)
    key, key_file = config_hash(run.config, STORED), folder / "stored_as"
    if not key_file.exists() or key_file.read_text() != key:
        for file in folder.glob("ledger.sqlite*"):
            file.unlink()
        shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True, exist_ok=True)
    key_file.write_text(key)


def _fetch_lost_again(run: Run, ledger: Ledger) -> None:
    """Photos whose raw shard is gone and that no finished shard holds either."""
    gone = [name for name in ledger.shards() if not (raw_folder(run) / name).exists()]
    if gone:
        from keras_pipeline.phases.shard_index import stored_ids

        lost = ledger.fetch_again(gone, except_for=stored_ids(run.path("dataset").parent))
        if lost:
            print(f"{lost} photos were in shards that are gone; they are fetched again")
