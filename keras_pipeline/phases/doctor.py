"""`doctor`: check that this machine has what the pipeline needs."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import filelock

from keras_pipeline.core import environment
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import SourceError
from keras_pipeline.export import engines
from keras_pipeline.ingest import mongo
from keras_pipeline.ingest.understand import LOOKED_AT, understand
from keras_pipeline.phases import places

PACKAGES = (
    "keras", "tensorflow", "keras-hub", "tensorflowjs", "numpy", "pandas", "pillow", "pymongo", "scipy", "playwright",
)  # fmt: skip


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """Print the findings; return them and the exit code, 3 where something is missing."""
    rows = examine(run)
    for row in rows:
        print(f"{'ok' if row['ok'] else 'MISSING':<8}{row['what']}: {row['detail']}")
    return rows, 0 if all(row["ok"] for row in rows) else 3


def examine(run: Run) -> list[dict]:
    """Check packages, GPU, browser, MongoDB and disk; return [{what, ok, detail}]."""
    return [_versions(), _gpu(), _browser(run), _source(run), _disk(run)]


def _row(what: str, ok: bool, detail: str) -> dict:
    return {"what": what, "ok": ok, "detail": detail}


def _versions() -> dict:
    described = environment.describe()
    installed = described["packages"]
    missing = [name for name in PACKAGES if name not in installed]
    versions = [f"python {described['python_version']}", *(f"{name} {installed.get(name)}" for name in PACKAGES)]
    detail = "missing: " + ", ".join(missing) if missing else ", ".join(versions)
    return _row("versions", not missing and sys.version_info[:2] == (3, 11), detail)


def _gpu() -> dict:
    try:
        import tensorflow as tf  # here, so that a machine without it gets the other findings too
    except ImportError as error:
        return _row("GPU", False, f"TensorFlow can't be imported: {error}")
    gpus = tf.config.list_physical_devices("GPU")
    return _row("GPU", True, ", ".join(g.name for g in gpus) or "none; trains on the CPU")


def _browser(run: Run) -> dict:
    """All that the config asks for have to be there; where it asks for those that are there, one."""
    wanted = run.config.phase6.browsers
    missing = engines.missing_engines()
    found = {name: str(engines.find_engine(name)) for name in engines.ENGINES if name not in missing}
    ok = bool(found) if wanted is None else not missing.keys() & set(wanted)
    told = found if wanted is None else {name: (found | missing)[name] for name in wanted}
    return _row("browser", ok, ", ".join(f"{name} {detail}" for name, detail in (told or missing).items()))


def _source(run: Run) -> dict:
    source = run.config.source
    embedded = source.uri == "embedded"
    try:
        with run.source() as (uri, _), mongo.open_collection(source, uri) as collection:
            count = collection.estimated_document_count()
            seen = understand(mongo.first_documents(collection, source, LOOKED_AT), source)
    except (SourceError, ValueError) as error:
        if isinstance(error.__cause__, filelock.Timeout):
            return _row("MongoDB", True, "embedded, in use by another run, and not looked at")
        return _row("MongoDB", False, str(error))
    # Before the first run only some of the demo's documents are there to be looked at.
    there = f"{count} documents in {source.database}.{source.collection}"
    if embedded:
        there = "embedded, started when needed"
    if not seen.documents:
        key = "source.query" if count else "source.database and source.collection"
        return _row("MongoDB", False, f"{there}, and none for query {source.query}; check {key}")
    detail = "; ".join([f"{there}; of {seen.documents} looked at {seen.summary}", *seen.warnings])
    return _row("MongoDB", seen.photos > 0, detail)


def _disk(run: Run) -> dict:
    root = Path(run.config.root).absolute()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    try:
        places.check_writable(run)
    except SourceError as error:
        return _row("disk", False, str(error))
    return _row(
        "disk", free > 2, f"{free:.0f} GB free; 850,000 photos take about 50 GB, and twice as much during the split"
    )
