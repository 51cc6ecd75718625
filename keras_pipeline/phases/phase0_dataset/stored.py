"""What earlier exports have stored: raw shards, finished shards, and the ledger of URLs."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.fingerprint import config_hash
from keras_pipeline.core.files import table_attributes
from keras_pipeline.core.progress import progress
from keras_pipeline.data import records
from keras_pipeline.ingest import download, mongo
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.ledger import Document, Ledger
from keras_pipeline.phases.phase0_dataset.shard_index import stored_photos

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


@contextlib.contextmanager
def open_source(run: Run) -> Iterator[tuple[Iterator[Document], str | None]]:
    """(what the collection holds: a document or more, cured; base URL), the source open for downloads.

    Raises SourceError for an empty collection, before anything is done.
    """
    source = run.config.source
    curation = Curation.load(source)
    with run.source() as (uri, base_url), mongo.open_collection(source, uri) as collection:
        documents = mongo.documents(collection, source)
        documents = itertools.chain([next(documents)], documents)
        yield download.rows(progress(documents, description="read", unit="documents"), curation, base_url), base_url


def plan(run: Run, ledger: Ledger, documents: Iterator[Document]) -> None:
    """Bring the ledger in accord with the collection."""
    ledger.ask_with(config_hash(run.config, ASKED))
    ledger.plan(documents, seed=run.config.seed)


def raw_folder(run: Run) -> Path:
    """Where raw shards lie until the split."""
    return run.path("dataset").parent / "raw"


def database(run: Run) -> Path:
    """The ledger's SQLite file."""
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
    if table_attributes(run.path("assignment")).get("stored_as") != stored_as(run):
        return []
    return sorted(run.path("dataset").parent.glob("*.tfrecord"))


def discard_other_export(run: Run) -> None:
    """A ledger of other photos, or of photos stored otherwise, must not vouch for these."""
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
    raw = raw_folder(run)
    shards = list(raw.glob("photos-*.tfrecord"))
    if run.config.phase0.split.keep_raw or not shards or not is_stored_alike(run):
        return
    with Ledger(database(run)) as ledger:
        needed = ledger.only_here(stored_photos(finished_shards(run)))
    for shard in shards:
        if shard.name not in needed:
            shard.unlink()
    if not needed & {shard.name for shard in shards}:
        shutil.rmtree(raw)
