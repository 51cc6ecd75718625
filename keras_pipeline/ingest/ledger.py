"""The ledger: one row per document, with its fields and the outcome of its download. SQLite, and parquet at the end.

The ledger is also the download queue, host by host: rows in state `waiting` are still to be fetched. So neither the
MongoDB cursor nor the list of documents in memory has to last as long as the downloads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.ingest import details, ledger_file, ledger_queries, ledger_table
from keras_pipeline.ingest.signing import unsigned

STATES = ("waiting", "ok", "failed", "skipped")
SHARED = 3  # species whose photos have one URL: it is perhaps a placeholder
BATCH = 2000  # rows per transaction or parquet row group
OVER_OBSERVATION = "over source.max_per_observation"
OVER_SPECIES = "over source.max_per_species"
UNDER_SPECIES = "under source.min_per_species"
NOT_SAMPLED = "not in the sample"
SAME_URL = "the same URL as "  # and the sample_id of the document whose photo counts


@dataclasses.dataclass(frozen=True)
class Document:
    """The fields of a source document after `curation`, and whether it is to be fetched."""

    sample_id: str
    url: str = ""  # as in the document
    latin_name: str = ""
    region: str = ""
    observation_id: str = ""
    user_id: str = ""
    day: str = ""  # YYYY-MM-DD
    latitude: float | None = None  # degrees
    longitude: float | None = None  # degrees
    license: str = ""
    attribution: str = ""
    state: str = "waiting"  # waiting | skipped | failed
    reason: str = ""
    host: str = ""
    address: str = ""  # of the photo, see `urls.address`: one request serves all documents that have it
    details: dict[str, str] = dataclasses.field(default_factory=dict)  # kept by species, not by photo


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one row in this run."""

    sample_id: str
    state: str  # ok | failed
    reason: str = ""
    http_status: int | None = None
    bytes: int = 0
    sha256: str = ""  # of the downloaded bytes; only of stored photos
    attempts: int = 0
    may_succeed: bool = False  # on a later run: timeouts, refused connections, 403, 429, 5xx, pages
    shard: str = ""
    redirected_to: str = ""  # as an address
    cut_off: bool = False  # an answer that came whole, with a file that does not: the host's file, or a bad hour of it


@dataclasses.dataclass(frozen=True)
class Task:
    """A URL to request, and the waiting rows that need it, one for each latin name."""

    rowid: int  # of the first
    documents: tuple[Document, ...]

    @property
    def document(self) -> Document:
        """The first of the documents, whose URL is requested."""
        return self.documents[0]


FIELDS = [field.name for field in dataclasses.fields(Document) if field.name not in ("state", "reason", "details")]
RESULTS = [field.name for field in dataclasses.fields(Outcome) if field.name not in ("sample_id", "cut_off")]
# The parquet file's columns in order, with Arrow types. All others are internal to a run.
COLUMNS = {name: "string" for name in FIELDS if name not in ("latitude", "longitude", "host", "address")} | {
    "latitude": "double", "longitude": "double", "state": "string", "reason": "string", "http_status": "int32",
    "bytes": "int64", "sha256": "string", "attempts": "int32", "may_succeed": "bool",
}  # fmt: skip
TABLE = f"""
CREATE TABLE IF NOT EXISTS photos (
    {", ".join(FIELDS)}, state, reason DEFAULT '', http_status, bytes DEFAULT 0, sha256 DEFAULT '', attempts DEFAULT 0,
    may_succeed DEFAULT 0, shard DEFAULT '', redirected_to DEFAULT '', refetched_rule, draw INTEGER, pass INTEGER,
    PRIMARY KEY (sample_id)
);
CREATE TABLE IF NOT EXISTS asked_with (settings);
{details.TABLE}
"""
# Columns that a ledger may lack, because an older program made it, with their defaults.
ADDED = {"address": "''", "redirected_to": "''", "refetched_rule": "NULL"}
INDEX = "CREATE INDEX IF NOT EXISTS waiting_urls ON photos (host, address) WHERE state = 'waiting'"
# The newest URL is kept for the next request, but one that is only signed anew names the same photo.
ANOTHER_URL = "url <> excluded.url AND unsigned(url) <> unsigned(excluded.url)"
# A stored photo stays stored while its URL is the same, even if other fields of its document change.
PLAN = f"""
INSERT INTO photos ({", ".join(FIELDS)}, state, reason, draw, pass) VALUES ({", ".join("?" * (len(FIELDS) + 4))})
ON CONFLICT (sample_id) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in FIELDS[1:])}, draw = excluded.draw, pass = excluded.pass,
    state = CASE WHEN excluded.state <> 'waiting' THEN excluded.state
                 WHEN {ANOTHER_URL} THEN 'waiting'
                 WHEN state = 'ok' OR sha256 <> '' THEN 'ok'
                 WHEN state = 'failed' AND NOT may_succeed THEN 'failed'
                 ELSE 'waiting' END,
    reason = CASE WHEN excluded.state = 'waiting' AND state = 'failed' AND NOT may_succeed AND NOT ({ANOTHER_URL})
                  THEN reason ELSE excluded.reason END,
    sha256 = CASE WHEN {ANOTHER_URL} THEN '' ELSE sha256 END,
    refetched_rule = CASE WHEN {ANOTHER_URL} THEN NULL ELSE refetched_rule END
"""


class Ledger:
    """SQLite in WAL mode: a commit survives kill -9.

    As a context manager, raises SourceError for a full disk and BrokenArtefact for a file that is not a ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path)

    def __enter__(self) -> Ledger:
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(TABLE)
            known = {name for _, name, *_ in self._db.execute("PRAGMA table_info(photos)")}
            for name in set(ADDED) - known:
                self._db.execute(f"ALTER TABLE photos ADD COLUMN {name} DEFAULT {ADDED[name]}")
            self._db.execute(INDEX)
            self._db.create_function("unsigned", 1, unsigned, deterministic=True)
        except sqlite3.Error as error:
            self._db.close()
            raise self._explained(error) from error
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error) -> Exception:
        if isinstance(error, sqlite3.OperationalError):  # the disk's fault, not the contents'
            return SourceError(f"{self._path}: {error}; make room on the disk or check it, then run the same again")
        return BrokenArtefact(ledger_file.explained(self._path, error))

    def plan(self, documents: Iterable[Document], *, seed: int) -> None:
        """Update the ledger to the current collection.

        New documents wait, changed ones are updated, and vanished ones are removed. Failed rows that may succeed wait
        again. After a kill, the next call does all of it again.

        Raises ValueError if two documents have the same sample_id.
        """
        (last,) = self._db.execute("SELECT COALESCE(MAX(pass), 0) FROM photos").fetchone()
        iterator, read = iter(documents), 0
        with self._db:
            self._db.execute("DELETE FROM details")
        while batch := list(itertools.islice(iterator, BATCH)):
            read += len(batch)
            with self._db:
                self._db.executemany(PLAN, (_values(document, seed, last + 1) for document in batch))
                details.add(self._db, batch)
        (different,) = self._db.execute("SELECT COUNT(*) FROM photos WHERE pass > ?", (last,)).fetchone()
        if different < read:
            raise ValueError(
                f"received {read} documents with {different} different _ids as texts (7 and '7' are the same), "
                "expected a different one for each; give them other _ids, or leave some out with source.query"
            )
        with self._db:
            self._db.execute("DELETE FROM photos WHERE pass <= ?", (last,))

    def request_with(self, settings: str) -> None:
        """Let all failed rows wait again if the request settings have changed. To be called before `plan`."""
        before = self._db.execute("SELECT settings FROM asked_with").fetchall()
        if before == [(settings,)]:
            return
        with self._db:
            self._db.execute("UPDATE photos SET may_succeed = 1 WHERE state = 'failed'")
            self._db.execute("DELETE FROM asked_with")
            self._db.execute("INSERT INTO asked_with VALUES (?)", (settings,))

    def choose(self, *, max_per_observation: int | None, max_per_species: int | None, min_per_species: int = 1) -> None:
        """Leave out repeated URLs, then limit the waiting rows: stored photos count first, then rows in seeded order.

        Failed rows don't count, so that another call fills up their places; they do count for the minimum. A URL of
        two names in one observation is one photo.

        Raises ValueError if the minimum leaves fewer than two species.
        """
        with self._db:
            self._db.execute(
                "UPDATE photos SET state = IIF(sha256 = '', 'waiting', 'ok'), reason = '' WHERE reason IN (?, ?, ?)",
                (OVER_OBSERVATION, OVER_SPECIES, UNDER_SPECIES),
            )
            self._skip_repeated("address, latin_name")
            if min_per_species > 1:
                ledger_queries.leave_out_under(self._db, min_per_species, UNDER_SPECIES)
            for place, most, reason in (
                (ledger_queries.OF_OBSERVATION, max_per_observation, OVER_OBSERVATION),
                (ledger_queries.OF_SPECIES, max_per_species, OVER_SPECIES),
            ):
                if most is not None:
                    over = f"SELECT id FROM ({place}) WHERE place > ?"
                    self._db.execute(
                        f"UPDATE photos SET state = 'skipped', reason = ? WHERE rowid IN ({over})", (reason, most)
                    )

    def skip_repeated_urls(self) -> None:
        """Leave out all rows but one of every URL, whatever their names."""
        with self._db:
            self._skip_repeated("address")

    def _skip_repeated(self, columns: str) -> None:
        """Skip all rows but one of those that agree in `columns`: a stored one counts, else one requested before.

        What was decided by an earlier call and still holds is not written again.
        """
        self._db.execute(ledger_queries.REPEATED.format(columns=columns, same=SAME_URL))

    def sample(self, n: int) -> None:
        """Keep the first n rows in seeded order, and skip all others."""
        with self._db:
            self._db.execute(
                "UPDATE photos SET state = 'skipped', reason = ? WHERE state <> 'skipped' AND rowid NOT IN "
                "(SELECT rowid FROM photos WHERE state <> 'skipped' ORDER BY draw LIMIT ?)",
                (NOT_SAMPLED, n),
            )

    def hosts(self) -> list[tuple[str, int]]:
        """Return (host, number of URLs to request), the longest queue first."""
        return self._db.execute(
            "SELECT host, COUNT(DISTINCT IIF(address = '', rowid, address)) AS n FROM photos WHERE state = 'waiting' "
            "GROUP BY host ORDER BY n DESC, host"
        ).fetchall()

    def in_use(self, replace: Mapping[str, str]) -> ledger_queries.InUse:
        """Return what of the config's texts, hosts and details the photos have; `replace` is `source.url_replace`."""
        return ledger_queries.in_use(self._db, replace)

    def waiting(self, host: str) -> Iterator[Task]:
        """Yield the URLs of one host that rows wait for, each once."""
        for _, rows in itertools.groupby(self._waiting(host), key=lambda row: row[1].address or row[0]):
            (rowid, first), *others = rows
            yield Task(rowid, (first, *(document for _, document in others)))

    def _waiting(self, host: str) -> Iterator[tuple[int, Document]]:
        names, last = [*FIELDS, "state", "reason"], ("", -1)
        query = f"""
            SELECT rowid, {", ".join(names)} FROM photos
            WHERE state = 'waiting' AND host = ? AND (address, rowid) > (?, ?) ORDER BY address, rowid LIMIT 64
        """
        while rows := self._db.execute(query, (host, *last)).fetchall():
            for rowid, *values in rows:
                document = Document(**dict(zip(names, values, strict=True)))
                last = (document.address, rowid)
                yield rowid, document

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Record outcomes in one transaction."""
        added = {"attempts": "attempts + :attempts", "may_succeed": ledger_queries.AGAIN}
        changes = ", ".join(f"{name} = {added.get(name, f':{name}')}" for name in RESULTS)
        with self._db:
            self._db.executemany(f"UPDATE photos SET {changes} WHERE sample_id = :sample_id", map(vars, outcomes))

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcome of each row that was requested."""
        for row in self._db.execute(
            f"SELECT sample_id, {', '.join(RESULTS)} FROM photos WHERE state IN ('ok', 'failed')"
        ):
            found = Outcome(*row)
            yield dataclasses.replace(found, may_succeed=bool(found.may_succeed))

    def species_without_photo(self) -> list[tuple[str, int, str]]:
        """Return (latin name, documents, their commonest reason) of the species of which nothing is stored."""
        return self._db.execute(ledger_queries.WITHOUT_PHOTO).fetchall()

    def shared_redirects(self) -> list[tuple[str, int, int]]:
        """Return (URL, documents, species) of what photos of several species were redirected to.

        That is often a picture which says that there is no photo.
        """
        return self._db.execute(ledger_queries.SHARED_REDIRECTS, (SHARED,)).fetchall()

    def give_up(self, host: str, reason: str) -> int:
        """Postpone this host's waiting rows to another run; return their number."""
        with self._db:
            return self._db.execute(
                "UPDATE photos SET state = 'failed', reason = ?, may_succeed = 1 WHERE state = 'waiting' AND host = ?",
                (reason, host),
            ).rowcount

    def shards(self) -> dict[str, int]:
        """Return the number of wanted photos per shard; 0 if all of its documents are left out for now."""
        return dict(self._db.execute("SELECT shard, SUM(state = 'ok') FROM photos WHERE shard <> '' GROUP BY shard"))

    def fetch_again(self, shards: Iterable[str], *, except_for: Iterable[tuple[str, str]]) -> int:
        """Let the photos of missing shards wait again, except those (sample_id, sha256) that are stored elsewhere.

        Returns their number.
        """
        with self._db:
            ledger_queries.know_elsewhere(self._db, except_for)
            return sum(self._db.execute(ledger_queries.LOST, (shard,)).rowcount for shard in shards)

    def stored(self) -> Iterator[tuple[Document, str]]:
        """Yield (document, to be fetched again; sha256) of each stored photo."""
        for *values, sha256 in self._db.execute(f"SELECT {', '.join(FIELDS)}, sha256 FROM photos WHERE state = 'ok'"):
            yield Document(**dict(zip(FIELDS, values, strict=True))), sha256

    def failed(self) -> list[tuple[str, str, str, str]]:
        """Return (sample_id, latin name, url, reason) of the failed rows by sample_id; a URL may hold a password."""
        query = "SELECT sample_id, latin_name, url, reason FROM photos WHERE state = 'failed' ORDER BY sample_id"
        return self._db.execute(query).fetchall()

    def move_records(self, outcomes: Iterable[Outcome], rule: int) -> None:
        """Note the shards of photos that were fetched again, where they are still the same file, and their new rule."""
        moved = "UPDATE photos SET shard = ?, refetched_rule = ? WHERE sample_id = ? AND sha256 = ?"
        with self._db:
            self._db.executemany(moved, ((each.shard, rule, each.sample_id, each.sha256) for each in outcomes))

    def forget_stored(self) -> None:
        """Remove the rows of stored photos, once another ledger has them."""
        with self._db:
            self._db.execute("DELETE FROM photos WHERE state = 'ok'")

    def only_here(self, elsewhere: Iterable[tuple[str, str]]) -> set[str]:
        """Return the shards with a wanted photo that is not elsewhere; photos are (sample_id, sha256)."""
        ledger_queries.know_elsewhere(self._db, elsewhere)
        return {name for (name,) in self._db.execute(ledger_queries.ONLY_HERE)}

    def count(self, state: str) -> int:
        """Return the number of documents in a state."""
        return self._db.execute("SELECT COUNT(*) FROM photos WHERE state = ?", (state,)).fetchone()[0]

    def may_succeed_later(self) -> int:
        """Return the number of failed rows that another run asks for again."""
        return self._db.execute("SELECT COUNT(*) FROM photos WHERE state = 'failed' AND may_succeed").fetchone()[0]

    def stored_under_several_names(self) -> int:
        """Return the number of URLs whose photo is stored under more than one latin name."""
        return self._db.execute(ledger_queries.SEVERAL_NAMES).fetchone()[0]

    def photo_bytes(self) -> float | None:
        """Return the mean size in bytes of the photos as they were downloaded, None if none was."""
        return self._db.execute("SELECT AVG(bytes) FROM photos WHERE state = 'ok'").fetchone()[0]

    def copy(self, path: Path) -> None:
        """Copy the ledger to another file, also while this one is written to."""
        target = sqlite3.connect(path)
        self._db.backup(target)
        target.close()

    def tally(self, *columns: str) -> list[tuple]:
        """Count rows by columns such as state and reason: (value of each, number), most frequent first."""
        names = ", ".join(columns)
        query = f"SELECT {names}, COUNT(*) AS n FROM photos GROUP BY {names} ORDER BY n DESC, {names}"
        return self._db.execute(query).fetchall()

    def write_parquet(self, path: Path) -> None:
        """Write all rows by sample_id, see `ledger_table.write`."""
        ledger_table.write(self._db, path, COLUMNS, batch=BATCH)


def _values(document: Document, seed: int, number: int) -> tuple:
    draw = hashlib.blake2b(f"{seed}:{document.sample_id}".encode(), digest_size=8).digest()
    fields = (getattr(document, name) for name in FIELDS)
    return (*fields, document.state, document.reason, int.from_bytes(draw, signed=True), number)
