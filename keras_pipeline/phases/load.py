"""`load`: put public files into the configured collection, their documents as they are."""

from __future__ import annotations

import argparse
import contextlib
import csv
from pathlib import Path
from typing import Any

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.progress import progress
from keras_pipeline.ingest import mongo
from keras_pipeline.ingest.hash_table import HashTable
from keras_pipeline.ingest.load import forms
from keras_pipeline.ingest.load.storable import BadRows, batches
from keras_pipeline.ingest.load.target import Stored, Target


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
        bad = BadRows(writer, file.path)
        read = refused = 0
        with progress(description=f"load {file.path.name}", unit="documents") as bar:
            for batch in batches(file, folder, seen, bad):
                read += len(batch)
                if read > done:
                    for row in target.store(batch, file=key, read=read, counts=counts):
                        bad.add(row)
                        refused += 1
                bar.update(len(batch))
    if read and refused == read:
        raise SourceError(
            f"{file.path}: received {refused:,} rows of which the server takes none (see {report}), expected some that "
            "it takes; leave such values out of the file, or load into a MongoDB of your own: source.uri"
        )
    if not bad.count:
        report.unlink()
    total, before = read + bad.count - refused, counts.before + min(done, read)
    print(
        f"{file.path}: {total:,} rows, {counts.new:,} new documents, {before:,} that were there, {bad.count:,} bad rows"
        f"{f', all in {report}' if bad.count else ''}"
    )
    if not total:
        print(f"{file.path}: warning: received no row, and expected some; is this the file that you meant?")
    found = {"rows": total, "new": counts.new, "before": before, "bad": bad.count}
    return {"file": str(file.path), "form": file.form, **found}
