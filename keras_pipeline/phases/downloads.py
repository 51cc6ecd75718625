"""`phase0 validate-urls` and `phase0 export`: the collection becomes a ledger, whose URLs are asked for."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.fingerprint import config_hash
from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.files import write_json
from keras_pipeline.phases import beam_export, on_beam

if TYPE_CHECKING:
    from keras_pipeline.ingest.ledger import Document, Ledger

# What decides the bytes of a stored photo. Anything else may change without fetching it again.
STORED = (
    "source.database", "source.collection", "source.demo",
    "dataset.short_side", "dataset.min_short_side", "dataset.jpeg_quality",
)  # fmt: skip
# What decides whether a URL can be had, besides the host: with other settings, all that failed is tried again.
ASKED = (
    "source.base_url", "phase0.export.contact", "phase0.export.max_megabytes", "phase0.export.max_redirects",
    "phase0.export.allow_networks",
)  # fmt: skip


def validate_urls(run: Run) -> None:
    import pandas as pd

    from keras_pipeline.ingest import download as exporting
    from keras_pipeline.ingest.ledger import Ledger

    settings, own = run.config.phase0, run.config.source.uri == "embedded"
    with _source(run) as (documents, base_url), Ledger(_url_database(run)) as ledger:
        _plan(run, ledger, documents)
        if settings.validate_urls.sample is not None:
            ledger.sample(settings.validate_urls.sample)
        exporting.check_urls(ledger, settings.export, base_url=base_url, own=own)
        columns = ["host", "state", "reason"]
        rows = pd.DataFrame(ledger.tally(*columns), columns=[*columns, "urls"])
    if own:
        rows["host"] = "(embedded)"  # its port is another one in each run
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
def _source(run: Run) -> Iterator[tuple[Iterator[Document], str | None]]:
    """(what the collection holds: a document or more, cured; base URL), the source open for downloads.

    Raises SourceError for an empty collection, before anything is done.
    """
    from keras_pipeline.core.progress import progress
    from keras_pipeline.ingest import download as exporting
    from keras_pipeline.ingest import mongo
    from keras_pipeline.ingest.curation import Curation

    source = run.config.source
    curation = Curation.load(source)
    with run.open_source(run.config) as (uri, base_url), mongo.open_collection(source, uri) as collection:
        documents = mongo.documents(collection, source)
        documents = itertools.chain([next(documents)], documents)
        yield exporting.rows(progress(documents, description="read", unit="documents"), curation, base_url), base_url


def _plan(run: Run, ledger: Ledger, documents: Iterator[Document]) -> None:
    ledger.ask_with(config_hash(run.config, ASKED))
    ledger.plan(documents, seed=run.config.seed)


def export(run: Run) -> None:
    from keras_pipeline.data import photo
    from keras_pipeline.ingest.ledger import Ledger

    convert = photo.converter(run.config.dataset)
    with _source(run) as (documents, base_url):
        _discard_other_export(run)
        with Ledger(_export_database(run)) as ledger:
            beam_export.take_in(ledger, raw_folder(run))
            _take_in(run, ledger, documents)
            stored, others = _fetch(run, ledger, convert, base_url)
    print(f"{stored} photos stored, {sum(others.values())} not: {others or 'none'}")
    if not stored:
        raise SourceError(f"no photo could be stored ({others}); each URL's fate is in {run.path('url_ledger')}")


def _fetch(run: Run, ledger: Ledger, convert: Callable, base_url: str | None) -> tuple[int, dict[str, int]]:
    """Fetches all that waits and writes the ledger's file. Returns (photos stored, {reason: photos not stored})."""
    from keras_pipeline.data import records
    from keras_pipeline.ingest import download as exporting

    settings, raw, known = run.config.dataset, raw_folder(run), ledger.shards()
    for shard in raw.glob("photos-*.tfrecord"):
        if shard.name not in known:  # renamed into place just before a kill
            shard.unlink()
    # Those of Beam's workers have names of another kind.
    numbers = itertools.count(max((int(name[7:12]) for name in known if len(name) == 21), default=-1) + 1)

    def open_shard() -> tuple[str, records.ShardWriter]:
        name = f"photos-{next(numbers):05d}.tfrecord"
        return name, records.ShardWriter(raw / name)

    estimate = _estimate(run, ledger)
    if estimate["needed"] > estimate["free"]:
        raise SourceError(f"{_describe(estimate)}; free some, or lower source.max_per_species")
    given_up: dict[str, str] = {}
    while ledger.count("waiting"):
        if run.beam is not None:
            _fetch_on_beam(run, ledger, base_url)
            _choose(run, ledger)
            continue
        exporting.fetch_photos(
            ledger,
            run.config.phase0.export,
            base_url=base_url,
            own=run.config.source.uri == "embedded",
            convert=convert,
            encode=records.encode,
            open_shard=open_shard,
            shard_bytes=settings.shard_megabytes * 1e6,
            given_up=given_up,
        )
        _choose(run, ledger)  # where a photo failed, the next of its species takes its place
    ledger.write_parquet(run.path("url_ledger"))
    others = {reason: n for state, reason, n in ledger.tally("state", "reason") if state != "ok"}
    return ledger.count("ok"), others


def estimate_export(run: Run) -> str:
    """What `phase0 export --dry-run` says; reads the collection, fetches nothing and changes nothing."""
    from keras_pipeline.ingest.ledger import Ledger

    folder = run.path("dataset").parent
    folder.mkdir(parents=True, exist_ok=True)
    with _source(run) as (documents, _), tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as aside:
        copy = Path(aside) / "ledger.sqlite"
        if _export_database(run).exists() and is_stored_alike(run):
            with Ledger(_export_database(run)) as ledger:
                ledger.copy(copy)
        with Ledger(copy) as ledger:
            _take_in(run, ledger, documents)
            return _describe(_estimate(run, ledger))


def _take_in(run: Run, ledger: Ledger, documents: Iterator[Document]) -> None:
    """Brings the ledger in accord with the collection, with the shards on the disk, and with the caps."""
    _plan(run, ledger, documents)
    gone = [name for name, wanted in ledger.shards().items() if wanted and not (raw_folder(run) / name).exists()]
    if gone:
        from keras_pipeline.phases.shard_index import stored_photos

        # What no finished shard holds either.
        lost = ledger.fetch_again(gone, except_for=stored_photos(finished_shards(run)))
        if lost:
            print(f"{lost} photos were in shards that are gone; they are fetched again")
    _choose(run, ledger)


def _fetch_on_beam(run: Run, ledger: Ledger, base_url: str | None) -> None:
    from keras_pipeline.ingest import fetch

    raw = raw_folder(run)
    own_host = fetch.host_of(base_url) if run.config.source.uri == "embedded" else ""
    work = beam_export.Fetching(raw, run.config.phase0.export, run.config.dataset, base_url, own_host)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=raw.parent) as scratch:
        queues = beam_export.write_queues(ledger, Path(scratch), own_host)
        waiting = ledger.count("waiting")
        on_beam.each(functools.partial(beam_export.fetch_queue, work), queues, run.beam, Path(scratch))
    beam_export.take_in(ledger, raw)
    if ledger.count("waiting") == waiting:
        raise SourceError("Beam's workers brought nothing; do they see this folder under the same path?")


def _choose(run: Run, ledger: Ledger) -> None:
    source = run.config.source
    ledger.choose(max_per_observation=source.max_per_observation, max_per_species=source.max_per_species)


def _estimate(run: Run, ledger: Ledger) -> dict:
    """Photos, hosts, and bytes."""
    waiting, stored, counts = ledger.count("waiting"), ledger.count("ok"), ledger.shards()
    raw = {shard.name: shard.stat().st_size for shard in raw_folder(run).glob("photos-*.tfrecord")}
    final = sum(shard.stat().st_size for shard in run.path("dataset").parent.glob("*.tfrecord"))
    if in_raw := sum(counts.get(name, 0) for name in raw):
        each = sum(raw.values()) / in_raw
    elif final and stored:
        each = final / stored
    else:  # until there are photos to go by: 256 px at quality 95 take about 45 kB
        each = 45e3 * (run.config.dataset.short_side / 256) ** 2
    return {
        "waiting": waiting,
        "hosts": len(ledger.hosts()),
        "stored": stored,
        "raw": waiting * each,
        "final": (waiting + stored) * each,
        "needed": (2 * waiting + stored) * each,
        "free": shutil.disk_usage(run.path("dataset").parent).free,
    }


def _describe(estimate: dict) -> str:
    raw, final, free = (
        f"{estimate[key] / 1e9:.2f} GB" if estimate[key] > 1e8 else f"{estimate[key] / 1e6:.2f} MB"
        for key in ("raw", "final", "free")
    )
    return (
        f"{estimate['waiting']} photos to fetch from {estimate['hosts']} hosts, {estimate['stored']} stored already; "
        f"raw shards about {raw} and final ones {final}, free {free}"
    )


def raw_folder(run: Run) -> Path:
    return run.path("dataset").parent / "raw"


def _export_database(run: Run) -> Path:
    return run.path("dataset").with_name("ledger.sqlite")


def stored_as(run: Run) -> str:
    """Names the source and the way in which photos are stored now."""
    return config_hash(run.config, STORED)


def is_stored_alike(run: Run) -> bool:
    """Whether the ledger and the raw shards are of photos stored as they would be now."""
    file = run.path("dataset").with_name("stored_as")
    return file.exists() and file.read_bytes() == stored_as(run).encode()


def finished_shards(run: Run) -> list[Path]:
    """The shards of the last split, if their photos are stored as they would be now."""
    from keras_pipeline.core.files import table_attributes

    if table_attributes(run.path("assignment")).get("stored_as") != stored_as(run):
        return []
    return sorted(run.path("dataset").parent.glob("*.tfrecord"))


def _discard_other_export(run: Run) -> None:
    """A ledger of other photos, or of photos stored otherwise, must not vouch for these."""
    from keras_pipeline.data import records

    folder, raw = run.path("dataset").parent, raw_folder(run)
    records.finish_publishing(folder)
    if not is_stored_alike(run):
        for file in folder.glob("ledger.sqlite*"):
            file.unlink()
        shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True, exist_ok=True)
    (folder / "stored_as").write_text(stored_as(run))


def remove_raw(run: Run) -> None:
    """Removes the raw shards whose photos all lie in finished ones; those fetched since the last split stay."""
    from keras_pipeline.ingest.ledger import Ledger
    from keras_pipeline.phases.shard_index import stored_photos

    raw = raw_folder(run)
    shards = list(raw.glob("photos-*.tfrecord"))
    if run.config.phase0.split.keep_raw or not shards or not is_stored_alike(run):
        return
    with Ledger(_export_database(run)) as ledger:
        needed = ledger.only_here(stored_photos(finished_shards(run)))
    for shard in shards:
        if shard.name not in needed:
            shard.unlink()
    if not needed & {shard.name for shard in shards}:
        shutil.rmtree(raw)
