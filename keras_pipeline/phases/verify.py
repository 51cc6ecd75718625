"""`phase7 verify`: read every artefact and name the files that changed since their step wrote them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Collection

from keras_pipeline.core import manifest, sidecars
from keras_pipeline.core.artifacts import ARTEFACTS, Run
from keras_pipeline.core.dataset import SHARD_REMEDY
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.data import records
from keras_pipeline.ingest import ledger_file
from keras_pipeline.phases import runner, status
from keras_pipeline.phases.steps import STEPS


def main(run: Run, options: argparse.Namespace) -> tuple[dict, int]:
    """Verify the artefacts and list the steps that are not up to date; return the result and the exit code."""
    verified = verify(run)
    stale = [row["step"] for row in status.rows(run) if row["state"] not in ("done", "not applicable")]
    if stale:
        print(f"not up to date (see `status`): {', '.join(stale)}")
    return {"verified": verified, "not_up_to_date": stale}, 0


def examine(run: Run) -> dict[str, list[str]]:
    """Read every artefact; return, for each, the files that have changed since its step wrote them."""
    listed: Collection[str] = ()
    with contextlib.suppress(BrokenArtefact):  # no manifest yet; a broken one is found by its hash
        listed = manifest.read(run.path("manifest")).artefacts
    found = {}
    for name in ARTEFACTS:
        path, meta = run.path(name), sidecars.sidecar(run.path(name))
        if meta:
            found[name] = sidecars.changed_files(path, meta)
        elif sidecars.has_unreadable_sidecar(path) or name in listed:
            found[name] = [f"{path} ({'no sidecar that can be read' if path.exists() else 'missing'})"]
    if found.get("dataset") == []:
        found["dataset"] += map(str, records.corrupt_shards(records.load_info(run.path("dataset"))))
    return found


def verify(run: Run) -> int:
    """Read every artefact; return how many there are.

    The sidecars of unchanged artefacts take over the files' current times.

    Raises:
        BrokenArtefact: naming the files that have changed, and the commands that make them again; or there are none; or
            the ledger is broken.
    """
    found = examine(run)
    if not found:
        raise BrokenArtefact(f"{run.folder}: received no artefact to verify, expected those of a run; use `run` first")
    # The folder may be read-only, or another run may be writing to it.
    with contextlib.suppress(OSError, SourceError), runner.lock(run):
        for name in found:
            if not found[name]:
                sidecars.renew_times(run.path(name))
    if why := ledger_file.fault(run.path("dataset").with_name("ledger.sqlite")):  # no artefact, but the next run's
        raise BrokenArtefact(why)
    changed = {name: altered for name, altered in found.items() if altered}
    if changed:
        # --force, because `run` skips files whose size and time are unchanged.
        shards = [file for file in changed.get("dataset", ()) if file.endswith(".tfrecord")]
        again = changed.keys() - ({"dataset"} if shards else set())
        remedies = [f"`{step.title} --force`" for step in STEPS if again & {*step.outputs}]
        remedies += [f"for the dataset, {SHARD_REMEDY}"] if shards else []
        altered = ", ".join(file for files in changed.values() for file in files)
        raise BrokenArtefact(f"changed since they were made: {altered}; to make them again: {', '.join(remedies)}")
    print(f"{len(found)} artefacts verified, none changed")
    return len(found)
