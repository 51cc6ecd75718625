"""`load`: put public files into the configured collection, their documents as they are."""

from __future__ import annotations

import argparse
import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.progress import progress
from keras_pipeline.ingest import mongo
from keras_pipeline.ingest.fields import document_id
from keras_pipeline.ingest.hash_table import HashTable
from keras_pipeline.ingest.load import forms
from keras_pipeline.ingest.load.rows import Bad, Row, check
from keras_pipeline.ingest.load.target import BATCH, BATCH_BYTES, Stored, Target

SHOWN = 5  # bad rows on the console; the CSV has all
HOPELESS = 1000  # bad rows before the first good one


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """Load each file; return {collection, files: [{file, form, rows, new, before, bad}]} and the exit code."""
    source, folder = run.config.source, run.folder / "load"
    with contextlib.ExitStack() as stack:
        files = forms.open_all(options.files, stack)
        uri, _ = stack.enter_context(run.source())
        target = Target(stack.enter_context(mongo.open_collection(source, uri)), into_existing=options.into_existing)
        seen = HashTable(1_000_000, "Q", 1)
        results = [_load(file, target, seen, folder) for file in files]
        target.finish()
        total = target.collection.estimated_document_count()
    print(
        f"{source.database}.{source.collection}: {total:,} documents; next: phase0 audit --force (source.photos and "
        "source.fields for each form: docs/loading.md)"
    )
    return {"collection": f"{source.database}.{source.collection}", "documents": total, "files": results}, 0


def _load(file: forms.File, target: Target, seen: HashTable, folder: Path) -> dict[str, Any]:
    print(f"{file.path}: {file.form}{f'; {file.remark}' if file.remark else ''}")
    folder.mkdir(parents=True, exist_ok=True)
    key, counts, report = file.key, Stored(), folder / f"{file.path.name}.bad.csv"
    done = target.resume_after(key)
    if done:
        print(f"{file.path}: {done:,} rows are stored already; goes on after them")
    with report.open("w", newline="", encoding="utf-8") as stream:  # of use also where a damaged file ends the command
        writer = csv.writer(stream)
        writer.writerow(["place", "reason"])
        bad = _Bad(writer, file.path)
        read = refused = 0
        with progress(description=f"load {file.path.name}", unit="documents") as bar:
            for batch in _batches(_good(file, folder, seen, bad)):
                read += len(batch)
                if read > done:
                    for row in target.store(batch, file=key, read=read, counts=counts):
                        bad.add(row)
                        refused += 1
                bar.update(len(batch))
    if not bad.count:
        report.unlink()
    total, before = read + bad.count - refused, counts.before + min(done, read)
    print(
        f"{file.path}: {total:,} rows, {counts.new:,} new documents, {before:,} that were there, {bad.count:,} bad rows"
        f"{f', all in {report}' if bad.count else ''}"
    )
    found = {"rows": total, "new": counts.new, "before": before, "bad": bad.count}
    return {"file": str(file.path), "form": file.form, **found}


class _Bad:
    """Counts bad rows and names each in a CSV, the first ones on the console too."""

    def __init__(self, writer: Any, path: Path) -> None:
        self._writer, self._path = writer, path
        self.count = 0

    def add(self, bad: Bad) -> None:
        self.count += 1
        self._writer.writerow([bad.place, bad.reason])
        if self.count <= SHOWN:
            print(f"{self._path}, {bad.place}: {bad.reason}")


def _good(file: forms.File, scratch: Path, seen: HashTable, bad: _Bad) -> Iterator[tuple[Row, int]]:
    """Yield (row, bytes) of rows that can be stored, each _id once, in an order that is the same in every run."""
    any_good = False
    for row in file.rows(scratch):
        found = _judged(row, seen)
        if not isinstance(found, Bad):
            any_good = True
            yield found
            continue
        bad.add(found)
        if not any_good and bad.count >= HOPELESS:
            break
    if not any_good and bad.count:
        raise SourceError(
            f"{file.path}: received {bad.count:,} rows of which none can be stored, expected a {file.form}; is this "
            "the file that you meant?"
        )


def _judged(row: Row | Bad, seen: HashTable) -> tuple[Row, int] | Bad:
    """Return (row, bytes) if it can be stored."""
    if isinstance(row, Bad):
        return row
    size, wrong = check(row)
    if wrong:
        return wrong
    name = document_id(row.document["_id"])  # 7 and "7" are one photo to the pipeline, and to nx-27017
    if seen.get(name, 1):
        return Bad(row.place, f"the _id {name[:100]!r} came before; the first row stands")
    return row, size


def _batches(rows: Iterator[tuple[Row, int]]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    total = 0
    for row, size in rows:
        batch.append(row)
        total += size
        if len(batch) == BATCH or total > BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
