"""Photos stored by earlier exports: raw shards, finished shards, and the ledger of URLs."""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.fingerprint import lasting_hash
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside, table_attributes
from keras_pipeline.core.progress import progress
from keras_pipeline.core.redaction import redact
from keras_pipeline.data import records
from keras_pipeline.ingest import download, mongo
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.ledger import Document, Ledger
from keras_pipeline.phases.phase0_dataset.shard_index import stored_photos

# Keys that decide the bytes of a stored photo. All others may change without fetching it again.
STORED = (
    "source.database", "source.collection", "source.demo",
    "dataset.short_side", "dataset.min_short_side", "dataset.jpeg_quality",
)  # fmt: skip
# The keys in STORED when it was first hashed. Never add one: every project would fetch its photos again.
STORED_AT_FIRST = (
    "source.database", "source.collection", "source.demo.images", "source.demo.labels", "source.demo.species",
    "source.demo.photos", "source.demo.regional_shift", "dataset.short_side", "dataset.min_short_side",
    "dataset.jpeg_quality",
)  # fmt: skip

# Keys that decide whether a URL can be fetched. When one changes, all failed URLs are tried again.
REQUEST = (
    "source.base_url", "source.url_replace", "phase0.export.contact", "phase0.export.max_megabytes",
    "phase0.export.max_redirects", "phase0.export.allow_networks",
)  # fmt: skip
# The same when it was first hashed, as above.
REQUEST_AT_FIRST = tuple(key for key in REQUEST if key != "source.url_replace")

RAW_SHARDS = "photos-*.tfrecord"
_LOCAL = re.compile(r"photos-(\d{5})\.tfrecord")  # shards of the local engine, not of Beam's workers


def raw_shard_name(number: int) -> str:
    """Return the name of a raw shard of the local engine."""
    return f"photos-{number:05d}.tfrecord"


def next_raw_number(names: Iterable[str]) -> int:
    """Return the number of the local engine's next raw shard, after those with these names."""
    numbers = [int(match[1]) for match in map(_LOCAL.fullmatch, names) if match]
    return max(numbers, default=-1) + 1


def beam_shard_name(piece: str, number: int) -> str:
    """Return the name of a raw shard of a Beam worker, for one piece of its queue."""
    return f"photos-{piece}-{number:05d}.tfrecord"


@contextlib.contextmanager
def open_source(run: Run) -> Iterator[tuple[Iterator[Document], str | None]]:
    """Open the source for downloads: (its documents after curation, at least one; base URL).

    Raises SourceError for an empty collection, before anything else is done.
    """
    source = run.config.source
    curation = Curation.load(source)
    with run.source() as (uri, base_url), mongo.open_collection(source, uri) as collection:
        documents = mongo.documents(collection, source)
        documents = itertools.chain([next(documents)], documents)
        read = progress(documents, description="read", unit=entries(run))
        yield download.rows(read, curation, base_url, source.url_replace), base_url


def plan(run: Run, ledger: Ledger, documents: Iterator[Document]) -> None:
    """Update the ledger to the collection and the request settings."""
    ledger.request_with(lasting_hash(run.config, REQUEST, REQUEST_AT_FIRST))
    ledger.plan(documents, seed=run.config.seed)


def write_table(run: Run, name: str, columns: Sequence[str], rows: Iterable[Sequence]) -> Path:
    """Write a CSV into phase 0's folder of tables; return its path."""
    file = run.path("url_ledger").parent / "tables" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with aside(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(row[: len(columns)] for row in rows)
    return file


def entries(run: Run) -> str:
    """Return what a row of the ledger is: one of the `photos` of a document's lists, or one of the `documents`."""
    return "photos" if run.config.source.photos else "documents"


def shared_redirects(run: Run, ledger: Ledger) -> Iterator[str]:
    """Write the URLs to which photos of several species were redirected, and yield a line on the commonest."""
    rows = ledger.shared_redirects()
    file = write_table(run, "shared_redirects.csv", ("url", entries(run), "species"), rows)
    if rows:
        url, n, species = rows[0]
        more = f", and {len(rows) - 1} more such URLs" if len(rows) > 1 else ""
        yield (
            f"{n} {entries(run)} of {species} species were redirected to one URL, {redact(url)}{more}; is that a "
            f"picture which says that there is no photo? See {file}"
        )


def raw_folder(run: Run) -> Path:
    """Return the folder of the raw shards, which exist until the split."""
    return run.path("dataset").parent / "raw"


def database(run: Run) -> Path:
    """Return the path of the ledger's SQLite file."""
    return run.path("dataset").with_name("ledger.sqlite")


def refetch_database(run: Run) -> Path:
    """Return the path of the ledger of photos that are fetched again for today's rule."""
    return run.path("dataset").with_name("refetch.sqlite")


def stored_as(run: Run) -> str:
    """Return a hash of the source and of the settings with which photos are stored now."""
    return _stored_as(run.config)


def _stored_as(config: Config) -> str:
    return lasting_hash(config, STORED, STORED_AT_FIRST)


def _recorded(run: Run) -> list[str]:
    """Return the hashes recorded for the ledger and the raw shards: today's form, then a former one."""
    file = run.path("dataset").with_name("stored_as")
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def _accepted(run: Run) -> set[str]:
    """Return all hashes that stand for the present settings.

    Until November 2026 `source.demo` counted for every source, so a MongoDB has a former hash as well: that of an
    embedded source. Without it, every project with a MongoDB would fetch all photos again.
    """
    today, recorded = stored_as(run), _recorded(run)
    source = run.config.source.model_copy(update={"uri": "embedded"})
    former = _stored_as(run.config.model_copy(update={"source": source}))
    return {today, former, *(recorded if today in recorded else ())}


def is_stored_alike(run: Run) -> bool:
    """Return whether the ledger and the raw shards hold photos stored with the present settings."""
    return not _accepted(run).isdisjoint(_recorded(run))


def finished_shards(run: Run) -> list[Path]:
    """Return the shards of the last split, if their photos are stored with the present settings.

    Raises:
        BrokenArtefact: if nothing tells with which settings they are stored. To fetch their photos again, and then to
            remove them, would lose those that their hosts no longer have.
    """
    file = run.path("assignment")
    shards = sorted(file.parent.glob("*.tfrecord"))
    known = table_attributes(file).get("stored_as")
    if shards and known is None:
        raise BrokenArtefact(
            f"{file}: received {'a damaged file' if file.exists() else 'none'}, expected the one that `phase0 split` "
            f"wrote with the {len(shards)} shards beside it: it alone tells with which settings their photos are "
            "stored; put it back. Without a copy of it, move the shards elsewhere first: `phase0 export --force` then "
            "fetches all photos again"
        )
    return shards if known in _accepted(run) else []


def discard_other_export(run: Run) -> None:
    """Remove the ledger and raw shards of another source, or of photos stored with other settings."""
    folder, raw, names = run.path("dataset").parent, raw_folder(run), [stored_as(run)]
    records.finish_publishing(folder)
    if is_stored_alike(run):
        names += [name for name in _recorded(run) if name not in names]  # finished shards may have a former one
        if names[0] not in _recorded(run):
            print(f"{folder / 'stored_as'}: source.demo no longer counts for a MongoDB; nothing is fetched again")
    else:
        for file in [*folder.glob("ledger.sqlite*"), *folder.glob("refetch.sqlite*")]:
            file.unlink()
        shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True, exist_ok=True)
    (folder / "stored_as").write_text("\n".join(names))


def remove_raw(run: Run) -> None:
    """Remove the raw shards whose photos are all in finished ones; shards fetched since the last split stay."""
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
