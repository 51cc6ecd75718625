"""Whether what steps read is whole: nothing broken or edited since its step wrote it, no shard missing or cut."""

from __future__ import annotations

from collections.abc import Iterable

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import corrupt_shard, wrong_lengths
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.sidecars import broken, edited
from keras_pipeline.ingest import ledger_file
from keras_pipeline.phases.steps import STEPS, Step


def maker(name: str) -> Step:
    """Return the step that makes an artefact."""
    return next(step for step in STEPS if name in step.outputs)


def fault(run: Run, name: str) -> str | None:
    """Say what keeps an artefact from being read, and what to do; None where nothing does, or where it is missing."""
    if why := broken(run.path(name)):
        return f"{why}; `{maker(name).title}` makes it again"
    return edited(run.path(name))


def require(run: Run, step: Step) -> None:
    """Raise BrokenArtefact where an input is missing, broken or edited; it names the step that makes it."""
    for name in step.needs(run.config):
        if not run.path(name).exists():
            raise BrokenArtefact(f"{step.title} needs {run.path(name)}; run `{maker(name).title}` first")
        if why := fault(run, name):
            raise BrokenArtefact(f"{step.title} reads {why}")


def check(run: Run, steps: Iterable[Step]) -> None:
    """Check what these steps read and do not make before; what is missing is the step's to tell.

    Raises BrokenArtefact.
    """
    made: set[str] = set()
    touched: set[str] = set()
    for step in steps:
        for name in step.needs(run.config):
            if name not in made and (why := fault(run, name)):
                raise BrokenArtefact(why)
        made |= {*step.outputs}
        touched |= {*step.outputs, *step.needs(run.config)}
    if "url_ledger" in made and (why := ledger_file.fault(run.path("dataset").with_name("ledger.sqlite"))):
        raise BrokenArtefact(why)
    if "dataset" in touched and run.path("dataset").exists() and not fault(run, "dataset"):
        _check_shards(run, splits="dataset" in made)


def _check_shards(run: Run, *, splits: bool) -> None:
    """A new split reads the shards of the old one; of those that are missing an export may have fetched the photos."""
    for file, length, expected in wrong_lengths(run.path("dataset").parent, run.read("dataset")["splits"]):
        if not (length is None and splits):
            raise BrokenArtefact(corrupt_shard(file, length, expected))
