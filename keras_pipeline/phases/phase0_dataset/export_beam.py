"""`phase0 export --runner beam`: the local engine's downloads, one host's queue per worker.

Rate limits are per host, so a host is the unit of work and its worker keeps to its rate. (A redirect counts only in
the worker that follows it.) Our own server needs no rate limit, so its queue is split into parts. A worker stores each
finished piece: raw shards, and a file of outcomes that the ledger takes in, also after a kill.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_pipeline.core.config.phase0 import Export
from keras_pipeline.core.config.source import Dataset
from keras_pipeline.core.files import aside
from keras_pipeline.data import photo, records
from keras_pipeline.ingest import download
from keras_pipeline.ingest.ledger import Document, Ledger, Outcome
from keras_pipeline.phases.phase0_dataset.stored import beam_shard_name

PIECE = 2000  # URLs per file of outcomes
PARTS = 64  # parts of our own server's queue


@dataclasses.dataclass(frozen=True)
class Fetching:
    """What a worker needs to know."""

    raw: Path
    settings: Export
    dataset: Dataset
    base_url: str | None
    url_replace: dict[str, str]
    own_host: str  # "" if no host is ours


def write_queues(ledger: Ledger, folder: Path, own_host: str) -> list[str]:
    """Write a file with one URL's documents per line for every waiting host; return the files' names."""
    for host, _ in ledger.hosts():
        files: dict[Path, list[str]] = {}
        for task in ledger.waiting(host):
            part = int(_short(task.document.sample_id), 16) % PARTS if host == own_host else 0
            line = json.dumps([dataclasses.asdict(document) for document in task.documents])
            files.setdefault(folder / f"{_short(host)}-{part:02d}.jsonl", []).append(line)
            if sum(map(len, files.values())) >= PIECE:
                _append(files)
        _append(files)
    return sorted(map(str, folder.glob("*.jsonl")))


def _append(files: dict[Path, list[str]]) -> None:
    for path, lines in files.items():
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    files.clear()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fetch_queue(work: Fetching, queue: str) -> dict:
    """Fetch one queue. Return {queue, pieces}."""
    given_up: dict[str, str] = {}
    pieces = 0
    for piece in _pieces(Path(queue)):
        pieces += 1
        name = _short("\n".join(document.sample_id for document in piece))
        outcomes = work.raw / f"outcomes-{name}.jsonl"
        if not outcomes.exists():  # else this queue is assigned again: its first worker was lost
            _fetch(work, piece, name, outcomes, given_up)
    return {"queue": Path(queue).name, "pieces": pieces}


def _pieces(queue: Path) -> Iterator[list[Document]]:
    with queue.open(encoding="utf-8") as lines:
        while piece := list(itertools.islice(lines, PIECE)):
            yield [Document(**values) for line in piece for values in json.loads(line)]


def _fetch(work: Fetching, piece: list[Document], name: str, outcomes: Path, given_up: dict[str, str]) -> None:
    numbers = itertools.count()

    def open_shard() -> tuple[str, records.ShardWriter]:
        shard = beam_shard_name(name, next(numbers))
        return shard, records.ShardWriter(work.raw / shard)

    for old in work.raw.glob(f"photos-{name}-*.tfrecord"):  # left by a lost worker
        old.unlink()
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "piece.sqlite")) as ledger:
        ledger.plan(piece, seed=0)
        download.fetch_photos(
            ledger,
            work.settings,
            base_url=work.base_url,
            url_replace=work.url_replace,
            own=bool(work.own_host),
            convert=photo.converter(work.dataset),
            encode=records.encode,
            open_shard=open_shard,
            shard_bytes=work.dataset.shard_megabytes * 1e6,
            given_up=given_up,
        )
        with aside(outcomes) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(dataclasses.asdict(outcome))}\n" for outcome in ledger.outcomes())


def take_in(ledger: Ledger, raw: Path) -> None:
    """Record in the ledger what workers have finished, in this run or in one that was killed.

    To be called before a new plan, which decides what of it still counts.
    """
    for file in sorted(raw.glob("outcomes-*.jsonl")):
        ledger.record(Outcome(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines())
        file.unlink()
