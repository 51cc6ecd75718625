"""The ledger: one row per document, with its fields and the outcome of its download. SQLite, and parquet at the end.

The ledger is also the download queue, host by host: rows in state `waiting` are still to be fetched. So neither the
MongoDB cursor nor the list of documents in memory has to last as long as the downloads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.core.files import aside
from keras_pipeline.core.redaction import without_credentials
from keras_pipeline.ingest import details
from keras_pipeline.ingest.signing import unsigned

STATES = ("waiting", "ok", "failed", "skipped")
BATCH = 2000  # rows per transaction or parquet row group
OVER_OBSERVATION = "over source.max_per_observation"
OVER_SPECIES = "over source.max_per_species"
UNDER_SPECIES = "under source.min_per_species"
NOT_SAMPLED = "not in the sample"


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
    may_succeed: bool = False  # on a later run: timeouts, refused connections, 429, 5xx
    shard: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """A waiting row."""

    rowid: int
    document: Document


FIELDS = [field.name for field in dataclasses.fields(Document) if field.name not in ("state", "reason", "details")]
RESULTS = [field.name for field in dataclasses.fields(Outcome) if field.name != "sample_id"]
# The parquet file's columns in order, with Arrow types. `host`, `shard`, `draw` and `pass` are internal to a run.
COLUMNS = {name: "string" for name in FIELDS if name not in ("latitude", "longitude", "host")} | {
    "latitude": "double", "longitude": "double", "state": "string", "reason": "string", "http_status": "int32",
    "bytes": "int64", "sha256": "string", "attempts": "int32", "may_succeed": "bool",
}  # fmt: skip
TABLE = f"""
CREATE TABLE IF NOT EXISTS photos (
    {", ".join(FIELDS)}, state, reason DEFAULT '', http_status, bytes DEFAULT 0, sha256 DEFAULT '', attempts DEFAULT 0,
    may_succeed DEFAULT 0, shard DEFAULT '', draw INTEGER, pass INTEGER, PRIMARY KEY (sample_id)
);
CREATE INDEX IF NOT EXISTS waiting ON photos (host) WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS asked_with (settings);
{details.TABLE}
"""
# A stored photo stays stored while its URL is the same, even if other fields of its document change.
PLAN = f"""
INSERT INTO photos ({", ".join(FIELDS)}, state, reason, draw, pass) VALUES ({", ".join("?" * (len(FIELDS) + 4))})
ON CONFLICT (sample_id) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in FIELDS[1:])}, draw = excluded.draw, pass = excluded.pass,
    state = CASE WHEN excluded.state <> 'waiting' THEN excluded.state
                 WHEN url <> excluded.url THEN 'waiting'
                 WHEN state = 'ok' OR sha256 <> '' THEN 'ok'
                 WHEN state = 'failed' AND NOT may_succeed THEN 'failed'
                 ELSE 'waiting' END,
    reason = CASE WHEN excluded.state = 'waiting' AND url = excluded.url AND state = 'failed' AND NOT may_succeed
                  THEN reason ELSE excluded.reason END,
    sha256 = CASE WHEN url = excluded.url THEN sha256 ELSE '' END
"""
NOT_ELSEWHERE = "state = 'ok' AND (sample_id, sha256) NOT IN (SELECT sample_id, sha256 FROM elsewhere)"


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
        return BrokenArtefact(
            f"{self._path}: {error}; remove it and its -wal and -shm files, then run the step again with --force: all "
            "photos are fetched again"
        )

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
        """Limit the waiting rows: stored photos count first, then rows in seeded order.

        Failed rows don't count, so that another call fills up their places; they do count for the minimum.

        Raises ValueError if the minimum leaves fewer than two species.
        """
        with self._db:
            self._db.execute(
                "UPDATE photos SET state = IIF(sha256 = '', 'waiting', 'ok'), reason = '' WHERE reason IN (?, ?, ?)",
                (OVER_OBSERVATION, OVER_SPECIES, UNDER_SPECIES),
            )
            if min_per_species > 1:
                self._leave_out_under(min_per_species)
            for column, most, reason in (
                ("observation_id", max_per_observation, OVER_OBSERVATION),
                ("latin_name", max_per_species, OVER_SPECIES),
            ):
                if most is not None:
                    self._db.execute(_over(column), (reason, most))

    def _leave_out_under(self, least: int) -> None:
        photos = "SELECT latin_name, COUNT(DISTINCT unsigned(url)) AS n FROM photos WHERE state <> 'skipped' GROUP BY 1"
        counts = f"SELECT COUNT(*), COALESCE(SUM(n >= ?), 0) FROM ({photos})"
        species, left = self._db.execute(counts, (least,)).fetchone()
        if left < 2 <= species:
            raise ValueError(
                f"source.min_per_species: received {least}, which leaves {left} of {species} species; expected two or "
                "more; lower it"
            )
        self._db.execute(
            "UPDATE photos SET state = 'skipped', reason = ? WHERE state IN ('ok', 'waiting') AND latin_name IN "
            f"(SELECT latin_name FROM ({photos}) WHERE n < ?)",
            (UNDER_SPECIES, least),
        )

    def sample(self, n: int) -> None:
        """Keep the first n rows in seeded order, and skip all others."""
        with self._db:
            self._db.execute(
                "UPDATE photos SET state = 'skipped', reason = ? WHERE state <> 'skipped' AND rowid NOT IN "
                "(SELECT rowid FROM photos WHERE state <> 'skipped' ORDER BY draw LIMIT ?)",
                (NOT_SAMPLED, n),
            )

    def hosts(self) -> list[tuple[str, int]]:
        """Return (host, number of waiting rows), the longest queue first."""
        return self._db.execute(
            "SELECT host, COUNT(*) AS n FROM photos WHERE state = 'waiting' GROUP BY host ORDER BY n DESC, host"
        ).fetchall()

    def waiting(self, host: str) -> Iterator[Task]:
        """Yield the waiting rows of one host, in order of their documents."""
        names, last = [*FIELDS, "state", "reason"], -1
        query = f"""
            SELECT rowid, {", ".join(names)} FROM photos WHERE state = 'waiting' AND host = ? AND rowid > ?
            ORDER BY rowid LIMIT 64
        """
        while rows := self._db.execute(query, (host, last)).fetchall():
            for last, *values in rows:
                yield Task(last, Document(**dict(zip(names, values, strict=True))))

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Record outcomes in one transaction."""
        changes = ", ".join("attempts = attempts + ?" if name == "attempts" else f"{name} = ?" for name in RESULTS)
        values = [(*map(vars(outcome).get, RESULTS), outcome.sample_id) for outcome in outcomes]
        with self._db:
            self._db.executemany(f"UPDATE photos SET {changes} WHERE sample_id = ?", values)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcome of each row that was requested."""
        for row in self._db.execute(
            f"SELECT sample_id, {', '.join(RESULTS)} FROM photos WHERE state IN ('ok', 'failed')"
        ):
            found = Outcome(*row)
            yield dataclasses.replace(found, may_succeed=bool(found.may_succeed))

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
            self._know_elsewhere(except_for)
            lost = "UPDATE photos SET state = 'waiting', sha256 = '' WHERE shard = ? AND " + NOT_ELSEWHERE
            return sum(self._db.execute(lost, (shard,)).rowcount for shard in shards)

    def only_here(self, elsewhere: Iterable[tuple[str, str]]) -> set[str]:
        """Return the shards with a wanted photo that is not elsewhere; photos are (sample_id, sha256)."""
        self._know_elsewhere(elsewhere)
        return {name for (name,) in self._db.execute(f"SELECT DISTINCT shard FROM photos WHERE {NOT_ELSEWHERE}")}

    def _know_elsewhere(self, photos: Iterable[tuple[str, str]]) -> None:
        self._db.execute(
            "CREATE TEMP TABLE IF NOT EXISTS elsewhere (sample_id, sha256, PRIMARY KEY (sample_id, sha256))"
        )
        self._db.execute("DELETE FROM elsewhere")
        self._db.executemany("INSERT OR IGNORE INTO elsewhere VALUES (?, ?)", photos)

    def count(self, state: str) -> int:
        """Return the number of documents in a state."""
        return self._db.execute("SELECT COUNT(*) FROM photos WHERE state = ?", (state,)).fetchone()[0]

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
        """Write all rows by sample_id, without passwords in URLs; in row groups, so that memory stays constant.

        The species' details, if there are any, stand in the file's metadata.
        """
        columns = [(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
        schema = pa.schema(columns, metadata=details.metadata(self._db) or None)
        rows = self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM photos ORDER BY sample_id")
        with aside(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            while batch := rows.fetchmany(BATCH):
                values: dict[str, Iterable] = dict(zip(COLUMNS, zip(*batch, strict=True), strict=True))
                values["url"] = map(without_credentials, values["url"])
                values["may_succeed"] = map(bool, values["may_succeed"])
                writer.write_batch(pa.record_batch([pa.array(values[f.name], f.type) for f in schema], schema=schema))


def _values(document: Document, seed: int, number: int) -> tuple:
    draw = hashlib.blake2b(f"{seed}:{document.sample_id}".encode(), digest_size=8).digest()
    fields = (getattr(document, name) for name in FIELDS)
    return (*fields, document.state, document.reason, int.from_bytes(draw, signed=True), number)


def _over(column: str) -> str:
    return f"""
    UPDATE photos SET state = 'skipped', reason = ? WHERE rowid IN (
        SELECT id FROM (
            SELECT rowid AS id, ROW_NUMBER() OVER (PARTITION BY {column} ORDER BY sha256 = '', draw) AS place
            FROM photos WHERE state IN ('ok', 'waiting') AND {column} <> ''
        ) WHERE place > ?)
    """
