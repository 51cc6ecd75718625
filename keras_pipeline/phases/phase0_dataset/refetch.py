"""`phase0 export --refetch-older-records`: fetch photos again whose records follow an older rule, and lose none.

A ledger of its own holds their downloads, so that in the export's ledger they stay stored all the time. The split takes
the record of the newest rule; where there is no new one, the old one stays.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator

import pandas as pd

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.record import RULE
from keras_pipeline.core.redaction import without_credentials
from keras_pipeline.data import records
from keras_pipeline.ingest import download
from keras_pipeline.ingest.ledger import Ledger
from keras_pipeline.phases.phase0_dataset.shard_index import index_shards
from keras_pipeline.phases.phase0_dataset.stored import (
    RAW_SHARDS,
    finished_shards,
    next_raw_number,
    plan,
    raw_folder,
    raw_shard_name,
    refetch_database,
    write_table,
)

IDENTITY = ["sample_id", "sha256"]  # of a stored photo
KEPT = ("sample_id", "latin_name", "url", "rule", "reason")  # columns of older_records.csv


def take_in(run: Run, ledger: Ledger) -> None:
    """Record in the export's ledger what was fetched again, in this run or in one that was killed.

    To be called before raw shards that the ledger does not know are removed.
    """
    if refetch_database(run).exists():
        with Ledger(refetch_database(run)) as again:
            # After a kill between the two, both are done once more.
            ledger.move_records((outcome for outcome in again.outcomes() if outcome.state == "ok"), RULE)
            again.forget_stored()


def describe(run: Run, ledger: Ledger) -> str:
    """Return what a dry run says: how many photos would be asked for again."""
    return f"{len(_photos_of_older_rules(run, ledger)):,} photos have a record of an older rule, to be fetched again"


def fetch_older(
    run: Run, ledger: Ledger, convert: Callable, *, base_url: str | None, given_up: dict[str, str]
) -> list[str]:
    """Fetch again what follows an older rule, list the photos that keep their old record, and return what to say.

    A photo keeps its old record where its host sends none, another file, or one that is refused today.

    Args:
        convert: see `photo.converter`.
        given_up: {host: reason} of hosts to leave alone; hosts given up now are added.

    Raises:
        SourceError: too little space for the new shards.
        BrokenArtefact: naming a corrupt shard.
    """
    older = _photos_of_older_rules(run, ledger)
    if older.empty:
        return ["no record follows an older rule; nothing is fetched again"]
    _check_space(run, int(older.length.sum()))
    raw, source = raw_folder(run), run.config.source
    numbers = itertools.count(next_raw_number([*ledger.shards(), *(shard.name for shard in raw.glob(RAW_SHARDS))]))

    def open_shard() -> tuple[str, records.ShardWriter]:
        name = raw_shard_name(next(numbers))
        return name, records.ShardWriter(raw / name)

    with Ledger(refetch_database(run)) as again:
        plan(run, again, (document for document, _ in ledger.stored() if document.sample_id in older.index))
        asked = again.count("waiting")
        print(f"{len(older):,} photos have a record of an older rule; {asked:,} are asked for again", flush=True)
        download.fetch_photos(
            again,
            run.config.phase0.export,
            base_url=base_url,
            url_replace=source.url_replace,
            own=source.serves_photos,
            convert=convert,
            encode=records.encode,
            open_shard=open_shard,
            shard_bytes=run.config.dataset.shard_megabytes * 1e6,
            given_up=given_up,
            again=older.sha256.to_dict(),
        )
        kept = [(id, name, without_credentials(url), older.rule[id], why) for id, name, url, why in again.failed()]
        later = again.may_succeed_later()
    take_in(run, ledger)
    return [*_closing(run, len(older), kept, later)]


def _photos_of_older_rules(run: Run, ledger: Ledger) -> pd.DataFrame:
    """Return sha256, rule and length (bytes) of the stored photos without a record of today's rule, by sample_id."""
    index = index_shards([*sorted(raw_folder(run).glob(RAW_SHARDS)), *finished_shards(run)])
    stored = pd.DataFrame(((each.sample_id, sha256) for each, sha256 in ledger.stored()), columns=IDENTITY, dtype=str)
    newest = index.sort_values("rule").drop_duplicates(IDENTITY, keep="last")
    found = stored.merge(newest[[*IDENTITY, "rule", "length"]], on=IDENTITY).set_index("sample_id")
    return found[found.rule < RULE]


def _check_space(run: Run, size: int) -> None:
    free, needed = shutil.disk_usage(raw_folder(run)).free, 2 * size  # raw and final shards
    if needed > free:
        raise SourceError(
            f"--refetch-older-records: received {free / 1e9:.2f} GB of free space, expected {needed / 1e9:.2f} GB; "
            "free some space, then run the same again"
        )


def _closing(run: Run, older: int, kept: list[tuple], later: int) -> Iterator[str]:
    file, done = write_table(run, "older_records.csv", KEPT, kept), older - len(kept)
    yield f"{done:,} of {older:,} photos fetched again; {len(kept):,} keep their old record, see {file}"
    for reason, n in Counter(row[-1] for row in kept).most_common():
        yield f"  {n:,}: {reason}"
    if done:
        yield "`phase0 split` takes the new records; photos keep their splits"
    if later:
        yield f"{later:,} of the old ones may yet be replaced: the same command asks for these again"
