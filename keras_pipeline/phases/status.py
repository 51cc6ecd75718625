"""`status`: which steps are done, stale, broken or missing, which one runs, and how one failed."""

from __future__ import annotations

import argparse
import contextlib
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from keras_pipeline.core import files, sidecars
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import by_older_rules
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.progress import duration
from keras_pipeline.core.redaction import redact
from keras_pipeline.ingest import ledger_file
from keras_pipeline.phases import staleness
from keras_pipeline.phases.steps import STEPS, Step


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    found = rows(run)
    print(f"{'step':<22}{'state':<15}{'took':>10}  {'finished':<22}why")
    for row in found:
        took = "" if row["seconds"] is None else duration(row["seconds"])
        line = f"{row['step']:<22}{row['state']:<15}{took:>10}  {row['finished'] or '':<22}{row['reason'] or ''}"
        print(line.rstrip())
    if why := ledger_file.fault(run.path("dataset").with_name("ledger.sqlite")):
        print(f"warning: {why}")
    if sidecars.is_as_written(run.path("dataset")):
        for line in by_older_rules(run.read("dataset")):
            print(line)
    return found, 0


@contextlib.contextmanager
def under_way(run: Run, step: Step) -> Iterator[None]:
    """Record which step is running and how it failed; a finished step is described by its sidecars."""
    import psutil  # not needed, and slow to import, where nothing runs

    process = psutil.Process()
    word = {
        "step": step.title, "host": platform.node(), "process": process.pid, "began": process.create_time(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"), "failure": None,
    }  # fmt: skip
    file = _word_file(run)
    files.write_json(file, word)
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk is what may have failed
            said = str(error).strip() or type(error).__name__
            word |= {"failure": redact(said.splitlines()[0]), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            files.write_json(file, word)
        raise
    file.unlink()


def applicable(run: Run, steps: list[Step]) -> list[Step]:
    """Those of phases that have something to do in this run."""
    return [step for step in steps if run.why_not_applicable(step.phase) is None]


def causes(run: Run, steps: list[Step], *, force: bool = False) -> Iterator[tuple[Step, str | None, str | None]]:
    """(step, why it has to run, or None; if None, the step above whose outcome may make it run, or None)"""
    renewed: dict[str, str] = {}
    for step in steps:
        reason = "--force" if force else staleness.why_stale(run, step)
        above = next((renewed[name] for name in step.needs(run.config) if name in renewed), None)
        if reason or above:
            renewed |= dict.fromkeys(step.outputs, step.title)
        yield step, reason, None if reason else above


def out_of_date(run: Run, title: str) -> tuple[str, str] | None:
    """Return the first step that would make something else of what a step left, and why; None where none would.

    None also where it can't be told: a model or a page that was copied away from its experiment.
    """
    wanted = next(step for step in STEPS if step.title == title)
    if not all(sidecars.path_of(run.path(name)).exists() for name in (*wanted.outputs, *wanted.needs(run.config))):
        return None
    names, chain = {*wanted.outputs}, []
    for step in reversed(STEPS):
        if names & {*step.outputs}:
            names |= {*step.needs(run.config)}
            chain.append(step)
    reasons = ((step.title, staleness.why_stale(run, step)) for step in reversed(chain))
    return next(((name, reason) for name, reason in reasons if reason), None)


def warn_if_out_of_date(run: Run, what: str) -> None:
    """Print a line on stderr where `phase6 export` would make another model and page now; `what` is one of them."""
    found = None
    with contextlib.suppress(OSError):  # what can't be read must not keep the model from answering
        found = out_of_date(run, "phase6 export")
    if found:
        step, reason = found
        print(
            f"warning: {what} is out of date: `{step}` is not up to date ({reason}); `run` renews it", file=sys.stderr
        )


def rows(run: Run, steps: list[Step] = STEPS) -> list[dict]:
    """[{step, state, reason, seconds, finished}]

    The state is done, stale, broken, missing, running, failed or not applicable.
    """
    found, last = [], _last_word(run)
    ready = {step.title: (reason, above) for step, reason, above in causes(run, applicable(run, steps))}
    for step in steps:
        if step.title not in ready:
            absent = {"state": "not applicable", "reason": run.why_not_applicable(step.phase)}
            found.append({"step": step.title, **absent, "seconds": None, "finished": None})
            continue
        reason, above = ready[step.title]
        meta = sidecars.sidecar(run.path(step.outputs[0])) or {}
        state = "done" if reason is None else "stale" if meta else "missing"
        if reason in [sidecars.broken(run.path(name)) for name in step.outputs if reason]:
            state = "broken"
        # A forced step that failed at once may have left everything as it was.
        if last and last[0] == step.title and (reason or last[1] == "running"):
            _, state, reason = last
        elif above:
            reason = f"until {above} ends otherwise than before"
        found.append(
            {"step": step.title, "state": state, "reason": reason, "seconds": meta.get("seconds"),
             "finished": meta.get("finished")}
        )  # fmt: skip
    return found


def _word_file(run: Run) -> Path:
    return run.folder / ".under_way.json"


def _last_word(run: Run) -> tuple[str, str, str] | None:
    """(step, running | failed, the reason in words) of the step begun last, unless it has ended well."""
    try:
        word = files.read_json(_word_file(run))
    except BrokenArtefact:
        return None
    if not (isinstance(word, dict) and {"step", "host", "process", "began", "since", "failure"} <= word.keys()):
        return None
    if word["failure"]:
        return word["step"], "failed", f"{word['failure']} ({word['since']})"
    if word["host"] != platform.node():
        return word["step"], "running", f"since {word['since']} on {word['host']}, as far as can be seen from here"
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(word["process"]).create_time() == word["began"]:
            return word["step"], "running", f"since {word['since']}, process {word['process']}"
    return word["step"], "failed", f"its process was killed (begun {word['since']}); `run` goes on where it stopped"
