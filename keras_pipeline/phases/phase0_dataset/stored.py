"""What earlier exports have stored: raw shards, finished shards, and the ledger of URLs."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.fingerprint import config_hash, lasting_hash
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
# The keys in STORED when it was first hashed. Nothing is ever added here: it would make every project fetch again.
STORED_AT_FIRST = (
    "source.database", "source.collection", "source.demo.images", "source.demo.labels", "source.demo.species",
    "source.demo.photos", "source.demo.regional_shift", "dataset.short_side", "dataset.min_short_side",
    "dataset.jpeg_quality",
)  # fmt: skip

# What decides whether a URL can be had, besides the host: with other settings, all that failed is tried again.
ASKED = (
    "source.base_url", "phase0.export.contact", "phase0.export.max_megabytes", "phase0.export.max_redirects",
    "phase0.export.allow_networks",
)  # fmt: skip


RAW_SHARDS = "photos-*.tfrecord"
_OURS = re.compile(r"photos-(\d{5})\.tfrecord")  # those of Beam's workers have names of another kind


def raw_shard_name(number: int) -> str:
    """Name of a raw shard of the local engine."""
    return f"photos-{number:05d}.tfrecord"


def next_raw_number(names: Iterable[str]) -> int:
    """The first number that no shard of the local engine has, among these names."""
    numbers = [int(match[1]) for match in map(_OURS.fullmatch, names) if match]
    return max(numbers, default=-1) + 1


def beam_shard_name(piece: str, number: int) -> str:
    """Name of a raw shard of one of Beam's workers, for one piece of its queue."""
    return f"photos-{piece}-{number:05d}.tfrecord"


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
    ledger.request_with(config_hash(run.config, ASKED))
    ledger.plan(documents, seed=run.config.seed)


def raw_folder(run: Run) -> Path:
    """Where raw shards lie until the split."""
    return run.path("dataset").parent / "raw"


def database(run: Run) -> Path:
    """The ledger's SQLite file."""
    return run.path("dataset").with_name("ledger.sqlite")


def stored_as(run: Run) -> str:
    """Name the source and the way in which photos are stored now."""
    return _stored_as(run.config)


def _stored_as(config: Config) -> str:
    return lasting_hash(config, STORED, STORED_AT_FIRST)


def _recorded(run: Run) -> list[str]:
    """Return the names of the way in which ledger and raw shards are stored: today's, then a former one."""
    file = run.path("dataset").with_name("stored_as")
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def _accepted(run: Run) -> set[str]:
    """Return all names of the way in which photos are stored now.

    Until November 2026 `source.demo` counted for every source, so a MongoDB has a former name as well: that of an
    embedded source. Without it, everyone with a MongoDB would fetch all photos again.
    """
    today, recorded = stored_as(run), _recorded(run)
    source = run.config.source.model_copy(update={"uri": "embedded"})
    former = _stored_as(run.config.model_copy(update={"source": source}))
    return {today, former, *(recorded if today in recorded else ())}


def is_stored_alike(run: Run) -> bool:
    """Whether the ledger and the raw shards are of photos stored as they would be now."""
    return not _accepted(run).isdisjoint(_recorded(run))


def finished_shards(run: Run) -> list[Path]:
    """The shards of the last split, if their photos are stored as they would be now."""
    if table_attributes(run.path("assignment")).get("stored_as") not in _accepted(run):
        return []
    return sorted(run.path("dataset").parent.glob("*.tfrecord"))


def discard_other_export(run: Run) -> None:
    """A ledger of other photos, or of photos stored otherwise, must not vouch for these."""
    folder, raw, names = run.path("dataset").parent, raw_folder(run), [stored_as(run)]
    records.finish_publishing(folder)
    if is_stored_alike(run):
        names += [name for name in _recorded(run) if name not in names]  # finished shards may bear a former one
        if names[0] not in _recorded(run):
            print(f"{folder / 'stored_as'}: source.demo no longer counts for a MongoDB; nothing is fetched again")
    else:
        for file in folder.glob("ledger.sqlite*"):
            file.unlink()
        shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True, exist_ok=True)
    (folder / "stored_as").write_text("\n".join(names))


def remove_raw(run: Run) -> None:
    """Removes the raw shards whose photos all lie in finished ones; those fetched since the last split stay."""
    raw = raw_folder(run)
    shards = list(raw.glob(RAW_SHARDS))
    if run.config.phase0.split.keep_raw or not shards or not is_stored_alike(run):
        return
    with Ledger(database(run)) as ledger:
        needed = ledger.only_here(stored_photos(finished_shards(run)))
    for shard in shards:
        if shard.name not in needed:
            shard.unlink()
    if not needed & {shard.name for shard in shards}:
        shutil.rmtree(raw)
